//! The plugin as real container runtimes call it: Debian's containerd and podman.
//!
//! Where they are not installed, the tests say so; where a sandbox is required (`FAIRWAY_REQUIRE_SANDBOX`), so are they.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and starts container runtimes"
)]

mod containers;
mod runtime;

use containers::{
    Machine, await_end,
    containerd::{self, Containerd},
    kill,
    podman::{self, Podman},
};
use fairway_lab::image::{self, Image};
use runtime::{addresses, success};
use serde_json::{Value, json};

/// A machine with containerd, the configuration that the daemon writes, and what it tells the plugin.
fn containerd_machine() -> Option<Machine> {
    let list = serde_json::from_str(include_str!("../../conf/10-fairway.conflist")).unwrap();
    let machine = Machine::with(&containerd::PROGRAMS, list)?;
    let node = json!({ "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"], "mtu": 1450 });
    machine.write("/run/fairway/node.json", &node.to_string());
    Some(machine)
}

/// A machine with podman and a configuration that gives containers what they are asked to have.
fn podman_machine() -> Option<Machine> {
    let plugin = json!({
        "type": "fairway",
        "capabilities": { "ips": true, "mac": true },
        "ipMasq": true,
        "ipam": { "ranges": [[{ "subnet": "10.244.1.0/24" }], [{ "subnet": "fd00:10:244:1::/64" }]] },
    });
    let list = json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [plugin] });
    Machine::with(&podman::PROGRAMS, list)
}

/// Writes an image for runtimes to load. What its programs do is of no matter to that.
fn write_image(machine: &Machine) -> &'static str {
    const ARCHIVE: &str = "/run/lab/fairway.tar";
    let image = Image { fairway: b"the plugin".to_vec(), fairway_proxy: b"the daemon".to_vec() };
    let archive = image.archive(image::NAME).unwrap();
    machine.runtime.host.run(|| std::fs::write(ARCHIVE, archive)).unwrap().unwrap();
    ARCHIVE
}

fairway_lab::sandbox_tests! {
    fn containerd_takes_the_image_that_the_lab_writes() {
        let Some(machine) = containerd_machine() else { return };
        let containerd = Containerd::start(&machine);

        assert_eq!(containerd.import(write_image(&machine)), image::NAME);
    }

    fn podman_takes_the_image_that_the_lab_writes() {
        let Some(machine) = podman_machine() else { return };
        let Some(podman) = Podman::configure(&machine) else { return };

        podman.call(&["load", "--input", write_image(&machine)]);

        let entry = podman.call(&["image", "inspect", "--format", "{{json .Config.Entrypoint}}", image::NAME]);
        assert_eq!(entry, r#"["/fairway-proxy"]"#);
    }

    fn containers_of_containerd_talk_to_each_other_and_leave_nothing() {
        let Some(machine) = containerd_machine() else { return };
        let containerd = Containerd::start(&machine);

        let mut attendants = ["a", "b"].map(|name| containerd.run(name));

        let [a, b] = ["a", "b"].map(|name| addresses(&machine.result(&Containerd::id(name))));
        assert_eq!((a.len(), b.len()), (2, 2));
        for (client, server, addresses) in [("a", "b", &b), ("b", "a", &a)] {
            for address in addresses {
                assert_eq!(machine.ask(|url| containerd::fetch(client, url), address), server);
            }
            machine.check(&Containerd::id(client));
        }

        for (name, attendant) in ["a", "b"].iter().zip(&mut attendants) {
            kill(containerd.process_of(name));
            await_end(attendant);
        }
        machine.await_nothing_left();
    }

    fn what_a_killed_ctr_left_holds_its_address_until_gc_or_the_same_container() {
        let Some(machine) = containerd_machine() else { return };
        let containerd = Containerd::start(&machine);
        let abandon = |name| {
            let mut attendant = containerd.run(name);
            let addresses = addresses(&machine.result(&Containerd::id(name)));
            machine.ask(|url| containerd::fetch(name, url), &addresses[0]); // it has started
            attendant.kill().unwrap();
            await_end(&mut attendant);
            containerd.remove(name);
            addresses
        };
        let (a, b) = (abandon("a"), abandon("b"));
        assert_ne!(a, b);

        let mut again = containerd.run("a");

        assert_eq!(machine.ask(|url| containerd::fetch("a", url), &a[0]), "a");
        assert_eq!(addresses(&machine.result(&Containerd::id("a"))), a);
        kill(containerd.process_of("a"));
        await_end(&mut again);
        machine.await_owners(&[("default-b", "eth0")]);

        let conf = machine.runtime.conf_with(&json!({ "cniVersion": "1.1.0", "cni.dev/valid-attachments": [] }));
        success(&machine.runtime.call_with("GC", "", &conf));

        machine.await_owners(&[]);
    }

    fn containers_of_podman_talk_to_each_other_and_leave_nothing() {
        let Some(machine) = podman_machine() else { return };
        let Some(podman) = Podman::configure(&machine) else { return };
        let wanted = ["--ip", "10.244.1.77", "--ip6", "fd00:10:244:1::77", "--mac-address", "02:11:22:33:44:55"];

        let ids = [podman.run("a", &[]), podman.run("b", &wanted)];

        let [a, b] = ["a", "b"].map(|name| podman.inspect(name)["NetworkSettings"]["Networks"]["pods"].clone());
        let text = |of: &Value, key: &str| of[key].as_str().unwrap().to_owned();
        assert_eq!(text(&b, "IPAddress"), "10.244.1.77");
        assert_eq!(text(&b, "GlobalIPv6Address"), "fd00:10:244:1::77");
        assert_eq!(text(&b, "MacAddress"), "02:11:22:33:44:55");
        for (client, server, of) in [("a", "b", &b), ("b", "a", &a)] {
            for key in ["IPAddress", "GlobalIPv6Address"] {
                assert_eq!(machine.ask(|url| podman::fetch(client, url), &text(of, key)), server);
            }
        }
        for id in &ids {
            machine.check(id);
        }

        podman.remove(&["a", "b"]);
        machine.await_nothing_left();
    }

    fn a_container_of_podman_that_is_killed_gives_its_address_back() {
        let Some(machine) = podman_machine() else { return };
        let Some(podman) = Podman::configure(&machine) else { return };
        let ids = [podman.run("a", &[]), podman.run("b", &[])];
        let addresses = || ids.each_ref().map(|id| addresses(&machine.result(id)));
        let [first, others] = addresses();

        kill(podman.process_of("a", "Pid"));
        machine.await_owners(&[(&ids[1], "eth0")]);

        podman.call(&["start", "a"]);
        let [second, still] = addresses();
        assert_eq!(still, others);
        assert!(second != first && second != others, "{second:?}");
        assert_eq!(machine.ask(|url| podman::fetch("b", url), &second[0]), "a");

        kill(podman.process_of("a", "ConmonPid")); // nobody notices the end of this one
        kill(podman.process_of("a", "Pid"));
        podman.remove(&["a"]);
        machine.await_owners(&[(&ids[1], "eth0")]);
        podman.remove(&["b"]);
        machine.await_nothing_left();
    }

    fn a_container_of_podman_joins_and_leaves_a_second_network_that_has_routes_of_its_own() {
        let Some(machine) = podman_machine() else { return };
        let Some(podman) = Podman::configure(&machine) else { return };
        let plugin = json!({
            "type": "fairway",
            "ipam": { "ranges": [[{ "subnet": "10.99.1.0/24" }]], "routes": [{ "dst": "10.99.0.0/16" }] },
        });
        machine.configure("20-other", &json!({ "cniVersion": "1.0.0", "name": "other", "plugins": [plugin] }));
        let (a, b) = (podman.run("a", &[]), podman.run("b", &["--network", "other"]));
        let of_b = podman.inspect("b")["NetworkSettings"]["Networks"]["other"]["IPAddress"].as_str().unwrap().to_owned();
        assert_eq!(of_b, "10.99.1.2");

        podman.call(&["network", "connect", "other", "a"]);
        podman.call(&["network", "disconnect", "pods", "a"]);

        machine.await_owners(&[(&a, "eth1"), (&b, "eth0")]);
        assert_eq!(machine.ask(|url| podman::fetch("a", url), &of_b), "b");
        podman.call(&["network", "connect", "pods", "a"]);
        machine.check(&a);
        podman.remove(&["a", "b"]);
        machine.await_nothing_left();
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

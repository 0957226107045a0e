//! Addresses that another plugin leases: a program of the tests, which writes down how it is called, and the reference plugins
//! where Debian's containernetworking-plugins are installed.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays the container runtime"
)]

mod runtime;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::SystemTime,
};

use cni_plugin::Outcome;
use dataplane::rtnl::{Address, Bridge, Mac, VethEnd};
use fairway_lab::wait;
use runtime::{Runtime, addresses, failure, success, traces::say};
use serde_json::{Value, json};

const DIR: &str = "/run/lab/fake-ipam";

/// Where the reference plugins are.
const REFERENCE: &str = "/usr/lib/cni";

/// A host whose addresses the tests' program leases.
struct Fake(Runtime);

impl Fake {
    fn new() -> Self {
        let mut runtime = Runtime::new(json!({
            "cniVersion": "1.1.0", "name": "pods", "type": "fairway", "keyOfOthers": { "a": 1 },
            "ipam": { "type": "fake-ipam", "dir": DIR },
        }));
        // By cargo where cargo says, and beside this program where that is by itself.
        let own = std::env::current_exe().unwrap();
        let places =
            [Path::new(env!("CARGO_BIN_EXE_fake-ipam")), &own].map(|program| program.parent().unwrap());
        let place = places.into_iter().find(|place| place.join("fake-ipam").is_file()).unwrap();
        runtime.path = format!("/nowhere::{}", place.display());
        runtime.host.run(|| fs::create_dir(DIR).unwrap()).unwrap();
        let fake = Self(runtime);
        fake.put("answer-ADD", &answer(&json!([{ "address": "10.7.0.9/24", "gateway": "10.7.0.1" }])));
        fake
    }

    fn put(&self, file: &str, content: &Value) {
        self.0.host.run(|| fs::write(Path::new(DIR).join(file), content.to_string()).unwrap()).unwrap();
    }

    /// The calls since this was asked last.
    fn calls(&self) -> Vec<String> {
        let calls = self.0.host.run(|| {
            let path = Path::new(DIR).join("calls");
            let calls = fs::read_to_string(&path).unwrap_or_default();
            let _ = fs::remove_file(path);
            calls
        });
        calls.unwrap().lines().map(str::to_owned).collect()
    }

    fn stdin(&self, verb: &str) -> Value {
        let path = Path::new(DIR).join(format!("stdin-{verb}"));
        serde_json::from_slice(&self.0.host.run(|| fs::read(path).unwrap()).unwrap()).unwrap()
    }
}

fn answer(ips: &Value) -> Value {
    json!({ "cniVersion": "1.1.0", "ips": ips, "dns": { "nameservers": ["10.7.0.53"] } })
}

/// A host whose addresses a reference plugin leases; nothing where that is not installed.
fn reference(ipam: &Value) -> Option<Runtime> {
    let name = ipam["type"].as_str().unwrap();
    if !Path::new(REFERENCE).join(name).exists() {
        println!("{REFERENCE}/{name} is not installed: not tried with it");
        return None;
    }
    let mut runtime =
        Runtime::new(json!({ "cniVersion": "1.0.0", "name": "pods", "type": "fairway", "ipam": ipam }));
    REFERENCE.clone_into(&mut runtime.path);
    Some(runtime)
}

fn check(runtime: &Runtime, container: &str, result: &Value) -> Outcome {
    runtime.call_with("CHECK", container, &runtime.conf_with(&json!({ "prevResult": result })))
}

fn gc(runtime: &Runtime, valid: &[&str]) -> Outcome {
    let valid: Vec<Value> = valid.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })).collect();
    runtime.call_with("GC", "", &runtime.conf_with(&json!({ "cni.dev/valid-attachments": valid })))
}

const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web";

fairway_lab::sandbox_tests! {
    fn every_verb_is_passed_on_with_its_environment_and_the_whole_configuration() {
        let fake = Fake::new();
        let runtime = &fake.0;

        success(&runtime.call("STATUS", ""));
        let result = runtime.add("web");
        success(&check(runtime, "web", &result));
        success(&gc(runtime, &["web"]));
        success(&runtime.call("DEL", "web"));

        let of_web = |verb: &str| format!("{verb} web eth0 /run/netns/web {ARGS}");
        let calls = fake.calls();
        assert!(calls[0].starts_with("STATUS "), "{calls:?}");
        assert_eq!(calls[1..3], [of_web("ADD"), of_web("CHECK")]);
        assert!(calls[3].starts_with("GC "), "{calls:?}");
        assert_eq!(calls[4..], [of_web("DEL")]);
        assert_eq!(fake.stdin("ADD"), runtime.conf);
        assert_eq!(fake.stdin("CHECK")["prevResult"], result);
        assert_eq!(fake.stdin("GC")["cni.dev/valid-attachments"][0]["containerID"], "web");
        assert_eq!(runtime.files("/run/fairway/pods/owners"), [""; 0]);
    }

    fn a_pod_is_wired_with_what_was_leased() {
        let fake = Fake::new();
        fake.put("answer-ADD", &json!({
            "cniVersion": "1.1.0",
            "ips": [{ "address": "10.7.0.9/24", "gateway": "10.7.0.1" }, { "address": "fd00:7::9/64" }],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "10.7.0.1", "mtu": 1300 }, { "dst": "fd00::/8", "gw": "fd00:7::77" }],
            "dns": { "nameservers": ["10.7.0.53"] },
        }));

        let result = fake.0.add("web");

        assert_eq!(addresses(&result), ["10.7.0.9", "fd00:7::9"]);
        assert_eq!(result["ips"][1]["gateway"], "fd00:7::1");
        assert_eq!(result["routes"], json!([
            { "dst": "0.0.0.0/0", "gw": "10.7.0.1", "mtu": 1300 }, { "dst": "fd00::/8", "gw": "fd00:7::1" },
        ]));
        assert_eq!(result["dns"], json!({ "nameservers": ["10.7.0.53"] }));
        success(&check(&fake.0, "web", &result));
        let there = fake.0.in_pod("web", |kernel| async move { kernel.addresses().await.unwrap() });
        assert!(there.iter().any(|address| address.network.to_string() == "10.7.0.9/32"), "{there:?}");
    }

    fn what_it_tells_is_told_word_for_word() {
        let fake = Fake::new();
        let runtime = &fake.0;
        let error = json!({ "cniVersion": "1.1.0", "code": 142, "msg": "no more", "details": "ask again" });
        fake.put("error-ADD", &error);
        runtime.sandbox("web");

        assert_eq!(failure(&runtime.call("ADD", "web")), (142, "pod default/web: no more: ask again".to_owned()));

        assert_eq!(runtime.files("/run/fairway/pods/owners"), [""; 0]);
        for (verb, told) in [("STATUS", (51, 51)), ("STATUS", (50, 50)), ("STATUS", (7, 50))] {
            fake.put("error-STATUS", &json!({ "code": told.0, "msg": "out of order" }));
            assert_eq!(failure(&runtime.call(verb, "")), (told.1, "out of order".to_owned()));
        }
        fake.put("error-DEL", &json!({ "code": 11, "msg": "later" }));
        assert_eq!(failure(&runtime.call("DEL", "web")), (11, "container web: later".to_owned()));
    }

    fn one_that_fails_without_a_word_or_prints_nonsense_is_named() {
        let fake = Fake::new();
        let runtime = &fake.0;
        runtime.sandbox("web");
        for (file, content, code, told) in [
            ("error-ADD", json!("no object"), 5, "fake-ipam ended with exit status: 1 and told no error"),
            ("answer-ADD", json!({ "ips": 7 }), 6, "decode what "),
            ("answer-ADD", answer(&json!([])), 7, "ipam.type=fake-ipam: it leased no address"),
            ("answer-ADD", answer(&json!([{ "address": "10.0.0.1/32" }])), 7, "10.0.0.1 came without a gateway"),
        ] {
            fake.put(file, &content);
            let (failed, message) = failure(&runtime.call("ADD", "web"));
            assert_eq!(failed, code, "{message}");
            assert!(message.contains(told), "{message}");
            assert_eq!(fake.calls()[1], format!("DEL web eth0 /run/netns/web {ARGS}"), "whatever it leased is given back");
            runtime.host.run(|| { let _ = fs::remove_file(Path::new(DIR).join("error-ADD")); }).unwrap();
        }
        assert_eq!(runtime.files("/run/fairway/pods/owners"), [""; 0]);
    }

    fn a_lease_is_given_back_when_the_wiring_fails() {
        let fake = Fake::new();
        fake.0.sandbox("web");
        let end = |name: &str, mac| VethEnd { name: name.to_owned(), mac: Mac([2, 0, 0, 0, 0, mac]), mtu: 1500 };
        fake.0.in_pod("web", |kernel| async move {
            kernel.add_veth(&end("eth0", 1), &end("other", 2), None).await.unwrap();
        });

        let (code, told) = failure(&fake.0.call("ADD", "web"));

        assert_eq!((code, told.contains("link eth0 in its namespace exists already")), (101, true), "{told}");
        let verbs: Vec<String> = fake.calls().iter().map(|call| call.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(verbs, ["ADD", "DEL"]);
        assert_eq!(fake.0.files("/run/fairway/pods/owners"), [""; 0]);
    }

    fn a_second_add_that_is_refused_takes_nothing_from_the_first() {
        let fake = Fake::new();
        let result = fake.0.add("web");
        fake.put("error-ADD", &json!({ "code": 100, "msg": "has one already" }));
        fake.calls();

        assert_eq!(failure(&fake.0.call("ADD", "web")).0, 100);

        assert_eq!(fake.calls().len(), 1, "no DEL");
        success(&check(&fake.0, "web", &result));
    }

    fn gc_asks_for_each_attachment_that_is_gone_since_most_plugins_have_no_gc() {
        let fake = Fake::new();
        fake.0.add("kept");
        fake.put("answer-ADD", &answer(&json!([{ "address": "10.7.0.10/24", "gateway": "10.7.0.1" }])));
        fake.0.add("gone");
        fake.calls();

        success(&gc(&fake.0, &["kept"]));

        let calls = fake.calls();
        assert_eq!(calls[0], "DEL gone eth0");
        assert!(calls[1].starts_with("GC "), "{calls:?}");
        assert_eq!(calls.len(), 2);
        assert_eq!(fake.0.files("/run/fairway/pods/owners"), ["/run/fairway/pods/owners/kept@eth0"]);
        let links = fake.0.on_host(|kernel| async move { kernel.links().await.unwrap().len() });
        assert_eq!(links, 2, "lo, and the pod's that is kept");
    }

    fn people_see_who_leased_an_address_and_have_to_ask_there_for_it() {
        let fake = Fake::new();
        fake.0.add("web");
        let ask = |line: &str| {
            let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            fake.0.host.run(|| cni_plugin::commands::run(&arguments, SystemTime::UNIX_EPOCH)).unwrap()
        };

        let listed = ask("ipam list");
        let released = ask("ipam release 10.7.0.9 --force");

        assert!(listed.stdout.ends_with("in use, leased by fake-ipam\n"), "{}", listed.stdout);
        assert_eq!(released.exit_code, 2);
        assert!(released.stderr.contains("10.7.0.9 was leased by fake-ipam: stop the pod"), "{}", released.stderr);
        assert_eq!(fake.calls().len(), 1, "the ADD");
    }

    fn a_program_that_cannot_be_found_is_named_with_where_it_was_looked_for() {
        let fake = Fake::new();
        let mut runtime = fake.0;
        runtime.sandbox("web");
        for (name, code, told) in [
            ("missing", 7, "ipam.type=missing: no such program in /opt/none (CNI_PATH): install it there"),
            ("../../bin/true", 7, "ipam.type=\"../../bin/true\": a name is wanted, of a program in CNI_PATH"),
        ] {
            "/opt/none".clone_into(&mut runtime.path);
            let conf = runtime.conf_with(&json!({ "ipam": { "type": name } }));
            let (failed, message) = failure(&runtime.call_with("ADD", "web", &conf));
            assert_eq!((failed, message.contains(told)), (code, true), "{message}");
        }
        runtime.path = String::new();
        let (code, told) = failure(&runtime.call("ADD", "web"));
        assert_eq!((code, told.ends_with("CNI_PATH is not set, so there is nowhere to look for it")), (4, true), "{told}");
    }

    fn host_local_leases_for_us_and_gets_everything_back() {
        let ipam = json!({
            "type": "host-local", "dataDir": "/run/lab/host-local", "routes": [{ "dst": "0.0.0.0/0" }],
            "ranges": [[{ "subnet": "10.8.0.0/24" }], [{ "subnet": "fd00:8::/64" }]],
        });
        let Some(runtime) = reference(&ipam) else { return };

        let results = ["a", "b"].map(|container| (container, runtime.add(container)));

        assert_eq!(addresses(&results[0].1), ["10.8.0.2", "fd00:8::2"]);
        assert_eq!(addresses(&results[1].1), ["10.8.0.3", "fd00:8::3"]);
        for (container, result) in &results {
            success(&check(&runtime, container, result));
        }
        assert_eq!(runtime.files("/run/lab/host-local/pods").len(), 2 * 2 + 3);
        let (code, told) = failure(&runtime.call("ADD", "a"));
        assert!(code >= 100 && told.contains("duplicate allocation is not allowed"), "{code} {told}");
        success(&check(&runtime, "a", &results[0].1));
        for container in ["a", "b", "a"] {
            success(&runtime.call("DEL", container));
        }
        assert_eq!(runtime.files("/run/lab/host-local/pods").len(), 3, "its lock, and which came last");
        assert_eq!(runtime.files("/run/fairway/pods/owners"), [""; 0]);
    }

    fn a_node_is_switched_over_from_host_local_with_its_pods_running() {
        let ipam = json!({ "type": "host-local", "dataDir": "/run/lab/host-local", "subnet": "10.8.0.0/24" });
        let Some(mut runtime) = reference(&ipam) else { return };
        for container in ["a", "b", "c"] {
            runtime.add(container);
        }
        let before = runtime.files("/run/lab/host-local");
        // Another plugin had the leases and the wiring: nothing of it is known to ours.
        runtime.host.run(|| fs::remove_dir_all("/run/fairway/pods").unwrap()).unwrap();
        "/opt/cni/bin".clone_into(&mut runtime.path);
        runtime.conf["cniVersion"] = "1.1.0".into();
        runtime.conf["ipam"]["type"] = "fairway".into();

        assert_eq!(addresses(&runtime.add("d")), ["10.8.0.5"]);
        success(&runtime.call("DEL", "b"));
        success(&gc(&runtime, &["a", "d"]));

        assert_eq!(runtime.leases(), ["10.8.0.2", "10.8.0.5"]);
        assert_eq!(runtime.files("/run/lab/host-local"), before);
    }

    fn the_static_plugin_gives_a_pod_what_the_configuration_says() {
        let ipam = json!({ "type": "static", "addresses": [{ "address": "10.8.0.9/24", "gateway": "10.8.0.254" }] });
        let Some(runtime) = reference(&ipam) else { return };

        let result = runtime.add("a");

        assert_eq!(addresses(&result), ["10.8.0.9"]);
        assert_eq!(result["routes"], json!([{ "dst": "0.0.0.0/0", "gw": "10.8.0.254" }]));
        success(&check(&runtime, "a", &result));
        success(&runtime.call("DEL", "a"));
    }

    fn dhcp_leases_over_the_link_to_the_bridge_and_gives_back_over_it() {
        let Some((runtime, _running)) = dhcp() else { return };

        let results = ["a", "b"].map(|container| runtime.add(container));

        let mut leased: Vec<String> = results.iter().flat_map(addresses).collect();
        assert_eq!(say(&runtime, Some("a"), "b", &leased[1]).0, "hello");
        success(&check(&runtime, "a", &results[0]));
        let link = || runtime.in_pod("a", |kernel| async move { kernel.link("eth0").await.unwrap() });
        let before = link();
        assert_eq!(success(&runtime.call("ADD", "a"))["ips"], results[0]["ips"], "once more");
        assert_eq!(link(), before, "the daemon renews the lease over this very link");
        success(&runtime.call("DEL", "a"));
        assert_eq!(addresses(&runtime.add("c")), [leased[0].as_str()], "no other was free");
        leased.sort();
        assert_eq!(leased, ["10.9.0.50", "10.9.0.51"]);
        for container in ["b", "c"] {
            success(&runtime.call("DEL", container));
        }
        assert_eq!(runtime.files("/run/fairway/pods/owners"), [""; 0]);
    }

    fn dhcp_has_nobody_to_ask_for_a_routed_pod_and_a_failed_lease_leaves_no_link() {
        let Some(mut runtime) = reference(&json!({ "type": "dhcp", "daemonSocketPath": "/run/lab/nobody" })) else {
            return;
        };
        runtime.sandbox("a");
        let (code, told) = failure(&runtime.call("ADD", "a"));
        assert_eq!(code, 7, "{told}");
        assert!(told.contains("set mode to bridge"), "{told}");

        runtime.conf["mode"] = "bridge".into();
        let (_, told) = failure(&runtime.call("ADD", "a"));

        assert!(told.contains("/run/lab/nobody"), "{told}");
        let links = runtime.on_host(|kernel| async move { kernel.links().await.unwrap() });
        assert!(!links.iter().any(dataplane::rtnl::Link::is_veth), "{links:?}");
        assert_eq!(runtime.files("/run/fairway/pods/owners"), [""; 0]);
    }
}

/// A program on the host that runs until this goes.
struct Running(Child);

impl Running {
    fn start(runtime: &Runtime, program: &mut Command) -> Self {
        let child = runtime.host.run(|| {
            let log = fs::File::create("/run/lab/running.log").unwrap();
            program.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
        });
        Self(child.unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A host on whose bridge a DHCP server has two addresses to give; nothing where there is no such server.
fn dhcp() -> Option<(Runtime, [Running; 2])> {
    const SERVER: &str = "/run/lab/udhcpd.conf";
    const SOCKET: &str = "/run/lab/dhcp.sock";
    let mut runtime = reference(&json!({ "type": "dhcp", "daemonSocketPath": SOCKET }))?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let Some(busybox) = busybox else {
        println!("busybox is not installed: dhcp is not tried");
        return None;
    };
    runtime.conf["mode"] = "bridge".into();
    runtime.conf["bridge"] = "cni0".into();
    runtime.on_host(|kernel| async move {
        kernel.add_bridge(&Bridge { name: "cni0".to_owned(), mac: None, mtu: None }).await.unwrap();
        let bridge = kernel.link("cni0").await.unwrap().index;
        kernel.add_address(&Address::bare(bridge, "10.9.0.1/24".parse().unwrap())).await.unwrap();
        kernel.set_up(bridge, true).await.unwrap();
    });
    runtime
        .host
        .run(|| {
            fs::write("/run/lab/leases", "").unwrap();
            let conf = "start 10.9.0.50\nend 10.9.0.51\ninterface cni0\nlease_file /run/lab/leases\n\
                        pidfile /run/lab/udhcpd.pid\noption subnet 255.255.255.0\noption router 10.9.0.1\n";
            fs::write(SERVER, conf).unwrap();
        })
        .unwrap();
    let server = Running::start(&runtime, Command::new(busybox).args(["udhcpd", "-f", SERVER]));
    let daemon = Path::new(REFERENCE).join("dhcp");
    let daemon = Running::start(&runtime, Command::new(daemon).args(["daemon", "-socketpath", SOCKET]));
    wait::until("the dhcp daemon to listen", || {
        let listens = runtime.host.run(|| Path::new(SOCKET).exists()).unwrap();
        if listens { Ok(()) } else { Err("no socket yet".to_owned()) }
    })
    .unwrap();
    Some((runtime, [server, daemon]))
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

//! The plugin is killed at every step of ADD and of DEL. What it leaves, DEL takes away, and GC, and the same ADD makes whole.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays the container runtime"
)]

mod host_ports;
mod killed;
mod runtime;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use cni_plugin::Environment;
use dataplane::{netns::Netns, owner, packet::Family, sysctl};
use fairway_lab::binaries;
use host_ports::{claims, held_in, mapping};
use killed::{End, kill_before};
use runtime::{
    Runtime, addresses, dual_stack, failure, success,
    traces::{Traces, say, traces},
};
use serde_json::{Value, json};

/// More steps than any call has: so many, and something goes round in circles.
const TOO_MANY: usize = 1000;

fn own_program() -> PathBuf {
    binaries::built().unwrap().fairway.clone()
}

/// Plugged into a bridge, and with all else that a pod can have.
fn bridged() -> Value {
    let mut conf = dual_stack();
    let bandwidth = json!({ "ingressRate": 80_000_000, "egressRate": 80_000_000 });
    for (key, value) in [
        ("mode", json!("bridge")),
        ("bridge", json!("br0")),
        ("isDefaultGateway", json!(true)),
        ("portIsolation", json!(true)),
        ("macspoofchk", json!(true)),
        ("runtimeConfig", json!({ "bandwidth": bandwidth })),
        ("sysctl", json!({ "net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.arp_filter": "1" })),
        ("promisc", json!(true)),
    ] {
        conf[key] = value;
    }
    conf
}

fn with_claims() -> Value {
    let mut conf = dual_stack();
    let mappings = [mapping(8080, 80, "tcp"), mapping(53, 5353, "udp")];
    conf["runtimeConfig"] = json!({ "portMappings": mappings });
    conf["ipMasq"] = json!(true);
    conf
}

/// What is led to pods, or from them to elsewhere.
fn of_claims(runtime: &Runtime) -> Vec<String> {
    let tables = [owner::HOST_PORTS_TABLE, owner::MASQUERADE_TABLE];
    let held = |table| Family::ALL.into_iter().flat_map(move |family| held_in(runtime, table, family));
    tables.into_iter().flat_map(held).collect()
}

/// Where the reference plugins are.
const REFERENCE: &str = "/usr/lib/cni";

/// Where one of them keeps its leases.
const HOST_LOCAL: &str = "/run/lab/host-local";

fn leased_by_host_local() -> Value {
    let mut conf = dual_stack();
    conf["cniVersion"] = "1.0.0".into(); // Debian's knows no later one
    conf["ipam"]["type"] = "host-local".into();
    conf["ipam"]["dataDir"] = HOST_LOCAL.into();
    conf
}

/// What is done after a crash.
#[derive(Debug, Clone, Copy)]
enum Remedy {
    Del,
    Gc,
    AddAgain,
}

impl Remedy {
    const ALL: [Self; 3] = [Self::Del, Self::Gc, Self::AddAgain];

    fn apply(self, runtime: &Runtime) {
        match self {
            Self::Del => drop(success(&runtime.call("DEL", "a"))),
            Self::Gc => drop(success(&collect(runtime))),
            Self::AddAgain => {
                let result = success(&runtime.call("ADD", "a"));
                let conf = runtime.conf_with(&json!({ "prevResult": result }));
                success(&runtime.call_with("CHECK", "a", &conf));
                assert_eq!(say(runtime, None, "a", &addresses(&result)[0]).0, "hello");
                success(&runtime.call("DEL", "a"));
            }
        }
    }
}

fn collect(runtime: &Runtime) -> cni_plugin::Outcome {
    let of_ours = json!({ "cniVersion": "1.1.0", "ipam": null, "cni.dev/valid-attachments": [] });
    runtime.call_with("GC", "", &runtime.conf_with(&of_ours))
}

/// Kills a call at each of its steps in turn, on a new host each time, and returns after how many of them something was left.
fn at_every_step(conf: &Value, verb: &str, remedy: Remedy) -> usize {
    let mut with_traces = 0;
    for step in 1..TOO_MANY {
        let runtime = Runtime { path: REFERENCE.to_owned(), ..Runtime::new(conf.clone()) };
        runtime.sandbox("a");
        if verb == "DEL" {
            success(&runtime.call("ADD", "a"));
        }
        match kill_before(&runtime, step, verb, "a", &runtime.conf) {
            End::Killed => {}
            End::Finished(code) => {
                assert_eq!(code, 0);
                return with_traces;
            }
        }

        let at = format!("{verb} killed before its change {step}, then {remedy:?}");
        let is_led_to = !of_claims(&runtime).is_empty();
        let traces = of_pods(&runtime);
        assert!(!is_led_to || !traces.links.is_empty(), "{at}: a table has a pod that is gone");
        with_traces += usize::from(traces != Traces::default());
        remedy.apply(&runtime);

        assert_eq!(of_pods(&runtime), Traces::default(), "{at}");
        let owners = runtime.files("/run/fairway/pods/owners");
        assert_eq!(owners, [""; 0], "{at}");
        let tuned = runtime.inside("a", || sysctl::read("net/core/somaxconn").unwrap());
        assert_eq!(tuned, "4096", "{at}: as it was before");
        assert_eq!(claims(&runtime), [""; 0], "{at}");
        assert_eq!(of_claims(&runtime), [""; 0], "{at}");
        let eth0 = runtime.in_pod("a", |kernel| async move { kernel.link("eth0").await });
        assert!(eth0.unwrap_err().is_not_found(), "{at}");
        success(&collect(&runtime));
        let left = runtime.files("/run/fairway");
        let whose_turn_it_is =
            ["/run/fairway/pods/boot", "/run/fairway/pods/last/", "/run/fairway/pods/freed/"];
        let is_kept = |file: &String| {
            whose_turn_it_is.iter().any(|kept| file.starts_with(kept))
                || file == "/run/fairway/host-ports/lock"
        };
        assert!(left.iter().all(is_kept), "{at}: {left:?}");
        assert!(!left.iter().any(|file| file.contains("/.draft-")), "{at}: {left:?}");
        let elsewhere = runtime.files(HOST_LOCAL);
        let is_lease = |file: &&String| file.rsplit('/').next().unwrap().parse::<IpAddr>().is_ok();
        assert_eq!(elsewhere.iter().find(is_lease), None, "{at}");
    }
    panic!("{verb} takes {TOO_MANY} steps");
}

/// What is there of pods: a bridge is not theirs, and stays.
fn of_pods(runtime: &Runtime) -> Traces {
    let bridge =
        runtime.on_host(|kernel| async move { kernel.link("br0").await.map(|link| link.index) }).ok();
    let mut traces = traces(runtime);
    traces.links.retain(|name| name != "br0");
    traces.addresses.retain(|address| Some(address.link) != bridge);
    traces.neighbours.retain(|neighbour| Some(neighbour.link) != bridge);
    traces
}

fairway_lab::sandbox_tests! {
    fn an_add_that_is_killed_anywhere_leaves_what_del_gc_and_the_same_add_set_right() {
        for remedy in Remedy::ALL {
            let with_traces = at_every_step(&dual_stack(), "ADD", remedy);
            assert!(with_traces > 20, "{with_traces}");
        }
    }

    fn an_add_to_a_bridge_that_is_killed_anywhere_leaves_what_del_gc_and_the_same_add_set_right() {
        for remedy in Remedy::ALL {
            let with_traces = at_every_step(&bridged(), "ADD", remedy);
            assert!(with_traces > 20, "{with_traces}");
        }
    }

    fn a_del_that_is_killed_anywhere_is_finished_by_the_next_and_by_gc() {
        for conf in [dual_stack(), bridged()] {
            for remedy in Remedy::ALL {
                let with_traces = at_every_step(&conf, "DEL", remedy);
                assert!(with_traces > 3, "{with_traces}");
            }
        }
    }

    fn del_goes_on_when_the_link_is_gone_and_deletes_it_itself_where_nobody_else_can() {
        for conf in [dual_stack(), bridged()] {
            let own = Some(own_program());
            for (program, is_held) in [
                (None, false),
                (Some("/none/such".into()), false),
                (Some("/bin/false".into()), false),
                (own.clone(), false),
                (own, true),
            ] {
                let runtime = Runtime::new(conf.clone());
                runtime.add("a");
                let netns = runtime.host.run(|| Netns::open("/run/netns/a").unwrap()).unwrap();
                assert!(!is_held || netns.try_hold().unwrap());
                let environment = Environment { program, ..runtime.environment("DEL", "a") };

                success(&runtime.host.run(|| cni_plugin::run(&environment, conf.to_string().as_bytes())).unwrap());

                assert_eq!(of_pods(&runtime), Traces::default(), "{environment:?}");
                let eth0 = runtime.in_pod("a", |kernel| async move { kernel.link("eth0").await });
                assert!(eth0.unwrap_err().is_not_found(), "{environment:?}");
            }
        }
    }

    fn whoever_has_lost_its_parent_deletes_no_link() {
        let runtime = Runtime::new(dual_stack());
        runtime.add("a");
        let link = runtime.on_host(|kernel| async move { kernel.links().await }).unwrap();
        let link = link.iter().find(|link| link.is_veth()).unwrap();
        let (name, link) = (link.name.clone(), link.index.to_string());
        let delete = |parent: u32| {
            let mut command = Command::new(own_program());
            let ended = runtime.host.run(|| command.args(["delete-link", &name, &link, &parent.to_string()]).status());
            let is_left = runtime.on_host(|kernel| async move { kernel.links().await.unwrap().len() > 1 });
            (ended.unwrap().unwrap().success(), is_left)
        };

        assert_eq!(delete(1 << 30), (false, true));
        assert_eq!(delete(std::process::id()), (true, false));
        assert_eq!(delete(std::process::id()), (false, false));
    }

    fn an_add_with_host_ports_and_masquerade_that_is_killed_anywhere_leaves_what_del_gc_and_the_same_add_set_right() {
        for remedy in Remedy::ALL {
            let with_traces = at_every_step(&with_claims(), "ADD", remedy);
            assert!(with_traces > 40, "{with_traces}");
        }
    }

    fn a_del_with_host_ports_and_masquerade_that_is_killed_anywhere_is_finished_by_the_next_and_by_gc() {
        for remedy in Remedy::ALL {
            let with_traces = at_every_step(&with_claims(), "DEL", remedy);
            assert!(with_traces > 8, "{with_traces}");
        }
    }

    fn a_call_that_is_killed_while_host_local_leases_for_it_leaves_what_del_sets_right() {
        if !Path::new(REFERENCE).join("host-local").exists() {
            println!("{REFERENCE}/host-local is not installed: not tried with it");
            return;
        }
        for verb in ["ADD", "DEL"] {
            let with_traces = at_every_step(&leased_by_host_local(), verb, Remedy::Del);
            assert!(with_traces > 3, "{with_traces}");
        }
    }

    fn a_namespace_that_has_vanished_is_named_and_nothing_is_left() {
        for conf in [dual_stack(), bridged()] {
            let runtime = Runtime::new(conf);
            let result = runtime.add("a");
            runtime.host.remove_netns("a").unwrap();
            let check = runtime.conf_with(&json!({ "prevResult": result }));
            let gone = "pod default/a: open the pod's network namespace: open network namespace /run/netns/a: \
                        No such file or directory (os error 2)";

            assert_eq!(failure(&runtime.call("ADD", "a")), (8, gone.to_owned()));
            assert_eq!(failure(&runtime.call_with("CHECK", "a", &check)), (8, gone.to_owned()));
            success(&runtime.call("DEL", "a"));
            assert_eq!(of_pods(&runtime), Traces::default());

            runtime.host.run(|| std::fs::write("/run/netns/b", "").unwrap()).unwrap();
            let (code, told) = failure(&runtime.call("ADD", "b"));
            assert_eq!(code, 8);
            assert!(told.ends_with("/run/netns/b is not a network namespace"), "{told}");
            success(&runtime.call("DEL", "b"));
            assert_eq!(of_pods(&runtime), Traces::default());
        }
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

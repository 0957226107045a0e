//! Addresses of pods: who gets which, and what becomes of them, as a runtime sees it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays the container runtime"
)]

mod runtime;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::Mutex,
    thread,
    time::{Duration, SystemTime},
};

use cni_plugin::Outcome;
use fairway_lab::wait;
use runtime::{Runtime, addresses, dual_stack, failure, success};
use serde_json::{Value, json};

fn one_range(range: &Value) -> Value {
    json!({ "cniVersion": "1.1.0", "name": "pods", "type": "fairway", "ipam": { "ranges": [[range]] } })
}

fn gc(runtime: &Runtime, valid: &[&str]) {
    let valid: Vec<Value> = valid.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })).collect();
    success(&runtime.call_with("GC", "", &runtime.conf_with(&json!({ "cni.dev/valid-attachments": valid }))));
}

/// Ends a container as a runtime does that is killed before it can call DEL.
fn vanish(runtime: &Runtime, container: &str, result: &Value) {
    runtime.host.remove_netns(container).unwrap();
    let host_end = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    // The kernel takes a namespace apart some time after its last user.
    wait::until("the end of a namespace", || {
        let name = host_end.clone();
        let links = runtime.on_host(|kernel| async move { kernel.links().await.unwrap() });
        if links.iter().any(|link| link.name == name) { Err(format!("{name} is there")) } else { Ok(()) }
    })
    .unwrap();
}

/// Asks as a person does.
fn ask(runtime: &Runtime, line: &str) -> Outcome {
    let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_631_723 + 600);
    runtime.host.run(|| cni_plugin::commands::run(&arguments, now)).unwrap()
}

/// Makes all that a network keeps look as if the node had been started anew since.
fn reboot(runtime: &Runtime, network: &Path) {
    runtime
        .host
        .run(|| {
            fs::write(network.join("boot"), "earlier").unwrap();
            for owner in network.join("owners").read_dir().unwrap() {
                let path = owner.unwrap().path();
                let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                record["bootID"] = "earlier".into();
                fs::write(path, record.to_string()).unwrap();
            }
        })
        .unwrap();
}

fairway_lab::sandbox_tests! {
    fn leases_whose_namespace_is_gone_are_given_back_when_addresses_run_short() {
        let runtime = Runtime::new(one_range(&json!({ "subnet": "10.1.0.0/29" }))); // .2 to .6
        let all = ["a", "b", "c", "d", "e"].map(|container| (container, runtime.add(container)));
        runtime.sandbox("f");
        assert_eq!(failure(&runtime.call("ADD", "f")).0, 100, "all are in use");
        for (container, result) in [&all[3], &all[1]] {
            vanish(&runtime, container, result);
        }

        let next = addresses(&success(&runtime.call("ADD", "f")));

        assert!(["10.1.0.3", "10.1.0.5"].contains(&next[0].as_str()), "{next:?}");
        assert_eq!(runtime.leases().len(), 4);
        for (container, result) in [&all[0], &all[2], &all[4]] {
            let check = runtime.conf_with(&json!({ "prevResult": result }));
            success(&runtime.call_with("CHECK", container, &check));
        }
    }

    fn who_asks_for_an_address_gets_it_from_a_pod_that_is_gone() {
        let runtime = Runtime::new(dual_stack());
        let gone = runtime.add("gone");
        vanish(&runtime, "gone", &gone);
        runtime.sandbox("a");

        let result = success(&runtime.call_with_args("ADD", "a", "IP=10.244.1.2", &runtime.conf));

        assert_eq!(addresses(&result)[0], "10.244.1.2");
    }

    fn gc_gives_back_what_nobody_can_have_even_if_the_runtime_still_lists_it() {
        let runtime = Runtime::new(dual_stack());
        runtime.add("a");
        let gone = runtime.add("gone");
        vanish(&runtime, "gone", &gone);

        gc(&runtime, &["a", "gone"]);

        assert_eq!(runtime.leases(), ["10.244.1.2", "fd00:10:244:1::2"]);
    }

    fn nothing_is_left_after_a_reboot_even_where_the_run_directory_is_on_disk() {
        let runtime = Runtime::new(dual_stack());
        for container in ["a", "b"] {
            let result = runtime.add(container);
            vanish(&runtime, container, &result);
        }
        reboot(&runtime, Path::new("/run/fairway/pods"));

        runtime.add("c");

        let left = [runtime.files("/run/fairway/pods/owners"), runtime.files("/run/fairway/pods/leases")];
        assert_eq!(left.concat().len(), 3, "{left:?}");
    }

    fn many_adds_and_dels_at_once_give_no_address_twice_and_leave_nothing() {
        let runtime = Runtime::new(one_range(&json!({ "subnet": "10.1.0.0/25" }))); // 125 addresses
        let held = Mutex::new(BTreeSet::new());
        let names: Vec<Vec<String>> = (0..20).map(|t| (0..10).map(|n| format!("c{t}-{n}")).collect()).collect();
        for name in names.iter().flatten() {
            runtime.sandbox(name);
        }

        // Twenty at a time, 320 pods in all.
        thread::scope(|scope| {
            for names in &names {
                let (runtime, held) = (&runtime, &held);
                scope.spawn(move || {
                    let add = |name: &String| {
                        let address = addresses(&success(&runtime.call("ADD", name)))[0].clone();
                        assert!(held.lock().unwrap().insert(address.clone()), "{address} is another's, too");
                        address
                    };
                    let del = |name: &String, address: &String| {
                        assert!(held.lock().unwrap().remove(address));
                        success(&runtime.call("DEL", name));
                    };
                    for pair in names.chunks(2) {
                        let (first, second) = (add(&pair[0]), add(&pair[1]));
                        del(&pair[0], &first);
                        let again = add(&pair[0]);
                        del(&pair[1], &second);
                        del(&pair[0], &again);
                    }
                    add(&names[0]);
                });
            }
        });

        let left: BTreeSet<String> = runtime.leases().into_iter().collect();
        assert_eq!(left, held.into_inner().unwrap());
        assert_eq!(left.len(), 20);
        assert_eq!(runtime.files("/run/fairway/pods/owners").len(), 20);
        let links = runtime.on_host(|kernel| async move { kernel.links().await.unwrap().len() });
        assert_eq!(links, 1 + 20);
        assert_eq!(ask(&runtime, "ipam audit").stdout, "20 leases: 20 in use, 0 stale, 0 without a link\n");
    }

    fn people_see_who_has_which_address() {
        let runtime = Runtime::new(dual_stack());
        runtime.add("web");
        let gone = runtime.add("gone");
        vanish(&runtime, "gone", &gone);

        let listed = ask(&runtime, "ipam list");
        let lines: Vec<Vec<&str>> = listed.stdout.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
        assert_eq!(lines[0], ["NETWORK", "ADDRESSES", "POD", "CONTAINER", "LINK", "AGE", "STATE"]);
        assert_eq!(lines[1], ["pods", "10.244.1.3, fd00:10:244:1::3", "default/gone", "gone", "eth0", "10m", "namespace gone"]);
        assert_eq!(lines[2], ["pods", "10.244.1.2, fd00:10:244:1::2", "default/web", "web", "eth0", "10m", "in use"]);

        let listed: Value = serde_json::from_str(&ask(&runtime, "ipam list --json --network pods").stdout).unwrap();
        let inode = runtime.inside("web", || dataplane::netns::Netns::current().unwrap().inode().unwrap());
        let record = runtime.host.run(|| fs::read("/run/fairway/pods/owners/web@eth0").unwrap()).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(record["netnsInode"], inode);
        assert_eq!(listed["leases"][1], json!({
            "network": "pods", "addresses": ["10.244.1.2", "fd00:10:244:1::2"], "pod": "default/web", "containerID": "web",
            "ifname": "eth0", "netns": "/run/netns/web", "time": 1_795_631_723, "standing": "in use", "isStale": false,
        }));
    }

    fn an_audit_finds_what_is_stale_and_release_gives_it_back() {
        let runtime = Runtime::new(dual_stack());
        let web = runtime.add("web");
        assert_eq!(ask(&runtime, "ipam audit").stdout, "1 leases: 1 in use, 0 stale, 0 without a link
");
        for container in ["gone", "broken"] {
            let result = runtime.add(container);
            vanish(&runtime, container, &result);
        }
        runtime
            .host
            .run(|| {
                fs::write("/run/fairway/pods/owners/broken@eth0", "{ half").unwrap();
                fs::write("/run/fairway/pods/leases/10.244.1.99", "").unwrap();
            })
            .unwrap();

        let audit = ask(&runtime, "ipam audit");
        assert_eq!(audit.exit_code, 1);
        for told in [
            "namespace gone", "record unreadable", "pods: 10.244.1.99 is taken by nobody",
            "3 leases: 1 in use, 2 stale, 0 without a link", "fairway ipam release --stale",
        ] {
            assert!(audit.stdout.contains(told), "{told}: {}", audit.stdout);
        }
        let released = ask(&runtime, "ipam release --stale");
        assert_eq!(
            released.stdout,
            "released what it had of broken\nreleased 10.244.1.3, fd00:10:244:1::3 of default/gone\nreleased 1 taken by nobody\n"
        );
        assert_eq!(ask(&runtime, "ipam audit").exit_code, 0);
        assert_eq!(runtime.leases(), ["10.244.1.2", "fd00:10:244:1::2"]);
        let check = runtime.conf_with(&json!({ "prevResult": web }));
        success(&runtime.call_with("CHECK", "web", &check));
    }

    fn a_lease_in_use_is_released_by_force_alone_and_its_link_with_it() {
        let runtime = Runtime::new(dual_stack());
        runtime.add("web-1");
        runtime.add("web-2");

        for (whose, told) in [
            ("10.244.1.2", "10.244.1.2 is default/web-1's, in use: stop the pod, or take its network away with --force"),
            ("web", "web is the beginning of web-1 and of web-2"),
            ("10.9.9.9", "10.9.9.9 has no lease; see fairway ipam list"),
        ] {
            let refused = ask(&runtime, &format!("ipam release {whose}"));
            assert_eq!((refused.exit_code, refused.stderr), (2, format!("fairway: {told}\n")));
        }
        let released = ask(&runtime, "ipam release 10.244.1.2 --force");

        assert_eq!(released.stdout, "released 10.244.1.2, fd00:10:244:1::2 of default/web-1\n");
        assert_eq!(runtime.leases(), ["10.244.1.3", "fd00:10:244:1::3"]);
        let links = runtime.on_host(|kernel| async move { kernel.links().await.unwrap().len() });
        assert_eq!(links, 2, "lo, and that of the other pod");
        let unknown = ask(&runtime, "ipam list --network none");
        assert_eq!(unknown.stderr, "fairway: network none has no leases in /run/fairway: right name and --run-dir?\n");
    }

    fn ranges_bounds_gateways_and_routes_are_as_host_local_has_them() {
        let runtime = Runtime::new(json!({
            "cniVersion": "1.1.0", "name": "pods", "type": "fairway",
            "ipam": {
                "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.20", "rangeEnd": "10.1.0.20", "gateway": "10.1.0.254",
                "ranges": [
                    [{ "subnet": "10.2.0.0/24", "rangeStart": "10.2.0.9", "rangeEnd": "10.2.0.9" }, { "subnet": "10.3.0.0/24" }],
                    [{ "subnet": "fd00:7::/64", "rangeStart": "fd00:7::10" }],
                ],
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "fd00::/8", "gw": "fd00:7::1" }],
            },
        }));

        let first = runtime.add("a");
        runtime.sandbox("b");
        let (code, told) = failure(&runtime.call("ADD", "b"));

        assert_eq!(addresses(&first), ["10.1.0.20", "10.2.0.9", "fd00:7::10"]);
        let gateways: Vec<_> = first["ips"].as_array().unwrap().iter().map(|ip| ip["gateway"].clone()).collect();
        assert_eq!(gateways, ["10.1.0.254", "10.2.0.1", "fd00:7::1"]);
        assert_eq!(
            first["routes"],
            json!([{ "dst": "0.0.0.0/0", "gw": "10.1.0.254" }, { "dst": "fd00::/8", "gw": "fd00:7::1" }])
        );
        assert_eq!(code, 100);
        assert!(told.starts_with("pod default/b: no free address in 10.1.0.0/24 (1 leased): raise the pod CIDR or run GC"), "{told}");
        assert_eq!(runtime.leases().len(), 3, "nothing is left of the try");
    }

    fn an_address_is_asked_for_in_three_ways() {
        let runtime = Runtime::new(dual_stack());
        for (container, args, more, expected) in [
            ("a", "IP=10.244.1.77", json!({}), ["10.244.1.77", "fd00:10:244:1::2"]),
            ("b", "", json!({ "args": { "cni": { "ips": ["fd00:10:244:1::77/64"] } } }), ["10.244.1.2", "fd00:10:244:1::77"]),
            ("c", "", json!({ "runtimeConfig": { "ips": ["10.244.1.78", "fd00:10:244:1::78"] } }), ["10.244.1.78", "fd00:10:244:1::78"]),
        ] {
            runtime.sandbox(container);
            let conf = runtime.conf_with(&more);
            let result = success(&runtime.call_with_args("ADD", container, args, &conf));
            assert_eq!(addresses(&result), expected);
            let mut check = conf;
            check["prevResult"] = result;
            success(&runtime.call_with_args("CHECK", container, args, &check));
        }
    }

    fn an_address_that_cannot_be_had_is_refused_by_name_and_nothing_is_left() {
        let runtime = Runtime::new(dual_stack());
        runtime.sandbox("a");
        success(&runtime.call_with_args("ADD", "a", "IP=10.244.1.77;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web", &runtime.conf));
        runtime.sandbox("b");
        for (address, code, told) in [
            ("10.244.1.77", 100, "container b: address 10.244.1.77 is asked for, and leased to pod shop/web, container a, link eth0"),
            ("10.244.1.1", 7, "container b: address 10.244.1.1 is asked for, and is the gateway's or of no range: 10.244.1.0/24, fd00:10:244:1::/64"),
            ("192.0.2.1", 7, "container b: address 192.0.2.1 is asked for, and is the gateway's or of no range: 10.244.1.0/24, fd00:10:244:1::/64"),
        ] {
            let outcome = runtime.call_with_args("ADD", "b", &format!("IP={address}"), &runtime.conf);
            assert_eq!(failure(&outcome), (code, told.to_owned()));
        }
        assert_eq!(runtime.leases().len(), 2);
    }

    fn the_runtime_may_bring_its_own_range() {
        let runtime = Runtime::new(one_range(&json!({ "subnet": "10.1.0.0/24" })));
        runtime.sandbox("a");
        let ranges = json!({ "runtimeConfig": { "ipRanges": [[{ "subnet": "10.9.0.0/24" }]] } });

        let result = success(&runtime.call_with("ADD", "a", &runtime.conf_with(&ranges)));

        assert_eq!(addresses(&result), ["10.9.0.2", "10.1.0.2"]);
    }

    fn reserved_addresses_of_the_node_s_range_are_given_to_nobody_who_does_not_ask() {
        let mut runtime = Runtime::new(dual_stack());
        runtime.conf["ipam"] = json!({ "exclude": ["10.244.7.0/30"] });
        let node = r#"{"podCIDRs":["10.244.7.0/24"]}"#;
        runtime.host.run(|| std::fs::write("/run/fairway/node.json", node).unwrap()).unwrap();
        runtime.sandbox("b");

        assert_eq!(addresses(&runtime.add("a")), ["10.244.7.4"]);
        assert_eq!(addresses(&success(&runtime.call_with_args("ADD", "b", "IP=10.244.7.3", &runtime.conf))), ["10.244.7.3"]);
    }

    fn a_freed_address_waits_until_all_others_had_their_turn() {
        let runtime = Runtime::new(one_range(&json!({ "subnet": "10.1.0.0/28" }))); // .2 to .14
        let add = |container: &str| addresses(&success(&runtime.exec("ADD", container)))[0].clone();
        for n in 0..13 {
            runtime.sandbox(&format!("c{n}"));
            add(&format!("c{n}"));
        }
        for n in [7, 3, 11] {
            success(&runtime.exec("DEL", &format!("c{n}")));
        }
        success(&runtime.exec("DEL", "c0"));

        let again = [7, 3, 11, 0].map(|n| add(&format!("c{n}")));

        assert_eq!(again, ["10.1.0.9", "10.1.0.5", "10.1.0.13", "10.1.0.2"], "in the order in which they were freed");
        gc(&runtime, &[]);
        assert_eq!(runtime.leases(), [""; 0]);
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

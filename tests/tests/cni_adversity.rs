//! What may be wrong with a node or a request: a full disk, a directory that cannot be written, files that hold nonsense, ranges
//! that change, and requests that mean harm. Each ends in an error that says what to do, or is mended.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays the container runtime"
)]

mod runtime;

use std::{fs, io::Write, os::unix::fs::symlink, path::Path, thread};

use cni_plugin::{Environment, Outcome};
use dataplane::sysctl;
use nix::mount::{MsFlags, mount};
use runtime::{Runtime, addresses, dual_stack, failure, success};
use serde_json::{Value, json};

/// Where a small disk is.
const SMALL: &str = "/run/lab/small";

/// A host whose run directory is a disk of 256 KiB.
fn on_a_small_disk() -> Runtime {
    let runtime = Runtime::new(dual_stack());
    runtime
        .host
        .run(|| {
            fs::create_dir(SMALL).unwrap();
            let none = None::<&str>;
            mount(none, SMALL, Some("tmpfs"), MsFlags::empty(), Some("size=256k")).unwrap();
        })
        .unwrap();
    let conf = runtime.conf_with(&json!({ "runDir": SMALL }));
    Runtime { conf, ..runtime }
}

fn fill(runtime: &Runtime) {
    runtime
        .host
        .run(|| {
            let mut file = fs::File::create(Path::new(SMALL).join("filling")).unwrap();
            while file.write_all(&[0; 1024]).is_ok() {}
        })
        .unwrap();
}

fn remount(runtime: &Runtime, flags: MsFlags) {
    let none = None::<&str>;
    runtime.host.run(|| mount(none, SMALL, none, MsFlags::MS_REMOUNT | flags, none).unwrap()).unwrap();
}

fn links(runtime: &Runtime) -> usize {
    runtime.on_host(|kernel| async move { kernel.links().await.unwrap().len() - 1 })
}

fn gc(runtime: &Runtime, valid: &Value) -> Outcome {
    runtime.call_with("GC", "", &runtime.conf_with(&json!({ "cni.dev/valid-attachments": valid })))
}

fn put(runtime: &Runtime, path: &str, content: &[u8]) {
    runtime.host.run(|| fs::write(path, content).unwrap()).unwrap();
}

fairway_lab::sandbox_tests! {
    fn a_full_disk_takes_no_lease_and_gives_all_of_them_back() {
        let runtime = on_a_small_disk();
        runtime.add("a");
        runtime.add("b");
        runtime.sandbox("c");
        fill(&runtime);

        let (code, told) = failure(&runtime.call("ADD", "c"));
        assert_eq!(code, 5);
        assert!(told.starts_with("pod default/c: keep the leases: write a file in /run/lab/small/pods: No space left"), "{told}");
        let (code, told) = failure(&runtime.call("STATUS", ""));
        assert_eq!((code, told.contains("No space left")), (50, true), "{told}");
        success(&runtime.call("DEL", "c"));
        success(&runtime.call("DEL", "a"));
        success(&gc(&runtime, &json!([])));

        assert_eq!(links(&runtime), 0);
        assert_eq!(runtime.files("/run/lab/small/pods/leases"), [""; 0]);
        runtime.host.run(|| fs::remove_file(Path::new(SMALL).join("filling")).unwrap()).unwrap();
        assert_eq!(addresses(&success(&runtime.call("ADD", "c")))[0], "10.244.1.4", "its turn was kept");
    }

    fn where_nothing_can_be_written_status_says_so_and_del_succeeds_as_soon_as_it_can() {
        let runtime = on_a_small_disk();
        let result = runtime.add("a");
        runtime.sandbox("b");
        remount(&runtime, MsFlags::MS_RDONLY);

        for (verb, container, code) in [("ADD", "b", 5), ("DEL", "a", 5), ("STATUS", "", 50)] {
            let (failed, told) = failure(&runtime.call(verb, container));
            assert_eq!((failed, told.contains("/run/lab/small/pods")), (code, true), "{told}");
            assert!(told.contains("Read-only file system"), "{told}");
        }
        success(&runtime.call("DEL", "b"));
        remount(&runtime, MsFlags::empty());

        success(&runtime.call("DEL", "a"));
        assert_eq!(runtime.files("/run/lab/small/pods/leases"), [""; 0]);
        assert_eq!(links(&runtime), 0);
        assert_eq!(addresses(&result).len(), 2);
    }

    fn records_that_hold_nonsense_are_mended_by_add_and_removed_by_del_and_gc() {
        let runtime = Runtime::new(dual_stack());
        for container in ["a", "b", "c"] {
            runtime.sandbox(container);
        }
        for content in [&b""[..], b"{ half", b"[1]", b"\xff\xfe"] {
            for container in ["a", "b", "c"] {
                success(&runtime.call("DEL", container));
                success(&runtime.call("ADD", container));
                put(&runtime, &format!("/run/fairway/pods/owners/{container}@eth0"), content);
            }

            let mended = success(&runtime.call("ADD", "a"));
            success(&runtime.call("DEL", "b"));
            success(&gc(&runtime, &json!([{ "containerID": "a", "ifname": "eth0" }])));

            assert_eq!(runtime.leases(), addresses(&mended));
            assert_eq!(links(&runtime), 1);
        }
    }

    fn an_empty_lease_file_holds_its_address_only_until_addresses_run_short() {
        let runtime = Runtime::new(dual_stack());
        let conf = runtime.conf_with(&json!({ "ipam": { "subnet": "10.1.0.0/29", "rangeEnd": "10.1.0.3" } }));
        let runtime = Runtime { conf, ..runtime };
        runtime.add("a");
        put(&runtime, "/run/fairway/pods/leases/10.1.0.3", b"");

        let result = runtime.add("b");

        assert_eq!(addresses(&result), ["10.1.0.3"]);
    }

    fn what_was_kept_of_turns_may_be_nonsense() {
        let runtime = Runtime::new(dual_stack());
        runtime.add("a");
        for file in ["last/0", "last/1", "freed/0", "freed/1"] {
            put(&runtime, &format!("/run/fairway/pods/{file}"), b"\xff\n10.244.1.2\nfd00::\n\n999.1.1.1\n");
        }

        assert_eq!(addresses(&runtime.add("b")), ["10.244.1.3", "fd00:10:244:1::3"]);
    }

    fn a_node_whose_pod_cidr_changed_gives_new_addresses_and_takes_the_old_ones_back() {
        let runtime = Runtime::new(dual_stack());
        let conf = runtime.conf_with(&json!({ "ipam": null }));
        let runtime = Runtime { conf, ..runtime };
        put(&runtime, "/run/fairway/node.json", br#"{"podCIDRs":["10.244.7.0/24"]}"#);
        let a = runtime.add("a");
        runtime.add("b");

        put(&runtime, "/run/fairway/node.json", br#"{"podCIDRs":["10.244.8.0/24"]}"#);

        assert_eq!(addresses(&runtime.add("c")), ["10.244.8.2"]);
        let (code, told) = failure(&runtime.call_with("CHECK", "a", &runtime.conf_with(&json!({ "prevResult": a }))));
        assert_eq!((code, told.contains("address 10.244.7.2 is leased to it, and of no range")), (102, true), "{told}");
        assert_eq!(addresses(&success(&runtime.call("ADD", "a"))), ["10.244.8.3"], "wired anew");
        success(&runtime.call("DEL", "b"));
        assert_eq!(runtime.leases(), ["10.244.8.2", "10.244.8.3"]);
        put(&runtime, "/run/fairway/node.json", b"{");
        assert_eq!(failure(&runtime.call("STATUS", "")).0, 50);
        success(&runtime.call("DEL", "c"));
    }

    fn status_tells_a_node_that_cannot_add_pods_from_one_that_also_cuts_off_those_it_has() {
        let runtime = Runtime::new(dual_stack());
        let runtime = Runtime { conf: runtime.conf_with(&json!({ "ipam": null })), ..runtime };
        put(&runtime, "/run/fairway/node.json", br#"{"podCIDRs":["10.244.7.0/24"]}"#);
        runtime.add("a");
        let forward = |value| {
            runtime.host.run(|| sysctl::set("net/ipv4/ip_forward", value).unwrap()).unwrap();
        };
        let status = || failure(&runtime.call("STATUS", "")).0;

        forward("0");
        success(&runtime.call("STATUS", "")); // the next ADD would mend it
        put(&runtime, "/run/fairway/node.json", b"{");
        assert_eq!(status(), 51);
        forward("1");
        assert_eq!(status(), 50);
        forward("0");
        success(&runtime.call("DEL", "a"));
        assert_eq!(status(), 50, "there is nobody to cut off");
    }

    fn no_request_writes_outside_of_its_run_directory() {
        let runtime = on_a_small_disk();
        runtime.sandbox("a");
        let everything = || {
            let mut all = Vec::new();
            for dir in ["/run/fairway", "/run/lab", "/etc/cni", "/var/lib/fairway"] {
                all.extend(runtime.files(dir));
            }
            all.retain(|file| !file.starts_with("/run/lab/small/pods/"));
            all
        };
        let before = everything();
        let hostile = ["../../x", "/etc/x", "..", ".", "a/b", "a\0b", "a@b/../c", "%2e%2e", "node.json", "\u{202e}x", "-x"];
        for name in hostile {
            for (verb, key) in [("ADD", "name"), ("DEL", "name"), ("GC", "name"), ("STATUS", "name"), ("ADD", "type")] {
                let conf = match key {
                    "name" => runtime.conf_with(&json!({ "name": name, "cni.dev/valid-attachments": [] })),
                    _ => runtime.conf_with(&json!({ "ipam": { "type": name } })),
                };
                let (code, told) = failure(&runtime.call_with(verb, "a", &conf));
                assert!([4, 7, 50].contains(&code), "{verb} {key} {name:?}: {code} {told}");
            }
        }
        for id in ["../../x", "/etc/x", "..", "a/b", "a@eth0/../../x", "", &"x".repeat(201)] {
            for verb in ["ADD", "DEL", "CHECK"] {
                let (code, _) = failure(&runtime.call_in(verb, id, "/run/netns/a", &runtime.conf));
                assert_eq!(code, 4, "{verb} {id:?}");
            }
        }
        let listed = json!([{ "containerID": "../../x", "ifname": "../y" }, { "containerID": "a", "ifname": "" }]);
        success(&gc(&runtime, &listed));

        assert_eq!(everything(), before);
    }

    fn what_is_no_configuration_is_refused_however_long_or_deep_it_is() {
        let runtime = Runtime::new(dual_stack());
        let vars = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "a"), ("CNI_NETNS", "/run/netns/a"), ("CNI_IFNAME", "eth0")];
        let vars = || vars.map(|(name, value)| (name.into(), value.into()));
        let long = format!("{}{}", json!({ "name": "x" }), " ".repeat(17 << 20));
        for stdin in [long, "[".repeat(1 << 20), "{\"a\":".repeat(1 << 20), "\u{0}".repeat(100), String::new()] {
            let environment = Environment::from_vars(vars(), std::time::SystemTime::UNIX_EPOCH);
            let outcome = runtime.host.run(|| cni_plugin::run(&environment, stdin.as_bytes())).unwrap();
            assert_eq!(failure(&outcome).0, 6);
        }
        assert_eq!(runtime.files("/run/fairway"), [""; 0]);
    }

    fn of_two_adds_at_once_for_one_container_neither_harms_the_other() {
        for _ in 0..10 {
            let runtime = Runtime::new(dual_stack());
            runtime.sandbox("a");

            let results: Vec<Outcome> = thread::scope(|scope| {
                let adds: Vec<_> = (0..4).map(|_| scope.spawn(|| runtime.call("ADD", "a"))).collect();
                adds.into_iter().map(|add| add.join().unwrap()).collect()
            });

            let first = success(&results[0]);
            for result in &results {
                assert_eq!(success(result), first);
            }
            success(&runtime.call_with("CHECK", "a", &runtime.conf_with(&json!({ "prevResult": first }))));
            assert_eq!(links(&runtime), 1);
        }
    }

    fn an_endless_or_reserved_something_ends_in_an_answer() {
        let runtime = Runtime::new(dual_stack());
        runtime.sandbox("a");

        let all_reserved = json!({ "subnet": "fd00::/64", "exclude": ["fd00::/8"] });
        let (code, told) = failure(&runtime.call_with("ADD", "a", &runtime.conf_with(&json!({ "ipam": all_reserved }))));
        assert_eq!(code, 100);
        assert!(told.contains("no free address in fd00::/64 without fd00::/8 (0 leased)"), "{told}");
        let endless = json!({ "subnet": "10.1.0.0/24", "resolvConf": "/dev/zero" });
        success(&runtime.call_with("ADD", "a", &runtime.conf_with(&json!({ "ipam": endless }))));
    }

    fn links_that_lead_out_of_the_run_directory_lead_nowhere() {
        let runtime = Runtime::new(dual_stack());
        runtime.add("a");
        put(&runtime, "/run/lab/passwd", b"root");
        runtime.host.run(|| {
            fs::create_dir("/run/lab/etc").unwrap();
            fs::write("/run/lab/etc/shadow", "root").unwrap();
            fs::remove_file("/run/fairway/pods/freed/0").unwrap_or_default();
            symlink("/run/lab/passwd", "/run/fairway/pods/freed/0").unwrap();
            symlink("/run/lab/passwd", "/run/fairway/pods/owners/b@eth0").unwrap();
            symlink("/run/lab/passwd", "/run/fairway/pods/leases/10.244.1.3").unwrap();
            fs::create_dir("/run/fairway/other").unwrap();
            symlink("/run/lab/etc", "/run/fairway/other/leases").unwrap();
        }).unwrap();

        success(&runtime.call("DEL", "a"));
        success(&runtime.call("DEL", "b"));
        for network in ["pods", "other"] {
            let conf = runtime.conf_with(&json!({ "name": network, "cni.dev/valid-attachments": [] }));
            success(&runtime.call_with("GC", "", &conf));
        }

        let there = runtime.host.run(|| ["/run/lab/passwd", "/run/lab/etc/shadow"].map(|file| fs::read(file).unwrap()));
        assert_eq!(there.unwrap(), [b"root", b"root"]);
        assert_eq!(runtime.leases(), [""; 0]);
    }

    fn gc_says_what_it_could_not_remove_and_removes_it_as_soon_as_it_can() {
        let runtime = on_a_small_disk();
        runtime.add("a");
        runtime.add("b");
        remount(&runtime, MsFlags::MS_RDONLY);

        let (code, told) = failure(&gc(&runtime, &json!([])));

        assert_eq!(code, 103);
        assert!(told.contains("/run/lab/small/pods") && told.contains("Read-only file system"), "{told}");
        remount(&runtime, MsFlags::empty());
        success(&gc(&runtime, &json!([])));
        assert_eq!(runtime.files("/run/lab/small/pods/leases"), [""; 0]);
        assert_eq!(links(&runtime), 0);
    }

    fn names_of_pods_that_nobody_would_give_do_no_harm() {
        let runtime = Runtime::new(dual_stack());
        runtime.sandbox("a");
        let long = "\u{1f980}".repeat(2000);
        for args in [
            &format!("K8S_POD_NAMESPACE={long};K8S_POD_NAME={long}"),
            "K8S_POD_NAMESPACE=../..;K8S_POD_NAME=/etc/passwd;;;K8S_POD_NAME=a=b",
            "K8S_POD_NAMESPACE=\u{202e};K8S_POD_NAME=a\nb;IP=;MAC=",
            ";",
        ] {
            let result = success(&runtime.call_given("ADD", "a", args));
            success(&runtime.call_given("ADD", "a", args));
            assert_eq!(runtime.leases(), addresses(&result));
            success(&runtime.call_given("DEL", "a", args));
        }
        for (args, told) in [("x", "\"x\" is not KEY=VALUE"), ("IP=10.1", "IP=\"10.1\" is no address"), ("MAC=1", "MAC=\"1\"")] {
            let (code, message) = failure(&runtime.call_given("ADD", "a", args));
            assert_eq!((code, message.contains(told)), (4, true), "{message}");
            success(&runtime.call_given("DEL", "a", args));
        }
    }

    fn a_lease_directory_that_is_a_file_is_named() {
        let runtime = Runtime::new(dual_stack());
        runtime.sandbox("a");
        put(&runtime, "/run/fairway/pods", b"");

        let (code, told) = failure(&runtime.call("ADD", "a"));

        assert_eq!((code, told.contains("make directory /run/fairway/pods")), (5, true), "{told}");
        assert_eq!(links(&runtime), 0);
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

//! Pods wired by the plugin, with real packets.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays the container runtime"
)]

mod runtime;

use std::{
    collections::BTreeSet,
    net::{TcpListener, TcpStream},
    thread,
};

use dataplane::{
    rtnl::{Address, Kernel, Mac, Neighbour, NeighbourState, Route, Routes, VethEnd},
    sysctl,
};
use nix::mount::{MsFlags, mount};
use runtime::{
    Runtime, addresses, dual_stack, failure, success,
    traces::{PATIENCE, Traces, say, traces},
};
use serde_json::{Value, json};

fn end(name: &str) -> VethEnd {
    VethEnd { name: name.to_owned(), mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500 }
}

fn host_end(result: &Value) -> String {
    result["interfaces"][0]["name"].as_str().unwrap().to_owned()
}

async fn index(kernel: &Kernel, name: &str) -> u32 {
    kernel.link(name).await.unwrap().index
}

fairway_lab::sandbox_tests! {
    fn pods_and_their_host_talk_in_both_families_and_see_each_other_s_own_address() {
        let runtime = Runtime::new(dual_stack());
        let (a, b) = (addresses(&runtime.add("a")), addresses(&runtime.add("b")));

        for family in 0..2 {
            let (heard, from) = say(&runtime, Some("a"), "b", &b[family]);
            assert_eq!((heard.as_str(), from.to_string()), ("hello", a[family].clone()));
        }
        for (address, gateway) in b.iter().zip(["10.244.1.1", "fd00:10:244:1::1"]) {
            let (heard, from) = say(&runtime, None, "b", address);
            assert_eq!((heard.as_str(), from.to_string()), ("hello", gateway.to_owned()));
        }
        for address in &b {
            assert_eq!(
                &say(&runtime, Some("b"), "b", address).1.to_string(),
                address,
                "a pod reaches itself"
            );
        }
    }

    fn the_result_is_what_the_kernel_has() {
        let runtime = Runtime::new(dual_stack());
        let result = runtime.add("web");

        let (name, alias) = (host_end(&result), Some("default/web".to_owned()));
        let host = runtime.on_host(|kernel| async move { kernel.link(&name).await.unwrap() });
        let pod = runtime.in_pod("web", |kernel| async move { kernel.link("eth0").await.unwrap() });
        assert_eq!((host.alias, host.mtu, pod.mtu), (alias, 1450, 1450));
        assert!(host.is_up && pod.is_up && host.has_carrier && pod.has_carrier);
        let macs = [host.mac.unwrap().to_string(), pod.mac.unwrap().to_string()];
        assert_eq!([&result["interfaces"][0]["mac"], &result["interfaces"][1]["mac"]], [&macs[0], &macs[1]]);
        assert!(runtime.in_pod("web", |kernel| async move { kernel.link("lo").await.unwrap().is_up }));

        let printed = result
            .to_string()
            .replace(&host_end(&result), "HOST")
            .replace(&macs[0], "M1")
            .replace(&macs[1], "M2");
        let expected = json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                { "name": "HOST", "mac": "M1", "mtu": 1450 },
                { "name": "eth0", "mac": "M2", "mtu": 1450, "sandbox": "/run/netns/web" },
            ],
            "ips": [
                { "address": "10.244.1.2/32", "gateway": "10.244.1.1", "interface": 1 },
                { "address": "fd00:10:244:1::2/128", "gateway": "fd00:10:244:1::1", "interface": 1 },
            ],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "10.244.1.1" }, { "dst": "::/0", "gw": "fd00:10:244:1::1" }],
        });
        assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), expected);
    }

    fn both_ends_know_each_other_before_the_first_packet() {
        let runtime = Runtime::new(dual_stack());
        runtime.add("a");

        let known = |neighbours: Vec<Neighbour>| -> BTreeSet<String> {
            let stale = neighbours.iter().filter(|n| n.state == NeighbourState::Stale && n.mac.is_some());
            stale.map(|n| n.address.to_string()).collect()
        };
        let on_host = runtime.on_host(|kernel| async move { kernel.neighbours().await.unwrap() });
        let in_pod = runtime.in_pod("a", |kernel| async move { kernel.neighbours().await.unwrap() });
        assert_eq!(known(on_host), BTreeSet::from(["10.244.1.2".to_owned(), "fd00:10:244:1::2".to_owned()]));
        assert_eq!(known(in_pod), BTreeSet::from(["10.244.1.1".to_owned(), "fd00:10:244:1::1".to_owned()]));
    }

    fn a_pod_heals_when_the_other_end_gets_another_hardware_address() {
        let runtime = Runtime::new(dual_stack());
        let result = runtime.add("a");
        let name = host_end(&result);
        runtime.on_host(|kernel| async move {
            let index = index(&kernel, &name).await;
            kernel.set_mac(index, Mac([2, 9, 9, 9, 9, 9])).await.unwrap();
        });

        // The kernel's own pace is five seconds before it doubts and three questions until it gives up the old address.
        runtime.inside("a", || {
            for (key, value) in
                [("delay_first_probe_time", "0"), ("ucast_solicit", "1"), ("retrans_time_ms", "50")]
            {
                sysctl::set(&format!("net/ipv4/neigh/eth0/{key}"), value).unwrap();
            }
        });

        let listener = runtime.host.run(|| TcpListener::bind("10.244.1.1:80").unwrap()).unwrap();
        let connected =
            runtime.inside("a", || TcpStream::connect_timeout(&listener.local_addr().unwrap(), PATIENCE));

        connected.unwrap();
    }

    fn del_leaves_nothing_and_may_be_repeated() {
        let runtime = Runtime::new(dual_stack());
        let before = traces(&runtime);
        for container in ["a", "b"] {
            runtime.add(container);
        }
        let with_two = traces(&runtime);
        assert_eq!((with_two.links.len(), with_two.routes.len(), with_two.leases.len()), (2, 4, 4));

        for container in ["a", "b", "a", "never-there"] {
            let outcome = runtime.call("DEL", container);
            assert_eq!((success(&outcome), outcome.stdout.as_str()), (Value::Null, ""));
        }

        assert_eq!(traces(&runtime), before);
        assert_eq!(before, Traces::default());
        assert_eq!(runtime.files("/run/fairway/pods/owners"), [""; 0]);
        assert!(
            runtime
                .in_pod("a", |kernel| async move { kernel.link("eth0").await.unwrap_err().is_not_found() })
        );
    }

    fn del_needs_no_namespace_and_no_more_than_the_network_s_name() {
        let runtime = Runtime::new(dual_stack());
        runtime.add("a");
        runtime.add("b");
        runtime.host.remove_netns("a").unwrap();

        let conf = json!({ "cniVersion": "1.1.0", "name": "pods", "ipam": "gone" });
        success(&runtime.call_in("DEL", "a", "", &conf));
        success(&runtime.call_in("DEL", "b", "/run/netns/gone", &conf));

        assert_eq!(traces(&runtime), Traces::default());
    }

    fn twenty_programs_at_once_get_twenty_addresses() {
        let runtime = Runtime::new(dual_stack());
        let containers: Vec<String> = (0..20).map(|i| format!("c{i}")).collect();
        for container in &containers {
            runtime.sandbox(container);
        }

        let results: Vec<Value> = thread::scope(|scope| {
            let calls = containers.iter().map(|c| scope.spawn(|| success(&runtime.exec("ADD", c))));
            let calls: Vec<_> = calls.collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });

        let distinct: BTreeSet<String> = results.iter().flat_map(addresses).collect();
        assert_eq!(distinct.len(), 40, "{distinct:?}");
        assert_eq!(traces(&runtime).links.len(), 20);
        thread::scope(|scope| {
            for container in &containers {
                scope.spawn(|| success(&runtime.exec("DEL", container)));
            }
        });
        assert_eq!(traces(&runtime), Traces::default());
    }

    fn the_program_prints_errors_on_stdout_and_nothing_else_anywhere() {
        let runtime = Runtime::new(json!({ "cniVersion": "1.0.0" }));
        let outcome = runtime.exec("ADD", "c1");

        assert_eq!((outcome.exit_code, outcome.stderr.as_str()), (1, ""));
        assert_eq!(failure(&outcome), (7, "name is missing in the network configuration".to_owned()));
    }

    fn add_again_gives_the_same_answer_and_changes_nothing() {
        let runtime = Runtime::new(dual_stack());
        let first = runtime.add("a");
        let links = traces(&runtime).links;

        assert_eq!(success(&runtime.call("ADD", "a")), first);

        assert_eq!(traces(&runtime).links, links);
        assert_eq!(runtime.leases().len(), 2);
    }

    fn add_again_mends_what_is_broken_and_keeps_the_addresses() {
        let runtime = Runtime::new(dual_stack());
        let first = runtime.add("a");
        runtime.in_pod("a", |kernel| async move {
            let eth0 = index(&kernel, "eth0").await;
            kernel.set_up(eth0, false).await.unwrap();
        });

        assert_eq!(success(&runtime.call("ADD", "a")), first);

        let (b, address) = (runtime.add("b"), addresses(&first)[0].clone());
        assert_eq!(say(&runtime, Some("b"), "a", &address).1.to_string(), addresses(&b)[0]);
    }

    fn a_link_of_another_s_in_the_pod_is_an_error_and_stays() {
        let runtime = Runtime::new(dual_stack());
        runtime.sandbox("a");
        runtime.in_pod("a", |kernel| async move {
            kernel.add_veth(&end("eth0"), &end("other"), None).await.unwrap();
        });

        let (code, told) = failure(&runtime.call("ADD", "a"));

        assert_eq!(code, 101);
        assert_eq!(
            told,
            "pod default/a: link eth0 in its namespace exists already, and is none of this network's: remove it, or choose another CNI_IFNAME"
        );
        assert_eq!(traces(&runtime), Traces::default());
        success(&runtime.call("DEL", "a"));
        assert!(runtime.in_pod("a", |kernel| async move { kernel.link("eth0").await.is_ok() }));
    }

    fn an_add_that_fails_on_the_way_leaves_nothing() {
        let runtime = Runtime::new(dual_stack());
        runtime.sandbox("a");
        let routes = json!({ "ranges": runtime.conf["ipam"]["ranges"], "routes": [{ "dst": "10.0.0.0/8" }, { "dst": "10.0.0.0/8" }] });

        let (code, told) =
            failure(&runtime.call_with("ADD", "a", &runtime.conf_with(&json!({ "ipam": routes }))));

        assert_eq!(code, 101);
        assert!(told.starts_with("pod default/a: route 10.0.0.0/8 via 10.244.1.1"), "{told}");
        assert_eq!(traces(&runtime), Traces::default());
        assert!(
            runtime
                .in_pod("a", |kernel| async move { kernel.link("eth0").await.unwrap_err().is_not_found() })
        );
    }

    fn when_addresses_run_out_the_pod_and_the_remedy_are_named() {
        let runtime = Runtime::new(dual_stack());
        let small = json!({ "ipam": { "subnet": "10.244.1.0/30" } });
        let small = runtime.conf_with(&small);
        for container in ["a", "b"] {
            runtime.sandbox(container);
        }
        success(&runtime.call_with("ADD", "a", &small));

        assert_eq!(
            failure(&runtime.call_with("ADD", "b", &small)),
            (
                100,
                "pod default/b: no free address in 10.244.1.0/30 (1 leased): raise the pod CIDR or run GC"
                    .to_owned(),
            )
        );
        success(&runtime.call_with("DEL", "a", &small));
        success(&runtime.call_with("ADD", "b", &small));
    }

    fn check_names_all_that_has_been_altered() {
        let runtime = Runtime::new(dual_stack());
        let result = runtime.add("a");
        let conf = runtime.conf_with(&json!({ "prevResult": result }));
        success(&runtime.call_with("CHECK", "a", &conf));

        runtime.in_pod("a", |kernel| async move {
            let eth0 = index(&kernel, "eth0").await;
            kernel
                .delete_route(&Route::through(
                    "0.0.0.0/0".parse().unwrap(),
                    "10.244.1.1".parse().unwrap(),
                    eth0,
                ))
                .await
                .unwrap();
            kernel
                .delete_address(&Address::bare(eth0, "fd00:10:244:1::2/128".parse().unwrap()))
                .await
                .unwrap();
            kernel.set_mtu(eth0, 1400).await.unwrap();
        });
        let name = host_end(&result);
        runtime.on_host(|kernel| async move {
            let index = index(&kernel, &name).await;
            kernel
                .delete_route(&Route {
                    source: Some("10.244.1.1".parse().unwrap()),
                    ..Route::on_link("10.244.1.2/32".parse().unwrap(), index)
                })
                .await
                .unwrap();
        });

        let (code, told) = failure(&runtime.call_with("CHECK", "a", &conf));
        assert_eq!(code, 102);
        for fault in [
            "link eth0 in its namespace has MTU 1400, not 1450",
            "address fd00:10:244:1::2/128 in its namespace is missing",
            "route 0.0.0.0/0 via 10.244.1.1 dev 2 proto 70 in its namespace is missing",
            "proto 70 src 10.244.1.1 on the host is missing",
        ] {
            assert!(told.contains(fault), "{fault:?} in {told}");
        }
    }

    fn check_notices_a_link_that_is_down_or_gone_and_a_lease_that_is_another() {
        let runtime = Runtime::new(dual_stack());
        let result = runtime.add("a");
        let check = |result: &Value| {
            let outcome =
                runtime.call_with("CHECK", "a", &runtime.conf_with(&json!({ "prevResult": result })));
            failure(&outcome).1
        };
        let mut other = result.clone();
        other["ips"][0]["address"] = json!("10.244.1.9/32");
        assert_eq!(
            check(&other),
            "pod default/a: prevResult has address 10.244.1.9, which is not leased to it; \
            address 10.244.1.2 is leased to it, and prevResult does not have it"
        );

        runtime.in_pod("a", |kernel| async move {
            let eth0 = index(&kernel, "eth0").await;
            kernel.set_up(eth0, false).await.unwrap();
        });
        assert!(check(&result).contains("link eth0 in its namespace is down"));

        runtime.in_pod("a", |kernel| async move {
            let eth0 = index(&kernel, "eth0").await;
            kernel.delete_link(eth0).await.unwrap();
        });
        let told = check(&result);
        assert!(
            told.contains("link eth0 in its namespace is missing") && told.contains("on the host is missing"),
            "{told}"
        );

        success(&runtime.call("DEL", "a"));
        assert_eq!(check(&result), "pod default/a: no lease is kept for this container and link");
    }

    fn gc_removes_what_the_runtime_does_not_know_and_nothing_else() {
        let runtime = Runtime::new(dual_stack());
        let kept = addresses(&runtime.add("kept"));
        runtime.add("gone");
        runtime.sandbox("elsewhere");
        let other_network =
            runtime.conf_with(&json!({ "name": "other", "ipam": { "subnet": "10.9.0.0/24" } }));
        success(&runtime.call_with("ADD", "elsewhere", &other_network));
        runtime.on_host(|kernel| async move {
            kernel.add_veth(&end("fwbr100i0"), &end("fwln100i0"), None).await.unwrap();
        });
        // A link whose lease was lost: what a crash of the machine's /run would leave.
        let stray = host_end(&runtime.add("stray"));
        runtime
            .host
            .run(|| {
                std::fs::remove_file("/run/fairway/pods/owners/stray@eth0").unwrap();
                std::fs::write("/run/fairway/node.json", "{}").unwrap();
            })
            .unwrap();
        assert!(traces(&runtime).links.contains(&stray));

        let valid =
            json!([{ "containerID": "kept", "ifname": "eth0" }, { "containerID": "../odd", "ifname": "" }]);
        success(&runtime.call_with(
            "GC",
            "",
            &runtime.conf_with(&json!({ "cni.dev/valid-attachments": valid })),
        ));

        let after = traces(&runtime);
        assert_eq!(after.links.len(), 4, "kept, elsewhere, and two of others: {:?}", after.links);
        assert!(!after.links.contains(&stray));
        assert_eq!(BTreeSet::from_iter(runtime.leases()), BTreeSet::from_iter(kept.clone()));
        assert_eq!(runtime.files("/run/fairway/other/leases").len(), 1);
        assert_eq!(say(&runtime, None, "kept", &kept[0]).0, "hello");

        let mut nothing_valid = runtime.conf.clone();
        nothing_valid["cni.dev/valid-attachments"] = Value::Null;
        success(&runtime.call_with("GC", "", &nothing_valid));
        assert_eq!(runtime.leases(), [""; 0]);
        assert_eq!(runtime.files("/run/fairway/other/leases").len(), 1);
    }

    fn gc_leaves_links_alone_whose_leases_are_kept_elsewhere() {
        let runtime = Runtime::new(dual_stack());
        let elsewhere = runtime.conf_with(&json!({ "name": "other", "runDir": "/run/lab/leases" }));
        runtime.sandbox("a");
        let link = host_end(&success(&runtime.call_with("ADD", "a", &elsewhere)));
        let nothing_valid = json!({ "cni.dev/valid-attachments": [] });

        success(&runtime.call_with("GC", "", &runtime.conf_with(&nothing_valid)));

        assert_eq!(traces(&runtime).links, [link]);
    }

    fn a_host_end_with_another_hardware_address_is_mended_and_deleted_all_the_same() {
        let runtime = Runtime::new(dual_stack());
        let result = runtime.add("a");
        let change = || {
            let name = host_end(&result);
            runtime.on_host(|kernel| async move {
                let index = index(&kernel, &name).await;
                kernel.set_mac(index, Mac([2, 9, 9, 9, 9, 9])).await.unwrap();
            });
        };

        change();
        assert_eq!(success(&runtime.call("ADD", "a")), result);
        change();
        success(&runtime.call("DEL", "a"));

        assert_eq!(traces(&runtime), Traces::default());
    }

    fn gc_goes_on_over_what_it_cannot_remove_and_tells_it() {
        let runtime = Runtime::new(dual_stack());
        runtime.add("gone");
        let stray = host_end(&runtime.add("stray"));
        runtime
            .host
            .run(|| {
                std::fs::remove_file("/run/fairway/pods/owners/stray@eth0").unwrap();
                std::fs::create_dir("/run/fairway/pods/leases/10.244.1.77").unwrap();
            })
            .unwrap();

        let (code, told) = failure(&runtime.call_with(
            "GC",
            "",
            &runtime.conf_with(&json!({ "cni.dev/valid-attachments": [] })),
        ));

        assert_eq!(code, 103);
        assert!(
            told.starts_with("keep the leases: remove /run/fairway/pods/leases/10.244.1.77"),
            "{told}"
        );
        assert!(!traces(&runtime).links.contains(&stray));
        assert_eq!(traces(&runtime), Traces::default());
    }

    fn one_link_of_a_container_belongs_to_one_network() {
        let runtime = Runtime::new(dual_stack());
        let first = addresses(&runtime.add("a"));
        let other = runtime.conf_with(&json!({ "name": "other", "ipam": { "subnet": "10.9.0.0/24" } }));

        let (code, told) = failure(&runtime.call_with("ADD", "a", &other));

        assert_eq!((code, told.contains("link eth0 in its namespace exists already")), (101, true), "{told}");
        assert_eq!(say(&runtime, None, "a", &first[0]).0, "hello", "the first is not harmed");
        assert_eq!(runtime.files("/run/fairway/other/leases"), [""; 0]);
    }

    fn ipv6_is_switched_on_where_a_runtime_left_it_off_and_forwarding_on_the_host() {
        let runtime = Runtime::new(dual_stack());
        runtime.sandbox("a");
        runtime.inside("a", || {
            for scope in ["all", "default"] {
                sysctl::set(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1").unwrap();
            }
        });
        runtime
            .host
            .run(|| {
                sysctl::set("net/ipv4/ip_forward", "0").unwrap();
                sysctl::set("net/ipv6/conf/all/forwarding", "0").unwrap();
            })
            .unwrap();

        success(&runtime.call("ADD", "a"));

        assert_eq!(say(&runtime, None, "a", "fd00:10:244:1::2").0, "hello");
        let forwarding = runtime.host.run(|| {
            [
                sysctl::read("net/ipv4/ip_forward").unwrap(),
                sysctl::read("net/ipv6/conf/all/forwarding").unwrap(),
            ]
        });
        assert_eq!(forwarding.unwrap(), ["1", "1"]);
    }

    fn a_route_whose_priority_is_the_kernel_s_default_is_found_again() {
        let runtime = Runtime::new(dual_stack());
        runtime.sandbox("a");
        let ipam = json!({
            "ranges": runtime.conf["ipam"]["ranges"],
            "routes": [
                { "dst": "0.0.0.0/0", "priority": 0, "mtu": 0 },
                { "dst": "::/0", "priority": 1024 },
                { "dst": "fd00::/16", "priority": 0 },
            ],
        });
        let conf = runtime.conf_with(&json!({ "ipam": ipam }));

        let result = success(&runtime.call_with("ADD", "a", &conf));

        let mut check = conf.clone();
        check["prevResult"] = result;
        success(&runtime.call_with("CHECK", "a", &check));
    }

    fn a_pod_whose_name_is_longer_than_a_link_s_alias_is_wired_all_the_same() {
        let runtime = Runtime::new(dual_stack());
        let long = "a".repeat(253);
        runtime.sandbox("a");

        let result = success(&runtime.call_as("ADD", "a", &format!("{}/{long}", "n".repeat(63))));

        let name = host_end(&result);
        let alias = runtime.on_host(|kernel| async move { kernel.link(&name).await.unwrap().alias.unwrap() });
        assert_eq!(alias.len(), 254);
        assert!(alias.starts_with(&format!("{}/aaa", "n".repeat(63))), "{alias}");
    }

    fn a_pod_cannot_pose_as_the_host_s_router() {
        let runtime = Runtime::new(dual_stack());
        runtime.sandbox("a");
        let v4 = runtime.conf_with(&json!({ "ipam": { "subnet": "10.244.1.0/24" } }));
        let result = success(&runtime.call_with("ADD", "a", &v4));

        let key = format!("net/ipv6/conf/{}/accept_ra", host_end(&result));

        assert_eq!(runtime.host.run(|| sysctl::read(&key).unwrap()).unwrap(), "0");
    }

    fn where_the_kernel_s_parameters_are_read_only_the_one_to_set_is_named() {
        let runtime = Runtime::new(dual_stack());
        runtime.sandbox("a");
        runtime
            .host
            .run(|| {
                sysctl::set("net/ipv4/ip_forward", "1").unwrap();
                sysctl::set("net/ipv6/conf/all/forwarding", "1").unwrap();
                let (proc, none) = ("/proc/sys", None::<&str>);
                mount(Some(proc), proc, none, MsFlags::MS_BIND, none).unwrap();
                let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
                mount(none, proc, none, read_only, none).unwrap();
            })
            .unwrap();

        let (code, told) = failure(&runtime.call("ADD", "a"));

        assert_eq!(code, 101);
        assert!(told.contains("sysctl -w net/ipv6/conf/default/accept_ra=0"), "{told}");
        assert_eq!(traces(&runtime), Traces::default());
    }

    fn a_host_that_starts_to_forward_still_listens_to_its_routers() {
        let runtime = Runtime::new(dual_stack());
        let other_pod = "fwaaaaaaaaaaaaa"; // by an ADD that has just begun
        runtime.on_host(|kernel| async move {
            kernel.add_veth(&end("uplink"), &end("quiet"), None).await.unwrap();
            kernel.add_veth(&end(other_pod), &end("peer"), None).await.unwrap();
        });
        let key = |link: &str| format!("net/ipv6/conf/{link}/accept_ra");
        runtime
            .host
            .run(|| {
                sysctl::set("net/ipv6/conf/all/forwarding", "0").unwrap();
                sysctl::set(&key("uplink"), "1").unwrap();
                sysctl::set(&key(other_pod), "1").unwrap();
                sysctl::set(&key("quiet"), "0").unwrap();
            })
            .unwrap();

        runtime.add("a");

        let accepted = runtime.host.run(|| ["uplink", "quiet", other_pod].map(|link| sysctl::read(&key(link)).unwrap()));
        assert_eq!(accepted.unwrap(), ["2", "0", "1"]);
    }

    fn a_pod_of_one_family_has_nothing_of_the_other() {
        let runtime = Runtime::new(dual_stack());
        let v6 = runtime.conf_with(&json!({ "ipam": { "subnet": "fd00:7::/120" } }));
        runtime.sandbox("a");
        runtime.host.run(|| sysctl::set("net/ipv4/ip_forward", "0").unwrap()).unwrap();

        let result = success(&runtime.call_with("ADD", "a", &v6));

        assert_eq!(addresses(&result), ["fd00:7::2"]);
        assert_eq!(result["routes"], json!([{ "dst": "::/0", "gw": "fd00:7::1" }]));
        assert_eq!(runtime.host.run(|| sysctl::read("net/ipv4/ip_forward").unwrap()).unwrap(), "0");
        assert_eq!(say(&runtime, None, "a", "fd00:7::2").1.to_string(), "fd00:7::1");
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

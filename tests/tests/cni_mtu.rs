//! Pods that are there follow the MTU that the daemon leaves for the plugin.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays the container runtime and the daemon"
)]

mod killed;
mod runtime;

use std::{fs, net::UdpSocket, os::unix::fs::symlink, thread};

use dataplane::{
    netns::Netns,
    owner,
    rtnl::{Mac, Routes, VethEnd},
};
use fairway_lab::wait;
use killed::{End, kill_before};
use runtime::{
    Runtime, addresses, dual_stack, success,
    traces::{PATIENCE, say},
};
use serde_json::{Value, json};

const NODE: &str = "/run/fairway/node.json";
const MARKER: &str = "/run/fairway/pods/mtu";

/// A call of the plugin.
type Call<'a> = &'a dyn Fn(&Runtime);

/// A host whose daemon says all that the configuration does not.
fn told_by_the_daemon(mtu: u32, more: &Value) -> Runtime {
    let runtime = Runtime::new(dual_stack());
    let conf = runtime.conf_with(&json!({ "ipam": null, "mtu": null }));
    let runtime = Runtime { conf, ..runtime };
    let conf = runtime.conf_with(more);
    let runtime = Runtime { conf, ..runtime };
    tell(&runtime, mtu);
    runtime
}

/// What the daemon does when the network's MTU is another.
fn tell(runtime: &Runtime, mtu: u32) {
    let node = json!({ "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"], "mtu": mtu }).to_string();
    let write = || {
        fs::write("/run/fairway/node.new", node).unwrap();
        fs::rename("/run/fairway/node.new", NODE).unwrap();
    };
    runtime.host.run(write).unwrap();
}

fn status(runtime: &Runtime) {
    success(&runtime.call("STATUS", ""));
}

fn marker(runtime: &Runtime) -> String {
    let read = || fs::read_to_string(MARKER).unwrap_or_default();
    runtime.host.run(read).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The MTU of a pod's link, on the host and in the pod.
fn ends(runtime: &Runtime, container: &str, result: &Value) -> [u32; 2] {
    let name = host_end(result);
    let host = runtime.on_host(|kernel| async move { kernel.link(&name).await.unwrap().mtu });
    [host, runtime.in_pod(container, |kernel| async move { kernel.link("eth0").await.unwrap().mtu })]
}

fn host_end(result: &Value) -> String {
    let links = result["interfaces"].as_array().unwrap().iter();
    let mut names = links.map(|link| link["name"].as_str().unwrap());
    names.find(|name| owner::is_host_end(name)).unwrap().to_owned()
}

fn set_pod_end(runtime: &Runtime, container: &str, mtu: u32) {
    runtime.in_pod(container, |kernel| async move {
        kernel.set_mtu(kernel.link("eth0").await.unwrap().index, mtu).await.unwrap();
    });
}

fn check(runtime: &Runtime, container: &str, result: &Value) {
    let conf = runtime.conf_with(&json!({ "prevResult": result }));
    success(&runtime.call_with("CHECK", container, &conf));
}

/// Sends a datagram that fills a packet of that size from one pod to another, and says how much of it came.
fn send(runtime: &Runtime, size: usize) -> usize {
    let (from, to) = ("10.244.1.2:0", "10.244.1.3:9");
    let receiver = runtime.inside("b", || UdpSocket::bind(to).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let sender = runtime.inside("a", || UdpSocket::bind(from).unwrap());
    sender.send_to(&vec![7; size - 28], to).unwrap();
    receiver.recv(&mut vec![0; 1 << 16]).unwrap() + 28
}

fn gc(runtime: &Runtime) {
    let valid = json!([{ "containerID": "a", "ifname": "eth0" }, { "containerID": "b", "ifname": "eth0" }]);
    success(&runtime.call_with("GC", "", &runtime.conf_with(&json!({ "cni.dev/valid-attachments": valid }))));
}

fairway_lab::sandbox_tests! {
    fn pods_that_are_there_get_a_larger_and_a_smaller_mtu_with_the_next_call() {
        let bridge = json!({ "mode": "bridge", "bridge": "br0", "isDefaultGateway": true });
        for shape in [json!({}), bridge] {
            let runtime = told_by_the_daemon(1450, &shape);
            let results = ["a", "b"].map(|container| runtime.add(container));
            let add_another = |runtime: &Runtime| drop(runtime.add("c"));
            let check_one = |runtime: &Runtime| check(runtime, "a", &results[0]);
            let calls: [(u32, Call<'_>); 6] = [
                (1500, &status), (1400, &add_another), (1410, &check_one), (1500, &gc), (1399, &status), (9000, &status),
            ];
            for (mtu, call) in calls {
                tell(&runtime, mtu);
                call(&runtime);

                assert_eq!(marker(&runtime), mtu.to_string());
                for (container, result) in ["a", "b"].iter().zip(&results) {
                    assert_eq!(ends(&runtime, container, result), [mtu; 2], "{container} of {shape}");
                    check(&runtime, container, result);
                }
                assert_eq!(send(&runtime, mtu.try_into().unwrap()), usize::try_from(mtu).unwrap());
            }
            if !shape["bridge"].is_null() {
                let bridge = runtime.on_host(|kernel| async move { kernel.link("br0").await.unwrap().mtu });
                assert_eq!(bridge, 9000, "the kernel has a bridge follow its ports");
            }
        }
    }

    fn the_same_add_leaves_a_link_that_is_to_get_another_mtu_in_its_place() {
        let runtime = told_by_the_daemon(1450, &json!({}));
        let result = runtime.add("a");
        let index = || runtime.in_pod("a", |kernel| async move { kernel.link("eth0").await.unwrap().index });
        let before = index();
        tell(&runtime, 1500);

        let again = success(&runtime.call("ADD", "a"));

        assert_eq!((index(), addresses(&again)), (before, addresses(&result)));
        assert_eq!(ends(&runtime, "a", &again), [1500; 2]);
    }

    fn routes_with_an_mtu_of_their_own_have_it_as_far_as_the_link_takes_it() {
        let routes = json!([{ "dst": "0.0.0.0/0", "mtu": 1440 }, { "dst": "::/0", "mtu": 1440 }, { "dst": "10.9.0.0/16" }, { "dst": "10.8.0.0/16", "mtu": 1300 }]);
        let runtime = told_by_the_daemon(1500, &json!({ "ipam": { "routes": routes } }));
        let result = runtime.add("a");
        let mtus = || {
            let mut mtus: Vec<_> = runtime.in_pod("a", |kernel| async move {
                let routes = kernel.routes(owner::ROUTE_PROTOCOL).await.unwrap();
                routes.into_iter().map(|route| (route.destination.to_string(), route.mtu)).collect()
            });
            mtus.retain(|(to, _)| !to.starts_with("10.244") && !to.starts_with("fd00"));
            mtus.sort();
            mtus.into_iter().map(|(_, mtu)| mtu).collect::<Vec<_>>() // 0.0.0.0/0, 10.8.0.0/16, 10.9.0.0/16, ::/0
        };

        for (mtu, expected) in [(1500, 1440), (1400, 1400), (1440, 1440), (1460, 1440), (1410, 1410), (1500, 1440)] {
            tell(&runtime, mtu);
            status(&runtime);

            assert_eq!(mtus(), [Some(expected), Some(1300), None, Some(expected)], "over {mtu}");
            check(&runtime, "a", &result);
        }
    }

    fn the_largest_packet_fits_in_the_bursts_of_a_limited_pod() {
        let limits = json!({ "ingressRate": 8_000_000, "ingressBurst": 800, "egressRate": 8_000_000, "egressBurst": 800 });
        let runtime = told_by_the_daemon(1450, &limits);
        let result = runtime.add("a");
        for mtu in [1500, 1400, 9000] {
            tell(&runtime, mtu);
            status(&runtime);

            check(&runtime, "a", &result);
            assert_eq!(ends(&runtime, "a", &result), [mtu; 2]);
        }
    }

    fn an_mtu_of_a_network_s_or_a_pod_s_own_stays() {
        let own = told_by_the_daemon(1450, &json!({ "mtu": 1420 }));
        let ranges = told_by_the_daemon(1450, &json!({ "ipam": { "subnet": "10.1.0.0/24" } }));
        for (runtime, mtu) in [(own, 1420), (ranges, 1500)] {
            let result = runtime.add("a");
            tell(&runtime, 1480);
            status(&runtime);
            assert_eq!((ends(&runtime, "a", &result), marker(&runtime)), ([mtu; 2], String::new()));
        }

        let runtime = told_by_the_daemon(1450, &json!({}));
        let mut results = ["a", "b"].map(|container| runtime.add(container));
        set_pod_end(&runtime, "a", 1300); // as a plugin after this one does
        results[0]["interfaces"][1]["mtu"] = json!(1300);
        for mtu in [1500, 1400] {
            tell(&runtime, mtu);
            status(&runtime);

            assert_eq!(ends(&runtime, "a", &results[0]), [1450, 1300]);
            assert_eq!(ends(&runtime, "b", &results[1]), [mtu; 2]);
            for (container, result) in ["a", "b"].iter().zip(&results) {
                check(&runtime, container, result);
            }
        }
    }

    fn what_cannot_be_is_not_tried() {
        let runtime = told_by_the_daemon(1450, &json!({}));
        let result = runtime.add("a");
        tell(&runtime, 1200);

        status(&runtime);

        assert_eq!(ends(&runtime, "a", &result), [1450; 2], "IPv6 needs 1280 bytes");
        let address = &addresses(&result)[1];
        assert_eq!(say(&runtime, None, "a", address).0, "hello");
    }

    fn a_namespace_that_is_gone_or_another_s_by_now_is_left_alone() {
        let runtime = told_by_the_daemon(1450, &json!({}));
        let results = ["a", "b", "c"].map(|container| runtime.add(container));
        runtime.host.remove_netns("a").unwrap();
        let kept = runtime.host.run(|| Netns::open("/run/netns/b").unwrap()).unwrap();
        runtime.host.remove_netns("b").unwrap();
        runtime.sandbox("b");
        runtime.in_pod("b", |kernel| async move {
            let end = |name: &str, last| VethEnd { name: name.to_owned(), mac: Mac([2, 0, 0, 0, 0, last]), mtu: 1450 };
            kernel.add_veth(&end("eth0", 1), &end("eth1", 2), None).await.unwrap();
        });
        tell(&runtime, 1500);

        status(&runtime);

        assert_eq!(ends(&runtime, "c", &results[2]), [1500; 2]);
        assert_eq!(ends(&runtime, "b", &results[1]), [1450; 2]);
        assert_eq!(marker(&runtime), "1500");
        drop(kept);
    }

    fn a_pod_that_fails_keeps_no_other_from_it_and_is_tried_again() {
        let runtime = told_by_the_daemon(1450, &json!({}));
        let results = ["a", "b", "c"].map(|container| runtime.add(container));
        let record = "/run/fairway/pods/owners/b@eth0";
        let lead = |to: &str| {
            let _ = fs::remove_file("/run/lab/b");
            symlink(to, "/run/lab/b").unwrap();
        };
        runtime
            .host
            .run(|| {
                lead("/run/lab/b"); // to itself: nobody can tell what is there
                let text = fs::read_to_string(record).unwrap();
                fs::write(record, text.replace("/run/netns/b", "/run/lab/b")).unwrap();
            })
            .unwrap();
        for mtu in [1500, 1400] {
            tell(&runtime, mtu);
            status(&runtime);
            for (container, result) in [("a", &results[0]), ("c", &results[2])] {
                assert_eq!(ends(&runtime, container, result), [mtu; 2]);
            }
            assert_eq!(ends(&runtime, "b", &results[1]), [1450; 2]);
        }
        assert_eq!(marker(&runtime), "1400 1450 1500");

        runtime.host.run(|| lead("/run/netns/b")).unwrap();
        status(&runtime);

        assert_eq!((ends(&runtime, "b", &results[1]), marker(&runtime)), ([1400; 2], "1400".to_owned()));
    }

    fn a_pod_that_another_call_is_about_is_brought_along_when_that_is_over() {
        let runtime = told_by_the_daemon(1450, &json!({}));
        let results = ["a", "b"].map(|container| runtime.add(container));
        let held = runtime.host.run(|| Netns::open("/run/netns/a").unwrap()).unwrap();
        held.hold().unwrap();
        tell(&runtime, 1500);

        status(&runtime);
        assert_eq!((ends(&runtime, "a", &results[0]), ends(&runtime, "b", &results[1])), ([1450; 2], [1500; 2]));
        drop(held);
        status(&runtime);

        assert_eq!((ends(&runtime, "a", &results[0]), marker(&runtime)), ([1500; 2], "1500".to_owned()));
    }

    fn a_pod_that_is_made_while_the_mtu_changes_has_the_new_one() {
        for mtu in [1350, 1500] {
            let runtime = told_by_the_daemon(1450, &json!({}));
            runtime.sandbox("a");
            let held = runtime.host.run(|| Netns::open("/run/netns/a").unwrap()).unwrap();
            held.hold().unwrap();

            let result = thread::scope(|scope| {
                let added = scope.spawn(|| success(&runtime.call("ADD", "a")));
                wait::until("ADD to have read the MTU", || match marker(&runtime).as_str() {
                    "1450" => Ok(()),
                    other => Err(other.to_owned()),
                })
                .unwrap();
                tell(&runtime, mtu);
                status(&runtime);
                assert_eq!(marker(&runtime), mtu.to_string(), "there is no pod yet");
                drop(held);
                added.join().unwrap()
            });

            assert_eq!((ends(&runtime, "a", &result), marker(&runtime)), ([mtu; 2], mtu.to_string()));
            check(&runtime, "a", &result);
        }
    }

    fn many_calls_at_once_bring_pods_to_the_last_mtu() {
        let runtime = told_by_the_daemon(1450, &json!({}));
        let results = ["a", "b", "c", "d"].map(|container| runtime.add(container));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10).for_each(|_| status(&runtime)));
            }
            (1400..1440).for_each(|mtu| tell(&runtime, mtu));
        });

        status(&runtime);

        assert_eq!(marker(&runtime), "1439");
        for (container, result) in ["a", "b", "c", "d"].iter().zip(&results) {
            assert_eq!(ends(&runtime, container, result), [1439; 2]);
        }
    }

    fn a_call_that_is_killed_while_it_brings_pods_along_is_finished_by_the_next() {
        let runtime = told_by_the_daemon(1450, &json!({ "ingressRate": 8_000_000, "ingressBurst": 800, "egressRate": 8_000_000, "egressBurst": 800 }));
        let results = ["a", "b"].map(|container| runtime.add(container));
        let mut with_traces = 0;
        for step in 1.. {
            assert!(step < 500);
            let mtu = if step % 2 == 0 { 1400 } else { 1500 };
            tell(&runtime, mtu);
            let end = kill_before(&runtime, step, "STATUS", "a", &runtime.conf);
            let seen = [ends(&runtime, "a", &results[0]), ends(&runtime, "b", &results[1])];
            with_traces += usize::from(seen != [[mtu; 2]; 2] && marker(&runtime).contains(' '));

            status(&runtime);

            assert_eq!(marker(&runtime), mtu.to_string(), "killed before its change {step}");
            for (container, result) in ["a", "b"].iter().zip(&results) {
                assert_eq!(ends(&runtime, container, result), [mtu; 2], "killed before its change {step}");
                check(&runtime, container, result); // looks at the bursts, too
            }
            if end == End::Finished(0) {
                break;
            }
        }
        assert!(with_traces > 5, "{with_traces}");
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

//! Pods plugged into a bridge by the plugin, with real packets.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays the container runtime"
)]

mod runtime;

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use dataplane::{
    rtnl::{Address, Bridge, Kernel, Link, Mac, Port, Route, Routes, Uniqueness, VethEnd},
    sysctl,
};
use runtime::{
    Runtime, addresses, dual_stack, failure, success,
    traces::{say, traces},
};
use serde_json::{Value, json};

/// Long enough for a neighbour to be asked for three times and an answer to be missed.
const IN_VAIN: Duration = Duration::from_secs(1);

/// Two families over `br0`, which is the pods' gateway to everywhere, and more keys.
fn bridged(more: &Value) -> Runtime {
    let mut runtime = Runtime::new(dual_stack());
    runtime.conf = runtime.conf_with(&json!({ "mode": "bridge", "bridge": "br0", "isDefaultGateway": true }));
    runtime.conf = runtime.conf_with(more);
    runtime
}

fn link(runtime: &Runtime, name: &str) -> Option<Link> {
    let name = name.to_owned();
    runtime.on_host(|kernel| async move { kernel.link(&name).await.ok() })
}

fn host_end(result: &Value) -> String {
    result["interfaces"][1]["name"].as_str().unwrap().to_owned()
}

/// The addresses of a link of the host that were not made by the kernel.
fn addresses_of(runtime: &Runtime, name: &str) -> BTreeSet<String> {
    let index = link(runtime, name).unwrap().index;
    let all = runtime.on_host(|kernel| async move { kernel.addresses().await.unwrap() });
    let own = all.iter().filter(|own| own.link == index).map(|own| own.network.to_string());
    own.filter(|own| !own.starts_with("fe80")).collect()
}

/// Says whether a connection from one pod to an address is made.
fn reaches(runtime: &Runtime, from: &str, to: &str, address: &str) -> bool {
    let address = SocketAddr::new(address.parse().unwrap(), 81);
    let _listener = runtime.inside(to, || TcpListener::bind(address).unwrap());
    runtime.inside(from, || TcpStream::connect_timeout(&address, IN_VAIN).is_ok())
}

/// Says whether the node is reached from a pod.
fn reaches_node(runtime: &Runtime, from: &str) -> bool {
    let address = "10.244.1.1:81".parse().unwrap();
    let _listener = runtime.host.run(|| TcpListener::bind(address).unwrap()).unwrap();
    runtime.inside(from, || TcpStream::connect_timeout(&address, IN_VAIN).is_ok())
}

async fn set_mac(kernel: &Kernel, name: &str, mac: Mac) {
    let index = kernel.link(name).await.unwrap().index;
    kernel.set_mac(index, mac).await.unwrap();
}

fairway_lab::sandbox_tests! {
    fn pods_on_a_bridge_and_their_node_talk_in_both_families() {
        let runtime = bridged(&json!({}));
        let (a, b) = (addresses(&runtime.add("a")), addresses(&runtime.add("b")));

        for family in 0..2 {
            let (heard, from) = say(&runtime, Some("a"), "b", &b[family]);
            assert_eq!((heard.as_str(), from.to_string()), ("hello", a[family].clone()));
        }
        for (address, gateway) in b.iter().zip(["10.244.1.1", "fd00:10:244:1::1"]) {
            assert_eq!(say(&runtime, None, "b", address).1.to_string(), gateway);
            assert_eq!(&say(&runtime, Some("b"), "b", address).1.to_string(), address);
        }
        assert!(reaches_node(&runtime, "a"));
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            assert_eq!(runtime.host.run(|| sysctl::read(key).unwrap()).unwrap(), "1");
        }
    }

    fn the_result_of_a_bridge_is_what_the_kernel_has() {
        let runtime = bridged(&json!({}));
        let result = runtime.add("web");

        let host = link(&runtime, &host_end(&result)).unwrap();
        let bridge = link(&runtime, "br0").unwrap();
        let pod = runtime.in_pod("web", |kernel| async move { kernel.link("eth0").await.unwrap() });
        let mac = |link: &Link| link.mac.unwrap().to_string();
        assert_eq!((host.master, host.is_forwarding, pod.mtu), (Some(bridge.index), true, 1450));
        assert!(bridge.is_bridge() && bridge.is_up);
        assert_eq!(addresses_of(&runtime, "br0"), BTreeSet::from(["10.244.1.1/24".into(), "fd00:10:244:1::1/64".into()]));
        assert_eq!(addresses_of(&runtime, &host.name), BTreeSet::new());
        let expected = json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                { "name": "br0", "mac": mac(&bridge), "mtu": 1450 },
                { "name": host.name, "mac": mac(&host), "mtu": 1450 },
                { "name": "eth0", "mac": mac(&pod), "mtu": 1450, "sandbox": "/run/netns/web" },
            ],
            "ips": [
                { "address": "10.244.1.2/24", "gateway": "10.244.1.1", "interface": 2 },
                { "address": "fd00:10:244:1::2/64", "gateway": "fd00:10:244:1::1", "interface": 2 },
            ],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "10.244.1.1" }, { "dst": "::/0", "gw": "fd00:10:244:1::1" }],
        });
        assert_eq!(result, expected);
        assert_eq!(success(&runtime.call("ADD", "web")), result, "once more");
    }

    fn called_as_bridge_it_is_one_of_the_reference_plugin_s_name() {
        let runtime = bridged(&json!({ "mode": null, "type": "bridge", "bridge": null }));
        let result = runtime.add("a");

        assert_eq!(result["interfaces"][0]["name"], "cni0");
        assert_eq!(say(&runtime, None, "a", "10.244.1.2").0, "hello");
    }

    fn del_leaves_the_bridge_and_the_other_pods_on_it() {
        let runtime = bridged(&json!({}));
        runtime.add("a");
        let b = addresses(&runtime.add("b"));
        let bridge = link(&runtime, "br0").unwrap();

        for container in ["a", "a", "never-there"] {
            success(&runtime.call("DEL", container));
        }

        assert_eq!(traces(&runtime).links.len(), 2, "the bridge and b's host end");
        assert_eq!(link(&runtime, "br0").unwrap().mac, bridge.mac, "it keeps its hardware address");
        assert_eq!(say(&runtime, None, "b", &b[0]).0, "hello");

        success(&runtime.call("DEL", "b"));
        assert_eq!((traces(&runtime).links, runtime.leases()), (vec!["br0".to_owned()], vec![]));
    }

    fn of_many_adds_at_once_one_makes_the_bridge_and_all_are_plugged_in() {
        let runtime = bridged(&json!({}));
        let containers: Vec<String> = (0..12).map(|i| format!("c{i}")).collect();
        for container in &containers {
            runtime.sandbox(container);
        }

        let results: Vec<Value> = thread::scope(|scope| {
            let calls = containers.iter().map(|c| scope.spawn(|| success(&runtime.exec("ADD", c))));
            let calls: Vec<_> = calls.collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });

        let distinct: BTreeSet<String> = results.iter().flat_map(addresses).collect();
        assert_eq!(distinct.len(), 24);
        let bridges: BTreeSet<String> = results.iter().map(|result| result["interfaces"][0].to_string()).collect();
        assert_eq!(bridges.len(), 1, "{bridges:?}");
        assert_eq!(addresses_of(&runtime, "br0").len(), 2);
        for (container, result) in containers.iter().zip(&results) {
            assert_eq!(say(&runtime, None, container, &addresses(result)[0]).0, "hello");
        }
    }

    fn isolated_pods_reach_the_node_and_not_each_other() {
        let runtime = bridged(&json!({ "portIsolation": true }));
        runtime.add("a");
        let b = addresses(&runtime.add("b"));
        assert!(reaches_node(&runtime, "a"));
        assert!(!reaches(&runtime, "a", "b", &b[0]));

        runtime.sandbox("open");
        success(&runtime.call_with("ADD", "open", &runtime.conf_with(&json!({ "portIsolation": false }))));
        assert!(reaches(&runtime, "open", "b", &b[0]), "one that is not isolated is reached");
    }

    fn a_pod_that_takes_another_hardware_address_is_not_let_in() {
        let runtime = bridged(&json!({ "macspoofchk": true }));
        let own = runtime.add("a")["interfaces"][2]["mac"].as_str().unwrap().parse().unwrap();
        let victim: Mac = runtime.add("b")["interfaces"][2]["mac"].as_str().unwrap().parse().unwrap();
        assert!(reaches_node(&runtime, "a"));
        assert!(reaches(&runtime, "a", "b", "10.244.1.3"));

        for stolen in [Mac([2, 6, 6, 6, 6, 6]), victim] {
            runtime.in_pod("a", |kernel| async move { set_mac(&kernel, "eth0", stolen).await });
            assert!(!reaches_node(&runtime, "a"), "{stolen}");
            assert_eq!(say(&runtime, None, "b", "10.244.1.3").0, "hello", "the other's is still its own");
        }

        runtime.in_pod("a", |kernel| async move { set_mac(&kernel, "eth0", own).await });
        assert!(reaches_node(&runtime, "a"));
    }

    fn without_the_check_a_pod_may_take_another_hardware_address() {
        let runtime = bridged(&json!({}));
        runtime.add("a");
        runtime.in_pod("a", |kernel| async move { set_mac(&kernel, "eth0", Mac([2, 6, 6, 6, 6, 6])).await });
        assert!(reaches_node(&runtime, "a"));
    }

    fn hairpin_and_promiscuous_are_set_where_they_are_asked_for() {
        let runtime = bridged(&json!({ "hairpinMode": true }));
        let port = link(&runtime, &host_end(&runtime.add("a"))).unwrap().port;
        assert_eq!(port, Some(Port { hairpin: true, ..Port::default() }));
        assert!(!link(&runtime, "br0").unwrap().is_promiscuous);

        let runtime = bridged(&json!({ "promiscMode": true }));
        let port = link(&runtime, &host_end(&runtime.add("a"))).unwrap().port;
        assert_eq!(port, Some(Port::default()));
        assert!(link(&runtime, "br0").unwrap().is_promiscuous);
    }

    fn a_switch_joins_pods_and_leaves_the_node_out() {
        let runtime = bridged(&json!({ "isDefaultGateway": null }));
        runtime.host.run(|| sysctl::set("net/ipv4/ip_forward", "0").unwrap()).unwrap();
        let (a, b) = (runtime.add("a"), addresses(&runtime.add("b")));

        assert_eq!(a["routes"], json!([]));
        assert_eq!(addresses_of(&runtime, "br0"), BTreeSet::new());
        assert_eq!(say(&runtime, Some("a"), "b", &b[0]).0, "hello");
        assert_eq!(say(&runtime, Some("a"), "b", &b[1]).0, "hello");
        assert_eq!(runtime.host.run(|| sysctl::read("net/ipv4/ip_forward").unwrap()).unwrap(), "0");
    }

    fn a_bridge_has_the_gateway_of_every_range_that_pods_are_of() {
        let ranges = json!({ "ranges": [[{ "subnet": "10.1.0.0/30" }, { "subnet": "10.2.0.0/24" }]] });
        let runtime = bridged(&json!({ "ipam": ranges }));
        runtime.add("a");
        let b = addresses(&runtime.add("b"));

        assert_eq!(b, ["10.2.0.2"]);
        assert_eq!(addresses_of(&runtime, "br0"), BTreeSet::from(["10.1.0.1/30".into(), "10.2.0.1/24".into()]));
        assert_eq!(say(&runtime, Some("a"), "b", &b[0]).0, "hello", "by way of the node");
    }

    fn an_address_that_overlaps_is_an_error_unless_ours_is_to_take_over() {
        let runtime = bridged(&json!({}));
        runtime.on_host(|kernel| async move {
            kernel.add_bridge(&Bridge::named("br0")).await.unwrap();
            let index = kernel.link("br0").await.unwrap().index;
            for other in ["10.244.0.1/16", "10.7.0.1/24"] {
                kernel.add_address(&Address::bare(index, other.parse().unwrap())).await.unwrap();
            }
        });
        runtime.sandbox("a");

        assert_eq!(
            failure(&runtime.call("ADD", "a")),
            (
                101,
                "pod default/a: bridge br0 has address 10.244.0.1/16, which overlaps 10.244.1.1/24: remove it, \
                 set forceAddress, or choose another bridge"
                    .to_owned()
            )
        );
        assert_eq!((traces(&runtime).links, runtime.leases()), (vec!["br0".to_owned()], vec![]));

        let force = runtime.conf_with(&json!({ "forceAddress": true }));
        success(&runtime.call_with("ADD", "a", &force));
        let expected = ["10.7.0.1/24", "10.244.1.1/24", "fd00:10:244:1::1/64"].map(str::to_owned);
        assert_eq!(addresses_of(&runtime, "br0"), BTreeSet::from(expected));
        assert!(reaches_node(&runtime, "a"));
    }

    fn a_link_of_that_name_that_is_no_bridge_is_left_alone() {
        let runtime = bridged(&json!({}));
        let end = |name: &str| VethEnd { name: name.to_owned(), mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500 };
        let (one, other) = (end("br0"), end("x"));
        runtime.on_host(|kernel| async move { kernel.add_veth(&one, &other, None).await.unwrap() });
        runtime.sandbox("a");

        assert_eq!(
            failure(&runtime.call("ADD", "a")),
            (101, "pod default/a: link br0 on the host is there and no bridge: choose another name for bridge".to_owned())
        );
        assert_eq!(traces(&runtime).leases, [""; 0]);
    }

    fn pods_cannot_pose_as_a_router_to_the_node_over_a_bridge_of_ours() {
        let runtime = bridged(&json!({}));
        let accepted = |bridge: &str| {
            let key = format!("net/ipv6/conf/{bridge}/accept_ra");
            runtime.host.run(|| sysctl::read(&key).unwrap()).unwrap()
        };
        runtime.on_host(|kernel| async move { kernel.add_bridge(&Bridge::named("theirs")).await.unwrap() });
        runtime.host.run(|| sysctl::set("net/ipv6/conf/theirs/accept_ra", "2").unwrap()).unwrap();

        runtime.add("a");
        runtime.sandbox("b");
        success(&runtime.call_with("ADD", "b", &runtime.conf_with(&json!({
            "name": "other", "bridge": "theirs", "ipam": { "subnet": "fd00:7::/64" },
        }))));

        assert_eq!((accepted("br0").as_str(), accepted("theirs").as_str()), ("0", "2"));
    }

    fn check_names_all_that_has_been_altered_of_a_bridge_and_a_port() {
        let runtime = bridged(&json!({ "portIsolation": true, "macspoofchk": true }));
        let result = runtime.add("a");
        let (host, br0) = (link(&runtime, &host_end(&result)).unwrap(), link(&runtime, "br0").unwrap());
        let check = || runtime.call_with("CHECK", "a", &runtime.conf_with(&json!({ "prevResult": result })));
        let told_after = |alter: &str| {
            let (code, told) = failure(&check());
            assert_eq!(code, 102, "{alter}");
            told.strip_prefix("pod default/a: ").unwrap().replace(&host.name, "HOST")
        };
        success(&check());

        runtime.on_host(|kernel| async move {
            kernel.set_port(host.index, Port { hairpin: true, ..Port::default() }).await.unwrap();
        });
        assert_eq!(
            told_after("its settings"),
            "link HOST on the host has hairpinMode true, not false; link HOST on the host has portIsolation false, \
             not true; link HOST on the host has macspoofchk false, not true"
        );

        runtime.on_host(|kernel| async move {
            kernel.set_port(host.index, host.port.unwrap()).await.unwrap();
            let gateway = Address::bare(br0.index, "10.244.1.1/24".parse().unwrap());
            kernel.delete_address(&gateway).await.unwrap();
            kernel.set_up(br0.index, false).await.unwrap();
        });
        let told = told_after("the bridge");
        assert!(told.starts_with("bridge br0 on the host is down; address 10.244.1.1/24 on the host is missing"), "{told}");

        runtime.on_host(|kernel| async move {
            kernel.set_master(host.index, None).await.unwrap();
            kernel.set_mtu(host.index, 1400).await.unwrap();
        });
        let told = told_after("the port");
        assert!(told.contains("link HOST on the host has MTU 1400, not 1450"), "{told}");
        assert!(told.contains("link HOST on the host is not plugged into bridge br0"), "{told}");

        assert_eq!(success(&runtime.call("ADD", "a")), result, "the same ADD mends all of it");
        success(&check());
        assert!(reaches_node(&runtime, "a"));

        runtime.in_pod("a", |kernel| async move {
            let eth0 = kernel.link("eth0").await.unwrap().index;
            let default = Route::through("0.0.0.0/0".parse().unwrap(), "10.244.1.1".parse().unwrap(), eth0);
            kernel.delete_route(&default).await.unwrap();
            kernel.delete_address(&Address::bare(eth0, "fd00:10:244:1::2/64".parse().unwrap())).await.unwrap();
        });
        let told = told_after("the pod");
        assert!(told.contains("address fd00:10:244:1::2/64 in its namespace is missing"), "{told}");
        assert!(told.contains("route 0.0.0.0/0 via 10.244.1.1"), "{told}");

        runtime.on_host(|kernel| async move { kernel.delete_link(br0.index).await.unwrap() });
        assert!(told_after("all").contains("bridge br0 on the host is missing"));
        assert_eq!(success(&runtime.call("ADD", "a"))["ips"], result["ips"]);
        assert!(reaches_node(&runtime, "a"));
    }

    fn check_notices_that_the_node_does_not_forward_any_more() {
        for conf in [dual_stack(), bridged(&json!({})).conf] {
            let runtime = Runtime::new(conf);
            let result = runtime.add("a");
            runtime.host.run(|| sysctl::set("net/ipv4/ip_forward", "0").unwrap()).unwrap();

            let check = runtime.call_with("CHECK", "a", &runtime.conf_with(&json!({ "prevResult": result })));
            assert_eq!(failure(&check), (102, "pod default/a: sysctl net/ipv4/ip_forward on the host is 0".to_owned()));
        }
    }

    fn a_pod_whose_address_another_on_the_bridge_has_is_told_so_where_it_looks() {
        let runtime = bridged(&json!({ "enabledad": true }));
        runtime.add("a");
        let next = "fd00:10:244:1::3/64".parse().unwrap();
        runtime.in_pod("a", |kernel| async move {
            let index = kernel.link("eth0").await.unwrap().index;
            kernel.add_address(&Address::bare(index, next)).await.unwrap();
        });
        runtime.sandbox("b");

        let told = "pod default/b: address fd00:10:244:1::3 is in use by another on the bridge (enabledad)";
        assert_eq!(failure(&runtime.call("ADD", "b")), (101, told.to_owned()));

        let result = success(&runtime.call("ADD", "b"));
        assert_eq!(addresses(&result)[1], "fd00:10:244:1::4");
        let unique = runtime.in_pod("b", |kernel| async move {
            let index = kernel.link("eth0").await.unwrap().index;
            kernel.uniqueness(index).await.unwrap()
        });
        assert!(unique.contains(&("fd00:10:244:1::4".parse().unwrap(), Uniqueness::Taken)), "{unique:?}");
        success(&runtime.call_with("CHECK", "b", &runtime.conf_with(&json!({ "prevResult": result }))));
    }

    fn a_hardware_address_that_is_asked_for_is_given() {
        for conf in [dual_stack(), bridged(&json!({})).conf] {
            let runtime = Runtime::new(conf);
            let mac_of = |container: &str| {
                let eth0 = runtime.in_pod(container, |kernel| async move { kernel.link("eth0").await.unwrap() });
                eth0.mac.unwrap().to_string()
            };
            runtime.sandbox("a");
            let wish = runtime.conf_with(&json!({ "runtimeConfig": { "mac": "02:11:22:33:44:55" } }));
            let result = success(&runtime.call_with("ADD", "a", &wish));
            assert_eq!(mac_of("a"), "02:11:22:33:44:55");
            success(&runtime.call_with("CHECK", "a", &runtime.conf_with(&json!({ "prevResult": result }))));

            runtime.sandbox("b");
            success(&runtime.call_given("ADD", "b", "MAC=02:11:22:33:44:66"));
            assert_eq!(mac_of("b"), "02:11:22:33:44:66");
            assert_eq!(say(&runtime, Some("a"), "b", "10.244.1.3").0, "hello");

            let (code, told) = failure(&runtime.call_given("ADD", "c", "MAC=01:00:5e:00:00:01"));
            assert_eq!(code, 4, "{told}");
        }
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

//! The plugin beside others: as `loopback`, and in a chain of plugins, before and after those that Debian packages.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays the container runtime"
)]

mod chain;
mod runtime;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use chain::{Chain, is_installed};
use dataplane::{
    rtnl::{Bridge, Kernel, LOOPBACK},
    sysctl,
};
use fairway_lab::binaries;
use runtime::{
    Runtime, addresses, dual_stack, failure, success,
    traces::{Traces, say, traces},
};
use serde_json::{Value, json};

/// A configuration as containerd passes it for the loopback link.
fn loopback(version: &str) -> Value {
    json!({ "cniVersion": version, "name": "cni-loopback", "type": "loopback" })
}

fn is_loopback_up(runtime: &Runtime, container: &str) -> bool {
    runtime.in_pod(container, |kernel| async move { kernel.link_by_index(LOOPBACK).await.unwrap().is_up })
}

fairway_lab::sandbox_tests! {
    fn as_loopback_it_sets_lo_up_and_down_and_says_what_lo_has() {
        let runtime = Runtime::new(loopback("1.0.0"));
        runtime.sandbox("a");
        assert!(!is_loopback_up(&runtime, "a"));

        let result = success(&runtime.call("ADD", "a"));

        assert!(is_loopback_up(&runtime, "a"));
        assert_eq!(
            result,
            json!({
                "cniVersion": "1.0.0",
                "interfaces": [{ "name": "lo", "mac": "00:00:00:00:00:00", "sandbox": "/run/netns/a" }],
                "ips": [{ "interface": 0, "address": "127.0.0.1/8" }, { "interface": 0, "address": "::1/128" }],
                "routes": [],
            })
        );
        assert_eq!(success(&runtime.call("ADD", "a")), result, "once more");
        assert_eq!(say(&runtime, Some("a"), "a", "127.0.0.1").0, "hello");
        assert_eq!(say(&runtime, Some("a"), "a", "::1").0, "hello");

        for _ in 0..2 {
            assert_eq!(success(&runtime.call("DEL", "a")), Value::Null);
            assert!(!is_loopback_up(&runtime, "a"));
        }
        assert_eq!(runtime.files("/run/fairway"), [""; 0]);
    }

    fn as_loopback_it_needs_no_namespace_to_delete_and_never_touches_the_host_s() {
        let runtime = Runtime::new(loopback("1.1.0"));
        runtime.on_host(|kernel| async move { kernel.set_up(LOOPBACK, true).await.unwrap() });

        for netns in ["", "/run/netns/gone", "/proc/thread-self/ns/net"] {
            success(&runtime.call_in("DEL", "a", netns, &runtime.conf));
        }

        let host = runtime.on_host(|kernel| async move { kernel.link_by_index(LOOPBACK).await.unwrap() });
        assert!(host.is_up);
        let (code, told) = failure(&runtime.call_in("ADD", "a", "/proc/thread-self/ns/net", &runtime.conf));
        assert_eq!(code, 8, "{told}");
    }

    fn as_loopback_it_checks_that_lo_is_up_with_its_addresses() {
        let runtime = Runtime::new(loopback("1.1.0"));
        runtime.sandbox("a");
        let result = success(&runtime.call("ADD", "a"));
        let conf = runtime.conf_with(&json!({ "prevResult": result }));
        success(&runtime.call_with("CHECK", "a", &conf));

        runtime.inside("a", || sysctl::set("net/ipv6/conf/lo/disable_ipv6", "1").unwrap());
        assert_eq!(
            failure(&runtime.call_with("CHECK", "a", &conf)),
            (102, "pod default/a: address ::1/128 in its namespace is missing".to_owned())
        );

        runtime.in_pod("a", |kernel| async move { kernel.set_up(LOOPBACK, false).await.unwrap() });
        let (code, told) = failure(&runtime.call_with("CHECK", "a", &conf));
        assert_eq!(code, 102);
        assert!(told.starts_with("pod default/a: link lo in its namespace is down"), "{told}");
        assert_eq!(failure(&runtime.call("CHECK", "a")).0, 7, "without prevResult");
    }

    fn as_loopback_it_has_nothing_to_collect_and_is_always_ready() {
        let runtime = Runtime::new(loopback("1.1.0"));
        let conf = runtime.conf_with(&json!({ "cni.dev/valid-attachments": [] }));
        for verb in ["GC", "STATUS"] {
            assert_eq!(success(&runtime.call_with(verb, "", &conf)), Value::Null);
            assert_eq!(failure(&runtime.call_with(verb, "", &loopback("1.0.0"))).0, 1);
        }
    }

    fn what_loopback_is_given_it_passes_on() {
        let runtime = Runtime::new(dual_stack());
        let result = runtime.add("a");
        let mut conf = loopback("1.1.0");
        conf["prevResult"] = result.clone();

        assert_eq!(success(&runtime.call_with("ADD", "a", &conf)), result);
    }

    fn lists_that_an_earlier_plugin_never_made_are_empty() {
        let runtime = Runtime::new(dual_stack());
        runtime.sandbox("a");
        let earlier = json!({ "cniVersion": "1.1.0", "interfaces": null, "ips": null, "routes": null, "dns": null });

        let result = success(&runtime.call_with("ADD", "a", &runtime.conf_with(&json!({ "prevResult": earlier }))));

        assert_eq!(addresses(&result), ["10.244.1.2", "fd00:10:244:1::2"]);
        assert_eq!(result["ips"][0]["interface"], 1);
    }
    fn debian_s_portmap_leads_a_host_port_to_our_pod() {
        if !is_installed("portmap") {
            return;
        }
        let runtime = Runtime::new(versioned("1.0.0"));
        let chain = Chain::of([
            runtime.conf.clone(),
            json!({
                "type": "portmap",
                "snat": true,
                "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] },
            }),
        ]);
        runtime.sandbox("web");
        runtime.sandbox("client");
        let result = chain.add(&runtime, "web");
        success(&runtime.call("ADD", "client"));
        assert_eq!(addresses(&result), ["10.244.1.2", "fd00:10:244:1::2"]);

        let listener = runtime.inside("web", || TcpListener::bind("10.244.1.2:80").unwrap());
        let mut client = runtime.inside("client", || TcpStream::connect("10.244.1.1:8080").unwrap());
        client.write_all(b"hello").unwrap();
        drop(client);
        let mut heard = String::new();
        listener.accept().unwrap().0.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "hello");

        chain.check_at(0, &runtime, "web", &result); // portmap 1.1.1 looks for rules of IPv4 among those of IPv6
        chain.del(&runtime, "web", &result);
        chain.del(&runtime, "web", &result);
        success(&runtime.call("DEL", "client"));
        assert_eq!(traces(&runtime), Traces::default());
    }

    fn a_configuration_of_debian_s_bridge_and_host_local_needs_no_change() {
        if !is_installed("bridge") || !is_installed("host-local") {
            return;
        }
        let mut runtime = Runtime::new(json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "type": "bridge",
            "bridge": "cni0",
            "isDefaultGateway": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/fairway/host-local",
                "ranges": [[{ "subnet": "10.244.1.0/24" }], [{ "subnet": "fd00:10:244:1::/64" }]],
                "routes": [{ "dst": "10.9.0.0/16", "gw": "10.244.1.77" }],
            },
        }));
        "/usr/lib/cni".clone_into(&mut runtime.path);
        runtime.sandbox("theirs");
        let theirs = Chain::of([runtime.conf.clone()]).add(&runtime, "theirs");

        let ours = runtime.add("ours");

        let shape = |result: &Value| {
            let ips = result["ips"].as_array().unwrap().iter();
            let ips: Vec<Value> = ips.map(|ip| json!([ip["gateway"], ip["interface"]])).collect();
            (ips, result["interfaces"].as_array().unwrap().len())
        };
        assert_eq!(shape(&ours), shape(&theirs));
        let routes = |result: &Value| result["routes"].as_array().unwrap().clone();
        for route in routes(&theirs) {
            assert!(routes(&ours).contains(&route), "{route} in {ours}");
        }
        let (ours, theirs) = (addresses(&ours), addresses(&theirs));
        assert_eq!(say(&runtime, Some("theirs"), "ours", &ours[0]).1.to_string(), theirs[0], "on one bridge");
        assert_eq!(say(&runtime, Some("ours"), "theirs", &theirs[1]).1.to_string(), ours[1]);
        success(&runtime.call("DEL", "ours"));
    }

    fn debian_s_bandwidth_limits_our_host_end_and_both_find_what_they_made() {
        if !is_installed("bandwidth") {
            return;
        }
        let runtime = Runtime::new(versioned("1.0.0"));
        let rates = json!({ "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000 });
        let chain =
            Chain::of([runtime.conf.clone(), json!({ "type": "bandwidth", "runtimeConfig": { "bandwidth": rates } })]);
        runtime.sandbox("a");

        let result = chain.add(&runtime, "a");

        assert_eq!(result["interfaces"].as_array().unwrap().len(), 3, "ours, and its ifb link: {result}");
        assert_eq!(result["ips"][0]["interface"], 1);
        chain.check(&runtime, "a", &result);
        assert_eq!(say(&runtime, None, "a", "10.244.1.2").0, "hello");
        chain.del(&runtime, "a", &result);
        assert_eq!(traces(&runtime), Traces::default());
    }

    fn debian_s_tuning_may_change_our_pod_end_without_our_taking_it_for_damage() {
        if !is_installed("tuning") {
            return;
        }
        let runtime = Runtime::new(versioned("1.0.0"));
        let tuning = json!({
            "type": "tuning",
            "mac": "02:11:22:33:44:55",
            "mtu": 1400,
            "sysctl": { "net.ipv4.conf.eth0.log_martians": "1" },
        });
        let chain = Chain::of([runtime.conf.clone(), tuning]);
        runtime.sandbox("a");

        let result = chain.add(&runtime, "a");

        assert_eq!(result["interfaces"][1]["mac"], "02:11:22:33:44:55");
        let eth0 = runtime.in_pod("a", |kernel| async move { kernel.link("eth0").await.unwrap() });
        assert_eq!((eth0.mac.unwrap().to_string().as_str(), eth0.mtu), ("02:11:22:33:44:55", 1400));
        for address in addresses(&result) {
            assert_eq!(say(&runtime, None, "a", &address).0, "hello", "the host learns the new hardware address");
        }
        chain.check(&runtime, "a", &result);
        chain.del(&runtime, "a", &result);
        assert_eq!(traces(&runtime), Traces::default());
    }

    fn a_pod_end_that_is_not_what_prev_result_says_is_damage() {
        let runtime = Runtime::new(dual_stack());
        let mut result = runtime.add("a");
        result["interfaces"][1]["mac"] = json!("02:11:22:33:44:55");
        result["interfaces"][1]["mtu"] = json!(1400);

        let (code, told) =
            failure(&runtime.call_with("CHECK", "a", &runtime.conf_with(&json!({ "prevResult": result }))));

        assert_eq!(code, 102);
        assert!(told.contains("link eth0 in its namespace has MTU 1450, not 1400"), "{told}");
        assert!(told.contains(", not 02:11:22:33:44:55"), "{told}");
    }

    fn where_a_version_has_no_mtu_a_larger_one_is_still_damage() {
        let runtime = Runtime::new(versioned("1.0.0"));
        runtime.sandbox("a");
        let result = success(&runtime.call("ADD", "a"));
        let conf = runtime.conf_with(&json!({ "prevResult": result }));
        let with_mtu = |mtu: u32| {
            runtime.in_pod("a", |kernel| async move { set_mtu(&kernel, mtu).await });
            runtime.call_with("CHECK", "a", &conf)
        };

        success(&with_mtu(1400));
        assert_eq!(
            failure(&with_mtu(1500)),
            (102, "pod default/a: link eth0 in its namespace has MTU 1500, not 1450".to_owned())
        );
    }

    fn a_second_network_of_a_pod_needs_routes_of_its_own() {
        let runtime = Runtime::new(dual_stack());
        let first = addresses(&runtime.add("a"));
        let add = |routes: Value| {
            let ipam = json!({ "subnet": "10.9.0.0/24", "routes": routes });
            let other = runtime.conf_with(&json!({ "name": "other", "ipam": ipam }));
            runtime.exec_as(&binaries::built().unwrap().fairway, "ADD", "a", "net1", &other)
        };

        let (code, told) = failure(&add(Value::Null));

        let expected = "0.0.0.0/0 via 10.9.0.1 dev 3 proto 70: the pod has such a route by another network: \
                        give one of the two ipam.routes of its own";
        assert_eq!((code, told.contains(expected)), (101, true), "{told}");
        assert_eq!(runtime.files("/run/fairway/other/leases"), [""; 0]);
        let second = addresses(&success(&add(json!([{ "dst": "10.9.0.0/16" }]))));
        for address in first.iter().chain(&second) {
            assert_eq!(say(&runtime, None, "a", address).0, "hello");
        }
    }

    fn behind_another_plugin_s_links_ours_are_found_by_their_place() {
        for (before, theirs) in [("bridge", 2), ("ptp", 2), ("macvlan", 1)] {
            if !is_installed(before) || !is_installed("host-local") {
                continue;
            }
            let mut runtime = Runtime::new(versioned("1.0.0"));
            "/usr/lib/cni".clone_into(&mut runtime.path);
            runtime.on_host(|kernel| async move { kernel.add_bridge(&Bridge::named("uplink")).await.unwrap() });
            let first = json!({
                "type": before,
                "master": "uplink",
                "ipam": { "type": "host-local", "dataDir": "/run/fairway/host-local", "subnet": "10.99.0.0/24" },
            });
            let chain = Chain::of([first, runtime.conf.clone()]).with_ifname_of_last("net1");
            runtime.sandbox("a");

            let result = chain.add(&runtime, "a");

            assert_eq!(addresses(&result), ["10.99.0.2", "10.244.1.2", "fd00:10:244:1::2"], "{before}");
            let (ips, links) = (&result["ips"], &result["interfaces"]);
            let link_of = |ip: usize| &links[usize::try_from(ips[ip]["interface"].as_u64().unwrap()).unwrap()];
            assert_eq!((&link_of(0)["name"], &link_of(1)["name"]), (&json!("eth0"), &json!("net1")));
            assert!(links.as_array().unwrap().len() >= theirs + 2);
            assert_eq!(say(&runtime, None, "a", "10.244.1.2").0, "hello");
            chain.check_at(1, &runtime, "a", &result); // theirs take all addresses for their own link's
            chain.del(&runtime, "a", &result);
            assert_eq!(runtime.leases(), [""; 0]);
        }
    }
}

async fn set_mtu(kernel: &Kernel, mtu: u32) {
    let eth0 = kernel.link("eth0").await.unwrap();
    kernel.set_mtu(eth0.index, mtu).await.unwrap();
}

/// Two families, in a version that Debian's plugins speak.
fn versioned(version: &str) -> Value {
    let mut conf = dual_stack();
    conf["cniVersion"] = json!(version);
    conf
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

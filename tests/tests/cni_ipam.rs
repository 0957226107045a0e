//! Addresses of pods: who gets which, and what becomes of them, as a runtime sees it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays the container runtime"
)]

mod runtime;

use runtime::{Runtime, addresses, dual_stack, failure, success};
use serde_json::{Value, json};

fn one_range(range: &Value) -> Value {
    json!({ "cniVersion": "1.1.0", "name": "pods", "type": "fairway", "ipam": { "ranges": [[range]] } })
}

fn gc(runtime: &Runtime, valid: &[&str]) {
    let valid: Vec<Value> = valid.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })).collect();
    success(&runtime.call_with("GC", "", &runtime.conf_with(&json!({ "cni.dev/valid-attachments": valid }))));
}

fairway_lab::sandbox_tests! {
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

//! The plugin beside others: as `loopback`, and in a chain of plugins, before and after those that Debian packages.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays the container runtime"
)]

mod runtime;

use dataplane::{rtnl::LOOPBACK, sysctl};
use runtime::{Runtime, addresses, dual_stack, failure, success, traces::say};
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
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

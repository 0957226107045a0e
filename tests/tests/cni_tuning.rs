//! What a pod's namespace and link are set to beyond being connected: set, checked, and set back.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays the container runtime"
)]

mod runtime;

use cni_plugin::Outcome;
use dataplane::{
    rtnl::{Link, Mac},
    sysctl,
};
use runtime::{
    Runtime, addresses, dual_stack, failure, success,
    traces::{Traces, say, traces},
};
use serde_json::{Value, json};

fn with(mut conf: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

fn bridged() -> Value {
    with(dual_stack(), &json!({ "mode": "bridge", "bridge": "br0", "isDefaultGateway": true }))
}

fn sysctl_of(runtime: &Runtime, key: &str) -> String {
    runtime.inside("a", || sysctl::read(key).unwrap())
}

fn eth0(runtime: &Runtime) -> Link {
    runtime.in_pod("a", |kernel| async move { kernel.link("eth0").await.unwrap() })
}

fn check(runtime: &Runtime, conf: &Value, result: &Value) -> Outcome {
    runtime.call_with("CHECK", "a", &with(conf.clone(), &json!({ "prevResult": result })))
}

fairway_lab::sandbox_tests! {
    fn the_keys_of_the_reference_plugin_are_honoured_routed_and_over_a_bridge() {
        for shape in [dual_stack(), bridged()] {
            let conf = with(shape, &json!({
                "sysctl": {
                    "net.core.somaxconn": "500",
                    "net/ipv4/tcp_rmem": "4096 131072 4194304",
                    "net.ipv4.conf.IFNAME.arp_filter": "1",
                },
                "mac": "02:11:22:33:44:55", "mtu": 1400, "txQLen": 500, "promisc": true, "allmulti": true,
            }));
            let runtime = Runtime::new(conf.clone());
            runtime.host.run(|| assert_eq!(sysctl::read("net/core/somaxconn").unwrap(), "4096")).unwrap();

            let result = runtime.add("a");

            let link = eth0(&runtime);
            assert_eq!((link.mtu, link.tx_queue_len), (1400, 500));
            assert_eq!(link.mac, Some(Mac([0x02, 0x11, 0x22, 0x33, 0x44, 0x55])));
            assert!(link.is_promiscuous && link.is_allmulti);
            assert_eq!(sysctl_of(&runtime, "net/core/somaxconn"), "500");
            assert_eq!(sysctl_of(&runtime, "net/ipv4/tcp_rmem"), "4096\t131072\t4194304");
            assert_eq!(sysctl_of(&runtime, "net/ipv4/conf/eth0/arp_filter"), "1");
            let on_host = || [sysctl::read("net/core/somaxconn"), sysctl::read("net/ipv4/conf/all/arp_filter")];
            let on_host = runtime.host.run(|| on_host().map(Result::unwrap)).unwrap();
            assert_eq!(on_host, ["4096", "0"], "the node is not the pod");
            for address in addresses(&result) {
                assert_eq!(say(&runtime, None, "a", &address).0, "hello");
            }
            success(&check(&runtime, &conf, &result));
        }
    }

    fn a_namespace_that_outlives_its_link_is_as_it_was_before() {
        let conf = with(dual_stack(), &json!({ "sysctl": {
            "net.core.somaxconn": "500",
            "net.ipv4.tcp_rmem": "4096 131072 4194304",
            "net.ipv4.ip_local_reserved_ports": "8080,9090",
            "net.ipv4.conf.all.arp_filter": "1",
            "net.ipv4.conf.IFNAME.arp_filter": "1",
        } }));
        let keys = ["net/core/somaxconn", "net/ipv4/tcp_rmem", "net/ipv4/ip_local_reserved_ports", "net/ipv4/conf/all/arp_filter"];
        let runtime = Runtime::new(conf);
        runtime.sandbox("a");
        runtime.inside("a", || sysctl::set("net/core/somaxconn", "1234").unwrap());
        let all = |runtime: &Runtime| keys.map(|key| sysctl_of(runtime, key));
        let before = all(&runtime);

        for _ in 0..2 {
            success(&runtime.call("ADD", "a")); // the second one does not take what the first one set for what was before
        }
        assert!(all(&runtime).iter().zip(&before).all(|(now, before)| now != before));
        // A runtime that was restarted may not know the namespace any more.
        success(&runtime.call_in("DEL", "a", "", &runtime.conf));

        assert_eq!(all(&runtime), before);
        assert_eq!(before[0], "1234");
        assert_eq!(traces(&runtime), Traces::default());
        assert_eq!(runtime.files("/run/fairway/pods/sysctls"), [""; 0]);
        success(&runtime.call("DEL", "a"));
    }

    fn gc_sets_back_what_was_set_for_pods_that_nobody_knows() {
        let conf = with(dual_stack(), &json!({ "sysctl": { "net.core.somaxconn": "500" } }));
        let runtime = Runtime::new(conf.clone());
        runtime.add("a");

        success(&runtime.call_with("GC", "", &with(conf, &json!({ "cni.dev/valid-attachments": [] }))));

        assert_eq!(sysctl_of(&runtime, "net/core/somaxconn"), "4096");
        assert_eq!(runtime.files("/run/fairway/pods/sysctls"), [""; 0]);
    }

    fn add_again_sets_back_what_is_not_asked_for_any_more() {
        let tuned = |sysctl: Value| with(dual_stack(), &json!({ "sysctl": sysctl }));
        let runtime = Runtime::new(tuned(json!({ "net.core.somaxconn": "500", "net.ipv4.tcp_syncookies": "0" })));
        runtime.add("a");

        let other = tuned(json!({ "net.ipv4.tcp_syncookies": "0", "net.ipv4.tcp_timestamps": "0" }));
        let result = success(&runtime.call_with("ADD", "a", &other));
        success(&check(&runtime, &other, &result));
        let all = |runtime: &Runtime| {
            ["net/core/somaxconn", "net/ipv4/tcp_syncookies", "net/ipv4/tcp_timestamps"].map(|key| sysctl_of(runtime, key))
        };
        assert_eq!(all(&runtime), ["4096", "0", "0"]);

        success(&runtime.call_with("ADD", "a", &dual_stack()));
        assert_eq!(all(&runtime), ["4096", "1", "1"]);
    }

    fn check_names_what_is_not_as_it_was_tuned_and_the_same_add_mends_it() {
        let conf = with(dual_stack(), &json!({
            "sysctl": { "net.ipv4.tcp_rmem": "4096 131072 4194304" }, "txQLen": 500, "promisc": true, "allmulti": true,
        }));
        let runtime = Runtime::new(conf.clone());
        let result = runtime.add("a");
        success(&check(&runtime, &conf, &result));

        runtime.inside("a", || sysctl::set("net/ipv4/tcp_rmem", "4096 131072 6291456").unwrap());
        runtime.in_pod("a", |kernel| async move {
            let index = kernel.link("eth0").await.unwrap().index;
            kernel.set_promiscuous(index, false).await.unwrap();
            kernel.set_allmulti(index, false).await.unwrap();
            kernel.set_tx_queue_len(index, 1000).await.unwrap();
        });

        let told = "pod default/a: sysctl net/ipv4/tcp_rmem in its namespace is 4096 131072 6291456, not 4096 131072 4194304; \
                    link eth0 in its namespace has promisc false, not true; \
                    link eth0 in its namespace has allmulti false, not true; \
                    link eth0 in its namespace has txQLen 1000, not 500";
        assert_eq!(failure(&check(&runtime, &conf, &result)), (102, told.to_owned()));
        assert_eq!(success(&runtime.call("ADD", "a")), result);
        success(&check(&runtime, &conf, &result));
    }

    fn the_runtime_s_hardware_address_comes_before_the_network_s() {
        let conf = with(dual_stack(), &json!({ "mac": "02:00:00:00:00:01" }));
        let runtime = Runtime::new(conf.clone());
        runtime.sandbox("a");

        success(&runtime.call_given("ADD", "a", "IgnoreUnknown=1;MAC=02:00:00:00:00:02"));

        assert_eq!(eth0(&runtime).mac, Some(Mac([2, 0, 0, 0, 0, 2])));
        let of_runtime = with(conf, &json!({ "runtimeConfig": { "mac": "02:00:00:00:00:03" } }));
        success(&runtime.call_with("ADD", "a", &of_runtime));
        assert_eq!(eth0(&runtime).mac, Some(Mac([2, 0, 0, 0, 0, 3])));
    }

    fn what_cannot_be_set_is_named_and_nothing_is_left() {
        let runtime = Runtime::new(dual_stack());
        runtime.sandbox("a");
        let add = |sysctl: Value| {
            let (code, told) = failure(&runtime.call_with("ADD", "a", &with(dual_stack(), &json!({ "sysctl": sysctl }))));
            assert_eq!(traces(&runtime), Traces::default());
            assert_eq!(sysctl_of(&runtime, "net/core/somaxconn"), "4096");
            (code, told.trim_start_matches("pod default/a: ").to_owned())
        };

        let (code, told) = add(json!({ "net.core.somaxconn": "500", "kernel.shmmax": "1" }));
        assert_eq!(code, 7);
        assert!(told.starts_with("tuning: sysctl \"kernel.shmmax\": none of a pod's network"), "{told}");
        let gone = "tune the pod in its namespace: read sysctl net/ipv4/nothing: No such file or directory (os error 2)";
        assert_eq!(add(json!({ "net.core.somaxconn": "500", "net.ipv4.nothing": "1" })), (7, gone.to_owned()));
        let refused = "tune the pod in its namespace: set sysctl net/ipv4/tcp_syncookies to many: Invalid argument (os error 22)";
        assert_eq!(add(json!({ "net.core.somaxconn": "500", "net.ipv4.tcp_syncookies": "many" })), (101, refused.to_owned()));
    }

    fn a_list_of_what_may_be_set_is_not_passed_over() {
        let conf = with(dual_stack(), &json!({ "sysctl": { "net.core.somaxconn": "500" } }));
        let runtime = Runtime::new(conf);
        runtime.sandbox("a");
        let list = || {
            std::fs::create_dir("/etc/cni/tuning").unwrap();
            std::fs::write("/etc/cni/tuning/allowlist.conf", "^net\\.core\\.[a-z]*$\n").unwrap();
        };
        runtime.host.run(list).unwrap();

        let (code, told) = failure(&runtime.call("ADD", "a"));

        assert_eq!(code, 2);
        assert!(told.starts_with("pod default/a: sysctl: /etc/cni/tuning/allowlist.conf says which may be set"), "{told}");
        assert_eq!(traces(&runtime), Traces::default());
        success(&runtime.call_with("ADD", "a", &dual_stack()));
    }

    fn what_belongs_to_the_whole_machine_cannot_be_set_from_a_pod() {
        let conf = with(dual_stack(), &json!({ "sysctl": { "net.netfilter.nf_conntrack_max": "7" } }));
        let runtime = Runtime::new(conf);
        runtime.sandbox("a");

        let (code, told) = failure(&runtime.call("ADD", "a"));

        assert!([7, 101].contains(&code), "not there, or not to be written: {told}");
        assert!(told.contains("sysctl net/netfilter/nf_conntrack_max"), "{told}");
        assert_eq!(traces(&runtime), Traces::default());
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

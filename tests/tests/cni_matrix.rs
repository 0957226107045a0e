//! Every verb in every version of the CNI specification, as a runtime calls it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays the container runtime"
)]

mod runtime;

use runtime::{Runtime, addresses, dual_stack, failure, success};
use serde_json::{Value, json};

/// What became of a call, in a word: a result, nothing, or an error's code.
fn word(outcome: &cni_plugin::Outcome) -> String {
    let printed: Option<Value> = serde_json::from_str(&outcome.stdout).ok();
    match (outcome.exit_code, printed) {
        (0, None) if outcome.stdout.is_empty() => "ok".to_owned(),
        (0, Some(result)) => result["cniVersion"].as_str().unwrap().to_owned(),
        (_, Some(error)) => format!("error {}", error["code"]),
        other => format!("{other:?}"),
    }
}

/// Calls all verbs in the order in which a runtime does.
fn row(version: &str) -> String {
    let runtime = Runtime::new(dual_stack());
    runtime.sandbox("c1");
    let conf = runtime.conf_with(&json!({ "cniVersion": version }));

    let mut words = vec![format!("{version:7}")];
    words.push(word(&runtime.call_with("VERSION", "c1", &conf)));
    words.push(word(&runtime.call_with("STATUS", "c1", &conf)));
    let added = runtime.call_with("ADD", "c1", &conf);
    words.push(word(&added));
    let mut conf = conf;
    conf["prevResult"] = serde_json::from_str(&added.stdout).unwrap();
    words.push(word(&runtime.call_with("CHECK", "c1", &conf)));
    conf["cni.dev/valid-attachments"] = json!([{ "containerID": "c1", "ifname": "eth0" }]);
    words.push(word(&runtime.call_with("GC", "c1", &conf)));
    words.push(word(&runtime.call_with("DEL", "c1", &conf)));
    words.join(" | ")
}

fairway_lab::sandbox_tests! {
    fn every_version_has_the_verbs_that_came_with_it() {
        let versions = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "9.9.9"];
        let table: Vec<String> = versions.into_iter().map(row).collect();

        assert_eq!(
            table,
            [
                //         VERSION | STATUS | ADD     | CHECK   | GC      | DEL
                "0.1.0   | 0.1.0 | error 1 | 0.1.0 | error 1 | error 1 | ok",
                "0.2.0   | 0.2.0 | error 1 | 0.2.0 | error 1 | error 1 | ok",
                "0.3.0   | 0.3.0 | error 1 | 0.3.0 | error 1 | error 1 | ok",
                "0.3.1   | 0.3.1 | error 1 | 0.3.1 | error 1 | error 1 | ok",
                "0.4.0   | 0.4.0 | error 1 | 0.4.0 | ok | error 1 | ok",
                "1.0.0   | 1.0.0 | error 1 | 1.0.0 | ok | error 1 | ok",
                "1.1.0   | 1.1.0 | ok | 1.1.0 | ok | ok | ok",
                "9.9.9   | 9.9.9 | error 1 | error 1 | error 1 | error 1 | error 1",
            ]
        );
    }

    fn version_lists_what_the_plugin_speaks_even_if_asked_nothing() {
        let runtime = Runtime::new(json!({ "cniVersion": "0.2.0" }));
        let spoken = json!(["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);

        assert_eq!(
            success(&runtime.call("VERSION", "")),
            json!({ "cniVersion": "0.2.0", "supportedVersions": spoken })
        );
        let asked_nothing = runtime.call_with("VERSION", "", &json!(null));
        assert_eq!(success(&asked_nothing), json!({ "cniVersion": "1.1.0", "supportedVersions": spoken }));
    }

    fn who_just_starts_it_is_told_what_it_is() {
        let environment = cni_plugin::Environment::from_vars([], std::time::SystemTime::UNIX_EPOCH);
        let outcome = cni_plugin::run(&environment, b"");

        assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (0, ""));
        assert!(outcome.stderr.contains("CNI plugin"), "{}", outcome.stderr);
        assert!(
            outcome.stderr.ends_with("CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n")
        );
    }

    fn an_error_is_json_in_the_version_asked_for() {
        let runtime = Runtime::new(json!({ "cniVersion": "0.4.0", "name": "../../etc" }));
        let outcome = runtime.call("ADD", "c1");

        assert_eq!(outcome.exit_code, 1);
        assert_eq!(outcome.stderr, "");
        assert_eq!(
            serde_json::from_str::<Value>(&outcome.stdout).unwrap(),
            json!({
                "cniVersion": "0.4.0",
                "code": 7,
                "msg": "name \"../../etc\": at most 200 of a-z A-Z 0-9 _ . - and a letter or digit first, and not node.json, route_localnet or host-ports",
            })
        );
        assert_eq!(runtime.files("/run/fairway"), [""; 0]);
    }

    fn each_kind_of_failure_has_its_code() {
        let runtime = Runtime::new(dual_stack());
        let own = "/proc/thread-self/ns/net";
        let fail = |verb: &str, container: &str, netns: &str, more: Value| {
            failure(&runtime.call_in(verb, container, netns, &runtime.conf_with(&more)))
        };

        assert_eq!(fail("ADD", "../c1", own, json!({})).0, 4);
        assert_eq!(fail("SUB", "c1", own, json!({})).0, 4);
        assert_eq!(
            fail("ADD", "c1", "", json!({})),
            (4, "ADD needs the environment variables CNI_NETNS".to_owned())
        );
        assert_eq!(fail("ADD", "c1", own, json!({ "ipam": 7 })).0, 6);
        assert_eq!(fail("ADD", "c1", own, json!({ "ipam": { "subnet": "10.0.0.0/32" } })).0, 7);
        let mapping = json!({ "hostPort": 80, "containerPort": 80, "protocol": "dccp" });
        assert_eq!(fail("ADD", "c1", own, json!({ "runtimeConfig": { "portMappings": [mapping] } })).0, 2);
        assert_eq!(fail("ADD", "c1", own, json!({ "runtimeConfig": { "portMappings": [{}, 1] } })).0, 6);
        assert_eq!(
            fail("ADD", "c1", own, json!({})),
            (8, "pod default/c1: CNI_NETNS is the plugin's own network namespace".to_owned())
        );
        let (code, told) = fail("ADD", "c1", "/run/netns/none", json!({}));
        assert_eq!(code, 8, "{told}");
        let (code, told) = fail("ADD", "c1", "/run/netns/none", json!({ "ipam": null }));
        assert_eq!(code, 11, "{told}");
        assert!(
            told.starts_with("pod default/c1: /run/fairway/node.json is not there yet: start fairway-proxy"),
            "{told}"
        );
        assert_eq!(fail("STATUS", "", "", json!({ "ipam": null })).0, 50);
        assert_eq!(fail("GC", "", "", json!({})).0, 7);
        assert_eq!(fail("CHECK", "c1", own, json!({})).0, 7);
        assert_eq!(runtime.files("/run/fairway"), [""; 0]);
    }

    fn the_daemon_s_node_json_gives_addresses_and_mtu() {
        let mut runtime = Runtime::new(dual_stack());
        runtime.conf = runtime.conf_with(&json!({ "ipam": null, "mtu": null }));
        let node = r#"{"podCIDRs":["10.244.7.0/24","fd00:10:244:7::/64"],"mtu":1410}"#;
        runtime.host.run(|| std::fs::write("/run/fairway/node.json", node).unwrap()).unwrap();

        success(&runtime.call("STATUS", ""));
        let result = runtime.add("c1");

        assert_eq!(addresses(&result), ["10.244.7.2", "fd00:10:244:7::2"]);
        assert_eq!(result["interfaces"][1]["mtu"], 1410);
    }

    fn check_notices_that_the_pod_cidr_is_another() {
        let mut runtime = Runtime::new(dual_stack());
        runtime.conf = runtime.conf_with(&json!({ "ipam": null }));
        let write = |cidr: &str| {
            let node = json!({ "podCIDRs": [cidr] }).to_string();
            runtime.host.run(|| std::fs::write("/run/fairway/node.json", node).unwrap()).unwrap();
        };
        write("10.244.7.0/24");
        let result = runtime.add("c1");

        write("10.244.8.0/24");

        let check = runtime.conf_with(&json!({ "prevResult": result }));
        assert_eq!(
            failure(&runtime.call_with("CHECK", "c1", &check)),
            (
                102,
                "pod default/c1: address 10.244.7.2 is leased to it, and of no range of the network any more"
                    .to_owned()
            )
        );
        success(&runtime.call_with("DEL", "c1", &check));
        assert_eq!(runtime.leases(), [""; 0]);
    }

    fn what_earlier_plugins_made_is_passed_on() {
        let runtime = Runtime::new(dual_stack());
        runtime.sandbox("c1");
        let earlier = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{ "name": "net0", "sandbox": "/run/netns/c1" }],
            "ips": [{ "interface": 0, "address": "192.168.7.9/24" }],
        });

        let result =
            success(&runtime.call_with("ADD", "c1", &runtime.conf_with(&json!({ "prevResult": earlier }))));

        assert_eq!(addresses(&result), ["192.168.7.9", "10.244.1.2", "fd00:10:244:1::2"]);
        assert_eq!(result["ips"][1]["interface"], 2);
        let check = runtime.conf_with(&json!({ "prevResult": result }));
        success(&runtime.call_with("CHECK", "c1", &check));
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

use serde_json::json;

use super::*;

/// Parses a configuration of a name and version, and of `more`.
fn conf(more: &Value) -> Result<Conf, Error> {
    let mut whole = json!({ "cniVersion": "1.1.0", "name": "pods", "type": "fairway" });
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Conf::parse(Network::parse(whole.to_string().as_bytes())?)
}

fn sets(ipam: &Value) -> Vec<RangeSet> {
    conf(&json!({ "ipam": ipam })).unwrap().ranges.unwrap()
}

/// The code and the message with its causes, as the runtime gets them.
fn refusal(more: &Value) -> String {
    let failure = crate::failure::Failure::from(conf(more).unwrap_err());
    format!("{} {}", failure.code.number(), failure.on_one_line())
}

fn first_of(set: &RangeSet) -> String {
    set.in_turn(&ipam::Past::default()).next().unwrap().to_string()
}

#[test]
fn without_ipam_the_daemon_is_asked() {
    let conf =
        conf(&json!({ "mtu": 0, "unknown": [1, 2], "capabilities": { "portMappings": true } })).unwrap();

    assert_eq!((conf.ranges, conf.routes, conf.mtu, conf.dns), (None, None, None, None));
    assert_eq!(conf.network.run_dir, PathBuf::from("/run/fairway"));
}

#[test]
fn a_subnet_alone_is_one_set() {
    let sets =
        sets(&json!({ "subnet": "10.244.1.0/24", "rangeStart": "10.244.1.9", "gateway": "10.244.1.254" }));

    assert_eq!(sets.len(), 1);
    assert_eq!(first_of(&sets[0]), "10.244.1.9");
    assert_eq!(sets[0].ranges()[0].gateway().to_string(), "10.244.1.254");
}

#[test]
fn ranges_are_sets_of_ranges_in_both_families() {
    let sets = sets(&json!({ "type": "fairway", "ranges": [
        [{ "subnet": "10.1.0.0/30" }, { "subnet": "10.2.0.0/24" }],
        [{ "subnet": "fd00:1::/64" }],
    ] }));

    assert_eq!(
        sets.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.1.0.0/30, 10.2.0.0/24", "fd00:1::/64"]
    );
    assert_eq!(sets.iter().map(first_of).collect::<Vec<_>>(), ["10.1.0.2", "fd00:1::2"]);
}

#[test]
fn a_subnet_beside_ranges_is_the_first_set() {
    let sets = sets(&json!({ "subnet": "10.1.0.0/24", "ranges": [[{ "subnet": "fd00:1::/64" }]] }));
    assert_eq!(sets.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.0/24", "fd00:1::/64"]);
}

#[test]
fn the_runtime_s_ranges_come_first() {
    let conf = conf(&json!({
        "ipam": { "subnet": "10.1.0.0/24", "ranges": [[{ "subnet": "fd00:1::/64" }]] },
        "runtimeConfig": { "ipRanges": [[{ "subnet": "10.9.0.0/24", "rangeStart": "10.9.0.7" }]] },
    }));
    let sets = conf.unwrap().ranges.unwrap();
    assert_eq!(
        sets.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.9.0.0/24", "10.1.0.0/24", "fd00:1::/64"]
    );
    assert_eq!(first_of(&sets[0]), "10.9.0.7");
}

#[test]
fn addresses_are_asked_for_in_two_ways_and_kept_back_in_one() {
    let conf = conf(&json!({
        "ipam": { "exclude": ["10.1.0.0/30", "fd00::7"] },
        "args": { "cni": { "ips": ["10.1.0.9/24"] } },
        "runtimeConfig": { "ips": ["fd00::9"] },
    }))
    .unwrap();
    assert_eq!(conf.requested.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.9", "fd00::9"]);
    assert_eq!(
        conf.reserved.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.1.0.0/30", "fd00::7/128"]
    );
}

#[test]
fn what_ipam_holds_is_another_plugin_s_to_read() {
    let conf =
        conf(&json!({ "ipam": { "type": "static", "routes": 7, "ranges": {}, "exclude": 1 } })).unwrap();
    assert_eq!((conf.network.delegate(), conf.ranges, conf.routes), (Some("static"), None, None));
    for own in [json!({}), json!({ "type": "" }), json!({ "type": "fairway" }), json!(null), json!([])] {
        let network =
            Network::parse(json!({ "cniVersion": "1.0.0", "name": "n", "ipam": own }).to_string().as_bytes());
        assert_eq!(network.unwrap().delegate(), None);
    }
}

#[test]
fn what_makes_no_sense_is_named() {
    for (more, told) in [
        (json!({ "name": null }), "7 name is missing in the network configuration"),
        (
            json!({ "name": "../x" }),
            "7 name \"../x\": at most 200 of a-z A-Z 0-9 _ . - and a letter or digit first, and not node.json, route_localnet or host-ports",
        ),
        (json!({ "runDir": "run" }), "7 runDir \"run\": must be an absolute path"),
        (
            json!({ "cniVersion": "9.9.9" }),
            "1 incompatible CNI versions: the configuration is \"9.9.9\", the plugin speaks 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0",
        ),
        (
            json!({ "mtu": -1 }),
            "6 decode mtu of the network configuration: invalid value: integer `-1`, expected u32",
        ),
        (
            json!({ "ipam": { "subnet": "10.1.0.0/31" } }),
            "7 ipam: subnet 10.1.0.0/31 is too small: /30, or /126 in IPv6, at least",
        ),
        (
            json!({ "ipam": { "subnet": "10.1.0.9/24" } }),
            "7 ipam: subnet 10.1.0.9/24 has bits set beyond its prefix: 10.1.0.0/24 is meant?",
        ),
        (
            json!({ "ipam": { "subnet": "10.1.0.0/24", "rangeEnd": "10.2.0.1" } }),
            "7 ipam: rangeEnd 10.2.0.1 is not in subnet 10.1.0.0/24",
        ),
        (
            json!({ "ipam": { "subnet": "10.1.0.0/24", "gateway": "fd00::1" } }),
            "7 ipam: gateway fd00::1 is not in subnet 10.1.0.0/24",
        ),
        (
            json!({ "ipam": { "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8" } }),
            "7 ipam: range 10.1.0.9-10.1.0.8 ends before it starts",
        ),
        (
            json!({ "ipam": { "rangeStart": "10.1.0.9" } }),
            "7 ipam.subnet beside rangeStart, rangeEnd or gateway is missing in the network configuration",
        ),
        (json!({ "ipam": { "ranges": [[]] } }), "7 ipam: a set of ranges is empty"),
        (
            json!({ "ipam": { "ranges": [[{}]] } }),
            "7 subnet of a range in ipam.ranges is missing in the network configuration",
        ),
        (
            json!({ "ipam": { "ranges": [[{ "subnet": "10.1.0.0/24" }, { "subnet": "fd00::/64" }]] } }),
            "7 ipam: a set of ranges mixes IPv4 and IPv6: make two sets, one of each",
        ),
        (
            json!({ "ipam": { "ranges": [[{ "subnet": "10.1.0.0/16" }], [{ "subnet": "10.1.2.0/24" }]] } }),
            "7 ipam: ranges 10.1.0.0/16 and 10.1.2.0/24 overlap",
        ),
        (json!({ "runtimeConfig": { "ips": ["x"] } }), "7 runtimeConfig.ips: \"x\" is no address"),
        (json!({ "ipam": { "exclude": ["10.0.0.0-9"] } }), "7 ipam.exclude: \"10.0.0.0-9\" is no address"),
        (
            json!({ "ipam": { "routes": [{ "dst": "10.0.0.1/8" }] } }),
            "7 ipam.routes: 10.0.0.1/8 has bits set beyond its prefix",
        ),
        (
            json!({ "ipam": { "routes": [{ "dst": "0.0.0.0/0", "gw": "fd00::1" }] } }),
            "7 ipam.routes: 0.0.0.0/0 and its gateway fd00::1 are of different families",
        ),
    ] {
        assert_eq!(refusal(&more), told);
    }
}

#[test]
fn what_is_no_json_cannot_be_decoded() {
    for stdin in ["", "{", "[]", "\"x\""] {
        let error = Network::parse(stdin.as_bytes()).unwrap_err();
        assert_eq!(error.code(), Code::Decode, "{stdin:?}: {error}");
    }
}

#[test]
fn what_would_be_wrong_to_ignore_is_refused_with_key_and_value() {
    for (more, told) in [
        (
            json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 80, "containerPort": 80, "protocol": "dccp" }] } }),
            "2 runtimeConfig.portMappings.protocol=dccp: tcp, udp or sctp",
        ),
        (
            json!({ "args": { "cni": { "mac": "01:00:5e:00:00:01" } } }),
            "7 mac \"01:00:5e:00:00:01\": six pairs of hexadecimal digits with colons between them, and no group's",
        ),
        (
            json!({ "ipam": { "routes": [{ "dst": "10.0.0.0/8", "table": 7 }] } }),
            "2 ipam.routes.table=7: only dst, gw, mtu and priority are",
        ),
    ] {
        assert_eq!(refusal(&more), told);
    }
    let empty =
        json!({ "runtimeConfig": { "portMappings": [], "bandwidth": { "ingressRate": 0 }, "mac": "" } });
    assert!(conf(&empty).is_ok());
}

#[test]
fn of_a_key_that_comes_twice_the_last_counts_as_in_go() {
    let name = |text: &str| Network::parse(text.as_bytes()).map(|network| network.name);
    assert_eq!(name(r#"{"cniVersion":"1.0.0","name":"../x","name":"ok"}"#).unwrap(), "ok");
    assert!(matches!(name(r#"{"cniVersion":"1.0.0","name":"ok","name":"../x"}"#), Err(Error::Name(_))));
    assert!(matches!(name(r#"{"cniVersion":"1.0.0","name":"node.json"}"#), Err(Error::Name(_))));
}

#[test]
fn what_is_too_long_or_too_deep_is_not_read() {
    let long = format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"{}\"}}", "x".repeat(MOST_BYTES));
    let deep = "[".repeat(100_000);
    for text in [long, deep] {
        assert_eq!(Network::parse(text.as_bytes()).unwrap_err().code(), Code::Decode);
    }
}

#[test]
fn for_gc_no_attachments_is_an_answer_and_no_key_is_not() {
    let valid = |more: &Value| conf(more).unwrap().network.valid_attachments();

    assert_eq!(valid(&json!({ "cni.dev/valid-attachments": null })).unwrap(), []);
    assert_eq!(valid(&json!({ "cni.dev/valid-attachments": [] })).unwrap(), []);
    let one =
        valid(&json!({ "cni.dev/valid-attachments": [{ "containerID": "c", "ifname": "eth0" }] })).unwrap();
    assert_eq!(one, [ValidAttachment { container_id: "c".to_owned(), ifname: "eth0".to_owned() }]);
    assert!(matches!(valid(&json!({})), Err(Error::Missing(_))));
}

#[test]
fn del_and_gc_need_no_more_than_a_name_and_a_version() {
    let stdin = json!({ "cniVersion": "1.1.0", "name": "pods", "ipam": "gone", "mtu": "x", "prevResult": 7 });
    assert!(Network::parse(stdin.to_string().as_bytes()).is_ok());
}

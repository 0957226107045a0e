use serde_json::json;

use super::*;
use crate::failure::Failure;

fn refusal(whole: &Value) -> String {
    let failure = Failure::from(parse(whole).err().or_else(|| is_masqueraded(whole).err()).unwrap());
    format!("{} {}", failure.code.number(), failure.on_one_line())
}

#[test]
fn pods_are_routed_unless_a_bridge_is_asked_for() {
    for whole in [
        json!({ "type": "fairway" }),
        json!({ "type": "ptp", "ipMasq": false }),
        json!({ "type": "bridge", "mode": "routed" }),
        json!({ "type": "fairway", "isGateway": true, "isDefaultGateway": true, "hairpinMode": true, "bridge": "" }),
    ] {
        assert_eq!(parse(&whole).unwrap(), None, "{whole}");
    }
}

#[test]
fn a_bridge_is_asked_for_by_mode_or_by_the_reference_plugin_s_name() {
    let of_no_name = Bridging {
        bridge: "cni0".to_owned(),
        role: Role::Switch,
        takes_over: false,
        is_promiscuous: false,
        seeks_duplicates: false,
        port: Port::default(),
    };
    assert_eq!(parse(&json!({ "type": "bridge" })).unwrap(), Some(of_no_name.clone()));
    assert_eq!(parse(&json!({ "type": "fairway", "mode": "bridge" })).unwrap(), Some(of_no_name));

    let all = json!({
        "type": "fairway", "mode": "bridge", "bridge": "br7", "isDefaultGateway": true, "forceAddress": true,
        "hairpinMode": true, "portIsolation": true, "macspoofchk": true, "vlan": 0, "enabledad": true,
    });
    let port = Port { hairpin: true, isolated: true, locked: true };
    let expected = Bridging {
        bridge: "br7".to_owned(),
        role: Role::DefaultGateway,
        takes_over: true,
        is_promiscuous: false,
        seeks_duplicates: true,
        port,
    };
    assert_eq!(parse(&all).unwrap(), Some(expected));
    let gateway =
        parse(&json!({ "type": "bridge", "isGateway": true, "promiscMode": true })).unwrap().unwrap();
    assert_eq!((gateway.role, gateway.is_promiscuous), (Role::Gateway, true));
}

#[test]
fn what_a_pod_would_not_get_is_refused_with_key_and_value() {
    for (whole, told) in [
        (
            json!({ "type": "fairway", "bridge": "cni0" }),
            "2 bridge=\"cni0\": only bridges have it: set mode to bridge, or leave it out",
        ),
        (
            json!({ "type": "fairway", "macspoofchk": true }),
            "2 macspoofchk=true: only bridges have it: set mode to bridge, or leave it out",
        ),
        (
            json!({ "type": "fairway", "enabledad": true }),
            "2 enabledad=true: only bridges have it: set mode to bridge, or leave it out",
        ),
        (json!({ "type": "fairway", "mode": "vxlan" }), "2 mode=\"vxlan\": routed or bridge"),
        (
            json!({ "type": "bridge", "ipMasq": true, "ipMasqBackend": "iptables" }),
            "2 ipMasqBackend=\"iptables\": it is done with nftables: say nftables, or leave it out",
        ),
        (
            json!({ "type": "bridge", "vlan": 7 }),
            "2 vlan=7: the VLANs of a bridge are not supported: plug pods into a bridge of one VLAN",
        ),
        (
            json!({ "type": "bridge", "promiscMode": true, "hairpinMode": true }),
            "2 promiscMode=true: hairpinMode is set too, and does what promiscMode is for: leave one out",
        ),
        (
            json!({ "type": "bridge", "bridge": "a-bridge-with-a-name" }),
            "7 bridge \"a-bridge-with-a-name\": at most 15 bytes, without / : or space, and not . or ..",
        ),
        (
            json!({ "type": "bridge", "isGateway": "yes" }),
            "6 decode isGateway of the network configuration: invalid type: string \"yes\", expected a boolean",
        ),
    ] {
        assert_eq!(refusal(&whole), told);
    }
}

#[test]
fn pods_are_masqueraded_where_that_is_asked_for() {
    for (whole, expected) in [
        (json!({}), false),
        (json!({ "ipMasq": null, "ipMasqBackend": "iptables" }), false),
        (json!({ "ipMasq": true }), true),
        (json!({ "ipMasq": true, "ipMasqBackend": "" }), true),
        (json!({ "ipMasq": true, "ipMasqBackend": "nftables" }), true),
    ] {
        assert_eq!(is_masqueraded(&whole).unwrap(), expected, "{whole}");
    }
}

#[test]
fn the_runtime_s_hardware_address_comes_before_the_configuration_s() {
    let both = json!({ "runtimeConfig": { "mac": "02:00:00:00:00:01" }, "args": { "cni": { "mac": "02:00:00:00:00:02" } } });
    assert_eq!(mac(&both).unwrap(), Some(Mac([2, 0, 0, 0, 0, 1])));
    let args = json!({ "runtimeConfig": { "mac": "" }, "args": { "cni": { "mac": "02-00-00-00-00-02" } } });
    assert_eq!(mac(&args).unwrap(), Some(Mac([2, 0, 0, 0, 0, 2])));
    assert_eq!(mac(&json!({})).unwrap(), None);
    for wrong in ["02:00:00:00:00", "01:00:5e:00:00:01", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"] {
        assert!(matches!(mac(&json!({ "runtimeConfig": { "mac": wrong } })), Err(Error::Mac(_))), "{wrong}");
    }
}

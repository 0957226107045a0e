use serde_json::json;

use super::*;
use crate::{
    request::Attachment,
    wiring::{Endpoint, Wiring, Wish},
};

fn result() -> AddResult {
    let attachment = Attachment::new("c1", "eth0").unwrap();
    let endpoint = |address: &str, gateway: &str| Endpoint {
        address: address.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
        prefix: 24,
    };
    let endpoints =
        vec![endpoint("10.244.1.7", "10.244.1.1"), endpoint("fd00:10:244:1::7", "fd00:10:244:1::1")];
    let wish = Wish {
        network: "pods",
        attachment: &attachment,
        run_dir: "/run/fairway".as_ref(),
        alias: "default/web",
        mtu: 1450,
        mac: None,
        endpoints,
        bandwidth: crate::bandwidth::Bandwidth::default(),
        bridging: None,
        routes: None,
    };
    let dns = json!({ "nameservers": ["10.96.0.10"], "search": ["default.svc.cluster.local"] });
    AddResult { dns: Some(dns), ..Wiring::of(wish).unwrap().result("/run/netns/pod", None) }
}

#[test]
fn each_version_has_its_own_shape() {
    for version in SpecVersion::ALL {
        insta::assert_snapshot!(format!("{version}"), result().to_json(version));
    }
}

#[test]
fn what_was_printed_is_read_again() {
    for version in SpecVersion::ALL.into_iter().filter(|version| !version.is_of_addresses_only()) {
        let printed = serde_json::from_str(&result().to_json(version)).unwrap();
        let read = AddResult::parse(printed).unwrap();

        assert_eq!(read.ips, result().ips, "{version}");
        assert_eq!(read.to_json(version), result().to_json(version));
    }
}

#[test]
fn before_0_3_0_there_is_one_address_of_each_family_with_its_routes() {
    let printed = result().to_json(SpecVersion::V0_2_0);
    let read = AddResult::parse(serde_json::from_str(&printed).unwrap()).unwrap();

    let addresses =
        |result: &AddResult| result.ips.iter().map(|ip| (ip.address, ip.gateway)).collect::<Vec<_>>();
    assert_eq!(addresses(&read), addresses(&result()));
    assert_eq!(read.routes, result().routes);
    assert_eq!(read.to_json(SpecVersion::V0_1_0), result().to_json(SpecVersion::V0_1_0));
    assert_eq!(read.interfaces, []);
}

#[test]
fn an_earlier_result_comes_first_and_keeps_what_it_says() {
    let earlier = AddResult::parse(json!({
        "interfaces": [{ "name": "net0", "sandbox": "/run/netns/pod", "pciID": "0000:00:1f.6" }],
        "ips": [{ "interface": 0, "address": "192.168.7.9/24" }],
        "routes": [{ "dst": "192.168.0.0/16", "table": 100 }],
        "dns": { "domain": "example.org" },
    }))
    .unwrap();

    let both = result().after(earlier);

    assert_eq!(both.interfaces.iter().map(|i| i.name.clone()).collect::<Vec<_>>()[..1], ["net0"]);
    assert_eq!(both.ips.iter().map(|ip| ip.interface).collect::<Vec<_>>(), [Some(0), Some(2), Some(2)]);
    assert_eq!(both.dns, result().dns);
    let newest = both.to_json(SpecVersion::V1_1_0);
    assert!(newest.contains("pciID") && newest.contains("\"table\": 100"), "{newest}");
    let older = both.to_json(SpecVersion::V1_0_0);
    assert!(!older.contains("pciID") && !older.contains("table"), "{older}");
}

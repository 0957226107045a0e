use std::{collections::BTreeSet, net::SocketAddr};

use super::*;
use crate::nft::{Packet, Payload, trace};

fn tables() -> [Table; 2] {
    let all = [("10.1.0.2", "10.1.0.0/16"), ("10.2.0.2", "10.2.0.0/24"), ("fd00:1::2", "fd00:1::/64")];
    let all = all.map(|(address, network)| Masqueraded {
        address: address.parse().unwrap(),
        network: network.parse().unwrap(),
    });
    Family::ALL.map(|family| table(family, all.iter().map(|pod| (pod, "default/web"))))
}

fn is_masqueraded(from: &str, to: &str) -> bool {
    let destination: SocketAddr = SocketAddr::new(to.parse().unwrap(), 80);
    let packet = Packet {
        link: Some("fw7mqk".into()),
        payload: Payload::Transport(crate::packet::Protocol::Udp),
        source: from.parse().unwrap(),
        destination,
        host: BTreeSet::from(["10.1.0.1".parse().unwrap()]),
    };
    let table = tables().into_iter().find(|table| table.family == Family::of(destination.ip())).unwrap();
    trace(&table, &packet)[0].is_masqueraded
}

#[test]
fn what_a_pod_sends_to_elsewhere_than_its_network_is_masqueraded() {
    assert!(is_masqueraded("10.1.0.2", "192.0.2.1"));
    assert!(is_masqueraded("10.1.0.2", "10.2.0.2"), "another network, whoever's");
    assert!(is_masqueraded("10.2.0.2", "10.2.1.1"));
    assert!(is_masqueraded("fd00:1::2", "2001:db8::1"));
    for (from, to) in [
        ("10.1.0.2", "10.1.9.9"),
        ("10.2.0.2", "10.2.0.255"),
        ("fd00:1::2", "fd00:1::ffff"),
        ("10.1.0.2", "10.1.0.1"),
        ("10.1.0.2", "224.0.0.251"),
        ("fd00:1::2", "ff02::fb"),
        ("10.1.0.3", "192.0.2.1"),
        ("192.0.2.1", "10.1.0.2"),
    ] {
        assert!(!is_masqueraded(from, to), "{from} to {to}");
    }
}

#[test]
fn a_table_is_as_it_is_printed() {
    let [ipv4, _] = tables();
    insta::assert_snapshot!(ipv4.named(crate::owner::MASQUERADE_TABLE));
}

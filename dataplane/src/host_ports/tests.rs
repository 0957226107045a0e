use std::collections::BTreeSet;

use super::*;
use crate::nft::{Packet, Payload, trace};

fn host_port(protocol: Protocol, host_ip: Option<&str>, host_port: u16, pod: &str) -> HostPort {
    let (host_ip, pod) = (host_ip.map(|ip| ip.parse().unwrap()), pod.parse().unwrap());
    HostPort { protocol, host_ip, host_port, pod }
}

/// A pod with a port of all addresses and one of a single one, in both families.
fn tables() -> [Table; 2] {
    let all = [
        host_port(Protocol::Tcp, None, 8080, "10.244.1.2:80"),
        host_port(Protocol::Udp, Some("192.0.2.1"), 53, "10.244.1.2:5353"),
        host_port(Protocol::Tcp, None, 8080, "[fd00::2]:80"),
        host_port(Protocol::Udp, Some("2001:db8::1"), 53, "[fd00::2]:5353"),
        host_port(Protocol::Udp, Some("203.0.113.5"), 53, "10.244.1.2:5353"),
        host_port(Protocol::Udp, Some("2001:db8::5"), 53, "[fd00::2]:5353"),
    ];
    Family::ALL.map(|family| table(family, all.iter().map(|it| (it, "default/web"))))
}

/// Where a packet from a link, or of a process of the host, goes.
fn goes(link: Option<&'static str>, payload: Payload, from: &str, to: &str) -> String {
    let host = ["192.0.2.1", "192.0.2.2", "10.244.1.1", "2001:db8::1", "::1"];
    let destination: SocketAddr = to.parse().unwrap();
    let packet = Packet {
        link: link.map(Into::into),
        payload,
        source: from.parse().unwrap(),
        destination,
        host: host.iter().map(|address| address.parse().unwrap()).collect::<BTreeSet<_>>(),
    };
    let table = tables().into_iter().find(|table| table.family == Family::of(destination.ip())).unwrap();
    trace(&table, &packet)[0].to_string()
}

const TCP: Payload = Payload::Transport(Protocol::Tcp);
const UDP: Payload = Payload::Transport(Protocol::Udp);
const OUTSIDE: Option<&str> = Some("eth0");
const POD: Option<&str> = Some("fw7mqk");

#[test]
fn strangers_reach_the_pod_by_every_address_and_keep_theirs() {
    assert_eq!(goes(OUTSIDE, TCP, "198.51.100.7", "192.0.2.1:8080"), "10.244.1.2:80");
    assert_eq!(goes(OUTSIDE, TCP, "198.51.100.7", "192.0.2.2:8080"), "10.244.1.2:80");
    assert_eq!(goes(OUTSIDE, TCP, "2001:db8::7", "[2001:db8::1]:8080"), "[fd00::2]:80");
    assert_eq!(goes(POD, TCP, "10.244.1.9", "10.244.1.1:8080"), "10.244.1.2:80");
}

#[test]
fn a_port_of_one_address_is_of_no_other() {
    assert_eq!(goes(OUTSIDE, UDP, "198.51.100.7", "192.0.2.1:53"), "10.244.1.2:5353");
    assert_eq!(goes(OUTSIDE, UDP, "198.51.100.7", "192.0.2.2:53"), "untouched");
    assert_eq!(goes(OUTSIDE, UDP, "2001:db8::7", "[2001:db8::1]:53"), "[fd00::2]:5353");
}

#[test]
fn an_address_that_is_not_the_node_s_is_not_taken_from_whose_it_is() {
    assert_eq!(goes(POD, UDP, "10.244.1.9", "203.0.113.5:53"), "untouched");
    assert_eq!(goes(None, UDP, "192.0.2.1", "203.0.113.5:53"), "untouched");
    assert_eq!(goes(POD, UDP, "fd00::9", "[2001:db8::5]:53"), "untouched");
}

#[test]
fn other_protocols_ports_and_hosts_are_none_of_its_business() {
    assert_eq!(goes(OUTSIDE, UDP, "198.51.100.7", "192.0.2.1:8080"), "untouched");
    assert_eq!(goes(OUTSIDE, TCP, "198.51.100.7", "192.0.2.1:8081"), "untouched");
    assert_eq!(goes(POD, TCP, "10.244.1.9", "203.0.113.5:8080"), "untouched");
    assert_eq!(goes(OUTSIDE, Payload::EchoRequest, "198.51.100.7", "192.0.2.1:8080"), "untouched");
}

#[test]
fn a_pod_that_calls_itself_is_masqueraded() {
    assert_eq!(goes(POD, TCP, "10.244.1.2", "192.0.2.1:8080"), "10.244.1.2:80 masqueraded");
    assert_eq!(goes(POD, TCP, "fd00::2", "[2001:db8::1]:8080"), "[fd00::2]:80 masqueraded");
    // Not one that talks to itself by its own address.
    assert_eq!(goes(POD, TCP, "10.244.1.2", "10.244.1.2:80"), "untouched");
}

#[test]
fn programs_of_the_node_reach_it_by_all_its_addresses_and_by_127_0_0_1() {
    assert_eq!(goes(None, TCP, "192.0.2.1", "192.0.2.1:8080"), "10.244.1.2:80");
    assert_eq!(goes(None, TCP, "127.0.0.1", "127.0.0.1:8080"), "10.244.1.2:80 masqueraded");
    assert_eq!(goes(None, TCP, "2001:db8::1", "[2001:db8::1]:8080"), "[fd00::2]:80");
    // The kernel would not route it.
    assert_eq!(goes(None, TCP, "::1", "[::1]:8080"), "untouched");
}

#[test]
fn nobody_on_a_link_reaches_or_poses_as_127_0_0_1() {
    assert_eq!(goes(OUTSIDE, TCP, "198.51.100.7", "127.0.0.1:8080"), "dropped");
    assert_eq!(goes(POD, TCP, "127.0.0.1", "192.0.2.1:8080"), "dropped");
}

#[test]
fn a_table_is_as_it_is_printed() {
    let [ipv4, _] = tables();
    insta::assert_snapshot!(ipv4.named(crate::owner::HOST_PORTS_TABLE));
}

#[test]
fn host_ports_overlap_where_a_packet_could_be_for_both() {
    let all = host_port(Protocol::Tcp, None, 80, "10.0.0.1:80");
    let one = host_port(Protocol::Tcp, Some("192.0.2.1"), 80, "10.0.0.2:80");
    let check = |other: HostPort, expected| {
        assert_eq!([one.overlaps(&other), other.overlaps(&one)], [expected; 2], "{other}");
    };

    check(all, true);
    check(HostPort { pod: "10.0.0.3:90".parse().unwrap(), ..one }, true);
    check(HostPort { host_ip: Some([192, 0, 2, 2].into()), ..one }, false);
    check(HostPort { protocol: Protocol::Udp, ..all }, false);
    check(HostPort { host_port: 81, ..all }, false);
    check(host_port(Protocol::Tcp, None, 80, "[fd00::2]:80"), false);
}

#[test]
fn localhost_is_served_in_ipv4_by_ports_of_all_addresses_or_of_that_one() {
    let serves = |host_ip, pod: &str| host_port(Protocol::Tcp, host_ip, 80, pod).serves_localhost();

    assert_eq!([serves(None, "10.0.0.1:80"), serves(Some("127.0.0.1"), "10.0.0.1:80")], [true; 2]);
    assert_eq!([serves(Some("192.0.2.1"), "10.0.0.1:80"), serves(None, "[fd00::1]:80")], [false; 2]);
}

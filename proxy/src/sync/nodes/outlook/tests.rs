use std::collections::BTreeMap;

use dataplane::rtnl::{AddressFlags, Forwarding, Neighbour, Route, Rule, Table};

use super::*;
use crate::{
    config::RouteMode,
    objects::{Node, ObjectName},
    plan::routes::{Site, tests::link, tunnel},
    service_port::Family,
};

fn address(link: u32, network: &str) -> Address {
    Address { link, network: network.parse().unwrap(), flags: AddressFlags::default() }
}

fn node(name: &str, pod_cidr: &str, internal_ip: &str) -> Node {
    Node {
        name: ObjectName { namespace: "".into(), name: name.into() },
        pod_cidrs: vec![pod_cidr.parse().unwrap()],
        internal_ips: vec![internal_ip.parse().unwrap()],
        external_ips: Vec::new(),
        zone: None,
        is_leaving: false,
    }
}

const POD: &str = "fwabcdefghijklm";

/// A node with one link, one pod and one way to another node.
fn outlook() -> (Outlook, Routing) {
    let outlook = Outlook::new(
        &[link(2, "eth0"), link(3, "fairway.1"), link(4, POD), link(5, "spare")],
        vec![
            address(2, "192.168.14.50/24"),
            address(2, "fe80::2/64"),
            address(3, "10.244.0.0/32"),
            address(4, "10.244.0.1/32"),
            address(5, "fe80::5/64"),
        ],
        &[default_route(2)],
    );
    let other = node("w1", "10.244.1.0/24", "192.168.14.51");
    let site = Site::new(RouteMode::Direct, None, outlook.addresses(), &BTreeMap::new());
    let mut routing = Routing::new(site, [&other]);
    routing.bind(BTreeMap::new());
    (outlook, routing)
}

fn default_route(link: u32) -> Route {
    let (everything, gateway) = ("0.0.0.0/0".parse().unwrap(), "192.168.14.1".parse().unwrap());
    Route { protocol: 4, ..Route::through(everything, gateway, link) }
}

fn way(gateway: &str) -> Route {
    Route::through("10.244.1.0/24".parse().unwrap(), gateway.parse().unwrap(), 2)
}

#[test]
fn the_node_s_addresses_are_those_of_links_that_are_neither_pods_nor_tunnels() {
    assert_eq!(outlook().0.addresses(), [address(2, "192.168.14.50/24")]);
}

#[test]
fn what_is_as_it_was_made_and_what_concerns_pods_is_no_news() {
    let (mut outlook, routing) = outlook();
    let to_a_pod = Route::on_link("10.244.0.9/32".parse().unwrap(), 4);
    let foreign = Route { protocol: 3, ..way("192.168.14.99") };
    for report in [
        Report::Route(way("192.168.14.51")),
        Report::Route(to_a_pod),
        Report::RouteGone(to_a_pod),
        Report::Route(foreign),
        Report::RouteGone(foreign),
        Report::RouteGone(way("192.168.14.99")),
        // What others lead elsewhere is theirs, and so is what they say again.
        Report::Route(default_route(2)),
        Report::Route(Route { table: Table::Own, mtu: Some(1400), ..default_route(2) }),
        Report::Route(Route { destination: "172.18.0.0/16".parse().unwrap(), ..default_route(5) }),
        Report::RouteGone(Route { destination: "172.18.0.0/16".parse().unwrap(), ..default_route(5) }),
        Report::Link(Box::new(link(2, "eth0"))),
        Report::Link(Box::new(link(9, "fwbbbbbbbbbbbbb"))),
        Report::Address(address(9, "10.244.0.1/32")),
        Report::AddressGone(address(9, "10.244.0.1/32")),
        Report::LinkGone(9),
        Report::LinkGone(4),
        Report::Address(address(2, "192.168.14.50/24")),
        Report::AddressGone(address(2, "192.168.14.77/24")),
        Report::Link(Box::new(Link { mtu: 9000, ..link(5, "spare") })),
        Report::Link(Box::new(link(6, "veth1234"))),
        Report::LinkGone(6),
        // A container of somebody else's comes and goes, and the kernel gives its link an address.
        Report::Link(Box::new(link(7, "veth5678"))),
        Report::Address(address(7, "fe80::7/64")),
        Report::Link(Box::new(Link { has_carrier: false, ..link(7, "veth5678") })),
        Report::AddressGone(address(7, "fe80::7/64")),
        Report::LinkGone(7),
        Report::AddressGone(address(2, "fe80::2/64")),
        // A router has advertised a network once more, or nobody else has the address.
        Report::Address(Address {
            flags: AddressFlags { noprefixroute: true, nodad: true },
            ..address(2, "192.168.14.50/24")
        }),
    ] {
        assert!(!outlook.is_news(&report, Some(&routing)), "{report:?}");
    }
}

#[test]
fn what_a_tunnel_was_told_is_news_when_it_is_otherwise_or_gone() {
    let own = node("m", "10.244.0.0/24", "192.168.14.50");
    let site =
        Site::new(RouteMode::Vxlan, Some(&own), vec![address(2, "192.168.14.50/24")], &BTreeMap::new());
    let mut routing = Routing::new(site, [&node("w1", "10.244.1.0/24", "192.168.14.51")]);
    routing.bind([(Family::Ip, 3)].into());
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let end = Forwarding { link: 3, mac: tunnel::mac(ip("192.168.14.51")), remote: ip("192.168.14.51") };
    let state = NeighbourState::Permanent;
    let gateway = Neighbour { link: 3, address: end.remote, mac: Some(end.mac), state };
    let other = Mac::locally_administered(1);
    let from = |pods: &str| Rule::of_source(pods.parse().unwrap());
    let is_news = |report: &Report| Outlook::default().is_news(report, Some(&routing));

    for report in [
        Report::Forwarding(end),
        Report::ForwardingGone(Forwarding { remote: ip("192.168.14.99"), ..end }),
        Report::ForwardingGone(Forwarding { mac: other, ..end }),
        Report::Neighbour(gateway),
        Report::Neighbour(Neighbour { address: ip("192.168.14.99"), ..gateway }),
        Report::NeighbourGone(Neighbour { link: 2, ..gateway }),
        Report::Rule(from("10.244.0.0/24")),
        Report::RuleGone(from("10.244.9.0/24")),
    ] {
        assert!(!is_news(&report), "{report:?}");
    }
    for report in [
        Report::Forwarding(Forwarding { remote: ip("192.168.14.99"), ..end }),
        Report::ForwardingGone(end),
        Report::Neighbour(Neighbour { mac: Some(other), ..gateway }),
        Report::NeighbourGone(Neighbour { state: NeighbourState::Stale, ..gateway }),
        Report::Rule(from("10.244.9.0/24")),
        Report::RuleGone(from("10.244.0.0/24")),
    ] {
        assert!(is_news(&report), "{report:?}");
    }
}

#[test]
fn what_ways_stand_on_and_ways_themselves_are_news() {
    for report in [
        Report::Route(way("192.168.14.99")),
        Report::RouteGone(way("192.168.14.51")),
        Report::Link(Box::new(Link { mtu: 1400, ..link(2, "eth0") })),
        Report::Link(Box::new(Link { is_up: false, ..link(2, "eth0") })),
        Report::Link(Box::new(Link { mtu: 1400, ..link(3, "fairway.1") })),
        Report::Link(Box::new(Link { has_carrier: false, ..link(2, "eth0") })),
        Report::Route(Route { mtu: Some(1400), ..default_route(2) }),
        Report::Route(Route { destination: "192.168.14.51/32".parse().unwrap(), ..default_route(2) }),
        Report::RouteGone(default_route(2)),
        Report::LinkGone(2),
        Report::LinkGone(3),
        Report::Address(address(2, "192.168.15.50/24")),
        Report::AddressGone(address(2, "192.168.14.50/24")),
        Report::AddressGone(address(3, "10.244.0.0/32")),
        Report::Address(address(7, "172.16.0.1/24")),
        Report::Lost,
    ] {
        let (mut outlook, routing) = outlook();
        assert!(outlook.is_news(&report, Some(&routing)), "{report:?}");
    }
}

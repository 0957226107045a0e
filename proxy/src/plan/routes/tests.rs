use std::{collections::BTreeSet, sync::Arc};

use dataplane::rtnl::{AddressFlags, Forwarding, Link, Mac, Neighbour, Route, Rule, Table};
use proptest::{collection::vec, prelude::*, sample::subsequence};

use super::{
    objects::{Key, Object, Steps, steps},
    routing::Routing,
    *,
};
use crate::objects::ObjectName;

mod to_nodes;

/// A node by name, pod CIDRs and internal addresses.
pub(super) fn node(name: &str, pod_cidrs: &[&str], internal_ips: &[&str]) -> Node {
    Node {
        name: ObjectName { namespace: "".into(), name: name.into() },
        pod_cidrs: pod_cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        internal_ips: internal_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        external_ips: Vec::new(),
        zone: None,
        is_leaving: false,
    }
}

pub(super) fn address(link: u32, network: &str) -> Address {
    Address { link, network: network.parse().unwrap(), flags: AddressFlags::default() }
}

/// A link that is up, and has a hardware address.
pub(crate) fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind: None,
        mac: Some(Mac([2, 0, 0, 0, 0, index.to_be_bytes()[3]])),
        mtu: 1500,
        is_up: true,
        has_carrier: true,
        is_running: true,
        has_neighbours: true,
        alias: None,
        is_promiscuous: false,
        is_allmulti: false,
        tx_queue_len: 1000,
        master: None,
        port: None,
        is_forwarding: false,
        peer: None,
        peer_netns: None,
        tunnel: None,
    }
}

/// Node `m`, with an address of each family on link 2.
fn site(mode: RouteMode) -> Site {
    let addresses =
        vec![address(1, "127.0.0.1/8"), address(2, "192.168.14.50/24"), address(2, "fd00:14::50/64")];
    let own = node("m", &["10.244.0.0/24", "fd00:0::/64"], &["192.168.14.50", "fd00:14::50"]);
    Site::new(mode, Some(&own), addresses, &BTreeMap::new())
}

/// The devices of node `m`.
fn devices() -> BTreeMap<Family, u32> {
    BTreeMap::from([(Family::Ip, 7), (Family::Ip6, 8)])
}

pub(super) fn routing<'a>(site: Site, others: impl IntoIterator<Item = &'a Node>) -> Routing {
    let mut routing = Routing::new(site, others);
    routing.bind(devices());
    routing
}

pub(super) fn lines(objects: impl IntoIterator<Item = Object>) -> Vec<String> {
    let line = |object| match object {
        Object::Forwarding(entry) => entry.to_string(),
        Object::Neighbour(entry) => entry.to_string(),
        Object::Route(route) => route.to_string(),
        Object::Rule(rule) => rule.to_string(),
    };
    objects.into_iter().map(line).collect()
}

/// What node `m` plans.
pub(super) fn planned_by(site: Site, others: &[Node]) -> Vec<String> {
    let routing = routing(site, others);
    let unreachable = routing.unreachable().into_iter().map(|unreachable| unreachable.to_string());
    lines(routing.objects()).into_iter().chain(unreachable).collect()
}

fn planned(others: &[Node]) -> Vec<String> {
    planned_by(site(RouteMode::Auto), others)
}

#[test]
fn every_other_node_s_pods_are_reached_through_it() {
    assert_eq!(
        planned(&[
            node("w1", &["10.244.1.0/24"], &["192.168.14.51"]),
            node("w2", &["10.244.2.0/24"], &["192.168.14.52"]),
        ]),
        ["10.244.1.0/24 via 192.168.14.51 dev 2 proto 70", "10.244.2.0/24 via 192.168.14.52 dev 2 proto 70"],
    );
}

#[test]
fn each_family_goes_through_an_address_of_its_own() {
    assert_eq!(
        planned(&[node("w1", &["10.244.1.0/24", "fd00:1::/64"], &["fd00:14::51", "192.168.14.51"])]),
        ["10.244.1.0/24 via 192.168.14.51 dev 2 proto 70", "fd00:1::/64 via fd00:14::51 dev 2 proto 70"],
    );
}

#[test]
fn our_own_pods_need_no_route() {
    assert_eq!(planned(&[]), [""; 0]);
}

#[test]
fn of_several_addresses_the_first_on_a_link_of_ours_is_taken() {
    assert_eq!(
        planned(&[node("w1", &["10.244.1.0/24"], &["172.16.0.1", "192.168.14.51", "192.168.14.61"])]),
        ["10.244.1.0/24 via 192.168.14.51 dev 2 proto 70"],
    );
}

#[test]
fn a_node_that_is_on_no_link_of_ours_is_reached_through_a_tunnel_in_both_families() {
    assert_eq!(
        planned(&[node("w3", &["10.244.3.0/24", "fd00:3::/64"], &["192.168.15.53", "fd00:15::53"])]),
        [
            "02:46:c0:a8:0f:35 dev 7 dst 192.168.15.53",
            "192.168.15.53 dev 7 lladdr 02:46:c0:a8:0f:35",
            "fe80::46:c0ff:fea8:f35 dev 7 lladdr 02:46:c0:a8:0f:35",
            "10.244.3.0/24 via 192.168.15.53 dev 7 proto 70 onlink",
            "fd00:3::/64 via fe80::46:c0ff:fea8:f35 dev 7 proto 70",
            "192.168.15.53/32 via 192.168.15.53 dev 7 table 18007 proto 70 onlink",
            "fd00:15::53/128 via fe80::46:c0ff:fea8:f35 dev 7 table 18007 proto 70",
            "from 10.244.0.0/24 lookup 18007 priority 1070 proto 70",
            "from fd00::/64 lookup 18007 priority 1070 proto 70",
        ],
    );
}

#[test]
fn nodes_that_have_ipv6_alone_are_reached_through_a_tunnel_of_ipv6() {
    assert_eq!(
        planned(&[node("w3", &["10.244.3.0/24", "fd00:3::/64"], &["fd00:15::53"])]),
        [
            "96:a6:fd:77:fd:fa dev 8 dst fd00:15::53",
            "10.244.3.0 dev 8 lladdr 96:a6:fd:77:fd:fa",
            "fe80::94a6:fdff:fe77:fdfa dev 8 lladdr 96:a6:fd:77:fd:fa",
            "10.244.3.0/24 via 10.244.3.0 dev 8 proto 70 onlink",
            "fd00:3::/64 via fe80::94a6:fdff:fe77:fdfa dev 8 proto 70",
            "fd00:15::53/128 via fe80::94a6:fdff:fe77:fdfa dev 8 table 18007 proto 70",
            "from fd00::/64 lookup 18007 priority 1070 proto 70",
        ],
    );
}

#[test]
fn the_mode_says_which_ways_there_are() {
    let near = node("w1", &["10.244.1.0/24"], &["192.168.14.51"]);
    let far = node("w2", &["10.244.2.0/24"], &["192.168.15.52"]);
    let ways = |mode| {
        let planned = planned_by(site(mode), &[near.clone(), far.clone()]);
        planned.into_iter().filter(|line| line.contains("10.244.") || line.contains("node")).collect()
    };

    let direct: Vec<String> = ways(RouteMode::Direct);
    assert_eq!(
        direct,
        [
            "10.244.1.0/24 via 192.168.14.51 dev 2 proto 70",
            "node w2 at 192.168.15.52 is on none of this node's links: use --routes=auto"
        ]
    );
    let vxlan: Vec<String> = ways(RouteMode::Vxlan);
    assert_eq!(
        vxlan,
        [
            "10.244.1.0/24 via 192.168.14.51 dev 7 proto 70 onlink",
            "10.244.2.0/24 via 192.168.15.52 dev 7 proto 70 onlink",
            "from 10.244.0.0/24 lookup 18007 priority 1070 proto 70"
        ]
    );
}

#[test]
fn nodes_that_cannot_be_reached_are_named_with_the_reason() {
    assert_eq!(
        planned(&[
            node("w1", &[], &["192.168.14.51"]),
            node("w2", &["10.244.2.0/24"], &[]),
            node("w4", &["10.244.4.0/24"], &["192.168.14.50"]),
        ]),
        [
            "node w1 has no pod CIDR",
            "node w2 has no internal address for its pod CIDR 10.244.2.0/24",
            "node w4 claims 192.168.14.50, which is an address of this node, and has no other",
        ],
    );
}

#[test]
fn a_node_whose_own_address_is_on_none_of_its_links_begins_no_tunnel() {
    let own = node("m", &["10.244.0.0/24"], &["203.0.113.1"]);
    let addresses = vec![address(2, "192.168.14.50/24")];
    let site = Site::new(RouteMode::Auto, Some(&own), addresses, &BTreeMap::new());

    let planned = planned_by(site, &[node("w3", &["10.244.3.0/24"], &["192.168.15.53"])]);

    assert_eq!(planned.len(), 1);
    assert!(
        planned[0].starts_with("node w3 at 192.168.15.53 is on none of this node's links, and no tunnel")
    );
}

#[test]
fn a_tunnel_goes_on_where_it_began_while_the_node_s_address_is_gone_for_a_moment() {
    let own = node("m", &["10.244.0.0/24"], &["192.168.14.50"]);
    let before = site(RouteMode::Auto).ends;
    let site_of = |own: &Node, addresses| Site::new(RouteMode::Auto, Some(own), addresses, &before);
    let end = |ip: &str| (Family::Ip, ip.parse::<IpAddr>().unwrap());

    let without = site_of(&own, vec![]);
    assert_eq!(without.ends, [end("192.168.14.50")].into());
    assert_eq!(without.adrift().collect::<Vec<_>>(), [end("192.168.14.50").1]);

    // One that is to come takes its place when it is there.
    let moved = node("m", &["10.244.0.0/24"], &["192.168.14.60"]);
    assert_eq!(site_of(&moved, vec![address(2, "192.168.14.50/24")]).ends, without.ends);
    let there = site_of(&moved, vec![address(2, "192.168.14.60/24")]);
    assert_eq!(there.ends, [end("192.168.14.60")].into());
    assert_eq!(there.adrift().count(), 0);
}

#[test]
fn tunnels_end_wherever_others_may_send_through_them() {
    let inbound = |mode, others: &[Node]| routing(site(mode), others).inbound();
    let near_by_ipv6 = node("w6", &["fd00:6::/64"], &["fd00:14::56"]);

    assert_eq!(inbound(RouteMode::Auto, &[]), [Family::Ip].into());
    assert_eq!(
        inbound(RouteMode::Auto, std::slice::from_ref(&near_by_ipv6)),
        [Family::Ip, Family::Ip6].into()
    );
    assert_eq!(inbound(RouteMode::Direct, std::slice::from_ref(&near_by_ipv6)), BTreeSet::new());
    // What pods may send is for this node's own ways to say.
    assert_eq!(routing(site(RouteMode::Auto), [&near_by_ipv6]).families(), BTreeSet::new());
    assert_eq!(routing(site(RouteMode::Vxlan), []).families(), [Family::Ip].into());
}

#[test]
fn a_tunnel_that_is_needed_and_cannot_begin_is_told_from_one_that_nobody_needs() {
    let own = node("m", &["10.244.0.0/24"], &["203.0.113.1"]);
    let lacks_end = |mode, others: &[Node]| {
        let site = Site::new(mode, Some(&own), vec![address(2, "192.168.14.50/24")], &BTreeMap::new());
        routing(site, others).lacks_end()
    };
    let (near, far) = (
        node("w1", &["10.244.1.0/24"], &["192.168.14.51"]),
        node("w3", &["10.244.3.0/24"], &["192.168.15.53"]),
    );

    assert!(!lacks_end(RouteMode::Auto, std::slice::from_ref(&near)));
    assert!(lacks_end(RouteMode::Auto, &[near, far]));
    assert!(lacks_end(RouteMode::Vxlan, &[]));
    assert!(!lacks_end(RouteMode::Direct, &[]));
    assert!(!routing(site(RouteMode::Vxlan), []).lacks_end());
}

#[test]
fn what_is_on_a_device_stays_while_what_is_to_take_its_place_cannot_be_planned() {
    let far = node("w3", &["10.244.3.0/24"], &["192.168.15.53"]);
    let near = node("w1", &["10.244.1.0/24"], &["192.168.14.51"]);
    let held = routing(site(RouteMode::Auto), [&far, &near]).objects();

    let Steps { put, gone } = steps(&held, &BTreeSet::new()).sparing(&[7].into());

    assert!(put.is_empty(), "{put:?}");
    assert_eq!(lines(gone), ["10.244.1.0/24 via 192.168.14.51 dev 2 proto 70"]);
}

#[test]
fn what_is_left_over_is_replaced_and_what_was_refused_has_no_place_to_be_taken() {
    let at = |ip: &str| routing(site(RouteMode::Auto), [&node("w1", &["10.244.1.0/24"], &[ip])]).objects();
    let (old, new) = (at("192.168.14.51"), at("192.168.14.52"));
    let keys: BTreeSet<Key> = new.iter().map(Object::key).collect();
    let is_rival_there = |steps: Steps| steps.put.iter().map(|put| put.is_rival_there).collect::<Vec<_>>();

    let none = BTreeSet::new();
    assert_eq!(is_rival_there(steps(&none, &new).knowing(&keys, &BTreeSet::new())), [true]);
    assert_eq!(is_rival_there(steps(&old, &new).knowing(&BTreeSet::new(), &keys)), [false]);
    assert_eq!(is_rival_there(steps(&old, &new).knowing(&BTreeSet::new(), &BTreeSet::new())), [true]);
}

#[test]
fn a_pod_cidr_goes_to_one_node_only_and_never_away_from_ours() {
    assert_eq!(
        planned(&[
            node("w2", &["10.244.1.0/24"], &["192.168.14.52"]),
            node("w1", &["10.244.1.0/24"], &["192.168.14.51"]),
            node("w3", &["10.244.0.0/24"], &["192.168.14.53"]),
        ]),
        [
            "10.244.1.0/24 via 192.168.14.51 dev 2 proto 70",
            "node w2 shares its pod CIDR 10.244.1.0/24 with another node",
            "node w3 shares its pod CIDR 10.244.0.0/24 with another node",
        ],
    );
}

#[test]
fn a_hardware_address_is_of_one_machine() {
    let ends = ["192.168.14.51", "192.168.15.51", "fd00::51", "fd00:14::51"].map(|ip| ip.parse().unwrap());
    let macs: BTreeSet<_> = ends.map(tunnel::mac).into_iter().collect();

    assert_eq!(macs.len(), ends.len());
    assert!(macs.iter().all(|mac| mac.is_unicast() && mac.0[0] & 0b10 != 0));
}

/// Nodes of few names, CIDRs and addresses, so that they clash: near ones and far ones.
fn any_node() -> impl Strategy<Value = Node> {
    let cidrs = ["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/25", "10.244.3.0/24", "fd00:1::/64"];
    let parts = (0..4u8, subsequence(cidrs.to_vec(), 0..3), subsequence(NODE_IPS.to_vec(), 0..3));
    parts.prop_map(|(name, cidrs, ips)| node(&format!("w{name}"), &cidrs, &ips))
}

/// The nodes as the state holds them: one of each name.
fn by_name(nodes: &[Node]) -> BTreeMap<Arc<str>, Node> {
    nodes.iter().map(|node| (node.name.name.clone(), node.clone())).collect()
}

/// What the kernel holds, one object for each key.
type Held = BTreeMap<Key, Object>;

fn put(held: &mut Held, put: &objects::Put) {
    let rival = held.insert(put.object.key(), put.object);
    assert_eq!(rival.is_some(), put.is_rival_there, "{put:?}");
}

/// Which machine a packet to the pods of a CIDR comes to.
fn destination(held: &Held, cidr: IpNetwork) -> Option<IpAddr> {
    led_by(held, Table::Main, cidr)
}

/// The addresses of nodes.
const NODE_IPS: [&str; 8] = [
    "192.168.14.51",
    "192.168.14.52",
    "192.168.15.51",
    "192.168.15.52",
    "fd00:14::51",
    "fd00:15::51",
    // And those of pods, which no node has.
    "10.244.1.7",
    "fd00:1::7",
];

/// Where a packet of one of our pods to a node's own address goes.
#[derive(Debug, PartialEq)]
enum Led {
    /// As what this node itself sends.
    AsUsual,
    /// Through a tunnel to this machine.
    Through(IpAddr),
    Nowhere,
}

fn to_node(held: &Held, ip: &str) -> Led {
    let ip: IpAddr = ip.parse().unwrap();
    let pods = if ip.is_ipv4() { "10.244.0.0/24" } else { "fd00:0::/64" };
    let is_led = held.contains_key(&Key::Rule(Rule::of_source(pods.parse().unwrap())))
        && held.contains_key(&Key::Route(Table::Own, ip.into(), None));
    if !is_led {
        return Led::AsUsual;
    }
    led_by(held, Table::Own, ip.into()).map_or(Led::Nowhere, Led::Through)
}

fn led_by(held: &Held, table: Table, destination: IpNetwork) -> Option<IpAddr> {
    let route = held.get(&Key::Route(table, destination, None))?;
    let Object::Route(Route { gateway: Some(gateway), link, .. }) = *route else { return None };
    if link == 2 {
        return Some(gateway);
    }
    let Object::Neighbour(Neighbour { mac: Some(mac), .. }) = *held.get(&Key::Neighbour(link, gateway))?
    else {
        return None;
    };
    let Object::Forwarding(Forwarding { remote, .. }) = *held.get(&Key::Forwarding(link, mac))? else {
        return None;
    };
    Some(remote)
}

fn cidrs_of(objects: &BTreeSet<Object>) -> BTreeSet<IpNetwork> {
    let destination = |object: &Object| match object {
        Object::Route(route) if route.table == Table::Main => Some(route.destination),
        _ => None,
    };
    objects.iter().filter_map(destination).collect()
}

fn held(objects: &BTreeSet<Object>) -> Held {
    objects.iter().map(|object| (object.key(), *object)).collect()
}

proptest! {
    #[test]
    fn the_steps_make_one_set_the_other(before in vec(any_node(), 0..6), after in vec(any_node(), 0..6)) {
        let old = routing(site(RouteMode::Auto), by_name(&before).values()).objects();
        let new = routing(site(RouteMode::Auto), by_name(&after).values()).objects();
        let mut kernel = held(&old);
        prop_assert_eq!(steps(&old, &old), Steps::default());

        let Steps { put: puts, gone } = steps(&old, &new);
        for one in &puts {
    put(&mut kernel, one);
}
        for object in gone {
            prop_assert_eq!(kernel.remove(&object.key()), Some(object));
        }

        prop_assert_eq!(kernel, held(&new));
    }

    #[test]
    fn on_the_way_every_packet_comes_to_where_it_was_sent_before_or_is_sent_from_now_on(
        before in vec(any_node(), 0..6),
        after in vec(any_node(), 0..6),
    ) {
        let old = routing(site(RouteMode::Auto), by_name(&before).values()).objects();
        let new = routing(site(RouteMode::Auto), by_name(&after).values()).objects();
        let (was, will_be) = (held(&old), held(&new));
        let mut kernel = was.clone();
        let check = |kernel: &Held| {
            for &cidr in &cidrs_of(&old) {
                let at = destination(kernel, cidr);
                // A CIDR that becomes longer or shorter is the same pods.
                let heirs = cidrs_of(&new).into_iter().filter(|heir| heir.network() == cidr.network());
                let right: Vec<_> = heirs.chain([cidr]).map(|heir| destination(&will_be, heir)).chain([destination(&was, cidr)]).collect();
                prop_assert!(right.contains(&at), "{cidr}: {at:?} of {right:?}");
            }
            for &cidr in &cidrs_of(&new) {
                let at = destination(kernel, cidr);
                prop_assert!(!kernel.contains_key(&Key::Route(Table::Main, cidr, None)) || at.is_some(), "{cidr} leads nowhere");
            }
            for ip in NODE_IPS {
                let (at, right) = (to_node(kernel, ip), [to_node(&was, ip), to_node(&will_be, ip)]);
                prop_assert!(right.contains(&at) && at != Led::Nowhere, "{ip}: {at:?} of {right:?}");
            }
            Ok(())
        };

        let Steps { put: puts, gone } = steps(&old, &new);
        for one in &puts {
            put(&mut kernel, one);
            check(&kernel)?;
        }
        for &cidr in &cidrs_of(&new) {
            prop_assert_eq!(destination(&kernel, cidr), destination(&will_be, cidr), "reachable before chosen");
        }
        for object in gone {
            kernel.remove(&object.key());
            check(&kernel)?;
        }
    }

    #[test]
    fn followed_node_by_node_it_is_as_if_planned_at_once(changes in vec((any_node(), any::<bool>()), 0..12)) {
        let mut nodes = BTreeMap::new();
        let mut followed = routing(site(RouteMode::Auto), []);
        let mut kernel = Held::new();
        let mut told = BTreeSet::new();
        for (node, is_gone) in changes {
            let name = node.name.name.clone();
            if is_gone { nodes.remove(&name); } else { nodes.insert(name.clone(), node); }

            let Steps { put: puts, gone } = followed.follow([(&*name, nodes.get(&name))]);
            for one in &puts {
    put(&mut kernel, one);
}
            for object in gone {
                prop_assert_eq!(kernel.remove(&object.key()), Some(object));
            }

            let planned = routing(site(RouteMode::Auto), nodes.values());
            prop_assert_eq!(followed.objects(), planned.objects());
            prop_assert_eq!(&kernel, &held(&planned.objects()));
            prop_assert_eq!(followed.unreachable(), planned.unreachable());
            if followed.take_unreachable_changed() {
                told = followed.unreachable();
            }
            prop_assert_eq!(&told, &planned.unreachable());
            prop_assert_eq!(followed.ways(), planned.ways());
            prop_assert_eq!(followed.families(), planned.families());
            prop_assert_eq!(followed.inbound(), planned.inbound());
            prop_assert!(planned.inbound().is_superset(&planned.families()));
            prop_assert!(kernel.values().all(|object| followed.object(&object.key()) == Some(object)));
        }
    }

    #[test]
    fn many_nodes_followed_at_once_are_as_if_followed_one_by_one(
        before in vec(any_node(), 0..6),
        after in vec(any_node(), 0..6),
    ) {
        let (before, after) = (by_name(&before), by_name(&after));
        let mut followed = routing(site(RouteMode::Auto), before.values());
        let old = followed.objects();
        let names: BTreeSet<_> = before.keys().chain(after.keys()).cloned().collect();

        let told = followed.follow(names.iter().map(|name| (&**name, after.get(name))));

        let new = routing(site(RouteMode::Auto), after.values()).objects();
        prop_assert_eq!(told, steps(&old, &new));
    }
}

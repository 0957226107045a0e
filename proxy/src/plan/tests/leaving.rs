//! What leaves pods: masqueraded to the outside, and nowhere else.

use std::{collections::BTreeMap, sync::Arc};

use ipnetwork::IpNetwork;

use super::*;
use crate::objects::{self, Object};

/// A node of the cluster.
fn member(name: &str, pod_cidrs: &[&str], internal_ips: &[&str]) -> objects::Node {
    let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNetwork>>();
    let json = serde_json::json!({
        "kind": "Node",
        "metadata": { "name": name },
        "spec": { "podCIDRs": parse(pod_cidrs).iter().map(ToString::to_string).collect::<Vec<_>>() },
        "status": {
            "addresses": internal_ips.iter().map(|ip| serde_json::json!({ "type": "InternalIP", "address": ip })).collect::<Vec<_>>(),
        },
    });
    match Object::parse(json).unwrap().unwrap() {
        Object::Node(node) => Arc::unwrap_or_clone(node),
        other => panic!("{other:?}"),
    }
}

/// A node of ours in such a cluster.
fn node_in(cluster: &[objects::Node], excepted: Option<Vec<IpNetwork>>) -> Node {
    let settings = Settings { unmasqueraded_by_pods: excepted, ..in_cluster() };
    let mut node = Node::within(&settings, &surroundings(cluster));
    for member in cluster {
        node.planner.set_node(&member.name.name, Some(member));
    }
    node.commit();
    node
}

/// What the first of these nodes hears of all.
fn surroundings(cluster: &[objects::Node]) -> Surroundings {
    let pod_cidrs = cluster.first().map(|own| own.pod_cidrs.clone()).unwrap_or_default();
    Surroundings { pod_cidrs, ..Surroundings::default() }
}

fn cluster() -> [objects::Node; 3] {
    [
        member("m", &["10.244.0.0/24"], &["192.168.14.50"]),
        member("w1", &["10.244.1.0/24"], &["192.168.14.128", "192.168.15.51"]),
        member("w2", &["10.245.0.0/22"], &["192.168.14.52"]),
    ]
}

/// How a packet of the pod goes that asks this address.
fn to(node: &Node, destination: &str) -> String {
    node.ways(&packet("10.244.0.7", &format!("{destination}:53")))
}

#[test]
fn pods_are_masqueraded_to_the_outside_and_never_to_pods_and_nodes() {
    let node = node_in(&cluster(), Some(vec!["172.16.0.0/12".parse().unwrap()]));

    for outside in ["203.0.113.9", "192.168.14.1", "10.244.2.1", "10.245.4.1", "10.244.1.128", "10.10.0.1"] {
        let is_pod = outside == "10.244.1.128"; // which is what stands for its network in the set
        assert_eq!(
            to(&node, outside),
            if is_pod { "untouched" } else { "untouched masqueraded" },
            "{outside}"
        );
    }
    let inside =
        ["10.244.0.9", "10.244.1.1", "10.245.3.255", "192.168.14.128", "192.168.15.51", "172.20.0.1"];
    for inside in inside.into_iter().chain(["224.0.0.251"]) {
        assert_eq!(to(&node, inside), "untouched", "{inside}");
    }
    for other in ["10.244.1.7", "192.168.14.50", "203.0.113.1"] {
        assert_eq!(
            node.ways(&packet(other, "203.0.113.9:53")),
            "untouched",
            "{other} is no pod of this node"
        );
    }
}

#[test]
fn an_endpoint_outside_gets_an_address_that_it_can_answer_and_pods_see_each_other_through_a_service() {
    let mut node = node_in(&cluster(), Some(Vec::new()));
    let [outside, inside] = ["203.0.113.9:6443", "10.244.1.2:6443"];
    for (service, ip, endpoint) in [("api", "10.96.0.1", outside), ("web", "10.96.0.2", inside)] {
        let mut service_port = port(ip, &[2]);
        service_port.endpoints[0].address = endpoint.parse().unwrap();
        node.set(&name(service), Some(&service_port));
    }

    assert_eq!(to_port(&node, "10.96.0.1:80"), format!("{outside} masqueraded"));
    assert_eq!(to_port(&node, "10.96.0.2:80"), inside);
}

fn to_port(node: &Node, destination: &str) -> String {
    node.ways(&packet("10.244.0.7", destination))
}

#[test]
fn without_own_pods_or_where_others_lead_to_them_nothing_is_masqueraded_for_leaving() {
    let others_do_it = node_in(&cluster(), None);
    let without_pods = node_in(&[member("m", &[], &["192.168.14.50"])], Some(Vec::new()));

    for node in [others_do_it, without_pods] {
        assert_eq!(to(&node, "203.0.113.9"), "untouched");
    }
}

#[test]
fn a_node_that_leaves_is_inside_until_nothing_leads_to_it_any_more() {
    let mut node = node_in(&cluster(), Some(Vec::new()));

    node.planner.set_node("w1", None);
    node.planner.set_node("w2", None); // no other pod CIDR is as long as its own
    for _ in 0..2 {
        assert_eq!(to(&node, "10.244.1.1"), "untouched");
        assert_eq!(to(&node, "10.245.3.255"), "untouched");
        assert!(!node.planner.is_settled());
        node.planner.retire();
        node.commit();
    }

    assert!(node.planner.is_settled());
    assert_eq!(to(&node, "10.244.1.1"), "untouched masqueraded");
    assert_eq!(to(&node, "10.245.3.255"), "untouched masqueraded");
    assert_eq!(to(&node, "192.168.14.128"), "untouched masqueraded");
    assert!(!node.table().to_string().contains("255.255.254.0"), "no rule is left for its length");
}

#[test]
fn nodes_alone_may_send_tunnels_packets() {
    let settings =
        Settings { overlay_port: Some(8472), unmasqueraded_by_pods: Some(Vec::new()), ..in_cluster() };
    let mut node = Node::within(&settings, &surroundings(&cluster()));
    node.planner.set_node("w1", Some(&cluster()[1]));
    node.commit();
    let sent_by = |source: &str, protocol, to: &str| {
        node.ways(&Packet { payload: Payload::Transport(protocol), ..packet(source, to) })
    };

    assert_eq!(sent_by("192.168.15.51", Protocol::Udp, "192.168.14.50:8472"), "untouched");
    assert_eq!(sent_by("192.168.15.52", Protocol::Udp, "192.168.14.50:8472"), "dropped");
    assert_eq!(sent_by("10.244.0.7", Protocol::Udp, "192.168.14.50:8472"), "dropped", "pods send none");
    for (protocol, to) in [
        (Protocol::Udp, "192.168.14.50:8473"),
        (Protocol::Tcp, "192.168.14.50:8472"),
        (Protocol::Udp, "10.244.1.7:8472"), // a pod's own port of that number
    ] {
        assert_eq!(sent_by("192.168.15.52", protocol, to), "untouched", "{protocol} {to}");
    }
}

#[test]
fn a_new_start_writes_nothing_of_nodes_that_stayed_and_forgets_those_that_left() {
    let mut node = node_in(&cluster(), Some(Vec::new()));
    let settings = Settings { unmasqueraded_by_pods: Some(Vec::new()), ..in_cluster() };

    for (stayed, gone) in [(3, 0), (2, 2)] {
        node.planner = Planner::within(&Family::ALL, &settings, &surroundings(&cluster()));
        for family in Family::ALL {
            let held = Held::from(node.kernel.table(family).unwrap());
            assert!(node.planner.adopt(held).unwrap().is_empty());
        }
        for member in &cluster()[..stayed] {
            node.planner.set_node(&member.name.name, Some(member));
        }
        node.planner.disclaim();

        assert_eq!(node.commit().elements(), (0, gone));
    }
    assert_eq!(to(&node, "10.245.3.255"), "untouched masqueraded");
}

#[test]
fn where_nodes_were_not_told_from_strangers_nobody_is_masqueraded_before_they_are() {
    let mut old = node_in(&cluster(), None).table().clone();
    old.maps.retain(|name, _| !["pods", "nodes"].contains(&&**name)); // as a build has left it that did not masquerade
    let settings = Settings { unmasqueraded_by_pods: Some(Vec::new()), ..in_cluster() };
    let mut node = Node::within(&settings, &surroundings(&cluster()));
    node.kernel = Fake::default();
    let mut everything = Transaction::default();
    everything.replace(&old);
    node.kernel.commit(&everything).unwrap();

    let mend = node.planner.adopt(Held::from(&old)).unwrap();
    node.kernel.commit(&mend).unwrap();
    assert_eq!([to(&node, "203.0.113.9"), to(&node, "10.244.1.1")], ["untouched"; 2], "{mend}");
    for member in &cluster() {
        node.planner.set_node(&member.name.name, Some(member));
    }
    assert_eq!(node.planner.take_chains(), Transaction::default());
    let at_once = node.planner.take();
    node.kernel.commit(&at_once).unwrap();

    assert_eq!([to(&node, "203.0.113.9"), to(&node, "10.244.1.1")], ["untouched masqueraded", "untouched"]);
}

/// Networks that overlap, begin alike, and stand for each other in the set.
fn networks() -> impl Strategy<Value = Vec<IpNetwork>> {
    let network = (0..4_u8, prop_oneof![Just(0_u8), Just(64), Just(128), Just(192)], 14..=32_u8);
    let network = network.prop_map(|(third, fourth, prefix)| {
        let network = IpNetwork::new([10, 244, third, fourth].into(), prefix).unwrap();
        IpNetwork::new(network.network(), prefix).unwrap()
    });
    proptest::collection::vec(network, 0..3)
}

fn destination() -> impl Strategy<Value = IpAddr> {
    let octet = || prop_oneof![0..5_u8, 62..66_u8, 126..130_u8, 190..194_u8, 254..=255_u8];
    (prop_oneof![Just(240_u8), 243..246_u8], octet(), octet()).prop_map(|(b, c, d)| [10, b, c, d].into())
}

proptest! {
    #[test]
    fn whoever_is_in_no_node_s_networks_and_has_no_node_s_address_is_outside(
        history in proptest::collection::vec((0..3_u8, proptest::option::of((networks(), destination()))), 1..6),
        destinations in proptest::collection::vec(destination(), 1..20),
    ) {
        let own = member("m", &["10.99.0.0/24"], &["192.168.14.50"]);
        let mut node = node_in(std::slice::from_ref(&own), Some(Vec::new()));
        let mut members = BTreeMap::new();
        for (name, member) in history {
            let name = format!("w{name}");
            let object = member.map(|(pod_cidrs, ip)| objects::Node { pod_cidrs, internal_ips: vec![ip], ..own.clone() });
            node.planner.set_node(&name, object.as_ref());
            match object {
                Some(object) => drop(members.insert(name, object)),
                None => drop(members.remove(&name)),
            }
            for _ in 0..2 {
                node.planner.retire();
                node.commit();
            }
        }

        for destination in destinations {
            let is_inside = members.values().any(|member| {
                member.pod_cidrs.iter().any(|cidr| cidr.contains(destination))
                    || member.internal_ips.contains(&destination)
            });
            let expected = if is_inside { "untouched" } else { "untouched masqueraded" };
            let ways = node.ways(&packet("10.99.0.7", &format!("{destination}:80")));
            prop_assert_eq!(ways, expected, "{} with {:?}", destination, members);
        }
    }
}

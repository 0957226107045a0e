use dataplane::rtnl::AddressFlags;

use super::*;
use crate::objects::ObjectName;

/// A node by name, pod CIDRs and internal addresses.
fn node(name: &str, pod_cidrs: &[&str], internal_ips: &[&str]) -> Node {
    Node {
        name: ObjectName { namespace: "".into(), name: name.into() },
        pod_cidrs: pod_cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        internal_ips: internal_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        external_ips: Vec::new(),
        zone: None,
        is_leaving: false,
    }
}

/// What node `m` plans, with an address of each family on link 2 and a pod on link 9.
fn planned(others: &[Node]) -> Vec<String> {
    let address = |link, network: &str| Address {
        link,
        network: network.parse().unwrap(),
        flags: AddressFlags::default(),
    };
    let addresses = [
        address(1, "127.0.0.1/8"),
        address(2, "192.168.14.50/24"),
        address(2, "fd00:14::50/64"),
        address(9, "169.254.1.1/32"),
    ];
    let own = node("m", &["10.244.0.0/24", "fd00:0::/64"], &["192.168.14.50", "fd00:14::50"]);
    let plan = plan(others.iter().chain([&own]), "m", &addresses);
    let routes = plan.routes.iter().map(Route::to_string);
    routes.chain(plan.unreachable.iter().map(Unreachable::to_string)).collect()
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
fn nodes_that_cannot_be_reached_are_named_with_the_reason() {
    assert_eq!(
        planned(&[
            node("w1", &[], &["192.168.14.51"]),
            node("w2", &["10.244.2.0/24"], &[]),
            node("w3", &["10.244.3.0/24"], &["172.16.0.3"]),
            node("w4", &["fd00:4::/64"], &["192.168.14.54"]),
        ]),
        [
            "node w1 has no pod CIDR",
            "node w2 has no internal address for its pod CIDR 10.244.2.0/24",
            "node w3 at 172.16.0.3 is on none of this node's links",
            "node w4 has no internal address for its pod CIDR fd00:4::/64",
        ],
    );
}

#[test]
fn a_pod_cidr_goes_to_one_node_only_and_never_away_from_ours() {
    assert_eq!(
        planned(&[
            node("w1", &["10.244.1.0/24"], &["192.168.14.51"]),
            node("w2", &["10.244.1.0/24"], &["192.168.14.52"]),
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
fn a_node_that_claims_our_own_address_is_not_routed_to() {
    assert_eq!(
        planned(&[node("w1", &["10.244.1.0/24"], &["192.168.14.50"])]),
        ["node w1 at 192.168.14.50 is on none of this node's links"],
    );
}

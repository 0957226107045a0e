//! Numbers at their limits: found in a table that others have touched, used up, and given out again.

use std::{collections::BTreeSet, ops::Range};

use dataplane::nft::Chain;

use super::*;

#[test]
fn what_others_added_while_nobody_looked_is_taken_for_nothing_of_ours() {
    let mut node = Node::new(&Settings::default());
    let service = ServicePort {
        load_balancer_ips: vec![[192, 0, 2, 1].into()],
        source_ranges: vec!["10.9.0.0/16".parse().unwrap()],
        external_policy: TrafficPolicy::Local,
        ..port("10.96.0.1", &[2, 3])
    };
    node.set(&name("web"), Some(&service));
    let mut foreign = node.table().clone();
    for (map, key) in [("splits-near", 5), ("splits-local", 0xffff_ffff), ("guarded", 7), ("choices", 9)] {
        let elements = &mut foreign.maps.get_mut(map).unwrap().elements;
        elements.insert(Key::Number(key), Data::Number(1).into());
    }
    let slots = &mut foreign.maps.get_mut("slots").unwrap().elements;
    slots.insert(Key::Number(0x7fff_ffff), Data::Endpoint(([192, 0, 2, 66], 1).into()).into());
    for chain in ["rr-1-of-9-at-4294967290", "rr-536870912-of-2-at-1", "sticky-4294967295-of-2-at-3-for-60"] {
        foreign.chains.insert(chain.into(), Chain { hook: None, rules: Vec::new() });
    }
    let mut everything = Transaction::default();
    everything.replace(&foreign);
    node.kernel.commit(&everything).unwrap();

    node.planner = Planner::within(&Family::ALL, &Settings::default(), &Surroundings::default());
    for family in Family::ALL {
        let held = Held::from(node.kernel.table(family).unwrap());
        let mend = node.planner.adopt(held).unwrap();
        node.kernel.commit(&mend).unwrap();
    }
    node.planner.set(&name("web"), Family::Ip, Some(&service));
    node.planner.disclaim();
    node.commit();

    let another = ServicePort { load_balancer_ips: vec![[192, 0, 2, 2].into()], ..service.clone() };
    node.set(&name("another"), Some(&ServicePort { cluster_ip: [10, 96, 0, 2].into(), ..another }));
    for ip in ["10.96.0.1", "10.96.0.2"] {
        let ways = node.ways(&packet("10.9.0.1", &format!("{ip}:80")));
        assert_eq!(ways.split(", ").count(), 2, "{ways}");
    }
    for ip in ["192.0.2.1", "192.0.2.2"] {
        assert_eq!(node.ways(&packet("10.9.0.1", &format!("{ip}:80"))), "dropped", "no local endpoint");
    }
}

/// A packet may have read the guard when the ranges go: it must not meet those of another service, and go there.
#[test]
fn the_number_of_a_guard_that_goes_at_once_is_nobody_else_s() {
    let mut node = Node::new(&Settings::default());
    let service = |n: u8, ranges: &[&str]| ServicePort {
        load_balancer_ips: vec![[192, 0, 2, n].into()],
        source_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        ..port(&format!("10.96.0.{n}"), &[2])
    };
    node.set(&name("a"), Some(&service(1, &["10.9.0.0/16"])));
    let guards = |node: &Node| node.table().maps["guards"].elements.keys().copied().collect::<Vec<_>>();
    let before = guards(&node);

    node.planner = Planner::within(&Family::ALL, &Settings::default(), &Surroundings::default());
    for family in Family::ALL {
        node.planner.adopt(Held::from(node.kernel.table(family).unwrap())).unwrap();
    }
    node.planner.set(&name("a"), Family::Ip, Some(&service(1, &[])));
    node.planner.set(&name("b"), Family::Ip, Some(&service(2, &["10.8.0.0/16"])));
    node.planner.disclaim();
    node.commit();

    assert_eq!((before.len(), guards(&node).len()), (1, 1));
    assert_ne!(before, guards(&node));
}

/// A sticky service with endpoints 10.245.0.0 and so on, of which these are taken.
fn large_and_sticky(endpoints: Range<u32>) -> ServicePort {
    let ip = |n: u32| IpAddr::from((0x0af5_0000 + n).to_be_bytes());
    let endpoints = endpoints.map(|n| Endpoint::new(SocketAddr::new(ip(n), 8080), false)).collect();
    let service = ServicePort::new("10.96.0.1".parse().unwrap(), 80, endpoints);
    ServicePort { affinity_seconds: Some(60), ..service }
}

#[test]
fn ids_of_endpoints_that_leave_are_given_to_nobody_before_their_slots_are_gone() {
    let mut node = Node::new(&Settings::default());
    node.set(&name("web"), Some(&large_and_sticky(0..2_500)));

    node.set(&name("web"), Some(&large_and_sticky(2_500..5_000)));
    node.set(&name("web"), Some(&large_and_sticky(4_000..6_500)));

    let ways = trace(node.table(), &packet("10.244.2.9", "10.96.0.1:80"));
    let met: BTreeSet<_> = ways.into_iter().collect();
    assert_eq!(met.len(), 2_500);
}

#[test]
fn of_a_sticky_service_as_many_endpoints_are_served_as_it_has_ids_for() {
    let mut node = Node::new(&Settings::default());
    node.set(&name("web"), Some(&large_and_sticky(10..4_200)));

    for endpoints in [0..4_200, 100..4_190, 0..4_095, 2_000..6_100] {
        node.set(&name("web"), Some(&large_and_sticky(endpoints.clone())));

        let ways = trace(node.table(), &packet("10.244.2.9", "10.96.0.1:80"));
        let met: BTreeSet<_> = ways.into_iter().collect();
        assert_eq!(met.len(), endpoints.len().min(4_095));
    }
}

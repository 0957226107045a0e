//! The ways to choose an endpoint, and what a change from one to another costs.

use super::*;
use crate::service_port::Balancing;

fn balanced(balancing: Balancing, endpoints: &[i16]) -> ServicePort {
    ServicePort { balancing, ..port("10.96.0.1", endpoints) }
}

/// The endpoints 10.244.1.2, .3, … of these weights.
fn weighed(weights: &[u32]) -> ServicePort {
    let numbers: Vec<_> = (2..).take(weights.len()).collect();
    let mut port = port("10.96.0.1", &numbers);
    port.endpoints.iter_mut().zip(weights).for_each(|(endpoint, weight)| endpoint.weight = *weight);
    port
}

fn client() -> Packet {
    packet("10.244.2.9", "10.96.0.1:80")
}

/// How many elements go and come, and how much else, when a service of these endpoints becomes the other one.
fn cost(before: &ServicePort, after: &ServicePort) -> (usize, usize, usize) {
    let mut node = Node::new(&Settings::default());
    node.set(&name("web"), Some(before));
    shape(&node.set(&name("web"), Some(after)).0)
}

#[test]
fn who_weighs_more_comes_more_often_and_not_all_at_once() {
    check(&weighed(&[3, 1]), &client(), "10.244.1.2:8080, 10.244.1.3:8080, 10.244.1.2:8080, 10.244.1.2:8080");
}

#[test]
fn at_random_anybody_may_come() {
    let service = balanced(Balancing::Random, &[2, 3]);
    check(&service, &client(), "10.244.1.3:8080, 10.244.1.2:8080");
}

#[test]
fn a_client_s_hash_leaves_no_choice() {
    let service = balanced(Balancing::SourceHash, &[2, 3]);
    check(&service, &client(), "10.244.1.2:8080");
    check(&ServicePort { affinity_seconds: Some(60), ..service }, &client(), "10.244.1.2:8080");
}

/// Tables of earlier versions are understood by these names: another name costs sticky clients their endpoint when the daemon is replaced.
#[test]
fn chains_are_named_by_how_they_choose() {
    let mut node = Node::new(&Settings::default());
    node.set(&name("a"), Some(&balanced(Balancing::Random, &[2, 3])));
    let sticky = ServicePort { affinity_seconds: Some(60), ..balanced(Balancing::SourceHash, &[2, 3]) };
    node.set(&name("b"), Some(&ServicePort { cluster_ip: "10.96.0.2".parse().unwrap(), ..sticky }));
    let sticky = ServicePort { affinity_seconds: Some(60), ..port("10.96.0.3", &[2, 3]) };
    node.set(&name("c"), Some(&sticky));

    for chain in ["random-1-of-2-at-1", "hash-2-of-1024-at-17-for-60", "sticky-3-of-2-at-8209-for-60"] {
        assert!(node.table().chains.contains_key(chain), "{chain}");
    }
}

#[test]
fn a_replaced_endpoint_takes_over_all_its_turns() {
    let mut after = weighed(&[3, 1]);
    after.endpoints[0].address.set_ip("10.244.1.9".parse().unwrap());

    assert_eq!(cost(&weighed(&[3, 1]), &after), (3, 3, 0));
}

#[test]
fn an_endpoint_that_leaves_a_hash_costs_its_own_slots() {
    let (three, two) =
        (balanced(Balancing::SourceHash, &[2, 3, 4]), balanced(Balancing::SourceHash, &[2, 4]));
    let mut node = Node::new(&Settings::default());
    node.set(&name("web"), Some(&three));
    let leaver = Data::Endpoint("10.244.1.3:8080".parse().unwrap());
    let slots = node.table().maps["slots"].elements.values().filter(|element| element.data == leaver).count();

    assert!((250..430).contains(&slots), "{slots} of 1024");
    assert_eq!(cost(&three, &two), (slots, slots, 0));
    assert_eq!(cost(&two, &three), (slots, slots, 0));
}

#[test]
fn another_way_to_choose_is_another_class_and_nothing_stays_behind() {
    let mut node = Node::new(&Settings::default());
    for balancing in [Balancing::RoundRobin, Balancing::SourceHash, Balancing::Random, Balancing::RoundRobin]
    {
        node.set(&name("web"), Some(&balanced(balancing, &[2, 3])));
        let slots = if balancing == Balancing::SourceHash { 1024 } else { 2 };
        assert_eq!(node.table().maps["slots"].elements.len(), slots, "{balancing:?}");
    }
}

//! How turns are laid out, and kept where endpoints change.

use super::*;

fn address(number: u32) -> SocketAddr {
    SocketAddr::from(([10, 244, 1, u8::try_from(number).unwrap()], 80))
}

/// An order of endpoints 10.244.1.1, .2, … of these weights.
fn order(balancing: Balancing, weights: &[u32]) -> Order<SocketAddr> {
    let endpoint =
        |(weight, number): (&u32, u32)| Endpoint { weight: *weight, ..Endpoint::new(address(number), false) };
    let endpoints: Vec<_> = weights.iter().zip(1..).map(endpoint).collect();
    Order::of(&endpoints, balancing)
}

/// The last byte of each endpoint.
fn line(order: &Order<SocketAddr>) -> String {
    let numbers = order.slots.iter().map(|slot| match slot.ip() {
        std::net::IpAddr::V4(address) => address.octets()[3].to_string(),
        std::net::IpAddr::V6(address) => address.to_string(),
    });
    numbers.collect::<Vec<_>>().join(" ")
}

/// The places held by `before`, once they are those of `after`.
fn kept(before: &[u32], after: &[u32]) -> String {
    let all = |weights: &[u32]| {
        let places = weights.iter().map(|number| address(*number)).collect();
        Order { balancing: Balancing::RoundRobin, slots: places }
    };
    line(&all(after).in_places_of(&all(before).slots))
}

#[test]
fn endpoints_of_equal_weight_have_one_turn_each() {
    assert_eq!(line(&order(Balancing::RoundRobin, &[1, 1, 1])), "1 2 3");
    assert_eq!(line(&order(Balancing::Random, &[7, 7])), "1 2");
    assert_eq!(line(&order(Balancing::RoundRobin, &[])), "");
}

#[test]
fn heavy_endpoints_come_often_and_never_all_at_once() {
    assert_eq!(line(&order(Balancing::RoundRobin, &[5, 1, 1])), "1 1 2 1 3 1 1");
    assert_eq!(line(&order(Balancing::RoundRobin, &[300, 200])), "1 2 1 2 1");
    assert_eq!(line(&order(Balancing::Random, &[2, 1])), "1 2 1");
}

#[test]
fn one_endpoint_takes_one_slot_whatever_it_weighs() {
    for balancing in [Balancing::RoundRobin, Balancing::Random, Balancing::SourceHash] {
        assert_eq!(line(&order(balancing, &[1000])), "1");
    }
}

#[test]
fn weights_that_take_too_many_turns_do_not_count() {
    assert_eq!(line(&order(Balancing::RoundRobin, &[1000, 25, 1])), "1 2 3");
    assert_eq!(order(Balancing::RoundRobin, &[1000, 23, 1]).slots.len(), 1024);
}

#[test]
fn who_comes_takes_over_the_turns_of_who_leaves() {
    assert_eq!(kept(&[3, 4, 2], &[2, 4, 5]), "5 4 2");
    assert_eq!(kept(&[1, 1, 2, 1, 3, 1, 1], &[1, 1, 4, 1, 3, 1, 1]), "1 1 4 1 3 1 1");
    assert_eq!(kept(&[1, 1, 2, 1], &[4, 2, 4, 4]), "4 4 2 4");
}

#[test]
fn weights_that_change_hands_take_the_turns_with_them() {
    assert_eq!(kept(&[1, 1, 2, 1], &[1, 2, 2, 2]), "2 2 1 2");
}

#[test]
fn other_weights_are_laid_out_anew() {
    assert_eq!(kept(&[1, 1, 2, 1], &[1, 2, 1, 2]), "1 2 1 2");
}

#[test]
fn turns_begin_anywhere_but_a_hash_has_no_beginning() {
    let turns = order(Balancing::RoundRobin, &[1, 1, 1]).beginning_at(4);
    assert_eq!(line(&turns), "2 3 1");
    let hash = order(Balancing::SourceHash, &[1, 1, 1]);
    assert_eq!(hash.clone().beginning_at(4), hash);
}

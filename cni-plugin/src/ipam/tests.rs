use proptest::{collection::vec, prelude::*};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn range(subnet: &str) -> Range {
    Range::new(subnet.parse().unwrap(), Bounds::default()).unwrap()
}

fn set(subnets: &[&str]) -> RangeSet {
    RangeSet::new(subnets.iter().map(|subnet| range(subnet)).collect()).unwrap()
}

/// All addresses that a pod may have, by looking at every one: what `choose` must agree with.
fn all_of(set: &RangeSet) -> Vec<IpAddr> {
    let subnets = set.ranges().iter().flat_map(|range| range.subnet.iter());
    subnets.filter(|ip| set.range_of(*ip).is_some()).collect()
}

#[test]
fn a_subnet_gives_all_but_its_own_the_gateway_s_and_the_broadcast_address() {
    let all = all_of(&set(&["10.244.1.0/24"]));

    assert_eq!(all.len(), 253);
    assert_eq!((all[0], all[252]), (ip("10.244.1.2"), ip("10.244.1.254")));
}

#[test]
fn an_ipv6_subnet_has_no_broadcast_address() {
    assert_eq!(all_of(&set(&["fd00::/126"])), [ip("fd00::2"), ip("fd00::3")]);
    assert_eq!(set(&["fd00:10:244:1::/64"]).choose(None, &BTreeSet::new()), Some(ip("fd00:10:244:1::2")));
}

#[test]
fn bounds_are_kept_and_the_gateway_between_them_is_left_out() {
    let bounds =
        Bounds { start: Some(ip("10.0.0.4")), end: Some(ip("10.0.0.7")), gateway: Some(ip("10.0.0.5")) };
    let set = RangeSet::new(vec![Range::new("10.0.0.0/29".parse().unwrap(), bounds).unwrap()]).unwrap();

    assert_eq!(all_of(&set), [ip("10.0.0.4"), ip("10.0.0.6")], ".7 is the broadcast address");
}

#[test]
fn the_last_address_of_all_can_be_the_last_one_leased() {
    let top = set(&["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126"]);
    let last = ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");

    assert_eq!(top.choose(Some(last), &BTreeSet::new()), Some(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe")));
}

#[test]
fn a_last_address_that_is_of_no_range_any_more_starts_from_the_first() {
    assert_eq!(set(&["10.1.0.0/24"]).choose(Some(ip("10.9.0.7")), &BTreeSet::new()), Some(ip("10.1.0.2")));
    assert_eq!(set(&["10.1.0.0/24"]).choose(Some(ip("fd00::7")), &BTreeSet::new()), Some(ip("10.1.0.2")));
}

/// Sets with one to three small ranges, so that they run out.
fn sets() -> impl Strategy<Value = RangeSet> {
    prop_oneof![
        Just(set(&["10.0.0.0/29"])),
        Just(set(&["10.0.0.0/30", "10.0.1.0/29", "10.0.2.0/30"])),
        Just(set(&["fd00::/125"])),
        Just(set(&["fd00::/126", "fd00:1::/125"])),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Lease,
    /// Gives back the n-th of those that are leased.
    Release(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(prop_oneof![3 => Just(Step::Lease), 2 => (0..16usize).prop_map(Step::Release)], 0..80)
}

proptest! {
    /// The model: a queue of free addresses in order of their turn. Leasing takes from its head the first that is free.
    #[test]
    fn leasing_goes_in_a_circle_gives_no_address_twice_and_ends_only_when_all_are_leased(set in sets(), steps in steps()) {
        let all = all_of(&set);
        let (mut leased, mut last): (BTreeSet<IpAddr>, Option<IpAddr>) = (BTreeSet::new(), None);

        for step in steps {
            match step {
                Step::Lease => {
                    let turn = last.and_then(|last| all.iter().position(|ip| *ip == last)).map_or(0, |at| at + 1);
                    let mut circle = all[turn..].iter().chain(&all[..turn]);
                    let expected = circle.find(|ip| !leased.contains(ip)).copied();

                    let chosen = set.choose(last, &leased);

                    prop_assert_eq!(chosen, expected);
                    match chosen {
                        None => prop_assert_eq!(leased.len(), all.len()),
                        Some(ip) => {
                            prop_assert!(leased.insert(ip));
                            last = Some(ip);
                        }
                    }
                }
                Step::Release(n) => {
                    if let Some(ip) = leased.iter().nth(n).copied() {
                        leased.remove(&ip);
                    }
                }
            }
        }
    }
}

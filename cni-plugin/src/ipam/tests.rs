use std::collections::VecDeque;

use proptest::{collection::vec, option, prelude::*, sample::subsequence};

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
    subnets.filter(|ip| set.gives(*ip)).collect()
}

/// The first in turn that is free.
fn choose(set: &RangeSet, last: Option<IpAddr>, leased: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    set.in_turn(&Past { last, ..Past::default() }).find(|ip| !leased.contains(ip))
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
    assert_eq!(choose(&set(&["fd00:10:244:1::/64"]), None, &BTreeSet::new()), Some(ip("fd00:10:244:1::2")));
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

    assert_eq!(
        choose(&top, Some(last), &BTreeSet::new()),
        Some(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"))
    );
}

#[test]
fn a_last_address_that_is_of_no_range_any_more_starts_from_the_first() {
    assert_eq!(choose(&set(&["10.1.0.0/24"]), Some(ip("10.9.0.7")), &BTreeSet::new()), Some(ip("10.1.0.2")));
    assert_eq!(choose(&set(&["10.1.0.0/24"]), Some(ip("fd00::7")), &BTreeSet::new()), Some(ip("10.1.0.2")));
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
    /// The model: a queue. Leasing takes the first, giving back adds to the end.
    #[test]
    fn addresses_take_turns_in_strict_order_and_end_only_when_all_are_leased(set in sets(), steps in steps()) {
        let mut queue: VecDeque<IpAddr> = all_of(&set).into();
        let (mut leased, mut past) = (BTreeSet::new(), Past::default());

        for step in steps {
            match step {
                Step::Lease => {
                    let chosen = set.in_turn(&past).find(|ip| !leased.contains(ip));

                    prop_assert_eq!(chosen, queue.pop_front());
                    leased.extend(chosen);
                    if let Some(chosen) = chosen {
                        past.is_bare = past.waiting.contains(&chosen);
                        past.waiting.retain(|ip| *ip != chosen);
                        past.last = Some(chosen);
                    }
                }
                Step::Release(n) => {
                    if let Some(ip) = leased.iter().nth(n).copied() {
                        leased.remove(&ip);
                        past.waiting.push(ip);
                        queue.push_back(ip);
                    }
                }
            }
        }
    }

    /// Where little is known of what was freed, every address that is free still gets its turn, once.
    #[test]
    fn all_addresses_are_in_turn_once_whatever_is_known_of_the_past(
        set in sets(),
        last in option::of(0..20usize),
        waiting in subsequence((0..20usize).rev().collect::<Vec<_>>(), 0..20),
        is_bare: bool,
    ) {
        let mut all = all_of(&set);
        let some = |n: usize| all.get(n).copied().unwrap_or(ip("192.0.2.1"));
        let waiting: Vec<IpAddr> = waiting.into_iter().filter(|n| *n < all.len()).map(some).collect();
        let past = Past { last: last.map(some), is_bare, waiting };

        let mut in_turn: Vec<IpAddr> = set.in_turn(&past).collect();

        in_turn.sort();
        all.sort();
        prop_assert_eq!(in_turn, all);
    }
}

#[test]
fn reserved_addresses_are_for_those_who_ask_for_them() {
    let reserved = ["10.0.0.2/31".parse().unwrap(), "fd00::/64".parse().unwrap()];
    let set = set(&["10.0.0.0/29"]).reserving(&reserved);

    assert_eq!(all_of(&set), [ip("10.0.0.4"), ip("10.0.0.5"), ip("10.0.0.6")]);
    let past = Past { waiting: vec![ip("10.0.0.3")], ..Past::default() };
    assert_eq!(set.in_turn(&past).count(), 3, "freed ones stay reserved");
    assert_eq!(set.to_string(), "10.0.0.0/29 without 10.0.0.2/31");
    assert!(Ask::new(vec![set], &[ip("10.0.0.3")]).is_ok());
}

#[test]
fn however_many_addresses_are_reserved_they_are_passed_over_at_once() {
    let all = set(&["fd00::/64"]).reserving(&["fd00::/8".parse().unwrap(), "::/0".parse().unwrap()]);
    assert_eq!(all.in_turn(&Past::default()).count(), 0);

    let half = set(&["fd00::/64"]).reserving(&["fd00::/65".parse().unwrap()]);
    assert_eq!(half.in_turn(&Past::default()).next(), Some(ip("fd00::8000:0:0:0")));
    let past = Past { last: Some(ip("fd00::ffff:ffff:ffff:ffff")), ..Past::default() };
    assert_eq!(half.in_turn(&past).next(), Some(ip("fd00::8000:0:0:0")));
}

#[test]
fn however_many_ranges_there_are_an_overlap_is_found_among_neighbours() {
    let range =
        |n: u32| Range::new(format!("10.{}.{}.0/28", n / 256, n % 256).parse().unwrap(), Bounds::default());
    let mut ranges: Vec<Range> = (0..60_000).rev().map(|n| range(n).unwrap()).collect();
    assert_eq!(disjoint(&ranges), Ok(()));

    ranges.push(range(30_000).unwrap());
    let twice = "10.117.48.0/28".parse().unwrap();
    assert_eq!(disjoint(&ranges), Err(Error::Overlap(twice, twice)));
}

#[test]
fn an_address_that_is_asked_for_is_of_a_set_and_the_only_one_of_it() {
    let ask = |requested: &[&str]| {
        let requested: Vec<IpAddr> = requested.iter().map(|text| ip(text)).collect();
        Ask::new(vec![set(&["10.0.0.0/29"]), set(&["fd00::/125"])], &requested)
    };

    let both = ask(&["fd00::5", "10.0.0.3", "10.0.0.3"]).unwrap();
    assert!(both.is_met_by(&[ip("10.0.0.3"), ip("fd00::5")]));
    assert!(!both.is_met_by(&[ip("10.0.0.3"), ip("fd00::6")]));
    assert!(ask(&["fd00::5"]).unwrap().is_met_by(&[ip("10.0.0.6"), ip("fd00::5")]));
    for (requested, told) in [
        (
            &["10.0.0.1"][..],
            "address 10.0.0.1 is asked for, and is the gateway's or of no range: 10.0.0.0/29, fd00::/125",
        ),
        (
            &["10.9.0.1"],
            "address 10.9.0.1 is asked for, and is the gateway's or of no range: 10.0.0.0/29, fd00::/125",
        ),
        (
            &["10.0.0.3", "10.0.0.4"],
            "addresses 10.0.0.3 and 10.0.0.4 are asked for, and are of one set of ranges: a pod gets one of each",
        ),
    ] {
        assert_eq!(ask(requested).unwrap_err().to_string(), told);
    }
}

//! What a table promises: fair shares, and few changes of hands.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn endpoint(number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    SocketAddr::from(([10, 244, high, low], 8080))
}

/// Up to 40 endpoints, some of them heavier.
fn endpoints() -> impl Strategy<Value = BTreeMap<SocketAddr, u32>> {
    let weight = prop_oneof![3 => Just(1_u32), 1 => 2..6_u32];
    let weights = prop_oneof![weight.clone().boxed(), Just(1).boxed()];
    proptest::collection::btree_map((0..1_000_u16).prop_map(endpoint), weights, 2..40)
}

fn table_of(endpoints: &BTreeMap<SocketAddr, u32>) -> Vec<SocketAddr> {
    table(&endpoints.iter().map(|(address, weight)| (*address, *weight)).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Where the size stays, only slots of the endpoint that is gone change hands.
    #[test]
    fn who_leaves_leaves_only_its_own_slots(endpoints in endpoints(), gone in any::<prop::sample::Index>()) {
        let mut fewer = endpoints.clone();
        let leaver = *endpoints.keys().nth(gone.index(endpoints.len())).unwrap();
        fewer.remove(&leaver);

        let (before, after) = (table_of(&endpoints), table_of(&fewer));

        let is_comparable = before.len() == after.len() && fewer.values().min() == endpoints.values().min();
        for (before, after) in before.iter().zip(&after).filter(|_| is_comparable) {
            prop_assert!(before == after || *before == leaver);
        }
        prop_assert!(!after.contains(&leaver));
    }

    /// An endpoint's part differs from its share by no more than five standard deviations.
    #[test]
    fn shares_are_as_the_weights(endpoints in endpoints()) {
        let table = table_of(&endpoints);
        let all: u32 = endpoints.values().sum();
        let slots = f64::from(u32::try_from(table.len()).unwrap());
        for (endpoint, weight) in &endpoints {
            let part = f64::from(u32::try_from(table.iter().filter(|slot| *slot == endpoint).count()).unwrap());
            let share = f64::from(*weight) / f64::from(all);
            let deviation = (slots * share * (1.0 - share)).sqrt();
            prop_assert!((part - slots * share).abs() < 5.0 * deviation, "{part} of {}", slots * share);
        }
    }

    /// In whatever order they are given, and whatever all of them are multiplied with.
    #[test]
    fn the_table_follows_from_the_endpoints_alone(endpoints in endpoints()) {
        let backwards: Vec<_> = endpoints.iter().rev().map(|(address, weight)| (*address, weight * 7)).collect();
        let part = |(one, other): (&SocketAddr, &SocketAddr)| one == other;
        let (one, other) = (table_of(&endpoints), table(&backwards));

        // The last bit of a division may tip the scales.
        let same = one.iter().zip(&other).filter(|pair| part(*pair)).count();
        prop_assert!(same + 1 >= one.len() && one.len() == other.len());
    }
}

#[test]
fn a_table_is_large_enough_for_the_smallest_share() {
    let sizes = |count: u16, heaviest| {
        let endpoints: Vec<_> =
            (0..count).map(|n| (endpoint(n), if n == 0 { heaviest } else { 1 })).collect();
        table(&endpoints).len()
    };
    assert_eq!(
        [sizes(2, 1), sizes(64, 1), sizes(65, 1), sizes(257, 1)],
        [1 << 10, 1 << 10, 1 << 12, 1 << 14]
    );
    assert_eq!([sizes(2, 62), sizes(2, 1000)], [1 << 10, 1 << 14]);
}

#[test]
#[expect(clippy::cast_precision_loss, reason = "compared with floating point")]
fn logarithms_in_whole_numbers_are_those_of_floating_point() {
    let ours = |number: u64| logarithm(number) as f64 / f64::from(1 << PRECISION);
    for number in [1_u64, 2, 3, 10, 1 << 40, (1 << 40) + 12_345, u64::MAX / 3, u64::MAX] {
        assert!((ours(number) - (number as f64).log2()).abs() < 1e-6, "{number}");
    }
}

#[test]
fn tables_are_the_same_in_every_version() {
    let endpoints: Vec<_> = (1..=4).map(|n| (endpoint(n), 1)).collect();
    let weighed: Vec<_> = (1..=4).map(|n| (endpoint(n), u32::from(n))).collect();
    let beginning = |table: Vec<SocketAddr>| {
        let numbers = table
            .iter()
            .take(24)
            .map(|slot| slot.ip().to_string().split('.').next_back().unwrap().to_owned());
        numbers.collect::<Vec<_>>().join(" ")
    };

    assert_eq!(beginning(table(&endpoints)), "1 3 3 4 4 1 4 3 3 3 4 1 2 4 4 1 4 4 3 3 2 1 3 4");
    assert_eq!(beginning(table(&weighed)), "1 3 3 4 4 4 4 3 3 3 4 4 2 4 4 1 4 4 3 3 2 1 3 4");
}

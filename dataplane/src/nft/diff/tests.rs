//! The laws of diff, over tables drawn at random: every kind of map, chains that lead to each other, verdicts in maps.

use std::net::{IpAddr, SocketAddr};

use proptest::{collection::btree_map, prelude::*};

use super::*;
use crate::{
    nft::{
        Chain, ChainName, Data, DataType, Element, Fake, Hook, KeyType, MapName, Rule, SetType, Source,
        Statement, Transaction, Verdict,
    },
    packet::{Family, Protocol},
};

const CHAINS: [&str; 4] = ["a", "b", "c", "d"];
const MAPS: [&str; 3] = ["ports", "slots", "classes"];

/// Chains lead only to those after them, so that no loop is drawn: the kernel refuses loops.
fn target(from: usize, to: usize) -> Option<ChainName> {
    CHAINS.get(from + 1 + to).map(|name| (*name).into())
}

fn kinds() -> impl Strategy<Value = SetType> {
    let kind = |key, data| SetType { key, data, counter: false, dynamic: None };
    prop_oneof![
        Just(kind(KeyType::Port, DataType::Number)),
        Just(kind(KeyType::Number, DataType::Endpoint)),
        Just(SetType { counter: true, ..kind(KeyType::Number, DataType::Endpoint) }),
        Just(kind(KeyType::Number, DataType::Verdict)),
    ]
}

fn maps() -> impl Strategy<Value = Map> {
    let numbers = btree_map(0..4_u16, 0..4_u16, 0..4);
    (kinds(), numbers, any::<bool>()).prop_map(|(kind, numbers, has_comment)| {
        let element = |(key, value): (u16, u16)| {
            let key = match kind.key {
                KeyType::Port => Key::Port(Protocol::Tcp, key),
                _ => Key::Number(key.into()),
            };
            let data = match kind.data {
                DataType::Number => Data::Number(value.into()),
                DataType::Verdict => Data::Verdict(Verdict::Goto("d".into())),
                _ => Data::Endpoint(SocketAddr::new(IpAddr::from([10, 0, 0, 1]), value)),
            };
            (key, Element { data, comment: has_comment.then(|| format!("comment {value}").into()) })
        };
        Map { kind, elements: numbers.into_iter().map(element).collect() }
    })
}

/// A rule of chain number `from`: a lookup, a jump to a later chain, or a plain word.
fn rules(from: usize) -> impl Strategy<Value = Rule> {
    let look = (0..MAPS.len()).prop_map(|map| {
        let source = match MAPS[map] {
            "ports" => Source::ByPort("ports".into()),
            other => Source::ByPriority { mask: !7, map: other.into() },
        };
        Statement::SetPriority(source)
    });
    let lead = (0..CHAINS.len()).prop_map(move |to| {
        target(from, to).map_or(Statement::Counter, |chain| Statement::Verdict(Verdict::Jump(chain)))
    });
    let word = (0..4_u32).prop_map(|bit| Statement::AddMark(1 << bit));
    prop_oneof![look, lead, word].prop_map(|statement| Rule(vec![statement]))
}

fn tables() -> impl Strategy<Value = Table> {
    let maps = proptest::collection::vec(proptest::option::of(maps()), MAPS.len());
    let chain = |from| {
        let hook = prop_oneof![4 => Just(None), 1 => Just(Some(Hook::Output))];
        let rules = proptest::collection::vec(rules(from), 0..4);
        proptest::option::of((hook, rules).prop_map(|(hook, rules)| Chain { hook, rules }))
    };
    let chains = (chain(0), chain(1), chain(2), chain(3));
    (maps, chains).prop_map(|(maps, (a, b, c, d))| {
        let mut table = Table::new(Family::Ip);
        let chains = CHAINS.into_iter().zip([a, b, c, d]);
        table.chains = chains.filter_map(|(name, chain)| Some((name.into(), chain?))).collect();
        let maps = MAPS.into_iter().zip(maps);
        table.maps = maps.filter_map(|(name, map)| Some((name.into(), map?))).collect();
        make_sound(&mut table);
        table
    })
}

/// Takes out what the kernel would refuse: references to nothing, to base chains, or to maps of another kind.
fn make_sound(table: &mut Table) {
    let regular: Vec<ChainName> =
        table.chains.iter().filter(|(_, chain)| chain.hook.is_none()).map(|(name, _)| name.clone()).collect();
    let fits = |name: &MapName, key: KeyType, data: DataType| {
        table.maps.get(name).is_some_and(|map| map.kind.key == key && map.kind.data == data)
    };
    let is_sound = |rule: &Rule| match rule.0.first() {
        Some(Statement::Verdict(Verdict::Jump(chain))) => regular.contains(chain),
        Some(Statement::SetPriority(Source::ByPort(map))) => fits(map, KeyType::Port, DataType::Number),
        // None of the drawn maps leads from a number to a number.
        Some(Statement::SetPriority(Source::ByPriority { map, .. })) => {
            fits(map, KeyType::Number, DataType::Number)
        }
        _ => true,
    };
    let mut chains = table.chains.clone();
    for chain in chains.values_mut() {
        chain.rules.retain(is_sound);
    }
    table.chains = chains;
    for map in table.maps.values_mut().filter(|map| map.kind.data == DataType::Verdict) {
        if !regular.contains(&"d".into()) {
            map.elements.clear();
        }
    }
}

proptest! {
    #[test]
    fn a_diff_applied_gives_what_was_wanted(old in proptest::option::of(tables()), new in tables()) {
        let mut kernel = Fake::default();
        if let Some(old) = &old {
            kernel.commit(&diff(None, old)).unwrap();
        }

        let held = old.as_ref().map(Held::from);
        let changes = diff(held.as_ref(), &new);

        prop_assert_eq!(kernel.commit(&changes), Ok(()), "{}", changes);
        prop_assert_eq!(kernel.table(Family::Ip), Some(&new));
    }

    #[test]
    fn between_equals_there_is_no_difference(table in tables()) {
        prop_assert_eq!(diff(Some(&Held::from(&table)), &table), Transaction::default());
    }
}

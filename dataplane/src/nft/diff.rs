//! What must change so that the kernel holds a table.

use super::{
    encode,
    held::Held,
    table::{Key, Map, Table},
    transaction::{Change, Transaction},
};

/// The changes that turn what the kernel holds (nothing, if `None`) into `table`. Empty if it holds it already.
///
/// Order: what is referred to is added first and removed last. Elements that rules added themselves are left alone.
/// Where a map or base chain would have to change its kind, the whole table is replaced in the one transaction.
pub fn diff(held: Option<&Held>, table: &Table) -> Transaction {
    let mut transaction = Transaction::default();
    match held {
        Some(held) if held.is_convertible(table) => change(&mut transaction, held, table),
        Some(_) => transaction.replace(table),
        None => {
            transaction.push(table.family, Change::AddTable);
            change(&mut transaction, &Held::new(table.family), table);
        }
    }
    transaction
}

fn change(transaction: &mut Transaction, held: &Held, table: &Table) {
    let family = table.family;
    if held.is_dormant {
        transaction.push(family, Change::AddTable); // without the flag, which wakes it
    }
    for (name, map) in &table.maps {
        if !held.maps.contains_key(name) {
            transaction.push(family, Change::AddMap(name.clone(), map.kind));
        }
    }
    for (name, chain) in &table.chains {
        if !held.chains.contains_key(name) {
            transaction.push(family, Change::AddChain(name.clone(), chain.hook));
        }
    }
    for (name, map) in &table.maps {
        let empty = Map::new(map.kind);
        let held = held.maps.get(name).unwrap_or(&empty);
        let gone = gone_elements(held, map);
        if !gone.is_empty() {
            transaction.push(family, Change::DeleteElements(name.clone(), map.kind, gone));
        }
        let added: Vec<_> = map
            .elements
            .iter()
            .filter(|(key, element)| held.elements.get(*key) != Some(*element))
            .map(|(key, element)| (*key, element.clone()))
            .collect();
        if !added.is_empty() {
            transaction.push(family, Change::AddElements(name.clone(), map.kind, added));
        }
    }
    for (name, chain) in &table.chains {
        let wanted: Vec<_> = chain.rules.iter().map(|rule| encode::fingerprint(family, rule)).collect();
        let held = held.chains.get(name).map(|held| held.rules.as_slice()).unwrap_or_default();
        let missing = if let Some(missing) = wanted.strip_prefix(held) {
            missing.len()
        } else {
            transaction.push(family, Change::FlushChain(name.clone()));
            wanted.len()
        };
        for rule in chain.rules.iter().skip(wanted.len() - missing) {
            transaction.push(family, Change::AddRule(name.clone(), rule.clone()));
        }
    }
    // Chains that go may lead to each other: first no rule, then no chain.
    let gone = || held.chains.keys().filter(|name| !table.chains.contains_key(*name));
    for name in gone() {
        transaction.push(family, Change::FlushChain(name.clone()));
    }
    // Their verdict elements go with a map that goes, so maps come before chains.
    for name in held.maps.keys().chain(&held.foreign_maps).filter(|name| !table.maps.contains_key(*name)) {
        transaction.push(family, Change::DeleteMap(name.clone()));
    }
    for name in gone() {
        transaction.push(family, Change::DeleteChain(name.clone()));
    }
}

/// The keys whose element must go: it is not wanted, or not wanted like this.
fn gone_elements(held: &Map, wanted: &Map) -> Vec<Key> {
    if wanted.kind.dynamic.is_some() {
        return Vec::new();
    }
    let gone = held.elements.iter().filter(|(key, element)| wanted.elements.get(*key) != Some(*element));
    gone.map(|(key, _)| *key).collect()
}

#[cfg(test)]
mod tests;

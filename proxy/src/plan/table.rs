//! A table that remembers what changed since it was last asked.

use std::collections::BTreeMap;

use dataplane::nft::{Chain, ChainName, Change, Element, Key, MapName, Table, Transaction};

/// The planned table, and for everything that changed what it was at the last [`Journal::take`].
#[derive(Debug)]
pub(super) struct Journal {
    table: Table,
    new_chains: Vec<ChainName>,
    before: BTreeMap<(MapName, Key), Option<Element>>,
}

/// What goes from a map, and what comes.
#[derive(Debug, Default)]
struct ElementChanges {
    gone: Vec<Key>,
    added: Vec<(Key, Element)>,
}

impl Journal {
    /// Starts from a table; what is in it counts as known.
    pub(super) fn new(table: Table) -> Self {
        Self { table, new_chains: Vec::new(), before: BTreeMap::new() }
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// Adds a chain with all its rules; chains are never changed afterwards.
    pub(super) fn add_chain(&mut self, name: ChainName, chain: Chain) {
        self.new_chains.push(name.clone());
        self.table.chains.insert(name, chain);
    }

    pub(super) fn has_chain(&self, name: &str) -> bool {
        self.table.chains.contains_key(name)
    }

    /// Sets what a map holds under a key; `None` for nothing.
    pub(super) fn set(&mut self, map: &'static str, key: Key, element: Option<Element>) {
        let Some(held) = self.table.maps.get_mut(map) else { return };
        let before = match element {
            Some(element) => held.elements.insert(key, element),
            None => held.elements.remove(&key),
        };
        self.before.entry((map.into(), key)).or_insert(before);
    }

    /// Takes out the changes since the last call: chains, rules, then for each map what goes and what comes.
    pub(super) fn take(&mut self) -> Transaction {
        let family = self.table.family;
        let mut transaction = Transaction::default();
        let new_chains = std::mem::take(&mut self.new_chains);
        for name in &new_chains {
            transaction.push(family, Change::AddChain(name.clone(), None));
        }
        let chains = new_chains.iter().filter_map(|name| self.table.chains.get_key_value(name));
        for (name, chain) in chains {
            for rule in &chain.rules {
                transaction.push(family, Change::AddRule(name.clone(), rule.clone()));
            }
        }

        let mut changes = BTreeMap::<MapName, ElementChanges>::new();
        for ((map, key), before) in std::mem::take(&mut self.before) {
            let now = self.table.maps.get(&map).and_then(|map| map.elements.get(&key));
            if before.as_ref() == now {
                continue;
            }
            let ElementChanges { gone, added } = changes.entry(map).or_default();
            gone.extend(before.map(|_| key));
            added.extend(now.map(|element| (key, element.clone())));
        }
        for (name, ElementChanges { gone, added }) in changes {
            let Some(kind) = self.table.maps.get(&name).map(|map| map.kind) else { continue };
            if !gone.is_empty() {
                transaction.push(family, Change::DeleteElements(name.clone(), kind, gone));
            }
            if !added.is_empty() {
                transaction.push(family, Change::AddElements(name, kind, added));
            }
        }
        transaction
    }
}

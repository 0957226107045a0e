//! What changed since it was last asked: chains that are new, and for every element touched whether the kernel has one
//! and what it shall have.

use std::collections::BTreeMap;

use dataplane::{
    nft::{Chain, ChainName, Change, Element, Key, SetType, Transaction},
    packet::Family,
};

/// The changes to one table.
#[derive(Debug)]
pub(super) struct Journal {
    family: Family,
    kinds: BTreeMap<&'static str, SetType>,
    new_chains: Vec<(ChainName, Chain)>,
    elements: BTreeMap<(&'static str, Key), Entry>,
}

/// An element that was touched.
#[derive(Debug)]
struct Entry {
    /// Whether there was one at the last [`Journal::take`].
    was_there: bool,
    now: Option<Element>,
}

/// What goes from a map, and what comes.
#[derive(Debug, Default)]
struct ElementChanges {
    gone: Vec<Key>,
    added: Vec<(Key, Element)>,
}

impl Journal {
    /// Starts with no change to a table that has these maps.
    pub(super) fn new(family: Family, kinds: BTreeMap<&'static str, SetType>) -> Self {
        Self { family, kinds, new_chains: Vec::new(), elements: BTreeMap::new() }
    }

    /// Adds a chain with all its rules; such chains are never changed afterwards.
    pub(super) fn add_chain(&mut self, name: ChainName, chain: Chain) {
        self.new_chains.push((name, chain));
    }

    /// Gives a key an element; `is_there` says whether it has one.
    pub(super) fn put(&mut self, map: &'static str, key: Key, is_there: bool, element: Element) {
        let entry = self.elements.entry((map, key)).or_insert(Entry { was_there: is_there, now: None });
        entry.now = Some(element);
    }

    /// Takes a key's element away.
    pub(super) fn remove(&mut self, map: &'static str, key: Key) {
        self.elements.entry((map, key)).or_insert(Entry { was_there: true, now: None }).now = None;
    }

    /// How many elements were touched.
    pub(super) fn len(&self) -> usize {
        self.elements.len()
    }

    /// Takes out the changes since the last call: chains, rules, then for each map what goes and what comes.
    pub(super) fn take(&mut self) -> Transaction {
        let mut transaction = Transaction::default();
        let new_chains = std::mem::take(&mut self.new_chains);
        for (name, _) in &new_chains {
            transaction.push(self.family, Change::AddChain(name.clone(), None));
        }
        for (name, chain) in new_chains {
            for rule in chain.rules {
                transaction.push(self.family, Change::AddRule(name.clone(), rule));
            }
        }
        let mut changes = BTreeMap::<&'static str, ElementChanges>::new();
        for ((map, key), entry) in std::mem::take(&mut self.elements) {
            let ElementChanges { gone, added } = changes.entry(map).or_default();
            gone.extend(entry.was_there.then_some(key));
            added.extend(entry.now.map(|element| (key, element)));
        }
        for (map, ElementChanges { gone, added }) in changes {
            let Some(kind) = self.kinds.get(map).copied() else { continue };
            if !gone.is_empty() {
                transaction.push(self.family, Change::DeleteElements(map.into(), kind, gone));
            }
            if !added.is_empty() {
                transaction.push(self.family, Change::AddElements(map.into(), kind, added));
            }
        }
        transaction
    }
}

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
    gone_chains: Vec<ChainName>,
    /// Rules that are to be others, of chains that are always there.
    rewritten: Transaction,
    /// What was done, in order: sorted out only when it is taken, which is cheaper than to keep it sorted.
    entries: Vec<Entry>,
}

/// Something done to an element.
#[derive(Debug)]
struct Entry {
    map: &'static str,
    key: Key,
    was_there: bool,
    now: Option<Element>,
}

impl Journal {
    /// Starts with no change to a table that has these maps.
    pub(super) fn new(family: Family, kinds: BTreeMap<&'static str, SetType>) -> Self {
        Self {
            family,
            kinds,
            new_chains: Vec::new(),
            gone_chains: Vec::new(),
            rewritten: Transaction::default(),
            entries: Vec::new(),
        }
    }

    /// Adds a chain with all its rules; such chains are never changed afterwards.
    pub(super) fn add_chain(&mut self, name: ChainName, chain: Chain) {
        match self.gone_chains.iter().position(|gone| *gone == name) {
            Some(place) => drop(self.gone_chains.swap_remove(place)), // it stays: its name says what it holds
            None => self.new_chains.push((name, chain)),
        }
    }

    /// Takes a chain away, to which nothing leads any more. Packets that are in it by then walk it to its end.
    pub(super) fn remove_chain(&mut self, name: ChainName) {
        self.gone_chains.push(name);
    }

    /// Exchanges rules of chains that are always there.
    pub(super) fn rewrite(&mut self, rules: Transaction) {
        self.rewritten.append(rules);
    }

    /// Gives a key an element; `was_there` says whether it had one.
    pub(super) fn put(&mut self, map: &'static str, key: Key, was_there: bool, element: Element) {
        self.entries.push(Entry { map, key, was_there, now: Some(element) });
    }

    /// Gives keys their elements in place of what they had, which is of the same keys in the same order.
    pub(super) fn exchange<I: Iterator<Item = (&'static str, Key, Element)>>(
        &mut self,
        old: Option<I>,
        new: I,
    ) {
        let old = old.into_iter().flatten().map(|(_, _, element)| Some(element));
        for (old, (map, key, element)) in old.chain(std::iter::repeat(None)).zip(new) {
            if old.as_ref() != Some(&element) {
                self.put(map, key, old.is_some(), element);
            }
        }
    }

    /// Takes a key's element away.
    pub(super) fn remove(&mut self, map: &'static str, key: Key) {
        self.entries.push(Entry { map, key, was_there: true, now: None });
    }

    /// How many elements were touched, about.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes out the chains that are new, with their rules. Nothing leads to them yet.
    pub(super) fn take_chains(&mut self) -> Transaction {
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
        transaction
    }

    /// Takes out the changes since the last call: chains, rules, then for each map what goes and what comes, then chains that go.
    pub(super) fn take(&mut self) -> Transaction {
        let mut transaction = self.take_chains();
        transaction.append(std::mem::take(&mut self.rewritten));
        let mut of_maps = BTreeMap::<&'static str, Vec<Entry>>::new();
        for entry in std::mem::take(&mut self.entries) {
            of_maps.entry(entry.map).or_default().push(entry);
        }
        for (map, mut entries) in of_maps {
            let Some(kind) = self.kinds.get(map).copied() else { continue };
            entries.sort_by_key(|entry| entry.key); // stable: of one element, the first says what was, the last what is
            let (mut gone, mut added) = (Vec::new(), Vec::with_capacity(entries.len()));
            let mut entries = entries.into_iter().peekable();
            while let Some(Entry { key, was_there, mut now, .. }) = entries.next() {
                while let Some(later) = entries.next_if(|later| later.key == key) {
                    now = later.now;
                }
                gone.extend(was_there.then_some(key));
                added.extend(now.map(|element| (key, element)));
            }
            if !gone.is_empty() {
                transaction.push(self.family, Change::DeleteElements(map.into(), kind, gone));
            }
            if !added.is_empty() {
                transaction.push(self.family, Change::AddElements(map.into(), kind, added));
            }
        }
        for name in std::mem::take(&mut self.gone_chains) {
            transaction.push(self.family, Change::FlushChain(name.clone()));
            transaction.push(self.family, Change::DeleteChain(name));
        }
        transaction
    }
}

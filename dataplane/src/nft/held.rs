//! What the kernel holds of ours, in a form that a table can be compared with.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    encode,
    table::{ChainName, Hook, Map, MapName, Table},
};
use crate::{hash, packet::Family};

/// A table as the kernel holds it. Rules are known by fingerprint: we read back what we wrote, and need not decode it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The address family.
    pub family: Family,
    /// Whether somebody has switched it off.
    pub is_dormant: bool,
    /// The chains, by name.
    pub chains: BTreeMap<ChainName, HeldChain>,
    /// The maps whose kind is one of ours, by name.
    pub maps: BTreeMap<MapName, Map>,
    /// Sets in our table that are of no kind of ours, or hold an element of none: somebody else's work.
    pub foreign_maps: BTreeSet<MapName>,
}

/// A chain as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeldChain {
    /// Where packets enter it, if at a hook that we use.
    pub hook: Option<Hook>,
    /// The rules, first to last.
    pub rules: Vec<Fingerprint>,
}

/// Tells a rule from every other rule: written beside it into the kernel, where only the rule's author can change either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub(super) u64);

impl Fingerprint {
    /// Of a rule without one: written by somebody else.
    pub(super) const FOREIGN: Self = Self(0);

    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        Self(hash::stable(bytes.iter().copied()))
    }
}

impl Held {
    /// An empty table.
    pub fn new(family: Family) -> Self {
        Self {
            family,
            is_dormant: false,
            chains: BTreeMap::new(),
            maps: BTreeMap::new(),
            foreign_maps: BTreeSet::new(),
        }
    }
}

impl Held {
    /// Says whether every map and chain that `table` wants too is of the kind that it should be: a kind cannot be changed.
    pub fn is_convertible(&self, table: &Table) -> bool {
        let maps = table.maps.iter().all(|(name, map)| {
            !self.foreign_maps.contains(name) && self.maps.get(name).is_none_or(|held| held.kind == map.kind)
        });
        let mut chains = table.chains.iter();
        maps && chains.all(|(name, chain)| self.chains.get(name).is_none_or(|held| held.hook == chain.hook))
    }
}

impl From<&Table> for Held {
    fn from(table: &Table) -> Self {
        let chains = table.chains.iter().map(|(name, chain)| {
            let rules = chain.rules.iter().map(|rule| encode::fingerprint(table.family, rule)).collect();
            (name.clone(), HeldChain { hook: chain.hook, rules })
        });
        Self { chains: chains.collect(), maps: table.maps.clone(), ..Self::new(table.family) }
    }
}

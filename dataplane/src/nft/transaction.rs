//! A transaction: changes in order, committed together or not at all.

use super::table::{ChainName, Element, Hook, Key, MapName, Rule, SetType, Table};
use crate::packet::Family;

/// One change to one of our tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Adds the table; a table that is there already stays as it is.
    AddTable,
    /// Removes the table and everything in it.
    DeleteTable,
    /// Adds a chain; one that is there already, with the same hook, stays as it is.
    AddChain(ChainName, Option<Hook>),
    /// Removes every rule of a chain.
    FlushChain(ChainName),
    /// Removes an empty chain to which nothing refers.
    DeleteChain(ChainName),
    /// Appends a rule.
    AddRule(ChainName, Rule),
    /// Adds an empty map; one that is there already, of the same kind, stays as it is.
    AddMap(MapName, SetType),
    /// Removes a map to which no rule refers.
    DeleteMap(MapName),
    /// Adds elements. One that is there already must be the same.
    AddElements(MapName, SetType, Vec<(Key, Element)>),
    /// Removes elements, all of which must be there.
    DeleteElements(MapName, SetType, Vec<Key>),
}

/// Changes in order, each to the table of its family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    changes: Vec<(Family, Change)>,
}

impl Transaction {
    /// Appends a change.
    pub fn push(&mut self, family: Family, change: Change) {
        self.changes.push((family, change));
    }

    /// Appends all changes of another transaction.
    pub fn append(&mut self, mut other: Self) {
        self.changes.append(&mut other.changes);
    }

    /// Says whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes, first to last.
    pub fn changes(&self) -> &[(Family, Change)] {
        &self.changes
    }

    /// How many elements it adds and removes.
    pub fn elements(&self) -> (usize, usize) {
        self.changes.iter().fold((0, 0), |(added, removed), (_, change)| match change {
            Change::AddElements(_, _, elements) => (added + elements.len(), removed),
            Change::DeleteElements(_, _, keys) => (added, removed + keys.len()),
            _ => (added, removed),
        })
    }

    /// Puts `table` in place of whatever the kernel holds under its name, without a moment in between.
    pub fn replace(&mut self, table: &Table) {
        self.delete(table.family);
        self.push(table.family, Change::AddTable);
        self.fill(table);
    }

    /// Removes the table of `family`, whether it is there or not.
    pub fn delete(&mut self, family: Family) {
        self.push(family, Change::AddTable); // to delete what is not there is an error
        self.push(family, Change::DeleteTable);
    }

    /// Adds everything in `table` to a table that is empty: what is referred to comes first.
    fn fill(&mut self, table: &Table) {
        let family = table.family;
        for (name, map) in &table.maps {
            self.push(family, Change::AddMap(name.clone(), map.kind));
        }
        for (name, chain) in table.chains.iter().filter(|(_, chain)| chain.hook.is_none()) {
            self.push(family, Change::AddChain(name.clone(), chain.hook));
        }
        for (name, map) in table.maps.iter().filter(|(_, map)| !map.elements.is_empty()) {
            let elements = map.elements.iter().map(|(key, element)| (*key, element.clone())).collect();
            self.push(family, Change::AddElements(name.clone(), map.kind, elements));
        }
        for (name, chain) in table.chains.iter().filter(|(_, chain)| chain.hook.is_some()) {
            self.push(family, Change::AddChain(name.clone(), chain.hook));
        }
        for (name, chain) in &table.chains {
            for rule in &chain.rules {
                self.push(family, Change::AddRule(name.clone(), rule.clone()));
            }
        }
    }
}

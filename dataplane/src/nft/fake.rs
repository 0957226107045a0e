//! The kernel's nftables in memory, as far as our transactions go: same outcome, same refusals. The contract tests run
//! every case against this and against the kernel.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::{
    table::{
        Affinity, Chain, ChainName, Data, Key, Map, MapName, Match, Rule, Source, Statement, Table, Verdict,
    },
    transaction::{Change, Transaction},
};
use crate::packet::Family;

/// Tables in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fake {
    tables: BTreeMap<Family, Table>,
}

/// Why a transaction was not committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("change {change} of the transaction")]
pub struct Refusal {
    /// The first change that was refused, counted from 0.
    pub change: usize,
    /// What the kernel would say.
    pub errno: Errno,
}

impl Fake {
    /// Commits a transaction whole, or changes nothing.
    pub fn commit(&mut self, transaction: &Transaction) -> Result<(), Refusal> {
        let mut next = self.clone();
        for (place, (family, change)) in transaction.changes().iter().enumerate() {
            next.change(*family, change).map_err(|errno| Refusal { change: place, errno })?;
        }
        *self = next;
        Ok(())
    }

    /// The table of a family, if there is one.
    pub fn table(&self, family: Family) -> Option<&Table> {
        self.tables.get(&family)
    }

    fn change(&mut self, family: Family, change: &Change) -> Result<(), Errno> {
        match change {
            Change::AddTable => {
                self.tables.entry(family).or_insert_with(|| Table::new(family));
                return Ok(());
            }
            Change::DeleteTable => return self.tables.remove(&family).map(drop).ok_or(Errno::ENOENT),
            _ => {}
        }
        let table = self.tables.get_mut(&family).ok_or(Errno::ENOENT)?;
        match change {
            Change::AddTable | Change::DeleteTable => Ok(()),
            Change::AddChain(name, hook) => match table.chains.get(name) {
                Some(chain) if chain.hook != *hook => Err(Errno::EOPNOTSUPP),
                Some(_) => Ok(()),
                None => {
                    table.chains.insert(name.clone(), Chain { hook: *hook, rules: Vec::new() });
                    Ok(())
                }
            },
            Change::FlushChain(name) => {
                table.chains.get_mut(name).ok_or(Errno::ENOENT)?.rules.clear();
                Ok(())
            }
            Change::DeleteChain(name) => {
                let chain = table.chains.remove(name).ok_or(Errno::ENOENT)?;
                if is_referred_to(table, name) {
                    table.chains.insert(name.clone(), chain);
                    return Err(Errno::EBUSY);
                }
                Ok(())
            }
            Change::AddRule(name, rule) => {
                check_references(table, rule)?;
                table.chains.get_mut(name).ok_or(Errno::ENOENT)?.rules.push(rule.clone());
                Ok(())
            }
            Change::AddMap(name, kind) => match table.maps.get(name) {
                Some(map) if map.kind != *kind => Err(Errno::EEXIST),
                Some(_) => Ok(()),
                None => {
                    table.maps.insert(name.clone(), Map::new(*kind));
                    Ok(())
                }
            },
            Change::DeleteMap(name) => {
                if !table.maps.contains_key(name) {
                    return Err(Errno::ENOENT);
                }
                let mut rules = table.chains.values().flat_map(|chain| &chain.rules);
                if rules.any(|rule| rule.0.iter().flat_map(maps_of).any(|map| map == name)) {
                    return Err(Errno::EBUSY);
                }
                table.maps.remove(name);
                Ok(())
            }
            Change::AddElements(name, _, elements) => {
                let chains: Vec<_> = table.chains.keys().cloned().collect();
                let map = table.maps.get_mut(name).ok_or(Errno::ENOENT)?;
                for (key, element) in elements {
                    if let Data::Verdict(verdict) = &element.data
                        && chain_of(verdict).is_some_and(|chain| !chains.contains(chain))
                    {
                        return Err(Errno::ENOENT);
                    }
                    if map.elements.keys().any(|held| begins_or_ends_in(key, held)) {
                        return Err(Errno::EEXIST);
                    }
                    match map.elements.get(key) {
                        Some(held) if held.data != element.data => return Err(Errno::EEXIST),
                        Some(_) => {}
                        None => {
                            map.elements.insert(*key, element.clone());
                        }
                    }
                }
                Ok(())
            }
            Change::DeleteElements(name, _, keys) => {
                let map = table.maps.get_mut(name).ok_or(Errno::ENOENT)?;
                keys.iter().try_for_each(|key| map.elements.remove(key).map(drop).ok_or(Errno::ENOENT))
            }
        }
    }
}

/// Says whether a network begins or ends in another one of the same source. // kernel `nft_set_pipapo.c`
fn begins_or_ends_in(new: &Key, held: &Key) -> bool {
    match (new, held) {
        (Key::Towards(source, new), Key::Towards(of, held)) => {
            let is_in = held.contains(new.network()) || held.contains(new.broadcast());
            source == of && new != held && is_in
        }
        _ => false,
    }
}

fn is_referred_to(table: &Table, name: &ChainName) -> bool {
    let rules = table.chains.values().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.0);
    let by_rule = rules.filter_map(|statement| match statement {
        Statement::Verdict(verdict) => chain_of(verdict),
        _ => None,
    });
    let elements = table.maps.values().flat_map(|map| map.elements.values());
    let by_element = elements.filter_map(|element| match &element.data {
        Data::Verdict(verdict) => chain_of(verdict),
        _ => None,
    });
    by_rule.chain(by_element).any(|chain| chain == name)
}

fn check_references(table: &Table, rule: &Rule) -> Result<(), Errno> {
    for statement in &rule.0 {
        if maps_of(statement).any(|map| !table.maps.contains_key(map)) {
            return Err(Errno::ENOENT);
        }
        if let Statement::Verdict(verdict) = statement
            && let Some(chain) = chain_of(verdict)
        {
            match table.chains.get(chain) {
                None => return Err(Errno::ENOENT),
                Some(Chain { hook: Some(_), .. }) => return Err(Errno::EOPNOTSUPP),
                Some(_) => {}
            }
        }
    }
    Ok(())
}

fn chain_of(verdict: &Verdict) -> Option<&ChainName> {
    match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
        Verdict::Return | Verdict::Drop => None,
    }
}

/// The maps that a statement looks into.
fn maps_of(statement: &Statement) -> impl Iterator<Item = &MapName> {
    let (first, second) = match statement {
        Statement::SetPriority(source) | Statement::VerdictMap(source) | Statement::Dnat(source) => {
            match source {
                Source::ByService(map)
                | Source::ByPort(map)
                | Source::ByPriority { map, .. }
                | Source::ByClient { map, .. } => (Some(map), None),
                Source::Rotation { .. } | Source::Random { .. } | Source::ByHash { .. } => (None, None),
            }
        }
        Statement::DnatByPriority(map)
        | Statement::Remember(Affinity { map, .. })
        | Statement::Match(
            Match::AddressesIn(map)
            | Match::SourceIn(map)
            | Match::DestinationIn(map)
            | Match::DestinationNetworkIn { set: map, .. }
            | Match::ServiceIn(map),
        ) => (Some(map), None),
        Statement::DnatAsRemembered { slots, affinity } => (Some(slots), Some(&affinity.map)),
        _ => (None, None),
    };
    first.into_iter().chain(second)
}

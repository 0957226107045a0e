//! What a repair found, in a few words: read from the changes that it took. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display, Formatter},
};

use dataplane::{
    nft::{Change, Transaction},
    packet::Family,
};

/// So many things of a sort are called by name.
const NAMED: usize = 3;

/// What was not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Findings {
    missing: Found,
    changed: Found,
    foreign: Found,
}

/// Things of one sort.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Found {
    count: usize,
    names: Vec<String>,
}

impl Found {
    fn add(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.names.len() < NAMED {
            self.names.push(name());
        }
    }
}

impl From<&Transaction> for Findings {
    fn from(changes: &Transaction) -> Self {
        let mut findings = Self::default();
        let all = changes.changes();
        // Of a table that was not there, or is replaced, nothing else is told. One that is added and not filled was there, but
        // switched off.
        let with = |wanted: fn(&Change) -> bool| -> BTreeSet<Family> {
            all.iter().filter(|(_, change)| wanted(change)).map(|(family, _)| *family).collect()
        };
        let tables = with(|change| *change == Change::AddTable);
        let replaced = with(|change| *change == Change::DeleteTable);
        let filled = with(|change| matches!(change, Change::AddMap(..)));
        for family in &tables {
            let is_missing = filled.contains(family) && !replaced.contains(family);
            let found = if is_missing { &mut findings.missing } else { &mut findings.changed };
            found.add(|| format!("table {family}"));
        }
        let mut chains = BTreeSet::new();
        let mut deleted = BTreeMap::new();
        let gone: BTreeSet<_> = all
            .iter()
            .filter_map(|(family, change)| match change {
                Change::DeleteChain(name) => Some((*family, name)),
                _ => None,
            })
            .collect();
        for (family, change) in all.iter().filter(|(family, _)| !tables.contains(family)) {
            match change {
                Change::AddMap(name, _) => findings.missing.add(|| format!("{family} map {name}")),
                Change::AddChain(name, _) => {
                    chains.insert((*family, name));
                    findings.missing.add(|| format!("{family} chain {name}"));
                }
                Change::AddRule(name, _) if chains.insert((*family, name)) => {
                    findings.missing.add(|| format!("{family} rules of {name}"));
                }
                Change::FlushChain(name) if !gone.contains(&(*family, name)) => {
                    chains.insert((*family, name));
                    findings.changed.add(|| format!("{family} rules of {name}"));
                }
                Change::DeleteChain(name) => findings.foreign.add(|| format!("{family} chain {name}")),
                Change::DeleteMap(name) => findings.foreign.add(|| format!("{family} map {name}")),
                Change::DeleteElements(map, _, keys) => {
                    deleted.insert((*family, map), keys.iter().collect::<BTreeSet<_>>());
                }
                Change::AddElements(map, _, elements) => {
                    let mut there = deleted.remove(&(*family, map)).unwrap_or_default();
                    for (key, _) in elements {
                        let found =
                            if there.remove(key) { &mut findings.changed } else { &mut findings.missing };
                        found.add(|| format!("{family} {map} {key}"));
                    }
                    for key in there {
                        findings.foreign.add(|| format!("{family} {map} {key}"));
                    }
                }
                Change::AddTable | Change::DeleteTable | Change::AddRule(..) | Change::FlushChain(_) => {}
            }
        }
        for ((family, map), keys) in deleted {
            for key in keys {
                findings.foreign.add(|| format!("{family} {map} {key}"));
            }
        }
        findings
    }
}

impl Display for Findings {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let sorts = [("missing", &self.missing), ("changed", &self.changed), ("not ours", &self.foreign)];
        let mut gap = "";
        for (sort, found) in sorts.into_iter().filter(|(_, found)| found.count > 0) {
            let more = if found.count > found.names.len() { ", …" } else { "" };
            write!(f, "{gap}{} {sort} ({}{more})", found.count, found.names.join(", "))?;
            gap = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dataplane::nft::{Data, DataType, Key, KeyType, SetType};

    use super::*;

    const SLOTS: SetType =
        SetType { key: KeyType::Number, data: DataType::Number, counter: false, dynamic: None };

    fn found(changes: impl IntoIterator<Item = Change>) -> String {
        let mut transaction = Transaction::default();
        changes.into_iter().for_each(|change| transaction.push(Family::Ip, change));
        Findings::from(&transaction).to_string()
    }

    fn add(keys: impl IntoIterator<Item = u32>) -> Change {
        let elements = keys.into_iter().map(|key| (Key::Number(key), Data::Number(1).into()));
        Change::AddElements("slots".into(), SLOTS, elements.collect())
    }

    fn delete(keys: impl IntoIterator<Item = u32>) -> Change {
        Change::DeleteElements("slots".into(), SLOTS, keys.into_iter().map(Key::Number).collect())
    }

    #[test]
    fn elements_are_missing_changed_or_not_ours() {
        assert_eq!(
            found([delete([1, 2]), add([2, 3])]),
            "1 missing (ip slots 0:3), 1 changed (ip slots 0:2), 1 not ours (ip slots 0:1)"
        );
        assert_eq!(found([delete([7])]), "1 not ours (ip slots 0:7)");
    }

    #[test]
    fn many_are_counted_and_few_named() {
        assert_eq!(found([add(1..=20)]), "20 missing (ip slots 0:1, ip slots 0:2, ip slots 0:3, …)");
    }

    #[test]
    fn a_table_that_is_switched_off_or_of_another_kind_is_changed() {
        assert_eq!(found([Change::AddTable]), "1 changed (table ip)");
        assert_eq!(
            found([
                Change::AddTable,
                Change::DeleteTable,
                Change::AddTable,
                Change::AddMap("slots".into(), SLOTS)
            ]),
            "1 changed (table ip)"
        );
    }

    #[test]
    fn a_missing_table_is_one_thing() {
        assert_eq!(
            found([Change::AddTable, Change::AddMap("slots".into(), SLOTS), add([1])]),
            "1 missing (table ip)"
        );
    }

    #[test]
    fn chains_are_told_once_however_many_rules_they_have() {
        let rule = || Change::AddRule("pick".into(), dataplane::nft::Rule::default());
        let name = || "pick".into();

        assert_eq!(found([Change::FlushChain(name()), rule(), rule()]), "1 changed (ip rules of pick)");
        assert_eq!(found([rule(), rule()]), "1 missing (ip rules of pick)");
        assert_eq!(found([Change::AddChain(name(), None), rule()]), "1 missing (ip chain pick)");
        assert_eq!(
            found([Change::FlushChain(name()), Change::DeleteChain(name())]),
            "1 not ours (ip chain pick)"
        );
    }
}

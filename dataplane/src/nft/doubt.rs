//! What of a table may not be as it was committed, and the changes that make it so again.
//!
//! In: a doubt, from whoever noticed something, and the table as it should be. Out: the changes; none if the doubt was
//! unfounded. Only what is in doubt is read, so that one element costs one element, however large the table is.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    decode,
    diff::diff,
    encode,
    held::Held,
    message::Writer,
    socket::{Error, Socket, uninterrupted},
    table::{Map, MapName, Table},
    transaction::Transaction,
};
use crate::{nfnetlink::ACK, packet::Family};

/// So many elements of a map are looked up one by one; of more, the map is read as a whole.
const MOST_KEYS: usize = 16_384;

/// What of one table is in doubt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Doubt {
    /// Whether all of it is.
    pub table: bool,
    /// Whether its chains and rules are, and which maps there are.
    pub outline: bool,
    /// Which elements of which maps are.
    pub elements: BTreeMap<MapName, Keys>,
}

/// The elements of a map that are in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// Those with these keys, as the kernel writes them.
    These(BTreeSet<Box<[u8]>>),
    /// Whatever there is.
    All,
}

impl Doubt {
    /// About everything but elements.
    pub fn about_outline() -> Self {
        Self { outline: true, ..Self::default() }
    }

    /// Says whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the doubts of another one.
    pub fn extend(&mut self, other: Self) {
        self.table |= other.table;
        self.outline |= other.outline;
        for (map, keys) in other.elements {
            match keys {
                Keys::All => self.add_map(map),
                Keys::These(keys) => keys.into_iter().for_each(|key| self.add_element(&map, &key)),
            }
        }
    }

    /// Adds one element.
    pub(super) fn add_element(&mut self, map: &str, key: &[u8]) {
        if !self.elements.contains_key(map) {
            self.elements.insert(map.to_owned().into(), Keys::These(BTreeSet::new()));
        }
        if let Some(doubted @ Keys::These(_)) = self.elements.get_mut(map) {
            match doubted {
                Keys::These(keys) if keys.len() < MOST_KEYS => drop(keys.insert(key.into())),
                _ => *doubted = Keys::All,
            }
        }
    }

    /// Adds all elements of a map.
    pub(super) fn add_map(&mut self, map: MapName) {
        self.elements.insert(map, Keys::All);
    }
}

impl Socket {
    /// The changes that make the kernel hold `table` where it is in doubt. Elements that rules added are left alone.
    pub fn amends(&self, table: &Table, doubt: &Doubt) -> Result<Transaction, Error> {
        if doubt.table {
            return Ok(diff(self.held(table.family)?.as_ref(), table));
        }
        let mut held = Held::new(table.family);
        let mut wanted = Table::new(table.family);
        if doubt.outline {
            let Some(outline) = self.outline(table.family)? else { return Ok(diff(None, table)) };
            if !outline.is_convertible(table) {
                return Ok(diff(Some(&outline), table));
            }
            held = outline;
            wanted.chains.clone_from(&table.chains);
        }
        for (name, map) in &table.maps {
            let elements = doubt.elements.get(name).filter(|_| map.kind.dynamic.is_none());
            let is_there = held.maps.contains_key(name);
            match elements {
                _ if doubt.outline && !is_there => drop(wanted.maps.insert(name.clone(), map.clone())),
                None if doubt.outline => drop(wanted.maps.insert(name.clone(), Map::new(map.kind))),
                None => {}
                Some(keys) => {
                    let Some((there, should)) = self.elements_in_doubt(table.family, name, map, keys)? else {
                        return Ok(diff(self.held(table.family)?.as_ref(), table));
                    };
                    held.maps.insert(name.clone(), there);
                    wanted.maps.insert(name.clone(), should);
                }
            }
        }
        Ok(diff(Some(&held), &wanted))
    }

    /// The elements in doubt: as they are, and as they should be. None: one is of no kind of ours.
    fn elements_in_doubt(
        &self,
        family: Family,
        name: &MapName,
        map: &Map,
        keys: &Keys,
    ) -> Result<Option<(Map, Map)>, Error> {
        let mut held = Map::new(map.kind);
        let Keys::These(keys) = keys else {
            let are_ours = uninterrupted(|| {
                held.elements.clear();
                self.read_elements(family, name, &mut held)
            })?;
            return Ok(are_ours.then(|| (held, map.clone())));
        };
        let mut wanted = Map::new(map.kind);
        for bytes in keys {
            if !self.read_element(family, name, bytes, &mut held)? {
                return Ok(None);
            }
            let key = decode::key(family, map.kind.key, bytes);
            if let Some((key, element)) = key.and_then(|key| map.elements.get_key_value(&key)) {
                wanted.elements.insert(*key, element.clone());
            }
        }
        Ok(Some((held, wanted)))
    }

    /// Reads one element, if it is there. False: it is of no kind of ours.
    fn read_element(&self, family: Family, name: &str, key: &[u8], map: &mut Map) -> Result<bool, Error> {
        let kind = map.kind.key;
        let by_key = |w: &mut Writer| {
            w.put_name(2, name);
            let list = w.open(3);
            let element = w.open(1);
            encode::put_key(w, kind, key);
            w.close(element);
            w.close(list);
        };
        let mut is_ours = true;
        let read = self.request(family, encode::GET_ELEMENTS, ACK, by_key, |kind, attributes| {
            if kind == encode::NEW_ELEMENTS {
                is_ours &= decode::elements(family, map, attributes);
            }
        });
        match read {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(true),
            read => read.map(|()| is_ours).map_err(|source| self.unlisted("an element", family, source)),
        }
    }
}

//! What an earlier run left in the kernel, until somebody claims it.
//!
//! A service port that is planned for the first time looks here for what its address leads to, and goes on from there:
//! the same slots, the same class with the turn where it stands, the same endpoint ids that clients are remembered with.
//! What nobody has claimed once everything is planned is removed like anything else that nothing leads to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use dataplane::nft::{Data, Element, Held, Key};

use super::{
    affinity::{CHOICES, EndpointId, TURNS},
    journal::Journal,
    layout::{CLUSTER_VIPS, NODE_PORTS, SLOTS},
    masquerade::HAIRPIN,
    vips,
};

/// Elements that nobody has claimed yet.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    pub(super) vips: BTreeMap<Key, Element>,
    pub(super) slots: BTreeMap<u32, SocketAddr>,
    pub(super) turns: BTreeMap<u32, EndpointId>,
    pub(super) choices: BTreeMap<u32, u32>,
    pub(super) hairpins: BTreeSet<IpAddr>,
}

impl Inheritance {
    /// Takes out of a table what hangs on services.
    pub(super) fn take(held: &mut Held) -> Self {
        let mut elements = |map| {
            let map = held.maps.get_mut(map);
            map.map(|map| std::mem::take(&mut map.elements)).unwrap_or_default()
        };
        let (mut vips, slots, hairpins) = (elements(CLUSTER_VIPS), elements(SLOTS), elements(HAIRPIN));
        vips.extend(elements(NODE_PORTS));
        let turns = numbers(elements(TURNS)).map(|(turn, id)| (turn, EndpointId::from(id)));
        let turns = turns.collect();
        Self {
            vips,
            slots: slots
                .into_iter()
                .filter_map(|(key, element)| match (key, element.data) {
                    (Key::Number(slot), Data::Endpoint(endpoint)) => Some((slot, endpoint)),
                    _ => None,
                })
                .collect(),
            turns,
            choices: numbers(elements(CHOICES)).collect(),
            hairpins: hairpins
                .into_keys()
                .filter_map(|key| match key {
                    Key::Addresses(address, _) => Some(address),
                    _ => None,
                })
                .collect(),
        }
    }

    /// Says whether something is left in a range of slots or turns.
    pub(super) fn is_in(&self, range: &Range<u32>) -> bool {
        self.slots.range(range.clone()).next().is_some() || self.turns.range(range.clone()).next().is_some()
    }

    /// What is left beside addresses and hairpins, as the maps hold it.
    pub(super) fn elements(&self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        let slots = self.slots.iter().map(|(slot, endpoint)| (SLOTS, *slot, Data::Endpoint(*endpoint)));
        let turns = self.turns.iter().map(|(turn, id)| (TURNS, *turn, Data::Number((*id).into())));
        let choices =
            self.choices.iter().map(|(identity, choice)| (CHOICES, *identity, Data::Number(*choice)));
        slots.chain(turns).chain(choices).map(|(map, key, data)| (map, Key::Number(key), data.into()))
    }

    /// The number that one of the addresses leads to for the service port with this comment.
    pub(super) fn number(&self, addresses: &[Key], comment: impl FnOnce() -> String) -> Option<u32> {
        if self.vips.is_empty() {
            return None;
        }
        let comment = comment();
        let element = addresses.iter().filter_map(|key| self.vips.get(key)).find(|element| {
            element.comment.as_deref().is_some_and(|known| !known.is_empty() && comment.starts_with(known))
        })?;
        match element.data {
            Data::Number(number) => Some(number),
            _ => None,
        }
    }

    /// Takes out what a range of turns holds, if all of it is there.
    pub(super) fn take_range<T: Copy>(
        from: &mut BTreeMap<u32, T>,
        base: u32,
        length: usize,
    ) -> Option<Vec<T>> {
        let end = base.checked_add(u32::try_from(length).ok()?)?;
        let found: Vec<_> = from.range(base..end).map(|(_, member)| *member).collect();
        if found.len() != length {
            return None;
        }
        for slot in base..end {
            from.remove(&slot);
        }
        Some(found)
    }

    /// Plans the removal of what must go at once: addresses that nobody serves, and hairpins. The rest is left.
    pub(super) fn disclaim(&mut self, journal: &mut Journal) {
        for key in std::mem::take(&mut self.vips).into_keys() {
            journal.remove(vips::map_of(key), key);
        }
        for address in std::mem::take(&mut self.hairpins) {
            journal.remove(HAIRPIN, Key::Addresses(address, address));
        }
    }
}

/// The elements of a map from numbers to numbers.
fn numbers(elements: BTreeMap<Key, Element>) -> impl Iterator<Item = (u32, u32)> {
    elements.into_iter().filter_map(|(key, element)| match (key, element.data) {
        (Key::Number(key), Data::Number(number)) => Some((key, number)),
        _ => None,
    })
}

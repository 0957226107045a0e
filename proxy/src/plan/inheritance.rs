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

use dataplane::nft::{ChainName, Data, Element, Held, Key, Verdict};

use super::{
    affinity::{self, CHOICES, DEPARTED, EndpointId, TURNS},
    external::{LOCAL, NEAR, is_split},
    journal::Journal,
    layout::SLOTS,
    members,
    source_ranges::{GUARDED, GUARDS, is_guard},
    vips::{Address, Place},
};
use crate::service_port::TrafficPolicy;

/// Elements that nobody has claimed yet.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    pub(super) vips: BTreeMap<Address, Element>,
    pub(super) slots: BTreeMap<u32, SocketAddr>,
    pub(super) turns: BTreeMap<u32, EndpointId>,
    pub(super) choices: BTreeMap<u32, u32>,
    /// Ids of endpoints that had left.
    pub(super) departed: BTreeSet<u32>,
    /// What splits mean to clients on this node, and to strangers.
    pub(super) near: BTreeMap<u32, u32>,
    pub(super) local: BTreeMap<u32, u32>,
    /// The chain of each guard, and the number that it guards.
    pub(super) guards: BTreeMap<u32, ChainName>,
    pub(super) guarded: BTreeMap<u32, u32>,
    members: BTreeMap<&'static str, BTreeSet<IpAddr>>,
}

/// What an earlier run led a service port to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Inherited {
    /// The number of all endpoints.
    pub(super) all: Option<u32>,
    /// The number of local endpoints.
    pub(super) local: Option<u32>,
    /// The number that stands for both.
    pub(super) split: Option<u32>,
    /// The number that addresses with source ranges hold.
    pub(super) guard: Option<u32>,
}

impl Inheritance {
    /// Takes out of a table what hangs on services.
    pub(super) fn take(held: &mut Held) -> Self {
        let mut elements = |map| {
            let map = held.maps.get_mut(map);
            map.map(|map| std::mem::take(&mut map.elements)).unwrap_or_default()
        };
        let vips = Place::ALL.into_iter().flat_map(|place| {
            elements(place.map()).into_iter().map(move |(key, element)| (Address { place, key }, element))
        });
        let vips = vips.collect();
        let guards = elements(GUARDS).into_iter().filter_map(|(key, element)| match (key, element.data) {
            (Key::Number(guard), Data::Verdict(Verdict::Jump(chain))) => Some((guard, chain)),
            _ => None,
        });
        let guards = guards.collect();
        let members = members::SETS
            .into_iter()
            .map(|(set, _)| (set, elements(set).into_keys().filter_map(members::address).collect()));
        let members = members.collect();
        let departed = elements(DEPARTED).into_keys().filter_map(|key| match key {
            Key::Number(id) => Some(id),
            _ => None,
        });
        let departed = departed.collect();
        let slots = elements(SLOTS);
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
            departed,
            choices: numbers(elements(CHOICES)).collect(),
            near: numbers(elements(NEAR)).collect(),
            local: numbers(elements(LOCAL)).collect(),
            guards,
            guarded: numbers(elements(GUARDED)).collect(),
            members,
        }
    }

    /// Says whether something is left in a range of slots or turns.
    pub(super) fn is_in(&self, range: &Range<u32>) -> bool {
        self.slots.range(range.clone()).next().is_some() || self.turns.range(range.clone()).next().is_some()
    }

    /// Takes a member out of a set. Says whether it was there.
    pub(super) fn take_member(&mut self, set: &str, address: IpAddr) -> bool {
        self.members.get_mut(set).is_some_and(|members| members.remove(&address))
    }

    /// What is left beside addresses, guards and members, as the maps hold it.
    pub(super) fn elements(&self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        let slots = self.slots.iter().map(|(slot, endpoint)| (SLOTS, *slot, Data::Endpoint(*endpoint)));
        let turns = self.turns.iter().map(|(turn, id)| (TURNS, *turn, Data::Number((*id).into())));
        let numbers = [(CHOICES, &self.choices), (NEAR, &self.near), (LOCAL, &self.local)];
        let numbers = numbers.into_iter().flat_map(|(map, numbers)| {
            numbers.iter().map(move |(key, number)| (map, *key, Data::Number(*number)))
        });
        let elements = slots.chain(turns).chain(numbers);
        let elements = elements.map(|(map, key, data)| (map, Key::Number(key), data.into()));
        elements.chain(self.departed.iter().map(|id| affinity::departure(*id)))
    }

    /// The numbers that the addresses lead to for the service port with this comment. What the cluster IP's number means hangs on the
    /// policy, which may have been another one then: if so, it is exchanged like any other change.
    pub(super) fn numbers(
        &self,
        addresses: &[Address],
        internal_policy: TrafficPolicy,
        comment: impl FnOnce() -> String,
    ) -> Inherited {
        if self.vips.is_empty() {
            return Inherited::default();
        }
        let comment = comment();
        let numbers = |is_sought: fn(Place) -> bool| {
            let addresses = addresses.iter().filter(move |address| is_sought(address.place));
            let elements = addresses.filter_map(|address| self.vips.get(address)).filter(|element| {
                let known = element.comment.as_deref().filter(|known| !known.is_empty());
                known.is_some_and(|known| comment.starts_with(known))
            });
            elements.filter_map(|element| match element.data {
                Data::Number(number) => Some(number),
                _ => None,
            })
        };
        let internal = numbers(|place| place == Place::Cluster).next();
        let mut external =
            numbers(|place| place != Place::Cluster).map(|number| (number, self.guarded.get(&number)));
        let guard =
            external.clone().find_map(|(number, guarded)| is_guard(number).then_some((number, guarded)));
        let external =
            external.find_map(|(number, guarded)| (!is_guard(number)).then_some(number).or(guarded.copied()));
        let split = external.filter(|number| is_split(*number));
        let meant = |map: &BTreeMap<u32, u32>| split.and_then(|split| map.get(&split).copied());
        let by_policy = |policy| internal.filter(|_| internal_policy == policy);
        Inherited {
            all: meant(&self.near)
                .or(external.filter(|_| split.is_none()))
                .or(by_policy(TrafficPolicy::Cluster)),
            local: meant(&self.local).or(by_policy(TrafficPolicy::Local)),
            split,
            guard: guard.map(|(guard, _)| guard),
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

    /// Plans the removal of what must go at once: addresses that nobody serves, and members. The rest is left.
    pub(super) fn disclaim(&mut self, journal: &mut Journal) {
        for address in std::mem::take(&mut self.vips).into_keys() {
            journal.remove(address.place.map(), address.key);
        }
        for (set, addresses) in std::mem::take(&mut self.members) {
            for address in addresses {
                journal.remove(set, members::key(set, address));
            }
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

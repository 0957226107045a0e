//! Who has an address that several service ports want: the first by name, whatever came first in time, so that every
//! node and every restart decides alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use dataplane::nft::Key;

use crate::service_port::ServicePortName;

/// An address that a service port wants and another one has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadowed {
    /// The address.
    pub address: Key,
    /// Who wants it.
    pub wanted_by: ServicePortName,
    /// Who has it.
    pub held_by: ServicePortName,
}

impl fmt::Display for Shadowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not served for {}: {} has it", self.address, self.wanted_by, self.held_by)
    }
}

/// Who wants which address.
#[derive(Debug, Default)]
pub(super) struct Claims {
    holders: BTreeMap<Key, Arc<ServicePortName>>,
    /// The others, where there are any.
    waiting: BTreeMap<Key, BTreeSet<Arc<ServicePortName>>>,
}

impl Claims {
    /// Claims an address. Says who must do without it, if two want it.
    pub(super) fn claim(&mut self, key: Key, name: &Arc<ServicePortName>) -> Option<Shadowed> {
        let holder = self.holders.entry(key).or_insert_with(|| Arc::clone(name));
        if name == holder {
            return None;
        }
        let (held_by, wanted_by) = if name < holder {
            let beaten = std::mem::replace(holder, Arc::clone(name));
            (name, beaten)
        } else {
            (&*holder, Arc::clone(name))
        };
        let shadowed =
            Shadowed { address: key, wanted_by: (*wanted_by).clone(), held_by: (**held_by).clone() };
        self.waiting.entry(key).or_default().insert(wanted_by);
        Some(shadowed)
    }

    /// Gives a claim up; returns who has the address from now on, if it changes hands.
    pub(super) fn release(&mut self, key: Key, name: &ServicePortName) -> Option<Arc<ServicePortName>> {
        let mut waiting = self.waiting.remove(&key).unwrap_or_default();
        let next = if self.holders.get(&key).is_some_and(|holder| **holder == *name) {
            let next = waiting.pop_first();
            match &next {
                Some(next) => drop(self.holders.insert(key, Arc::clone(next))),
                None => drop(self.holders.remove(&key)),
            }
            next
        } else {
            waiting.remove(name);
            None
        };
        if !waiting.is_empty() {
            self.waiting.insert(key, waiting);
        }
        next
    }

    /// Says whether anybody has the address.
    pub(super) fn is_held(&self, key: Key) -> bool {
        self.holders.contains_key(&key)
    }
}

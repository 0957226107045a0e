//! The addresses of services: who has each, and which number it leads to.
//!
//! Where several service ports want one address, the first by name has it, whatever came first in time, so that every
//! node and every restart decides alike. The others wait.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use dataplane::nft::{Data, Element, Key};

use super::{
    inheritance::Inheritance,
    journal::Journal,
    layout::{CLUSTER_VIPS, NODE_PORTS},
};
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

/// An address in service.
#[derive(Debug)]
struct Vip {
    holder: Arc<ServicePortName>,
    number: u32,
}

/// All addresses of one table.
#[derive(Debug, Default)]
pub(super) struct Vips {
    held: HashMap<Key, Vip>,
    /// Who else wants an address, where anybody does.
    waiting: BTreeMap<Key, BTreeSet<Arc<ServicePortName>>>,
}

impl Vips {
    /// Claims an address and leads it to a number, unless a service port that comes first by name has it. Says who must do
    /// without it, if two want it.
    pub(super) fn claim(
        &mut self,
        journal: &mut Journal,
        inheritance: &mut Inheritance,
        key: Key,
        name: &Arc<ServicePortName>,
        number: u32,
    ) -> Option<Shadowed> {
        let Some(vip) = self.held.get_mut(&key) else {
            let inherited = inheritance.vips.remove(&key);
            let element = element(name, number);
            if inherited.as_ref() != Some(&element) {
                journal.put(map_of(key), key, inherited.is_some(), element);
            }
            self.held.insert(key, Vip { holder: Arc::clone(name), number });
            return None;
        };
        let mut beaten = None;
        if *name > vip.holder {
            let shadowed = shadowed(key, name, &vip.holder);
            self.waiting.entry(key).or_default().insert(Arc::clone(name));
            return Some(shadowed);
        }
        if *name < vip.holder {
            beaten = Some(std::mem::replace(&mut vip.holder, Arc::clone(name)));
        }
        if beaten.is_some() || vip.number != number {
            vip.number = number;
            journal.put(map_of(key), key, true, element(name, number));
        }
        let beaten = beaten?;
        let shadowed = shadowed(key, &beaten, name);
        self.waiting.entry(key).or_default().insert(beaten);
        Some(shadowed)
    }

    /// Gives a claim up. Whoever waits first has the address then, and leads it to its own number.
    pub(super) fn release(
        &mut self,
        journal: &mut Journal,
        key: Key,
        name: &ServicePortName,
        number_of: impl FnOnce(&ServicePortName) -> Option<u32>,
    ) {
        let mut waiting = self.waiting.remove(&key).unwrap_or_default();
        let is_holder = self.held.get(&key).is_some_and(|vip| *vip.holder == *name);
        if is_holder {
            let heir = waiting.pop_first().and_then(|heir| Some((number_of(&heir)?, heir)));
            if let Some((number, holder)) = heir {
                journal.put(map_of(key), key, true, element(&holder, number));
                self.held.insert(key, Vip { holder, number });
            } else {
                journal.remove(map_of(key), key);
                self.held.remove(&key);
            }
        } else {
            waiting.remove(name);
        }
        if !waiting.is_empty() {
            self.waiting.insert(key, waiting);
        }
    }

    /// Every address in service, as the map that it is in holds it.
    pub(super) fn elements(&self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        self.held.iter().map(|(key, vip)| (map_of(*key), *key, element(&vip.holder, vip.number)))
    }
}

fn shadowed(address: Key, wanted_by: &ServicePortName, held_by: &ServicePortName) -> Shadowed {
    Shadowed { address, wanted_by: wanted_by.clone(), held_by: held_by.clone() }
}

/// The map that an address is in.
pub(super) fn map_of(key: Key) -> &'static str {
    if matches!(key, Key::Port(..)) { NODE_PORTS } else { CLUSTER_VIPS }
}

/// A number, with the service's name for people.
fn element(name: &ServicePortName, number: u32) -> Element {
    Element::new(Data::Number(number)).with_comment(&comment(name))
}

/// What stands beside the addresses of a service port.
pub(super) fn comment(name: &ServicePortName) -> String {
    name.to_string()
}

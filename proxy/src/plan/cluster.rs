//! The cluster's nodes, as far as they matter to what leaves pods: their pod CIDRs and their own addresses. See
//! [`super::masquerade`].
//!
//! In: nodes, one at a time. Out: elements of two sets. A node comes in before anything leads to its pods, and goes some time after
//! nothing does any more: neither its packets nor those to it are taken for strangers' on the way.

use std::{collections::HashMap, mem, net::IpAddr, sync::Arc};

use dataplane::nft::{Element, Key};

use super::{
    inheritance::Inheritance,
    journal::Journal,
    members::{self, Members, NODES, PODS},
};
use crate::{objects::Node, service_port::Family};

/// What the sets have of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    /// Keys of its pod CIDRs.
    pods: Vec<IpAddr>,
    /// Its addresses.
    own: Vec<IpAddr>,
}

impl Place {
    fn of(node: &Node, family: Family) -> Self {
        let (mut pods, mut own) = (Vec::new(), Vec::new());
        for &cidr in node.pod_cidrs.iter().filter(|cidr| Family::of(cidr.ip()) == family) {
            match Key::network(cidr).and_then(members::address) {
                Some(key) => pods.push(key),
                None => own.push(cidr.ip()), // as long as an address
            }
        }
        own.extend(node.internal_ips.iter().filter(|ip| Family::of(**ip) == family));
        Self { pods, own }
    }
}

/// The nodes of one family.
#[derive(Debug)]
pub(super) struct Cluster {
    places: HashMap<Arc<str>, Place>,
    pods: Members,
    own: Members,
    /// What is to go, and what has waited for it long enough.
    leaving: Vec<Place>,
    left: Vec<Place>,
}

impl Cluster {
    pub(super) fn new() -> Self {
        Self {
            places: HashMap::new(),
            pods: Members::of(PODS),
            own: Members::of(NODES),
            leaving: Vec::new(),
            left: Vec::new(),
        }
    }

    /// Takes a node in as it is now, or `None` for gone.
    pub(super) fn set(
        &mut self,
        family: Family,
        journal: &mut Journal,
        inheritance: &mut Inheritance,
        name: &str,
        node: Option<&Node>,
    ) {
        let place = node.map(|node| Place::of(node, family)).unwrap_or_default();
        if self.places.get(name).is_some_and(|known| *known == place) {
            return;
        }
        self.exchange(journal, inheritance, &Place::default(), &place);
        let old = match node {
            Some(_) => self.places.insert(name.into(), place),
            None => self.places.remove(name),
        };
        self.leaving.extend(old);
    }

    /// Plans the removal of what was to go already at the last call.
    pub(super) fn retire(&mut self, journal: &mut Journal, inheritance: &mut Inheritance) {
        for place in mem::replace(&mut self.left, mem::take(&mut self.leaving)) {
            self.exchange(journal, inheritance, &place, &Place::default());
        }
    }

    /// Says whether nothing waits to go.
    pub(super) fn is_settled(&self) -> bool {
        self.leaving.is_empty() && self.left.is_empty()
    }

    /// Every member of both sets.
    pub(super) fn elements(&self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        self.pods.elements().chain(self.own.elements())
    }

    fn exchange(&mut self, journal: &mut Journal, inheritance: &mut Inheritance, old: &Place, new: &Place) {
        self.pods.replace(journal, inheritance, &old.pods, &new.pods);
        self.own.replace(journal, inheritance, &old.own, &new.own);
    }
}

//! The cluster's nodes, as far as they matter to what leaves pods: their pod CIDRs and their own addresses. See
//! [`super::masquerade`].
//!
//! In: nodes, one at a time. Out: elements of two sets. A node comes in before anything leads to its pods, and goes some time after
//! nothing does any more: neither its packets nor those to it are taken for strangers' on the way.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    net::IpAddr,
    sync::Arc,
};

use dataplane::nft::{Element, Key};
use ipnetwork::IpNetwork;

use super::{
    inheritance::Inheritance,
    journal::Journal,
    members::{self, Members, NODES, PODS},
};
use crate::{objects::Node, service_port::Family};

/// What the sets have of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    /// Its pod CIDRs.
    pods: Vec<IpNetwork>,
    /// Its addresses.
    own: Vec<IpAddr>,
}

impl Place {
    fn of(node: &Node, family: Family) -> Self {
        let cidrs = node.pod_cidrs.iter().copied().filter(|cidr| Family::of(cidr.ip()) == family);
        // One that is as long as an address is one.
        let (pods, alone): (Vec<_>, Vec<_>) = cidrs.partition(|cidr| Key::network(*cidr).is_some());
        let own = node.internal_ips.iter().copied().filter(|ip| Family::of(*ip) == family);
        Self { pods, own: own.chain(alone.iter().map(IpNetwork::ip)).collect() }
    }

    /// What stands for its pod CIDRs in the set.
    fn keys(&self) -> Vec<IpAddr> {
        self.pods.iter().filter_map(|cidr| members::address(Key::network(*cidr)?)).collect()
    }
}

/// The nodes of one family.
#[derive(Debug)]
pub(super) struct Cluster {
    places: HashMap<Arc<str>, Place>,
    pods: Members,
    /// How many pod CIDRs are of each length.
    prefixes: BTreeMap<u8, usize>,
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
            prefixes: BTreeMap::new(),
            own: Members::of(NODES),
            leaving: Vec::new(),
            left: Vec::new(),
        }
    }

    /// How long the pod CIDRs are that are in the set, in bits.
    pub(super) fn prefixes(&self) -> BTreeSet<u8> {
        self.prefixes.keys().copied().collect()
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
        for cidr in &new.pods {
            *self.prefixes.entry(cidr.prefix()).or_default() += 1;
        }
        for cidr in &old.pods {
            if let Some(count) = self.prefixes.get_mut(&cidr.prefix()) {
                *count -= 1;
            }
        }
        self.prefixes.retain(|_, count| *count > 0);
        self.pods.replace(journal, inheritance, &old.keys(), &new.keys());
        self.own.replace(journal, inheritance, &old.own, &new.own);
    }
}

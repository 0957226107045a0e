//! Sets of addresses that service ports, or nodes, have in common: an address is in the set while any of them has it.

use std::{collections::BTreeMap, net::IpAddr};

use dataplane::nft::{Data, DataType, Element, Key, KeyType, SetType};

use super::{inheritance::Inheritance, journal::Journal, layout::kind};

/// The endpoints of this node, each paired with itself.
pub(super) const HAIRPIN: &str = "hairpin";
/// The cluster IPs in service.
pub(super) const CLUSTER_IPS: &str = "cluster-ips";
/// The cluster IPs that answer ping: those that somebody is behind.
pub(super) const PINGABLE: &str = "pingable";

/// The pod CIDRs of all nodes, as [`Key::network`] has them.
pub(super) const PODS: &str = "pods";
/// The internal addresses of all nodes.
pub(super) const NODES: &str = "nodes";

/// Every set of this kind.
pub(super) const SETS: [(&str, SetType); 5] = [
    (HAIRPIN, kind(KeyType::Addresses, DataType::None)),
    (CLUSTER_IPS, kind(KeyType::Address, DataType::None)),
    (PINGABLE, kind(KeyType::Address, DataType::None)),
    (PODS, kind(KeyType::Address, DataType::None)),
    (NODES, kind(KeyType::Address, DataType::None)),
];

/// One such set.
#[derive(Debug)]
pub(super) struct Members {
    set: &'static str,
    /// How many have each address.
    counts: BTreeMap<IpAddr, usize>,
}

impl Members {
    /// An empty set.
    pub(super) fn of(set: &'static str) -> Self {
        Self { set, counts: BTreeMap::new() }
    }

    /// Exchanges the addresses of one of them.
    pub(super) fn replace(
        &mut self,
        journal: &mut Journal,
        inheritance: &mut Inheritance,
        old: &[IpAddr],
        new: &[IpAddr],
    ) {
        if old == new {
            return;
        }
        for &address in new {
            let count = self.counts.entry(address).or_default();
            *count += 1;
            if *count == 1 && !inheritance.take_member(self.set, address) {
                journal.put(self.set, key(self.set, address), false, Data::None.into());
            }
        }
        for &address in old {
            if let Some(count) = self.counts.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&address);
                    journal.remove(self.set, key(self.set, address));
                }
            }
        }
    }

    /// Every member, as the set holds it.
    pub(super) fn elements(&self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        self.counts.keys().map(|&address| (self.set, key(self.set, address), Data::None.into()))
    }
}

/// The key of an address in a set.
pub(super) fn key(set: &'static str, address: IpAddr) -> Key {
    if set == HAIRPIN { Key::Addresses(address, address) } else { Key::Address(address) }
}

/// The address of a key.
pub(super) fn address(key: Key) -> Option<IpAddr> {
    match key {
        Key::Addresses(address, _) | Key::Address(address) => Some(address),
        _ => None,
    }
}

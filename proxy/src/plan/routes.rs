//! The routes to the pods of other nodes. Pure.
//!
//! In: all nodes and the addresses of our own links. Out: a route for each pod CIDR of each other node, through that
//! node's internal address of the same family; and the reason for each that there cannot be.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use dataplane::rtnl::{Address, Route};
use ipnetwork::IpNetwork;

use crate::{objects::Node, service_port::Family};

#[cfg(test)]
mod tests;

/// The wanted routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order of destination, each destination once.
    pub routes: Vec<Route>,
    /// Nodes, or some of their pods, that cannot be reached.
    pub unreachable: Vec<Unreachable>,
}

/// Pods that cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unreachable {
    /// The node that they run on.
    pub node: String,
    /// Why.
    pub reason: Reason,
}

/// Why pods cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Nobody has said what addresses they have.
    NoPodCidr,
    /// The node has no internal address of the family of this pod CIDR.
    NoAddress(IpNetwork),
    /// The node's address is on none of our links.
    NotOnLink(IpAddr),
    /// Another node has this pod CIDR as well.
    Taken(IpNetwork),
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = &self.node;
        match self.reason {
            Reason::NoPodCidr => write!(f, "node {node} has no pod CIDR"),
            Reason::NoAddress(cidr) => {
                write!(f, "node {node} has no internal address for its pod CIDR {cidr}")
            }
            Reason::NotOnLink(address) => {
                write!(f, "node {node} at {address} is on none of this node's links")
            }
            Reason::Taken(cidr) => write!(f, "node {node} shares its pod CIDR {cidr} with another node"),
        }
    }
}

/// Plans the routes from `own_node` to all others.
pub fn plan<'a>(nodes: impl IntoIterator<Item = &'a Node>, own_node: &str, addresses: &[Address]) -> Plan {
    let mut routes: BTreeMap<IpNetwork, Route> = BTreeMap::new();
    let mut unreachable = Vec::new();
    let (own, others): (Vec<&Node>, Vec<&Node>) =
        nodes.into_iter().partition(|node| *node.name.name == *own_node);
    for node in others {
        let mut add = |reason| unreachable.push(Unreachable { node: node.name.name.to_string(), reason });
        if node.pod_cidrs.is_empty() {
            add(Reason::NoPodCidr);
        }
        for &cidr in &node.pod_cidrs {
            let is_own = own.iter().any(|own| own.pod_cidrs.contains(&cidr));
            if is_own || routes.contains_key(&cidr) {
                add(Reason::Taken(cidr));
                continue;
            }
            match next_hop(node, cidr, addresses) {
                Ok((gateway, link)) => drop(routes.insert(cidr, Route::through(cidr, gateway, link))),
                Err(reason) => add(reason),
            }
        }
    }
    Plan { routes: routes.into_values().collect(), unreachable }
}

/// The node's first address of the right family that is on a link of ours, and that link.
fn next_hop(node: &Node, cidr: IpNetwork, addresses: &[Address]) -> Result<(IpAddr, u32), Reason> {
    let family = Family::of(cidr.ip());
    let candidates = node.internal_ips.iter().copied().filter(|&ip| Family::of(ip) == family);
    let mut reason = Reason::NoAddress(cidr);
    for gateway in candidates {
        match link_towards(gateway, addresses) {
            Some(link) => return Ok((gateway, link)),
            None => reason = Reason::NotOnLink(gateway),
        }
    }
    Err(reason)
}

fn link_towards(gateway: IpAddr, addresses: &[Address]) -> Option<u32> {
    // The kernel routes an address without a network of its own to nobody but itself.
    let near = addresses.iter().filter(|near| near.network.contains(gateway) && near.network.ip() != gateway);
    near.max_by_key(|near| near.network.prefix()).map(|near| near.link)
}

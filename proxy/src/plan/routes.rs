//! The ways to the pods of other nodes. Pure.
//!
//! In: what stands of this node, and all nodes. Out: a way for each pod CIDR of each other node, what the kernel must hold for it, and
//! the reason for each that there cannot be.
//!
//! ```text
//! direct   10.244.1.0/24 via 192.168.14.51 dev eth0             the node is on a link of ours
//! tunnel   10.244.2.0/24 via 192.168.15.52 dev fairway.1 onlink [`routing`]: a packet is looked up three times
//!            192.168.15.52 lladdr 02:46:c0:a8:0f:34 permanent     the hardware address is made from the node's
//!              02:46:c0:a8:0f:34 dst 192.168.15.52                the machine that has it
//!          from 10.244.0.0/24 lookup 18007                        our own pods, to the node itself:
//!            192.168.15.52 via 192.168.15.52 dev fairway.1 onlink
//! ```

use std::{collections::BTreeMap, fmt, net::IpAddr};

use dataplane::rtnl::Address;
use ipnetwork::IpNetwork;

use crate::{config::RouteMode, objects::Node, service_port::Family};

pub mod objects;
pub mod routing;
#[cfg(test)]
pub(crate) mod tests;
pub mod tunnel;

/// Where the ways begin: this node, as far as it matters to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Which kinds of way there may be.
    pub mode: RouteMode,
    /// What this node's own pods' addresses are taken from.
    pub pod_cidrs: Vec<IpNetwork>,
    /// The addresses of its links, other than those to its pods.
    pub addresses: Vec<Address>,
    /// Where its tunnels begin: for each family the first of its internal addresses that is on a link, or was.
    pub ends: BTreeMap<Family, IpAddr>,
}

/// A way to the pods of a CIDR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Through the node's own address, which is on a link of ours.
    Direct {
        /// The address.
        gateway: IpAddr,
        /// The link.
        link: u32,
    },
    /// Inside packets to the node's own address.
    Tunnel {
        /// The address.
        remote: IpAddr,
    },
}

/// How many ways of each kind there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ways {
    /// Straight to the node.
    pub direct: usize,
    /// Through tunnels.
    pub tunnel: usize,
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
    /// The node has no internal address, or none of the family of this pod CIDR where only that would do.
    NoAddress(IpNetwork),
    /// The node's address is on none of our links.
    NotOnLink(IpAddr),
    /// A tunnel to the node's address cannot begin anywhere.
    NoEnd(IpAddr),
    /// The node's address is ours.
    Ours(IpAddr),
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
                write!(f, "node {node} at {address} is on none of this node's links: use --routes=auto")
            }
            Reason::NoEnd(address) => write!(
                f,
                "node {node} at {address} is on none of this node's links, and no tunnel leads there: \
                 this node's first internal address of that family is on none of its links either"
            ),
            Reason::Ours(address) => {
                write!(f, "node {node} claims {address}, which is an address of this node")
            }
            Reason::Taken(cidr) => write!(f, "node {node} shares its pod CIDR {cidr} with another node"),
        }
    }
}

impl Site {
    /// What stands of this node: its object, if it is known, and the addresses of its links other than those to its pods.
    ///
    /// Where its tunnels began before, they begin while no address is there to take that one's place: links lose their addresses
    /// for a moment when whoever manages them starts again, and a tunnel that is made anew loses what is in it.
    pub fn new(
        mode: RouteMode,
        own: Option<&Node>,
        addresses: Vec<Address>,
        before: &BTreeMap<Family, IpAddr>,
    ) -> Self {
        let is_here = |ip: &IpAddr| addresses.iter().any(|address| address.network.ip() == *ip);
        let end = |family| {
            let first = first_of(own?, family)?;
            if is_here(&first) { Some(first) } else { before.get(&family).copied() }
        };
        let ends = Family::ALL.into_iter().filter_map(|family| Some((family, end(family)?))).collect();
        Self { mode, pod_cidrs: own.map(|own| own.pod_cidrs.clone()).unwrap_or_default(), addresses, ends }
    }

    /// Where its tunnels begin though no link has that address now.
    pub fn adrift(&self) -> impl Iterator<Item = IpAddr> {
        let addresses = &self.addresses;
        let is_gone = move |end: &IpAddr| addresses.iter().all(|address| address.network.ip() != *end);
        self.ends.values().copied().filter(is_gone)
    }

    /// Says whether other nodes may send through tunnels, and this one too.
    fn has_tunnels(&self) -> bool {
        self.mode.has_tunnels()
    }

    /// The ways to a node's pods, CIDR by CIDR, as if there were no other node.
    fn ways(&self, node: &Node) -> Vec<(IpNetwork, Result<Way, Reason>)> {
        node.pod_cidrs.iter().map(|&cidr| (cidr, self.way(node, cidr))).collect()
    }

    fn way(&self, node: &Node, cidr: IpNetwork) -> Result<Way, Reason> {
        if self.pod_cidrs.iter().any(|own| own.network() == cidr.network()) {
            return Err(Reason::Taken(cidr));
        }
        let is_ours = |ip: &&IpAddr| self.addresses.iter().any(|address| address.network.ip() == **ip);
        if let Some(ours) = node.internal_ips.iter().find(is_ours) {
            return Err(Reason::Ours(*ours));
        }
        match self.mode {
            RouteMode::Direct => self.direct(node, cidr),
            RouteMode::Vxlan => self.tunnel(node, cidr),
            RouteMode::Auto | RouteMode::None => self.direct(node, cidr).or_else(|_| self.tunnel(node, cidr)),
        }
    }

    /// Through the node's first address of the right family that is on a link of ours.
    fn direct(&self, node: &Node, cidr: IpNetwork) -> Result<Way, Reason> {
        let family = Family::of(cidr.ip());
        let candidates = node.internal_ips.iter().copied().filter(|&ip| Family::of(ip) == family);
        let mut reason = Reason::NoAddress(cidr);
        for gateway in candidates {
            match self.link_towards(gateway) {
                Some(link) => return Ok(Way::Direct { gateway, link }),
                None => reason = Reason::NotOnLink(gateway),
            }
        }
        Err(reason)
    }

    /// To the node's first address of a family that both ends have: both choose the same, as the node knows itself by it.
    fn tunnel(&self, node: &Node, cidr: IpNetwork) -> Result<Way, Reason> {
        let no_way = || node.internal_ips.first().map_or(Reason::NoAddress(cidr), |ip| Reason::NoEnd(*ip));
        self.far_end(node).map(|remote| Way::Tunnel { remote }).ok_or_else(no_way)
    }

    fn far_end(&self, node: &Node) -> Option<IpAddr> {
        self.ends.keys().find_map(|&family| first_of(node, family))
    }

    /// The family of the tunnel that a node would send through to this one.
    fn tunnel_from(&self, node: &Node) -> Option<Family> {
        self.far_end(node).filter(|_| self.has_tunnels()).map(Family::of)
    }

    fn link_towards(&self, gateway: IpAddr) -> Option<u32> {
        // The kernel routes an address without a network of its own to nobody but itself.
        let near = self.addresses.iter().filter(|near| near.network.contains(gateway));
        near.max_by_key(|near| near.network.prefix()).map(|near| near.link)
    }
}

fn first_of(node: &Node, family: Family) -> Option<IpAddr> {
    node.internal_ips.iter().copied().find(|&ip| Family::of(ip) == family)
}

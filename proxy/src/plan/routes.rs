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

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use dataplane::rtnl::{Address, LOOPBACK};
use ipnetwork::IpNetwork;

use self::uplinks::{Condition, Exit, Uplinks};
use crate::{config::RouteMode, objects::Node, service_port::Family};

pub mod objects;
pub mod routing;
#[cfg(test)]
pub(crate) mod tests;
pub mod tunnel;
pub mod uplinks;

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
    /// What leads out of it.
    pub uplinks: Uplinks,
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
    /// The node's address is on a link of ours that is down.
    LinkDown(IpAddr),
    /// A tunnel to the node's address cannot begin anywhere.
    NoEnd(IpAddr),
    /// The node's address is ours, and it has no other.
    Ours(IpAddr),
    /// Another node has this pod CIDR as well.
    Taken(IpNetwork),
    /// Another node has this address as well, and whose it is nobody can tell.
    Shared(IpAddr),
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
            Reason::LinkDown(address) => {
                write!(
                    f,
                    "node {node} at {address} is on a link of this node that is down, and nothing else leads there"
                )
            }
            Reason::NoEnd(address) => write!(
                f,
                "node {node} at {address} is on none of this node's links, and no tunnel leads there: \
                 this node's first internal address of that family is on none of its links either"
            ),
            Reason::Ours(address) => {
                write!(f, "node {node} claims {address}, which is an address of this node, and has no other")
            }
            Reason::Taken(cidr) => write!(f, "node {node} shares its pod CIDR {cidr} with another node"),
            Reason::Shared(ip) => {
                write!(f, "node {node} shares its address {ip} with another node: no tunnel leads to it")
            }
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
        let pod_cidrs = own.map(|own| own.pod_cidrs.clone()).unwrap_or_default();
        Self { mode, pod_cidrs, addresses, ends, uplinks: Uplinks::default() }
    }

    /// The same, with what leads out of it. Without, all links do.
    #[must_use]
    pub fn over(self, uplinks: Uplinks) -> Self {
        Self { uplinks, ..self }
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
        match self.mode {
            RouteMode::Direct => self.direct(node, cidr),
            RouteMode::Vxlan => self.tunnel(node, cidr),
            RouteMode::Auto | RouteMode::None => self.best(node, cidr),
        }
    }

    /// Straight, where packets leave by that link now; else through a tunnel. But where what is in tunnels would leave by the same link, or by
    /// none, a tunnel is no better, and the straight way is there again as soon as the link is: nothing changes.
    fn best(&self, node: &Node, cidr: IpNetwork) -> Result<Way, Reason> {
        let direct = self.direct(node, cidr);
        let is_near = matches!(direct, Ok(_) | Err(Reason::LinkDown(_)));
        if let Ok(Way::Direct { link, .. }) = direct
            && self.uplinks.condition(link) == Some(Condition::Open)
        {
            return direct;
        }
        match self.tunnel(node, cidr) {
            Ok(Way::Tunnel { remote }) if is_near && !self.uplinks.lead_to(remote) => direct,
            Err(_) if is_near => direct,
            tunnel => tunnel,
        }
    }

    /// Through the node's first address of the right family that is on a link of ours, of several links by one that packets leave by.
    fn direct(&self, node: &Node, cidr: IpNetwork) -> Result<Way, Reason> {
        let family = Family::of(cidr.ip());
        let mut reason = Reason::NoAddress(cidr);
        let mut best: Option<(Condition, IpAddr, u32)> = None;
        for &gateway in node.internal_ips.iter().filter(|&&ip| Family::of(ip) == family) {
            if self.has(gateway) {
                reason = Reason::Ours(gateway); // another's for the moment: so it is no way to that node, but others may be
                continue;
            }
            match self.link_towards(gateway) {
                Some((condition, link)) if best.is_none_or(|(other, ..)| condition > other) => {
                    best = Some((condition, gateway, link));
                }
                Some(_) => {}
                None => reason = Reason::NotOnLink(gateway),
            }
        }
        match best {
            None => Err(reason),
            Some((Condition::Down, gateway, _)) => Err(Reason::LinkDown(gateway)),
            Some((_, gateway, link)) => Ok(Way::Direct { gateway, link }),
        }
    }

    /// To the node's first address of a family that both ends have: both choose the same, as the node knows itself by it.
    fn tunnel(&self, node: &Node, cidr: IpNetwork) -> Result<Way, Reason> {
        let no_way = || match node.internal_ips.first() {
            None => Reason::NoAddress(cidr),
            Some(ip) if node.internal_ips.iter().all(|ip| self.has(*ip)) => Reason::Ours(*ip),
            Some(ip) => Reason::NoEnd(*ip),
        };
        self.far_end(node).map(|remote| Way::Tunnel { remote }).ok_or_else(no_way)
    }

    /// Says whether a link of this node has an address.
    fn has(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|address| address.network.ip() == ip)
    }

    fn far_end(&self, node: &Node) -> Option<IpAddr> {
        let other =
            |family| node.internal_ips.iter().copied().find(|&ip| Family::of(ip) == family && !self.has(ip));
        self.ends.keys().find_map(|&family| other(family))
    }

    /// The family of the tunnel that a node would send through to this one.
    fn tunnel_from(&self, node: &Node) -> Option<Family> {
        self.far_end(node).filter(|_| self.has_tunnels()).map(Family::of)
    }

    /// The link that an address is on; of several the one in the best condition, of those the one with the smallest network, and of those
    /// the one that the kernel sends packets there by.
    fn link_towards(&self, gateway: IpAddr) -> Option<(Condition, u32)> {
        // The kernel routes an address without a network of its own to nobody but itself.
        let near = self.addresses.iter().filter(|near| near.network.contains(gateway));
        let near = near.filter_map(|near| Some((self.uplinks.condition(near.link)?, near)));
        let exits = self.uplinks.towards(gateway);
        let leads = |link| exits.iter().any(|exit| exit.link == link);
        let best = near.max_by_key(|(condition, near)| {
            (*condition, near.network.prefix(), leads(near.link), Reverse(near.link))
        });
        best.map(|(condition, near)| (condition, near.link))
    }

    /// By what packets of a way leave.
    fn exits(&self, way: Way) -> BTreeSet<Exit> {
        match way {
            Way::Tunnel { remote } => self.uplinks.towards(remote),
            Way::Direct { gateway, link } => {
                let mtu = self.uplinks.towards(gateway).into_iter().filter(|exit| exit.link == link);
                BTreeSet::from([Exit { link, mtu: mtu.filter_map(|exit| exit.mtu).min() }])
            }
        }
    }

    /// The largest packet that leaves this node whole where no way says more: what the link takes that has the node's address. Where that is
    /// on a loopback link, as when a routing protocol announces it, the least that a link with a network takes.
    fn own_mtu(&self) -> Option<u32> {
        let of = |address: &Address| self.uplinks.link_mtu(address.link);
        let is_end = |address: &&Address| self.ends.values().any(|end| *end == address.network.ip());
        let ends: Vec<&Address> = self.addresses.iter().filter(is_end).collect();
        if !ends.is_empty() && !ends.iter().any(|address| address.link == LOOPBACK) {
            return ends.into_iter().filter_map(of).min();
        }
        let has_network =
            |address: &&Address| address.network.prefix() < if address.network.is_ipv4() { 32 } else { 128 };
        self.addresses.iter().filter(has_network).filter_map(of).min()
    }
}

fn first_of(node: &Node, family: Family) -> Option<IpAddr> {
    node.internal_ips.iter().copied().find(|&ip| Family::of(ip) == family)
}

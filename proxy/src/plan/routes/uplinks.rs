//! What leads out of this node: its links, and the routes that others made over them. Pure.
//!
//! In: both, as the kernel lists them. Out: whether other nodes may be neighbours on a link now, by which link the kernel would send a packet to
//! an address, and how large that packet may be. Asked for each node; so a lookup costs as many steps as there are lengths of prefixes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use dataplane::{
    owner,
    rtnl::{LOOPBACK, Link, Route},
};
use ipnetwork::IpNetwork;

/// What the kernel makes of no metric in IPv6: `IP6_RT_PRIO_USER` of `include/uapi/linux/ipv6_route.h`.
const DEFAULT_METRIC_V6: u32 = 1024;

/// Whether packets leave by a link. What is better comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// It is down: the kernel takes no route over it.
    Down,
    /// Nobody is at its other end: the kernel takes routes over it, which lead nowhere until somebody is.
    Idle,
    /// They do.
    Open,
}

/// A link, as far as it matters to ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Uplink {
    mtu: u32,
    condition: Condition,
    has_neighbours: bool,
}

/// By what packets leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exit {
    /// The link.
    pub link: u32,
    /// The largest packet, where the route says so.
    pub mtu: Option<u32>,
}

/// The links of a node, other than those to its pods and its own tunnels, and the routes over them that others made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uplinks {
    links: BTreeMap<u32, Uplink>,
    /// By length of prefix and network: the best metric, and all that have it.
    routes: BTreeMap<u8, BTreeMap<IpAddr, (u32, BTreeSet<Exit>)>>,
}

impl Uplinks {
    /// Those of all these that lead out of the node.
    pub fn new<'a>(links: &[Link], routes: impl IntoIterator<Item = &'a Route>) -> Self {
        let leads_out = |link: &&Link| {
            !owner::is_host_end(&link.name) && !owner::is_tunnel(&link.name) && link.index != LOOPBACK
        };
        let links = links.iter().filter(leads_out).map(|link| (link.index, uplink(link))).collect();
        let mut uplinks = Self { links, routes: BTreeMap::new() };
        for route in routes {
            let exit = Exit { link: route.link, mtu: route.mtu };
            let metric =
                route.metric.unwrap_or(if route.destination.is_ipv4() { 0 } else { DEFAULT_METRIC_V6 });
            let networks = uplinks.routes.entry(route.destination.prefix()).or_default();
            let (best, exits) =
                networks.entry(route.destination.network()).or_insert_with(|| (metric, BTreeSet::new()));
            if metric < *best {
                (*best, *exits) = (metric, BTreeSet::new());
            }
            if metric == *best {
                exits.insert(exit);
            }
        }
        uplinks
    }

    /// Whether packets leave by a link to neighbours on it; nothing where it has none: the other end of a point-to-point link hands on what is sent
    /// to it, or not, as it likes, and a loopback link leads to ourselves. A link that nobody knows anything of is open.
    pub fn condition(&self, link: u32) -> Option<Condition> {
        if link == LOOPBACK {
            return None;
        }
        let Some(link) = self.links.get(&link) else { return Some(Condition::Open) };
        link.has_neighbours.then_some(link.condition)
    }

    /// By what the kernel sends a packet to an address: of several links, any. Nothing where no route leads there.
    pub fn towards(&self, ip: IpAddr) -> BTreeSet<Exit> {
        let matching = self.routes.iter().rev().find_map(|(prefix, networks)| {
            let network = IpNetwork::new(ip, *prefix).ok()?.network();
            networks.get(&network)
        });
        matching.map(|(_, exits)| exits.clone()).unwrap_or_default()
    }

    /// Says whether a packet to an address leaves this node now.
    pub fn lead_to(&self, ip: IpAddr) -> bool {
        let is_open =
            |exit: &Exit| self.links.get(&exit.link).is_none_or(|link| link.condition == Condition::Open);
        self.towards(ip).iter().any(is_open)
    }

    /// The largest packet that a link takes.
    pub fn link_mtu(&self, link: u32) -> Option<u32> {
        self.links.get(&link).map(|link| link.mtu)
    }

    /// The largest packet that leaves by this.
    pub fn mtu(&self, exit: Exit) -> Option<u32> {
        exit.mtu.into_iter().chain(self.link_mtu(exit.link)).min()
    }
}

fn uplink(link: &Link) -> Uplink {
    let condition = match (link.is_up, link.has_carrier) {
        (false, _) => Condition::Down,
        (true, false) => Condition::Idle,
        (true, true) => Condition::Open,
    };
    Uplink { mtu: link.mtu, condition, has_neighbours: link.has_neighbours }
}

#[cfg(test)]
mod tests;

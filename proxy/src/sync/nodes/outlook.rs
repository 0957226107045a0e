//! The links that ways stand on, as they were when everything was listed; and whether what has happened since makes a difference.
//!
//! In: links, addresses and the routes of others, then what the kernel tells. Out: yes or no. Pods' links come and go all the time, and so do
//! routes to pods: neither makes a difference. Nor do routes of others that no other node is behind. Nor do link-local addresses of IPv6: the kernel gives one to every link that anybody makes, and no
//! other node is reached by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use dataplane::{
    owner,
    rtnl::{Address, LOOPBACK, Link, Mac, NeighbourState, Report, Route, Table},
};
use ipnetwork::IpNetwork;

use crate::plan::routes::{
    objects::{Key, Object},
    routing::Routing,
};

/// What of a link matters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    name: String,
    mac: Option<Mac>,
    mtu: u32,
    is_up: bool,
    has_carrier: bool,
    has_neighbours: bool,
}

/// The links and their addresses.
#[derive(Debug, Clone, Default)]
pub(super) struct Outlook {
    links: BTreeMap<u32, Facts>,
    /// Addresses of all those links, but for link-local ones.
    addresses: BTreeSet<Address>,
    /// Routes of the main table that others made.
    ways_out: BTreeSet<Route>,
    /// Links to pods.
    pods: BTreeSet<u32>,
}

impl Outlook {
    pub(super) fn new(links: &[Link], addresses: Vec<Address>, ways_out: &[Route]) -> Self {
        let pods: BTreeSet<u32> =
            links.iter().filter(|link| is_to_a_pod(link)).map(|link| link.index).collect();
        let others = links.iter().filter(|link| !is_to_a_pod(link));
        let links = others.map(|link| (link.index, facts_of(link))).collect();
        let addresses = addresses.into_iter();
        let addresses = addresses.filter(|address| !pods.contains(&address.link) && !is_link_local(address));
        let addresses = addresses.collect();
        Self { links, addresses, ways_out: ways_out.iter().copied().collect(), pods }
    }

    /// The addresses of this node: of all links but those to its pods, and those of our own devices.
    pub(super) fn addresses(&self) -> Vec<Address> {
        let of_ours = |address: &&Address| {
            let link = self.links.get(&address.link);
            link.is_some_and(|link| owner::is_tunnel(&link.name))
        };
        self.addresses.iter().filter(|address| !of_ours(address)).copied().collect()
    }

    /// The names of the links that packets come in by, other than those to pods and our own devices.
    pub(super) fn link_names(&self) -> impl Iterator<Item = &str> {
        let others =
            self.links.iter().filter(|(index, link)| **index != LOOPBACK && !owner::is_tunnel(&link.name));
        others.map(|(_, link)| link.name.as_str())
    }

    /// The link that has an address.
    pub(super) fn link_with(&self, ip: IpAddr) -> Option<u32> {
        self.addresses.iter().find(|address| address.network.ip() == ip).map(|address| address.link)
    }

    /// Links that have neither an address nor a route lead nobody anywhere.
    fn may_lead_somewhere(&self, link: u32) -> bool {
        let has_address = self.addresses.iter().any(|address| address.link == link);
        has_address || self.ways_out.iter().any(|route| route.link == link)
    }

    /// Says whether a link has this address, however it is treated.
    fn has(&self, address: &Address) -> bool {
        let is_same = |known: &Address| (known.link, known.network) == (address.link, address.network);
        self.addresses.iter().any(is_same)
    }

    /// Says whether something is not as it was listed, or not as it was made.
    pub(super) fn is_news(&mut self, report: &Report, routing: Option<&Routing>) -> bool {
        let holds =
            |object: Object| routing.is_some_and(|routing| routing.object(&object.key()) == Some(&object));
        let leads_to_nodes =
            |route: &Route| routing.is_some_and(|routing| routing.has_nodes_in(route.destination));
        let wants = |key: &Key| routing.is_some_and(|routing| routing.object(key).is_some());
        match report {
            Report::Link(link) if is_to_a_pod(link) => {
                self.pods.insert(link.index);
                false
            }
            Report::Link(link) => {
                let facts = facts_of(link);
                let known = self.links.insert(link.index, facts.clone());
                known.as_ref() != Some(&facts)
                    && (owner::is_tunnel(&link.name) || self.may_lead_somewhere(link.index))
            }
            Report::LinkGone(index) => {
                let known = self.links.remove(index);
                let is_ours = known.is_some_and(|link| owner::is_tunnel(&link.name));
                !self.pods.remove(index) && (is_ours || self.may_lead_somewhere(*index))
            }
            Report::Address(address) => {
                !self.pods.contains(&address.link) && !is_link_local(address) && !self.has(address)
            }
            Report::AddressGone(address) => self.has(address),
            Report::Route(route) | Report::RouteGone(route)
                if !route.is_ours() && route.table != Table::Main =>
            {
                false
            }
            Report::Route(route) if route.is_ours() => is_a_way(route) && !holds(Object::Route(*route)),
            Report::RouteGone(route) if route.is_ours() => is_a_way(route) && holds(Object::Route(*route)),
            Report::Route(route) => self.ways_out.insert(*route) && leads_to_nodes(route),
            Report::RouteGone(route) => self.ways_out.remove(route) && leads_to_nodes(route),
            Report::Rule(rule) => !holds(Object::Rule(*rule)),
            Report::RuleGone(rule) => holds(Object::Rule(*rule)),
            // Entries that nobody wants do no harm; the next sweep removes them.
            Report::Neighbour(entry) => {
                let object = Object::Neighbour(*entry);
                wants(&object.key()) && !holds(object)
            }
            Report::NeighbourGone(entry) => {
                // What the kernel tells of an entry that goes is its last state, which is no permanent one.
                let state = NeighbourState::Permanent;
                wants(&Object::Neighbour(dataplane::rtnl::Neighbour { state, ..*entry }).key())
            }
            Report::Forwarding(entry) => {
                let object = Object::Forwarding(*entry);
                wants(&object.key()) && !holds(object)
            }
            Report::ForwardingGone(entry) => holds(Object::Forwarding(*entry)),
            Report::Lost => true,
            _ => false,
        }
    }
}

fn is_to_a_pod(link: &Link) -> bool {
    owner::is_host_end(&link.name) && !owner::is_tunnel(&link.name)
}

/// One of IPv6, which the kernel gives each link. // RFC 4291 §2.5.6
pub(super) fn is_link_local(address: &Address) -> bool {
    matches!(address.network, IpNetwork::V6(v6) if v6.ip().is_unicast_link_local())
}

/// A route of the plugin's has no gateway.
fn is_a_way(route: &Route) -> bool {
    route.gateway.is_some()
}

fn facts_of(link: &Link) -> Facts {
    let Link { mac, mtu, is_up, has_carrier, has_neighbours, .. } = *link;
    Facts { name: link.name.clone(), mac, mtu, is_up, has_carrier, has_neighbours }
}

#[cfg(test)]
mod tests;

//! What the kernel must hold for the ways to be there, and the steps from what it holds to that. Pure.
//!
//! In: two sets of objects. Out: what to put, in an order in which whatever a packet finds leads it on: first who has a hardware
//! address, then who is behind it, then the routes, then the rules that lead to some of them; and what is left over, in the opposite
//! order, for when no packet is sent there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use dataplane::rtnl::{Change, Forwarding, Mac, Neighbour, NeighbourState, Route, Rule, Table};
use ipnetwork::IpNetwork;

use super::{Way, tunnel};

/// Something that the kernel holds for a way. What others stand on comes first in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// Which machine has a hardware address.
    Forwarding(Forwarding),
    /// Which hardware address a gateway has.
    Neighbour(Neighbour),
    /// Which gateway the pods, or a node itself, are behind.
    Route(Route),
    /// Whose packets go to nodes by the routes of our own table.
    Rule(Rule),
}

/// What makes two objects rivals: the kernel holds one for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Of the device, for the hardware address.
    Forwarding(u32, Mac),
    /// On the link, for the address.
    Neighbour(u32, IpAddr),
    /// In the table, to the destination, of the metric.
    Route(Table, IpNetwork, Option<u32>),
    /// One like another has no rival.
    Rule(Rule),
}

impl Object {
    /// What makes another object its rival.
    pub fn key(&self) -> Key {
        match self {
            Self::Forwarding(entry) => Key::Forwarding(entry.link, entry.mac),
            Self::Neighbour(entry) => Key::Neighbour(entry.link, entry.address),
            Self::Route(route) => Key::Route(route.table, route.destination, route.metric),
            Self::Rule(rule) => Key::Rule(*rule),
        }
    }

    /// The link that it is on, if it is on one.
    pub fn link(&self) -> Option<u32> {
        match self {
            Self::Forwarding(entry) => Some(entry.link),
            Self::Neighbour(entry) => Some(entry.link),
            Self::Route(route) => Some(route.link),
            Self::Rule(_) => None,
        }
    }
}

/// All that a way to the pods of `cidr` needs, over a device for tunnels if it is one.
pub fn to_pods(cidr: IpNetwork, way: Way, device: Option<u32>) -> Vec<Object> {
    match (way, device) {
        (Way::Direct { gateway, link }, _) => vec![Object::Route(Route::through(cidr, gateway, link))],
        (Way::Tunnel { .. }, None) => Vec::new(),
        (Way::Tunnel { remote }, Some(link)) => through_a_tunnel(cidr, remote, link, Table::Main).into(),
    }
}

/// All that is needed for what the pods of our own CIDRs send to a node's own address to go by the way of its pods. Nothing where that
/// is no tunnel: they find the node as this one does.
pub fn to_node(address: IpAddr, way: Way, device: Option<u32>, own: &[IpNetwork]) -> Vec<Object> {
    let (Way::Tunnel { remote }, Some(link)) = (way, device) else { return Vec::new() };
    let senders = own.iter().filter(|cidr| cidr.is_ipv4() == address.is_ipv4());
    let rules: Vec<Object> = senders.map(|cidr| Object::Rule(Rule::of_source(*cidr))).collect();
    if rules.is_empty() {
        return rules;
    }
    let led = through_a_tunnel(address.into(), remote, link, Table::Own);
    led.into_iter().chain(rules).collect()
}

fn through_a_tunnel(destination: IpNetwork, remote: IpAddr, link: u32, table: Table) -> [Object; 3] {
    let (mac, gateway) = (tunnel::mac(remote), tunnel::gateway(destination, remote));
    let state = NeighbourState::Permanent;
    let route = Route::through(destination, gateway, link);
    [
        Object::Forwarding(Forwarding { link, mac, remote }),
        Object::Neighbour(Neighbour { link, address: gateway, mac: Some(mac), state }),
        Object::Route(Route { table, onlink: destination.is_ipv4(), ..route }),
    ]
}

/// Something to be put into the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// What.
    pub object: Object,
    /// Whether a rival of it is there, and ours.
    pub is_rival_there: bool,
}

impl Put {
    /// The same, where it is a route.
    pub fn route(self) -> Option<Change> {
        match self.object {
            Object::Route(route) if self.is_rival_there => Some(Change::Replace(route)),
            Object::Route(route) => Some(Change::Add(route)),
            Object::Forwarding(_) | Object::Neighbour(_) | Object::Rule(_) => None,
        }
    }
}

/// From one set of objects to another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// To be put, in this order.
    pub put: Vec<Put>,
    /// Then to be deleted, in this order.
    pub gone: Vec<Object>,
}

impl Steps {
    /// The same, but nothing goes that is on these links, nor what leads there: what is to take its place could not be planned.
    #[must_use]
    pub fn sparing(mut self, links: &BTreeSet<u32>) -> Self {
        self.gone.retain(|object| object.link().is_some_and(|link| !links.contains(&link)));
        self
    }

    /// The same, where the kernel does not hold quite what it should: it still has something of these keys that is to go, and never
    /// took what it was to have of those.
    #[must_use]
    pub fn knowing(mut self, left: &BTreeSet<Key>, refused: &BTreeSet<Key>) -> Self {
        for put in &mut self.put {
            let key = put.object.key();
            put.is_rival_there = left.contains(&key) || put.is_rival_there && !refused.contains(&key);
        }
        self
    }
}

/// The steps from `old` to `new`.
pub fn steps(old: &BTreeSet<Object>, new: &BTreeSet<Object>) -> Steps {
    let rivals: BTreeMap<Key, &Object> = old.iter().map(|object| (object.key(), object)).collect();
    let wanted: BTreeSet<Key> = new.iter().map(Object::key).collect();
    let put = new.difference(old);
    let put = put.map(|&object| Put { object, is_rival_there: rivals.contains_key(&object.key()) });
    let gone = old.iter().rev().filter(|object| !wanted.contains(&object.key()));
    Steps { put: put.collect(), gone: gone.copied().collect() }
}

//! Tracked flows that a change of services may have left wrong: which to look at, and which of them to end. Pure.
//!
//! In: for every address that a service port has, gets or gives up, who may answer there. Out: filters that let through no more than
//! what those addresses have in common, and a verdict on any flow. A flow keeps the endpoint that it began with, whatever the rules
//! say since; so one that leads to an endpoint that no longer answers must be ended, or its client talks to nobody for as long as it goes on talking.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use dataplane::{
    conntrack::{Filter, Flow},
    nft::{Data, Key},
};
use ipnetwork::IpNetwork;

use super::{family::FamilyPlanner, target::Target};
use crate::service_port::{Family, Protocol, ServicePort, ServicePortName};

#[cfg(test)]
mod tests;

/// Who may answer flows to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answerers {
    /// The address is no service's any more: nobody may whom it was led to.
    Nobody,
    /// It is a service port's.
    Endpoints {
        /// Those that answer, sorted.
        serving: Arc<[SocketAddr]>,
        /// Those that are there and do not answer new clients, sorted: what is established with them is for them to end.
        silent: Arc<[SocketAddr]>,
    },
    /// It is a service port's, and was without rules for a while: anybody may but the address itself.
    AnyoneElse,
}

impl Answerers {
    /// Those of a service port.
    pub fn of(port: &ServicePort) -> Self {
        Self::Endpoints { serving: shared(&port.serving), silent: shared(&port.silent) }
    }

    /// Says whether a flow must end. Connections that are established are left to their ends, unless they may be `reset` and the
    /// endpoint is not there any more.
    fn refuse(&self, flow: &Flow, reset: bool) -> bool {
        let answerer = flow.answerer();
        let is_established = flow.protocol == Protocol::Tcp && flow.is_answered;
        match self {
            Self::Nobody => flow.is_led_elsewhere() && !is_established,
            Self::AnyoneElse => !flow.is_led_elsewhere() && !is_established,
            Self::Endpoints { serving, silent } if is_established => {
                reset
                    && flow.is_led_elsewhere()
                    && !contains(serving, answerer)
                    && !contains(silent, answerer)
            }
            Self::Endpoints { serving, .. } => !contains(serving, answerer),
        }
    }
}

/// Mostly none are silent, and an empty list takes no memory.
fn shared(addresses: &[SocketAddr]) -> Arc<[SocketAddr]> {
    if addresses.is_empty() { Arc::default() } else { addresses.into() }
}

fn contains(sorted: &[SocketAddr], address: SocketAddr) -> bool {
    sorted.binary_search(&address).is_ok()
}

/// The addresses of the machine itself, which node ports are served on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnAddresses(pub BTreeSet<IpAddr>);

/// Addresses whose flows may be wrong, and who may answer there. The last word on an address counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suspects {
    addresses: BTreeMap<(Family, Key), Answerers>,
    /// TCP addresses that packets were led nowhere from: what is tried there again meanwhile is refused, for want of a translation.
    at_once: BTreeSet<(Family, Key)>,
    /// The networks that node ports are served in, for each family where they are not served on all addresses of the machine.
    node_port_networks: BTreeMap<Family, Vec<IpNetwork>>,
}

impl Suspects {
    /// Says whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// How many addresses there are to look at.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Says whether node ports are among them, which are the same on all addresses of the machine.
    pub fn has_node_ports(&self) -> bool {
        self.addresses.keys().any(|(_, key)| matches!(key, Key::Port(..)))
    }

    /// Has an address looked at, in one family. Keys that are no addresses of services are of no interest.
    pub fn add(&mut self, family: Family, key: Key, answerers: Answerers) {
        if parts(&key).is_some() {
            self.addresses.insert((family, key), answerers);
        }
    }

    /// Has the addresses looked at that a service port had `before` it was set, or has now.
    pub(super) fn add_change(
        &mut self,
        family: Family,
        planner: &FamilyPlanner,
        name: &ServicePortName,
        port: Option<&ServicePort>,
        before: &[Key],
    ) {
        let now = planner.held_by(name);
        for key in before.iter().filter(|key| !now.contains(key)) {
            self.add(family, *key, planner.answerers_at(*key));
        }
        let answerers = port.map(Answerers::of);
        for (key, answerers) in now.into_iter().zip(answerers.into_iter().cycle()) {
            self.add(family, key, answerers);
            if !before.contains(&key) {
                self.at_once.extend(is_tcp(&key).then_some((family, key)));
            }
        }
    }

    /// Has all addresses looked at that were without rules; about some there may be more to say already.
    pub(super) fn add_all(&mut self, family: Family, planner: &FamilyPlanner) {
        for (_, key, _) in planner.vips.elements().filter(|(_, key, _)| parts(key).is_some()) {
            self.addresses.entry((family, key)).or_insert(Answerers::AnyoneElse);
            self.at_once.extend(is_tcp(&key).then_some((family, key)));
        }
    }

    /// Says in which networks node ports are served; `None`: on all addresses of the machine.
    pub(super) fn confine_node_ports(&mut self, family: Family, networks: Option<Vec<IpNetwork>>) {
        self.node_port_networks.extend(networks.map(|networks| (family, networks)));
    }

    /// Adds what was found out later.
    pub fn extend(&mut self, later: Self) {
        if later.has_node_ports() {
            self.node_port_networks = later.node_port_networks; // without, it does not say where they are served
        }
        self.addresses.extend(later.addresses);
        self.at_once.extend(later.at_once);
    }

    /// Splits off the addresses of TCP that led elsewhere before, or lead nowhere now: a client that waits for an answer sends again after a
    /// second at the earliest (RFC 6298 §2.1), so they are in no hurry.
    #[must_use]
    pub fn split_off_tcp(&mut self) -> Self {
        let at_once = std::mem::take(&mut self.at_once);
        let (tcp, others) = std::mem::take(&mut self.addresses)
            .into_iter()
            .partition(|(address, _)| is_tcp(&address.1) && !at_once.contains(address));
        self.addresses = others;
        Self { addresses: tcp, at_once: BTreeSet::new(), node_port_networks: self.node_port_networks.clone() }
    }

    /// Takes over what is newer of the same addresses.
    pub fn renew(&mut self, newer: &Self) {
        for (address, answerers) in &mut self.addresses {
            if let Some(newer) = newer.addresses.get(address) {
                answerers.clone_from(newer);
            }
        }
    }

    /// One filter for each family and protocol that is to be looked at, as narrow as lets all of it through. The kernel walks all flows for
    /// each, so there are no more of them. With `reset`, established connections are looked at too.
    pub fn filters(&self, reset: bool) -> Vec<Filter> {
        let mut filters = BTreeMap::<(Family, Protocol), Filter>::new();
        for (family, key) in self.addresses.keys() {
            let Some((address, protocol, port)) = parts(key) else { continue };
            let unanswered = protocol == Protocol::Tcp && !reset;
            let own = Filter { address, port: Some(port), unanswered, ..Filter::all(*family, protocol) };
            let common = filters.entry((*family, protocol)).or_insert(own);
            common.address = common.address.filter(|address| own.address == Some(*address));
            common.port = common.port.filter(|port| own.port == Some(*port));
        }
        filters.into_values().collect()
    }

    /// Says whether a flow must end: it was begun to one of the addresses, and whoever answers may not (any more).
    pub fn condemn(&self, flow: &Flow, own: &OwnAddresses, reset: bool) -> bool {
        self.answerers(flow, own).is_some_and(|answerers| answerers.refuse(flow, reset))
    }

    /// Says whether something is said about the address that a flow was begun to.
    pub fn concern(&self, flow: &Flow, own: &OwnAddresses) -> bool {
        self.answerers(flow, own).is_some()
    }

    fn answerers(&self, flow: &Flow, own: &OwnAddresses) -> Option<&Answerers> {
        let to = flow.original.destination;
        let family = Family::of(to.ip());
        let by_address = self.addresses.get(&(family, Key::Service(to.ip(), flow.protocol, to.port())));
        let by_port = || self.addresses.get(&(family, Key::Port(flow.protocol, to.port())));
        by_address.or_else(|| by_port().filter(|_| self.is_to_node_port(flow, own)))
    }

    /// Says whether a flow to the number of a node port may have been ours to lead. What is said on loopback, or on a link alone, is
    /// others' unless it was led elsewhere.
    fn is_to_node_port(&self, flow: &Flow, own: &OwnAddresses) -> bool {
        let to = flow.original.destination.ip();
        let networks = self.node_port_networks.get(&Family::of(to));
        let is_link_local = matches!(to, IpAddr::V6(to) if to.is_unicast_link_local());
        if to.is_loopback() || is_link_local {
            return flow.is_led_elsewhere();
        }
        own.0.contains(&to)
            && networks.is_none_or(|networks| networks.iter().any(|network| network.contains(to)))
    }
}

fn is_tcp(key: &Key) -> bool {
    parts(key).is_some_and(|(_, protocol, _)| protocol == Protocol::Tcp)
}

/// What a key says of the packets that it stands for.
fn parts(key: &Key) -> Option<(Option<IpAddr>, Protocol, u16)> {
    match *key {
        Key::Service(address, protocol, port) => Some((Some(address), protocol, port)),
        Key::Port(protocol, port) => Some((None, protocol, port)),
        _ => None,
    }
}

impl FamilyPlanner {
    /// The addresses that a service port has, without those that another one has instead.
    pub(super) fn held_by(&self, name: &ServicePortName) -> Vec<Key> {
        let planned = self.planned.get(name);
        let keys =
            planned.into_iter().flat_map(|planned| planned.addresses.iter().map(|(address, _)| address.key));
        keys.filter(|key| self.vips.holder(*key) == Some(name)).collect()
    }

    /// Who may answer at an address that has changed hands: at first only endpoints that its new holder would choose.
    fn answerers_at(&self, key: Key) -> Answerers {
        let Some(heir) = self.vips.holder(key).and_then(|heir| self.planned.get(heir)) else {
            return Answerers::Nobody;
        };
        let elements = heir.targets().flat_map(Target::elements);
        let endpoints = elements.filter_map(|(_, _, element)| match element.data {
            Data::Endpoint(address) => Some(address),
            _ => None,
        });
        let serving: BTreeSet<SocketAddr> = endpoints.collect();
        Answerers::Endpoints { serving: serving.into_iter().collect(), silent: Arc::default() }
    }
}

//! The addresses of services: who has each, and which number it leads to.
//!
//! Where several service ports want one address, the first by name has it, whatever came first in time, so that every
//! node and every restart decides alike. The others wait.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use dataplane::nft::{Data, Element, Key};

use super::{
    external::EXTERNAL_VIPS,
    inheritance::Inheritance,
    journal::Journal,
    layout::{CLUSTER_VIPS, NODE_PORTS},
};
use crate::service_port::{ServicePort, ServicePortName};

/// An address that leads to a service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address {
    /// Where it is looked for.
    pub(super) place: Place,
    /// The address itself.
    pub(super) key: Key,
}

/// Where addresses are looked for, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    /// Among cluster IPs.
    Cluster,
    /// Among external IPs and those of load balancers.
    External,
    /// Among node ports.
    NodePort,
}

impl Place {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Cluster, Self::External, Self::NodePort];

    /// The map of those addresses.
    pub(super) fn map(self) -> &'static str {
        match self {
            Self::Cluster => CLUSTER_VIPS,
            Self::External => EXTERNAL_VIPS,
            Self::NodePort => NODE_PORTS,
        }
    }
}

/// The addresses of a service port, the cluster IP first.
pub(super) fn addresses(
    name: &ServicePortName,
    port: &ServicePort,
    is_served: impl Fn(IpAddr) -> bool,
) -> Vec<Address> {
    let service = |ip| Key::Service(ip, name.protocol, port.port);
    let mut addresses = vec![Address { place: Place::Cluster, key: service(port.cluster_ip) }];
    let external = port.external_ips.iter().filter(|ip| is_served(**ip)).chain(&port.load_balancer_ips);
    for ip in external {
        let address = Address { place: Place::External, key: service(*ip) };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let node_port = port.node_port.map(|node_port| Key::Port(name.protocol, node_port));
    addresses.extend(node_port.map(|key| Address { place: Place::NodePort, key }));
    addresses
}

/// An address that a service port wants and another one has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadowed {
    /// The address.
    pub address: Key,
    /// Who wants it.
    pub wanted_by: ServicePortName,
    /// Who has it.
    pub held_by: ServicePortName,
}

impl fmt::Display for Shadowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not served for {}: {} has it", self.address, self.wanted_by, self.held_by)
    }
}

/// An address in service.
#[derive(Debug)]
struct Vip {
    holder: Arc<ServicePortName>,
    number: u32,
}

/// All addresses of one table.
#[derive(Debug, Default)]
pub(super) struct Vips {
    held: HashMap<Address, Vip>,
    /// Who else wants an address, where anybody does.
    waiting: BTreeMap<Address, BTreeSet<Arc<ServicePortName>>>,
}

impl Vips {
    /// Claims an address and leads it to a number, unless a service port that comes first by name has it. Says who must do
    /// without it, if two want it.
    pub(super) fn claim(
        &mut self,
        journal: &mut Journal,
        inheritance: &mut Inheritance,
        address: Address,
        name: &Arc<ServicePortName>,
        number: u32,
    ) -> Option<Shadowed> {
        let Address { place, key } = address;
        let Some(vip) = self.held.get_mut(&address) else {
            let inherited = inheritance.vips.remove(&address);
            let element = element(name, number);
            if inherited.as_ref() != Some(&element) {
                journal.put(place.map(), key, inherited.is_some(), element);
            }
            self.held.insert(address, Vip { holder: Arc::clone(name), number });
            return self.hidden(address, name);
        };
        let mut beaten = None;
        if *name > vip.holder {
            let shadowed = shadowed(key, name, &vip.holder);
            self.waiting.entry(address).or_default().insert(Arc::clone(name));
            return Some(shadowed);
        }
        if *name < vip.holder {
            beaten = Some(std::mem::replace(&mut vip.holder, Arc::clone(name)));
        }
        if beaten.is_some() || vip.number != number {
            journal.put(place.map(), key, true, element(name, number));
        }
        vip.number = number;
        let Some(beaten) = beaten else { return self.hidden(address, name) };
        let shadowed = shadowed(key, &beaten, name);
        self.waiting.entry(address).or_default().insert(beaten);
        Some(shadowed)
    }

    /// Says whose external IP is a cluster IP of somebody else: cluster IPs are looked for first.
    fn hidden(&self, address: Address, name: &ServicePortName) -> Option<Shadowed> {
        let Address { place, key } = address;
        let other =
            |place| Some(&*self.held.get(&Address { place, key })?.holder).filter(|other| *other != name);
        match place {
            Place::External => other(Place::Cluster).map(|holder| shadowed(key, name, holder)),
            Place::Cluster => other(Place::External).map(|hidden| shadowed(key, hidden, name)),
            Place::NodePort => None,
        }
    }

    /// Gives a claim up. Whoever waits first has the address then, and leads it to its own number.
    pub(super) fn release(
        &mut self,
        journal: &mut Journal,
        address: Address,
        name: &ServicePortName,
        number_of: impl FnOnce(&ServicePortName) -> Option<u32>,
    ) {
        let mut waiting = self.waiting.remove(&address).unwrap_or_default();
        match self.held.remove(&address) {
            Some(vip) if *vip.holder == *name => {
                let map = address.place.map();
                let heir = waiting.pop_first().and_then(|heir| Some((number_of(&heir)?, heir)));
                if let Some((number, holder)) = heir {
                    journal.put(map, address.key, true, element(&holder, number));
                    self.held.insert(address, Vip { holder, number });
                } else {
                    journal.remove(map, address.key);
                }
            }
            others => {
                self.held.extend(others.map(|vip| (address, vip)));
                waiting.remove(name);
            }
        }
        if !waiting.is_empty() {
            self.waiting.insert(address, waiting);
        }
    }

    /// Whose service packets are led to that are sent to an address.
    pub(super) fn holder(&self, key: Key) -> Option<&ServicePortName> {
        let vips = Place::ALL.iter().filter_map(|place| self.held.get(&Address { place: *place, key }));
        vips.map(|vip| &*vip.holder).next()
    }

    /// Every address in service, as the map that it is in holds it.
    pub(super) fn elements(&self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        self.held
            .iter()
            .map(|(address, vip)| (address.place.map(), address.key, element(&vip.holder, vip.number)))
    }
}

fn shadowed(address: Key, wanted_by: &ServicePortName, held_by: &ServicePortName) -> Shadowed {
    Shadowed { address, wanted_by: wanted_by.clone(), held_by: held_by.clone() }
}

/// A number, with the service's name for people.
fn element(name: &ServicePortName, number: u32) -> Element {
    Element::new(Data::Number(number)).with_comment(&comment(name))
}

/// What stands beside the addresses of a service port.
pub(super) fn comment(name: &ServicePortName) -> String {
    name.to_string()
}

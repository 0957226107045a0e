//! What the cluster looks like, as far as it has been told: services, their endpoints, nodes. Pure.
//!
//! In: events. Out: which service ports each of them touches, and any service port as the plan wants it: only endpoints that
//! may be chosen, of one family. An event costs what its service holds, however many services there are.
//! In whatever order services and slices are told, the state comes out the same.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    num::NonZeroU64,
    sync::Arc,
};

use ipnetwork::IpNetwork;

use self::choice::{Candidate, Place};
use crate::{
    objects::{EndpointSlice, Node, Object, ObjectName, Port, Service, ServiceCidr},
    service_port::{Family, ServicePort, ServicePortName},
    surroundings::Surroundings,
    watch::{Change, Event},
};

mod choice;
pub mod health;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;

/// What the cluster looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    own_node: String,
    services: HashMap<ObjectName, Arc<Service>>,
    /// The slices of each service, known or not, in order of their names; never an empty list.
    slices: HashMap<ObjectName, Vec<Arc<EndpointSlice>>>,
    /// The service under which each slice is kept, which is of the same namespace.
    owners: HashMap<ObjectName, Arc<str>>,
    nodes: BTreeMap<Arc<str>, Arc<Node>>,
    /// This node as it was known last. That its object is gone for a moment, or made anew and yet without pod CIDRs, is no reason to cut off
    /// its pods.
    own: Option<Arc<Node>>,
    service_cidrs: BTreeMap<Arc<str>, Arc<ServiceCidr>>,
    /// How many services are to be served.
    served: usize,
    /// How many endpoints the slices have.
    endpoints: usize,
}

/// What events make worth planning again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Services as they are or were, with the one family that is touched, if it is one; some of them more than once.
    services: Vec<(Arc<Service>, Option<Family>)>,
    /// Whether a node is different, or all that follows from nodes is to be looked at.
    pub nodes: bool,
    /// The names of nodes that are different, or gone.
    pub node_names: BTreeSet<Arc<str>>,
    /// Whether this node's surroundings are.
    pub surroundings: bool,
    /// When what changed in slices began to be so, for those that say it, in microseconds since 1970.
    pub triggers: Vec<NonZeroU64>,
}

impl Touched {
    /// Everything but services, of which there is none yet.
    pub fn at_start() -> Self {
        Self { nodes: true, surroundings: true, ..Self::default() }
    }

    /// Says whether nothing is worth planning again.
    pub fn is_empty(&self) -> bool {
        !self.nodes && !self.surroundings && self.services.is_empty()
    }

    /// Takes out the service ports that may be different now, or gone: each once, in the order in which they were touched.
    pub fn take_service_ports(&mut self) -> Vec<(ServicePortName, Family)> {
        let services = std::mem::take(&mut self.services);
        let (mut seen, mut named) = (HashSet::new(), HashSet::new());
        let mut service_ports = Vec::with_capacity(services.len());
        for (service, touched) in
            services.iter().filter(|(service, f)| seen.insert((Arc::as_ptr(service), *f)))
        {
            let families = service.cluster_ips.iter().map(|&ip| Family::of(ip));
            let families = families.filter(|family| touched.is_none_or(|touched| touched == *family));
            for family in families {
                let ports = service.ports.iter().map(|port| (port_name(service, port), family));
                service_ports.extend(ports.filter(|port| named.insert(port.clone())));
            }
        }
        service_ports
    }

    /// Adds what another event touched.
    pub fn extend(&mut self, other: Self) {
        self.services.extend(other.services);
        self.nodes |= other.nodes;
        self.node_names.extend(other.node_names);
        self.surroundings |= other.surroundings;
        self.triggers.extend(other.triggers);
    }

    fn add_service(&mut self, service: &Arc<Service>, family: Option<Family>) {
        if service.is_proxied() {
            self.services.push((Arc::clone(service), family));
        }
    }
}

impl State {
    /// Knows nothing yet but the name of the node that it looks from.
    pub fn new(own_node: impl Into<String>) -> Self {
        Self {
            own_node: own_node.into(),
            services: HashMap::new(),
            slices: HashMap::new(),
            owners: HashMap::new(),
            nodes: BTreeMap::new(),
            own: None,
            service_cidrs: BTreeMap::new(),
            served: 0,
            endpoints: 0,
        }
    }

    /// Takes an event in, and says what it touches.
    pub fn apply(&mut self, event: Event) -> Touched {
        let mut touched = Touched::default();
        match event {
            Event::Service(Change::Set(service)) => {
                let old = self.services.insert(service.name.clone(), Arc::clone(&service));
                self.served += usize::from(is_served(&service));
                self.served -= usize::from(old.as_deref().is_some_and(is_served));
                if old.as_ref() != Some(&service) {
                    old.iter().chain([&service]).for_each(|version| touched.add_service(version, None));
                }
            }
            Event::Service(Change::Gone(name)) => {
                if let Some(old) = self.services.remove(&name) {
                    self.served -= usize::from(is_served(&old));
                    touched.add_service(&old, None);
                }
            }
            Event::EndpointSlice(Change::Set(slice)) => self.set_slice(slice, &mut touched),
            Event::EndpointSlice(Change::Gone(name)) => self.remove_slice(&name, &mut touched),
            Event::Node(change) => self.change_node(&change, &mut touched),
            Event::ServiceCidr(change) => {
                let was = self.surroundings();
                match change {
                    Change::Set(cidr) => drop(self.service_cidrs.insert(cidr.name.name.clone(), cidr)),
                    Change::Gone(name) => drop(self.service_cidrs.remove(&name.name)),
                }
                touched.surroundings = was != self.surroundings();
            }
            Event::Listed | Event::Confirmed => {}
        }
        touched
    }

    fn change_node(&mut self, change: &Change<Node>, touched: &mut Touched) {
        let (was, surroundings) = (self.own().cloned(), self.surroundings());
        let name = match change {
            Change::Set(node) => node.name.name.clone(),
            Change::Gone(name) => name.name.clone(),
        };
        let old = match change {
            Change::Set(node) => self.nodes.insert(name.clone(), Arc::clone(node)),
            Change::Gone(_) => self.nodes.remove(&name),
        };
        let new = self.nodes.get(&name);
        touched.nodes = old.as_ref() != new;
        if let (Some(new), true) = (new, *name == *self.own_node) {
            let mut own = Arc::clone(new);
            if let (Some(known), true) = (&self.own, own.pod_cidrs.is_empty()) {
                Arc::make_mut(&mut own).pod_cidrs.clone_from(&known.pod_cidrs);
            }
            self.own = Some(own);
        }
        if touched.nodes {
            touched.node_names.insert(name);
        }
        touched.surroundings = touched.nodes && surroundings != self.surroundings();
        // What services ask of this node: hints look at the zone, source ranges at the addresses.
        let asked = |node: &Node| (node.zone.clone(), node.ips());
        if touched.nodes && was.as_ref().map(asked) != self.own().map(asked) {
            self.services.values().for_each(|service| touched.add_service(service, None));
        }
    }

    fn set_slice(&mut self, slice: Arc<EndpointSlice>, touched: &mut Touched) {
        let (Some(owner), Some(_), false) = (&slice.service, slice.family, slice.is_headless) else {
            return self.remove_slice(&slice.name, touched);
        };
        let owner = ObjectName { namespace: slice.name.namespace.clone(), name: owner.clone() };
        if self.slices.get(&owner).is_some_and(|known| known.contains(&slice)) {
            return;
        }
        self.remove_slice(&slice.name, touched);
        self.touch(&owner, slice.family, touched);
        if !touched.services.is_empty() {
            touched.triggers.extend(slice.triggered.0);
        }
        self.endpoints += slice.endpoints.len();
        self.owners.insert(slice.name.clone(), Arc::clone(&owner.name));
        let slices = self.slices.entry(owner).or_insert_with(|| Vec::with_capacity(1));
        let place = slices.partition_point(|known| known.name < slice.name);
        slices.insert(place, slice);
    }

    fn remove_slice(&mut self, name: &ObjectName, touched: &mut Touched) {
        let Some(owner) = self.owners.remove(name) else { return };
        let owner = ObjectName { namespace: name.namespace.clone(), name: owner };
        let Some(slices) = self.slices.get_mut(&owner) else { return };
        let removed = slices.iter().position(|known| known.name == *name).map(|place| slices.remove(place));
        self.endpoints -= removed.as_ref().map_or(0, |slice| slice.endpoints.len());
        if slices.is_empty() {
            self.slices.remove(&owner);
        }
        self.touch(&owner, removed.and_then(|slice| slice.family), touched);
    }

    fn touch(&self, service: &ObjectName, family: Option<Family>, touched: &mut Touched) {
        if let Some(service) = self.services.get(service) {
            touched.add_service(service, family);
        }
    }

    /// A service port as it is to be served; `None` if it is not (any more).
    pub fn service_port(&self, name: &ServicePortName, family: Family) -> Option<ServicePort> {
        let service =
            self.services.get(&ObjectName { namespace: name.namespace.clone(), name: name.name.clone() })?;
        let mut ports = service.ports.iter();
        let port = ports.find(|port| port.name == name.port && port.protocol == name.protocol)?;
        self.resolve(service, port, family)
    }

    /// All service ports that are to be served, in no order.
    pub fn service_ports(&self) -> impl Iterator<Item = (ServicePortName, Family, ServicePort)> {
        self.services.values().flat_map(move |service| {
            let ports = service.ports.iter();
            ports.flat_map(move |port| {
                let families = Family::ALL.into_iter();
                families.filter_map(move |family| {
                    Some((port_name(service, port), family, self.resolve(service, port, family)?))
                })
            })
        })
    }

    /// The number of services that are to be served.
    pub fn service_count(&self) -> usize {
        self.served
    }

    /// The number of endpoints, whether they may be chosen or not.
    pub fn endpoint_count(&self) -> usize {
        self.endpoints
    }

    /// The number of nodes, this one among them.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// All nodes, this one among them.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().map(Arc::as_ref)
    }

    /// Everything that it has been told and that matters, in no order.
    pub fn objects(&self) -> impl Iterator<Item = Object> {
        let services = self.services.values().cloned().map(Object::Service);
        let slices = self.slices.values().flatten().cloned().map(Object::EndpointSlice);
        let nodes = self.nodes.values().cloned().map(Object::Node);
        let cidrs = self.service_cidrs.values().cloned().map(Object::ServiceCidr);
        services.chain(slices).chain(nodes).chain(cidrs)
    }

    /// This node's surroundings.
    pub fn surroundings(&self) -> Surroundings {
        let own = self.own_as_known();
        let cidrs: BTreeSet<_> =
            self.service_cidrs.values().flat_map(|cidr| cidr.cidrs.iter().copied()).collect();
        Surroundings {
            pod_cidrs: own.map(|node| node.pod_cidrs.clone()).unwrap_or_default(),
            node_ips: own.map(Node::ips).unwrap_or_default(),
            service_cidrs: cidrs.into_iter().collect(),
        }
    }

    /// The name of the node that this state looks from.
    pub fn own_node(&self) -> &str {
        &self.own_node
    }

    fn resolve(&self, service: &Service, port: &Port, family: Family) -> Option<ServicePort> {
        if !service.is_proxied() {
            return None;
        }
        let candidates = self.candidates(service, port, family);
        let of_family = |ips: &[IpAddr]| ips.iter().copied().filter(|&ip| Family::of(ip) == family).collect();
        let mut resolved = ServicePort {
            node_port: port.node_port,
            external_ips: of_family(&service.external_ips),
            load_balancer_ips: of_family(&service.load_balancer_ips),
            internal_policy: service.internal_policy,
            external_policy: service.external_policy,
            affinity_seconds: service.affinity_seconds,
            balancing: service.balancing,
            has_endpoints: choice::any(&candidates),
            serving: choice::serving(&candidates),
            silent: choice::silent(&candidates),
            ..ServicePort::new(service.cluster_ip(family)?, port.port, choice::of_all(&candidates))
        };
        if resolved.uses_local_endpoints() {
            resolved.local_endpoints = choice::of_local(&candidates);
        }
        if !resolved.load_balancer_ips.is_empty() {
            let own = self.own().map(Node::ips).unwrap_or_default();
            resolved.source_ranges = source_ranges(&service.source_ranges, &resolved.load_balancer_ips, &own);
        }
        Some(resolved)
    }

    /// Every endpoint of a service port once, in order.
    fn candidates(&self, service: &Service, port: &Port, family: Family) -> Vec<(SocketAddr, Candidate)> {
        let mut candidates = Vec::new();
        let place = Place { node: &self.own_node, zone: self.own().and_then(|node| node.zone.as_deref()) };
        let slices = self.slices.get(&service.name).into_iter().flatten();
        for slice in slices.filter(|slice| slice.family == Some(family)) {
            let ports = slice.ports.iter();
            for target in ports.filter(|target| target.name == port.name && target.protocol == port.protocol)
            {
                candidates.extend(slice.endpoints.iter().map(|endpoint| {
                    let candidate = Candidate::new(endpoint, place, &service.weights);
                    (SocketAddr::new(endpoint.address, target.port), candidate)
                }));
            }
        }
        choice::merged(candidates)
    }

    /// The node of that name, if it is known.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name).map(Arc::as_ref)
    }

    /// This node as it was known last, if it ever was: with pod CIDRs, once it had some.
    pub fn own_as_known(&self) -> Option<&Node> {
        self.own.as_deref()
    }

    /// This node, if it is known.
    pub fn own(&self) -> Option<&Node> {
        self.node(&self.own_node)
    }
}

/// Who may use the load balancer's addresses, of their family. A node that may is let in by those addresses, too: they are what its
/// packets come from where the address stands on one of its links.
fn source_ranges(ranges: &[IpNetwork], served: &[IpAddr], own: &[IpAddr]) -> Vec<IpNetwork> {
    let is_of_family =
        |ip: IpAddr| served.first().is_some_and(|served| Family::of(*served) == Family::of(ip));
    let mut ranges: Vec<_> = ranges.iter().copied().filter(|range| is_of_family(range.ip())).collect();
    if own.iter().any(|ip| ranges.iter().any(|range| range.contains(*ip))) {
        ranges.extend(served.iter().copied().map(IpNetwork::from));
    }
    ranges.sort_unstable_by_key(|range| (range.prefix(), range.ip())); // the widest first
    let mut kept: Vec<IpNetwork> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if !kept.iter().any(|wider| wider.contains(range.ip())) {
            kept.push(range);
        }
    }
    kept.sort_unstable();
    if kept.iter().any(|range| range.prefix() == 0) { Vec::new() } else { kept }
}

fn is_served(service: &Service) -> bool {
    service.is_proxied() && !service.cluster_ips.is_empty()
}

fn port_name(service: &Service, port: &Port) -> ServicePortName {
    ServicePortName {
        namespace: service.name.namespace.clone(),
        name: service.name.name.clone(),
        port: port.name.clone(),
        protocol: port.protocol,
    }
}

//! What the cluster looks like, as far as it has been told: services, their endpoints, nodes. Pure.
//!
//! In: events. Out: which service ports each of them touches, and any service port as the plan wants it: only endpoints that
//! may be chosen, of one family. An event costs what its service holds, however many services there are.
//! In whatever order services and slices are told, the state comes out the same.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use crate::{
    objects::{EndpointSlice, Node, ObjectName, Port, Service},
    service_port::{Endpoint, Family, ServicePort, ServicePortName},
    watch::{Change, Event},
};

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
    /// How many services are to be served.
    served: usize,
}

/// What events make worth planning again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Services as they are or were, with the one family that is touched, if it is one; some of them more than once.
    services: Vec<(Arc<Service>, Option<Family>)>,
    /// Whether a node is different.
    pub nodes: bool,
}

impl Touched {
    /// Nodes, and no service.
    pub fn nodes() -> Self {
        Self { nodes: true, ..Self::default() }
    }

    /// Says whether nothing is worth planning again.
    pub fn is_empty(&self) -> bool {
        !self.nodes && self.services.is_empty()
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
            served: 0,
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
            Event::Node(Change::Set(node)) => {
                let old = self.nodes.insert(node.name.name.clone(), Arc::clone(&node));
                touched.nodes = old.as_ref() != Some(&node);
            }
            Event::Node(Change::Gone(name)) => touched.nodes = self.nodes.remove(&name.name).is_some(),
            Event::Listed => {}
        }
        touched
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

    /// All nodes, this one among them.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().map(Arc::as_ref)
    }

    /// The name of the node that this state looks from.
    pub fn own_node(&self) -> &str {
        &self.own_node
    }

    fn resolve(&self, service: &Service, port: &Port, family: Family) -> Option<ServicePort> {
        if !service.is_proxied() {
            return None;
        }
        Some(ServicePort {
            cluster_ip: service.cluster_ip(family)?,
            port: port.port,
            node_port: port.node_port,
            affinity_seconds: service.affinity_seconds,
            endpoints: usable(self.candidates(service, port, family)),
        })
    }

    /// Every endpoint of a service port once, in order.
    fn candidates(&self, service: &Service, port: &Port, family: Family) -> Vec<(SocketAddr, Candidate)> {
        let mut candidates = Vec::new();
        let slices = self.slices.get(&service.name).into_iter().flatten();
        for slice in slices.filter(|slice| slice.family == Some(family)) {
            let ports = slice.ports.iter();
            for target in ports.filter(|target| target.name == port.name && target.protocol == port.protocol)
            {
                candidates.extend(slice.endpoints.iter().map(|endpoint| {
                    let candidate = Candidate {
                        is_staying: !endpoint.terminating,
                        is_ready: endpoint.ready,
                        is_serving: endpoint.serving,
                        is_local: endpoint.node.as_deref() == Some(&self.own_node),
                    };
                    (SocketAddr::new(endpoint.address, target.port), candidate)
                }));
            }
        }
        candidates.sort_unstable();
        candidates.dedup_by(|other, first| {
            let is_same = other.0 == first.0;
            if is_same {
                first.1.merge(other.1);
            }
            is_same
        });
        candidates
    }
}

/// What is known of an endpoint. The order is that of trust: of two slices that name the same endpoint, the one in which it
/// is not terminating is right (a pod may move between slices).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::struct_excessive_bools, reason = "the API's three conditions are independent of each other")]
struct Candidate {
    is_staying: bool,
    is_ready: bool,
    is_serving: bool,
    is_local: bool,
}

impl Candidate {
    fn merge(&mut self, other: Self) {
        let is_local = self.is_local || other.is_local;
        *self = Self { is_local, ..(*self).max(other) };
    }
}

/// The endpoints to choose from: the ready ones; if there are none, those that still answer while they end.
fn usable(candidates: Vec<(SocketAddr, Candidate)>) -> Vec<Endpoint> {
    let any_ready = candidates.iter().any(|(_, candidate)| candidate.is_ready);
    let chosen = candidates.into_iter().filter(|(_, candidate)| {
        candidate.is_ready || (!any_ready && candidate.is_serving && !candidate.is_staying)
    });
    chosen.map(|(address, candidate)| Endpoint { address, is_local: candidate.is_local }).collect()
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

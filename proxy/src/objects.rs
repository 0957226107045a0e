//! What the watch says and the state hears: services, endpoint slices and nodes, cut down to what Fairway uses.
//!
//! In: the JSON shape of the Kubernetes API ([`Object::parse`]), from whatever source. Out: values that have been
//! checked and defaulted as the API server does it. Unknown fields are ignored; a wrong one is an [`Invalid`] that names it.

use std::{fmt, net::IpAddr, num::NonZeroU64, sync::Arc};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::annotations::Weights;
use crate::service_port::{Balancing, Family, Protocol, TrafficPolicy};

pub mod annotations;
pub(crate) mod letters;
pub mod sharing;
mod wire;

#[cfg(test)]
mod tests;

/// Names an object among those of its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// The namespace; empty for nodes and service CIDRs, which have none.
    #[serde(with = "letters", default, skip_serializing_if = "letters::is_empty")]
    pub namespace: Arc<str>,
    /// The name.
    #[serde(with = "letters")]
    pub name: Arc<str>,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The kinds of object that Fairway reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// core/v1 Service.
    Service,
    /// discovery.k8s.io/v1 `EndpointSlice`.
    EndpointSlice,
    /// core/v1 Node.
    Node,
    /// networking.k8s.io/v1 `ServiceCIDR`.
    ServiceCidr,
}

impl Kind {
    /// As the API calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An object of one of the kinds; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A service.
    Service(Arc<Service>),
    /// A part of a service's endpoints.
    EndpointSlice(Arc<EndpointSlice>),
    /// A node.
    Node(Arc<Node>),
    /// Networks that cluster IPs are taken from.
    ServiceCidr(Arc<ServiceCidr>),
}

impl Object {
    /// Reads one object. Kinds that Fairway does not use give `None`.
    pub fn parse(value: Value) -> Result<Option<Self>, Invalid> {
        wire::parse(value)
    }

    /// Reads one object that is known to be of a kind, as items of a list do not say it.
    pub fn of_kind(kind: Kind, json: &str) -> Result<Self, Invalid> {
        wire::of_kind(kind, wire::Json::Text(json))
    }

    /// The object's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
        }
    }

    /// The object's name.
    pub fn name(&self) -> &ObjectName {
        match self {
            Self::Service(service) => &service.name,
            Self::EndpointSlice(slice) => &slice.name,
            Self::Node(node) => &node.name,
            Self::ServiceCidr(cidr) => &cidr.name,
        }
    }
}

/// What is as usual is not written where an object is kept.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Why an object was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {field}: {reason}")]
pub struct Invalid {
    /// Kind, namespace and name, as far as they are known: `Service default/web`.
    pub object: String,
    /// Its kind, if it is one that Fairway reads.
    pub kind: Option<Kind>,
    /// The path of the field: `spec.ports[0].port`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What in an accepted object is not honoured, for people to hear of when the object changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Note {
    /// The path of the field: `metadata.annotations[fairway.dev/balancing]`.
    pub field: String,
    /// What is odd about it, and what is done instead.
    pub reason: String,
}

/// How a service is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ServiceType {
    /// By cluster IP.
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// By a port on every node, too.
    NodePort,
    /// By a load balancer's address, too.
    LoadBalancer,
    /// Only as a DNS alias: nothing to proxy.
    ExternalName,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// How it is reached.
    pub service_type: ServiceType,
    /// Whether the label `service.kubernetes.io/service-proxy-name` gives it to another proxy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub has_other_proxy: bool,
    /// At most one address of each family; none if the service is headless.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses outside the cluster that lead to it, of both families, without duplicates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<IpAddr>,
    /// The load balancer's addresses that nodes serve themselves (`ipMode: VIP`), of both families, without duplicates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer's addresses, of both families; empty for everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<IpNetwork>,
    /// Which endpoints the cluster IPs lead to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub internal_policy: TrafficPolicy,
    /// Which endpoints all other addresses lead to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub external_policy: TrafficPolicy,
    /// Where a load balancer asks whether this node has endpoints. Only with type `LoadBalancer` and external policy Local.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check_node_port: Option<u16>,
    /// How long a client stays with its endpoint (`sessionAffinity: ClientIP`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u32>,
    /// How endpoints are chosen.
    #[serde(default, skip_serializing_if = "is_default")]
    pub balancing: Balancing,
    /// How many turns endpoints have.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weights: Weights,
    /// Its ports, each name and protocol once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// What of it is not honoured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

impl Service {
    /// A service that says nothing but this.
    pub fn new(
        name: ObjectName,
        service_type: ServiceType,
        cluster_ips: Vec<IpAddr>,
        ports: Vec<Port>,
    ) -> Self {
        Self {
            name,
            service_type,
            has_other_proxy: false,
            cluster_ips,
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            health_check_node_port: None,
            affinity_seconds: None,
            balancing: Balancing::RoundRobin,
            weights: Weights::default(),
            ports,
            notes: Vec::new(),
        }
    }

    /// Says whether packets to this service are ours to deliver.
    pub fn is_proxied(&self) -> bool {
        self.service_type != ServiceType::ExternalName && !self.has_other_proxy
    }

    /// The service's address of one family.
    pub fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        self.cluster_ips.iter().copied().find(|&ip| Family::of(ip) == family)
    }
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// Its name, often empty when it is the only one.
    #[serde(with = "letters", default, skip_serializing_if = "letters::is_empty")]
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the cluster IP.
    pub port: u16,
    /// The port on the nodes. Set only for types that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
}

/// A part of a service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Its name.
    pub name: ObjectName,
    /// The service it belongs to, in the same namespace, by label `kubernetes.io/service-name`.
    #[serde(with = "letters::perhaps", default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Arc<str>>,
    /// Whether the label `service.kubernetes.io/headless` says that nobody is to proxy to it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_headless: bool,
    /// The family of the addresses; `None` for host names, which nobody proxies to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Where each of them listens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<SlicePort>,
    /// The addresses with their conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<SliceEndpoint>,
    /// When what it says began to be so.
    #[serde(skip)]
    pub triggered: Triggered,
}

/// When something happened that made a slice what it is, by the clock of whoever wrote it (annotation
/// `endpoints.kubernetes.io/last-change-trigger-time`): microseconds since 1970, if it says so. No part of what the slice says: all are equal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Triggered(pub Option<NonZeroU64>);

impl PartialEq for Triggered {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Triggered {}

/// A port of all endpoints of a slice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlicePort {
    /// The name of the service port that leads here.
    #[serde(with = "letters", default, skip_serializing_if = "letters::is_empty")]
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port that the endpoints listen on.
    pub port: u16,
}

/// One address of a slice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// The address, of the slice's family.
    pub address: IpAddr,
    /// The name of what it is, a pod as a rule, in the slice's namespace.
    #[serde(with = "letters::perhaps", default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Arc<str>>,
    /// The name that it has in DNS besides the service's, if any.
    #[serde(with = "letters::perhaps", default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Arc<str>>,
    /// The node that it runs on.
    #[serde(with = "letters::perhaps", default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Arc<str>>,
    /// Whether new connections should go there.
    pub ready: bool,
    /// Whether it would answer.
    pub serving: bool,
    /// Whether it is about to end.
    #[serde(default, skip_serializing_if = "is_default")]
    pub terminating: bool,
    /// Whom it is meant for, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hints: Option<Box<Hints>>,
}

impl SliceEndpoint {
    /// An endpoint that is ready, and says nothing else.
    pub fn new(address: IpAddr) -> Self {
        Self {
            address,
            target: None,
            hostname: None,
            node: None,
            ready: true,
            serving: true,
            terminating: false,
            hints: None,
        }
    }
}

/// Whom an endpoint is meant for: clients on these nodes, in these zones. Both empty: anybody.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hints {
    /// Names of nodes.
    #[serde(with = "letters::list", default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Arc<str>>,
    /// Names of zones.
    #[serde(with = "letters::list", default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<Arc<str>>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name; nodes have no namespace.
    pub name: ObjectName,
    /// What its pods' addresses are taken from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<IpNetwork>,
    /// Where the other nodes reach it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub internal_ips: Vec<IpAddr>,
    /// Where it is reached from outside the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<IpAddr>,
    /// Where it stands, by label `topology.kubernetes.io/zone`.
    #[serde(with = "letters::perhaps", default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
    /// Whether it is being deleted, or about to be by the cluster autoscaler: load balancers are to send it nothing new.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_leaving: bool,
}

impl Node {
    /// All its addresses, the primary one of each family first: an internal one, if it has any.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.internal_ips.iter().chain(&self.external_ips).copied().collect()
    }
}

/// Networks that cluster IPs are taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCidr {
    /// Its name; it has no namespace.
    pub name: ObjectName,
    /// At most one network of each family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<IpNetwork>,
}

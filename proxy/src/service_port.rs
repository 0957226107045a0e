//! What the state says and the plan hears: one port of one service, in one address family.
//!
//! All that decides where a packet to the service goes is here, already chosen: usable endpoints only, addresses of one
//! family only. Whatever the state keeps besides (hints, conditions, labels) has been applied.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnetwork::IpNetwork;

pub use dataplane::packet::{Family, Protocol};

/// Names a service port. Port names may be empty, so all four parts are needed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    /// The service's namespace.
    pub namespace: Arc<str>,
    /// The service's name.
    pub name: Arc<str>,
    /// The port's name, often empty when a service has a single port.
    pub port: Arc<str>,
    /// The port's protocol.
    pub protocol: Protocol,
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if self.port.is_empty() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// A backend that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it runs on this node.
    pub is_local: bool,
    /// How many turns it has where another has one; never 0.
    pub weight: u32,
}

impl Endpoint {
    /// An endpoint with as many turns as any other.
    pub fn new(address: SocketAddr, is_local: bool) -> Self {
        Self { address, is_local, weight: 1 }
    }
}

/// Which endpoints traffic of some kind may be sent to.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum TrafficPolicy {
    /// All of them.
    #[default]
    Cluster,
    /// Those of this node only; without any, packets are dropped rather than refused, so that a load balancer tries another node.
    Local,
}

/// How an endpoint is chosen for a new connection.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Balancing {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// Any.
    Random,
    /// The same one for the same client address, on every node.
    SourceHash,
}

/// One port of one service in one family: its addresses and its backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The cluster IP, of the family that was asked for.
    pub cluster_ip: IpAddr,
    /// The port on the cluster IP, the external IPs and the load balancer's.
    pub port: u16,
    /// The port on every node address, for services of type `NodePort` and `LoadBalancer`.
    pub node_port: Option<u16>,
    /// Addresses outside the cluster that lead here, of this family, without duplicates.
    pub external_ips: Vec<IpAddr>,
    /// The load balancer's addresses that are to be served on the node itself, of this family, without duplicates.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer's addresses; empty for everyone. Sorted, none within another.
    pub source_ranges: Vec<IpNetwork>,
    /// Which endpoints the cluster IP leads to.
    pub internal_policy: TrafficPolicy,
    /// Which endpoints all other addresses lead to, for clients that are not on this node.
    pub external_policy: TrafficPolicy,
    /// Session affinity by client IP: seconds that a client stays with its endpoint after its last new connection.
    pub affinity_seconds: Option<u32>,
    /// How endpoints are chosen.
    pub balancing: Balancing,
    /// The backends to choose from under [`TrafficPolicy::Cluster`], sorted by address, without duplicates. None at all: new
    /// connections are rejected.
    pub endpoints: Vec<Endpoint>,
    /// The backends to choose from under [`TrafficPolicy::Local`], likewise; empty where neither policy is that.
    pub local_endpoints: Vec<Endpoint>,
    /// Whether there is a backend anywhere: decides whether no local one means that packets are dropped or rejected.
    pub has_endpoints: bool,
    /// Every endpoint that still answers, chosen or not, sorted: flows to it may go on.
    pub serving: Vec<SocketAddr>,
    /// Every endpoint that is there all the same, sorted: connections that are established with it are its own to end.
    pub silent: Vec<SocketAddr>,
}

impl ServicePort {
    /// A service port that has only a cluster IP, and what is usual for all else.
    pub fn new(cluster_ip: IpAddr, port: u16, endpoints: Vec<Endpoint>) -> Self {
        Self {
            cluster_ip,
            port,
            node_port: None,
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity_seconds: None,
            balancing: Balancing::RoundRobin,
            has_endpoints: !endpoints.is_empty(),
            serving: endpoints.iter().map(|endpoint| endpoint.address).collect(),
            silent: Vec::new(),
            endpoints,
            local_endpoints: Vec::new(),
        }
    }

    /// Says whether it has addresses besides the cluster IP.
    pub fn is_external(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    /// Says whether some of its addresses lead to all endpoints, for some clients at least.
    pub fn uses_all_endpoints(&self) -> bool {
        self.internal_policy == TrafficPolicy::Cluster || self.is_external()
    }

    /// Says whether some of its addresses lead to local endpoints only, for some clients at least.
    pub fn uses_local_endpoints(&self) -> bool {
        self.internal_policy == TrafficPolicy::Local || self.is_split()
    }

    /// Says whether its external addresses mean different endpoints to clients on this node and to strangers.
    pub fn is_split(&self) -> bool {
        self.is_external() && self.external_policy == TrafficPolicy::Local
    }
}

//! What the state says and the plan hears: one port of one service, in one address family.
//!
//! All that decides where a packet to the service goes is here, already chosen: usable endpoints only, addresses of one
//! family only. Whatever the state keeps besides (hints, conditions, labels) has been applied.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

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
}

/// One port of one service in one family: its addresses and its backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The cluster IP, of the family that was asked for.
    pub cluster_ip: IpAddr,
    /// The port on the cluster IP.
    pub port: u16,
    /// The port on every node address, for services of type `NodePort` and `LoadBalancer`.
    pub node_port: Option<u16>,
    /// Session affinity by client IP: seconds that a client stays with its endpoint after its last new connection.
    pub affinity_seconds: Option<u32>,
    /// The usable backends, sorted by address, without duplicates. None at all: new connections are rejected.
    pub endpoints: Vec<Endpoint>,
}

//! What the state says and the plan hears of the node and the cluster, besides services.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// What the plan is told of the node and the cluster, whenever that changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// What the node's pods' addresses are taken from.
    pub pod_cidrs: Vec<IpNetwork>,
    /// The node's internal addresses, the primary one of each family first.
    pub node_ips: Vec<IpAddr>,
    /// What cluster IPs are taken from.
    pub service_cidrs: Vec<IpNetwork>,
}

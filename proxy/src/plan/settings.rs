//! Settings: what the plan is told once; and what they come to in the node's surroundings.
//!
//! In: a family. Out: how its packets show where they come from, as conditions for rules.

use dataplane::nft::{LinkName, Match};
use ipnetwork::IpNetwork;

use crate::{
    config::{ExternalIps, NodePortAddresses},
    service_port::Family,
    surroundings::Surroundings,
};

/// What the plan is told once.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "switches are independent of each other")]
pub struct Settings {
    /// How connections of this node's pods are told from others.
    pub local_pods: LocalPods,
    /// Masquerade all traffic to cluster IPs.
    pub masquerade_all: bool,
    /// Masquerade what pods of this node send to the outside, but for these networks. `None`: leave it as it is.
    pub unmasqueraded_by_pods: Option<Vec<IpNetwork>>,
    /// The UDP port of tunnels, which nodes alone may send to; none where there are none.
    pub overlay_port: Option<u16>,
    /// Addresses of this node that serve node ports.
    pub node_port_addresses: NodePortAddresses,
    /// Serve node ports on loopback addresses, too (IPv4, with `route_localnet`).
    pub localhost_node_ports: bool,
    /// Keep the network from loopback addresses although no node ports are served there: `route_localnet` could not be put back.
    pub guard_localhost: bool,
    /// External IPs that are served.
    pub external_ips: ExternalIps,
    /// Answer ping to cluster IPs.
    pub ping_cluster_ips: bool,
    /// Drop forwarded packets that connection tracking finds invalid: it would not rewrite them, and a client that gets a packet
    /// from an address that it never called resets its connection.
    pub drop_invalid: bool,
    /// Count new connections for each address and each backend.
    pub counters: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            local_pods: LocalPods::ClusterCidr(Vec::new()),
            masquerade_all: false,
            unmasqueraded_by_pods: None,
            overlay_port: None,
            node_port_addresses: NodePortAddresses::All,
            localhost_node_ports: false,
            guard_localhost: false,
            external_ips: ExternalIps::All,
            ping_cluster_ips: false,
            drop_invalid: true,
            counters: true,
        }
    }
}

/// How connections of this node's pods are told from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalPods {
    /// By source address in the pods' network, the first of each family. Empty: they are not, so nothing is masqueraded for it.
    ClusterCidr(Vec<IpNetwork>),
    /// By source address in the node's pod CIDRs.
    NodeCidr,
    /// By the link that they come in by.
    Link(LinkName),
}

/// Those of a family.
pub(super) fn of_family(networks: &[IpNetwork], family: Family) -> impl Iterator<Item = IpNetwork> {
    networks.iter().copied().filter(move |network| Family::of(network.ip()) == family)
}

/// The condition that a packet to a cluster IP comes from elsewhere than a pod; `None` where that cannot be told.
pub(super) fn from_elsewhere(
    family: Family,
    settings: &Settings,
    surroundings: &Surroundings,
) -> Option<Match> {
    let network = match &settings.local_pods {
        LocalPods::ClusterCidr(cidrs) => of_family(cidrs, family).next(),
        LocalPods::NodeCidr => of_family(&surroundings.pod_cidrs, family).next(),
        LocalPods::Link(name) => return Some(Match::NotLink(name.clone())),
    };
    network.map(Match::SourceOutside)
}

/// The conditions one of which holds for packets of this node's own pods. The pods' network would let those of other nodes pass
/// for ours, whose answers do not come back through here: it serves only while the node's part of it is unknown.
pub(super) fn from_local_pods(
    family: Family,
    settings: &Settings,
    surroundings: &Surroundings,
) -> Vec<Match> {
    let own = || of_family(&surroundings.pod_cidrs, family).map(Match::SourceInside).collect::<Vec<_>>();
    match &settings.local_pods {
        LocalPods::Link(name) => vec![Match::Link(name.clone())],
        LocalPods::ClusterCidr(cidrs) if own().is_empty() => {
            of_family(cidrs, family).take(1).map(Match::SourceInside).collect()
        }
        LocalPods::NodeCidr | LocalPods::ClusterCidr(_) => own(),
    }
}

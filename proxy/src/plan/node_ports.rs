//! Node ports: the second rule of `services`, and what becomes of a packet that it finds.

use dataplane::nft::{Chain, Key, Match, Rule, Source, Statement};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::layout::{self, DISPATCH, NODE_PORTS, goto, mark_for_masquerade};
use crate::service_port::{Family, ServicePort, ServicePortName};

/// The chain of packets to a node port.
pub(super) const NODE_PORT: &str = "node-port";

/// Finds packets to a node port on any address of this node but loopback.
pub(super) fn rule(family: Family) -> Rule {
    let loopback = match family {
        Family::Ip => Ipv4Network::new([127, 0, 0, 0].into(), 8).map(IpNetwork::V4),
        Family::Ip6 => Ipv6Network::new(std::net::Ipv6Addr::LOCALHOST, 128).map(IpNetwork::V6),
    };
    let not_loopback = loopback.ok().map(|network| Statement::Match(Match::DestinationOutside(network)));
    // fib daddr type local ip daddr != 127.0.0.0/8 meta priority set meta l4proto . th dport map @node-ports goto node-port
    let mut statements = vec![Statement::Match(Match::ToThisHost)];
    statements.extend(not_loopback);
    statements.extend([Statement::SetPriority(Source::ByPort(NODE_PORTS.into())), goto(NODE_PORT)]);
    Rule(statements)
}

/// Masquerades always: the endpoint may be on another node, and its answer must come back through this one.
pub(super) fn node_port() -> Chain {
    Chain { hook: None, rules: vec![layout::rule([mark_for_masquerade(), goto(DISPATCH)])] }
}

/// The key of a service port's node port, if it has one.
pub(super) fn node_port_key(name: &ServicePortName, port: &ServicePort) -> Option<Key> {
    port.node_port.map(|node_port| Key::Port(name.protocol, node_port))
}

//! Node ports: the third rule of `services`, and what becomes of a packet that it finds.
//!
//! Which addresses are this node's is asked of the kernel for every connection (`fib`): one that is added serves at once.

use dataplane::nft::{Chain, Hook, LinkName, Match, Rule, Source, Statement, Verdict};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::{
    Settings, Surroundings,
    external::EXTERNAL,
    layout::{NODE_PORTS, goto, rule},
};
use crate::service_port::Family;

/// The chain of packets to any address of this node.
pub(super) const NODE_ADDRESS: &str = "node-address";
/// The chain of those to an address that serves node ports.
pub(super) const NODE_PORT: &str = "node-port";

/// Finds packets to an address of this node.
pub(super) fn find() -> Rule {
    // fib daddr type local goto node-address
    rule([Statement::Match(Match::ToThisHost), goto(NODE_ADDRESS)])
}

/// Lets through what is for an address that serves node ports.
pub(super) fn node_address(family: Family, settings: &Settings, surroundings: &Surroundings) -> Chain {
    let mut rules = Vec::new();
    let loopback = loopback(family);
    if is_on_localhost(family, settings) {
        // Martians never come here: see `guard`.
        rules.extend(
            loopback
                .map(|network| rule([Statement::Match(Match::DestinationInside(network)), goto(NODE_PORT)])),
        );
    } else {
        // ip daddr 127.0.0.0/8 return
        let returned = |network| {
            rule([Statement::Match(Match::DestinationInside(network)), Statement::Verdict(Verdict::Return)])
        };
        rules.extend(loopback.map(returned));
    }
    if let (Family::Ip6, Ok(network)) = (family, Ipv6Network::new([0xfe80, 0, 0, 0, 0, 0, 0, 0].into(), 10)) {
        // Whoever asks there asks from such an address, whose packets are not routed (kernel net/ipv6/ip6_output.c, ip6_forward):
        // rewritten, they would come to nobody. This node's own programs may listen there.
        // ip6 daddr fe80::/10 return
        let network = IpNetwork::V6(network);
        rules.push(rule([
            Statement::Match(Match::DestinationInside(network)),
            Statement::Verdict(Verdict::Return),
        ]));
    }
    match settings.node_port_addresses.networks(family, &surroundings.node_ips) {
        None => rules.push(rule([goto(NODE_PORT)])),
        Some(networks) => rules.extend(
            networks
                .into_iter()
                .map(|network| rule([Statement::Match(Match::DestinationInside(network)), goto(NODE_PORT)])),
        ),
    }
    Chain { hook: None, rules }
}

/// What becomes of a packet to a node port.
pub(super) fn node_port() -> Chain {
    // meta priority set meta l4proto . th dport map @node-ports goto external
    let found = rule([Statement::SetPriority(Source::ByPort(NODE_PORTS.into())), goto(EXTERNAL)]);
    Chain { hook: None, rules: vec![found] }
}

/// Says whether node ports are served on loopback addresses by rules: IPv6 cannot route them.
pub(super) fn is_on_localhost(family: Family, settings: &Settings) -> bool {
    settings.localhost_node_ports && family == Family::Ip
}

/// Says whether [`guard`] is needed. IPv6 drops such packets by itself.
pub(super) fn is_guarded(family: Family, settings: &Settings) -> bool {
    (settings.localhost_node_ports || settings.guard_localhost) && family == Family::Ip
}

/// Drops what comes from a link with a loopback address: `route_localnet` would let it in (CVE-2020-8558).
pub(super) fn guard(family: Family) -> Chain {
    let from_link = || Statement::Match(Match::NotLink(LinkName::Exact("lo".into())));
    let dropped = |condition| {
        rule([
            from_link(),
            Statement::Match(condition),
            Statement::Counter,
            Statement::Verdict(Verdict::Drop),
        ])
    };
    let rules = loopback(family).into_iter().flat_map(|network| {
        [dropped(Match::DestinationInside(network)), dropped(Match::SourceInside(network))]
    });
    Chain { hook: Some(Hook::RawPrerouting), rules: rules.collect() }
}

fn loopback(family: Family) -> Option<IpNetwork> {
    match family {
        Family::Ip => Ipv4Network::new([127, 0, 0, 0].into(), 8).map(IpNetwork::V4),
        Family::Ip6 => Ipv6Network::new(std::net::Ipv6Addr::LOCALHOST, 128).map(IpNetwork::V6),
    }
    .ok()
}

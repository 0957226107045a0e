//! Host ports: ports of the node that lead to one pod on it.
//!
//! In: which port of which address leads to which pod. Out: the tables `ip fairway-host-ports` and `ip6 fairway-host-ports`. The
//! plugin and the daemon both know them: the one maps a pod's ports when it is made, the other puts back what others take away.
//! Here all is pure; who has which port is kept on disk ([`crate::claims`]), and [`flows`] ends what leads astray.
//!
//! ```text
//! prerouting, output   (after services) ─▶ find     one: of this host, address . protocol . port ─▶ DNAT to the pod
//!                                                   any: of this host, protocol . port           ─▶ DNAT to the pod
//! postrouting          exposed: the pod . protocol . port, and rewritten ─▶ sources
//! sources              masquerade, where the answer would not come back otherwise: a pod that calls itself, 127.0.0.1,
//!                      and pods of one bridge
//! guard                127.0.0.0/8 from a link: dropped
//! ```

pub mod flows;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

use crate::{
    nft::{
        Chain, Data, DataType, Element, Hook, Key, KeyType, LinkName, Map, Match, Rule, SetType, Source,
        Statement, Table, Verdict,
    },
    packet::{Family, Protocol},
};

/// Protocol . port of any address of the host -> the pod.
const ANY: &str = "any";
/// Address . protocol . port -> the pod.
const ONE: &str = "one";
/// The pod's address . protocol . port.
const EXPOSED: &str = "exposed";
/// The pod's address . the same address.
const HAIRPIN: &str = "hairpin";

/// The maps and sets.
const MAPS: [(&str, SetType); 4] = [
    (ANY, kind(KeyType::Port, DataType::Endpoint)),
    (ONE, kind(KeyType::Service, DataType::Endpoint)),
    (EXPOSED, kind(KeyType::Service, DataType::None)),
    (HAIRPIN, kind(KeyType::Addresses, DataType::None)),
];

const fn kind(key: KeyType, data: DataType) -> SetType {
    SetType { key, data, counter: false, dynamic: None }
}

/// A port of the node, in one family, and the pod that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The address that the port is of; nothing: all of the node's.
    #[serde(default, rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The port.
    pub host_port: u16,
    /// Where it leads to. Its family is that of the whole.
    pub pod: SocketAddr,
}

impl HostPort {
    /// The family.
    pub fn family(&self) -> Family {
        Family::of(self.pod.ip())
    }

    /// Says whether some packet could be for both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_one_address = match (self.host_ip, other.host_ip) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        is_one_address
            && (self.protocol, self.host_port, self.family())
                == (other.protocol, other.host_port, other.family())
    }

    /// Says whether programs of the node reach it by an address of loopback. Only IPv4 can be routed from there.
    pub fn serves_localhost(&self) -> bool {
        self.family() == Family::Ip && self.host_ip.is_none_or(|address| address.is_loopback())
    }

    /// The elements that make it work, with a word for people.
    fn elements(&self, comment: &str) -> [(&'static str, Key, Element); 3] {
        let pod = self.pod.ip();
        let found = Element::new(Data::Endpoint(self.pod)).with_comment(comment);
        let (map, key) = match self.host_ip {
            Some(address) => (ONE, Key::Service(address, self.protocol, self.host_port)),
            None => (ANY, Key::Port(self.protocol, self.host_port)),
        };
        let exposed = Key::Service(pod, self.protocol, self.pod.port());
        [
            (map, key, found),
            (EXPOSED, exposed, Data::None.into()),
            (HAIRPIN, Key::Addresses(pod, pod), Data::None.into()),
        ]
    }
}

/// As people write it: `8080/tcp`, `8080/tcp on 192.0.2.1`.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host_port, self.protocol)?;
        self.host_ip.map_or(Ok(()), |address| write!(f, " on {address}"))
    }
}

/// The table of a family, with these host ports in it, each with a word for people. Those of the other family are left out.
pub fn table<'a>(family: Family, host_ports: impl IntoIterator<Item = (&'a HostPort, &'a str)>) -> Table {
    let mut table = Table::new(family);
    table.maps = MAPS.into_iter().map(|(name, kind)| (name.into(), Map::new(kind))).collect();
    table.chains = chains(family).into_iter().map(|(name, chain)| (name.into(), chain)).collect();
    for (host_port, comment) in host_ports.into_iter().filter(|(it, _)| it.family() == family) {
        for (map, key, element) in host_port.elements(comment) {
            if let Some(map) = table.maps.get_mut(map) {
                map.elements.insert(key, element);
            }
        }
    }
    table
}

fn chains(family: Family) -> Vec<(&'static str, Chain)> {
    let find = || vec![jump("find")];
    let postrouting = vec![Rule(vec![
        matches(Match::ServiceIn(EXPOSED.into())),
        matches(Match::DestinationRewritten),
        go("sources"),
    ])];
    let mut chains = vec![
        ("prerouting", Chain { hook: Some(Hook::LatePrerouting), rules: find() }),
        ("output", Chain { hook: Some(Hook::LateOutput), rules: find() }),
        ("find", Chain { hook: None, rules: found(family) }),
        ("postrouting", Chain { hook: Some(Hook::Postrouting), rules: postrouting }),
        ("sources", Chain { hook: None, rules: sources(family) }),
    ];
    if family == Family::Ip {
        chains.push(("guard", Chain { hook: Some(Hook::RawPrerouting), rules: guard() }));
    }
    chains
}

/// Services come first: what their chains have rewritten does not come here.
fn found(family: Family) -> Vec<Rule> {
    let lookups = [Source::ByService(ONE.into()), Source::ByPort(ANY.into())];
    let rules = lookups.map(|lookup| {
        // Also what is for one address: a pod may name another host's, and would get what others send there.
        let mut rule = vec![matches(Match::ToThisHost)];
        if family == Family::Ip6 {
            // What comes from ::1 leaves by no link but lo: the kernel has no route_localnet for IPv6.
            rule.push(matches(Match::DestinationOutside(loopback(family))));
        }
        rule.push(Statement::Dnat(lookup));
        Rule(rule)
    });
    rules.into()
}

/// Whose source address is not kept.
fn sources(family: Family) -> Vec<Rule> {
    let masquerade = |condition| Rule(vec![matches(condition), Statement::Masquerade]);
    let mut rules = vec![
        // The pod would answer itself.
        masquerade(Match::AddressesIn(HAIRPIN.into())),
        // It would answer the other pod past the node, which is to put the host port back.
        masquerade(Match::BetweenBridges),
    ];
    if family == Family::Ip {
        rules.push(masquerade(Match::SourceInside(loopback(family))));
    }
    rules
}

/// Packets to and from 127.0.0.0/8 have no business on a link; with `route_localnet`, the kernel would not drop them itself.
/// // CVE-2020-8558
fn guard() -> Vec<Rule> {
    let conditions =
        [Match::DestinationInside(loopback(Family::Ip)), Match::SourceInside(loopback(Family::Ip))];
    let rules = conditions.map(|condition| {
        let from_a_link = matches(Match::NotLink(LinkName::Exact("lo".into())));
        Rule(vec![from_a_link, matches(condition), Statement::Verdict(Verdict::Drop)])
    });
    rules.into()
}

fn loopback(family: Family) -> IpNetwork {
    match family {
        Family::Ip => Ipv4Network::new_checked(Ipv4Addr::new(127, 0, 0, 0), 8).map(IpNetwork::V4),
        Family::Ip6 => Ipv6Network::new_checked(Ipv6Addr::LOCALHOST, 128).map(IpNetwork::V6),
    }
    .unwrap_or_else(|| IpAddr::from(Ipv4Addr::LOCALHOST).into())
}

fn matches(condition: Match) -> Statement {
    Statement::Match(condition)
}

fn go(chain: &'static str) -> Statement {
    Statement::Verdict(Verdict::Jump(chain.into()))
}

fn jump(chain: &'static str) -> Rule {
    Rule(vec![go(chain)])
}

#[cfg(test)]
mod tests;

//! Pods that others see as their node: what they send to elsewhere than their own network.
//!
//! In: addresses of pods, each with the network that it is of. Out: the tables `ip fairway-masquerade` and `ip6 fairway-masquerade`. The plugin
//! fills them for networks that ask for it (`ipMasq`), and the daemon puts back what others take away. Here all is pure; which
//! pods there are is kept on disk ([`crate::claims`]).
//!
//! ```text
//! postrouting   (once in a connection)   pods: from one of them ─▶ elsewhere
//! elsewhere     networks: the pod . its own network      no
//!               224.0.0.0/4, ff00::/8                    no
//!               all else                                 masquerade
//! ```
//!
//! The kernel rewrites a source once: what the daemon's table has masqueraded, or the table of host ports, is not asked about here.

use std::{fmt, net::IpAddr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{
    nft::{
        Chain, Data, DataType, Element, Hook, Key, KeyType, Map, Match, Rule, SetType, Statement, Table,
        Verdict,
    },
    packet::Family,
};

/// The pods' addresses.
const PODS: &str = "pods";
/// A pod's address . the network that it is of.
const NETWORKS: &str = "networks";

/// The sets.
const SETS: [(&str, SetType); 2] = [(PODS, kind(KeyType::Address)), (NETWORKS, kind(KeyType::Towards))];

const fn kind(key: KeyType) -> SetType {
    SetType { key, data: DataType::None, counter: false, dynamic: None }
}

/// A pod that is masqueraded, by one of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Masqueraded {
    /// The pod's.
    pub address: IpAddr,
    /// Where the pod is seen as itself.
    pub network: IpNetwork,
}

impl Masqueraded {
    /// The family.
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }
}

impl fmt::Display for Masqueraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the masquerade of {}", self.address)
    }
}

/// The table of a family, with these pods in it, each with a word for people. Those of the other family are left out.
pub fn table<'a>(family: Family, pods: impl IntoIterator<Item = (&'a Masqueraded, &'a str)>) -> Table {
    let mut table = Table::new(family);
    table.maps = SETS.into_iter().map(|(name, kind)| (name.into(), Map::new(kind))).collect();
    let postrouting = Chain { hook: Some(Hook::Postrouting), rules: vec![from_pods()] };
    table.chains.insert("postrouting".into(), postrouting);
    table.chains.insert("elsewhere".into(), Chain { hook: None, rules: elsewhere(family) });
    for (pod, comment) in pods.into_iter().filter(|(pod, _)| pod.family() == family) {
        let element = Element::new(Data::None).with_comment(comment);
        let elements = [
            (PODS, Key::Address(pod.address), element),
            (NETWORKS, Key::Towards(pod.address, pod.network), Data::None.into()),
        ];
        for (set, key, element) in elements {
            if let Some(set) = table.maps.get_mut(set) {
                set.elements.insert(key, element);
            }
        }
    }
    table
}

fn from_pods() -> Rule {
    // ip saddr @pods jump elsewhere
    let verdict = Statement::Verdict(Verdict::Jump("elsewhere".into()));
    Rule(vec![Statement::Match(Match::SourceIn(PODS.into())), verdict])
}

fn elsewhere(family: Family) -> Vec<Rule> {
    let not = |condition| Rule(vec![Statement::Match(condition), Statement::Verdict(Verdict::Return)]);
    vec![
        // ip saddr . ip daddr @networks return
        not(Match::AddressesIn(NETWORKS.into())),
        // ip daddr 224.0.0.0/4 return
        not(Match::DestinationInside(family.multicast())),
        // masquerade fully-random
        Rule(vec![Statement::Masquerade]),
    ]
}

#[cfg(test)]
mod tests;

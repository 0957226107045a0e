//! Masquerade: which packets leave with another source address, and why. One decision, made once for each connection.
//!
//! * Marked ones: their answer must come back through this node (node ports, clients outside the pod networks).
//! * Hairpins: an endpoint that reached itself through its own service would answer itself directly, and never be heard.
//! * Those of this node's pods to the outside, where nobody knows a way to pods. Pods, nodes and services of the cluster see each
//!   other's own addresses.
//!
//! ```text
//! postrouting ─ marked? hairpin? ─▶ masquerade
//!             └ from a pod of ours ─▶ leaving-pods ─ to a pod, to a node, or excepted? ─▶ as it is
//!                                                  └ else ─▶ masquerade
//! ```

use std::{collections::BTreeSet, iter};

use dataplane::nft::{Chain, Hook, Match, Rule, Statement, Verdict};
use ipnetwork::IpNetwork;

use super::{
    layout::{MASQUERADE_MARK, goto, is_marked, rule},
    members::{HAIRPIN, NODES, PODS},
    settings::{Settings, of_family},
};
use crate::{service_port::Family, surroundings::Surroundings};

/// The chain of packets that leave.
pub(super) const POSTROUTING: &str = "postrouting";

/// The chain of packets that leave a pod of this node for another host.
pub(super) const LEAVING_PODS: &str = "leaving-pods";

/// Both.
pub(super) const CHAINS: [&str; 2] = [POSTROUTING, LEAVING_PODS];

/// What happens to packets that leave.
pub(super) fn chains(
    family: Family,
    settings: &Settings,
    surroundings: &Surroundings,
    pod_prefixes: &BTreeSet<u8>,
) -> Vec<(&'static str, Chain)> {
    let own: Vec<_> = of_family(&surroundings.pod_cidrs, family).collect();
    let excepted = settings.unmasqueraded_by_pods.as_deref();
    let leaving = excepted.filter(|_| !own.is_empty());
    let leaving = leaving.map(|excepted| leaving_pods(family, settings, excepted, pod_prefixes));

    // ip saddr 10.244.0.0/24 goto leaving-pods
    let from = |network| rule([Statement::Match(Match::SourceInside(network)), goto(LEAVING_PODS)]);
    let from_pods = own.into_iter().filter(|_| leaving.is_some()).map(from);
    let rules = services(settings).into_iter().chain(from_pods).collect();
    let postrouting = (POSTROUTING, Chain { hook: Some(Hook::Postrouting), rules });
    [postrouting].into_iter().chain(leaving.map(|chain| (LEAVING_PODS, chain))).collect()
}

/// What of services is masqueraded.
fn services(settings: &Settings) -> [Rule; 2] {
    let counter = || settings.counters.then_some(Statement::Counter);
    // meta mark & 0x4000 == 0x4000 counter meta mark set meta mark & 0xffffbfff masquerade fully-random
    let marked = [is_marked()].into_iter().chain(counter());
    let marked = marked.chain([Statement::ClearMark(MASQUERADE_MARK), Statement::Masquerade]);
    // ct status dnat ip saddr . ip daddr @hairpin counter masquerade fully-random
    let hairpin =
        [Match::DestinationRewritten, Match::AddressesIn(HAIRPIN.into())].into_iter().map(Statement::Match);
    let hairpin = hairpin.chain(counter()).chain([Statement::Masquerade]);
    [Rule(marked.collect()), Rule(hairpin.collect())]
}

/// What becomes of packets that leave pods of this node, once services have rewritten them.
fn leaving_pods(
    family: Family,
    settings: &Settings,
    excepted: &[IpNetwork],
    pod_prefixes: &BTreeSet<u8>,
) -> Chain {
    let fixed = iter::once(family.multicast()).chain(of_family(excepted, family));
    let fixed = fixed.map(Match::DestinationInside);
    // ip daddr & 255.255.255.128 | 0.0.0.128 == @pods return
    let pods = pod_prefixes.iter();
    let pods = pods.map(|&prefix| Match::DestinationNetworkIn { prefix, set: PODS.into() });
    let inside = fixed.chain(pods).chain([Match::DestinationIn(NODES.into())]);
    let returned = |inside| rule([Statement::Match(inside), Statement::Verdict(Verdict::Return)]);

    // counter masquerade fully-random
    let counter = settings.counters.then_some(Statement::Counter);
    let outside = Rule(counter.into_iter().chain([Statement::Masquerade]).collect());
    Chain { hook: None, rules: inside.map(returned).chain([outside]).collect() }
}

//! Cluster IPs: the first rule of `services`, and what becomes of a packet that it finds.

use dataplane::nft::{Chain, Rule, Source, Statement};

use super::{
    Settings, Surroundings,
    layout::{self, CLUSTER_VIPS, DISPATCH, goto, mark_for_masquerade},
    settings,
};
use crate::service_port::Family;

/// The chain of packets to a cluster IP.
pub(super) const CLUSTER_IP: &str = "cluster-ip";

/// Finds packets to a cluster IP. The `goto` stands in the same rule as the lookup: a priority that an application set is
/// overwritten, or never looked at.
pub(super) fn find() -> Rule {
    // meta priority set ip daddr . meta l4proto . th dport map @cluster-vips goto cluster-ip
    layout::rule([Statement::SetPriority(Source::ByService(CLUSTER_VIPS.into())), goto(CLUSTER_IP)])
}

/// Masquerades what would not find back: sources outside the pod networks, where those are known.
pub(super) fn cluster_ip(family: Family, settings: &Settings, surroundings: &Surroundings) -> Chain {
    let mut rules = Vec::new();
    if settings.masquerade_all {
        rules.push(layout::rule([mark_for_masquerade()]));
    } else if let Some(from_elsewhere) = settings::from_elsewhere(family, settings, surroundings) {
        // ip saddr != 10.244.0.0/16 meta mark set meta mark | 0x00004000
        rules.push(layout::rule([Statement::Match(from_elsewhere), mark_for_masquerade()]));
    }
    rules.push(layout::rule([goto(DISPATCH)]));
    Chain { hook: None, rules }
}

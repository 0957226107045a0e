//! Masquerade: which packets leave with another source address, and why.
//!
//! * Marked ones: their answer must come back through this node (node ports, clients outside the pod networks).
//! * Hairpins: an endpoint that reached itself through its own service would answer itself directly, and never be heard.

use dataplane::nft::{Chain, Hook, Match, Rule, Statement};

use super::{
    layout::{MASQUERADE_MARK, is_marked},
    members::HAIRPIN,
    settings::Settings,
};

/// The chain of packets that leave.
pub(super) const POSTROUTING: &str = "postrouting";

/// What happens to packets that leave.
pub(super) fn postrouting(settings: &Settings) -> Chain {
    let counter = || settings.counters.then_some(Statement::Counter);
    // meta mark & 0x4000 == 0x4000 counter meta mark set meta mark & 0xffffbfff masquerade fully-random
    let marked = [is_marked()].into_iter().chain(counter());
    let marked = marked.chain([Statement::ClearMark(MASQUERADE_MARK), Statement::Masquerade]);
    // ct status dnat ip saddr . ip daddr @hairpin counter masquerade fully-random
    let hairpin =
        [Match::DestinationRewritten, Match::AddressesIn(HAIRPIN.into())].into_iter().map(Statement::Match);
    let hairpin = hairpin.chain(counter()).chain([Statement::Masquerade]);
    Chain { hook: Some(Hook::Postrouting), rules: vec![Rule(marked.collect()), Rule(hairpin.collect())] }
}

//! Masquerade: which packets leave with another source address, and why.
//!
//! * Marked ones: their answer must come back through this node (node ports, clients outside the pod networks).
//! * Hairpins: an endpoint that reached itself through its own service would answer itself directly, and never be heard.

use dataplane::nft::{Chain, Hook, Match, Statement};

use super::{
    layout::{MASQUERADE_MARK, is_marked, rule},
    members::HAIRPIN,
};

/// What happens to packets that leave.
pub(super) fn postrouting() -> Chain {
    let rules = vec![
        // meta mark & 0x4000 == 0x4000 meta mark set meta mark & 0xffffbfff masquerade fully-random
        rule([is_marked(), Statement::ClearMark(MASQUERADE_MARK), Statement::Masquerade]),
        // ct status dnat ip saddr . ip daddr @hairpin masquerade fully-random
        rule([
            Statement::Match(Match::DestinationRewritten),
            Statement::Match(Match::AddressesIn(HAIRPIN.into())),
            Statement::Masquerade,
        ]),
    ];
    Chain { hook: Some(Hook::Postrouting), rules }
}

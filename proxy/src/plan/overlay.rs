//! Who may send packets inside of packets to this node: nodes.
//!
//! Whatever comes out of a tunnel is taken for what a pod or a node has sent, and VXLAN itself asks nobody who he is.
//! // RFC 7348 §7

use dataplane::nft::{Chain, Hook, Match, Statement, Verdict};

use super::{
    Settings,
    layout::{goto, rule},
    members::NODES,
};
use crate::service_port::Protocol;

/// The chain of packets for this node.
const INPUT: &str = "input";
/// The chain of those that have another inside.
const OVERLAY: &str = "overlay";

/// Both.
pub(super) const CHAINS: [&str; 2] = [INPUT, OVERLAY];

/// The chains, with their names.
pub(super) fn chains(settings: &Settings) -> impl Iterator<Item = (&'static str, Chain)> + use<> {
    let chains = |port| {
        // udp dport 8472 goto overlay
        let entrance = rule([Statement::Match(Match::Port(Protocol::Udp, port)), goto(OVERLAY)]);
        let rules = vec![
            // ip saddr @nodes return
            rule([Statement::Match(Match::SourceIn(NODES.into())), Statement::Verdict(Verdict::Return)]),
            // counter drop
            rule([Statement::Counter, Statement::Verdict(Verdict::Drop)]),
        ];
        [
            (INPUT, Chain { hook: Some(Hook::FilterInput), rules: vec![entrance] }),
            (OVERLAY, Chain { hook: None, rules }),
        ]
    };
    settings.overlay_port.map(chains).into_iter().flatten()
}

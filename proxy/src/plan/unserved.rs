//! What is for a cluster IP and found no service port: refused, so that clients need not wait for a timeout.
//!
//! It is looked for where packets have been routed and rewritten, so that another proxy may serve it first.

use dataplane::nft::{Chain, Hook, Match, Rule, State, Statement, Verdict};

use super::{
    Settings, Surroundings,
    layout::{goto, rule},
    members::{CLUSTER_IPS, PINGABLE},
    rejection::REJECT,
    settings::of_family,
};
use crate::service_port::Family;

/// The chain of new connections that may be for a cluster IP.
const UNSERVED: &str = "unserved";

/// The chains, with their names.
pub(super) fn chains(
    family: Family,
    settings: &Settings,
    surroundings: &Surroundings,
) -> [(&'static str, Chain); 3] {
    // ct state new goto unserved
    let new = rule([Statement::Match(Match::State(State::New)), goto(UNSERVED)]);
    let mut forward = Vec::new();
    if settings.drop_invalid {
        // ct state invalid counter drop
        let invalid = Statement::Match(Match::State(State::Invalid));
        forward.push(rule([invalid, Statement::Counter, Statement::Verdict(Verdict::Drop)]));
    }
    forward.push(new.clone());
    let refused = rule([Statement::Match(Match::DestinationIn(CLUSTER_IPS.into())), goto(REJECT)]);
    let unallotted = of_family(&surroundings.service_cidrs, family).map(|network| {
        rule([
            Statement::Match(Match::DestinationInside(network)),
            Statement::Counter,
            Statement::Verdict(Verdict::Drop),
        ])
    });
    [
        ("forward", Chain { hook: Some(Hook::FilterForward), rules: forward }),
        ("filter-output", Chain { hook: Some(Hook::FilterOutput), rules: vec![new] }),
        (UNSERVED, Chain { hook: None, rules: [refused].into_iter().chain(unallotted).collect() }),
    ]
}

/// Answers ping to a cluster IP in its stead.
pub(super) fn pong() -> Rule {
    // icmp type echo-request ip daddr @pingable redirect
    rule([
        Statement::Match(Match::EchoRequest),
        Statement::Match(Match::DestinationIn(PINGABLE.into())),
        Statement::Redirect,
    ])
}

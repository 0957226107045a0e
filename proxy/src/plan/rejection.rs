//! Services without endpoints: refused at once, so that clients need not wait for a timeout.
//!
//! Rejection is a class like any other, so a service that loses its last endpoint changes one element. Rejecting before
//! routing works since Linux 5.9.

use dataplane::{
    nft::{Chain, Data, Element, Key, Match, Statement, Table, Verdict},
    packet::Protocol,
};

use super::layout::{CLASSES, REJECTION, rule};

/// The chain that rejects.
pub(super) const REJECT: &str = "reject";

/// Leads the rejecting class to its chain.
pub(super) fn add_class(table: &mut Table) {
    let verdict = Element::from(Data::Verdict(Verdict::Goto(REJECT.into())));
    if let Some(classes) = table.maps.get_mut(CLASSES) {
        classes.elements.insert(Key::Number(REJECTION), verdict);
    }
}

/// A reset for TCP, ICMP port unreachable for the rest: "connection refused" for both.
pub(super) fn reject() -> Chain {
    let rules = vec![
        rule([Statement::Match(Match::Protocol(Protocol::Tcp)), Statement::RejectWithReset]),
        rule([Statement::Reject]),
    ];
    Chain { hook: None, rules }
}

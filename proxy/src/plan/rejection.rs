//! Service ports without endpoints: refused at once, so that clients need not wait for a timeout.
//!
//! Rejection is a class like any other, so a service that loses its last endpoint changes one element. So is silence, for
//! strangers on a node that has no endpoint while others have (policy Local): whoever balances the load tries another
//! node then. Rejecting before routing works since Linux 5.9.

use dataplane::{
    nft::{Chain, Data, Element, Key, Match, Statement, Table, Verdict},
    packet::Protocol,
};

use super::layout::{CLASSES, DROP, REJECTION, goto, rule};

/// The chain of the two classes.
pub(super) const NOBODY: &str = "nobody";
/// The chain that rejects.
pub(super) const REJECT: &str = "reject";

/// Leads the rejecting class and the silent one to their chain.
pub(super) fn add_classes(table: &mut Table) {
    let verdict = Element::from(Data::Verdict(Verdict::Goto(NOBODY.into())));
    if let Some(classes) = table.maps.get_mut(CLASSES) {
        classes.elements.insert(Key::Number(REJECTION), verdict);
    }
}

/// Tells the two apart.
pub(super) fn nobody() -> Chain {
    let silent = rule([
        Statement::Match(Match::Priority(DROP)),
        Statement::Counter,
        Statement::Verdict(Verdict::Drop),
    ]);
    Chain { hook: None, rules: vec![silent, rule([goto(REJECT)])] }
}

/// A reset for TCP, ICMP port unreachable for the rest: "connection refused" for both.
pub(super) fn reject() -> Chain {
    let rules = vec![
        rule([Statement::Match(Match::Protocol(Protocol::Tcp)), Statement::RejectWithReset]),
        rule([Statement::Reject]),
    ];
    Chain { hook: None, rules }
}

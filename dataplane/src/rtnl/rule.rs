//! Rules that lead to our table of routes, and what can be done with them.
//!
//! Only ours are ever seen: those of [`owner::ROUTE_PROTOCOL`].

use std::fmt;

use ipnetwork::IpNetwork;

use super::{Error, Table};
use crate::owner;

/// A rule of ours: what comes from these addresses finds its way in our table, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Where from.
    pub source: IpNetwork,
    /// Which of all rules comes first: the lowest.
    pub priority: u32,
}

impl Rule {
    /// The rule for what comes from there.
    pub fn of_source(source: IpNetwork) -> Self {
        Self { source, priority: owner::RULE_PRIORITY }
    }
}

impl fmt::Display for Rule {
    /// As `ip rule` would take it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, priority } = self;
        let (table, protocol) = (Table::Own.number(), owner::ROUTE_PROTOCOL);
        write!(f, "from {source} lookup {table} priority {priority} proto {protocol}")
    }
}

/// Whoever keeps rules: the kernel, or a fake of it.
pub trait Rules {
    /// Lists our rules.
    fn rules(&self) -> impl Future<Output = Result<Vec<Rule>, Error>> + Send;

    /// Adds a rule; it must not be there.
    fn add_rule(&self, rule: &Rule) -> impl Future<Output = Result<(), Error>> + Send;

    /// Deletes a rule that is there.
    fn delete_rule(&self, rule: &Rule) -> impl Future<Output = Result<(), Error>> + Send;
}

//! The plan: service ports in, the tables that serve them out, and the changes on the way.
//!
//! ```text
//!  prerouting ─┐                                ┌─▶ rr-1, rr-2, …  next slot in turn ─┐
//!              ├▶ services ─▶ cluster-ip ─┐     │                                     ▼
//!  output ─────┘           └▶ node-port ──┴▶ dispatch ───── one backend: a slot ────▶ pick ─▶ DNAT
//!                                               ├─▶ affinity-… ─ known client, or in turn ─▲
//!                                               └─▶ reject
//!  postrouting: masquerade
//! ```
//!
//! An address of a service leads to a number, which travels in the packet's priority: a *slot* (an endpoint), a *class*
//! (a rule that goes round a range of slots), or the identity of a sticky service. All that changes with services and
//! endpoints are elements of a constant number of maps; classes are made in lots and kept.
//!
//! A change is committed in two steps. First everything is switched over; what nothing leads to any more is removed by a later
//! commit ([`Planner::retire`]), because a packet on its way may still carry the number, and only after that may the number be used
//! again. Pure: no I/O, no clock, no logs, nothing that can fail.

mod affinity;
mod claims;
mod layout;
mod masquerade;
mod node_ports;
mod rejection;
mod rotation;
pub mod routes;
mod services;
mod table;

use std::{collections::BTreeMap, sync::Arc};

use dataplane::nft::{Key, Table, Transaction};
use ipnetwork::IpNetwork;

pub use self::claims::Shadowed;
use self::{
    affinity::Sticky,
    claims::Claims,
    masquerade::Hairpins,
    rotation::{Rotations, Turns},
    table::Journal,
};
use crate::service_port::{Endpoint, Family, ServicePort, ServicePortName};

/// What the plan is told once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The networks of pods. Where a family has one, traffic from outside of it to cluster IPs is masqueraded.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// Masquerade all traffic to cluster IPs.
    pub masquerade_all: bool,
}

/// Plans the families that it was made for.
#[derive(Debug)]
pub struct Planner {
    families: BTreeMap<Family, FamilyPlanner>,
}

impl Planner {
    /// Starts with no services. Service ports of other families are not planned.
    pub fn new(families: &[Family], settings: &Settings) -> Self {
        let families = families.iter().map(|family| (*family, FamilyPlanner::new(*family, settings)));
        Self { families: families.collect() }
    }

    /// Plans one service port anew; `None` removes it. Costs what the service port costs, whatever else there is.
    ///
    /// Returns the addresses that two service ports want, and who has them.
    pub fn set(
        &mut self,
        name: &ServicePortName,
        family: Family,
        port: Option<&ServicePort>,
    ) -> Vec<Shadowed> {
        self.families.get_mut(&family).map(|planner| planner.set(name, port)).unwrap_or_default()
    }

    /// Plans the removal of what nothing led to already at the last call. Between two calls, commit what [`Planner::take`] gives, and
    /// let the packets that are on their way arrive.
    pub fn retire(&mut self) {
        self.families.values_mut().for_each(FamilyPlanner::retire);
    }

    /// Says whether something waits to be removed.
    pub fn is_settled(&self) -> bool {
        self.families.values().all(|planner| planner.leaving.is_empty() && planner.left.is_empty())
    }

    /// Takes out the changes since the last call.
    pub fn take(&mut self) -> Transaction {
        let mut transaction = Transaction::default();
        for planner in self.families.values_mut() {
            transaction.append(planner.journal.take());
        }
        transaction
    }

    /// The tables as they are planned.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.families.values().map(|planner| planner.journal.table())
    }

    /// How many service ports are planned, those of both families counted twice.
    pub fn service_ports(&self) -> usize {
        self.families.values().map(|planner| planner.planned.len()).sum()
    }
}

/// Plans one family.
#[derive(Debug)]
struct FamilyPlanner {
    journal: Journal,
    planned: BTreeMap<Arc<ServicePortName>, Planned>,
    claims: Claims,
    rotations: Rotations,
    sticky: affinity::Identities,
    hairpins: Hairpins,
    /// What nothing leads to since the last retirement, and what nothing led to already then.
    leaving: Vec<Retired>,
    left: Vec<Retired>,
}

/// A service port as it is planned.
#[derive(Debug)]
struct Planned {
    addresses: Vec<Key>,
    target: Target,
}

/// Where the addresses of a service port lead.
#[derive(Debug)]
enum Target {
    /// To nobody.
    Rejection,
    /// To each endpoint in turn.
    InTurn(Turns<Endpoint>),
    /// To each client's own endpoint.
    Sticky(Sticky),
}

/// What is removed once nothing leads to it.
#[derive(Debug)]
enum Retired {
    Turns(Turns<Endpoint>),
    Sticky(affinity::Retired),
}

impl Target {
    /// The number that the service port's addresses hold.
    fn number(&self) -> u32 {
        match self {
            Self::Rejection => layout::REJECTION,
            Self::InTurn(turns) => turns.number(),
            Self::Sticky(sticky) => sticky.identity(),
        }
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        match self {
            Self::Rejection => Vec::new(),
            Self::InTurn(turns) => turns.members().to_vec(),
            Self::Sticky(sticky) => sticky.endpoints().collect(),
        }
    }
}

impl FamilyPlanner {
    fn new(family: Family, settings: &Settings) -> Self {
        Self {
            journal: Journal::new(layout::skeleton(family, settings)),
            planned: BTreeMap::new(),
            claims: Claims::default(),
            rotations: Rotations::default(),
            sticky: affinity::Identities::default(),
            hairpins: Hairpins::default(),
            leaving: Vec::new(),
            left: Vec::new(),
        }
    }

    fn set(&mut self, name: &ServicePortName, port: Option<&ServicePort>) -> Vec<Shadowed> {
        let (name, old) = match self.planned.remove_entry(name) {
            Some((name, old)) => (name, Some(old)),
            None => (Arc::new(name.clone()), None),
        };
        let (old_addresses, old_target) =
            old.map_or((Vec::new(), None), |old| (old.addresses, Some(old.target)));
        let old_endpoints = old_target.as_ref().map(Target::endpoints).unwrap_or_default();

        let addresses = port.map(|port| addresses(&name, port)).unwrap_or_default();
        let target = if let Some(port) = port {
            Some(self.lead(old_target, port))
        } else {
            self.abandon(old_target);
            None
        };
        let endpoints = target.as_ref().map(Target::endpoints).unwrap_or_default();
        self.hairpins.replace(&mut self.journal, &old_endpoints, &endpoints);

        for key in old_addresses.iter().filter(|key| !addresses.contains(key)) {
            if let Some(next) = self.claims.release(*key, &name) {
                let number = self.planned.get(next.as_ref()).map(|planned| planned.target.number());
                services::point(&mut self.journal, *key, &next, number);
            } else if !self.claims.is_held(*key) {
                services::unpoint(&mut self.journal, *key);
            }
        }
        let mut shadowed = Vec::new();
        if let Some(target) = target {
            for key in &addresses {
                let conflict = self.claims.claim(*key, &name);
                if conflict.as_ref().is_none_or(|conflict| conflict.held_by == *name) {
                    services::point(&mut self.journal, *key, &name, Some(target.number()));
                }
                shadowed.extend(conflict);
            }
            self.planned.insert(name, Planned { addresses, target });
        }
        shadowed
    }

    /// Leads a service port to its endpoints, from wherever it led before.
    fn lead(&mut self, old: Option<Target>, port: &ServicePort) -> Target {
        match (old, port.affinity_seconds) {
            (old, _) if port.endpoints.is_empty() => {
                self.abandon(old);
                Target::Rejection
            }
            (Some(Target::InTurn(turns)), None) => {
                let (turns, gone) = self.rotations.change(&mut self.journal, turns, &port.endpoints);
                self.leaving.extend(gone.map(Retired::Turns));
                Target::InTurn(turns)
            }
            (Some(Target::Sticky(sticky)), Some(seconds)) if sticky.seconds() == seconds => {
                let (sticky, gone) =
                    self.sticky.change(&mut self.journal, &mut self.rotations, sticky, &port.endpoints);
                self.leaving.push(Retired::Sticky(gone));
                Target::Sticky(sticky)
            }
            (old, affinity) => {
                self.abandon(old);
                match affinity {
                    None => Target::InTurn(self.rotations.start(&mut self.journal, &port.endpoints)),
                    Some(seconds) => Target::Sticky(self.sticky.start(
                        &mut self.journal,
                        &mut self.rotations,
                        seconds,
                        &port.endpoints,
                    )),
                }
            }
        }
    }

    /// Leaves what a service port led to for removal.
    fn abandon(&mut self, target: Option<Target>) {
        match target {
            None | Some(Target::Rejection) => {}
            Some(Target::InTurn(turns)) => self.leaving.push(Retired::Turns(turns)),
            Some(Target::Sticky(sticky)) => self.leaving.push(Retired::Sticky(sticky.into())),
        }
    }

    fn retire(&mut self) {
        let leaving = std::mem::take(&mut self.leaving);
        for retired in std::mem::replace(&mut self.left, leaving) {
            match retired {
                Retired::Turns(turns) => self.rotations.remove(&mut self.journal, turns),
                Retired::Sticky(gone) => self.sticky.remove(&mut self.journal, &mut self.rotations, gone),
            }
        }
    }
}

/// The addresses of a service port, each as the key of one VIP map.
fn addresses(name: &ServicePortName, port: &ServicePort) -> Vec<Key> {
    let mut addresses = vec![services::cluster_ip_key(name, port)];
    addresses.extend(node_ports::node_port_key(name, port));
    addresses
}

/// Whether a network is of the family.
fn is_of(family: Family, network: &IpNetwork) -> bool {
    Family::of(network.ip()) == family
}

#[cfg(test)]
mod tests;

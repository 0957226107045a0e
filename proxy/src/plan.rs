//! The plan: service ports in, the tables that serve them out, and the changes on the way.
//!
//! ```text
//!  prerouting ─┐                                       ┌─▶ rr-1-…, … next slot in turn ─┐
//!              ├▶ services ─▶ cluster-ip ───────────┐  │                                ▼
//!  output ─────┘           ├▶ external-ip ─┐        ├▶ dispatch ── one backend: a slot ─▶ pick ─▶ DNAT
//!                          └▶ node-port ───┴▶ external ├─▶ affinity-… known client, or in turn ─▲
//!                                                      └─▶ nobody: rejected, or dropped
//!  postrouting: masquerade, perhaps by leaving-pods        forward, filter-output: what is for a cluster IP and was not served
//! ```
//!
//! An address of a service leads to a number, which travels in the packet's priority: a *slot* (an endpoint), a *class*
//! (a rule that chooses from a range of slots), the identity of a sticky service, or one that stands for others (a *split* for
//! traffic policies, a *guard* for source ranges). All that changes with services and
//! endpoints are elements of a constant number of maps; classes are made in lots and kept.
//!
//! A change is committed in steps. Chains that are new come before anything leads to them ([`Planner::take_chains`]). Then everything
//! is switched over; what nothing leads to any more is removed by a later commit ([`Planner::retire`]), because a packet on its
//! way may still carry the number, and only after that may the number be used again. Pure: no I/O, no clock, no logs, nothing
//! that can fail.

mod affinity;
mod cluster;
pub mod counting;
mod external;
mod family;
pub mod flows;
mod inheritance;
mod journal;
mod layout;
mod masquerade;
mod members;
mod node_ports;
mod numbers;
mod order;
mod overlay;
mod rejection;
mod rendezvous;
mod rotation;
pub mod routes;
mod services;
mod settings;
mod source_ranges;
pub mod sysctls;
mod target;
mod unserved;
mod vips;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dataplane::nft::{Held, SetType, Table, Transaction};

pub use self::{
    affinity::CLIENTS,
    order::excess_turns,
    settings::{LocalPods, Settings},
    vips::Shadowed,
};
use self::{family::FamilyPlanner, flows::Suspects, journal::Journal};
use crate::{
    objects::Node,
    service_port::{Family, ServicePort, ServicePortName},
    surroundings::Surroundings,
};

/// Plans the families that it was made for.
#[derive(Debug)]
pub struct Planner {
    settings: Arc<Settings>,
    surroundings: Surroundings,
    families: BTreeMap<Family, FamilyPlanner>,
    suspects: Suspects,
}

impl Planner {
    /// Starts with no services. Service ports of other families are not planned.
    pub fn new(families: &[Family], settings: &Settings) -> Self {
        Self::within(families, settings, &Surroundings::default())
    }

    /// The same, in these surroundings.
    pub fn within(families: &[Family], settings: &Settings, surroundings: &Surroundings) -> Self {
        let settings = Arc::new(settings.clone());
        let planner = |family: &Family| (*family, FamilyPlanner::new(*family, &settings, surroundings));
        let families = families.iter().map(planner).collect();
        Self { settings, surroundings: surroundings.clone(), families, suspects: Suspects::default() }
    }

    /// Plans for other surroundings. Costs what the rules cost that are always there.
    pub fn surround(&mut self, surroundings: &Surroundings) {
        if self.surroundings != *surroundings {
            self.surroundings = surroundings.clone();
            self.families.values_mut().for_each(|planner| planner.surround(surroundings));
        }
    }

    /// Goes on from a table that an earlier run left: service ports planned from now on keep what they lead to there, until
    /// [`Planner::disclaim`]. Returns what must change before, or nothing if that table is of no use and must be replaced.
    /// Only for a planner that has planned nothing yet.
    pub fn adopt(&mut self, held: Held) -> Option<Transaction> {
        let family = held.family;
        let planner = self.families.get_mut(&family)?;
        let changes = planner.adopt(held);
        if changes.is_none() {
            *planner = FamilyPlanner::new(family, &self.settings, &self.surroundings);
        }
        changes
    }

    /// Plans the removal of whatever was adopted and belongs to no service port: everything has been planned once.
    pub fn disclaim(&mut self) {
        self.families.values_mut().for_each(FamilyPlanner::disclaim);
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
        let Some(planner) = self.families.get_mut(&family) else { return Vec::new() };
        let before = planner.held_by(name);
        let shadowed = planner.set(name, port);
        self.suspects.add_change(family, planner, name, port, &before);
        shadowed
    }

    /// Plans for a node of the cluster as it is now; `None`: it is gone. Costs what that node costs.
    pub fn set_node(&mut self, name: &str, node: Option<&Node>) {
        self.families.values_mut().for_each(|planner| planner.set_node(name, node));
    }

    /// Takes out the addresses whose flows may be wrong once all is committed that is planned by now.
    pub fn take_suspects(&mut self) -> Suspects {
        let mut suspects = std::mem::take(&mut self.suspects);
        for family in self.families.keys().filter(|_| suspects.has_node_ports()).copied().collect::<Vec<_>>()
        {
            let networks = self.settings.node_port_addresses.networks(family, &self.surroundings.node_ips);
            suspects.confine_node_ports(family, networks);
        }
        suspects
    }

    /// Has the flows to all addresses looked at: for a while nobody was led anywhere.
    pub fn suspect_all(&mut self) {
        for (family, planner) in &self.families {
            self.suspects.add_all(*family, planner);
        }
    }

    /// Plans the removal of what nothing led to already at the last call. Between two calls, commit what [`Planner::take`] gives, and
    /// let the packets that are on their way arrive.
    pub fn retire(&mut self) {
        self.families.values_mut().for_each(FamilyPlanner::retire);
    }

    /// Says whether something waits to be removed.
    pub fn is_settled(&self) -> bool {
        self.families.values().all(FamilyPlanner::is_settled)
    }

    /// Takes out, for each family, the endpoint ids that no endpoint has any more, so that the clients that [`CLIENTS`] holds them for
    /// can be forgotten. Nobody need: such an entry is never followed, and goes with its timeout.
    pub fn take_gone(&mut self) -> impl Iterator<Item = (Family, BTreeSet<u32>)> {
        let gone = self
            .families
            .iter_mut()
            .map(|(family, planner)| (*family, planner.targets.identities.take_gone()));
        gone.filter(|(_, ids)| !ids.is_empty())
    }

    /// Makes classes in advance where few are spare. It is the costly part of a change, so do it when nothing else is to be
    /// done. Says whether there was anything to make.
    pub fn replenish(&mut self) -> bool {
        let planners = self.families.values_mut();
        planners.fold(false, |any, planner| planner.targets.rotations.replenish(&mut planner.journal) | any)
    }

    /// How many elements [`Planner::take`] would touch.
    pub fn pending(&self) -> usize {
        self.families.values().map(|planner| planner.journal.len()).sum()
    }

    /// Takes out the chains that are new, to be committed before the rest. A packet on its way walks the rules as they were when
    /// it came in, but looks up elements as they are by then: led to a chain of the same commit, it would find that chain
    /// empty (kernel `nf_tables_core.c`, `nft_do_chain`) and leave untranslated.
    pub fn take_chains(&mut self) -> Transaction {
        self.take_from_each(Journal::take_chains)
    }

    /// Takes out the changes since the last call.
    pub fn take(&mut self) -> Transaction {
        self.take_from_each(Journal::take)
    }

    fn take_from_each(&mut self, take: impl Fn(&mut Journal) -> Transaction) -> Transaction {
        let mut transaction = Transaction::default();
        for planner in self.families.values_mut() {
            transaction.append(take(&mut planner.journal));
        }
        transaction
    }

    /// The tables as they are planned: the chains and maps that are always there, without what hangs on services.
    pub fn skeletons(&self) -> impl Iterator<Item = &Table> {
        self.families.values().map(|planner| &planner.skeleton)
    }

    /// The whole tables as they are planned. Costs what all services cost.
    pub fn tables(&self) -> impl Iterator<Item = Table> {
        self.families.values().map(FamilyPlanner::table)
    }

    /// What a map of a family's table is made of.
    pub fn kind(&self, family: Family, map: &str) -> Option<SetType> {
        Some(self.families.get(&family)?.skeleton.maps.get(map)?.kind)
    }
}

#[cfg(test)]
mod tests;

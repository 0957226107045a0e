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
//! A change is committed in steps. Chains that are new come before anything leads to them ([`Planner::take_chains`]). Then everything
//! is switched over; what nothing leads to any more is removed by a later commit ([`Planner::retire`]), because a packet on its
//! way may still carry the number, and only after that may the number be used again. Pure: no I/O, no clock, no logs, nothing
//! that can fail.

mod affinity;
mod inheritance;
mod journal;
mod layout;
mod masquerade;
mod node_ports;
mod order;
mod rejection;
mod rendezvous;
mod rotation;
pub mod routes;
mod services;
mod vips;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use dataplane::nft::{Chain, ChainName, Element, Held, Key, SetType, Table, Transaction, diff};
use ipnetwork::IpNetwork;

pub use self::{affinity::CLIENTS, vips::Shadowed};
use self::{
    affinity::{Identities, Sticky},
    inheritance::Inheritance,
    journal::Journal,
    masquerade::Hairpins,
    order::Order,
    rotation::{Ending, Rotations, Turns},
    vips::Vips,
};
use crate::service_port::{Family, ServicePort, ServicePortName};

/// What the plan is told once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The networks of pods. Where a family has one, traffic from outside of it to cluster IPs is masqueraded.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// Masquerade all traffic to cluster IPs.
    pub masquerade_all: bool,
    /// Count new connections for each address and each backend.
    pub counters: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cluster_cidrs: Vec::new(), masquerade_all: false, counters: true }
    }
}

/// Plans the families that it was made for.
#[derive(Debug)]
pub struct Planner {
    settings: Settings,
    families: BTreeMap<Family, FamilyPlanner>,
}

impl Planner {
    /// Starts with no services. Service ports of other families are not planned.
    pub fn new(families: &[Family], settings: &Settings) -> Self {
        let families = families.iter().map(|family| (*family, FamilyPlanner::new(*family, settings)));
        Self { settings: settings.clone(), families: families.collect() }
    }

    /// Goes on from a table that an earlier run left: service ports planned from now on keep what they lead to there, until
    /// [`Planner::disclaim`]. Returns what must change before, or nothing if that table is of no use and must be replaced.
    /// Only for a planner that has planned nothing yet.
    pub fn adopt(&mut self, held: Held) -> Option<Transaction> {
        let family = held.family;
        let planner = self.families.get_mut(&family)?;
        let changes = planner.adopt(held);
        if changes.is_none() {
            *planner = FamilyPlanner::new(family, &self.settings);
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

    /// Takes out, for each family, the endpoint ids that no endpoint has any more, so that the clients that [`CLIENTS`] holds them for
    /// can be forgotten. Nobody need: such an entry is never followed, and goes with its timeout.
    pub fn take_gone(&mut self) -> impl Iterator<Item = (Family, BTreeSet<u32>)> {
        let gone =
            self.families.iter_mut().map(|(family, planner)| (*family, planner.identities.take_gone()));
        gone.filter(|(_, ids)| !ids.is_empty())
    }

    /// Makes classes in advance where few are spare. It is the costly part of a change, so do it when nothing else is to be
    /// done. Says whether there was anything to make.
    pub fn replenish(&mut self) -> bool {
        let planners = self.families.values_mut();
        planners.fold(false, |any, planner| planner.rotations.replenish(&mut planner.journal) | any)
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

/// Plans one family.
#[derive(Debug)]
struct FamilyPlanner {
    skeleton: Table,
    journal: Journal,
    planned: HashMap<Arc<ServicePortName>, Planned>,
    vips: Vips,
    rotations: Rotations,
    identities: Identities,
    hairpins: Hairpins,
    inheritance: Inheritance,
    /// What nothing leads to since the last retirement, and what nothing led to already then.
    leaving: Vec<Retired>,
    left: Vec<Retired>,
}

/// A service port as it is planned.
#[derive(Debug)]
struct Planned {
    addresses: Box<[Key]>,
    /// The addresses of its endpoints on this node.
    local: Box<[IpAddr]>,
    target: Target,
}

/// Where the addresses of a service port lead.
#[derive(Debug)]
enum Target {
    /// To nobody.
    Rejection,
    /// To each endpoint in turn.
    InTurn(Turns<SocketAddr>),
    /// To each client's own endpoint.
    Sticky(Sticky),
}

/// What is removed once nothing leads to it.
#[derive(Debug)]
enum Retired {
    Turns(Turns<SocketAddr>),
    Sticky(affinity::Retired),
    /// What an earlier run left and nobody claimed.
    Unclaimed(Inheritance),
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
}

impl FamilyPlanner {
    fn new(family: Family, settings: &Settings) -> Self {
        Self {
            skeleton: layout::skeleton(family, settings),
            journal: Journal::new(family, layout::maps(settings)),
            planned: HashMap::new(),
            vips: Vips::default(),
            rotations: Rotations::default(),
            identities: Identities::default(),
            hairpins: Hairpins::default(),
            inheritance: Inheritance::default(),
            leaving: Vec::new(),
            left: Vec::new(),
        }
    }

    fn set(&mut self, name: &ServicePortName, port: Option<&ServicePort>) -> Vec<Shadowed> {
        let (name, old) = match self.planned.remove_entry(name) {
            Some((name, old)) => (name, Some(old)),
            None => (Arc::new(name.clone()), None),
        };
        let addresses = port.map(|port| addresses(&name, port)).unwrap_or_default();
        let (old_addresses, old_local, old_target) = match old {
            Some(Planned { addresses, local, target }) => (addresses, local, Some(target)),
            None => (Box::default(), Box::default(), self.inherit(&name, &addresses)),
        };

        let target = if let Some(port) = port {
            Some(self.lead(old_target, port))
        } else {
            self.abandon(old_target);
            None
        };
        let endpoints = port.map(|port| port.endpoints.as_slice()).unwrap_or_default();
        let local: Box<[_]> =
            endpoints.iter().filter(|endpoint| endpoint.is_local).map(|e| e.address.ip()).collect();
        self.hairpins.replace(&mut self.journal, &mut self.inheritance, &old_local, &local);

        for key in old_addresses.iter().filter(|key| !addresses.contains(key)) {
            let number_of = |heir: &ServicePortName| Some(self.planned.get(heir)?.target.number());
            self.vips.release(&mut self.journal, *key, &name, number_of);
        }
        let mut shadowed = Vec::new();
        if let Some(target) = target {
            let number = target.number();
            for key in &addresses {
                let (journal, inheritance) = (&mut self.journal, &mut self.inheritance);
                shadowed.extend(self.vips.claim(journal, inheritance, *key, &name, number));
            }
            self.planned.insert(name, Planned { addresses: addresses.into(), local, target });
        }
        shadowed
    }

    /// Leads a service port to its endpoints, from wherever it led before.
    fn lead(&mut self, old: Option<Target>, port: &ServicePort) -> Target {
        let order = Order::of(&port.endpoints, port.balancing);
        match (old, port.affinity_seconds) {
            (old, _) if order.slots.is_empty() => {
                self.abandon(old);
                Target::Rejection
            }
            (Some(Target::InTurn(turns)), None) => {
                let (turns, gone) = self.rotations.change(&mut self.journal, turns, order);
                self.leaving.extend(gone.map(Retired::Turns));
                Target::InTurn(turns)
            }
            (Some(Target::Sticky(sticky)), Some(seconds)) if sticky.seconds() == seconds => {
                let (journal, rotations) = (&mut self.journal, &mut self.rotations);
                let (sticky, gone) = affinity::change(journal, rotations, sticky, order);
                if !gone.is_empty() {
                    self.leaving.push(Retired::Sticky(gone));
                }
                Target::Sticky(sticky)
            }
            (old, affinity) => {
                self.abandon(old);
                let (journal, rotations) = (&mut self.journal, &mut self.rotations);
                let sticky = affinity
                    .and_then(|seconds| self.identities.start(journal, rotations, seconds, order.clone()));
                match sticky {
                    Some(sticky) => Target::Sticky(sticky),
                    // None wanted, or none left: better served without than not at all.
                    None => Target::InTurn(rotations.start(journal, Ending::Pick, order)),
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
                Retired::Sticky(gone) => self.identities.remove(&mut self.journal, &mut self.rotations, gone),
                Retired::Unclaimed(inheritance) => {
                    for (map, key, _) in inheritance.elements() {
                        self.journal.remove(map, key);
                    }
                    self.rotations.free_unclaimed(&inheritance);
                    self.identities.free_unclaimed();
                }
            }
        }
    }

    /// Takes stock of a table: its chains of classes and blocks of identities are ours to use, its elements to claim.
    fn adopt(&mut self, mut held: Held) -> Option<Transaction> {
        self.inheritance = Inheritance::take(&mut held);
        self.rotations.adopt(held.chains.keys(), &self.inheritance);
        self.identities.adopt(&held, &self.inheritance);
        // What hangs on services is claimed or disclaimed later; all else must be as it should be now.
        let fixed = self.fixed();
        held.is_convertible(&fixed).then(|| diff(Some(&held), &fixed))
    }

    /// Goes on with what an earlier run led a service port to.
    fn inherit(&mut self, name: &ServicePortName, addresses: &[Key]) -> Option<Target> {
        let number = self.inheritance.number(addresses, || vips::comment(name))?;
        if number == layout::REJECTION {
            return Some(Target::Rejection);
        }
        let turns = self.rotations.inherit(&mut self.inheritance.slots, Ending::Pick, number);
        turns.map(Target::InTurn).or_else(|| {
            let sticky = self.identities.inherit(&mut self.inheritance, &mut self.rotations, number);
            sticky.map(Target::Sticky)
        })
    }

    fn disclaim(&mut self) {
        let mut inheritance = std::mem::take(&mut self.inheritance);
        inheritance.disclaim(&mut self.journal);
        if inheritance.elements().next().is_some() {
            self.leaving.push(Retired::Unclaimed(inheritance));
        }
    }

    /// The table without what hangs on services: all chains, and the maps that lead to them.
    fn fixed(&self) -> Table {
        let mut table = self.skeleton.clone();
        let mut add_chain = |(name, chain): (ChainName, Chain)| drop(table.chains.insert(name, chain));
        self.identities.chains().for_each(&mut add_chain);
        let mut leading = Vec::new();
        for (name, chain, (key, element)) in self.rotations.chains() {
            add_chain((name, chain));
            leading.push((layout::CLASSES, key, element));
        }
        fill(&mut table, leading.into_iter().chain(self.identities.elements()));
        table
    }

    fn table(&self) -> Table {
        let mut table = self.fixed();
        for planned in self.planned.values() {
            match &planned.target {
                Target::Rejection => {}
                Target::InTurn(turns) => fill(&mut table, turns.elements()),
                Target::Sticky(sticky) => fill(&mut table, sticky.elements()),
            }
        }
        for retired in self.leaving.iter().chain(&self.left) {
            match retired {
                Retired::Turns(turns) => fill(&mut table, turns.elements()),
                Retired::Sticky(gone) => fill(&mut table, gone.elements()),
                Retired::Unclaimed(inheritance) => fill(&mut table, inheritance.elements()),
            }
        }
        fill(&mut table, self.vips.elements());
        fill(&mut table, self.hairpins.elements());
        table
    }
}

fn fill(table: &mut Table, elements: impl Iterator<Item = (&'static str, Key, Element)>) {
    for (map, key, element) in elements {
        if let Some(map) = table.maps.get_mut(map) {
            map.elements.insert(key, element);
        }
    }
}

/// The addresses of a service port, each as the key of one VIP map.
fn addresses(name: &ServicePortName, port: &ServicePort) -> Vec<Key> {
    let mut addresses = vec![services::cluster_ip_key(name, port)];
    addresses.extend(node_ports::node_port_key(name, port));
    addresses
}

#[cfg(test)]
mod tests;

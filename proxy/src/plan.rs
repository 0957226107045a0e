//! The plan: service ports in, the tables that serve them out, and the changes on the way.
//!
//! ```text
//!  prerouting ─┐                                  ┌─▶ rr-1, rr-2, …  next slot in turn ─┐
//!              ├▶ services ─▶ cluster-ip ───┐     │                                     ▼
//!  output ─────┘           ├▶ external-ip ─┐├▶ dispatch ───── one backend: a slot ────▶ pick ─▶ DNAT
//!                          └▶ node-port ─▶ external ├─▶ affinity-… ─ known client, or in turn ─▲
//!                                                 └─▶ nobody: rejected, or dropped
//!  postrouting: masquerade         forward, filter-output: what is for a cluster IP and was not served
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
mod external;
pub mod flows;
mod inheritance;
mod journal;
mod layout;
mod masquerade;
mod members;
mod node_ports;
mod numbers;
mod order;
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
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use dataplane::nft::{Chain, ChainName, Element, Held, Key, SetType, Table, Transaction, diff};

pub use self::{
    affinity::CLIENTS,
    order::excess_turns,
    settings::{LocalPods, Settings},
    vips::Shadowed,
};
use self::{
    external::Split,
    flows::Suspects,
    inheritance::Inheritance,
    journal::Journal,
    members::{CLUSTER_IPS, HAIRPIN, Members, PINGABLE},
    source_ranges::Guard,
    target::{Choice, Nobody, Target, Targets},
    vips::{Address, Place, Vips},
};
use crate::{
    config::ExternalIps,
    service_port::{Family, ServicePort, ServicePortName, TrafficPolicy},
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

    /// Takes out the addresses whose flows may be wrong once all is committed that is planned by now.
    pub fn take_suspects(&mut self) -> Suspects {
        let mut suspects = std::mem::take(&mut self.suspects);
        for family in self.families.keys().filter(|_| suspects.has_node_ports()).copied().collect::<Vec<_>>()
        {
            let networks = node_ports::networks(family, &self.settings, &self.surroundings);
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
        self.families.values_mut().for_each(|planner| planner.targets.retire(&mut planner.journal));
    }

    /// Says whether something waits to be removed.
    pub fn is_settled(&self) -> bool {
        self.families.values().all(|planner| planner.targets.is_settled())
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

/// Plans one family.
#[derive(Debug)]
struct FamilyPlanner {
    family: Family,
    settings: Arc<Settings>,
    skeleton: Table,
    journal: Journal,
    planned: HashMap<Arc<ServicePortName>, Planned>,
    vips: Vips,
    targets: Targets,
    hairpins: Members,
    cluster_ips: Members,
    pingable: Members,
    inheritance: Inheritance,
}

/// A service port as it is planned.
#[derive(Debug, Default)]
struct Planned {
    addresses: Box<[(Address, u32)]>,
    /// All endpoints, where some address leads to them.
    all: Option<Target>,
    /// The endpoints of this node, likewise.
    local: Option<Target>,
    split: Option<Split>,
    guard: Option<Guard>,
    /// The addresses of endpoints on this node.
    hairpins: Box<[IpAddr]>,
    cluster_ip: Option<IpAddr>,
    /// The cluster IP, if it answers ping.
    pingable: Option<IpAddr>,
}

impl Planned {
    fn targets(&self) -> impl Iterator<Item = &Target> {
        self.all.iter().chain(&self.local)
    }

    /// The number that external addresses hold, if they have no guard.
    fn external_number(&self) -> u32 {
        let all = || self.all.as_ref().map_or(layout::REJECTION, Target::number);
        self.split.map_or_else(all, Split::number)
    }

    fn number(&self, address: Address) -> Option<u32> {
        self.addresses.iter().find(|(known, _)| *known == address).map(|(_, number)| *number)
    }
}

impl FamilyPlanner {
    fn new(family: Family, settings: &Arc<Settings>, surroundings: &Surroundings) -> Self {
        Self {
            family,
            settings: Arc::clone(settings),
            skeleton: layout::skeleton(family, settings, surroundings),
            journal: Journal::new(family, layout::maps(settings)),
            planned: HashMap::new(),
            vips: Vips::default(),
            targets: Targets::default(),
            hairpins: Members::of(HAIRPIN),
            cluster_ips: Members::of(CLUSTER_IPS),
            pingable: Members::of(PINGABLE),
            inheritance: Inheritance::default(),
        }
    }

    fn surround(&mut self, surroundings: &Surroundings) {
        let skeleton = layout::skeleton(self.family, &self.settings, surroundings);
        self.journal.rewrite(diff(Some(&Held::from(&self.skeleton)), &skeleton));
        self.skeleton = skeleton;
    }

    fn set(&mut self, name: &ServicePortName, port: Option<&ServicePort>) -> Vec<Shadowed> {
        let (name, old) = match self.planned.remove_entry(name) {
            Some((name, old)) => (name, Some(old)),
            None => (Arc::new(name.clone()), None),
        };
        let is_served = |ip: IpAddr| match &self.settings.external_ips {
            ExternalIps::All => true,
            ExternalIps::Within(networks) => networks.iter().any(|network| network.contains(ip)),
        };
        let addresses = port.map(|port| vips::addresses(&name, port, is_served)).unwrap_or_default();
        let old = match (old, port) {
            (Some(old), _) => old,
            (None, Some(port)) => self.inherit(&name, &addresses, port),
            (None, None) => Planned::default(),
        };

        let mut planned = Planned::default();
        if let Some(port) = port {
            (planned.all, planned.local) = self.lead(port, old.all, old.local);
            planned.split = self.split(port, &planned, old.split);
            planned.guard = self.guard(port, &planned, old.guard);
            planned.addresses = numbers(&addresses, port, &planned);
            let endpoints = port.endpoints.iter().chain(&port.local_endpoints);
            let mut hairpins: Vec<_> = endpoints.filter(|e| e.is_local).map(|e| e.address.ip()).collect();
            hairpins.sort_unstable();
            hairpins.dedup();
            planned.hairpins = hairpins.into();
            planned.cluster_ip = Some(port.cluster_ip);
            planned.pingable =
                (self.settings.ping_cluster_ips && port.has_endpoints).then_some(port.cluster_ip);
        } else {
            self.targets.abandon(old.all);
            self.targets.abandon(old.local);
            self.targets.abandon_split(old.split);
            self.targets.abandon_guard(&mut self.journal, old.guard);
        }
        let (journal, inheritance) = (&mut self.journal, &mut self.inheritance);
        self.hairpins.replace(journal, inheritance, &old.hairpins, &planned.hairpins);
        self.cluster_ips.replace(
            journal,
            inheritance,
            old.cluster_ip.as_slice(),
            planned.cluster_ip.as_slice(),
        );
        self.pingable.replace(journal, inheritance, old.pingable.as_slice(), planned.pingable.as_slice());

        for (address, _) in old.addresses.iter().filter(|(address, _)| planned.number(*address).is_none()) {
            let number_of = |heir: &ServicePortName| self.planned.get(heir)?.number(*address);
            self.vips.release(&mut self.journal, *address, &name, number_of);
        }
        let mut shadowed = Vec::new();
        for (address, number) in &planned.addresses {
            let (journal, inheritance) = (&mut self.journal, &mut self.inheritance);
            shadowed.extend(self.vips.claim(journal, inheritance, *address, &name, *number));
        }
        if port.is_some() {
            self.planned.insert(name, planned);
        }
        shadowed
    }

    /// Leads a service port to all endpoints and to local ones, as far as any address needs them.
    fn lead(
        &mut self,
        port: &ServicePort,
        all: Option<Target>,
        local: Option<Target>,
    ) -> (Option<Target>, Option<Target>) {
        let (affinity_seconds, balancing) = (port.affinity_seconds, port.balancing);
        let choices = [
            (port.uses_all_endpoints(), all, port.endpoints.as_slice(), Nobody::Rejection),
            (
                port.uses_local_endpoints(),
                local,
                port.local_endpoints.as_slice(),
                if port.has_endpoints { Nobody::Silence } else { Nobody::Rejection },
            ),
        ];
        let [all, local] = choices.map(|(is_used, old, endpoints, nobody)| {
            if is_used {
                let choice = Choice { endpoints, nobody, affinity_seconds, balancing };
                Some(self.targets.lead(&mut self.journal, old, &choice))
            } else {
                self.targets.abandon(old);
                None
            }
        });
        (all, local)
    }

    /// Splits what the external addresses of a service port mean, if its policy asks for it.
    fn split(&mut self, port: &ServicePort, planned: &Planned, old: Option<Split>) -> Option<Split> {
        match (&planned.all, &planned.local) {
            (Some(all), Some(local)) if port.is_split() => {
                let splits = &mut self.targets.splits;
                Some(splits.lead(&mut self.journal, old, all.number(), local.number()))
            }
            _ => {
                self.targets.abandon_split(old);
                None
            }
        }
    }

    /// Guards the load balancer's addresses of a service port, if it has source ranges.
    fn guard(&mut self, port: &ServicePort, planned: &Planned, old: Option<Guard>) -> Option<Guard> {
        if port.source_ranges.is_empty() || port.load_balancer_ips.is_empty() {
            self.targets.abandon_guard(&mut self.journal, old);
            return None;
        }
        let guarded = planned.external_number();
        Some(self.targets.guards.lead(&mut self.journal, old, &port.source_ranges, guarded))
    }

    /// Takes stock of a table: its chains of classes and blocks of identities are ours to use, its elements to claim.
    fn adopt(&mut self, mut held: Held) -> Option<Transaction> {
        self.inheritance = Inheritance::take(&mut held);
        self.targets.rotations.adopt(held.chains.keys(), &self.inheritance);
        self.targets.identities.adopt(&held, &self.inheritance);
        self.targets.splits.adopt(&self.inheritance);
        held.chains.retain(|name, _| !self.targets.guards.adopt_chain(name));
        self.targets.guards.adopt(&self.inheritance);
        // What hangs on services is claimed or disclaimed later; all else must be as it should be now.
        let fixed = self.fixed();
        held.is_convertible(&fixed).then(|| diff(Some(&held), &fixed))
    }

    /// Goes on with what an earlier run led a service port to.
    fn inherit(&mut self, name: &ServicePortName, addresses: &[Address], port: &ServicePort) -> Planned {
        let comment = || vips::comment(name);
        let numbers = self.inheritance.numbers(addresses, port.internal_policy, comment);
        let (targets, inheritance) = (&mut self.targets, &mut self.inheritance);
        Planned {
            all: numbers.all.and_then(|number| targets.inherit(inheritance, number)),
            local: numbers.local.and_then(|number| targets.inherit(inheritance, number)),
            split: numbers.split.and_then(|number| targets.splits.inherit(inheritance, number)),
            guard: numbers.guard.and_then(|number| targets.guards.inherit(inheritance, number)),
            ..Planned::default()
        }
    }

    fn disclaim(&mut self) {
        let mut inheritance = std::mem::take(&mut self.inheritance);
        inheritance.disclaim(&mut self.journal);
        self.targets.disclaim(&mut self.journal, inheritance);
    }

    /// The table without what hangs on services: all chains, and the maps that lead to them.
    fn fixed(&self) -> Table {
        let mut table = self.skeleton.clone();
        let mut add_chain = |(name, chain): (ChainName, Chain)| drop(table.chains.insert(name, chain));
        self.targets.identities.chains().for_each(&mut add_chain);
        self.targets.guards.chains().for_each(&mut add_chain);
        let mut leading = Vec::new();
        for (name, chain, (key, element)) in self.targets.rotations.chains() {
            add_chain((name, chain));
            leading.push((layout::CLASSES, key, element));
        }
        fill(&mut table, leading.into_iter().chain(self.targets.identities.elements()));
        table
    }

    fn table(&self) -> Table {
        let mut table = self.fixed();
        for planned in self.planned.values() {
            planned.targets().for_each(|target| fill(&mut table, target.elements()));
            fill(&mut table, planned.split.into_iter().flat_map(Split::elements));
            fill(&mut table, planned.guard.into_iter().flat_map(Guard::elements));
        }
        fill(&mut table, self.targets.leftovers());
        fill(&mut table, self.vips.elements());
        for members in [&self.hairpins, &self.cluster_ips, &self.pingable] {
            fill(&mut table, members.elements());
        }
        table
    }
}

/// The number that each address of a service port holds.
fn numbers(addresses: &[Address], port: &ServicePort, planned: &Planned) -> Box<[(Address, u32)]> {
    let internal = match port.internal_policy {
        TrafficPolicy::Cluster => &planned.all,
        TrafficPolicy::Local => &planned.local,
    };
    let internal = internal.as_ref().map_or(layout::REJECTION, Target::number);
    let number = |address: Address| match (address.place, address.key) {
        (Place::Cluster, _) => internal,
        (Place::External, Key::Service(ip, ..)) if port.load_balancer_ips.contains(&ip) => {
            planned.guard.map_or_else(|| planned.external_number(), Guard::number)
        }
        _ => planned.external_number(),
    };
    addresses.iter().map(|address| (*address, number(*address))).collect()
}

fn fill(table: &mut Table, elements: impl Iterator<Item = (&'static str, Key, Element)>) {
    for (map, key, element) in elements {
        if let Some(map) = table.maps.get_mut(map) {
            map.elements.insert(key, element);
        }
    }
}

#[cfg(test)]
mod tests;

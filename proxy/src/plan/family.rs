//! One family's table as it is planned: who has which address, where it leads, and what of that changed.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use dataplane::nft::{Chain, ChainName, Element, Held, Key, Table, Transaction, diff};

use super::{
    cluster::Cluster,
    external::Split,
    inheritance::Inheritance,
    journal::Journal,
    layout, masquerade,
    members::{CLUSTER_IPS, HAIRPIN, Members, PINGABLE},
    overlay,
    settings::Settings,
    source_ranges::Guard,
    target::{Choice, Nobody, Target, Targets},
    vips::{self, Address, Place, Shadowed, Vips},
};
use crate::{
    config::ExternalIps,
    objects::Node,
    service_port::{Endpoint, Family, ServicePort, ServicePortName, TrafficPolicy},
    surroundings::Surroundings,
};

/// Plans one family.
#[derive(Debug)]
pub(super) struct FamilyPlanner {
    family: Family,
    settings: Arc<Settings>,
    surroundings: Surroundings,
    pub(super) skeleton: Table,
    pub(super) journal: Journal,
    pub(super) planned: HashMap<Arc<ServicePortName>, Planned>,
    pub(super) vips: Vips,
    pub(super) targets: Targets,
    hairpins: Members,
    cluster_ips: Members,
    pingable: Members,
    cluster: Cluster,
    inheritance: Inheritance,
}

/// A service port as it is planned. There are many of them, so what few have is kept apart.
#[derive(Debug, Default)]
pub(super) struct Planned {
    pub(super) addresses: Box<[(Address, u32)]>,
    /// All endpoints, where some address leads to them.
    all: Option<Target>,
    policies: Option<Box<Policies>>,
    /// The addresses of endpoints on this node.
    hairpins: Box<[IpAddr]>,
    is_pingable: bool,
}

/// What comes of traffic policies and source ranges.
#[derive(Debug, Default)]
struct Policies {
    /// The endpoints of this node, where some address leads to them.
    local: Option<Target>,
    split: Option<Split>,
    guard: Option<Guard>,
}

impl Policies {
    fn is_empty(&self) -> bool {
        self.local.is_none() && self.split.is_none() && self.guard.is_none()
    }
}

impl Planned {
    pub(super) fn targets(&self) -> impl Iterator<Item = &Target> {
        self.all.iter().chain(self.policies.iter().flat_map(|policies| &policies.local))
    }

    fn elements(&self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        let policies = self.policies.iter();
        let splits = policies.clone().filter_map(|policies| policies.split).flat_map(Split::elements);
        let guards = policies.filter_map(|policies| policies.guard).flat_map(Guard::elements);
        self.targets().flat_map(Target::elements).chain(splits).chain(guards)
    }

    fn cluster_ip(&self) -> Option<IpAddr> {
        self.addresses.iter().find_map(|(address, _)| match (address.place, address.key) {
            (Place::Cluster, Key::Service(ip, ..)) => Some(ip),
            _ => None,
        })
    }

    fn pingable(&self) -> Option<IpAddr> {
        self.cluster_ip().filter(|_| self.is_pingable)
    }

    fn number(&self, address: Address) -> Option<u32> {
        self.addresses.iter().find(|(known, _)| *known == address).map(|(_, number)| *number)
    }
}

impl FamilyPlanner {
    pub(super) fn new(family: Family, settings: &Arc<Settings>, surroundings: &Surroundings) -> Self {
        Self {
            family,
            settings: Arc::clone(settings),
            surroundings: surroundings.clone(),
            skeleton: layout::skeleton(family, settings, surroundings, &BTreeSet::new()),
            journal: Journal::new(family, layout::maps(settings)),
            planned: HashMap::new(),
            vips: Vips::default(),
            targets: Targets::default(),
            hairpins: Members::of(HAIRPIN),
            cluster_ips: Members::of(CLUSTER_IPS),
            pingable: Members::of(PINGABLE),
            cluster: Cluster::new(),
            inheritance: Inheritance::default(),
        }
    }

    pub(super) fn surround(&mut self, surroundings: &Surroundings) {
        self.surroundings = surroundings.clone();
        self.redraw();
    }

    /// Plans the rules that are always there as they are to be now.
    fn redraw(&mut self) {
        let prefixes = self.cluster.prefixes();
        let skeleton = layout::skeleton(self.family, &self.settings, &self.surroundings, &prefixes);
        self.journal.rewrite(diff(Some(&Held::from(&self.skeleton)), &skeleton));
        self.skeleton = skeleton;
    }

    pub(super) fn set_node(&mut self, name: &str, node: Option<&Node>) {
        if self.settings.unmasqueraded_by_pods.is_some() || self.settings.overlay_port.is_some() {
            let prefixes = self.cluster.prefixes();
            self.cluster.set(self.family, &mut self.journal, &mut self.inheritance, name, node);
            self.follow_prefixes(&prefixes);
        }
    }

    pub(super) fn retire(&mut self) {
        self.targets.retire(&mut self.journal);
        let prefixes = self.cluster.prefixes();
        self.cluster.retire(&mut self.journal, &mut self.inheritance);
        self.follow_prefixes(&prefixes);
    }

    fn follow_prefixes(&mut self, before: &BTreeSet<u8>) {
        if *before != self.cluster.prefixes() {
            self.redraw();
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.targets.is_settled() && self.cluster.is_settled()
    }

    pub(super) fn set(&mut self, name: &ServicePortName, port: Option<&ServicePort>) -> Vec<Shadowed> {
        let (name, old) = match self.planned.remove_entry(name) {
            Some((name, old)) => (name, Some(old)),
            None => (Arc::new(name.clone()), None),
        };
        let is_served = |ip: IpAddr| match &self.settings.external_ips {
            ExternalIps::All => true,
            ExternalIps::Within(networks) => networks.iter().any(|network| network.contains(ip)),
        };
        let addresses = port.map(|port| vips::addresses(&name, port, is_served)).unwrap_or_default();
        let mut old = match (old, port) {
            (Some(old), _) => old,
            (None, Some(port)) => self.inherit(&name, &addresses, port),
            (None, None) => Planned::default(),
        };

        let old_all = old.all.take();
        let old_policies = old.policies.take().map(|policies| *policies).unwrap_or_default();
        let planned = if let Some(port) = port {
            self.lead(port, &addresses, old_all, old_policies)
        } else {
            self.targets.abandon(old_all);
            self.targets.abandon(old_policies.local);
            self.targets.abandon_split(old_policies.split);
            self.targets.abandon_guard(&mut self.journal, old_policies.guard);
            Planned::default()
        };
        let (journal, inheritance) = (&mut self.journal, &mut self.inheritance);
        let members = [
            (&mut self.cluster_ips, old.cluster_ip(), planned.cluster_ip()),
            (&mut self.pingable, old.pingable(), planned.pingable()),
        ];
        for (members, old, new) in members {
            members.replace(journal, inheritance, old.as_slice(), new.as_slice());
        }
        self.hairpins.replace(journal, inheritance, &old.hairpins, &planned.hairpins);

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

    /// Leads a service port to all endpoints and to local ones, as far as any address needs them, and its addresses there.
    fn lead(
        &mut self,
        port: &ServicePort,
        addresses: &[Address],
        old_all: Option<Target>,
        old: Policies,
    ) -> Planned {
        let silence = if port.has_endpoints { Nobody::Silence } else { Nobody::Rejection };
        let is_used = port.uses_all_endpoints();
        let all = self.lead_to(port, is_used, &port.endpoints, Nobody::Rejection, old_all);
        let is_used = port.uses_local_endpoints();
        let local = self.lead_to(port, is_used, &port.local_endpoints, silence, old.local);

        let number = |target: &Option<Target>| target.as_ref().map_or(layout::REJECTION, Target::number);
        let (to_all, to_local) = (number(&all), number(&local));
        let split = if port.is_split() {
            Some(self.targets.splits.lead(&mut self.journal, old.split, to_all, to_local))
        } else {
            self.targets.abandon_split(old.split);
            None
        };
        let external = split.map_or(to_all, Split::number);
        let guard = if port.source_ranges.is_empty() || port.load_balancer_ips.is_empty() {
            self.targets.abandon_guard(&mut self.journal, old.guard);
            None
        } else {
            let guards = &mut self.targets.guards;
            Some(guards.lead(&mut self.journal, old.guard, &port.source_ranges, external))
        };

        let internal = if port.internal_policy == TrafficPolicy::Local { to_local } else { to_all };
        let number = |address: Address| match (address.place, address.key) {
            (Place::Cluster, _) => internal,
            (Place::External, Key::Service(ip, ..)) if port.load_balancer_ips.contains(&ip) => {
                guard.map_or(external, Guard::number)
            }
            _ => external,
        };
        let endpoints = port.endpoints.iter().chain(&port.local_endpoints);
        let mut hairpins: Vec<_> = endpoints.filter(|e| e.is_local).map(|e| e.address.ip()).collect();
        hairpins.sort_unstable();
        hairpins.dedup();
        let policies = Policies { local, split, guard };
        Planned {
            addresses: addresses.iter().map(|address| (*address, number(*address))).collect(),
            all,
            policies: (!policies.is_empty()).then(|| policies.into()),
            hairpins: hairpins.into(),
            is_pingable: self.settings.ping_cluster_ips && port.has_endpoints,
        }
    }

    /// Leads to some of a service port's endpoints, if any address does.
    fn lead_to(
        &mut self,
        port: &ServicePort,
        is_used: bool,
        endpoints: &[Endpoint],
        nobody: Nobody,
        old: Option<Target>,
    ) -> Option<Target> {
        if !is_used {
            self.targets.abandon(old);
            return None;
        }
        let (affinity_seconds, balancing) = (port.affinity_seconds, port.balancing);
        let choice = Choice { endpoints, nobody, affinity_seconds, balancing };
        Some(self.targets.lead(&mut self.journal, old, &choice))
    }

    /// Takes stock of a table: its chains of classes and blocks of identities are ours to use, its elements to claim.
    pub(super) fn adopt(&mut self, mut held: Held) -> Option<Transaction> {
        self.inheritance = Inheritance::take(&mut held);
        self.targets.rotations.adopt(held.chains.keys(), &self.inheritance);
        self.targets.identities.adopt(&held, &self.inheritance);
        self.targets.splits.adopt(&self.inheritance);
        held.chains.retain(|name, _| !self.targets.guards.adopt_chain(name));
        self.targets.guards.adopt(&self.inheritance);
        // What hangs on services is claimed or disclaimed later; all else must be as it should be now.
        let mut fixed = self.fixed();
        if !held.is_convertible(&fixed) {
            return None;
        }
        // But for what tells pods and nodes from strangers: that becomes so in one transaction with them.
        let (mut of_nodes, mut held_of_nodes) = (Table::new(self.family), Held::new(self.family));
        for name in masquerade::CHAINS.into_iter().chain(overlay::CHAINS) {
            of_nodes.chains.extend(fixed.chains.remove_entry(name));
            held_of_nodes.chains.extend(held.chains.remove_entry(name));
        }
        self.journal.rewrite(diff(Some(&held_of_nodes), &of_nodes));
        Some(diff(Some(&held), &fixed))
    }

    /// Goes on with what an earlier run led a service port to.
    fn inherit(&mut self, name: &ServicePortName, addresses: &[Address], port: &ServicePort) -> Planned {
        let comment = || vips::comment(name);
        let numbers = self.inheritance.numbers(addresses, port.internal_policy, comment);
        let (targets, inheritance) = (&mut self.targets, &mut self.inheritance);
        let policies = Policies {
            local: numbers.local.and_then(|number| targets.inherit(inheritance, number)),
            split: numbers.split.and_then(|number| targets.splits.inherit(inheritance, number)),
            guard: numbers.guard.and_then(|number| targets.guards.inherit(inheritance, number)),
        };
        Planned {
            all: numbers.all.and_then(|number| targets.inherit(inheritance, number)),
            policies: Some(policies.into()),
            ..Planned::default()
        }
    }

    pub(super) fn disclaim(&mut self) {
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

    pub(super) fn table(&self) -> Table {
        let mut table = self.fixed();
        for planned in self.planned.values() {
            fill(&mut table, planned.elements());
        }
        fill(&mut table, self.targets.leftovers());
        fill(&mut table, self.vips.elements());
        for members in [&self.hairpins, &self.cluster_ips, &self.pingable] {
            fill(&mut table, members.elements());
        }
        fill(&mut table, self.cluster.elements());
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

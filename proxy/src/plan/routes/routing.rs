//! The ways to all nodes, kept while nodes come, change and go. Pure.
//!
//! In: nodes, one or many at a time. Out: the steps that make the kernel hold what is right now, at the cost of the nodes that
//! changed; what it should hold altogether; and whom no way leads to.
//!
//! Whether a packet comes in through a tunnel is for the node to say that sends it, which may have started with other flags, or have
//! links and networks that this one does not have: a device stands for all that others may send, whatever leads to them from here.
//!
//! What pods send to the own addresses of a node whose pods are behind a tunnel goes through the tunnel too, under the pods' own addresses:
//! the network between the nodes may know nobody but nodes. Rules of policy routing lead it there, and nothing that nodes themselves send.
//!
//! Where several nodes have the same pod CIDR, the first of them by name that there is a way to has it. In whatever order they are
//! told, the same comes out. An address that several nodes have is that of whose tunnels end there.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    mem,
    net::IpAddr,
    sync::Arc,
};

use dataplane::rtnl::Vxlan;
use ipnetwork::IpNetwork;

use super::{
    Reason, Site, Unreachable, Way, Ways,
    objects::{self, Key, Object, Steps},
    tunnel,
    uplinks::Exit,
};
use crate::{
    config::{Overlay, RouteMode},
    objects::Node,
    service_port::Family,
};

/// Where packets may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Destination {
    /// The pods whose CIDR begins here. Two that begin at the same address are rivals, whatever their lengths.
    Pods(IpAddr),
    /// A node itself, at this address.
    Node(IpAddr),
}

/// The nodes that have a destination.
type Claims = BTreeMap<Arc<str>, (IpNetwork, Way)>;

/// What is kept of a node.
#[derive(Debug, Clone, Default)]
struct Known {
    /// What it has.
    destinations: Vec<Destination>,
    /// The family of tunnels that it may send through.
    tunnel: Option<Family>,
}

/// The ways to all nodes.
#[derive(Debug, Clone)]
pub struct Routing {
    site: Site,
    /// Our devices for tunnels.
    devices: BTreeMap<Family, u32>,
    claims: BTreeMap<Destination, Claims>,
    /// How many of the claims of pods are networks of each length.
    lengths: BTreeMap<(Family, u8), usize>,
    nodes: BTreeMap<Arc<str>, Known>,
    unreachable: BTreeMap<Arc<str>, Vec<Reason>>,
    /// Destinations that several nodes have.
    contested: BTreeSet<Destination>,
    /// Whether whom no way leads to may be different from when it was asked for last.
    is_unreachable_changed: bool,
    /// How many ways each object is for.
    objects: BTreeMap<Object, usize>,
    by_key: BTreeMap<Key, Object>,
    /// How many ways lead to pods.
    ways: Ways,
    /// How many ways go through tunnels of each family.
    tunnels: BTreeMap<Family, usize>,
    /// How many ways lead to each address of a node.
    targets: BTreeMap<IpAddr, usize>,
    /// How many ways packets leave for by each of these.
    exits: BTreeMap<Exit, usize>,
    /// How many nodes may send through tunnels of each family.
    senders: BTreeMap<Family, usize>,
}

impl Routing {
    /// The ways to these nodes, none of which is this one.
    pub fn new<'a>(site: Site, nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        let mut routing = Self {
            site,
            devices: BTreeMap::new(),
            claims: BTreeMap::new(),
            lengths: BTreeMap::new(),
            nodes: BTreeMap::new(),
            unreachable: BTreeMap::new(),
            contested: BTreeSet::new(),
            is_unreachable_changed: true,
            objects: BTreeMap::new(),
            by_key: BTreeMap::new(),
            ways: Ways::default(),
            tunnels: BTreeMap::new(),
            targets: BTreeMap::new(),
            exits: BTreeMap::new(),
            senders: BTreeMap::new(),
        };
        for node in nodes {
            routing.admit(&node.name.name, node);
        }
        let winners = routing.claims.keys().filter_map(|to| Some((*to, routing.winner(*to)?.1)));
        let ways: Vec<(Destination, Way)> = winners.collect();
        for (destination, way) in ways {
            routing.count(destination, way, true);
        }
        routing
    }

    /// Says by which devices the tunnels go, each with what the kernel calls it. Comes before anything is asked for.
    pub fn bind(&mut self, devices: BTreeMap<Family, u32>) {
        self.devices = devices;
        self.objects.clear();
        self.by_key.clear();
        let all: Vec<Object> = self.claims.keys().flat_map(|to| self.objects_for(*to)).collect();
        for object in all {
            self.keep(object);
        }
    }

    /// Takes nodes in as they are now, or `None` for gone, and says what must change.
    pub fn follow<'a>(&mut self, nodes: impl IntoIterator<Item = (&'a str, Option<&'a Node>)>) -> Steps {
        let mut was_there: BTreeMap<Object, bool> = BTreeMap::new();
        for (name, node) in nodes {
            let name: Arc<str> = name.into();
            let known = self.nodes.get(&name).into_iter().flat_map(|known| &known.destinations);
            let mut destinations: BTreeSet<Destination> = known.copied().collect();
            let mut pods: Vec<IpNetwork> =
                destinations.iter().filter_map(|to| self.pods_of(&name, *to)).collect();
            destinations.extend(node.into_iter().flat_map(destinations_of));
            pods.extend(node.into_iter().flat_map(|node| &node.pod_cidrs));
            // Addresses of nodes are none while they are pods'.
            destinations.extend(pods.into_iter().flat_map(|cidr| self.addresses_in(cidr)));

            for destination in &destinations {
                self.is_unreachable_changed |= self.contested.contains(destination);
                for object in self.objects_for(*destination) {
                    was_there.entry(object).or_insert(true);
                    self.let_go(object);
                }
                if let Some((_, way)) = self.winner(*destination) {
                    self.count(*destination, way, false);
                }
            }
            let reasons = self.unreachable.get(&name).cloned();
            self.forget(&name);
            if let Some(node) = node {
                self.admit(&name, node);
            }
            self.is_unreachable_changed |= reasons.as_ref() != self.unreachable.get(&name);
            for destination in &destinations {
                self.is_unreachable_changed |= self.contested.contains(destination);
                for object in self.objects_for(*destination) {
                    was_there.entry(object).or_insert_with(|| self.objects.contains_key(&object));
                    self.keep(object);
                }
                if let Some((_, way)) = self.winner(*destination) {
                    self.count(*destination, way, true);
                }
            }
        }
        let old = was_there.iter().filter_map(|(object, was)| was.then_some(*object)).collect();
        let new = was_there.into_keys().filter(|object| self.objects.contains_key(object)).collect();
        objects::steps(&old, &new)
    }

    /// Where this is looked at from.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Our devices for tunnels, as they were bound.
    pub fn devices(&self) -> &BTreeMap<Family, u32> {
        &self.devices
    }

    /// The families of tunnels that some way goes through, or would if there was a device; and, where nothing else is to be used,
    /// the one that the first will go through.
    pub fn families(&self) -> BTreeSet<Family> {
        let first = self.site.ends.keys().next().filter(|_| self.site.mode == RouteMode::Vxlan);
        counted(&self.tunnels).chain(first.copied()).collect()
    }

    /// The families of tunnels that others may send through, now or as soon as there is somebody.
    pub fn inbound(&self) -> BTreeSet<Family> {
        let first = self.site.ends.keys().next().filter(|_| self.site.has_tunnels());
        counted(&self.senders).chain(first.copied()).collect()
    }

    /// The links that packets to other nodes leave by.
    pub fn exits(&self) -> BTreeSet<u32> {
        self.exits.keys().map(|exit| exit.link).collect()
    }

    /// Says whether a way leads to a node at an address of this network, or would if there was one.
    pub fn has_nodes_in(&self, network: IpNetwork) -> bool {
        let is_awaited = |reason: &Reason| matches!(reason, Reason::LinkDown(ip) if network.contains(*ip));
        self.targets.range(network.network()..=network.broadcast()).next().is_some()
            || self.unreachable.values().flatten().any(is_awaited)
    }

    /// The largest packet that leaves this node whole: the least that a link or a route takes which leads to another node.
    pub fn link_mtu(&self) -> u32 {
        let least = self.exits.keys().filter_map(|exit| self.site.uplinks.mtu(*exit)).min();
        least.or_else(|| self.site.own_mtu()).unwrap_or(tunnel::ETHERNET_MTU)
    }

    /// The devices for all tunnels, over links that take packets of `mtu`.
    pub fn vxlans(&self, overlay: Overlay, mtu: u32) -> BTreeMap<Family, Vxlan> {
        let inbound = self.inbound();
        let ends = self.site.ends.iter().filter(|(family, _)| inbound.contains(*family));
        ends.map(|(family, end)| (*family, tunnel::device(overlay, *end, mtu))).collect()
    }

    /// Says whether a tunnel is needed, but none can begin on this node.
    pub fn lacks_end(&self) -> bool {
        let mut reasons = self.unreachable.values().flatten();
        let is_needed =
            self.site.mode == RouteMode::Vxlan || reasons.any(|reason| matches!(reason, Reason::NoEnd(_)));
        is_needed && self.site.ends.is_empty()
    }

    /// All that the kernel should hold.
    pub fn objects(&self) -> BTreeSet<Object> {
        self.objects.keys().copied().collect()
    }

    /// What it should hold in the place of the objects that have this key.
    pub fn object(&self, key: &Key) -> Option<&Object> {
        self.by_key.get(key)
    }

    /// How many ways lead to pods.
    pub fn ways(&self) -> Ways {
        self.ways
    }

    /// Says whether [`Self::unreachable`] may be different from when this was asked last.
    pub fn take_unreachable_changed(&mut self) -> bool {
        mem::take(&mut self.is_unreachable_changed)
    }

    /// Nodes, or some of their pods, that cannot be reached.
    pub fn unreachable(&self) -> BTreeSet<Unreachable> {
        let told = |node: &Arc<str>, reason| Unreachable { node: node.to_string(), reason };
        let alone = self.unreachable.iter();
        let alone = alone.flat_map(|(node, reasons)| reasons.iter().map(move |reason| told(node, *reason)));
        let contested = self.contested.iter().filter(|to| matches!(to, Destination::Pods(_)));
        let contested = contested.filter_map(|pods| self.claims.get(pods));
        let losers = contested.flat_map(|claims| claims.iter().skip(1));
        let losers = losers.map(|(node, (cidr, _))| told(node, Reason::Taken(*cidr)));
        // Whose an address is, is not known.
        let nobody_s = self.contested.iter().filter(|to| self.winner(**to).is_none());
        let claimants = nobody_s.filter_map(|to| self.claims.get(to)).flatten();
        let claimants = claimants.map(|(node, (ip, _))| told(node, Reason::Shared(ip.ip())));
        alone.chain(losers).chain(claimants).collect()
    }

    fn admit(&mut self, name: &Arc<str>, node: &Node) {
        let mut reasons = Vec::new();
        if node.pod_cidrs.is_empty() {
            reasons.push(Reason::NoPodCidr);
        }
        let mut destinations = Vec::new();
        for (cidr, way) in self.site.ways(node) {
            match way {
                Ok(way) => {
                    destinations.push((Destination::Pods(cidr.network()), cidr, way));
                    let own = node.internal_ips.iter().filter(|ip| ip.is_ipv4() == cidr.is_ipv4());
                    destinations.extend(own.map(|ip| (Destination::Node(*ip), IpNetwork::from(*ip), way)));
                }
                Err(reason) => reasons.push(reason),
            }
        }
        for (destination, network, way) in &destinations {
            let claims = self.claims.entry(*destination).or_default();
            claims.insert(Arc::clone(name), (*network, *way));
            if let Destination::Pods(_) = destination {
                count(&mut self.lengths, (Family::of(network.ip()), network.prefix()), true);
            }
            if claims.len() > 1 {
                self.contested.insert(*destination);
            }
        }
        if !reasons.is_empty() {
            self.unreachable.insert(Arc::clone(name), reasons);
        }
        let tunnel = self.site.tunnel_from(node);
        if let Some(family) = tunnel {
            *self.senders.entry(family).or_default() += 1;
        }
        let destinations = destinations.into_iter().map(|(destination, ..)| destination).collect();
        self.nodes.insert(Arc::clone(name), Known { destinations, tunnel });
    }

    fn forget(&mut self, name: &Arc<str>) {
        self.unreachable.remove(name);
        let Known { destinations, tunnel } = self.nodes.remove(name).unwrap_or_default();
        if let Some(count) = tunnel.and_then(|family| self.senders.get_mut(&family)) {
            *count = count.saturating_sub(1);
        }
        for destination in destinations {
            let Some(claims) = self.claims.get_mut(&destination) else { continue };
            let gone = claims.remove(name);
            if let (Destination::Pods(_), Some((network, _))) = (destination, gone) {
                count(&mut self.lengths, (Family::of(network.ip()), network.prefix()), false);
            }
            if claims.len() < 2 {
                self.contested.remove(&destination);
            }
            if claims.is_empty() {
                self.claims.remove(&destination);
            }
        }
    }

    /// Who has a destination of all who claim it. Pods: the first by name. An address of a node: whose tunnels end there, or who is
    /// reached without one; else who alone has it. Nobody has an address that pods have, or that is no machine's.
    fn winner(&self, destination: Destination) -> Option<(IpNetwork, Way)> {
        let claims = self.claims.get(&destination)?;
        let Destination::Node(ip) = destination else { return claims.values().next().copied() };
        if !is_a_machine_s(ip) || self.is_a_pod_s(ip) {
            return None;
        }
        let is_sure = |way: Way| !matches!(way, Way::Tunnel { remote } if remote != ip);
        let sure = claims.values().find(|(_, way)| is_sure(*way));
        sure.or_else(|| claims.values().next().filter(|_| claims.len() == 1)).copied()
    }

    fn is_a_pod_s(&self, ip: IpAddr) -> bool {
        let is_claimed = |prefix: u8| {
            let base = IpNetwork::new(ip, prefix).ok().map(|network| Destination::Pods(network.network()));
            let claims = base.and_then(|base| self.claims.get(&base)).into_iter().flatten();
            claims.map(|(_, (cidr, _))| cidr).any(|cidr| cidr.contains(ip))
        };
        let mut lengths = self.lengths.keys().filter(|(family, _)| *family == Family::of(ip));
        self.site.pod_cidrs.iter().any(|own| own.contains(ip))
            || lengths.any(|(_, prefix)| is_claimed(*prefix))
    }

    /// The pod CIDR that a destination stands for, if it does, as a node has it.
    fn pods_of(&self, name: &str, destination: Destination) -> Option<IpNetwork> {
        let Destination::Pods(_) = destination else { return None };
        self.claims.get(&destination)?.get(name).map(|(cidr, _)| *cidr)
    }

    /// Addresses of nodes that are in a pod CIDR.
    fn addresses_in(&self, cidr: IpNetwork) -> Vec<Destination> {
        let all = Destination::Node(cidr.network())..=Destination::Node(cidr.broadcast());
        self.claims.range(all).map(|(destination, _)| *destination).collect()
    }

    fn objects_for(&self, destination: Destination) -> Vec<Object> {
        let Some((network, way)) = self.winner(destination) else { return Vec::new() };
        let device = match way {
            Way::Direct { .. } => None,
            Way::Tunnel { remote } => self.devices.get(&Family::of(remote)).copied(),
        };
        match destination {
            Destination::Pods(_) => objects::to_pods(network, way, device),
            Destination::Node(ip) => objects::to_node(ip, way, device, &self.site.pod_cidrs),
        }
    }

    fn keep(&mut self, object: Object) {
        *self.objects.entry(object).or_default() += 1;
        self.by_key.insert(object.key(), object);
    }

    fn let_go(&mut self, object: Object) {
        let Some(count) = self.objects.get_mut(&object) else { return };
        *count -= 1;
        if *count == 0 {
            self.objects.remove(&object);
            if self.by_key.get(&object.key()) == Some(&object) {
                self.by_key.remove(&object.key());
            }
        }
    }

    fn count(&mut self, destination: Destination, way: Way, is_new: bool) {
        let (Way::Direct { gateway: target, .. } | Way::Tunnel { remote: target }) = way;
        count(&mut self.targets, target, is_new);
        for exit in self.site.exits(way) {
            count(&mut self.exits, exit, is_new);
        }
        let of_kind = match way {
            Way::Direct { .. } => &mut self.ways.direct,
            Way::Tunnel { remote } => {
                count(&mut self.tunnels, Family::of(remote), is_new);
                &mut self.ways.tunnel
            }
        };
        if matches!(destination, Destination::Pods(_)) {
            *of_kind = if is_new { *of_kind + 1 } else { of_kind.saturating_sub(1) };
        }
    }
}

/// Counts one more or one less of something; what there is none of is not there.
fn count<T: Ord>(counts: &mut BTreeMap<T, usize>, of: T, is_new: bool) {
    match counts.entry(of) {
        Entry::Vacant(place) if is_new => drop(place.insert(1)),
        Entry::Occupied(mut place) if is_new || *place.get() > 1 => {
            *place.get_mut() = if is_new { *place.get() + 1 } else { *place.get() - 1 };
        }
        Entry::Occupied(place) => drop(place.remove()),
        Entry::Vacant(_) => {}
    }
}

fn counted(counts: &BTreeMap<Family, usize>) -> impl Iterator<Item = Family> {
    counts.iter().filter(|(_, count)| **count > 0).map(|(family, _)| *family)
}

/// All that a node may have.
fn destinations_of(node: &Node) -> impl Iterator<Item = Destination> {
    let pods = node.pod_cidrs.iter().map(|cidr| Destination::Pods(cidr.network()));
    pods.chain(node.internal_ips.iter().map(|ip| Destination::Node(*ip)))
}

/// Says whether an address may be that of one machine among others.
fn is_a_machine_s(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(is_link_local || ip.is_loopback() || ip.is_multicast() || ip.is_unspecified())
}

//! Laws: for any history of services and endpoints.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::nft::{Fate, trace};
use ipnetwork::IpNetwork;

use super::*;
use crate::{
    objects::annotations::turns,
    service_port::{Balancing, TrafficPolicy},
};

/// One step of a history: a service port of three, set to something or removed.
#[derive(Debug, Clone)]
struct Step {
    service: u8,
    port: Option<ServicePort>,
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)]
}

/// External addresses are few, so that services want the same ones.
fn external() -> impl Strategy<Value = (Vec<IpAddr>, Vec<IpAddr>, Vec<IpNetwork>)> {
    let ips = || proptest::collection::btree_set(1..4_u8, 0..3);
    let ranges = prop_oneof![
        3 => Just(vec![]),
        1 => Just(vec!["10.9.0.0/16".parse().unwrap()]),
        1 => Just(vec!["10.244.0.0/24".parse().unwrap(), "172.16.0.0/12".parse().unwrap()]),
    ];
    (ips(), ips(), ranges).prop_map(|(external_ips, load_balancer_ips, ranges)| {
        let ips = |numbers: BTreeSet<u8>| numbers.into_iter().map(|n| IpAddr::from([192, 0, 2, n])).collect();
        let load_balancer_ips: Vec<_> = ips(load_balancer_ips);
        let ranges = if load_balancer_ips.is_empty() { vec![] } else { ranges };
        (ips(external_ips), load_balancer_ips, ranges)
    })
}

fn step(balancing: impl Strategy<Value = Balancing>) -> impl Strategy<Value = Step> {
    let endpoints = proptest::collection::btree_set(prop_oneof![2..9_i16, -12..-9_i16], 0..5);
    let weights = prop_oneof![3 => Just([1; 4]), 1 => [1..4_u32, 1..4, 1..4, 1..4]];
    let node_port = proptest::option::of(30_000..30_003_u16);
    let affinity = proptest::option::of(prop_oneof![Just(60_u32), Just(10_800)]);
    let service =
        (endpoints, weights, balancing, node_port, affinity, 0..4_u8, (policy(), policy()), external());
    let service = service.prop_map(
        |(endpoints, weights, balancing, node_port, affinity_seconds, ip, policies, external)| {
            let endpoints: Vec<_> = endpoints.into_iter().collect();
            let (internal_policy, external_policy) = policies;
            let (external_ips, load_balancer_ips, source_ranges) = external;
            let mut port = ServicePort {
                node_port,
                external_ips,
                load_balancer_ips,
                source_ranges,
                internal_policy,
                external_policy,
                affinity_seconds,
                balancing,
                ..port(&format!("10.96.0.{ip}"), &endpoints)
            };
            port.endpoints.iter_mut().zip(weights).for_each(|(endpoint, weight)| endpoint.weight = weight);
            if port.uses_local_endpoints() {
                port.local_endpoints = port.endpoints.iter().copied().filter(|e| e.is_local).collect();
            }
            port
        },
    );
    (0..3_u8, proptest::option::weighted(0.85, service)).prop_map(|(service, port)| Step { service, port })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // The tables of hashes are large, so few histories have any.
    let by_turns = prop_oneof![4 => Just(Balancing::RoundRobin), 1 => Just(Balancing::Random)];
    let by_all = prop_oneof![Just(Balancing::RoundRobin), Just(Balancing::SourceHash)];
    let by_turns = proptest::collection::vec(step(by_turns), 1..30);
    prop_oneof![15 => by_turns, 1 => proptest::collection::vec(step(by_all), 1..15)]
}

fn service_name(service: u8) -> ServicePortName {
    name(&format!("service-{service}"))
}

/// Who sends packets: each is told from the others by somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    /// A pod of this node.
    Pod,
    /// A process of this node.
    Node,
    /// Somebody whom some source ranges let in.
    Neighbour,
    /// Somebody else.
    Stranger,
}

const CLIENTS: [Client; 4] = [Client::Pod, Client::Node, Client::Neighbour, Client::Stranger];

impl Client {
    fn ip(self) -> &'static str {
        match self {
            Self::Pod => "10.244.0.7",
            Self::Node => "192.168.14.50",
            Self::Neighbour => "10.9.0.1",
            Self::Stranger => "198.51.100.1",
        }
    }

    fn packet(self, destination: SocketAddr) -> Packet {
        let packet = packet(self.ip(), &destination.to_string());
        let link = packet.link.clone().filter(|_| self != Self::Node);
        Packet { link, ..packet }
    }
}

fn surroundings() -> Surroundings {
    Surroundings { pod_cidrs: vec!["10.244.0.0/24".parse().unwrap()], ..Surroundings::default() }
}

/// Every address that some service may have.
fn destinations() -> impl Iterator<Item = SocketAddr> {
    let cluster = (0..4).map(|n| SocketAddr::from(([10, 96, 0, n], 80)));
    let external = (1..4).map(|n| SocketAddr::from(([192, 0, 2, n], 80)));
    cluster.chain(external).chain((30_000..30_003).map(|port| SocketAddr::from(([192, 168, 14, 50], port))))
}

fn packets() -> impl Iterator<Item = (Client, SocketAddr)> {
    destinations().flat_map(|destination| CLIENTS.map(|client| (client, destination)))
}

/// Where the packets of every client to every address go.
fn fates(table: &Table) -> Vec<Vec<Fate>> {
    let ways = packets().map(|(client, destination)| trace(table, &client.packet(destination)));
    ways.map(|ways| ways.into_iter().map(|route| route.fate).collect()).collect()
}

/// What Kubernetes promises to a client: said anew here, without numbers and maps.
fn promised(
    services: &BTreeMap<u8, ServicePort>,
    client: Client,
    destination: SocketAddr,
) -> BTreeSet<Route> {
    let routes = |endpoints: &[Endpoint], nobody, is_masqueraded| -> BTreeSet<_> {
        let route = |e: &Endpoint| Route { fate: Fate::Endpoint(e.address), is_masqueraded };
        let mut routes: BTreeSet<_> = endpoints.iter().map(route).collect();
        if routes.is_empty() {
            routes.insert(Route { fate: nobody, is_masqueraded: false });
        }
        routes
    };
    let silence = |port: &ServicePort| if port.has_endpoints { Fate::Dropped } else { Fate::Rejected };
    let ip = destination.ip();
    if let Some(port) = services.values().find(|port| port.cluster_ip == ip) {
        return match port.internal_policy {
            TrafficPolicy::Cluster => routes(&port.endpoints, Fate::Rejected, false),
            TrafficPolicy::Local => routes(&port.local_endpoints, silence(port), false),
        };
    }
    let has = |port: &ServicePort| {
        port.external_ips.contains(&ip)
            || port.load_balancer_ips.contains(&ip)
            || port.node_port == Some(destination.port())
    };
    let Some(port) = services.values().find(|port| has(port)) else {
        return [Route { fate: Fate::Untouched, is_masqueraded: false }].into();
    };
    let client_ip: IpAddr = client.ip().parse().unwrap();
    let is_let_in = port.source_ranges.is_empty() || port.source_ranges.iter().any(|r| r.contains(client_ip));
    if port.load_balancer_ips.contains(&ip) && !is_let_in {
        return [Route { fate: Fate::Dropped, is_masqueraded: false }].into();
    }
    match (port.external_policy, client) {
        (TrafficPolicy::Local, Client::Pod) => routes(&port.endpoints, Fate::Rejected, false),
        (TrafficPolicy::Cluster, _) | (_, Client::Node) => routes(&port.endpoints, Fate::Rejected, true),
        (TrafficPolicy::Local, _) => routes(&port.local_endpoints, silence(port), false),
    }
}

/// The new table, as a packet sees it that read its address's number, or what that means, just before the commit: it walks the rules
/// as they were, to chains that had a commit of their own before.
fn as_seen_late(old: &Table, new: &Table, maps: &[&'static str]) -> Table {
    let mut late = new.clone();
    late.chains.extend(old.chains.clone());
    for map in maps {
        late.maps.insert((*map).into(), old.maps[*map].clone());
    }
    late
}

/// Says whether packets met this fate before or after. Where an address serves on one side only, its port may still, or already, be
/// refused as an unknown one of a known cluster IP.
fn is_known(known: &[Vec<Vec<Fate>>; 2], place: usize, fate: Fate) -> bool {
    let has = |fate| known.iter().any(|known| known[place].contains(&fate));
    has(fate) || (fate == Fate::Rejected && has(Fate::Untouched))
}

/// What a service does with packets, to whichever of its addresses, whoever sends them.
fn fates_of(port: Option<&ServicePort>) -> Vec<Fate> {
    let Some(port) = port else { return Vec::new() };
    let mut fates: Vec<_> = port.endpoints.iter().map(|e| Fate::Endpoint(e.address)).collect();
    if port.endpoints.is_empty() {
        fates.push(Fate::Rejected);
    }
    if (port.uses_local_endpoints() && port.local_endpoints.is_empty()) || !port.source_ranges.is_empty() {
        fates.push(Fate::Dropped);
    }
    fates
}

/// What a packet may have read when a commit comes: the number of its address, and what that stands for.
const READ: [&[&str]; 3] = [
    &["cluster-vips", "external-vips", "node-ports"],
    &["cluster-vips", "external-vips", "node-ports", "guards", "guarded"],
    &[
        "cluster-vips",
        "external-vips",
        "node-ports",
        "guards",
        "guarded",
        "splits-near",
        "splits-local",
        "choices",
    ],
];

/// Where packets from 10.1.1.1 to a service port are to go: one for each turn, sorted.
fn wanted(port: &ServicePort) -> Vec<Fate> {
    if port.endpoints.is_empty() {
        return vec![Fate::Rejected];
    }
    if port.balancing == Balancing::SourceHash {
        let mut node = Node::new(&Settings::default());
        node.set(&service_name(0), Some(port));
        let destination = SocketAddr::new(port.cluster_ip, port.port).to_string();
        return trace(node.table(), &packet("10.1.1.1", &destination))
            .into_iter()
            .map(|way| way.fate)
            .collect();
    }
    let round = turns(port.endpoints.iter().map(|endpoint| endpoint.weight));
    let all: u32 = port.endpoints.iter().map(|endpoint| endpoint.weight).sum();
    let turns = port.endpoints.iter().flat_map(|endpoint| {
        let turns = usize::try_from(endpoint.weight * round / all).unwrap();
        std::iter::repeat_n(Fate::Endpoint(endpoint.address), turns)
    });
    let mut wanted: Vec<_> = turns.collect();
    wanted.sort();
    wanted
}

proptest! {
    // Each step is asked about from everybody to everywhere, before and after.
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The kernel takes every transaction, and holds what is planned afterwards (checked by `Node::set`); every client is led where
    /// Kubernetes promises, to each endpoint in turn as often as it weighs, or where a client's hash says whatever was before.
    #[test]
    fn every_client_is_led_where_kubernetes_promises(steps in steps()) {
        let mut node = Node::within(&Settings::default(), &surroundings());
        let mut services = BTreeMap::new();
        for step in steps {
            node.set(&service_name(step.service), step.port.as_ref());
            match step.port {
                Some(port) => services.insert(step.service, port),
                None => services.remove(&step.service),
            };
            // Of two services with one address, the first by name has it.
            for (client, destination) in packets() {
                let ways = trace(node.table(), &client.packet(destination));
                let routes: BTreeSet<_> = ways.iter().copied().collect();
                let promised = promised(&services, client, destination);
                let is_hashed = services.values().any(|port| port.balancing == Balancing::SourceHash);
                let is_kept = if is_hashed { routes.is_subset(&promised) } else { routes == promised };
                prop_assert!(is_kept, "{:?} to {}: {:?} instead of {:?}", client, destination, routes, promised);
            }
            let mut served = BTreeSet::new();
            let ports = services.values().filter(|port| served.insert(port.cluster_ip));
            for port in ports.filter(|port| port.internal_policy == TrafficPolicy::Cluster) {
                let destination = SocketAddr::new(port.cluster_ip, port.port).to_string();
                let ways = trace(node.table(), &packet("10.1.1.1", &destination));
                let mut fates: Vec<_> = ways.into_iter().map(|route| route.fate).collect();
                fates.sort();
                prop_assert_eq!(fates, wanted(port));
            }
        }
    }

    /// A packet on its way while a change is committed goes where it went before, or where it goes afterwards, or to an
    /// endpoint that the service has now.
    #[test]
    fn no_packet_on_its_way_is_lost_or_led_astray(steps in steps()) {
        let mut planner = Planner::within(&[Family::Ip], &Settings::default(), &surroundings());
        let planned = |planner: &Planner| planner.tables().next().unwrap();
        let mut before = planned(&planner);
        for step in steps {
            planner.set(&service_name(step.service), Family::Ip, step.port.as_ref());
            let switched = planned(&planner);
            planner.retire();
            planner.retire();
            let retired = planned(&planner);

            let known = [fates(&before), fates(&switched)];
            let service = fates_of(step.port.as_ref());
            for (old, new, read) in [(&before, &switched), (&switched, &retired)].into_iter().flat_map(|(old, new)| READ.map(|read| (old, new, read))) {
                for (place, late) in fates(&as_seen_late(old, new, read)).into_iter().enumerate() {
                    for fate in late {
                        let is_known = is_known(&known, place, fate) || service.contains(&fate);
                        prop_assert!(is_known, "{fate:?} for {:?}", packets().nth(place));
                    }
                }
            }
            before = retired;
        }
    }

    /// A planner that starts anew goes on from what the kernel holds: nothing is written for what did not change, packets on
    /// their way arrive, and whatever happens afterwards is as if it had been there all along.
    #[test]
    fn a_new_start_changes_only_what_differs(
        before in steps(),
        meanwhile in proptest::collection::vec(step(Just(Balancing::RoundRobin)), 0..3),
        after in steps(),
        is_retired in any::<bool>(),
    ) {
        let mut node = Node::within(&Settings::default(), &surroundings());
        let mut services = BTreeMap::new();
        for step in before {
            services.insert(step.service, step.port.clone());
            if is_retired {
                node.set(&service_name(step.service), step.port.as_ref());
            } else {
                node.planner.set(&service_name(step.service), Family::Ip, step.port.as_ref());
                node.commit();
            }
        }
        let changed: BTreeSet<_> = meanwhile.iter().map(|step| step.service).collect();
        services.extend(meanwhile.into_iter().map(|step| (step.service, step.port)));
        let old = node.table().clone();

        node.planner = Planner::within(&Family::ALL, &Settings::default(), &surroundings());
        for family in Family::ALL {
            let held = Held::from(node.kernel.table(family).unwrap());
            let mend = node.planner.adopt(held).unwrap();
            prop_assert!(mend.is_empty(), "{}", mend);
        }
        for (service, port) in &services {
            node.planner.set(&service_name(*service), Family::Ip, port.as_ref());
        }
        node.planner.disclaim();
        let changes = node.commit();

        // Of two services that want one address, one is served under none: nothing tells what is its own.
        let addresses: Vec<_> = services
            .iter()
            .filter_map(|(service, port)| Some(vips::addresses(&service_name(*service), port.as_ref()?, |_| true)))
            .flatten()
            .collect();
        let is_disputed = addresses.iter().collect::<BTreeSet<_>>().len() != addresses.len();
        // Guards that were about to go when it stopped go now.
        let is_clean_up = changes.elements().0 == 0 && !old.maps["guards"].elements.is_empty();
        let is_unchanged = changes.is_empty() || is_clean_up;
        prop_assert!(is_disputed || !changed.is_empty() || is_unchanged, "{}", changes);
        let known = [fates(&old), fates(node.table())];
        for read in READ {
            for (place, late) in fates(&as_seen_late(&old, node.table(), read)).into_iter().enumerate() {
                let all: Vec<_> = services.values().flat_map(|port| fates_of(port.as_ref())).collect();
                for fate in late {
                    let is_known = is_known(&known, place, fate) || all.contains(&fate);
                    // What an earlier run's source ranges were is not known, so those of services that went meanwhile go at once.
                    let is_guarded = fate == Fate::Dropped && packets().nth(place).is_some_and(|(_, to)| to.ip().to_string().starts_with("192.0.2."));
                    prop_assert!(is_known || is_guarded, "{fate:?} for {:?}", packets().nth(place));
                }
            }
        }
        for step in after {
            node.set(&service_name(step.service), step.port.as_ref());
        }
    }

    /// The same history gives the same text, byte by byte.
    #[test]
    fn the_same_history_gives_the_same_tables(steps in steps()) {
        let run = || {
            let mut node = Node::new(&Settings::default());
            for step in &steps {
                node.set(&service_name(step.service), step.port.as_ref());
            }
            node.planner.tables().map(|table| table.to_string()).collect::<String>()
        };
        prop_assert_eq!(run(), run());
    }
}

//! Laws: for any history of services and endpoints.

use std::collections::BTreeSet;

use dataplane::nft::{Fate, Held, trace};

use super::*;
use crate::{objects::annotations::turns, service_port::Balancing};

/// One step of a history: a service port of three, set to something or removed.
#[derive(Debug, Clone)]
struct Step {
    service: u8,
    port: Option<ServicePort>,
}

fn step(balancing: impl Strategy<Value = Balancing>) -> impl Strategy<Value = Step> {
    let endpoints = proptest::collection::btree_set(prop_oneof![2..9_i16, -12..-9_i16], 0..5);
    let weights = prop_oneof![3 => Just([1; 4]), 1 => [1..4_u32, 1..4, 1..4, 1..4]];
    let node_port = proptest::option::of(30_000..30_003_u16);
    let affinity = proptest::option::of(prop_oneof![Just(60_u32), Just(10_800)]);
    let service = (endpoints, weights, balancing, node_port, affinity, 0..4_u8);
    let service = service.prop_map(|(endpoints, weights, balancing, node_port, affinity_seconds, ip)| {
        let endpoints: Vec<_> = endpoints.into_iter().collect();
        let mut port = port(&format!("10.96.0.{ip}"), &endpoints);
        port.endpoints.iter_mut().zip(weights).for_each(|(endpoint, weight)| endpoint.weight = weight);
        ServicePort { node_port, affinity_seconds, balancing, ..port }
    });
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

/// Where the packets to every cluster IP go.
fn fates(table: &Table) -> Vec<Vec<Fate>> {
    let packets = (0..4).map(|ip| packet("10.1.1.1", &format!("10.96.0.{ip}:80")));
    packets.map(|packet| trace(table, &packet).into_iter().map(|route| route.fate).collect()).collect()
}

/// The new table, as a packet sees it that read its address's number, or its service's choice, just before the commit.
fn as_seen_late(old: &Table, new: &Table) -> Table {
    let mut late = new.clone();
    for map in ["cluster-vips", "node-ports", "choices"] {
        late.maps.insert(map.into(), old.maps[map].clone());
    }
    late
}

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
    /// The kernel takes every transaction, and holds what is planned afterwards (checked by `Node::set`); every service
    /// gets each of its endpoints in turn as often as it weighs, or where a client's hash says whatever was before; or is rejected.
    #[test]
    fn every_endpoint_has_its_turn_and_nobody_else(steps in steps()) {
        let mut node = Node::new(&Settings::default());
        let mut services = std::collections::BTreeMap::new();
        for step in steps {
            node.set(&service_name(step.service), step.port.as_ref());
            match step.port {
                Some(port) => services.insert(step.service, port),
                None => services.remove(&step.service),
            };
            let mut served = BTreeSet::new();
            // Of two services with one address, the first by name has it.
            for port in services.values().filter(|port| served.insert(port.cluster_ip)) {
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
        let mut planner = Planner::new(&[Family::Ip], &Settings::default());
        let planned = |planner: &Planner| planner.tables().next().unwrap();
        let mut before = planned(&planner);
        for step in steps {
            planner.set(&service_name(step.service), Family::Ip, step.port.as_ref());
            let switched = planned(&planner);
            planner.retire();
            planner.retire();
            let retired = planned(&planner);

            let known = [fates(&before), fates(&switched)];
            let service: Vec<_> = step.port.iter().flat_map(|port| &port.endpoints).map(|e| Fate::Endpoint(e.address)).collect();
            for (old, new) in [(&before, &switched), (&switched, &retired)] {
                for (ip, late) in fates(&as_seen_late(old, new)).into_iter().enumerate() {
                    for fate in late {
                        let is_known = known.iter().any(|known| known[ip].contains(&fate)) || service.contains(&fate);
                        prop_assert!(is_known, "{fate:?} to {ip}");
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
        let mut node = Node::new(&Settings::default());
        let mut services = std::collections::BTreeMap::new();
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

        node.planner = Planner::new(&Family::ALL, &Settings::default());
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
            .filter_map(|(service, port)| Some(super::super::addresses(&service_name(*service), port.as_ref()?)))
            .flatten()
            .collect();
        let is_disputed = addresses.iter().collect::<BTreeSet<_>>().len() != addresses.len();
        prop_assert!(is_disputed || !changed.is_empty() || changes.is_empty(), "{}", changes);
        let known = [fates(&old), fates(node.table())];
        for (ip, late) in fates(&as_seen_late(&old, node.table())).into_iter().enumerate() {
            let endpoints = services.values().flatten().flat_map(|port| &port.endpoints);
            let all: Vec<_> = endpoints.map(|e| Fate::Endpoint(e.address)).collect();
            for fate in late {
                let is_known = known.iter().any(|known| known[ip].contains(&fate)) || all.contains(&fate);
                prop_assert!(is_known, "{fate:?} to {ip}");
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

//! Laws of the state, over events drawn from a cluster so small that they collide all the time.

use std::net::IpAddr;

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::{
    objects::{Hints, Kind, ServiceType, SliceEndpoint, SlicePort, Triggered},
    service_port::{Protocol, TrafficPolicy},
};

type Planned = BTreeMap<(ServicePortName, Family), ServicePort>;

fn planned(state: &State) -> Planned {
    state.service_ports().map(|(name, family, port)| ((name, family), port)).collect()
}

fn names(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(names).prop_map(str::to_owned)
}

fn object_name(known: &'static [&'static str]) -> impl Strategy<Value = ObjectName> {
    (names(&["default", "shop"]), names(known))
        .prop_map(|(namespace, name)| ObjectName { namespace: namespace.into(), name: name.into() })
}

const SERVICES: &[&str] = &["web", "db"];
const SLICES: &[&str] = &["a", "b", "c"];
const PORTS: &[&str] = &["", "http"];

fn protocol() -> impl Strategy<Value = Protocol> {
    select(&[Protocol::Tcp, Protocol::Udp][..])
}

fn service() -> impl Strategy<Value = Event> {
    let types = [ServiceType::ClusterIp, ServiceType::NodePort, ServiceType::ExternalName];
    let ports = (names(PORTS), protocol(), 80_u16..82, option::of(30_000_u16..30_002));
    let ports = ports.prop_map(|(name, protocol, port, node_port)| Port {
        name: name.into(),
        protocol,
        port,
        node_port,
    });
    let ports = vec(ports, 0..3).prop_map(|mut ports| {
        ports.sort();
        ports.dedup_by(|a, b| (&a.name, a.protocol) == (&b.name, b.protocol));
        ports
    });
    let cluster_ips = select(vec![vec![], vec!["10.96.0.1"], vec!["fd00::1"], vec!["10.96.0.1", "fd00::1"]]);
    let cluster_ips = cluster_ips.prop_map(|ips| ips.iter().map(|ip| ip.parse().unwrap()).collect());
    let outside = (
        select(vec![vec![], vec!["192.0.2.1", "2001:db8::1"]]),
        select(vec![vec![], vec!["10.2.0.0/16"], vec!["10.2.0.0/16", "10.2.3.0/24", "10.3.0.0/16"]]),
        policy(),
    );
    let has_other_proxy = prop::bool::weighted(0.2);
    (object_name(SERVICES), select(types.to_vec()), has_other_proxy, cluster_ips, ports, policy(), outside)
        .prop_map(
            |(
                name,
                service_type,
                has_other_proxy,
                cluster_ips,
                ports,
                internal_policy,
                (ips, ranges, external_policy),
            )| {
                let service = Service {
                    has_other_proxy,
                    load_balancer_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
                    source_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
                    internal_policy,
                    external_policy,
                    ..Service::new(name, service_type, cluster_ips, ports)
                };
                Event::Service(Change::Set(Arc::new(service)))
            },
        )
}

fn hints() -> impl Strategy<Value = Option<Box<Hints>>> {
    let named = |known: &'static [&'static str]| vec(names(known).prop_map(Into::into), 0..3);
    let hints = (named(&["m", "w1"]), named(&["east", "west"]));
    option::of(hints.prop_map(|(nodes, zones)| Box::new(Hints { nodes, zones })))
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    select(&[TrafficPolicy::Cluster, TrafficPolicy::Local][..])
}

/// The node that the state looks from, and another.
fn node() -> impl Strategy<Value = Event> {
    let internal_ips = select(vec![vec![], vec!["10.2.0.1"], vec!["10.3.0.1", "fd00:2::1"]]);
    (names(&["m", "w1"]), option::of(names(&["east", "west"])), internal_ips).prop_map(|(name, zone, ips)| {
        let node = Node {
            name: ObjectName { namespace: "".into(), name: name.into() },
            pod_cidrs: Vec::new(),
            internal_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            external_ips: Vec::new(),
            zone: zone.map(Into::into),
            is_leaving: false,
        };
        Event::Node(Change::Set(Arc::new(node)))
    })
}

fn slice() -> impl Strategy<Value = Event> {
    let ports = (names(PORTS), protocol(), 8080_u16..8082);
    let ports = ports.prop_map(|(name, protocol, port)| SlicePort { name: name.into(), protocol, port });
    let endpoint = (0_u8..4, option::of(names(&["m", "w1"])), any::<[bool; 3]>(), hints());
    let family = option::of(select(vec![Family::Ip, Family::Ip6]));
    (
        object_name(SLICES),
        option::of(names(SERVICES)),
        any::<bool>(),
        family,
        vec(ports, 0..3),
        vec(endpoint, 0..4),
    )
        .prop_map(|(name, service, is_headless, family, ports, endpoints)| {
            let endpoints =
                endpoints.into_iter().map(|(number, node, [ready, serving, terminating], hints)| {
                    let address: IpAddr = match family {
                        Some(Family::Ip6) => [0xfd00, 1, 0, 0, 0, 0, 0, number.into()].into(),
                        _ => [10, 1, 0, number].into(),
                    };
                    SliceEndpoint {
                        node: node.map(Into::into),
                        ready,
                        serving,
                        terminating,
                        hints,
                        ..SliceEndpoint::new(address)
                    }
                });
            let endpoints = endpoints.collect();
            let slice = EndpointSlice {
                name,
                service: service.map(Into::into),
                is_headless,
                family,
                ports,
                endpoints,
                triggered: Triggered::default(),
            };
            Event::EndpointSlice(Change::Set(Arc::new(slice)))
        })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => service(),
        6 => slice(),
        1 => node(),
        1 => names(&["m", "w1"]).prop_map(|name| {
            Event::gone(Kind::Node, ObjectName { namespace: "".into(), name: name.into() })
        }),
        1 => object_name(SERVICES).prop_map(|name| Event::gone(Kind::Service, name)),
        2 => object_name(SLICES).prop_map(|name| Event::gone(Kind::EndpointSlice, name)),
    ]
}

/// The object that an event is about.
fn subject(event: &Event) -> (Kind, ObjectName) {
    match event {
        Event::Service(Change::Set(service)) => (Kind::Service, service.name.clone()),
        Event::Service(Change::Gone(name)) => (Kind::Service, name.clone()),
        Event::EndpointSlice(Change::Set(slice)) => (Kind::EndpointSlice, slice.name.clone()),
        Event::EndpointSlice(Change::Gone(name)) => (Kind::EndpointSlice, name.clone()),
        Event::Node(Change::Set(node)) => (Kind::Node, node.name.clone()),
        Event::Node(Change::Gone(name)) => (Kind::Node, name.clone()),
        other => panic!("{other:?}"),
    }
}

/// Some events, and in any order the last one on each object.
fn events_and_last_words() -> impl Strategy<Value = (Vec<Event>, Vec<Event>)> {
    vec(event(), 0..40).prop_flat_map(|events| {
        let last: BTreeMap<_, _> = events.iter().map(|event| (subject(event), event.clone())).collect();
        (Just(events), Just(last.into_values().collect::<Vec<_>>()).prop_shuffle())
    })
}

fn built(events: impl IntoIterator<Item = Event>) -> State {
    let mut state = State::new("m");
    for event in events {
        state.apply(event);
    }
    state
}

proptest! {
    /// What the plan keeps by re-planning only what was touched is what a full plan would give.
    #[test]
    fn following_the_events_gives_the_same_as_planning_all(events in vec(event(), 0..40)) {
        let mut state = State::new("m");
        let mut kept = Planned::new();
        for event in events {
            for (name, family) in state.apply(event).take_service_ports() {
                match state.service_port(&name, family) {
                    Some(port) => drop(kept.insert((name, family), port)),
                    None => drop(kept.remove(&(name, family))),
                }
            }
            prop_assert_eq!(&kept, &planned(&state));
            let served = state.services.values().filter(|service| super::is_served(service));
            prop_assert_eq!(state.service_count(), served.count());
        }
    }

    /// Only the last word on each object counts, and in whatever order the objects are told.
    #[test]
    fn the_order_of_objects_does_not_matter((events, last_words) in events_and_last_words()) {
        let (direct, reordered) = (built(events), built(last_words));

        prop_assert_eq!(planned(&direct), planned(&reordered));
        // But for what is known of this node from before.
        let own = None;
        prop_assert_eq!(State { own: own.clone(), ..direct }, State { own, ..reordered });
    }
}

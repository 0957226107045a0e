use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::{collection::vec, option, prelude::*};
use serde_json::json;

use super::*;
use crate::{
    objects::{Hints, Note, ObjectName, Port, ServiceType, SliceEndpoint, SlicePort, Triggered},
    service_port::{Balancing, Family, Protocol, TrafficPolicy},
};

fn owner() -> Owner {
    Owner { node: "w1".into(), server: "https://192.168.14.50:6443/".into() }
}

fn text() -> impl Strategy<Value = Arc<str>> {
    prop_oneof!["[a-z0-9-]{0,12}", "\\PC{0,6}"].prop_map(Arc::from)
}

fn name() -> impl Strategy<Value = ObjectName> {
    (text(), text()).prop_map(|(namespace, name)| ObjectName { namespace, name })
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::from(Ipv6Addr::from(bits))),
    ]
}

fn network() -> impl Strategy<Value = ipnetwork::IpNetwork> {
    (ip(), 0_u8..=32).prop_map(|(ip, prefix)| ipnetwork::IpNetwork::new(ip, prefix).unwrap())
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)]
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)]
}

fn service() -> impl Strategy<Value = Object> {
    let ports = vec((text(), protocol(), any::<u16>(), option::of(any::<u16>())), 0..3);
    let ports = ports.prop_map(|ports| {
        let port = |(name, protocol, port, node_port)| Port { name, protocol, port, node_port };
        ports.into_iter().map(port).collect()
    });
    let kind = prop_oneof![
        Just(ServiceType::ClusterIp),
        Just(ServiceType::NodePort),
        Just(ServiceType::LoadBalancer),
        Just(ServiceType::ExternalName)
    ];
    let balancing =
        prop_oneof![Just(Balancing::RoundRobin), Just(Balancing::Random), Just(Balancing::SourceHash)];
    let known = (name(), kind, vec(ip(), 0..3), ports);
    let ips = (vec(ip(), 0..3), vec(ip(), 0..3), vec(network(), 0..3));
    let rest =
        (any::<bool>(), policy(), policy(), option::of(any::<u16>()), option::of(any::<u32>()), balancing);
    (known, ips, rest, vec(".{0,9}", 0..2)).prop_map(
        |((name, kind, cluster_ips, ports), ips, rest, notes)| {
            let (external_ips, load_balancer_ips, source_ranges) = ips;
            let (
                has_other_proxy,
                internal_policy,
                external_policy,
                health_check_node_port,
                affinity,
                balancing,
            ) = rest;
            let notes = notes.into_iter().map(|text| Note { field: text.clone(), reason: text }).collect();
            Object::Service(Arc::new(Service {
                has_other_proxy,
                external_ips,
                load_balancer_ips,
                source_ranges,
                internal_policy,
                external_policy,
                health_check_node_port,
                affinity_seconds: affinity,
                balancing,
                notes,
                ..Service::new(name, kind, cluster_ips, ports)
            }))
        },
    )
}

fn slice() -> impl Strategy<Value = Object> {
    let hints =
        (vec(text(), 0..2), vec(text(), 0..2)).prop_map(|(nodes, zones)| Box::new(Hints { nodes, zones }));
    let texts = (option::of(text()), option::of(text()), option::of(text()));
    let conditions = (any::<bool>(), any::<bool>(), any::<bool>());
    let endpoint = (ip(), texts, conditions, option::of(hints)).prop_map(
        |(address, (target, hostname, node), (ready, serving, terminating), hints)| SliceEndpoint {
            address,
            target,
            hostname,
            node,
            ready,
            serving,
            terminating,
            hints,
        },
    );
    let port = (text(), protocol(), any::<u16>()).prop_map(|(name, protocol, port)| SlicePort {
        name,
        protocol,
        port,
    });
    let family = option::of(prop_oneof![Just(Family::Ip), Just(Family::Ip6)]);
    (name(), option::of(text()), any::<bool>(), family, vec(port, 0..3), vec(endpoint, 0..4)).prop_map(
        |(name, service, is_headless, family, ports, endpoints)| {
            Object::EndpointSlice(Arc::new(EndpointSlice {
                triggered: Triggered::default(),
                name,
                service,
                is_headless,
                family,
                ports,
                endpoints,
            }))
        },
    )
}

fn other() -> impl Strategy<Value = Object> {
    let node =
        (name(), vec(network(), 0..3), vec(ip(), 0..3), vec(ip(), 0..3), option::of(text()), any::<bool>());
    let node = node.prop_map(|(name, pod_cidrs, internal_ips, external_ips, zone, is_leaving)| {
        Object::Node(Arc::new(Node { name, pod_cidrs, internal_ips, external_ips, zone, is_leaving }))
    });
    let cidr = (name(), vec(network(), 0..3))
        .prop_map(|(name, cidrs)| Object::ServiceCidr(Arc::new(ServiceCidr { name, cidrs })));
    prop_oneof![node, cidr]
}

fn objects() -> impl Strategy<Value = Vec<Object>> {
    vec(prop_oneof![service(), slice(), other()], 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_kept_is_read_as_it_was(objects in objects(), as_of: u64) {
        let kept = decode(&encoded(as_of, &objects)).unwrap();

        prop_assert_eq!(kept, Kept { owner: owner(), as_of, objects });
    }

    #[test]
    fn a_flipped_bit_or_a_missing_end_is_refused(objects in objects(), place: prop::sample::Index, bit in 0_u8..8) {
        let bytes = encoded(7, &objects);
        let place = place.index(bytes.len());
        let mut flipped = bytes.clone();
        flipped[place] ^= 1_u8 << bit;

        prop_assert!(decode(&flipped).is_err());
        prop_assert!(decode(&bytes[..place]).is_err());
    }
}

fn encoded(as_of: u64, objects: &[Object]) -> Vec<u8> {
    encode(&owner(), as_of, objects).unwrap().flat_map(Result::unwrap).collect()
}

fn state(objects: Vec<Object>) -> Kept {
    Kept { owner: owner(), as_of: 1_000_000, objects }
}

#[test]
fn weights_are_kept_too() {
    let annotations = json!({"fairway.dev/weights": "web-0=3, 10.244.1.2=2"});
    let service = json!({
        "kind": "Service", "metadata": {"name": "web", "annotations": annotations},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    });
    let objects = vec![Object::parse(service).unwrap().unwrap()];

    assert_eq!(decode(&encoded(7, &objects)).unwrap().objects, objects);
}

#[test]
fn another_version_is_named() {
    let said = decode(b"fairway-state 2\nwhatever").unwrap_err().to_string();

    assert_eq!(said, "its format is version 2, and this daemon reads 1");
    assert!(matches!(decode(b""), Err(Refused::Other)));
}

#[test]
fn another_node_s_or_cluster_s_is_refused() {
    let foreign = |own: &Owner| state(Vec::new()).age(own, 1_000_000).unwrap_err().to_string();

    let said = foreign(&Owner { node: "w2".into(), ..owner() });
    assert_eq!(
        said,
        "it is of node w1 at https://192.168.14.50:6443/, and this is w2 at https://192.168.14.50:6443/"
    );
    foreign(&Owner { server: "https://10.0.0.1/".into(), ..owner() });
}

#[test]
fn what_is_older_than_a_week_is_refused() {
    const WEEK: u64 = 7 * 24 * 3_600;
    let kept = state(Vec::new());

    assert_eq!(kept.age(&owner(), 1_000_000 + WEEK).unwrap(), Duration::from_secs(WEEK));
    assert_eq!(kept.age(&owner(), 0).unwrap(), Duration::ZERO);
    let said = kept.age(&owner(), 1_000_001 + WEEK).unwrap_err().to_string();
    assert_eq!(said, "it is 7 days old");
}

#[test]
fn ten_thousand_services_with_two_endpoints_each_take_five_megabytes() {
    let mut objects = Vec::new();
    for number in 0..10_000_u32 {
        let (second, first) = (number / 250, number % 250);
        let name = format!("service-{number}");
        let service = json!({
            "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIP": format!("10.96.{second}.{first}"), "ports": [{"name": "http", "port": 80}]},
        });
        let endpoint = |pod: u32| {
            json!({
                "addresses": [format!("10.{pod}.{second}.{first}")], "nodeName": format!("node-{pod}"),
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "name": format!("{name}-5d4f8c7b9-x2x{pod}z")},
            })
        };
        let labels = json!({"kubernetes.io/service-name": name});
        let slice = json!({
            "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{name}-abcde"), "namespace": "default", "labels": labels},
            "ports": [{"name": "http", "port": 8080}], "endpoints": [endpoint(1), endpoint(2)],
        });
        objects.extend([service, slice].map(|object| Object::parse(object).unwrap().unwrap()));
    }

    let bytes = encoded(7, &objects).len();

    assert!(bytes < 6_000_000, "{bytes}");
}

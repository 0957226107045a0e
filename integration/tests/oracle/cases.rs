//! Services and packets, drawn at random from a small world, so that they meet.

use std::net::{IpAddr, SocketAddr};

use dataplane::{
    nft::{LinkName, Payload},
    packet::{Family, Protocol},
};
use ipnetwork::IpNetwork;
use proptest::{collection, option, prelude::*, sample};
use proxy::{
    config::{ExternalIps, NodePortAddresses},
    objects::{Node, ObjectName},
    plan::{LocalPods, Settings},
    service_port::{Balancing, Endpoint, ServicePort, ServicePortName, TrafficPolicy},
    surroundings::Surroundings,
};

use super::street::Street;

/// A node's settings, services, and packets to send.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) settings: Settings,
    pub(crate) surroundings: Surroundings,
    /// This node and another.
    pub(crate) nodes: [Node; 2],
    pub(crate) services: Vec<(ServicePortName, ServicePort)>,
    pub(crate) shots: Vec<Shot>,
}

/// Who sends a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sender {
    /// A process of the node itself.
    Node,
    /// A machine outside, from one of its two addresses.
    Stranger(usize),
    /// One of two pods on the node.
    Pod(usize),
}

/// The first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shot {
    pub(crate) sender: Sender,
    pub(crate) payload: Payload,
    /// A ping's has port 0.
    pub(crate) destination: SocketAddr,
}

/// All of them.
pub(crate) const SENDERS: [Sender; 5] =
    [Sender::Node, Sender::Stranger(0), Sender::Stranger(1), Sender::Pod(0), Sender::Pod(1)];

const CLUSTER_IPS: [[&str; 2]; 3] =
    [["10.96.0.1", "fd00:96::1"], ["10.96.0.2", "fd00:96::2"], ["10.96.0.3", "fd00:96::3"]];
const EXTERNAL_IPS: [[&str; 2]; 2] = [["203.0.113.1", "2001:db8::1"], ["203.0.113.2", "2001:db8::2"]];
const BALANCER_IPS: [[&str; 2]; 2] = [["203.0.113.11", "2001:db8::11"], ["203.0.113.12", "2001:db8::12"]];
const REMOTE: [[&str; 2]; 2] = [["10.244.2.2", "fd00:244:2::2"], ["10.244.2.3", "fd00:244:2::3"]];
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];
const POD_CIDRS: [&str; 2] = ["10.244.0.0/16", "fd00:244::/32"];

const OWN_POD_CIDR: [&str; 2] = ["10.244.1.0/24", "fd00:244:1::/48"];
const SERVICE_CIDR: [&str; 2] = ["10.96.0.0/16", "fd00:96::/64"];
const STRANGERS: [&str; 2] = ["192.168.1.0/24", "fd00:1::/64"];
const FEW_EXTERNAL_IPS: [&str; 2] = ["203.0.113.1/32", "2001:db8::1/128"];
const NODE_IP: [&str; 2] = ["192.168.2.1", "fd00:2::1"];

/// Networks that the remote endpoints are in, or one of them is not, or more than they.
const OTHER_POD_CIDRS: [[&str; 2]; 3] = [
    ["10.244.2.0/24", "fd00:244:2::/48"],
    ["10.244.2.2/31", "fd00:244:2::2/127"],
    ["10.244.0.0/15", "fd00:244::/29"],
];
/// Networks that pods show themselves in.
const EXCEPTED: [[&str; 2]; 2] = [["203.0.113.2/32", "2001:db8::2/128"], ["0.0.0.0/0", "::/0"]];

const PORTS: [u16; 2] = [80, 81];
const NODE_PORTS: [u16; 2] = [30_080, 30_081];
const TARGET_PORT: u16 = 8_080;
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn of<const N: usize>(family: Family, pool: [[&str; 2]; N]) -> Vec<IpAddr> {
    pool.iter().map(|pair| pair[usize::from(family == Family::Ip6)].parse().unwrap()).collect()
}

/// All addresses that services may have, and one that none has.
pub(crate) fn service_addresses(family: Family) -> Vec<IpAddr> {
    [
        of(family, CLUSTER_IPS),
        of(family, EXTERNAL_IPS),
        of(family, BALANCER_IPS),
        of(family, [["10.96.0.4", "fd00:96::4"]]),
    ]
    .concat()
}

/// All endpoints that services may have: two on the node, two elsewhere.
pub(crate) fn endpoints(family: Family) -> Vec<Endpoint> {
    let local = [0, 1]
        .map(|pod| Endpoint::new((Street::address(family, Sender::Pod(pod)), TARGET_PORT).into(), true));
    let remote = of(family, REMOTE).into_iter().map(|ip| Endpoint::new((ip, TARGET_PORT).into(), false));
    local.into_iter().chain(remote).collect()
}

/// Cases of a family.
pub(crate) fn case(family: Family) -> impl Strategy<Value = Case> {
    let services = collection::vec(service(family), 1..4);
    let shots = collection::vec(shot(family), 1..40);
    (settings(family), nodes(family), services, shots).prop_map(
        |((settings, surroundings), nodes, services, shots)| {
            let named = services.into_iter().zip(0..).map(|((protocol, port), number)| {
                let name = format!("service-{number}").into();
                (ServicePortName { namespace: "default".into(), name, port: "".into(), protocol }, port)
            });
            Case { settings, surroundings, nodes, services: named.collect(), shots }
        },
    )
}

fn in_family(family: Family, pair: [&str; 2]) -> IpNetwork {
    pair[usize::from(family == Family::Ip6)].parse().unwrap()
}

fn nodes(family: Family) -> impl Strategy<Value = [Node; 2]> {
    let network = move |pair| in_family(family, pair);
    let pods = prop_oneof![1 => Just(None), 4 => sample::select(&OTHER_POD_CIDRS[..]).prop_map(Some)];
    let addresses = option::of(sample::select(&EXTERNAL_IPS[..]));
    (pods, addresses).prop_map(move |(pods, address)| {
        let node = |name: &str, pod_cidrs: Vec<IpNetwork>, internal_ips: Vec<IpAddr>| Node {
            name: ObjectName { namespace: "".into(), name: name.into() },
            pod_cidrs,
            internal_ips,
            external_ips: Vec::new(),
            zone: None,
            is_leaving: false,
        };
        let address = address.map(|pair| in_family(family, pair).ip());
        [
            node("own", vec![network(OWN_POD_CIDR)], vec![network(NODE_IP).ip()]),
            node("other", pods.map(network).into_iter().collect(), address.into_iter().collect()),
        ]
    })
}

fn settings(family: Family) -> impl Strategy<Value = (Settings, Surroundings)> {
    let network = move |pair| in_family(family, pair);
    let excepted = option::of(sample::select(&EXCEPTED[..]));
    let excepted =
        option::weighted(0.7, excepted.prop_map(move |pair| pair.into_iter().map(network).collect()));
    let local_pods = prop_oneof![
        Just(LocalPods::ClusterCidr(Vec::new())),
        Just(LocalPods::ClusterCidr(vec![network(POD_CIDRS)])),
        Just(LocalPods::NodeCidr),
        Just(LocalPods::Link(LinkName::Prefix("fw".into()))),
    ];
    let node_port_addresses = prop_oneof![
        2 => Just(NodePortAddresses::All),
        1 => Just(NodePortAddresses::Primary),
        1 => Just(NodePortAddresses::Cidrs(vec![network(STRANGERS)])),
    ];
    let external_ips = prop_oneof![
        3 => Just(ExternalIps::All),
        1 => Just(ExternalIps::Within(vec![network(FEW_EXTERNAL_IPS)])),
    ];
    let masquerade_all = proptest::bool::weighted(0.2);
    let switches = (masquerade_all, any::<bool>(), any::<bool>());
    let surroundings = (any::<bool>(), any::<bool>());
    (local_pods, node_port_addresses, external_ips, excepted, switches, surroundings).prop_map(
        move |(local_pods, node_port_addresses, external_ips, excepted, switches, surroundings)| {
            let (masquerade_all, ping_cluster_ips, localhost_node_ports) = switches;
            let (has_pod_cidr, has_service_cidr) = surroundings;
            let settings = Settings {
                local_pods,
                node_port_addresses,
                external_ips,
                masquerade_all,
                unmasqueraded_by_pods: excepted,
                ping_cluster_ips,
                localhost_node_ports,
                ..Settings::default()
            };
            let list = |is_there: bool, pair| if is_there { vec![network(pair)] } else { Vec::new() };
            let surroundings = Surroundings {
                pod_cidrs: list(has_pod_cidr, OWN_POD_CIDR),
                node_ips: vec![network(NODE_IP).ip()],
                service_cidrs: list(has_service_cidr, SERVICE_CIDR),
            };
            (settings, surroundings)
        },
    )
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)]
}

/// Mostly all the same.
fn weights() -> impl Strategy<Value = [u32; 4]> {
    prop_oneof![2 => Just([1; 4]), 1 => [1..4_u32, 1..4_u32, 1..4_u32, 1..4_u32]]
}

fn some_of(pool: Vec<IpAddr>) -> impl Strategy<Value = Vec<IpAddr>> {
    let all = pool.len();
    sample::subsequence(pool, 0..=all)
}

/// Who may use a balancer's addresses: everybody, one stranger, the pods, or the node.
fn source_ranges(family: Family) -> impl Strategy<Value = Vec<IpNetwork>> {
    let range = |sender| IpNetwork::from(Street::address(family, sender));
    let pool = vec![range(Sender::Stranger(0)), range(Sender::Pod(0)), range(Sender::Node)];
    sample::subsequence(pool, 0..=2)
}

fn service(family: Family) -> impl Strategy<Value = (Protocol, ServicePort)> {
    let addresses = (
        sample::select(of(family, CLUSTER_IPS)),
        sample::select(&PORTS[..]),
        option::of(sample::select(&NODE_PORTS[..])),
        some_of(of(family, EXTERNAL_IPS)),
        some_of(of(family, BALANCER_IPS)),
        source_ranges(family),
    );
    let balancing = sample::select(vec![Balancing::RoundRobin, Balancing::Random, Balancing::SourceHash]);
    let choice = (
        balancing,
        weights(),
        policy(),
        policy(),
        option::weighted(0.3, Just(10_800_u32)),
        sample::subsequence(endpoints(family), 0..=4),
    );
    (sample::select(&PROTOCOLS[..]), addresses, choice).prop_map(|(protocol, addresses, choice)| {
        let (cluster_ip, port, node_port, external_ips, load_balancer_ips, source_ranges) = addresses;
        let (balancing, weights, internal_policy, external_policy, affinity_seconds, mut endpoints) = choice;
        endpoints.iter_mut().zip(weights).for_each(|(endpoint, weight)| endpoint.weight = weight);
        let is_local = [internal_policy, external_policy].contains(&TrafficPolicy::Local);
        let local = endpoints.iter().filter(|endpoint| endpoint.is_local && is_local).copied();
        let port = ServicePort {
            node_port,
            external_ips,
            load_balancer_ips,
            source_ranges,
            internal_policy,
            external_policy,
            affinity_seconds,
            balancing,
            local_endpoints: local.collect(),
            ..ServicePort::new(cluster_ip, port, endpoints)
        };
        (protocol, port)
    })
}

fn shot(family: Family) -> impl Strategy<Value = Shot> {
    let node: Vec<_> = Street::node_addresses(family).into_iter().collect();
    let targets = endpoints(family).into_iter().map(|endpoint| endpoint.address);
    let destination = prop_oneof![
        6 => (sample::select(service_addresses(family)), sample::select(&PORTS[..])).prop_map(SocketAddr::from),
        3 => (sample::select(node), sample::select(&NODE_PORTS[..])).prop_map(SocketAddr::from),
        1 => sample::select(targets.collect::<Vec<_>>()),
        1 => sample::select(&NODE_PORTS[..]).prop_map(move |port| {
            SocketAddr::new(LOOPBACK[usize::from(family == Family::Ip6)].parse().unwrap(), port)
        }),
    ];
    let payload = prop_oneof![
        8 => sample::select(&PROTOCOLS[..]).prop_map(Payload::Transport),
        1 => Just(Payload::EchoRequest),
    ];
    (sample::select(&SENDERS[..]), payload, destination).prop_map(|(sender, payload, mut destination)| {
        let sender = if destination.ip().is_loopback() { Sender::Node } else { sender };
        if payload == Payload::EchoRequest {
            destination.set_port(0);
        }
        Shot { sender, payload, destination }
    })
}

//! Where do packets go, and what does a change cost? Goldens show the tables; laws hold for any history.

use std::net::{IpAddr, SocketAddr};

use dataplane::nft::{
    Change, Data, Fake, Held, Key, LinkName, Packet, Payload, Route, Table, Transaction, diff, trace,
};
use proptest::prelude::*;

use super::{LocalPods, Planner, Settings, Shadowed, Surroundings, vips};
use crate::{
    config::{ExternalIps, NodePortAddresses},
    service_port::{Endpoint, Family, Protocol, ServicePort, ServicePortName, TrafficPolicy},
};

mod balancing;
mod laws;
mod leaving;
mod limits;

/// A service port named `default/<name>:http`.
fn name(name: &str) -> ServicePortName {
    ServicePortName {
        namespace: "default".into(),
        name: name.into(),
        port: "http".into(),
        protocol: Protocol::Tcp,
    }
}

/// A service port of that cluster IP, with endpoints at 10.244.1.n:8080; negative ones are on this node.
fn port(cluster_ip: &str, endpoints: &[i16]) -> ServicePort {
    let endpoint = |n: &i16| {
        let address = IpAddr::from([10, 244, 1, u8::try_from(n.unsigned_abs()).unwrap()]);
        Endpoint::new(SocketAddr::new(address, 8080), *n < 0)
    };
    ServicePort::new(cluster_ip.parse().unwrap(), 80, endpoints.iter().map(endpoint).collect())
}

/// The first packet of a TCP connection from `source` to `destination`, by a link of this node, which is 192.168.14.50.
fn packet(source: &str, destination: &str) -> Packet {
    Packet {
        link: Some("eth0".into()),
        payload: Payload::Transport(Protocol::Tcp),
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        host: ["192.168.14.50".parse().unwrap()].into(),
    }
}

/// A planner whose changes are committed to a fake, as the daemon does.
struct Node {
    planner: Planner,
    kernel: Fake,
}

impl Node {
    fn new(settings: &Settings) -> Self {
        Self::within(settings, &Surroundings::default())
    }

    fn within(settings: &Settings, surroundings: &Surroundings) -> Self {
        let planner = Planner::within(&Family::ALL, settings, surroundings);
        let mut kernel = Fake::default();
        let mut everything = Transaction::default();
        for table in planner.tables() {
            everything.replace(&table);
        }
        kernel.commit(&everything).unwrap();
        Self { planner, kernel }
    }

    /// Sets a service port and commits, then retires and commits; returns the two transactions.
    fn set(&mut self, name: &ServicePortName, port: Option<&ServicePort>) -> (Transaction, Transaction) {
        self.planner.set(name, Family::Ip, port);
        let switched = self.commit();
        while !self.planner.is_settled() {
            self.planner.retire();
        }
        (switched, self.commit())
    }

    fn commit(&mut self) -> Transaction {
        let transaction = self.planner.take();
        self.kernel.commit(&transaction).unwrap();
        for table in self.planner.tables() {
            let held = self.kernel.table(table.family).unwrap();
            // Only what differs is told: a table is long.
            assert!(*held == table, "{}", diff(Some(&Held::from(held)), &table));
        }
        transaction
    }

    fn table(&self) -> &Table {
        self.kernel.table(Family::Ip).unwrap()
    }

    /// The ways that a packet may take, as text.
    fn ways(&self, packet: &Packet) -> String {
        let ways = trace(self.table(), packet);
        ways.iter().map(Route::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Settings that know the pods' network.
fn in_cluster() -> Settings {
    Settings {
        local_pods: LocalPods::ClusterCidr(vec!["10.244.0.0/16".parse().unwrap()]),
        ..Settings::default()
    }
}

fn check(service: &ServicePort, packet: &Packet, expected: &str) {
    let mut node = Node::new(&Settings::default());
    node.set(&name("web"), Some(service));

    assert_eq!(node.ways(packet), expected);
}

#[test]
fn the_table_without_services() {
    let planner = Planner::new(&Family::ALL, &Settings::default());

    insta::assert_snapshot!("empty", planner.tables().map(|table| table.to_string()).collect::<String>());
}

#[test]
fn a_whole_table() {
    let mut node = Node::new(&in_cluster());

    node.set(&name("none"), Some(&port("10.96.0.1", &[])));
    node.set(&name("one"), Some(&port("10.96.0.2", &[-2])));
    node.set(&name("three"), Some(&ServicePort { node_port: Some(30_632), ..port("10.96.0.3", &[2, 3, 4]) }));
    let sticky = ServicePort { affinity_seconds: Some(10_800), ..port("10.96.0.4", &[2, 3]) };
    node.set(&name("sticky"), Some(&sticky));

    let external = ServicePort {
        external_ips: vec![[192, 0, 2, 1].into()],
        load_balancer_ips: vec![[192, 0, 2, 2].into()],
        source_ranges: vec!["198.51.100.0/24".parse().unwrap()],
        external_policy: TrafficPolicy::Local,
        local_endpoints: vec![Endpoint::new(([10, 244, 1, 2], 8080).into(), true)],
        ..port("10.96.0.5", &[-2, 3])
    };
    node.set(&name("external"), Some(&external));

    insta::assert_snapshot!("whole", node.table());
}

#[test]
fn the_only_endpoint_gets_every_connection() {
    check(&port("10.96.0.1", &[2]), &packet("10.244.2.9", "10.96.0.1:80"), "10.244.1.2:8080");
}

#[test]
fn endpoints_take_turns() {
    check(
        &port("10.96.0.1", &[2, 3, 4]),
        &packet("10.244.2.9", "10.96.0.1:80"),
        "10.244.1.3:8080, 10.244.1.4:8080, 10.244.1.2:8080",
    );
}

#[test]
fn other_ports_and_protocols_of_a_cluster_ip_are_rejected() {
    let service = port("10.96.0.1", &[2]);
    check(&service, &packet("10.244.2.9", "10.96.0.1:81"), "rejected");
    let udp = Packet { payload: Payload::Transport(Protocol::Udp), ..packet("10.244.2.9", "10.96.0.1:80") };
    check(&service, &udp, "rejected");
    check(&service, &packet("10.244.2.9", "10.96.0.2:80"), "untouched");
    let from_this_host = Packet { link: None, ..packet("192.168.14.50", "10.96.0.1:81") };
    check(&service, &from_this_host, "rejected");
}

#[test]
fn without_endpoints_connections_are_rejected() {
    check(&port("10.96.0.1", &[]), &packet("10.244.2.9", "10.96.0.1:80"), "rejected");
}

#[test]
fn a_node_port_answers_on_every_address_of_the_node_masqueraded() {
    let service = ServicePort { node_port: Some(30_632), ..port("10.96.0.1", &[2]) };
    check(&service, &packet("192.168.14.1", "192.168.14.50:30632"), "10.244.1.2:8080 masqueraded");
    let past = packet("192.168.14.1", "192.168.14.51:30632");
    check(&service, &past, "untouched");
    let local = Packet { link: None, ..packet("127.0.0.1", "127.0.0.1:30632") };
    check(&service, &local, "untouched");
}

#[test]
fn an_endpoint_that_reaches_itself_is_masqueraded() {
    let service = port("10.96.0.1", &[-2, -3]);
    check(&service, &packet("10.244.1.2", "10.96.0.1:80"), "10.244.1.3:8080, 10.244.1.2:8080 masqueraded");
}

#[test]
fn sources_outside_the_pod_network_are_masqueraded() {
    let mut node = Node::new(&in_cluster());
    node.set(&name("web"), Some(&port("10.96.0.1", &[2])));

    assert_eq!(node.ways(&packet("192.168.14.1", "10.96.0.1:80")), "10.244.1.2:8080 masqueraded");
    assert_eq!(node.ways(&packet("10.244.2.9", "10.96.0.1:80")), "10.244.1.2:8080");
}

#[test]
fn all_sources_are_masqueraded_if_so_set() {
    let mut node = Node::new(&Settings { masquerade_all: true, ..Settings::default() });
    node.set(&name("web"), Some(&port("10.96.0.1", &[2])));

    assert_eq!(node.ways(&packet("10.244.2.9", "10.96.0.1:80")), "10.244.1.2:8080 masqueraded");
}

#[test]
fn a_sticky_service_gives_new_clients_their_turn() {
    let service = ServicePort { affinity_seconds: Some(60), ..port("10.96.0.1", &[2, 3]) };
    check(&service, &packet("10.244.2.9", "10.96.0.1:80"), "10.244.1.3:8080, 10.244.1.2:8080");
    let service = ServicePort { affinity_seconds: Some(60), ..port("10.96.0.1", &[2]) };
    check(&service, &packet("10.244.2.9", "10.96.0.1:80"), "10.244.1.2:8080");
}

#[test]
fn a_sticky_service_serves_clients_for_whom_there_is_no_room() {
    let mut node = Node::new(&Settings::default());
    node.set(&name("web"), Some(&ServicePort { affinity_seconds: Some(60), ..port("10.96.0.1", &[2, 3]) }));
    let mut table = node.table().clone();
    let clients = table.maps.get_mut("clients").unwrap();
    clients.kind.dynamic = Some(1);
    let another = Key::Client("10.244.2.8".parse().unwrap(), 0xc000_0000);
    clients.elements.insert(another, Data::Number(0xc000_0001).into());

    let fates: Vec<_> =
        trace(&table, &packet("10.244.2.9", "10.96.0.1:80")).iter().map(Route::to_string).collect();

    assert_eq!(fates, ["10.244.1.3:8080", "10.244.1.2:8080"]);
}

#[test]
fn a_client_of_an_endpoint_that_leaves_takes_a_turn_before_the_endpoint_s_slot_is_gone() {
    let mut node = Node::new(&Settings::default());
    let sticky = |endpoints| ServicePort { affinity_seconds: Some(60), ..port("10.96.0.1", endpoints) };
    let remembered = |table: &Table| {
        let mut table = table.clone();
        let client = Key::Client("10.244.2.9".parse().unwrap(), 0xc000_0000);
        let clients = table.maps.get_mut("clients").unwrap();
        clients.elements.insert(client, Data::Number(0xc000_0002).into());
        let ways = trace(&table, &packet("10.244.2.9", "10.96.0.1:80"));
        ways.iter().map(Route::to_string).collect::<Vec<_>>()
    };
    node.set(&name("web"), Some(&sticky(&[2, 3])));
    assert_eq!(remembered(node.table()), ["10.244.1.3:8080"]);

    node.planner.set(&name("web"), Family::Ip, Some(&sticky(&[2, 4])));
    node.commit();

    assert!(node.table().maps["slots"].elements.contains_key(&Key::Number(0xc000_0002)));
    let mut moved = remembered(node.table());
    moved.sort();
    assert_eq!(moved, ["10.244.1.2:8080", "10.244.1.4:8080"]);
    while !node.planner.is_settled() {
        node.planner.retire();
    }
    node.commit();
    assert!(node.table().maps["departed"].elements.is_empty());
}

#[test]
fn beyond_a_thousand_timeouts_a_service_is_served_without_affinity() {
    let mut node = Node::new(&Settings::default());
    let ip = |n: u32| IpAddr::from((0x0a60_0000 + n).to_be_bytes()).to_string();
    for n in 1..=1025 {
        let endpoints: &[i16] = if n == 1 { &[2] } else { &[3] };
        let service = ServicePort { affinity_seconds: Some(n), ..port(&ip(n), endpoints) };
        node.planner.set(&name(&n.to_string()), Family::Ip, Some(&service));
    }
    node.commit();

    let way = |n| node.ways(&packet("10.244.2.9", &format!("{}:80", ip(n))));
    assert_eq!([way(1), way(2), way(1025)], ["10.244.1.2:8080", "10.244.1.3:8080", "10.244.1.3:8080"]);
    assert!(
        node.table().chains.contains_key("affinity-1024")
            && !node.table().chains.contains_key("affinity-1025")
    );
}

/// The changes of a transaction, without which map they are to.
fn shape(transaction: &Transaction) -> (usize, usize, usize) {
    let (added, removed) = transaction.elements();
    let others = transaction
        .changes()
        .iter()
        .filter(|(_, change)| !matches!(change, Change::AddElements(..) | Change::DeleteElements(..)));
    (added, removed, others.count())
}

#[test]
fn a_replaced_endpoint_takes_over_the_slot() {
    let mut node = Node::new(&Settings::default());
    node.set(&name("web"), Some(&port("10.96.0.1", &[2, 3, 4])));

    let (switch, retire) = node.set(&name("web"), Some(&port("10.96.0.1", &[2, 4, 5])));

    assert_eq!(shape(&switch), (1, 1, 0), "{switch}");
    assert!(retire.is_empty());
    let ways = node.ways(&packet("10.244.2.9", "10.96.0.1:80"));
    assert_eq!(ways, "10.244.1.5:8080, 10.244.1.4:8080, 10.244.1.2:8080");
}

#[test]
fn a_change_of_endpoints_is_elements_only_once_a_class_is_there() {
    let mut node = Node::new(&Settings::default());
    node.set(&name("a"), Some(&port("10.96.0.1", &[2, 3])));
    node.set(&name("b"), Some(&port("10.96.0.2", &[2, 3, 4])));

    let (switch, retire) = node.set(&name("a"), Some(&port("10.96.0.1", &[2, 3, 4])));

    assert_eq!((shape(&switch), shape(&retire)), ((4, 1, 0), (0, 2, 0)), "{switch}{retire}");
}

#[test]
fn numbers_that_were_left_wait_for_the_retirement_after_the_next() {
    let mut node = Node::new(&Settings::default());
    node.set(&name("a"), Some(&port("10.96.0.1", &[2])));
    let slots =
        |node: &Node| node.planner.tables().map(|table| table.maps["slots"].elements.len()).sum::<usize>();
    let before = slots(&node);

    node.planner.set(&name("a"), Family::Ip, None);
    node.commit();
    node.planner.retire();
    assert_eq!((slots(&node), node.planner.is_settled()), (before, false));
    node.planner.retire();
    assert_eq!((slots(&node), node.planner.is_settled()), (0, true));
}

#[test]
fn a_comment_is_as_long_as_the_kernel_keeps_it() {
    let mut node = Node::new(&Settings::default());

    node.set(&name(&"ä".repeat(100)), Some(&port("10.96.0.1", &[2])));

    let comments = node.table().maps["cluster-vips"].elements.values().map(|element| element.comment.clone());
    let cut = format!("default/{}", "ä".repeat((126 - 8) / 2));
    assert_eq!(comments.collect::<Vec<_>>(), [Some(cut.into())]);
}

#[test]
fn a_family_that_is_not_planned_gets_no_table() {
    let mut planner = Planner::new(&[Family::Ip], &Settings::default());

    planner.set(
        &name("six"),
        Family::Ip6,
        Some(&ServicePort { endpoints: Vec::new(), ..port("fd00::1", &[]) }),
    );

    assert_eq!(planner.tables().count(), 1);
    assert!(planner.take().is_empty());
}

#[test]
fn a_chain_comes_before_whatever_leads_to_it() {
    let mut planner = Planner::new(&[Family::Ip], &Settings::default());
    planner.set(&name("web"), Family::Ip, Some(&port("10.96.0.1", &[2, 3])));
    planner.set(
        &name("sticky"),
        Family::Ip,
        Some(&ServicePort { affinity_seconds: Some(60), ..port("10.96.0.2", &[2, 3]) }),
    );

    let (chains, rest) = (planner.take_chains(), planner.take());

    let is_chain = |change: &Change| matches!(change, Change::AddChain(..) | Change::AddRule(..));
    assert!(!chains.is_empty() && chains.changes().iter().all(|(_, change)| is_chain(change)), "{chains}");
    assert!(!rest.is_empty() && !rest.changes().iter().any(|(_, change)| is_chain(change)), "{rest}");
}

#[test]
fn setting_the_same_again_changes_nothing() {
    let mut node = Node::new(&Settings::default());
    let service = ServicePort { node_port: Some(30_000), ..port("10.96.0.1", &[2, -3]) };
    node.set(&name("web"), Some(&service));

    let (switch, retire) = node.set(&name("web"), Some(&service));

    assert!(switch.is_empty() && retire.is_empty(), "{switch}{retire}");
}

#[test]
fn what_is_removed_leaves_no_element_behind() {
    let mut node = Node::new(&Settings::default());
    let service = ServicePort { node_port: Some(30_000), ..port("10.96.0.1", &[-2, 3, 4]) };
    let sticky = ServicePort { affinity_seconds: Some(60), ..port("10.96.0.2", &[-2, 3, 4]) };
    node.set(&name("web"), Some(&service));
    node.set(&name("sticky"), Some(&sticky));

    node.set(&name("web"), None);
    node.set(&name("sticky"), None);

    for (name, map) in &node.table().maps {
        // What classes and blocks there are stays, for the next service.
        assert!(map.elements.is_empty() || name == "classes" || name == "stickies", "{name}: {map:?}");
    }
}

#[test]
fn an_address_that_two_services_want_goes_to_the_first_by_name() {
    let (a, b) = (port("10.96.0.1", &[2]), port("10.96.0.1", &[3]));
    for order in [["a", "b"], ["b", "a"]] {
        let mut node = Node::new(&Settings::default());
        let mut shadowed = Vec::new();
        for service in order {
            let port = if service == "a" { &a } else { &b };
            shadowed.extend(node.planner.set(&name(service), Family::Ip, Some(port)));
        }
        node.commit();

        let said = shadowed.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(said, ["10.96.0.1 . tcp . 80 is not served for default/b:http: default/a:http has it"]);
        assert_eq!(node.ways(&packet("10.244.2.9", "10.96.0.1:80")), "10.244.1.2:8080");

        node.set(&name("a"), None);
        assert_eq!(node.ways(&packet("10.244.2.9", "10.96.0.1:80")), "10.244.1.3:8080");
        node.set(&name("b"), None);
        assert_eq!(node.ways(&packet("10.244.2.9", "10.96.0.1:80")), "untouched");
    }
}

/// This node in its surroundings, with the service `web` on node port 30632.
fn with_node_port(settings: &Settings) -> Node {
    let surroundings = Surroundings {
        pod_cidrs: vec!["10.244.0.0/24".parse().unwrap()],
        node_ips: vec!["192.168.14.50".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
    };
    let mut node = Node::within(settings, &surroundings);
    node.set(&name("web"), Some(&ServicePort { node_port: Some(30_632), ..port("10.96.0.1", &[2]) }));
    node
}

/// A packet from a stranger to an address of this node, which has that one besides others.
fn to_this_host(destination: &str) -> Packet {
    let packet = packet("198.51.100.1", destination);
    Packet { host: [packet.destination.ip(), "192.168.14.50".parse().unwrap()].into(), ..packet }
}

#[test]
fn node_ports_serve_on_the_addresses_that_are_asked_for() {
    let ways = |addresses: NodePortAddresses, destination: &str| {
        let node = with_node_port(&Settings { node_port_addresses: addresses, ..Settings::default() });
        node.ways(&to_this_host(destination))
    };
    let within = || NodePortAddresses::Cidrs(vec!["172.16.0.0/12".parse().unwrap()]);
    let other_family = || NodePortAddresses::Cidrs(vec!["fd00::/64".parse().unwrap()]);
    let served = "10.244.1.2:8080 masqueraded";

    assert_eq!(ways(NodePortAddresses::All, "203.0.113.1:30632"), served);
    assert_eq!(ways(NodePortAddresses::Primary, "192.168.14.50:30632"), served);
    assert_eq!(ways(NodePortAddresses::Primary, "203.0.113.1:30632"), "untouched");
    assert_eq!(ways(within(), "172.16.0.1:30632"), served);
    assert_eq!(ways(within(), "192.168.14.50:30632"), "untouched");
    assert_eq!(ways(other_family(), "203.0.113.1:30632"), served, "none of this family: all");
}

/// The answer could not be routed, and a program of the node may listen there.
#[test]
fn node_ports_are_not_served_at_link_local_addresses() {
    let mut node = Node::new(&Settings::default());
    let endpoint = Endpoint::new("[fd00::2]:8080".parse().unwrap(), false);
    let service = ServicePort::new("fd00:10::1".parse().unwrap(), 80, vec![endpoint]);
    let service = ServicePort { node_port: Some(30_632), ..service };
    node.planner.set(&name("web"), Family::Ip6, Some(&service));
    node.commit();
    let ways = |source: &str, destination: &str| {
        let packet = Packet { source: source.parse().unwrap(), ..to_this_host(destination) };
        trace(node.kernel.table(Family::Ip6).unwrap(), &packet)
            .iter()
            .map(Route::to_string)
            .collect::<Vec<_>>()
    };

    assert_eq!(ways("fd00:9::1", "[fd00:9::50]:30632"), ["[fd00::2]:8080 masqueraded"]);
    assert_eq!(ways("fe80::1", "[fe80::50]:30632"), ["untouched"]);
}

#[test]
fn localhost_serves_node_ports_only_if_so_set_and_only_to_itself() {
    let from_localhost = Packet { link: None, ..packet("127.0.0.1", "127.0.0.1:30632") };
    let (on, off) = (
        with_node_port(&Settings { localhost_node_ports: true, ..Settings::default() }),
        with_node_port(&Settings::default()),
    );

    assert_eq!(off.ways(&from_localhost), "untouched");
    assert_eq!(on.ways(&from_localhost), "10.244.1.2:8080 masqueraded");
    assert_eq!(on.ways(&packet("198.51.100.1", "127.0.0.1:30632")), "dropped");
    assert_eq!(on.ways(&packet("127.0.0.1", "192.168.14.50:30632")), "dropped");
}

#[test]
fn pods_are_told_from_others_as_is_asked_for() {
    let ways = |local_pods: LocalPods, source: &str, link: &'static str| {
        let node = with_node_port(&Settings { local_pods, ..Settings::default() });
        node.ways(&Packet { link: Some(link.into()), ..packet(source, "10.96.0.1:80") })
    };
    let cluster = || match in_cluster().local_pods {
        LocalPods::ClusterCidr(cidrs) => LocalPods::ClusterCidr(cidrs),
        other => panic!("{other:?}"),
    };
    let bridge = || LocalPods::Link(LinkName::Exact("br0".into()));
    let prefix = || LocalPods::Link(LinkName::Prefix("fw".into()));
    let (kept, masqueraded) = ("10.244.1.2:8080", "10.244.1.2:8080 masqueraded");

    assert_eq!(ways(cluster(), "10.244.3.1", "eth0"), kept);
    assert_eq!(ways(cluster(), "198.51.100.1", "eth0"), masqueraded);
    assert_eq!(ways(LocalPods::NodeCidr, "10.244.0.9", "fw1"), kept);
    assert_eq!(ways(LocalPods::NodeCidr, "10.244.3.1", "eth0"), masqueraded);
    assert_eq!(ways(bridge(), "10.244.3.1", "br0"), kept);
    assert_eq!(ways(bridge(), "10.244.0.9", "eth0"), masqueraded);
    assert_eq!(ways(prefix(), "10.9.9.9", "fw0123"), kept);
    assert_eq!(ways(prefix(), "10.244.0.9", "eth0"), masqueraded);
    assert_eq!(ways(LocalPods::ClusterCidr(vec![]), "198.51.100.1", "eth0"), kept, "nothing to tell them by");
}

#[test]
fn a_pod_of_another_node_is_a_stranger_to_policy_local() {
    let service = ServicePort {
        external_ips: vec![[192, 0, 2, 1].into()],
        external_policy: TrafficPolicy::Local,
        local_endpoints: vec![Endpoint::new(([10, 244, 1, 3], 8080).into(), true)],
        ..port("10.96.0.5", &[2, -3])
    };
    let mut node = with_node_port(&in_cluster());
    node.set(&name("external"), Some(&service));

    assert_eq!(node.ways(&packet("10.244.0.9", "192.0.2.1:80")), "10.244.1.3:8080, 10.244.1.2:8080");
    assert_eq!(node.ways(&packet("10.244.3.1", "192.0.2.1:80")), "10.244.1.3:8080");
}

#[test]
fn a_cluster_ip_answers_ping_while_somebody_is_behind_it_if_so_set() {
    let ping =
        |destination: &str| Packet { payload: Payload::EchoRequest, ..packet("10.244.2.9", destination) };
    let mut node = with_node_port(&Settings { ping_cluster_ips: true, ..Settings::default() });
    node.set(&name("empty"), Some(&port("10.96.0.2", &[])));

    assert_eq!(node.ways(&ping("10.96.0.1:0")), "redirected");
    assert_eq!(node.ways(&ping("10.96.0.2:0")), "rejected");
    assert_eq!(with_node_port(&Settings::default()).ways(&ping("10.96.0.1:0")), "rejected");
}

#[test]
fn what_no_service_has_of_the_cluster_ips_network_is_dropped() {
    let node = with_node_port(&Settings::default());

    assert_eq!(node.ways(&packet("10.244.2.9", "10.96.7.7:80")), "dropped");
    assert_eq!(node.ways(&packet("10.244.2.9", "10.97.7.7:80")), "untouched");
}

#[test]
fn external_ips_outside_their_networks_are_not_served() {
    let external_ips = ExternalIps::Within(vec!["192.0.2.0/24".parse().unwrap()]);
    let mut node = Node::new(&Settings { external_ips, ..Settings::default() });
    let ips = vec![[192, 0, 2, 1].into(), [8, 8, 8, 8].into()];
    node.set(&name("web"), Some(&ServicePort { external_ips: ips, ..port("10.96.0.1", &[2]) }));

    assert_eq!(node.ways(&packet("10.244.2.9", "192.0.2.1:80")), "10.244.1.2:8080 masqueraded");
    assert_eq!(node.ways(&packet("10.244.2.9", "8.8.8.8:80")), "untouched");
}

#[test]
fn other_surroundings_change_the_rules_and_nothing_else() {
    let settings = Settings {
        local_pods: LocalPods::NodeCidr,
        node_port_addresses: NodePortAddresses::Primary,
        ..Settings::default()
    };
    let mut node = with_node_port(&settings);
    let moved = Surroundings {
        pod_cidrs: vec!["10.244.7.0/24".parse().unwrap()],
        node_ips: vec!["192.168.14.57".parse().unwrap()],
        ..Surroundings::default()
    };

    node.planner.surround(&moved);
    let changes = node.commit();
    assert_eq!(changes.elements(), (0, 0));
    assert_eq!(node.ways(&to_this_host("192.168.14.57:30632")), "10.244.1.2:8080 masqueraded");
    assert_eq!(node.ways(&to_this_host("192.168.14.50:30632")), "untouched");
    assert_eq!(node.ways(&packet("10.244.7.1", "10.96.0.1:80")), "10.244.1.2:8080");
    node.planner.surround(&moved);
    assert!(node.commit().is_empty());
}

#[test]
fn equal_source_ranges_share_a_chain_which_goes_with_the_last_of_them() {
    let service = |n: u8, range: &str| ServicePort {
        load_balancer_ips: vec![[192, 0, 2, n].into()],
        source_ranges: vec![range.parse().unwrap()],
        ..port(&format!("10.96.0.{n}"), &[2])
    };
    let mut node = Node::new(&Settings::default());
    let chains = |node: &Node| node.table().chains.keys().filter(|name| name.starts_with("ranges-")).count();

    node.set(&name("a"), Some(&service(1, "10.9.0.0/16")));
    node.set(&name("b"), Some(&service(2, "10.9.0.0/16")));
    assert_eq!(chains(&node), 1);
    node.set(&name("a"), Some(&service(1, "10.8.0.0/16")));
    assert_eq!(chains(&node), 2);
    assert_eq!(node.ways(&packet("10.9.0.1", "192.0.2.1:80")), "dropped");
    assert_eq!(node.ways(&packet("10.8.0.1", "192.0.2.1:80")), "10.244.1.2:8080 masqueraded");
    node.set(&name("b"), None);
    assert_eq!(chains(&node), 1);
}

#[test]
fn an_external_ip_that_is_another_service_s_cluster_ip_is_told() {
    let mut node = Node::new(&Settings::default());
    let external = ServicePort { external_ips: vec![[10, 96, 0, 2].into()], ..port("10.96.0.1", &[2]) };
    let said =
        |shadowed: Vec<Shadowed>| shadowed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let expected = "10.96.0.2 . tcp . 80 is not served for default/a:http: default/b:http has it";

    assert_eq!(said(node.planner.set(&name("a"), Family::Ip, Some(&external))), "");
    let told = said(node.planner.set(&name("b"), Family::Ip, Some(&port("10.96.0.2", &[3]))));
    assert_eq!(told, expected);
    let told = said(node.planner.set(&name("a"), Family::Ip, Some(&external)));
    assert_eq!(told, expected);
    node.commit();
    assert_eq!(node.ways(&packet("10.244.2.9", "10.96.0.2:80")), "10.244.1.3:8080");
    node.set(&name("b"), None);
    assert_eq!(node.ways(&packet("10.244.2.9", "10.96.0.2:80")), "10.244.1.2:8080 masqueraded");
}

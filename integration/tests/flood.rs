//! A flood of new connections while a service is switched to and fro: whatever a packet has read, what it led to is still there.
//!
//! ```text
//! one thread    SYN, SYN, SYN … each of a flow of its own, through the node to one of the service's addresses
//! another       3 endpoints, 4, 3, 4 …, or balanced otherwise, under another policy, with and without affinity and other
//!               addresses, as fast as the kernel takes it, by the daemon's own kernel end
//! the server    has received as many packets as were sent, or some were lost
//! ```
//!
//! The server is reached by endpoints' addresses only, so what arrives was translated.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use dataplane::{
    netns::Netns,
    nft::{Socket, diff},
    sysctl,
};
use fairway_lab::{host::Host, row::Row, syn, wait};
use proxy::{
    plan::{LocalPods, Planner, Settings},
    service_port::{Balancing, Endpoint, Family, Protocol, ServicePort, ServicePortName, TrafficPolicy},
    surroundings::Surroundings,
    sync::{Services as _, services::Nftables},
};

const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 1), 80);

/// Where else it is reached.
const NODE_PORT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 1), 30_080);
const BALANCER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), SERVICE.port());
const EXTERNAL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 2), SERVICE.port());

/// Flows in one flood, if the kernel tracks that many.
const FLOWS: u32 = 100_000;

/// Flows between two looks at whether the node keeps up: fewer packets than wait for a machine before any are thrown away
/// (`net.core.netdev_max_backlog`).
const AT_ONCE: usize = 250;

/// Switches in one flood without which it shows nothing.
const FEWEST_SWITCHES: u32 = 500;

/// The same where a switch writes a table of hashes, or the rules that every packet passes.
const FEWEST_LARGE_SWITCHES: u32 = 50;

/// What a flood came to.
#[derive(Debug)]
struct Flood {
    sent: u64,
    arrived: u64,
    switches: u32,
}

/// How many IPv4 packets a machine has received, whatever it did with them.
struct Received(File);

impl Received {
    fn by(host: &Host) -> Self {
        Self(host.run(|| File::open("/proc/thread-self/net/snmp")).unwrap().unwrap())
    }

    fn count(&mut self) -> u64 {
        let mut text = String::new();
        self.0.rewind().unwrap();
        self.0.read_to_string(&mut text).unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with("Ip: "));
        let (heads, numbers) = (lines.next().unwrap(), lines.next().unwrap());
        let mut columns = heads.split(' ').zip(numbers.split(' '));
        columns.find(|(head, _)| *head == "InReceives").unwrap().1.parse().unwrap()
    }
}

fn name() -> ServicePortName {
    let (namespace, name, port) = ("default".into(), "web".into(), "http".into());
    ServicePortName { namespace, name, port, protocol: Protocol::Tcp }
}

/// The service with as many endpoints behind the server.
fn service_port(endpoints: u8, affinity_seconds: Option<u32>) -> ServicePort {
    let endpoint = |n| Endpoint::new(([10, 128, 0, n], 8080).into(), false);
    let endpoints = (1..=endpoints).map(endpoint).collect();
    ServicePort { affinity_seconds, ..ServicePort::new((*SERVICE.ip()).into(), SERVICE.port(), endpoints) }
}

/// A client of its own for each number: with affinity too, each has yet to be given an endpoint.
fn source(number: u32) -> SocketAddrV4 {
    const CLIENTS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 0);
    SocketAddrV4::new(Ipv4Addr::from_bits(CLIENTS.to_bits() + number), 1_024)
}

/// The row, with a node that takes packets from anywhere.
fn row() -> Row {
    let row = Row::make().unwrap();
    for link in ["all", "client"] {
        let key = format!("net/ipv4/conf/{link}/rp_filter");
        row.node.run(|| sysctl::set_if_different(&key, "0")).unwrap().unwrap();
    }
    row
}

fn nftables(row: &Row) -> Socket {
    Socket::open_in(&Netns::open(row.node.netns_path()).unwrap()).unwrap()
}

/// Sends a SYN for every flow to one of the service's addresses, while it is switched to one of these after the other.
fn flood(
    row: &Row,
    address: SocketAddrV4,
    fewest_switches: u32,
    mut ports: impl Iterator<Item = ServicePort> + Send,
    mut switch: impl FnMut(ServicePort) + Send,
) -> Flood {
    ports.by_ref().take(1).for_each(&mut switch);
    let tracked: u32 =
        row.node.run(|| sysctl::read("net/netfilter/nf_conntrack_max")).unwrap().unwrap().parse().unwrap();
    let flows = FLOWS.min(tracked / 2);
    let packets: Vec<_> = (0..flows).map(|flow| syn::packet(source(flow), address)).collect();
    let to = SocketAddr::V4(address).into();
    let client = row.client.run(syn::open).unwrap().unwrap();
    let (mut at_node, mut at_server) = (Received::by(&row.node), Received::by(&row.server));

    // The first finds neighbours that nobody asked for yet.
    client.send_to(&syn::packet(source(flows), address), &to).unwrap();
    wait::until("the server to be reached", || match at_server.count() {
        0 => Err("nothing has arrived".to_owned()),
        _ => Ok(()),
    })
    .unwrap();
    let mut sent = 1;

    let (is_over, switches) = (AtomicBool::new(false), AtomicU32::new(0));
    let chunks = u32::try_from(packets.chunks(AT_ONCE).len()).unwrap();
    thread::scope(|scope| {
        let switching = scope.spawn(|| {
            for port in ports.take_while(|_| !is_over.load(Ordering::Relaxed)) {
                switch(port);
                switches.fetch_add(1, Ordering::Relaxed);
            }
        });
        let flooding = scope.spawn(|| {
            for (chunk, packets) in (1..).zip(packets.chunks(AT_ONCE)) {
                for packet in packets {
                    client.send_to(packet, &to).unwrap();
                    sent += 1;
                }
                wait::until("the node to keep up", || match at_node.count() {
                    received if received < sent => Err(format!("{received} of {sent}")),
                    _ => Ok(()),
                })
                .unwrap();
                // However the machine shares its time between the two.
                wait::until("enough switches", || match switches.load(Ordering::Relaxed) {
                    done if done < fewest_switches * chunk / chunks => Err(done.to_string()),
                    _ => Ok(()),
                })
                .unwrap();
            }
        });
        let flooded = flooding.join();
        is_over.store(true, Ordering::Relaxed);
        flooded.unwrap();
        switching.join().unwrap();
    });

    let all = || match at_server.count() {
        arrived if arrived < sent => Err(format!("{arrived} of {sent}")),
        _ => Ok(()),
    };
    let _ = wait::until_within(Duration::from_secs(1), "the last to arrive", all);
    let flood = Flood { sent, arrived: at_server.count(), switches: switches.into_inner() };
    println!("{flood:?}");
    flood
}

/// Three endpoints and four, in turns.
fn to_and_fro(affinity_seconds: Option<u32>) -> impl Iterator<Item = ServicePort> + Send {
    [3, 4].into_iter().cycle().map(move |endpoints| service_port(endpoints, affinity_seconds))
}

/// Every way to balance, with and without weights, in turns. The hash has few endpoints more or less, too.
fn every_balancing(affinity_seconds: Option<u32>) -> impl Iterator<Item = ServicePort> + Send {
    let weigh = |mut port: ServicePort| {
        port.endpoints.iter_mut().take(1).for_each(|endpoint| endpoint.weight = 3);
        port
    };
    let port =
        move |endpoints, balancing| ServicePort { balancing, ..service_port(endpoints, affinity_seconds) };
    let ports = [
        port(3, Balancing::SourceHash),
        port(4, Balancing::SourceHash),
        port(3, Balancing::RoundRobin),
        weigh(port(3, Balancing::RoundRobin)),
        port(3, Balancing::Random),
        weigh(port(3, Balancing::SourceHash)),
    ];
    ports.into_iter().cycle()
}

/// Every policy, with and without affinity, other endpoints, other kinds of address and source ranges, in turns.
/// `keep` puts in what must be there all the time.
fn every_policy(keep: impl Fn(ServicePort) -> ServicePort) -> impl Iterator<Item = ServicePort> + Send {
    let (all, local) = (TrafficPolicy::Cluster, TrafficPolicy::Local);
    let port = |endpoints, affinity_seconds, internal_policy, external_policy| {
        let mut port = service_port(endpoints, affinity_seconds);
        port.endpoints.iter_mut().step_by(2).for_each(|endpoint| endpoint.is_local = true);
        let local_endpoints = port.endpoints.iter().filter(|endpoint| endpoint.is_local).copied().collect();
        ServicePort { internal_policy, external_policy, local_endpoints, ..port }
    };
    let everybody = || vec!["172.16.0.0/12".parse().unwrap()];
    let ports = [
        port(3, None, all, all),
        with_node_port(port(4, None, local, local)),
        with_node_port(port(3, Some(10_800), all, local)),
        ServicePort { source_ranges: everybody(), ..with_balancer(port(4, None, all, local)) },
        with_external_ip(port(3, Some(60), local, all)),
        with_balancer(with_external_ip(port(1, None, local, local))),
        with_node_port(with_external_ip(port(4, Some(10_800), all, all))),
    ];
    ports.map(keep).into_iter().cycle()
}

fn with_node_port(port: ServicePort) -> ServicePort {
    ServicePort { node_port: Some(NODE_PORT.port()), ..port }
}

fn with_balancer(port: ServicePort) -> ServicePort {
    ServicePort { load_balancer_ips: vec![(*BALANCER.ip()).into()], ..port }
}

fn with_external_ip(port: ServicePort) -> ServicePort {
    ServicePort { external_ips: vec![(*EXTERNAL.ip()).into()], ..port }
}

/// Floods a service that is switched as the daemon does it.
fn nothing_is_lost(ports: impl Iterator<Item = ServicePort> + Send, fewest_switches: u32) {
    nothing_is_lost_at(SERVICE, ports, fewest_switches);
}

/// The same at another of its addresses.
fn nothing_is_lost_at(
    address: SocketAddrV4,
    ports: impl Iterator<Item = ServicePort> + Send,
    fewest_switches: u32,
) {
    let row = row();
    // What is left behind is removed as in the daemon: by a commit that comes late enough.
    let mut services = Nftables::new(nftables(&row), &[Family::Ip], &Settings::default());
    services.begin().unwrap();

    let flood = flood(&row, address, fewest_switches, ports, |port| {
        services.set(&name(), Family::Ip, Some(port));
        services.commit().unwrap();
    });

    assert!(flood.switches >= fewest_switches, "{flood:?}");
    assert_eq!(flood.arrived, flood.sent, "{flood:?}");
}

/// Floods a service whose old slots are removed in the very transaction that leads away from them.
fn flood_without_a_second_phase(affinity_seconds: Option<u32>) -> Flood {
    let row = row();
    let kernel = nftables(&row);
    let mut planner = Planner::new(&[Family::Ip], &Settings::default());
    kernel.commit(&diff(None, &planner.tables().next().unwrap())).unwrap();

    flood(&row, SERVICE, 0, to_and_fro(affinity_seconds), |port| {
        planner.set(&name(), Family::Ip, Some(&port));
        planner.retire();
        planner.retire();
        kernel.commit(&planner.take()).unwrap();
    })
}

/// Shows that the flood can tell: the same, but for the two phases.
fn some_are_lost_without_a_second_phase(affinity_seconds: Option<u32>) {
    if thread::available_parallelism().unwrap().get() < 2 {
        println!("one CPU: no packet meets a commit that is half done");
        return;
    }

    let mut floods = (0..10).map(|_| flood_without_a_second_phase(affinity_seconds));

    assert!(floods.any(|flood| flood.arrived < flood.sent), "none is lost: the flood cannot tell");
}

fairway_lab::sandbox_tests! {
    fn no_new_connection_is_lost_while_a_service_is_switched() {
        nothing_is_lost(to_and_fro(None), FEWEST_SWITCHES);
    }

    fn no_new_connection_is_lost_while_a_sticky_service_is_switched() {
        nothing_is_lost(to_and_fro(Some(10_800)), FEWEST_SWITCHES);
    }

    fn a_switch_that_removes_the_old_slots_at_once_loses_some() {
        some_are_lost_without_a_second_phase(None);
    }

    fn a_sticky_switch_that_removes_the_old_turns_at_once_loses_some() {
        some_are_lost_without_a_second_phase(Some(10_800));
    }

    fn no_new_connection_is_lost_while_classes_are_made() {
        let lengths_without_a_class = (5..250).map(|endpoints| service_port(endpoints, None));
        nothing_is_lost(lengths_without_a_class.chain(to_and_fro(None)), FEWEST_SWITCHES);
    }

    fn no_new_connection_is_lost_while_a_service_is_balanced_otherwise() {
        nothing_is_lost(every_balancing(None), FEWEST_LARGE_SWITCHES);
    }

    fn no_new_connection_is_lost_while_a_sticky_service_is_balanced_otherwise() {
        nothing_is_lost(every_balancing(Some(10_800)), FEWEST_LARGE_SWITCHES);
    }

    fn no_new_connection_is_lost_while_the_node_s_surroundings_change() {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let surroundings = [
            (networks(&[]), networks(&["10.96.0.0/16"])),
            (networks(&["10.244.1.0/24"]), networks(&["10.96.0.0/16", "10.97.0.0/16"])),
            (networks(&["10.244.2.0/24"]), networks(&[])),
        ];
        let mut surroundings = surroundings.into_iter().cycle();
        let row = row();
        let settings = Settings { local_pods: LocalPods::NodeCidr, ..Settings::default() };
        let mut services = Nftables::new(nftables(&row), &[Family::Ip], &settings);
        services.begin().unwrap();

        let flood = flood(&row, NODE_PORT, FEWEST_LARGE_SWITCHES, every_policy(with_node_port), |port| {
            let (pod_cidrs, service_cidrs) = surroundings.next().unwrap();
            services.surround(&Surroundings { pod_cidrs, service_cidrs, ..Surroundings::default() });
            services.set(&name(), Family::Ip, Some(port));
            services.commit().unwrap();
        });

        assert!(flood.switches >= FEWEST_LARGE_SWITCHES, "{flood:?}");
        assert_eq!(flood.arrived, flood.sent, "{flood:?}");
    }

    fn no_new_connection_is_lost_at_a_cluster_ip_while_policies_types_and_affinity_change() {
        nothing_is_lost(every_policy(|port| port), FEWEST_SWITCHES);
    }

    fn no_new_connection_is_lost_at_a_node_port_while_policies_and_affinity_change() {
        nothing_is_lost_at(NODE_PORT, every_policy(with_node_port), FEWEST_SWITCHES);
    }

    fn no_new_connection_is_lost_at_a_balancer_s_address_while_policies_types_and_ranges_change() {
        nothing_is_lost_at(BALANCER, every_policy(with_balancer), FEWEST_SWITCHES);
    }

    fn no_new_connection_is_lost_at_an_external_ip_while_policies_and_types_change() {
        nothing_is_lost_at(EXTERNAL, every_policy(with_external_ip), FEWEST_SWITCHES);
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

//! What counts as a connection: every protocol's first packet takes the next turn, and the rest follow it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod start;

use std::{
    collections::BTreeMap,
    io::Read,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    thread,
};

use dataplane::netns::Netns;
use fairway_lab::{
    answer::{Answer, is_in_turn, names},
    client::PATIENCE,
    cluster::{Cluster, OUTSIDE},
    lesson::{BACKENDS, SERVICE_URL},
    manifest::{Object, parse},
    sctp, wait,
};
use socket2::Socket;

fn objects(text: &str) -> Vec<Object> {
    parse("test.yaml", text).unwrap()
}

/// The network namespace of a place.
fn netns(cluster: &Cluster, place: &str) -> Netns {
    Netns::open(cluster.place(place).unwrap().netns_path()).unwrap()
}

/// Asks with one datagram over a socket that may have asked before.
fn ask(socket: &UdpSocket) -> std::io::Result<Answer> {
    socket.send(b"who are you?\n")?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    Ok(std::str::from_utf8(&answer[..length]).unwrap().parse().unwrap())
}

fn udp_socket_to(to: &str) -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    socket
}

/// SCTP without a kernel that speaks it: packets as they are on the wire.
struct RawSctp(Socket);

/// A packet as a backend sees it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    source: Ipv4Addr,
    destination: SocketAddrV4,
    is_intact: bool,
}

impl RawSctp {
    fn open() -> Self {
        Self(sctp::open().unwrap())
    }

    /// Sends the packet that opens an association.
    fn send_init(&self, source_port: u16, to: SocketAddrV4) {
        let packet = sctp::init(source_port, to.port());
        self.0.send_to(&packet, &SocketAddr::from((*to.ip(), 0)).into()).unwrap();
    }

    /// What has come in, if something has.
    fn receive(&self) -> Option<Seen> {
        let mut packet = [0; 1500];
        self.0.set_nonblocking(true).unwrap();
        let length = (&self.0).read(&mut packet).ok()?;
        let (ip, packet) = packet[..length].split_at(usize::from(packet[0] & 0xf) * 4);
        let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap());
        let port = u16::from_be_bytes([packet[2], packet[3]]);
        let is_intact = sctp::is_intact(packet);
        Some(Seen { source: address(12), destination: SocketAddrV4::new(address(16), port), is_intact })
    }
}

fairway_lab::sandbox_tests! {
    fn parallel_connections_are_dealt_out_evenly() {
        let cluster = start::lesson();
        let askers: Vec<_> = (0..8).map(|_| cluster.asker("apache-pod", SERVICE_URL).unwrap()).collect();

        let answers: Vec<Answer> = thread::scope(|scope| {
            let threads: Vec<_> = askers
                .iter()
                .map(|asker| scope.spawn(|| (0..30).map(|_| asker.ask().unwrap()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });

        let mut counts = BTreeMap::<&str, usize>::new();
        for name in names(&answers) {
            *counts.entry(name).or_default() += 1;
        }
        assert_eq!(counts, BACKENDS.into_iter().map(|name| (name, 80)).collect());
    }

    fn a_datagram_from_a_new_port_takes_the_next_turn_and_from_a_known_one_its_own() {
        let mut cluster = start::lesson();
        let dns = "{kind: Service, apiVersion: v1, metadata: {name: dns}, spec: {clusterIP: 10.96.0.10, \
                   selector: {app: myweb}, ports: [{name: dns, protocol: UDP, port: 53, targetPort: dns}]}}";
        cluster.apply(objects(dns)).unwrap();
        let pod = netns(&cluster, "apache-pod");
        let socket = || pod.run(|| udp_socket_to("10.96.0.10:53")).unwrap();
        wait::until("a datagram to be answered", || ask(&socket()).map_err(|error| error.to_string())).unwrap();

        let sockets: Vec<_> = (0..6).map(|_| socket()).collect();
        let first: Vec<Answer> = sockets.iter().map(|socket| ask(socket).unwrap()).collect();
        let again: Vec<Answer> = sockets.iter().map(|socket| ask(socket).unwrap()).collect();

        assert!(is_in_turn(&first, 3), "{:?}", names(&first));
        assert_eq!(names(&again), names(&first));
    }

    fn sctp_finds_its_way_through_cluster_ip_and_node_port() {
        let mut cluster = start::lesson();
        let service = "{kind: Service, apiVersion: v1, metadata: {name: diameter}, spec: {type: NodePort, \
                       clusterIP: 10.96.0.68, selector: {app: diameter}, \
                       ports: [{protocol: SCTP, port: 3868, targetPort: 13868, nodePort: 30868}]}}\n---\n\
                       {kind: Pod, apiVersion: v1, metadata: {name: diameter, labels: {app: diameter}}, \
                       spec: {nodeName: w2, containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}}";
        cluster.apply(objects(service)).unwrap();
        let ipv4 = |pod| match cluster.pod(pod).unwrap().addresses()[0] {
            std::net::IpAddr::V4(address) => address,
            std::net::IpAddr::V6(address) => panic!("{address}"),
        };
        let backend = netns(&cluster, "diameter").run(RawSctp::open).unwrap();

        for (from, to, source) in [
            ("apache-pod", "10.96.0.68:3868", ipv4("apache-pod")), // from another node, seen as itself
            (OUTSIDE, "192.168.14.50:30868", [192, 168, 14, 50].into()), // through another node, seen as that
        ] {
            let client = netns(&cluster, from).run(RawSctp::open).unwrap();
            // Each try is an association of its own: one that began before the service was there stays lost.
            let mut source_ports = 20_000_u16..;
            let seen = wait::until(&format!("an INIT to {to} to arrive"), || {
                client.send_init(source_ports.next().unwrap(), to.parse().unwrap());
                backend.receive().ok_or_else(|| "none".to_owned())
            });

            let destination = SocketAddrV4::new(ipv4("diameter"), 13_868);
            assert_eq!(seen.unwrap(), Seen { source, destination, is_intact: true }, "{to}");
            while backend.receive().is_some() {} // what else was under way
        }
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

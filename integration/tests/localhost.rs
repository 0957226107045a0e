//! Node ports as programs on the node itself find them on localhost.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails; and it plays the user"
)]

mod lone_node;

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Output},
    thread,
    time::Duration,
};

use dataplane::{
    netns::Netns,
    rtnl::{Address, AddressFlags, Kernel, LOOPBACK, Route, Routes as _},
    sysctl,
};
use fairway_lab::{binaries, client::PATIENCE, network::UPLINK, wait};
use lone_node::{LoneNode, NODE, OUTSIDE};
use nix::mount::{MsFlags, mount};

const PORT: u16 = 30_080;
const ROUTE_LOCALNET: &str = "net/ipv4/conf/all/route_localnet";

/// A port on IPv6's localhost.
fn localhost(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}

/// The same on IPv4's.
fn localhost_v4(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A service of both families and protocols with one node port.
fn service(port: u16) -> String {
    format!(
        "{{kind: Service, metadata: {{name: web}}, spec: {{type: NodePort, clusterIPs: [10.96.0.1, \"fd00:10:96::1\"], ports: [\
         {{name: t, port: 80, nodePort: {port}}}, {{name: u, port: 80, nodePort: {port}, protocol: UDP}}]}}}}"
    )
}

/// Its endpoint outside, in both families.
fn slices() -> String {
    let slice = |number: usize, family: &str, address: &str| {
        format!(
            "{{kind: EndpointSlice, metadata: {{name: web-{number}, labels: {{kubernetes.io/service-name: web}}}}, \
             addressType: {family}, endpoints: [{{addresses: [\"{address}\"]}}], \
             ports: [{{name: t, port: 8080}}, {{name: u, port: 8080, protocol: UDP}}]}}"
        )
    };
    format!("{}\n---\n{}", slice(4, "IPv4", OUTSIDE[0]), slice(6, "IPv6", OUTSIDE[1]))
}

impl LoneNode {
    /// A node that serves node ports on localhost, with a service whose endpoint answers outside.
    fn with_service() -> Self {
        let mut node = Self::with_endpoint();
        node.write("service.yaml", &service(PORT));
        node.start_daemon(&["--localhost-node-ports"]);
        node
    }

    /// A node whose daemon does not run yet, and an endpoint that answers outside.
    fn with_endpoint() -> Self {
        let node = Self::boot();
        node.write("slices.yaml", &slices());
        for address in OUTSIDE {
            let at = SocketAddr::new(ip(address), 8080);
            let listener = node.outside.run(|| TcpListener::bind(at).unwrap()).unwrap();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    thread::spawn(move || answer(&stream.unwrap()));
                }
            });
            let socket = node.outside.run(|| UdpSocket::bind(at).unwrap()).unwrap();
            thread::spawn(move || answer_datagrams(&socket));
        }
        node
    }

    fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        self.node.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap()
    }

    /// Says something, ends, and listens to what comes back until that ends too.
    fn ask(&self, to: SocketAddr, question: &str) -> std::io::Result<String> {
        let mut stream = self.connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(question.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    }

    fn await_answer(&self, to: SocketAddr) {
        let look = || match self.ask(to, "hello") {
            Ok(said) if said == "you said hello" => Ok(()),
            other => Err(format!("{other:?}")),
        };
        wait::until_within(Duration::from_secs(10), &format!("an answer on {to}"), look).unwrap();
    }

    fn await_refusal(&self, to: SocketAddr) {
        let look = || match self.connect(to) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        };
        wait::until_within(Duration::from_secs(10), &format!("{to} to be closed"), look).unwrap();
    }

    /// What the kernel parameter is that routes to 127.0.0.1.
    fn route_localnet(&self) -> String {
        self.node.run(|| sysctl::read(ROUTE_LOCALNET).unwrap()).unwrap()
    }

    fn await_route_localnet(&self) {
        let look = || Some(self.route_localnet()).filter(|value| value == "1").ok_or_else(|| "0".to_owned());
        wait::until("route_localnet", look).unwrap();
    }

    /// Makes kernel parameters read-only for every program that is started on the node from now on.
    fn make_sysctls_read_only(&self) {
        self.node
            .run(|| {
                let (proc, none) = ("/proc/sys", None::<&str>);
                mount(Some(proc), proc, none, MsFlags::MS_BIND, none).unwrap();
                let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
                mount(none, proc, none, read_only, none).unwrap();
            })
            .unwrap();
    }

    /// The machine outside sends packets for 127.0.0.1 to the node.
    fn let_outside_take_localhost_for_the_node(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let kernel = Kernel::open_in(&Netns::open(self.outside.netns_path()).unwrap()).unwrap();
            let network = "127.0.0.1/8".parse().unwrap();
            let own = Address { link: LOOPBACK, network, flags: AddressFlags::default() };
            kernel.delete_address(&own).await.unwrap();
            let uplink = kernel.link(UPLINK).await.unwrap().index;
            let route = Route::through("127.0.0.1/32".parse().unwrap(), ip(NODE[0]), uplink);
            kernel.add_route(&route).await.unwrap();
        });
    }

    /// One datagram is sent from outside to localhost, and then one to the node: the one that comes first.
    fn first_to_come_from_outside(&self) -> String {
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5000));
        let receiver = self.node.run(|| UdpSocket::bind(everywhere).unwrap()).unwrap();
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let sender = self.outside.run(|| UdpSocket::bind((ip(OUTSIDE[0]), 0)).unwrap()).unwrap();
        sender.send_to(b"to localhost", localhost_v4(5000)).unwrap();
        sender.send_to(b"to the node", (ip(NODE[0]), 5000)).unwrap();
        let mut datagram = [0; 64];
        let length = receiver.recv(&mut datagram).unwrap();
        String::from_utf8_lossy(datagram.get(..length).unwrap_or_default()).into_owned()
    }

    /// Ends the daemon, and runs its program once to remove all that it made.
    fn clean_up(&mut self) {
        let output = self.run_cleanup();
        assert!(output.status.success(), "{output:?}");
    }

    /// The same where it cannot, and what it says.
    fn try_to_clean_up(&mut self) -> String {
        let output = self.run_cleanup();
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn run_cleanup(&mut self) -> Output {
        self.kill_daemon();
        let mut command = Command::new(&binaries::built().unwrap().fairway_proxy);
        self.node.run(|| command.arg("--cleanup").output().unwrap()).unwrap()
    }

    fn udp_client(&self, from: SocketAddr) -> UdpSocket {
        let socket = self.node.run(|| UdpSocket::bind(from).unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

/// Listens until the other side has ended, and only then answers.
fn answer(mut stream: &TcpStream) {
    let mut question = String::new();
    if stream.read_to_string(&mut question).is_ok() {
        let _ = write!(stream, "you said {question}");
    }
}

fn answer_datagrams(socket: &UdpSocket) {
    let mut question = [0; 2048];
    while let Ok((length, client)) = socket.recv_from(&mut question) {
        let answer = [b"you said ", question.get(..length).unwrap_or_default()].concat();
        let _ = socket.send_to(&answer, client);
    }
}

/// Asks with one datagram, over a socket that may have asked before.
fn ask_datagram(socket: &UdpSocket, to: SocketAddr, question: &str) -> std::io::Result<String> {
    socket.send_to(question.as_bytes(), to)?;
    let mut answer = [0; 2048];
    let (length, from) = socket.recv_from(&mut answer)?;
    assert_eq!(from, to);
    Ok(String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned())
}

fairway_lab::sandbox_tests! {
    fn a_node_port_answers_on_localhost_of_ipv6_and_an_end_is_passed_on() {
        let node = LoneNode::with_service();
        node.await_answer(localhost(PORT));

        // More than any buffer on the way holds, so that both directions must flow at once.
        let question = "x".repeat(3_000_000);
        assert_eq!(node.ask(localhost(PORT), &question).unwrap(), format!("you said {question}"));
    }

    fn datagrams_find_their_way_and_back_for_each_client() {
        let node = LoneNode::with_service();
        node.await_answer(localhost(PORT));
        let clients: Vec<_> = (0..3).map(|_| node.udp_client(localhost(0))).collect();

        for round in 0..3 {
            for (number, client) in clients.iter().enumerate() {
                let question = format!("{round} of {number}");
                assert_eq!(ask_datagram(client, localhost(PORT), &question).unwrap(), format!("you said {question}"));
            }
        }
    }

    fn a_node_port_on_localhost_follows_its_service() {
        let node = LoneNode::with_service();
        node.await_answer(localhost(PORT));
        let mut open = node.connect(localhost(PORT)).unwrap();

        node.write("service.yaml", &service(30_081));
        node.await_answer(localhost(30_081));
        node.await_refusal(localhost(PORT));
        open.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(matches!(open.read(&mut [0]), Ok(0) | Err(_)), "the connection goes on");

        node.remove("service.yaml");
        node.await_refusal(localhost(30_081));
        let client = node.udp_client(localhost(0));
        client.connect(localhost(30_081)).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let refused = || match client.send(b"hello").and_then(|_| client.recv(&mut [0; 64])) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        };
        wait::until("datagrams to be refused, too", refused).unwrap(); // each socket closes in its own time
    }

    fn without_endpoints_a_connection_is_reset_and_datagrams_go_on_once_there_are_some() {
        let node = LoneNode::with_service();
        node.await_answer(localhost(PORT));
        let client = node.udp_client(localhost(0));
        assert_eq!(ask_datagram(&client, localhost(PORT), "1").unwrap(), "you said 1");

        node.remove("slices.yaml");
        let reset = || match node.ask(localhost(PORT), "hello") {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            other => Err(format!("{other:?}")),
        };
        wait::until("a connection to be reset", reset).unwrap();

        node.write("slices.yaml", &slices());
        node.await_answer(localhost(PORT));
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let again = || ask_datagram(&client, localhost(PORT), "2").map_err(|error| error.to_string());
        wait::until("a datagram to be answered again", again).unwrap();
    }

    fn where_there_are_too_many_connections_another_is_reset_and_those_that_are_open_go_on() {
        let node = LoneNode::with_service();
        node.await_answer(localhost(PORT));

        let mut open: Vec<_> = (0..256).map(|_| node.connect(localhost(PORT)).unwrap()).collect();

        let error = node.ask(localhost(PORT), "hello").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let mut first = open.remove(0);
        first.shutdown(Shutdown::Write).unwrap();
        first.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = String::new();
        first.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "you said ");
        node.await_answer(localhost(PORT));
    }

    fn without_the_flag_localhost_is_nobody_s() {
        let node = LoneNode::start(&[], &[("service.yaml", &service(PORT)), ("slices.yaml", &slices())]);

        node.await_refusal(localhost(PORT));
    }

    fn a_node_port_answers_on_localhost_of_ipv4() {
        let node = LoneNode::with_service();

        node.await_answer(localhost_v4(PORT));
        node.await_answer(([127, 8, 9, 10], PORT).into());
        let client = node.udp_client(localhost_v4(0));
        assert_eq!(ask_datagram(&client, localhost_v4(PORT), "1").unwrap(), "you said 1");

        node.write("service.yaml", &service(30_081));
        node.await_answer(localhost_v4(30_081));
        node.await_refusal(localhost_v4(PORT));
    }

    fn strangers_do_not_reach_localhost_through_the_node() {
        let mut node = LoneNode::boot();
        node.let_outside_take_localhost_for_the_node();

        // That they would, is shown first.
        node.node.run(|| sysctl::set(ROUTE_LOCALNET, "1").unwrap()).unwrap();
        assert_eq!(node.first_to_come_from_outside(), "to localhost");

        node.node.run(|| sysctl::set(ROUTE_LOCALNET, "0").unwrap()).unwrap();
        node.start_daemon(&["--localhost-node-ports"]);
        node.await_route_localnet();
        assert_eq!(node.first_to_come_from_outside(), "to the node");
    }

    fn route_localnet_is_set_by_the_flag_and_put_back_without_it() {
        let mut node = LoneNode::boot();
        assert_eq!(node.route_localnet(), "0");

        node.start_daemon(&["--localhost-node-ports"]);
        node.await_route_localnet();
        node.start_daemon(&["--localhost-node-ports"]);
        node.start_daemon(&[]);
        assert_eq!(node.route_localnet(), "0");

        node.start_daemon(&["--localhost-node-ports"]);
        node.await_route_localnet();
        node.clean_up();
        assert_eq!(node.route_localnet(), "0");
    }

    fn route_localnet_that_somebody_else_set_stays() {
        let mut node = LoneNode::boot();
        node.node.run(|| sysctl::set(ROUTE_LOCALNET, "1").unwrap()).unwrap();

        node.start_daemon(&["--localhost-node-ports"]);
        node.start_daemon(&[]);
        node.clean_up();

        assert_eq!(node.route_localnet(), "1");
    }

    fn strangers_are_kept_from_localhost_as_long_as_route_localnet_cannot_be_put_back() {
        let mut node = LoneNode::boot();
        node.let_outside_take_localhost_for_the_node();
        node.start_daemon(&["--localhost-node-ports"]);
        node.await_route_localnet();
        node.make_sysctls_read_only();

        node.start_daemon(&[]);
        assert_eq!(node.first_to_come_from_outside(), "to the node");

        let cleaned_up = node.try_to_clean_up();
        assert!(cleaned_up.contains("sysctl -w net/ipv4/conf/all/route_localnet=0"), "{cleaned_up}");
        assert_eq!(node.first_to_come_from_outside(), "to the node");
    }

    fn where_route_localnet_is_read_only_it_is_said_what_to_do_and_ipv6_goes_on() {
        let mut node = LoneNode::with_endpoint();
        node.write("service.yaml", &service(PORT));
        node.make_sysctls_read_only();

        let mut said = node.start_daemon(&["--localhost-node-ports"]);

        // It may be said before the first commit is, or after it.
        if !said.contains("WARN") {
            said = node.says("WARN");
        }
        assert!(said.contains("sysctl -w net/ipv4/conf/all/route_localnet=1"), "{said}");
        node.await_answer(localhost(PORT));
    }

    fn a_port_that_a_program_has_stays_that_program_s() {
        let node = LoneNode::start(&["--localhost-node-ports"], &[("slices.yaml", &slices())]);
        let own = node.node.run(|| TcpListener::bind(localhost(PORT)).unwrap()).unwrap();

        node.write("service.yaml", &service(PORT));

        let said = node.says("WARN");
        for words in ["default/web:t", "[::1]:30080 tcp", "Address already in use"] {
            assert!(said.contains(words), "no {words:?}: {said}");
        }
        node.connect(localhost(PORT)).unwrap();
        own.accept().unwrap();
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

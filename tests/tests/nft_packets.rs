//! Where the trace says that a packet goes, there the kernel sends it: what the text of a rule alone would not tell.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use dataplane::{
    netns::Netns,
    nft::{
        Chain, Data, DataType, Fate, Hook, Key, KeyType, LinkName, Map, Match, Packet, Payload, Rule,
        SetType, Socket, Source, State, Statement, Table, Verdict, diff, trace,
    },
    packet::{Family, Protocol},
    rtnl::{Address, Kernel, LOOPBACK, Route, Routes as _},
    sysctl,
};
use ipnetwork::IpNetwork;

use fairway_lab::{host::Host, network::Switch, ping::ping};

const PATIENCE: Duration = Duration::from_secs(5);

/// A node, which is where the client sends all that is not for itself.
struct Pair {
    node: Host,
    client: Host,
    _switch: Switch,
}

/// The addresses of node and client, and one that nobody has.
const ADDRESSES: [(&str, &str, &str); 2] =
    [("192.168.1.1", "192.168.1.2", "10.96.0.1"), ("fd01::1", "fd01::2", "fd00:96::1")];

impl Pair {
    fn make() -> Self {
        let (node, client) = (Host::make("node").unwrap(), Host::make("client").unwrap());
        let switch = Switch::make().unwrap();
        switch.connect(&node, &ADDRESSES.map(|(node, ..)| ip(node))).unwrap();
        switch.connect(&client, &ADDRESSES.map(|(_, client, _)| ip(client))).unwrap();
        node.run(|| {
            // The way to services leads back by the link that their packets came in by; nobody shall be told of a shorter one.
            for of in ["all", "eth0"] {
                let name = format!("net/ipv4/conf/{of}/send_redirects");
                sysctl::set_if_different(&name, "0").unwrap();
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let kernel = Kernel::open().unwrap();
                let uplink = kernel.link("eth0").await.unwrap().index;
                for (family, (_, client, _)) in Family::ALL.into_iter().zip(ADDRESSES) {
                    let route = Route::through(services(family), ip(client), uplink);
                    kernel.add_route(&route).await.unwrap();
                }
            });
        })
        .unwrap();
        Self { node, client, _switch: switch }
    }

    fn commit(&self, table: &Table) {
        let socket = Socket::open_in(&Netns::open(self.node.netns_path()).unwrap()).unwrap();
        socket.commit(&diff(None, table)).unwrap();
    }
}

/// How the first packet from client or node to the service is traced.
fn traced(table: &Table, link: Option<&'static str>, payload: Payload, port: u16) -> Vec<Fate> {
    let (node, client, service) = ADDRESSES[usize::from(table.family == Family::Ip6)];
    let packet = Packet {
        link: link.map(Into::into),
        payload,
        source: ip(if link.is_some() { client } else { node }),
        destination: SocketAddr::new(ip(service), port),
        host: ADDRESSES.iter().map(|(node, ..)| ip(node)).collect(),
    };
    trace(table, &packet).into_iter().map(|route| route.fate).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Where services have their addresses.
fn services(family: Family) -> IpNetwork {
    let network = match family {
        Family::Ip => "10.96.0.0/16",
        Family::Ip6 => "fd00:96::/32",
    };
    network.parse().unwrap()
}

fn set_of(key: KeyType, data: DataType, elements: impl IntoIterator<Item = (Key, Data)>) -> Map {
    let kind = SetType { key, data, counter: false, dynamic: None };
    Map { kind, elements: elements.into_iter().map(|(key, data)| (key, data.into())).collect() }
}

fn chain(hook: Option<Hook>, rules: impl IntoIterator<Item = Vec<Statement>>) -> Chain {
    Chain { hook, rules: rules.into_iter().map(Rule).collect() }
}

/// The table in which clients are spread over so many ports of `endpoint` by their hash.
fn hashed(family: Family, ports: u32, seed: u32, endpoint: IpAddr) -> Table {
    const FIRST: u32 = 100;
    let mut table = Table::new(family);
    let port = |slot: u32| SocketAddr::new(endpoint, u16::try_from(8_000 + slot).unwrap());
    let slots = (0..ports).map(|slot| (Key::Number(FIRST + slot), Data::Endpoint(port(slot))));
    table.maps.insert("slots".into(), set_of(KeyType::Number, DataType::Endpoint, slots));
    let choice = Source::ByHash { modulus: ports, seed, offset: FIRST };
    let rules = [vec![
        Statement::Match(Match::DestinationInside(services(family))),
        Statement::SetPriority(choice),
        Statement::DnatByPriority("slots".into()),
    ]];
    table.chains.insert("output".into(), chain(Some(Hook::Output), rules));
    table
}

/// Sends a datagram from each client to `to`, and asserts that it comes out where the trace says. All of it on one host.
fn assert_goes_as_traced(table: &Table, clients: &[IpAddr], to: SocketAddr, endpoint: IpAddr, ports: u16) {
    let servers: Vec<_> = (8_000..8_000 + ports)
        .map(|port| {
            let server = UdpSocket::bind((endpoint, port)).unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            server
        })
        .collect();
    let mut reached = BTreeSet::new();
    for client in clients {
        let socket = UdpSocket::bind((*client, 0)).unwrap();
        socket.send_to(b"hello", to).unwrap();
        let packet = Packet {
            link: None,
            payload: Payload::Transport(Protocol::Udp),
            source: *client,
            destination: to,
            host: clients.iter().copied().collect(),
        };
        let [route] = trace(table, &packet)[..] else { panic!("a hash leaves no choice") };
        let Fate::Endpoint(chosen) = route.fate else { panic!("{client} goes nowhere: {route}") };
        let server = &servers[usize::from(chosen.port() - 8_000)];
        let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(from.ip(), *client);
        reached.insert(chosen);
    }
    assert_eq!(reached.len(), usize::from(ports), "few clients reach only {reached:?}");
}

/// Runs `work` on a host whose loopback has these addresses besides its own.
fn on_loopback(addresses: &[IpAddr], work: impl FnOnce(&Socket) + Send) {
    let host = Host::make("alone").unwrap();
    host.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let kernel = Kernel::open().unwrap();
            kernel.set_up(LOOPBACK, true).await.unwrap();
            for family in Family::ALL {
                kernel.add_route(&Route::on_link(services(family), LOOPBACK)).await.unwrap();
            }
            for address in addresses {
                kernel.add_address(&Address::bare(LOOPBACK, (*address).into())).await.unwrap();
            }
        });
        work(&Socket::open().unwrap());
    })
    .unwrap();
}

/// The table in which this host answers pings of the service.
fn answering(family: Family, service: &str) -> Table {
    let mut table = Table::new(family);
    let pingable = [(Key::Address(ip(service)), Data::None)];
    table.maps.insert("pingable".into(), set_of(KeyType::Address, DataType::None, pingable));
    let rule = || {
        let condition = [Match::EchoRequest, Match::DestinationIn("pingable".into())];
        condition.map(Statement::Match).into_iter().chain([Statement::Redirect]).collect()
    };
    table.chains.insert("prerouting".into(), chain(Some(Hook::Prerouting), [rule()]));
    table.chains.insert("output".into(), chain(Some(Hook::Output), [rule()]));
    table
}

/// The table in which port 80 of the service leads to the client, and whoever still goes to the service's address is refused.
fn refusing(family: Family, client: &str, service: &str) -> Table {
    let mut table = Table::new(family);
    let slots = [(Key::Number(1), Data::Endpoint((ip(client), 8080).into()))];
    table.maps.insert("slots".into(), set_of(KeyType::Number, DataType::Endpoint, slots));
    let hosts = [(Key::Address(ip(service)), Data::None)];
    table.maps.insert("hosts".into(), set_of(KeyType::Address, DataType::None, hosts));
    let goto = Data::Verdict(Verdict::Goto("pick".into()));
    let vips = [(Key::Service(ip(service), Protocol::Tcp, 80), goto)];
    table.maps.insert("vips".into(), set_of(KeyType::Service, DataType::Verdict, vips));

    let drop = |condition| vec![Statement::Match(condition), Statement::Verdict(Verdict::Drop)];
    let look = || vec![Statement::VerdictMap(Source::ByService("vips".into()))];
    let refuse = || {
        let condition = [Match::State(State::New), Match::DestinationIn("hosts".into())];
        condition.map(Statement::Match).into_iter().chain([Statement::Reject]).collect()
    };
    let eth = || LinkName::Prefix("eth".into());
    let lo = || LinkName::Exact("lo".into());
    let mut add = |name: &'static str, hook, rules: Vec<Vec<Statement>>| {
        table.chains.insert(name.into(), chain(hook, rules));
    };
    let choose = Statement::SetPriority(Source::Random { modulus: 1, offset: 1 });
    add("pick", None, vec![vec![choose, Statement::DnatByPriority("slots".into())]]);
    let mut martian = drop(Match::FromThisHost);
    martian.insert(0, Statement::Match(Match::NotLink(lo())));
    add("guard", Some(Hook::RawPrerouting), vec![drop(Match::State(State::New)), martian]);
    add("prerouting", Some(Hook::Prerouting), vec![drop(Match::Link(lo())), look()]);
    add("output", Some(Hook::Output), vec![drop(Match::Link(eth())), look()]);
    let invalid = drop(Match::State(State::Invalid));
    add("forward", Some(Hook::FilterForward), vec![invalid, drop(Match::NotLink(eth())), refuse()]);
    add("filter", Some(Hook::FilterOutput), vec![drop(Match::Link(lo())), refuse()]);
    let masquerade = vec![Statement::Match(Match::DestinationRewritten), Statement::Masquerade];
    add("postrouting", Some(Hook::Postrouting), vec![masquerade]);
    table
}

/// The table in which nothing leaves for these networks.
fn closed(networks: &[IpNetwork]) -> Table {
    let family = if networks[0].is_ipv4() { Family::Ip } else { Family::Ip6 };
    let (mut table, mut set) = (Table::new(family), set_of(KeyType::Address, DataType::None, []));
    let mut rules = Vec::new();
    for network in networks {
        set.elements.insert(Key::network(*network).unwrap(), Data::None.into());
        let condition = Match::DestinationNetworkIn { prefix: network.prefix(), set: "closed".into() };
        rules.push(vec![Statement::Match(condition), Statement::Verdict(Verdict::Drop)]);
    }
    table.maps.insert("closed".into(), set);
    table.chains.insert("output".into(), chain(Some(Hook::FilterOutput), rules));
    table
}

fairway_lab::sandbox_tests! {
    fn networks_of_any_length_are_found_in_one_set() {
        // The third begins like the second, and the last is what stands for a network of another length.
        let networks = [
            ["127.1.0.0/24", "127.2.0.0/15", "127.2.0.0/23", "127.3.5.4/31", "127.64.0.0/10", "127.9.9.128/25"],
            ["fd00:96:1::/64", "fd00:96:2::/47", "fd00:96:2::/56", "fd00:96:3::4/127", "fd00:96:40::/42", "fd00:96:9:0:8000::/65"],
        ];
        let others = [
            ["127.0.255.255", "127.1.1.0", "127.4.0.0", "127.3.5.6", "127.9.9.127", "127.128.0.1"],
            ["fd00:96:0:ffff::", "fd00:96:1:1::", "fd00:96:4::", "fd00:96:ff::4", "fd00:96:9:0:7fff::", "fd00:96:80::1"],
        ];

        for (networks, others) in networks.into_iter().zip(others) {
            let networks = networks.map(|network| network.parse::<IpNetwork>().unwrap());
            let mut addresses: BTreeSet<IpAddr> = others.map(ip).into();
            let ends = |network: &IpNetwork| {
                let Some(Key::Address(key)) = Key::network(*network) else { panic!("{network} has no key") };
                [network.network(), network.broadcast(), key]
            };
            addresses.extend(networks.iter().flat_map(ends));
            let addresses: Vec<IpAddr> = addresses.into_iter().collect();
            let table = closed(&networks);

            on_loopback(if networks[0].is_ipv4() { &[] } else { &addresses }, |socket| {
                socket.commit(&diff(None, &table)).unwrap();
                for address in &addresses {
                    let to = SocketAddr::new(*address, 9);
                    let is_closed = networks.iter().any(|network| network.contains(*address));
                    let packet = Packet {
                        link: None,
                        payload: Payload::Transport(Protocol::Udp),
                        source: *address,
                        destination: to,
                        host: BTreeSet::new(),
                    };
                    let [route] = trace(&table, &packet)[..] else { panic!("there is no choice") };
                    let socket = UdpSocket::bind((*address, 0)).unwrap();
                    let is_sent = socket.send_to(b"hello", to).map_err(|error| error.kind());
                    assert_eq!(route.fate == Fate::Dropped, is_closed, "{address}: {route}");
                    let expected = if is_closed { Err(ErrorKind::PermissionDenied) } else { Ok(5) };
                    assert_eq!(is_sent, expected, "{address}");
                }
            });
        }
    }

    fn a_redirected_ping_is_answered_from_the_address_that_was_pinged() {
        let pair = Pair::make();

        for (family, (.., service)) in Family::ALL.into_iter().zip(ADDRESSES) {
            let table = answering(family, service);
            pair.commit(&table);

            assert_eq!(traced(&table, Some("eth0"), Payload::EchoRequest, 0), [Fate::Redirected]);
            assert_eq!(traced(&table, None, Payload::EchoRequest, 0), [Fate::Redirected]);
            pair.client.run(|| ping(ip(service), PATIENCE)).unwrap().unwrap();
            pair.node.run(|| ping(ip(service), PATIENCE)).unwrap().unwrap();
        }
    }

    fn filters_come_after_rewriting() {
        let pair = Pair::make();

        for (family, (_, client, service)) in Family::ALL.into_iter().zip(ADDRESSES) {
            let table = refusing(family, client, service);
            pair.commit(&table);
            let endpoint = SocketAddr::new(ip(client), 8080);
            let _server = pair.client.run(|| TcpListener::bind(endpoint)).unwrap().unwrap();

            for (link, host) in [(Some("eth0"), &pair.client), (None, &pair.node)] {
                let tcp = |port| traced(&table, link, Payload::Transport(Protocol::Tcp), port);
                assert_eq!(tcp(80), [Fate::Endpoint(endpoint)]);
                assert_eq!(tcp(81), [Fate::Rejected]);
                let connect = |port| host.run(|| TcpStream::connect_timeout(&(ip(service), port).into(), PATIENCE));
                connect(80).unwrap().unwrap();
                assert_eq!(connect(81).unwrap().unwrap_err().kind(), ErrorKind::ConnectionRefused, "{family} {}", host.name());
            }
        }
    }

    fn a_client_s_hash_is_the_kernel_s() {
        let clients: Vec<IpAddr> = (1..=120).map(|n| IpAddr::from([127, 1, n, n ^ 0x55])).collect();

        on_loopback(&[], |socket| {
            let table = hashed(Family::Ip, 7, 0xfa1_2a4, ip("127.0.0.1"));
            socket.commit(&diff(None, &table)).unwrap();

            assert_goes_as_traced(&table, &clients, "10.96.0.1:80".parse().unwrap(), ip("127.0.0.1"), 7);
        });
    }

    fn a_client_s_hash_is_the_kernel_s_in_ipv6() {
        let clients: Vec<IpAddr> = (1..=120_u16).map(|n| IpAddr::from([0xfd07, n, 0, 3, 0, n, 7, n << 3])).collect();

        on_loopback(&clients, |socket| {
            let table = hashed(Family::Ip6, 7, 0xfa1_2a4, ip("::1"));
            socket.commit(&diff(None, &table)).unwrap();

            assert_goes_as_traced(&table, &clients, "[fd00:96::1]:80".parse().unwrap(), ip("::1"), 7);
        });
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

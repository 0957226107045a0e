//! Tracked connections on the real kernel, and the fake against it: the same questions, the same answers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use dataplane::{
    conntrack::{Conntrack, Fake, Filter, Flow, Socket},
    nft::{self, diff},
    packet::{Family, Protocol},
    rtnl::{Address, Change, Kernel, LOOPBACK, Route, Routes as _},
};
use fairway_lab::{host::Host, sctp, wait};
use proxy::{
    plan::{Planner, Settings},
    service_port::{Endpoint, ServicePort, ServicePortName},
};
use socket2::{Domain, Type};

/// The addresses of services, and of their endpoints.
const LOCAL: [&str; 6] =
    ["10.96.0.10/32", "10.96.0.11/32", "10.0.0.7/32", "fd00:96::10/128", "fd00:96::11/128", "fd00::7/128"];

/// Where nobody is.
const NOBODY: [&str; 2] = ["10.1.0.0/16", "fd01::/64"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Runs `work` on a machine that has all these addresses itself, and services in both families.
fn on_a_host(work: impl FnOnce(Socket) + Send) {
    let host = Host::make("a").unwrap();
    host.run(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(furnish());
        await_addresses();
        nft::Socket::open().unwrap().commit(&services()).unwrap();
        work(Socket::open().unwrap());
    })
    .unwrap();
}

async fn furnish() {
    let kernel = Kernel::open().unwrap();
    kernel.set_up(LOOPBACK, true).await.unwrap();
    for network in LOCAL {
        kernel.add_address(&Address::bare(LOOPBACK, network.parse().unwrap())).await.unwrap();
    }
    for network in NOBODY {
        let route = Route::on_link(network.parse().unwrap(), LOOPBACK);
        kernel.apply(&Change::Add(route)).await.unwrap();
    }
}

/// The kernel makes the route to an IPv6 address in its own time, even without a search for duplicates.
fn await_addresses() {
    for network in LOCAL {
        let to = SocketAddr::new(ip(network.split_once('/').unwrap().0), 53);
        let reach = || socket_to(to).map_err(|error| error.to_string());
        wait::until(&format!("{network} to be in use"), reach).unwrap();
    }
}

fn socket_to(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(to)?;
    Ok(socket)
}

/// One port 53 that leads to port 5353 of an endpoint here, in each family. With the first rule that translates, the kernel begins to track.
fn services() -> nft::Transaction {
    let mut planner = Planner::new(&Family::ALL, &Settings::default());
    for (address, endpoint) in [("10.96.0.10", "10.0.0.7:5353"), ("fd00:96::10", "[fd00::7]:5353")] {
        let (namespace, name, port) = ("default".into(), "dns".into(), "dns".into());
        let name = ServicePortName { namespace, name, port, protocol: Protocol::Udp };
        let port = ServicePort::new(ip(address), 53, vec![Endpoint::new(at(endpoint), true)]);
        planner.set(&name, Family::of(ip(address)), Some(&port));
    }
    let mut transaction = nft::Transaction::default();
    planner.tables().for_each(|table| transaction.append(diff(None, &table)));
    transaction
}

/// Sends a datagram and leaves it at that.
fn say(to: &str) -> UdpSocket {
    let socket = socket_to(at(to)).unwrap();
    socket.send(b"hello").unwrap();
    socket
}

/// Sends a datagram, and has it answered.
fn say_and_hear(to: &str, endpoint: &UdpSocket) -> UdpSocket {
    let socket = say(to);
    let (_, client) = endpoint.recv_from(&mut [0; 16]).unwrap();
    endpoint.send_to(b"yes?", client).unwrap();
    socket.recv(&mut [0; 16]).unwrap();
    socket
}

/// Begins a connection to somebody who keeps silent.
fn begin(to: &str) -> socket2::Socket {
    let to = at(to);
    let socket = socket2::Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    let begun = socket.connect(&to.into()).unwrap_err();
    assert_eq!(begun.raw_os_error(), Some(nix::libc::EINPROGRESS), "{begun}");
    socket
}

/// Flows of every kind. The sockets are kept so that nobody closes anything meanwhile.
fn flows() -> impl Sized {
    let bound = |at: &str| UdpSocket::bind(at).unwrap();
    let endpoints = ["10.0.0.7:5353", "[fd00::7]:5353"].map(bound);
    let heard = ["10.96.0.10:53", "[fd00:96::10]:53"];
    let heard: Vec<_> = heard
        .iter()
        .zip(&endpoints)
        .flat_map(|(to, endpoint)| [say_and_hear(to, endpoint), say_and_hear(to, endpoint)])
        .collect();
    let said = [
        "10.96.0.10:53",
        "[fd00:96::10]:53",
        "10.1.0.9:53",
        "10.1.0.9:54",
        "10.1.0.8:53",
        "[fd01::9]:53",
        "[fd01::9]:54",
    ];
    let said: Vec<_> = said.into_iter().map(say).collect();
    let begun = ["10.1.0.9:53", "10.1.0.9:80", "[fd01::9]:53", "[fd01::8]:53"].map(begin);
    let sctp = sctp::open().unwrap();
    for to in ["10.1.0.9:53", "10.1.0.9:54"].map(at) {
        sctp.send_to(&sctp::init(4_000, to.port()), &SocketAddr::new(to.ip(), 0).into()).unwrap();
    }
    (endpoints, heard, said, begun, sctp)
}

fn list(conntrack: &mut impl Conntrack, filter: &Filter) -> BTreeSet<Flow> {
    conntrack.flows(filter, &mut |_| true).unwrap().into_iter().collect()
}

/// Everything that is tracked in one family, or both.
fn all(conntrack: &mut impl Conntrack) -> BTreeSet<Flow> {
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let filters = Family::ALL.into_iter().flat_map(|f| protocols.map(|protocol| Filter::all(f, protocol)));
    filters.flat_map(|filter| list(conntrack, &filter)).collect()
}

/// Every combination of what can be asked for.
fn filters() -> Vec<Filter> {
    let addresses =
        ["10.96.0.10", "10.1.0.9", "10.9.9.9", "fd00:96::10", "fd01::9"].map(|address| Some(ip(address)));
    let mut filters = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        for family in Family::ALL {
            for address in addresses.into_iter().chain([None]) {
                for port in [None, Some(53), Some(54)] {
                    let filter = Filter { address, port, ..Filter::all(family, protocol) };
                    filters.extend([filter, Filter { unanswered: true, ..filter }]);
                }
            }
        }
    }
    filters
}

/// A flow to that address that was answered or not.
fn find(flows: &BTreeSet<Flow>, to: &str, is_answered: bool) -> Flow {
    let is_it = |flow: &&Flow| flow.original.destination == at(to) && flow.is_answered == is_answered;
    flows.iter().find(is_it).unwrap_or_else(|| panic!("no flow to {to} among {flows:#?}")).clone()
}

fairway_lab::sandbox_tests! {
    fn fake_and_kernel_list_alike() {
        on_a_host(|mut kernel| {
            let _kept = flows();
            let mut fake = Fake { flows: all(&mut kernel).into_iter().collect() };

            for filter in filters() {
                assert_eq!(list(&mut kernel, &filter), list(&mut fake, &filter), "{filter:?}");
            }
            let found = filters().iter().filter(|filter| !list(&mut fake, filter).is_empty()).count();
            assert!(found > 20, "{found} filters found something");
        });
    }

    fn fake_and_kernel_delete_alike() {
        on_a_host(|mut kernel| {
            let _kept = flows();
            let mut fake = Fake { flows: all(&mut kernel).into_iter().collect() };
            let listed = all(&mut kernel);
            let some: Vec<Flow> = listed.iter().step_by(2).cloned().collect();
            let other = |change: fn(&mut Flow)| {
                let mut flows: Vec<Flow> = listed.iter().skip(1).step_by(2).cloned().collect();
                flows.iter_mut().for_each(change);
                flows
            };
            let of_another_id = other(|flow| flow.id ^= 1);
            let of_another_answerer = other(|flow| flow.reply.source.set_port(1));
            assert!(some.len() > 5 && of_another_id.len() > 5);

            for flows in [&some, &some, &of_another_id, &of_another_answerer, &Vec::new()] {
                assert_eq!(kernel.delete(flows).unwrap(), fake.delete(flows).unwrap());
                assert_eq!(all(&mut kernel), all(&mut fake));
            }
        });
    }

    fn what_cannot_be_deleted_keeps_nothing_else_from_it() {
        on_a_host(|mut kernel| {
            let _kept = flows();
            let listed: Vec<Flow> = all(&mut kernel).into_iter().collect();
            let mut refused = listed.first().unwrap().clone(); // of two families at once
            refused.reply.source = at("10.0.0.7:1");
            refused.reply.destination = at("[fd00::7]:2");
            let many = std::iter::repeat_n(&refused, 1_000).chain(&listed).cloned().collect::<Vec<_>>();

            let error = kernel.delete(&many).unwrap_err();

            assert!(error.to_string().contains(&refused.to_string()), "{error}");
            assert_eq!(all(&mut kernel), BTreeSet::new());
        });
    }

    fn a_flow_says_who_was_asked_and_who_answers() {
        on_a_host(|mut kernel| {
            let _kept = flows();

            let flows = all(&mut kernel);

            for (asked, answerer) in [("10.96.0.10:53", "10.0.0.7:5353"), ("[fd00:96::10]:53", "[fd00::7]:5353")] {
                for is_answered in [true, false] {
                    let flow = find(&flows, asked, is_answered);
                    assert_eq!((flow.protocol, flow.answerer()), (Protocol::Udp, at(answerer)), "{flow}");
                    assert!(flow.is_led_elsewhere());
                }
            }
            assert!(!find(&flows, "10.1.0.9:54", false).is_led_elsewhere());
        });
    }

    fn only_what_is_wanted_is_kept() {
        on_a_host(|mut kernel| {
            let _kept = flows();

            let wanted = kernel.flows(&Filter::all(Family::Ip, Protocol::Udp), &mut |flow| flow.original.destination.port() == 54);

            let ports: Vec<u16> = wanted.unwrap().iter().map(|flow| flow.original.destination.port()).collect();
            assert_eq!(ports, [54]);
        });
    }

    fn hundreds_of_flows_are_deleted_at_once() {
        on_a_host(|mut kernel| {
            let _sockets: Vec<_> = (1..=500).map(|port| say(&format!("10.1.0.9:{port}"))).collect();
            let filter = Filter::all(Family::Ip, Protocol::Udp);
            let flows: Vec<Flow> = list(&mut kernel, &filter).into_iter().collect();
            assert_eq!(flows.len(), 500);

            assert_eq!(kernel.delete(&flows).unwrap(), 500);
            assert_eq!(list(&mut kernel, &filter), BTreeSet::new());
        });
    }

    fn a_flow_begun_anew_is_not_taken_for_the_old_one() {
        on_a_host(|mut kernel| {
            let socket = say("10.1.0.9:53");
            let filter = Filter::all(Family::Ip, Protocol::Udp);
            let old = list(&mut kernel, &filter).pop_first().unwrap();
            kernel.delete(std::slice::from_ref(&old)).unwrap();
            // From the same port to the same service, but by now that is led to somebody.
            let dns = at("10.1.0.9:53");
            let (namespace, name, port) = ("default".into(), "late".into(), "dns".into());
            let name = ServicePortName { namespace, name, port, protocol: Protocol::Udp };
            let mut planner = Planner::new(&[Family::Ip], &Settings::default());
            let port = ServicePort::new(dns.ip(), dns.port(), vec![Endpoint::new(at("10.0.0.7:5353"), true)]);
            planner.set(&name, Family::Ip, Some(&port));
            let nft = nft::Socket::open().unwrap();
            let table = planner.tables().next().unwrap();
            nft.commit(&diff(nft.held(Family::Ip).unwrap().as_ref(), &table)).unwrap();
            socket.send(b"hello again").unwrap();

            assert_eq!(kernel.delete(std::slice::from_ref(&old)).unwrap(), 0);
            let new = list(&mut kernel, &filter).pop_first().unwrap();
            assert_eq!((new.original, new.answerer()), (old.original, at("10.0.0.7:5353")));
        });
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

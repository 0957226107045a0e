//! A node with neighbours that see every packet, and what becomes of the packets that are sent into it.
//!
//! ```text
//!   stranger ── client ─┐        ┌─ fw1 ── pod 1
//!                      node ─────┼─ fw2 ── pod 2
//!   the rest ───── up ─┘         └─ lo
//! ```
//!
//! The rest has every address that is nowhere else: endpoints of other nodes, and addresses of services, so that what is not
//! rewritten arrives as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Read},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use dataplane::{
    netns::Netns,
    nft::{Change, Payload, Socket as Nftables, Table, Transaction, diff},
    packet::{Family, Protocol},
    rtnl::{Address, Kernel, LOOPBACK, Mac, Route, Routes as _, VethEnd},
    sysctl,
};
use fairway_lab::{
    host::Host,
    wait,
    wire::{self, ACK, Datagram, Echo, Packet, RST, SYN, Segment},
};
use ipnetwork::IpNetwork;
use socket2::{Domain, Socket, Type};
use tokio::runtime;

use super::cases::{SENDERS, Sender, Shot};

/// A neighbour of the node. Addresses are of IPv4 and of IPv6.
struct Neighbour {
    /// What the link to it is called on the node.
    link: &'static str,
    /// The node's address on that link.
    node: [&'static str; 2],
    own: &'static [[&'static str; 2]],
}

const POD_GATEWAY: [&str; 2] = ["10.244.1.1", "fd00:244:1::1"];
const NEIGHBOURS: [Neighbour; 4] = [
    Neighbour {
        link: "client",
        node: ["192.168.1.1", "fd00:1::1"],
        own: &[["192.168.1.2", "fd00:1::2"], ["192.168.1.3", "fd00:1::3"]],
    },
    Neighbour { link: "fw1", node: POD_GATEWAY, own: &[["10.244.1.2", "fd00:244:1::2"]] },
    Neighbour { link: "fw2", node: POD_GATEWAY, own: &[["10.244.1.3", "fd00:244:1::3"]] },
    REST,
];
const REST: Neighbour =
    Neighbour { link: "up", node: ["192.168.2.1", "fd00:2::1"], own: &[["192.168.2.2", "fd00:2::2"]] };

/// The address that the node itself sends from: on no link that leads out, so that masquerading always shows.
const OWN: [&str; 2] = ["192.168.3.9", "fd00:3::9"];

/// What all of them are told: the node must not, and the others need not, hold anything back.
const PARAMETERS: [(&str, &str); 8] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/route_localnet", "1"), // for node ports on localhost
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv4/icmp_ratemask", "0"), // every refusal is told, however many there are
    ("net/ipv6/icmp/ratelimit", "0"),
];

/// What becomes of a packet, as it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seen {
    /// It came out, with these addresses.
    Arrived { source: SocketAddr, destination: SocketAddr },
    /// It came to the node itself.
    ArrivedAtNode { port: u16 },
    /// Its sender was told that nobody answers.
    Refused,
    /// Its sender, who pinged, was answered.
    Answered,
}

/// What was seen of each packet, by its number.
type Sightings = BTreeMap<u32, BTreeSet<Seen>>;

/// The node and its neighbours, in one family. They live as long as the sockets that were opened on them.
pub(crate) struct Street {
    pub(crate) family: Family,
    nftables: Nftables,
    senders: BTreeMap<Sender, Socket>,
    /// What neighbours see, and, with the protocol's number, what comes to the node itself.
    eyes: Vec<(Option<u8>, Socket)>,
    sent: u32,
}

impl Street {
    pub(crate) fn make(family: Family) -> Self {
        let node = Host::make("node").unwrap();
        let neighbours: Vec<_> =
            NEIGHBOURS.iter().map(|neighbour| Host::make(neighbour.link).unwrap()).collect();
        let at = usize::from(family == Family::Ip6);
        let netns = |host: &Host| Netns::open(host.netns_path()).unwrap();
        for host in neighbours.iter().chain([&node]) {
            host.run(|| PARAMETERS.iter().for_each(|(key, value)| sysctl::set(key, value).unwrap())).unwrap();
        }
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for (host, neighbour) in neighbours.iter().zip(&NEIGHBOURS) {
                let rest =
                    if neighbour.link == REST.link { everything_else(family) } else { BTreeSet::new() };
                let own = neighbour.own.iter().map(|pair| pair[at].parse().unwrap()).chain(rest);
                connect(&netns(&node), neighbour, &netns(host), own).await;
            }
            let kernel = Kernel::open_in(&netns(&node)).unwrap();
            let up = kernel.link(REST.link).await.unwrap().index;
            let own = OWN[at].parse::<IpAddr>().unwrap();
            kernel.add_address(&Address::bare(LOOPBACK, own.into())).await.unwrap();
            let rest = REST.own[0][at].parse().unwrap();
            kernel.add_route(&Route::through(everything(family), rest, up)).await.unwrap();
        });

        let raw = |host: &Host| host.run(|| wire::open(family)).unwrap().unwrap();
        let senders = [
            (Sender::Node, raw(&node)),
            (Sender::Stranger(0), raw(&neighbours[0])),
            (Sender::Stranger(1), raw(&neighbours[0])),
            (Sender::Pod(0), raw(&neighbours[1])),
            (Sender::Pod(1), raw(&neighbours[2])),
        ];
        let icmp = if family == Family::Ip { 1 } else { 58 };
        let at_node =
            [6, 17, icmp].map(|protocol| (Some(protocol), node.run(|| listen(family, protocol)).unwrap()));
        let at_neighbours = neighbours.iter().map(|host| (None, host.run(|| watch(family)).unwrap()));
        let eyes = at_node.into_iter().chain(at_neighbours).collect();
        let nftables = Nftables::open_in(&netns(&node)).unwrap();
        let senders = senders.into_iter().collect();
        let mut street = Self { family, nftables, senders, eyes, sent: 0 };
        street.send(&[], &[]); // finds the neighbours, which may take a second
        street
    }

    /// Puts a table in place of the one before, and of all that it remembers of its clients.
    pub(crate) fn commit(&mut self, table: &Table) {
        let mut changes = Transaction::default();
        changes.push(self.family, Change::AddTable); // so that there is one to delete
        changes.push(self.family, Change::DeleteTable);
        changes.append(diff(None, table));
        self.nftables.commit(&changes).unwrap();
    }

    /// Sends packets, and says of each where it came from and what was seen, once there is something of each that
    /// `is_heard_of`.
    pub(crate) fn send(&mut self, shots: &[Shot], is_heard_of: &[bool]) -> Vec<(SocketAddr, BTreeSet<Seen>)> {
        let first = self.sent;
        let sources: Vec<_> = shots.iter().map(|shot| self.shoot(shot)).collect();
        // Once these pings are answered, whatever came before them has been decided.
        let last = self.sent;
        let rest = REST.own[0][usize::from(self.family == Family::Ip6)].parse().unwrap();
        for sender in SENDERS {
            let destination = SocketAddr::new(rest, 0);
            self.shoot(&Shot { sender, payload: Payload::EchoRequest, destination });
        }
        let mut seen = Sightings::new();
        let mut look_until = |patience, is_over: &dyn Fn(&Sightings) -> bool| {
            let _ = wait::until_within(patience, "packets to come out", || {
                let looks = self.eyes.iter().map(|(protocol, socket)| look(self.family, *protocol, socket));
                for (id, what) in looks.flatten() {
                    seen.entry(id).or_default().insert(what);
                }
                if is_over(&seen) { Ok(()) } else { Err("some are missing".into()) }
            });
        };
        let pings: Vec<_> = (last..self.sent).collect();
        let is_answered = |seen: &BTreeSet<Seen>| seen.contains(&Seen::Answered);
        look_until(Duration::from_secs(3), &|seen| {
            pings.iter().all(|id| seen.get(id).is_some_and(is_answered))
        });
        let awaited = (first..last).zip(is_heard_of).filter(|(_, is_heard_of)| **is_heard_of);
        let awaited: Vec<_> = awaited.map(|(id, _)| id).collect();
        look_until(Duration::from_millis(300), &|seen| awaited.iter().all(|id| seen.contains_key(id)));
        sources
            .into_iter()
            .zip(first..last)
            .map(|(from, id)| (from, seen.remove(&id).unwrap_or_default()))
            .collect()
    }

    /// Every packet is a connection of its own, told by its port and by a number that nothing changes on the way.
    fn shoot(&mut self, shot: &Shot) -> SocketAddr {
        let id = self.sent;
        self.sent += 1;
        let port = 1_024 + u16::try_from(id % 60_000).unwrap();
        let from = SocketAddr::new(shot.source(self.family), port);
        let to = shot.destination;
        let data = tagged(id).to_be_bytes().to_vec();
        let packet = match shot.payload {
            Payload::EchoRequest => Echo { from, to: to.ip(), is_reply: false, data }.bytes(),
            Payload::Transport(Protocol::Udp) => Datagram { from, to, data }.bytes(),
            Payload::Transport(_) => {
                Segment { from, to, sequence: tagged(id), acknowledgement: 0, flags: SYN }.bytes()
            }
        };
        // What is refused or dropped on the very node is told by the call, too.
        let _ = wire::send(&self.senders[&shot.sender], &packet, to.ip());
        from
    }

    /// The address of a neighbour, or of the node.
    pub(crate) fn address(family: Family, sender: Sender) -> IpAddr {
        let at = usize::from(family == Family::Ip6);
        let text = match sender {
            Sender::Node => OWN[at],
            Sender::Stranger(n) => NEIGHBOURS[0].own[n][at],
            Sender::Pod(n) => NEIGHBOURS[1 + n].own[0][at],
        };
        text.parse().unwrap()
    }

    /// All addresses of the node.
    pub(crate) fn node_addresses(family: Family) -> BTreeSet<IpAddr> {
        let at = usize::from(family == Family::Ip6);
        let all = NEIGHBOURS.iter().map(|neighbour| neighbour.node[at]).chain([OWN[at]]);
        all.map(|address| address.parse().unwrap()).collect()
    }

    /// By which link a sender's packets come in.
    pub(crate) fn link(sender: Sender) -> Option<&'static str> {
        match sender {
            Sender::Node => None,
            Sender::Stranger(_) => Some(NEIGHBOURS[0].link),
            Sender::Pod(n) => Some(NEIGHBOURS[1 + n].link),
        }
    }

    /// How many packets may still be sent before a port is used again.
    pub(crate) fn is_used_up(&self) -> bool {
        self.sent > 59_000
    }
}

/// Marks our numbers, so that nothing else is taken for one.
fn tagged(id: u32) -> u32 {
    0x5e00_0000 | id
}

fn untagged(number: u32) -> Option<u32> {
    (number & 0xff00_0000 == 0x5e00_0000).then_some(number & 0x00ff_ffff)
}

/// Takes what a socket has seen of our packets.
fn look(family: Family, at_node: Option<u8>, mut socket: &Socket) -> Vec<(u32, Seen)> {
    let mut seen = Vec::new();
    let mut bytes = [0; 2048];
    loop {
        let length = match socket.read(&mut bytes) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return seen,
            Err(error) => panic!("{error}"),
        };
        let nobody = IpAddr::from([0; 4]);
        let packet = match at_node {
            Some(number) if family == Family::Ip6 => {
                wire::read_payload(family, number, nobody, nobody, &bytes[..length])
            }
            _ => wire::read(family, &bytes[..length]),
        };
        seen.extend(packet.and_then(|packet| told_by(packet, at_node.is_some())));
    }
}

/// What a packet tells about one of ours.
fn told_by(packet: Packet, is_at_node: bool) -> Option<(u32, Seen)> {
    let arrived = |source: SocketAddr, destination: SocketAddr| {
        if is_at_node {
            Seen::ArrivedAtNode { port: destination.port() }
        } else {
            Seen::Arrived { source, destination }
        }
    };
    match packet {
        Packet::Segment(Segment { flags, acknowledgement, .. }) if flags & (RST | ACK) == RST | ACK => {
            Some((untagged(acknowledgement.wrapping_sub(1))?, Seen::Refused))
        }
        Packet::Segment(Segment { from, to, sequence, flags: SYN, .. }) => {
            Some((untagged(sequence)?, arrived(from, to)))
        }
        Packet::Segment(_) => None,
        Packet::Datagram(Datagram { from, to, data }) => {
            let number = u32::from_be_bytes(data.try_into().ok()?);
            Some((untagged(number)?, arrived(from, to)))
        }
        Packet::Echo(Echo { from, to, is_reply, data }) => {
            let seen = if is_reply { Seen::Answered } else { arrived(from, SocketAddr::new(to, 0)) };
            Some((untagged(u32::from_be_bytes(data.try_into().ok()?))?, seen))
        }
        Packet::Unreachable(about) => {
            let id = match *about {
                Packet::Segment(segment) => untagged(segment.sequence)?,
                Packet::Datagram(Datagram { data, .. }) | Packet::Echo(Echo { data, .. }) => {
                    untagged(u32::from_be_bytes(data.try_into().ok()?))?
                }
                Packet::Unreachable(_) => return None,
            };
            Some((id, Seen::Refused))
        }
    }
}

/// Sees what is delivered to this host itself.
fn listen(family: Family, protocol: u8) -> Socket {
    let domain = if family == Family::Ip { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(i32::from(protocol).into())).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.set_recv_buffer_size(1 << 20).unwrap();
    socket
}

/// Sees every packet of a family that comes in by any link.
fn watch(family: Family) -> Socket {
    let ethertype: u16 = if family == Family::Ip { 0x0800 } else { 0x86dd };
    let protocol = i32::from(ethertype.to_be());
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol.into())).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.set_recv_buffer_size(1 << 20).unwrap();
    socket
}

fn everything(family: Family) -> IpNetwork {
    if family == Family::Ip { "0.0.0.0/0" } else { "::/0" }.parse().unwrap()
}

/// What is nowhere else.
fn everything_else(family: Family) -> BTreeSet<IpAddr> {
    let services = super::cases::service_addresses(family);
    let endpoints =
        super::cases::endpoints(family).into_iter().filter(|e| !e.is_local).map(|e| e.address.ip());
    services.into_iter().chain(endpoints).collect()
}

/// Links a neighbour to the node, with a way to its own addresses there, and its default route over here.
async fn connect(node: &Netns, neighbour: &Neighbour, to: &Netns, addresses: impl Iterator<Item = IpAddr>) {
    const UPLINK: &str = "eth0";
    let addresses: Vec<_> = addresses.collect();
    let family = Family::of(addresses[0]);
    let gateway: IpAddr = neighbour.node[usize::from(family == Family::Ip6)].parse().unwrap();
    let end =
        |name: &str, seed| VethEnd { name: name.into(), mac: Mac::locally_administered(seed), mtu: 1500 };
    let (node, other) = (Kernel::open_in(node).unwrap(), Kernel::open_in(to).unwrap());
    node.add_veth(&end(neighbour.link, 2), &end(UPLINK, 3), Some(to)).await.unwrap();
    let (link, uplink) =
        (node.link(neighbour.link).await.unwrap().index, other.link(UPLINK).await.unwrap().index);
    for (kernel, link) in [(&node, link), (&node, LOOPBACK), (&other, uplink), (&other, LOOPBACK)] {
        kernel.set_up(link, true).await.unwrap();
    }
    node.add_address(&Address::bare(link, gateway.into())).await.unwrap();
    for address in &addresses {
        other.add_address(&Address::bare(uplink, (*address).into())).await.unwrap();
    }
    for address in &addresses[..neighbour.own.len()] {
        node.add_route(&Route::on_link((*address).into(), link)).await.unwrap();
    }
    other.add_route(&Route::on_link(gateway.into(), uplink)).await.unwrap();
    other.add_route(&Route::through(everything(family), gateway, uplink)).await.unwrap();
}

impl Shot {
    /// Who it says it is from: whom it reaches over loopback hears from there.
    pub(crate) fn source(&self, family: Family) -> IpAddr {
        if self.destination.ip().is_loopback() {
            self.destination.ip()
        } else {
            Street::address(family, self.sender)
        }
    }

    /// What the trace is asked.
    pub(crate) fn packet(&self, family: Family) -> dataplane::nft::Packet {
        dataplane::nft::Packet {
            link: Street::link(self.sender).map(Into::into),
            payload: self.payload,
            source: self.source(family),
            destination: self.destination,
            host: Street::node_addresses(family),
        }
    }
}

//! `bench connect`: what a new connection through a service costs, against one to the pod itself.
//!
//! ```text
//! client 192.168.1.2 ── 192.168.1.1 node 192.168.2.1 ── 192.168.2.2, .3 server
//!                         services: tables of the real engine
//! ```
//!
//! Connections are whole ones, to one service. CPU time per flow is that of lone SYNs to all services in turn, so that little is in a
//! cache, and to as many endpoints directly: what the node's kernel does for them it does in the sender's time, and the server drops
//! them. Both ways are measured in turns, pair by pair, since other things happen on the machine.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};
use dataplane::{
    netns::Netns,
    rtnl::{Address, AddressFlags, Kernel, LOOPBACK, Mac, Route, Routes as _, VethEnd},
    sysctl,
};
use ipnetwork::IpNetwork;
use serde::Serialize;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::runtime;

use super::{
    engine::Engine,
    figures::{measure as timed, median, rounded},
    workload::{Backends, Cluster, ENDPOINT_PORT, SERVICE_PORT, Size, service_with},
};
use crate::{host::Host, wait};

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const CLIENT_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 2, 2), Ipv4Addr::new(192, 168, 2, 3)];
const SERVER_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 1);

/// Where the endpoints of the other services are, all said to be behind the server.
const ENDPOINTS: &str = "10.128.0.0/9";

/// How often each way is measured.
const PAIRS: usize = 7;

/// Connections in one measure.
const CONNECTIONS: u32 = 1_000;

/// Flows in one measure, if the kernel tracks that many.
const FLOWS: u32 = 8_000;

/// What `bench connect` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ConnectFigures {
    services: u32,
    direct_per_s: f64,
    service_per_s: f64,
    /// The median of the pairs' ratios.
    ratio: f64,
    direct_cpu_us: f64,
    service_cpu_us: f64,
    /// How much longer a flow through a service takes, in the median of the pairs.
    cpu_ratio: f64,
}

/// Measures with so many services present, of two endpoints each.
pub(super) fn measure(services: u32) -> Result<ConnectFigures> {
    let size = Size { services, endpoints: 2 }.checked()?;
    let (client, node, server) = (Host::make("client")?, Host::make("node")?, Host::make("server")?);
    wire(&client, &node, &server).context("wire the machines")?;
    let mut engine = node.run(Engine::open)??;
    Cluster::new(size).all().for_each(|event| engine.take(event));
    for event in service_with(services, SERVERS) {
        engine.take(event);
    }
    engine.settle()?;

    let listener = server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, ENDPOINT_PORT)))??;
    let service = SocketAddrV4::new(Size::service_ip(services), SERVICE_PORT);
    let (direct_per_s, service_per_s) = client.run(|| connections(service, &listener))??;

    let tracked = node.run(|| sysctl::read("net/netfilter/nf_conntrack_max"))??;
    let tracked: u32 = tracked.parse().context("read nf_conntrack_max")?;
    let flows = FLOWS.min(tracked / (4 * u32::try_from(PAIRS)?));
    let (direct_us, service_us) = client.run(|| flows_both_ways(size, flows))??;

    let ratios = |of: &[f64], to: &[f64]| median(of.iter().zip(to).map(|(of, to)| of / to).collect());
    Ok(ConnectFigures {
        services,
        ratio: rounded(ratios(&service_per_s, &direct_per_s), 1000.0),
        cpu_ratio: rounded(ratios(&service_us, &direct_us), 1000.0),
        direct_per_s: rounded(median(direct_per_s), 1.0),
        service_per_s: rounded(median(service_per_s), 1.0),
        direct_cpu_us: rounded(median(direct_us), 100.0),
        service_cpu_us: rounded(median(service_us), 100.0),
    })
}

/// Connections per second to the server itself and through a service, in pairs.
fn connections(service: SocketAddrV4, server: &TcpListener) -> Result<(Vec<f64>, Vec<f64>)> {
    let direct = SocketAddrV4::new(SERVERS[0], ENDPOINT_PORT);
    for to in [direct, service] {
        wait::until("the server to answer", || {
            connect(to, server).map_err(|error| format!("{to}: {error}"))
        })?;
    }
    let per_second = |to| {
        let (connected, spent) = timed(|| (0..CONNECTIONS).try_for_each(|_| connect(to, server)));
        connected.map(|()| f64::from(CONNECTIONS) / spent.wall.as_secs_f64())
    };
    let mut measured = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        measured.0.push(per_second(direct).context("connect to the server")?);
        measured.1.push(per_second(service).context("connect through the service")?);
    }
    Ok(measured)
}

/// Makes a connection and takes it at the other end: whoever waits for nobody measures no scheduler.
fn connect(to: SocketAddrV4, server: &TcpListener) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&SocketAddr::V4(to), Duration::from_secs(1))?;
    let accepted = server.accept()?;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?; // ends it by a reset: no port has to wait
    drop(stream);
    drop(accepted);
    Ok(())
}

/// Microseconds of CPU time for each new flow to endpoints directly and through services, in pairs.
fn flows_both_ways(size: Size, flows: u32) -> Result<(Vec<f64>, Vec<f64>)> {
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW))).context("open a raw socket")?;
    let backends = Backends { count: 1, is_replaced: false };
    let endpoint = |number| size.endpoint_ips(number, backends).next().unwrap_or(SERVERS[0]);
    let mut sent = 0;
    let mut measured = (Vec::new(), Vec::new());
    for _ in 0..=PAIRS {
        measured.0.push(send(&raw, size, sent, flows, ENDPOINT_PORT, endpoint)?);
        measured.1.push(send(&raw, size, sent + flows, flows, SERVICE_PORT, Size::service_ip)?);
        sent += 2 * flows;
    }
    // The first pair finds neighbours and routes that nobody asked for yet.
    measured.0.remove(0);
    measured.1.remove(0);
    Ok(measured)
}

/// `IPPROTO_RAW`: the IP header is ours.
const RAW: i32 = 255;

/// Opens so many flows, each from a client of its own, to one service or endpoint after the other.
fn send(
    raw: &Socket,
    size: Size,
    sent: u32,
    flows: u32,
    port: u16,
    ip: impl Fn(u32) -> Ipv4Addr,
) -> Result<f64> {
    let packets: Vec<_> = (sent..sent + flows)
        .map(|flow| {
            let to = SocketAddrV4::new(ip(flow % size.services), port);
            (syn(source(flow), to), SocketAddr::V4(to).into())
        })
        .collect();
    let (outcome, took) =
        timed(|| packets.iter().try_for_each(|(packet, to)| raw.send_to(packet, to).map(drop)));
    outcome.context("send a packet")?;
    Ok(took.cpu.as_secs_f64() * 1e6 / f64::from(flows))
}

/// Addresses and ports of clients, no two alike.
fn source(number: u32) -> SocketAddrV4 {
    const PORTS: u32 = 60_000;
    let host = u8::try_from(number / PORTS % 200).unwrap_or_default();
    let [a, b, c, d] = CLIENT.octets();
    let port = u16::try_from(number % PORTS).unwrap_or_default() + 1_024;
    SocketAddrV4::new(Ipv4Addr::new(a, b, c, d + host), port)
}

/// An IPv4 packet with the first segment of a connection. The kernel adds the checksum of the IP header (`raw(7)`).
fn syn(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    const LENGTH: u8 = 40;
    let mut packet = vec![0x45, 0, 0, LENGTH, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    let mut segment = Vec::with_capacity(20);
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0]); // sequence and acknowledgement number
    segment.extend([0x50, 0x02, 0xff, 0xff]); // header of 20 bytes, SYN, window
    let checksum = checksum(packet.iter().skip(12).chain(&[0, 6, 0, 20]).chain(&segment));
    segment.extend(checksum.to_be_bytes());
    segment.extend([0, 0]); // no urgent data
    packet.extend(segment);
    packet
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum<'a>(bytes: impl Iterator<Item = &'a u8>) -> u16 {
    let mut is_high = false;
    let sum = bytes.fold(0_u32, |sum, byte| {
        is_high = !is_high;
        sum + if is_high { u32::from(*byte) << 8 } else { u32::from(*byte) }
    });
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

/// Makes the links between the machines, and the ways over the node.
fn wire(client: &Host, node: &Host, server: &Host) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let netns = |host: &Host| Netns::open(host.netns_path());
    let (client, on_node, server) = (netns(client)?, netns(node)?, netns(server)?);
    node.run(|| sysctl::set_if_different("net/ipv4/ip_forward", "1"))??;
    runtime.block_on(async {
        let kernel = Kernel::open_in(&on_node)?;
        link(&kernel, ("client", CLIENT_GATEWAY), &client, &[CLIENT]).await?;
        let index = link(&kernel, ("server", SERVER_GATEWAY), &server, &SERVERS).await?;
        kernel.add_route(&Route::through(ENDPOINTS.parse()?, SERVERS[0].into(), index)).await?;
        Ok(())
    })
}

/// Links a machine to the node, with its default route over there. Returns the index of the node's end.
async fn link(node: &Kernel, end: (&str, Ipv4Addr), to: &Netns, addresses: &[Ipv4Addr]) -> Result<u32> {
    const UPLINK: &str = "eth0";
    let (name, gateway) = end;
    let seed = u64::from(gateway.to_bits());
    let veth =
        |name: &str, seed| VethEnd { name: name.to_owned(), mac: Mac::locally_administered(seed), mtu: 1500 };
    let machine = Kernel::open_in(to)?;
    node.add_veth(&veth(name, seed << 1), &veth(UPLINK, seed << 1 | 1), Some(to)).await?;
    let index = node.link(name).await?.index;
    let uplink = machine.link(UPLINK).await?.index;
    machine.set_up(LOOPBACK, true).await?;
    machine.set_up(uplink, true).await?;
    node.set_up(index, true).await?;
    let address = |link, ip: &Ipv4Addr| -> Result<Address> {
        let network = IpNetwork::new(IpAddr::V4(*ip), 24)?;
        Ok(Address { link, network, flags: AddressFlags::default() })
    };
    node.add_address(&address(index, &gateway)?).await?;
    for ip in addresses {
        machine.add_address(&address(uplink, ip)?).await?;
    }
    machine.add_route(&Route::through("0.0.0.0/0".parse()?, gateway.into(), uplink)).await?;
    Ok(index)
}

impl fmt::Display for ConnectFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "with {} services                     direct  by service  ratio", self.services)?;
        let (direct, service, ratio) = (self.direct_per_s, self.service_per_s, self.ratio);
        writeln!(f, "  {:<30}{direct:>10}{service:>12}{ratio:>7}", "connections/s")?;
        let (direct, service, ratio) = (self.direct_cpu_us, self.service_cpu_us, self.cpu_ratio);
        write!(f, "  {:<30}{direct:>10}{service:>12}{ratio:>7}", "µs CPU for each new flow")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_makes_the_whole_sum_to_nothing() {
        let packet = syn("192.168.1.2:1024".parse().unwrap(), "10.96.0.1:80".parse().unwrap());

        assert_eq!(checksum(packet.iter().skip(12).chain(&[0, 6, 0, 20])), 0);
    }

    #[test]
    fn no_two_clients_are_alike() {
        let all: std::collections::BTreeSet<_> = (0..200_000).map(source).collect();

        assert_eq!(all.len(), 200_000);
        assert!(all.iter().all(|client| client.port() >= 1_024));
    }
}

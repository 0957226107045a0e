//! `bench connect`: what a new connection through a service costs, against one to the pod itself.
//!
//! ```text
//! client ── node ── server
//!           tables of the real engine
//! ```
//!
//! Connections are whole ones, to one service. CPU time per flow is that of lone SYNs to all services in turn, so that little is in a
//! cache, and to as many endpoints directly: what the node's kernel does for them it does in the sender's time, and the server drops
//! them. Both ways are measured in turns, pair by pair, since other things happen on the machine.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};
use dataplane::sysctl;
use serde::Serialize;
use socket2::{SockRef, Socket};

use super::{
    engine::Engine,
    figures::{measure as timed, median, rounded},
    workload::{Backends, Cluster, ENDPOINT_PORT, SERVICE_PORT, Size, service_with},
};
use crate::{
    row::{CLIENT, Row, SERVERS},
    syn, wait,
};

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
    let Row { client, node, server } = Row::make().context("wire the machines")?;
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
            connect(to, server).map(drop).map_err(|error| format!("{to}: {error}"))
        })?;
    }
    let per_second = |to| {
        let (connected, spent) = timed(|| (0..CONNECTIONS).try_for_each(|_| connect(to, server).map(drop)));
        connected.map(|()| f64::from(CONNECTIONS) / spent.wall.as_secs_f64())
    };
    let mut measured = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        measured.0.push(per_second(direct).context("connect to the server")?);
        measured.1.push(per_second(service).context("connect through the service")?);
    }
    Ok(measured)
}

/// Makes a connection and takes it at the other end: whoever waits for nobody measures no scheduler. Says which address it came to there.
pub(super) fn connect(to: SocketAddrV4, server: &TcpListener) -> io::Result<SocketAddr> {
    let stream = TcpStream::connect_timeout(&SocketAddr::V4(to), Duration::from_secs(1))?;
    let (accepted, _) = server.accept()?;
    let came_to = accepted.local_addr()?;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?; // ends it by a reset: no port has to wait
    drop(stream);
    drop(accepted);
    Ok(came_to)
}

/// Microseconds of CPU time for each new flow to endpoints directly and through services, in pairs.
fn flows_both_ways(size: Size, flows: u32) -> Result<(Vec<f64>, Vec<f64>)> {
    let raw = syn::open().context("open a raw socket")?;
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
            (syn::packet(source(flow), to), SocketAddr::V4(to).into())
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
    fn no_two_clients_are_alike() {
        let all: std::collections::BTreeSet<_> = (0..200_000).map(source).collect();

        assert_eq!(all.len(), 200_000);
        assert!(all.iter().all(|client| client.port() >= 1_024));
    }
}

//! New connections, as the kernel has counted them: of each service, to each backend, and those that were masqueraded.
//!
//! In: somebody who asks. Out: text for Prometheus. Nothing is read unless somebody asks, by one at a time, within bounds: of tens of thousands of
//! services, reading all takes the better part of a second of CPU time, and the text takes memory. What was never used is not told.

use std::{
    collections::BTreeMap,
    fmt, iter,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use dataplane::nft::{self, Counted, Counters, Data, Key, SetType};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::ConstCounter, counter::Counter, family, gauge::ConstGauge},
    registry::Registry,
};
use tokio::{
    sync::Semaphore,
    task::{JoinError, spawn_blocking},
};

use crate::{
    plan::{Settings, counting},
    service_port::Family,
};

/// Services' addresses, and backends, that are told at most, of each.
const MOST: usize = 10_000;

/// How long is read at most.
const BUDGET: Duration = Duration::from_secs(3);

/// Why there is nothing to tell.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is switched off.
    #[error("connections are not counted, because of --counters=false")]
    Off,
    /// Somebody else is being answered.
    #[error("somebody else asks for this now")]
    Busy,
    /// The kernel does not say.
    #[error("read the counters")]
    Read(#[from] nft::Error),
    /// The reader broke.
    #[error("read the counters")]
    Task(#[from] JoinError),
    /// It cannot be written down.
    #[error("write the counters down")]
    Write(#[from] fmt::Error),
}

/// What a daemon with these settings has the kernel count.
#[derive(Debug)]
pub struct Connections {
    families: Vec<Family>,
    maps: Vec<(counting::Use, &'static str, SetType)>,
    turn: Arc<Semaphore>,
}

/// An address of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct OfAddress {
    namespace: String,
    service: String,
    port: String,
    /// `cluster-ip`, `external-ip` or `node-port`.
    by: &'static str,
    address: String,
    protocol: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBackend {
    backend: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRule {
    ip_family: &'static str,
    why: &'static str,
}

/// What was read so far.
#[derive(Debug, Default)]
struct Read {
    services: BTreeMap<OfAddress, u64>,
    backends: BTreeMap<SocketAddr, u64>,
    masqueraded: Vec<(OfRule, u64)>,
    astray: u64,
    is_cut: bool,
}

impl Connections {
    /// As a daemon with these settings plans its tables.
    pub fn new(families: &[Family], settings: &Settings) -> Self {
        let maps = counting::maps(settings).collect();
        Self { families: families.to_vec(), maps, turn: Semaphore::new(1).into() }
    }

    /// What the kernel has counted until now.
    pub async fn text(&self) -> Result<String, Error> {
        if self.maps.is_empty() {
            return Err(Error::Off);
        }
        let turn = Arc::clone(&self.turn).try_acquire_owned().map_err(|_| Error::Busy)?;
        let (families, maps) = (self.families.clone(), self.maps.clone());
        // Whoever asked may have gone, and the thread reads on: so it is the thread's turn.
        let reading = spawn_blocking(move || {
            let read = read(&families, &maps);
            drop(turn);
            read
        });
        let read = reading.await??;
        Ok(read.text()?)
    }
}

#[expect(clippy::disallowed_methods, reason = "it takes no longer than it may")]
fn read(families: &[Family], maps: &[(counting::Use, &'static str, SetType)]) -> Result<Read, nft::Error> {
    let began = Instant::now();
    let mut counters = Counters::new(nft::Socket::open()?);
    let mut read = Read::default();
    for &family in families {
        let ip_family = if family == Family::Ip { "IPv4" } else { "IPv6" };
        for (chain, reasons) in counting::MASQUERADE {
            let rules = counters.of_rules(family, &chain.into())?;
            let counts = rules.into_iter().flatten().chain(iter::repeat(0));
            let counts = reasons.iter().zip(counts);
            read.masqueraded.extend(counts.map(|(why, packets)| (OfRule { ip_family, why }, packets)));
        }
        let astray = counters.of_rules(family, &counting::PICKING.into())?;
        read.astray += astray.into_iter().flatten().sum::<u64>();
    }
    for (family, (usage, map, kind)) in
        families.iter().flat_map(|family| maps.iter().map(move |map| (*family, *map)))
    {
        match counters.begin(family, &map.into(), kind) {
            Err(error) if error.is_not_found() => continue, // nothing is committed yet
            asked => asked?,
        }
        loop {
            match counters.step(|counted| read.add(usage, &counted)) {
                Ok(true) => {}
                Err(error) if !error.is_not_found() => return Err(error),
                Ok(false) | Err(_) => break,
            }
            if began.elapsed() > BUDGET {
                read.is_cut = true;
                return Ok(read); // the rest is left unread, with the socket
            }
        }
    }
    Ok(read)
}

impl Read {
    fn add(&mut self, usage: counting::Use, counted: &Counted) {
        let Counted { key, element, packets } = counted;
        if *packets == 0 {
            return;
        }
        match (usage, &element.data) {
            (counting::Use::Backends, Data::Endpoint(backend)) => {
                if self.backends.len() < MOST || self.backends.contains_key(backend) {
                    *self.backends.entry(*backend).or_default() += packets;
                } else {
                    self.is_cut = true;
                }
            }
            (counting::Use::Addresses(by), _) if self.services.len() < MOST => {
                let name = element.comment.as_deref().unwrap_or_default();
                if let Some(address) = OfAddress::of(by, *key, name) {
                    *self.services.entry(address).or_default() += packets;
                }
            }
            _ => self.is_cut = true,
        }
    }

    fn text(self) -> Result<String, fmt::Error> {
        let services = family::Family::<OfAddress, Counter>::default();
        for (address, packets) in self.services {
            services.get_or_create(&address).inc_by(packets);
        }
        let backends = family::Family::<OfBackend, Counter>::default();
        for (backend, packets) in self.backends {
            backends.get_or_create(&OfBackend { backend: backend.to_string() }).inc_by(packets);
        }
        let masqueraded = family::Family::<OfRule, Counter>::default();
        for (rule, packets) in self.masqueraded {
            masqueraded.get_or_create(&rule).inc_by(packets);
        }
        let mut registry = Registry::with_prefix("fairway");
        registry.register("service_connections", "New connections to an address of a service", services);
        registry.register("backend_connections", "New connections that services led to a backend", backends);
        registry.register(
            "masqueraded_connections",
            "New connections that left with the node's address",
            masqueraded,
        );
        let help = "Packets that were led to no backend by mistake, and dropped";
        registry.register("astray_packets", help, ConstCounter::new(self.astray));
        let help = "Whether there is more than is told";
        registry.register("connections_cut", help, ConstGauge::new(u32::from(self.is_cut)));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl OfAddress {
    /// Of an element of a map of addresses, by the service port's name beside it.
    fn of(by: &'static str, key: Key, name: &str) -> Option<Self> {
        let (address, protocol) = match key {
            Key::Service(ip, protocol, port) => (SocketAddr::new(ip, port).to_string(), protocol),
            Key::Port(protocol, port) => (format!(":{port}"), protocol),
            _ => return None,
        };
        let (namespace, rest) = name.split_once('/').unwrap_or(("", name));
        let (service, port) = rest.split_once(':').unwrap_or((rest, ""));
        Some(Self {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            port: port.to_owned(),
            by,
            address,
            protocol: protocol.to_string(),
        })
    }
}

#[cfg(test)]
mod tests;

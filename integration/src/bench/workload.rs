//! The cluster that benchmarks are about: services with their endpoints, as a watch would tell them. Nothing measured here.
//!
//! Every object is made when it is asked for, from its number: the process that is measured holds nothing but what it must.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use anyhow::{Result, ensure};
use clap::builder::RangedI64ValueParser;
use proxy::{
    objects::{
        EndpointSlice, Kind, ObjectName, Port, Service, ServiceType, SliceEndpoint, SlicePort, Triggered,
    },
    service_port::{Family, Protocol},
    watch::{Change, Event},
};

/// How many services come and go besides those that stay.
pub(super) const VISITORS: u32 = 1_000;

/// How many nodes the endpoints are spread over. They have names like [`OWN_NODE`].
const NODES: u32 = 100;

/// The node that the cluster is seen from.
pub(super) const OWN_NODE: &str = "node-0";

/// The port of every service.
pub(super) const SERVICE_PORT: u16 = 80;

/// The port of every endpoint.
pub(super) const ENDPOINT_PORT: u16 = 8080;

/// Where service addresses begin: 10.96.0.0/12.
const SERVICE_NETWORK: u32 = 0x0a60_0000;

/// Where endpoint addresses begin: 10.128.0.0/9.
const ENDPOINT_NETWORK: u32 = 0x0a80_0000;
const ENDPOINT_ROOM: u64 = 1 << 23;

/// How many services, and how many endpoints each of them has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub(super) struct Size {
    /// How many services
    #[arg(long, default_value_t = 10_000, value_parser = services())]
    pub(super) services: u32,
    /// How many endpoints each service has
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) endpoints: u32,
}

/// Reads how many services.
pub(super) fn services() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1_000_000)
}

impl Size {
    /// Makes sure that there are addresses for all of it.
    pub(super) fn checked(self) -> Result<Self> {
        let room = u64::from(self.services + VISITORS) * u64::from(self.room());
        ensure!(room <= ENDPOINT_ROOM, "that many endpoints have no addresses in 10.128.0.0/9");
        Ok(self)
    }

    /// How many endpoint addresses each service has for itself: one to grow, one to be replaced by.
    fn room(self) -> u32 {
        self.endpoints + 2
    }

    /// The cluster IP of a service.
    pub(super) fn service_ip(number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(SERVICE_NETWORK + 1 + number)
    }

    /// The addresses of a service's endpoints.
    pub(super) fn endpoint_ips(self, number: u32, backends: Backends) -> impl Iterator<Item = Ipv4Addr> {
        let first = ENDPOINT_NETWORK + number * self.room();
        let place = move |turn| match turn {
            0 if backends.is_replaced => self.endpoints + 1,
            turn => turn,
        };
        (0..backends.count).map(move |turn| Ipv4Addr::from_bits(first + place(turn)))
    }
}

/// Which of its endpoints a service has at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backends {
    pub(super) count: u32,
    /// Whether the first one is another than at first.
    pub(super) is_replaced: bool,
}

/// The cluster as it is now, and how it came to be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cluster {
    size: Size,
    /// The services whose backends are others than at first.
    changed: BTreeMap<u32, Backends>,
}

impl Cluster {
    pub(super) fn new(size: Size) -> Self {
        Self { size, changed: BTreeMap::new() }
    }

    /// A service to change next: not the neighbour of the one before.
    pub(super) fn pick(&self, turn: u32) -> u32 {
        const STRIDE: u64 = 7_919; // a prime: every service has its turn
        let number = u64::from(turn) * STRIDE % u64::from(self.size.services);
        u32::try_from(number).unwrap_or_default()
    }

    fn backends(&self, number: u32) -> Backends {
        let at_first = Backends { count: self.size.endpoints, is_replaced: false };
        self.changed.get(&number).copied().unwrap_or(at_first)
    }

    /// Everything that is told at a start.
    pub(super) fn all(&self) -> impl Iterator<Item = Event> {
        (0..self.size.services).flat_map(|number| self.added(number))
    }

    /// A service comes, with its endpoints.
    pub(super) fn added(&self, number: u32) -> [Event; 2] {
        [service(number, service_name(number)), self.slice(number)]
    }

    /// One endpoint is replaced by another.
    pub(super) fn replace(&mut self, number: u32) -> Event {
        self.replaced(number);
        self.slice(number)
    }

    /// The same, as what the service has now.
    pub(super) fn replaced(&mut self, number: u32) -> Backends {
        let Backends { count, is_replaced } = self.backends(number);
        let now = Backends { count, is_replaced: !is_replaced };
        self.changed.insert(number, now);
        now
    }

    /// A service gets one endpoint more than it had at first.
    pub(super) fn grow(&mut self, number: u32) -> Event {
        let backends = Backends { count: self.size.endpoints + 1, ..self.backends(number) };
        self.changed.insert(number, backends);
        self.slice(number)
    }

    /// A service has as many endpoints as at first.
    pub(super) fn shrink(&mut self, number: u32) -> Event {
        let backends = Backends { count: self.size.endpoints, ..self.backends(number) };
        self.changed.insert(number, backends);
        self.slice(number)
    }

    fn slice(&self, number: u32) -> Event {
        let ips = self.size.endpoint_ips(number, self.backends(number));
        slice(number, ips)
    }
}

/// A service that leads to given endpoints.
pub(super) fn service_with(number: u32, endpoints: impl IntoIterator<Item = Ipv4Addr>) -> [Event; 2] {
    [service(number, service_name(number)), slice(number, endpoints)]
}

/// A service goes, with its endpoints.
pub(super) fn removed(number: u32) -> [Event; 2] {
    [Event::gone(Kind::EndpointSlice, slice_name(number)), Event::gone(Kind::Service, service_name(number))]
}

fn service(number: u32, name: ObjectName) -> Event {
    let port = Port { name: "http".into(), protocol: Protocol::Tcp, port: SERVICE_PORT, node_port: None };
    Event::Service(Change::Set(Arc::new(Service::new(
        name,
        ServiceType::ClusterIp,
        vec![Size::service_ip(number).into()],
        vec![port],
    ))))
}

fn slice(number: u32, endpoints: impl IntoIterator<Item = Ipv4Addr>) -> Event {
    let port = SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: ENDPOINT_PORT };
    let endpoints = (number..).zip(endpoints).map(|(seat, address)| SliceEndpoint {
        node: Some(node_name(seat).into()),
        ..SliceEndpoint::new(IpAddr::V4(address))
    });
    Event::EndpointSlice(Change::Set(Arc::new(EndpointSlice {
        name: slice_name(number),
        service: Some(service_name(number).name),
        is_headless: false,
        family: Some(Family::Ip),
        ports: vec![port],
        endpoints: endpoints.collect(),
        triggered: Triggered::default(),
    })))
}

/// The name of the node that an endpoint runs on.
pub(super) fn node_name(seat: u32) -> String {
    format!("node-{}", seat % NODES)
}

pub(super) fn service_name(number: u32) -> ObjectName {
    ObjectName {
        namespace: format!("namespace-{}", number % NODES).into(),
        name: format!("service-{number}").into(),
    }
}

/// The name of a service's slice.
pub(super) fn slice_name(number: u32) -> ObjectName {
    let ObjectName { namespace, name } = service_name(number);
    ObjectName { namespace, name: format!("{name}-{:05x}", number % 0xf_ffff).into() }
}

/// The number in a service's name.
pub(super) fn number_of(service: &str) -> Option<u32> {
    service.strip_prefix("service-")?.parse().ok()
}

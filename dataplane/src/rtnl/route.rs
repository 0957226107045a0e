//! Routes of the main table and of ours, and what can be done with them.

use std::{fmt, net::IpAddr};

use ipnetwork::IpNetwork;

use super::{Change, Error};
use crate::owner;

/// What the kernel makes of no metric, in IPv6: `IP6_RT_PRIO_USER` of `include/uapi/linux/ipv6_route.h`.
pub(super) const DEFAULT_METRIC_V6: u32 = 1024;

/// How far a destination is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Behind a gateway.
    #[default]
    Universe,
    /// On the link itself.
    Link,
    /// This machine.
    Host,
}

/// A table of routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// The one that every packet comes to that no other had a route for.
    #[default]
    Main,
    /// Ours: a [`super::Rule`] leads to it.
    Own,
}

impl Table {
    /// What the kernel calls it.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Main => MAIN,
            Self::Own => owner::ROUTE_TABLE,
        }
    }

    /// The one that the kernel calls so; nothing if it is another's.
    pub(super) fn of(number: u32) -> Option<Self> {
        [Self::Main, Self::Own].into_iter().find(|table| table.number() == number)
    }
}

/// `RT_TABLE_MAIN` (rtnetlink.h).
const MAIN: u32 = 254;

/// What the kernel keeps one route for: a table, a destination and a metric.
pub(super) type Key = (Table, IpNetwork, Option<u32>);

/// A unicast route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Who is to find it.
    pub table: Table,
    /// Where to.
    pub destination: IpNetwork,
    /// Which of several routes to one destination comes first: the lowest. Nothing is the kernel's default.
    pub metric: Option<u32>,
    /// Through whom; nothing if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Over which link, by index.
    pub link: u32,
    /// The gateway is on the link, whatever the other routes say.
    pub onlink: bool,
    /// The source address of packets that choose none themselves.
    pub source: Option<IpAddr>,
    /// The largest packet, where it is smaller than the link's.
    pub mtu: Option<u32>,
    /// How far the destination is. IPv6 has no such thing: always [`Scope::Universe`].
    pub scope: Scope,
    /// Who made it: ours bear [`owner::ROUTE_PROTOCOL`].
    pub protocol: u8,
}

impl Route {
    /// A route of ours to a destination that is on the link.
    pub fn on_link(destination: IpNetwork, link: u32) -> Self {
        let scope = if destination.is_ipv4() { Scope::Link } else { Scope::Universe };
        Self {
            table: Table::Main,
            destination,
            metric: None,
            gateway: None,
            link,
            onlink: false,
            source: None,
            mtu: None,
            scope,
            protocol: owner::ROUTE_PROTOCOL,
        }
    }

    /// A route of ours through a gateway.
    pub fn through(destination: IpNetwork, gateway: IpAddr, link: u32) -> Self {
        Self { gateway: Some(gateway), scope: Scope::Universe, ..Self::on_link(destination, link) }
    }

    /// The same with this metric. The kernel's own default, said aloud, is no metric: the kernel does not list it either.
    #[must_use]
    pub fn with_metric(self, metric: Option<u32>) -> Self {
        let default = if self.destination.is_ipv4() { 0 } else { DEFAULT_METRIC_V6 };
        Self { metric: metric.filter(|metric| ![0, default].contains(metric)), ..self }
    }

    /// Says whether we made it.
    pub fn is_ours(&self) -> bool {
        self.protocol == owner::ROUTE_PROTOCOL
    }

    /// What makes two routes rivals: the kernel keeps one for each.
    pub(super) fn key(&self) -> Key {
        (self.table, self.destination, self.metric)
    }
}

impl fmt::Display for Route {
    /// As `ip route` would take it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " dev {}", self.link)?;
        if self.table != Table::Main {
            write!(f, " table {}", self.table.number())?;
        }
        write!(f, " proto {}", self.protocol)?;
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if self.onlink { write!(f, " onlink") } else { Ok(()) }
    }
}

/// Whoever keeps routes: the kernel, or a fake of it.
pub trait Routes {
    /// Lists the routes of both tables that `protocol` made.
    fn routes(&self, protocol: u8) -> impl Future<Output = Result<Vec<Route>, Error>> + Send;

    /// Adds a route; one with its destination and metric must not be in its table.
    fn add_route(&self, route: &Route) -> impl Future<Output = Result<(), Error>> + Send;

    /// Puts a route in the place of the one with its destination and metric, or adds it.
    fn replace_route(&self, route: &Route) -> impl Future<Output = Result<(), Error>> + Send;

    /// Deletes a route that is there as it was listed.
    fn delete_route(&self, route: &Route) -> impl Future<Output = Result<(), Error>> + Send;

    /// Makes a change. Deleting what went away with its link is no error; adding over a route that the change did not
    /// know of is one, because that route may be another's.
    fn apply(&self, change: &Change) -> impl Future<Output = Result<(), Error>> + Send
    where
        Self: Sync,
    {
        async move {
            match change {
                Change::Add(route) => self.add_route(route).await,
                Change::Replace(route) => self.replace_route(route).await,
                Change::Delete(route) => match self.delete_route(route).await {
                    Err(error) if error.is_not_found() => Ok(()),
                    done => done,
                },
            }
        }
    }
}

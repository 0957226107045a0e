//! Routes and VXLAN devices without a kernel: what [`super::Kernel`] would answer, from memory.
//!
//! In: the links that there are, then the same calls as the kernel takes. Out: the same answers and errors.
//! It knows links, destinations and gateways; it does not know addresses, so it takes any source address.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use super::{Error, Operation, Route, Routes, route::DEFAULT_METRIC_V6};

mod tunnels;

/// A main table, and VXLAN devices, in memory.
#[derive(Debug)]
pub struct Fake {
    links: BTreeSet<u32>,
    table: Mutex<BTreeMap<(IpNetwork, Option<u32>), Route>>,
    tunnels: Mutex<tunnels::Table>,
}

impl Fake {
    /// An empty table over links that are up.
    pub fn with_links(links: impl IntoIterator<Item = u32>) -> Self {
        Self { links: links.into_iter().collect(), table: Mutex::default(), tunnels: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<(IpNetwork, Option<u32>), Route>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the kernel looks at before it keeps a route, in its order.
    fn check(&self, route: &Route) -> Result<(), Errno> {
        if route.destination.ip() != route.destination.network() {
            return Err(Errno::EINVAL);
        }
        let is_device = self.tunnels.lock().unwrap_or_else(PoisonError::into_inner).has(route.link);
        if !is_device && !self.links.contains(&route.link) {
            return Err(Errno::ENODEV);
        }
        let Some(gateway) = route.gateway else { return Ok(()) };
        match (route.onlink, gateway.is_ipv4()) {
            (true, false) if self.is_beyond_another_link(gateway, route.link) => Err(Errno::EINVAL),
            (true, _) => Ok(()),
            (false, _) if self.is_on_link(gateway, route.link) => Ok(()),
            (false, true) => Err(Errno::ENETUNREACH),
            (false, false) => Err(Errno::EHOSTUNREACH),
        }
    }

    fn is_on_link(&self, gateway: IpAddr, link: u32) -> bool {
        let table = self.table();
        let mut direct = table.values().filter(|route| route.gateway.is_none() && route.link == link);
        direct.any(|route| route.destination.contains(gateway))
    }

    /// IPv6 does not believe `onlink` where the gateway's own route, unless it is a default, leads over another link.
    fn is_beyond_another_link(&self, gateway: IpAddr, link: u32) -> bool {
        let table = self.table();
        let towards = table.values().filter(|route| route.destination.prefix() > 0);
        let towards = towards.filter(|route| route.destination.contains(gateway));
        let best = towards.min_by_key(|route| {
            (Reverse(route.destination.prefix()), route.metric.unwrap_or(DEFAULT_METRIC_V6))
        });
        best.is_some_and(|route| route.link != link)
    }
}

impl Routes for Fake {
    async fn routes(&self, protocol: u8) -> Result<Vec<Route>, Error> {
        Ok(self.table().values().filter(|route| route.protocol == protocol).copied().collect())
    }

    async fn add_route(&self, route: &Route) -> Result<(), Error> {
        let refused = |errno| Error::refused(Operation::Add, &format!("route {route}"), errno);
        self.check(route).map_err(refused)?;
        let mut table = self.table();
        if table.contains_key(&route.key()) {
            return Err(refused(Errno::EEXIST));
        }
        table.insert(route.key(), *route);
        Ok(())
    }

    async fn replace_route(&self, route: &Route) -> Result<(), Error> {
        let refused = |errno| Error::refused(Operation::Replace, &format!("route {route}"), errno);
        self.check(route).map_err(refused)?;
        self.table().insert(route.key(), *route);
        Ok(())
    }

    async fn delete_route(&self, route: &Route) -> Result<(), Error> {
        let mut table = self.table();
        if table.get(&route.key()) != Some(route) {
            return Err(Error::refused(Operation::Delete, &format!("route {route}"), Errno::ESRCH));
        }
        table.remove(&route.key());
        Ok(())
    }
}

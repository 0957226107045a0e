//! Routes, rules and VXLAN devices without a kernel: what [`super::Kernel`] would answer, from memory.
//!
//! In: the links that there are, then the same calls as the kernel takes. Out: the same answers and errors.
//! It knows links, destinations and gateways; it does not know addresses, so it takes any source address.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::errno::Errno;

use super::{
    Error, Operation, Route, Routes, Rule, Rules, Table,
    route::{DEFAULT_METRIC_V6, Key},
};

mod tunnels;

/// Both tables, rules, and VXLAN devices, in memory.
#[derive(Debug)]
pub struct Fake {
    links: BTreeSet<u32>,
    table: Mutex<BTreeMap<Key, Route>>,
    rules: Mutex<BTreeSet<Rule>>,
    tunnels: Mutex<tunnels::Table>,
}

impl Fake {
    /// Empty tables over links that are up.
    pub fn with_links(links: impl IntoIterator<Item = u32>) -> Self {
        let (table, rules, tunnels) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { links: links.into_iter().collect(), table, rules, tunnels }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<Key, Route>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_rules(&self) -> MutexGuard<'_, BTreeSet<Rule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
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
            (false, _) if self.is_on_link(gateway, route) => Ok(()),
            (false, true) => Err(Errno::ENETUNREACH),
            (false, false) => Err(Errno::EHOSTUNREACH),
        }
    }

    /// A gateway is looked for in the table of the route itself, and then in the main one.
    fn is_on_link(&self, gateway: IpAddr, route: &Route) -> bool {
        let table = self.table();
        let direct = table.values().filter(|near| near.gateway.is_none() && near.link == route.link);
        let mut direct = direct.filter(|near| [Table::Main, route.table].contains(&near.table));
        direct.any(|near| near.destination.contains(gateway))
    }

    /// IPv6 does not believe `onlink` where the gateway's own route in the main table, unless it is a default, leads over another link.
    fn is_beyond_another_link(&self, gateway: IpAddr, link: u32) -> bool {
        let table = self.table();
        let towards = table.values().filter(|route| route.table == Table::Main);
        let towards = towards.filter(|route| route.destination.prefix() > 0);
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

impl Rules for Fake {
    async fn rules(&self) -> Result<Vec<Rule>, Error> {
        Ok(self.held_rules().iter().copied().collect())
    }

    async fn add_rule(&self, rule: &Rule) -> Result<(), Error> {
        let is_new = self.held_rules().insert(*rule);
        let refused = || Error::refused(Operation::Add, &format!("rule {rule}"), Errno::EEXIST);
        is_new.then_some(()).ok_or_else(refused)
    }

    async fn delete_rule(&self, rule: &Rule) -> Result<(), Error> {
        let was_there = self.held_rules().remove(rule);
        let refused = || Error::refused(Operation::Delete, &format!("rule {rule}"), Errno::ENOENT);
        was_there.then_some(()).ok_or_else(refused)
    }
}

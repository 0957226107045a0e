//! What the plan of ways says, done: one thing at a time.
//!
//! In: a thing, and whoever keeps such things. Out: it is done, or why not. That something is gone already is no failure.

use std::collections::BTreeSet;

use dataplane::{
    owner,
    rtnl::{self, Address, Change, Device, Kernel, Routes, Rules, Tunnels, Vxlan},
    sysctl,
};
use ipnetwork::IpNetwork;

use super::outlook::is_link_local;
use crate::plan::routes::{
    objects::{Object, Put},
    tunnel,
};

/// Why a device for tunnels is not there as it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The name or the VXLAN network is another's.
    #[error(
        "{0}: another link has that name, or that VNI at that port: is another overlay still there (ip -d link show type vxlan)? \
         Remove it, or choose --vxlan-vni or --vxlan-port"
    )]
    Occupied(Box<Vxlan>),
    /// The kernel says no.
    #[error(transparent)]
    Kernel(#[from] rtnl::Error),
}

pub(super) async fn put<K: Routes + Rules + Tunnels + Sync>(
    kernel: &K,
    put: &Put,
) -> Result<(), rtnl::Error> {
    match (&put.object, put.route()) {
        (Object::Forwarding(entry), _) => kernel.put_forwarding(entry).await,
        (Object::Neighbour(entry), _) => kernel.put_neighbour(entry).await,
        (Object::Route(route), change) => kernel.apply(&change.unwrap_or(Change::Add(*route))).await,
        (Object::Rule(rule), _) => match kernel.add_rule(rule).await {
            Err(error) if error.is_exists() && put.is_rival_there => Ok(()),
            done => done,
        },
    }
}

pub(super) async fn delete<K: Routes + Rules + Tunnels + Sync>(
    kernel: &K,
    object: &Object,
) -> Result<(), rtnl::Error> {
    let done = match object {
        Object::Forwarding(entry) => kernel.delete_forwarding(entry).await,
        Object::Neighbour(entry) => kernel.delete_neighbour(entry).await,
        Object::Route(route) => kernel.apply(&Change::Delete(*route)).await,
        Object::Rule(rule) => kernel.delete_rule(rule).await,
    };
    match done {
        Err(error) if error.is_not_found() => Ok(()),
        done => done,
    }
}

/// All that there is of ours for ways, with what these devices were told. A pod's own route bears the same mark, but has no gateway.
pub(super) async fn held<K: Routes + Rules + Tunnels>(
    kernel: &K,
    devices: impl Iterator<Item = u32>,
) -> Result<BTreeSet<Object>, rtnl::Error> {
    let mut held: BTreeSet<Object> = ways(kernel).await?.into_iter().map(Object::Route).collect();
    held.extend(kernel.rules().await?.into_iter().map(Object::Rule));
    for device in devices {
        held.extend(kernel.forwardings(device).await?.into_iter().map(Object::Forwarding));
        held.extend(kernel.permanent_neighbours(device).await?.into_iter().map(Object::Neighbour));
    }
    Ok(held)
}

async fn ways<K: Routes>(kernel: &K) -> Result<Vec<rtnl::Route>, rtnl::Error> {
    let mut routes = kernel.routes(owner::ROUTE_PROTOCOL).await?;
    routes.retain(|route| route.gateway.is_some());
    Ok(routes)
}

/// A device that is there.
#[derive(Debug)]
pub(super) struct Settled {
    /// What the kernel calls it.
    pub(super) index: u32,
    /// Whether it was not as it should be.
    pub(super) is_changed: bool,
    /// What of it still is not. Ways go through it nevertheless, as well as they can.
    pub(super) failure: Option<rtnl::Error>,
}

/// Makes a device be there as it should.
pub(super) async fn device(
    kernel: &Kernel,
    wanted: &Vxlan,
    pod_cidrs: &[IpNetwork],
) -> Result<Settled, Error> {
    let mut there = kernel.device(&wanted.name).await?;
    if let Some(other) = there.take_if(|there| there.vxlan.tunnel != wanted.tunnel) {
        kernel.delete_device(other.index).await?;
    }
    let mut settled = if let Some(Device { index, vxlan, is_up }) = there {
        let is_changed = vxlan != *wanted || !is_up;
        let mut failure = None;
        if is_changed {
            let mac = (vxlan.mac != wanted.mac).then_some(wanted.mac);
            failure = kernel.mend_device(index, mac, wanted.mtu).await.err();
        }
        Settled { index, is_changed, failure }
    } else {
        kernel.add_device(wanted).await.map_err(|error| {
            if error.is_exists() { Error::Occupied(Box::new(wanted.clone())) } else { error.into() }
        })?;
        let index = kernel.link(&wanted.name).await?.index;
        Settled { index, is_changed: true, failure: None }
    };
    // Nobody behind a tunnel is this node's router, whatever he advertises; nobody but nodes can, where this cannot be set.
    sysctl::set_if_different(&format!("net/ipv6/conf/{}/accept_ra", wanted.name), "0").ok();
    if pod_cidrs.iter().any(IpNetwork::is_ipv6) {
        // Where new links have no IPv6 unless somebody says so (`net.ipv6.conf.default.disable_ipv6`), ours has it. If that cannot be,
        // the address is refused, and that is told.
        sysctl::set_if_different(&format!("net/ipv6/conf/{}/disable_ipv6", wanted.name), "0").ok();
    }
    let addressed = address(kernel, settled.index, pod_cidrs).await;
    for done in [addressed, loosen(kernel, &wanted.name, settled.index).await] {
        match done {
            Ok(is_changed) => settled.is_changed |= is_changed,
            Err(error) => settled.failure = settled.failure.or(Some(error)),
        }
    }
    Ok(settled)
}

/// Makes a device take packets whose answers would leave by another link, and says whether it did not. They come where a node sends
/// through its tunnel what this one does not: pods' answers to node ports, where a node itself has asked, or as long as flags differ.
/// The greater of this and the value of all links counts, and 2 is the greatest. // kernel ip-sysctl.rst, `rp_filter`
pub(super) async fn loosen(kernel: &Kernel, name: &str, index: u32) -> Result<bool, rtnl::Error> {
    if sysctl::read(&format!("net/ipv4/conf/{name}/rp_filter")).is_ok_and(|value| value == "2") {
        return Ok(false);
    }
    kernel.loosen_reverse_path_filter(index).await.map(|()| true)
}

/// Gives a device its addresses, and says whether it had others. Link-local ones are the kernel's. One that is refused keeps no other
/// from being there; of all that fails, the first is told.
async fn address(kernel: &Kernel, device: u32, pod_cidrs: &[IpNetwork]) -> Result<bool, rtnl::Error> {
    let wanted: BTreeSet<Address> = tunnel::addresses(pod_cidrs, device).into_iter().collect();
    let there = kernel.addresses().await?.into_iter();
    let there: BTreeSet<Address> =
        there.filter(|address| address.link == device && !is_link_local(address)).collect();
    let mut failed = None;
    for address in wanted.difference(&there) {
        failed = failed.or(kernel.add_address(address).await.err());
    }
    for address in there.difference(&wanted) {
        failed = failed.or(kernel.delete_address(address).await.err());
    }
    failed.map_or(Ok(wanted != there), Err)
}

/// Removes every route that a daemon has made here with the rules that lead there, and the devices for tunnels; says how many routes
/// those were. Of all that fails, the first is told.
pub async fn remove_routes(kernel: &Kernel) -> Result<usize, rtnl::Error> {
    let mut removed = 0;
    let (rules, mut failed) = match kernel.rules().await {
        Ok(rules) => (rules, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    for rule in rules {
        failed = failed.or(delete(kernel, &Object::Rule(rule)).await.err());
    }
    let routes = ways(kernel).await.unwrap_or_else(|error| {
        failed.get_or_insert(error);
        Vec::new()
    });
    for route in routes {
        match kernel.apply(&Change::Delete(route)).await {
            Ok(()) => removed += 1,
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    for name in owner::TUNNELS {
        let device = kernel.device(name).await;
        let done = match device {
            Ok(Some(device)) => kernel.delete_device(device.index).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        failed = failed.or(done.err().filter(|error| !error.is_not_found()));
    }
    failed.map_or(Ok(removed), Err)
}

//! A wiring made real, compared with what is real, and taken away.
//!
//! In: a [`Wiring`], the host's kernel and the pod's namespace. Out: links, addresses, routes and neighbours, or what is wrong with
//! those there are. It decides nothing: what goes where is the wiring's to say.

mod bridge;
pub mod errand;
mod limits;

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive, path::Path, thread, time::Duration};

use dataplane::{
    forwarding,
    netns::{self, Netns},
    owner,
    packet::Family,
    rtnl::{self, Kernel, LOOPBACK, Link, Routes, VethEnd},
    sysctl,
};
use ipnetwork::IpNetwork;

use super::{Side, Wiring, bridge::Role, host_end_for};
use crate::failure::{Code, Coded};

/// Why a pod could not be wired.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A link of that name is there, and another's.
    #[error(
        "link {name} {place} exists already, and is none of this network's: remove it, or choose another CNI_IFNAME"
    )]
    Foreign {
        /// The link's name.
        name: String,
        /// Where it is.
        place: &'static str,
    },
    /// Pods cannot be plugged into it.
    #[error("link {0} on the host is there and no bridge: choose another name for bridge")]
    NoBridge(String),
    /// The bridge has an address that stands in the way of ours.
    #[error(
        "bridge {bridge} has address {there}, which overlaps {wanted}: remove it, set forceAddress, or choose another bridge"
    )]
    Occupied {
        /// The bridge's name.
        bridge: String,
        /// The address that it has.
        there: IpNetwork,
        /// The address that it should have.
        wanted: IpNetwork,
    },
    /// Another on the bridge has the pod's address.
    #[error("address {0} is in use by another on the bridge (enabledad)")]
    Duplicate(IpAddr),
    /// The kernel is too old.
    #[error("macspoofchk: the kernel cannot lock the ports of a bridge: that needs Linux 5.18")]
    CannotLock,
    /// The kernel cannot limit.
    #[error("bandwidth: the kernel lacks {modules}: load it (modprobe), or leave the limits out")]
    NoModule {
        /// What it lacks.
        modules: &'static str,
        /// What it said.
        source: rtnl::Error,
    },
    /// The kernel said no.
    #[error("wire the pod {place}")]
    Rtnl {
        /// On which side.
        place: &'static str,
        /// What it said, and to what.
        source: rtnl::Error,
    },
    /// Another link of the pod's has a route like one of ours.
    #[error("{0}: the pod has such a route by another network: give one of the two ipam.routes of its own")]
    RouteTaken(String),
    /// A kernel parameter is not as it should be, and cannot be set.
    #[error("wire the pod {place}")]
    Sysctl {
        /// On which side.
        place: &'static str,
        /// Which, and why not.
        source: sysctl::Error,
    },
    /// The pod's namespace cannot be entered.
    #[error("wire the pod in its namespace")]
    Netns(#[from] netns::Error),
}

impl Coded for Error {
    fn code(&self) -> Code {
        match self {
            Self::Netns(_) => Code::InvalidNetns,
            Self::CannotLock | Self::NoModule { .. } => Code::UnsupportedField,
            Self::Foreign { .. }
            | Self::NoBridge(_)
            | Self::Occupied { .. }
            | Self::Duplicate(_)
            | Self::Rtnl { .. }
            | Self::RouteTaken(_)
            | Self::Sysctl { .. } => Code::Wiring,
        }
    }
}

const HOST: &str = "on the host";
const POD: &str = "in its namespace";

fn on_host(source: rtnl::Error) -> Error {
    Error::Rtnl { place: HOST, source }
}

fn in_pod(source: rtnl::Error) -> Error {
    Error::Rtnl { place: POD, source }
}

/// A link that was just made has no address and no neighbour yet, so that what exists can only be a route.
fn on_new_link(source: rtnl::Error) -> Error {
    match source {
        rtnl::Error::Refused { ref object, .. } if source.is_exists() => Error::RouteTaken(object.clone()),
        source => in_pod(source),
    }
}

/// Finds a link; nothing if there is none.
async fn find(kernel: &Kernel, name: &str) -> Result<Option<Link>, rtnl::Error> {
    match kernel.link(name).await {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A pod's link that was just made: in its place and up, without addresses.
#[derive(Debug)]
pub struct Pair {
    pod: Kernel,
    pod_end: u32,
    host_end: Link,
}

/// Makes the pod's link, unless it is there and as it should be, and returns the bridge that it is plugged into, if it is.
/// What is left of an earlier try is made anew.
pub async fn build(wiring: &Wiring, host: &Kernel, netns: &Netns) -> Result<Option<Link>, Error> {
    if let Some(pair) = join(wiring, host, netns).await? {
        address(&pair, wiring, host).await?;
    }
    bridge::find(wiring, host).await
}

/// The second half of [`build`], for addresses that were leased over the link itself: gives them to a pair that was joined without.
pub async fn complete(pair: &Pair, wiring: &Wiring, host: &Kernel) -> Result<Option<Link>, Error> {
    bridge::ensure(wiring, host).await?;
    allow_forwarding(wiring)?;
    address(pair, wiring, host).await?;
    bridge::find(wiring, host).await
}

/// The first half of [`build`]: makes the pod's link, or nothing if it is there, whole, with its addresses.
pub async fn join(wiring: &Wiring, host: &Kernel, netns: &Netns) -> Result<Option<Pair>, Error> {
    let bridge = bridge::ensure(wiring, host).await?;
    allow_forwarding(wiring)?;
    // Nearly always nothing is in the way, so nothing is looked for until something is.
    match host.add_veth(&wiring.host_end, &wiring.pod_end, Some(netns)).await {
        Err(error) if error.is_exists() => {
            if is_built(wiring, host, netns).await? {
                return Ok(None);
            }
            host.add_veth(&wiring.host_end, &wiring.pod_end, Some(netns)).await.map_err(on_host)?;
        }
        made => made.map_err(on_host)?,
    }
    let host_end = host.link(&wiring.host_end.name).await.map_err(on_host)?;
    if let Some(bridge) = &bridge {
        bridge::plug(wiring, host, host_end.index, bridge).await?;
    } else {
        refuse_advertisements(&wiring.host_end.name)?;
        if wiring.has_family(false) {
            allow_ipv6(HOST, &[&wiring.host_end.name])?;
        }
    }
    if wiring.is_limited() {
        limits::set(wiring, host, host_end.index).await?;
    }
    let (pod, prepared) = Kernel::open_and_run_in(netns, || prepare_pod(wiring)).map_err(in_pod)?;
    prepared?;
    let pod_end = match host_end.peer {
        Some(index) => index,
        None => pod.link(&wiring.pod_end.name).await.map_err(in_pod)?.index,
    };
    pod.set_up(LOOPBACK, true).await.map_err(in_pod)?;
    // The end that is up last works at once: a pod may speak as soon as it runs.
    host.set_up_with_alias(host_end.index, &wiring.alias).await.map_err(on_host)?;
    pod.set_up(pod_end, true).await.map_err(in_pod)?;
    Ok(Some(Pair { pod, pod_end, host_end }))
}

async fn address(pair: &Pair, wiring: &Wiring, host: &Kernel) -> Result<(), Error> {
    install(&pair.pod, &wiring.pod_side(pair.pod_end)).await.map_err(on_new_link)?;
    install(host, &wiring.host_side(pair.host_end.index)).await.map_err(on_host)?;
    wait_until_working(host, &pair.host_end, wiring.bridging.is_some()).await?;
    if wiring.seeks_duplicates() {
        bridge::wait_until_unique(&pair.pod, &wiring.pod_side(pair.pod_end)).await?;
    }
    Ok(())
}

/// Says whether what is in the way of a pair is that very pair, whole. What is left of an earlier try is removed.
async fn is_built(wiring: &Wiring, host: &Kernel, netns: &Netns) -> Result<bool, Error> {
    let pod = Kernel::open_in(netns).map_err(in_pod)?;
    if let Some(there) = find(host, &wiring.host_end.name).await.map_err(on_host)? {
        if !there.is_veth() {
            return Err(Error::Foreign { name: there.name, place: HOST });
        }
        if faults_of_links(wiring, host, &pod).await?.is_empty() {
            limits::set(wiring, host, there.index).await?;
            return Ok(true);
        }
        remove(host, &there).await.map_err(on_host)?;
    }
    // SPEC "ADD": an interface of that name in the container is an error.
    match find(&pod, &wiring.pod_end.name).await.map_err(in_pod)? {
        Some(there) => Err(Error::Foreign { name: there.name, place: POD }),
        None => Ok(false),
    }
}

/// Waits until the host end takes packets, and a bridge lets them in and out there. That is so when the kernel has noticed that both
/// ends are up: mostly at once, at times up to a second later. Where it is never so (the bridge speaks the spanning tree
/// protocol, say), the pod is wired all the same. // kernel `net/core/link_watch.c`
async fn wait_until_working(host: &Kernel, host_end: &Link, is_port: bool) -> Result<(), Error> {
    const TURN: Duration = Duration::from_millis(1);
    for _ in 0..2000 {
        let link = host.link_by_index(host_end.index).await.map_err(on_host)?;
        if link.is_running && (link.is_forwarding || !is_port) {
            break;
        }
        thread::sleep(TURN);
    }
    Ok(())
}

async fn install(kernel: &Kernel, side: &Side) -> Result<(), rtnl::Error> {
    for address in &side.addresses {
        kernel.add_address(address).await?;
    }
    // Before the routes: no packet comes this way without knowing whom to go to.
    for neighbour in &side.neighbours {
        kernel.put_neighbour(neighbour).await?;
    }
    for route in &side.routes {
        kernel.add_route(route).await?;
    }
    Ok(())
}

/// The families that the host has to forward for it to route what the pod sends; none where it does not.
fn forwarded(wiring: &Wiring) -> impl Iterator<Item = Family> {
    let is_routed = wiring.bridging.as_ref().is_none_or(|bridging| bridging.role != Role::Switch);
    Family::ALL.into_iter().filter(move |family| is_routed && wiring.has_family(*family == Family::Ip))
}

/// Without forwarding, the host would silently drop what the pod sends.
fn allow_forwarding(wiring: &Wiring) -> Result<(), Error> {
    forwarded(wiring).try_for_each(|family| forwarding::allow(family).map(drop)).map_err(host_sysctl)
}

fn host_sysctl(source: sysctl::Error) -> Error {
    Error::Sysctl { place: HOST, source }
}

/// No pod is a router: with one packet it could else draw the traffic of a host that does not forward IPv6 to itself.
/// // CVE-2020-10749
fn refuse_advertisements(host_end: &str) -> Result<(), Error> {
    match set_if_there(&format!("net/ipv6/conf/{host_end}/accept_ra"), "0") {
        // The link is about to go again: what a person can set is where it gets its value from.
        Err(Error::Sysctl { place, source: sysctl::Error::ReadOnly { value, source, .. } }) => {
            let key = "net/ipv6/conf/default/accept_ra".to_owned();
            Err(Error::Sysctl { place, source: sysctl::Error::ReadOnly { key, value, source } })
        }
        done => done,
    }
}

/// A parameter that is not there is of a link that is gone, or of a kernel without IPv6.
fn set_if_there(key: &str, value: &str) -> Result<(), Error> {
    match sysctl::set_if_different(key, value) {
        Err(error) if !error.is_not_found() => Err(host_sysctl(error)),
        _ => Ok(()),
    }
}

/// Sets what belongs to the pod's namespace.
fn prepare_pod(wiring: &Wiring) -> Result<(), Error> {
    let name = &wiring.pod_end.name;
    if wiring.has_family(false) {
        allow_ipv6(POD, &["lo", name])?;
    }
    // A plugin after this one may give the link another hardware address, which the host would believe in only when questions to
    // the old one have gone unanswered: seconds later. So the pod tells. Where that cannot be set, it is not needed either.
    for (is_ipv4, key) in [(true, "arp_notify"), (false, "ndisc_notify")] {
        if wiring.has_family(is_ipv4) {
            let family = if is_ipv4 { "ipv4" } else { "ipv6" };
            let _ = sysctl::set(&format!("net/{family}/conf/{name}/{key}"), "1");
        }
    }
    Ok(())
}

/// Some runtimes make namespaces in which IPv6 is off.
fn allow_ipv6(place: &'static str, links: &[&str]) -> Result<(), Error> {
    for link in links {
        let key = format!("net/ipv6/conf/{link}/disable_ipv6");
        sysctl::set_if_different(&key, "0").map_err(|source| Error::Sysctl { place, source })?;
    }
    Ok(())
}

/// Lists what is not as the wiring has it: missing, down, or different. Empty if all is well.
pub async fn faults(wiring: &Wiring, host: &Kernel, pod: &Kernel) -> Result<Vec<String>, Error> {
    let mut faults = faults_of_links(wiring, host, pod).await?;
    if let Some(host_end) = find(host, &wiring.host_end.name).await.map_err(on_host)? {
        faults.extend(limits::faults(wiring, host, &host_end).await?);
    }
    Ok(faults)
}

/// The same without the limits, which can be changed on a link that is in use.
async fn faults_of_links(wiring: &Wiring, host: &Kernel, pod: &Kernel) -> Result<Vec<String>, Error> {
    let mut faults = Vec::new();
    let host_end = find(host, &wiring.host_end.name).await.map_err(on_host)?;
    let pod_end = find(pod, &wiring.pod_end.name).await.map_err(in_pod)?;
    let loopback = pod.link_by_index(LOOPBACK).await.map_err(in_pod)?;

    if !loopback.is_up {
        faults.push(format!("link {} {POD} is down", loopback.name));
    }
    for key in forwarded(wiring).map(forwarding::parameter) {
        if sysctl::read(key).map_err(host_sysctl)? == "0" {
            faults.push(format!("sysctl {key} {HOST} is 0"));
        }
    }
    match host_end {
        None => faults.push(format!("link {} {HOST} is missing", wiring.host_end.name)),
        Some(link) => {
            let mtu = wiring.host_end.mtu..=wiring.host_end.mtu;
            faults.extend(differences(&wiring.host_end, &mtu, &link, HOST));
            let side = wiring.host_side(link.index);
            faults.extend(missing(host, &side, HOST).await.map_err(on_host)?);
            faults.extend(bridge::faults(wiring, host, &link).await?);
        }
    }
    match pod_end {
        None => faults.push(format!("link {} {POD} is missing", wiring.pod_end.name)),
        Some(link) => {
            faults.extend(differences(&wiring.pod_end, &wiring.pod_mtu(), &link, POD));
            let side = wiring.pod_side(link.index);
            faults.extend(missing(pod, &side, POD).await.map_err(in_pod)?);
        }
    }
    Ok(faults)
}

fn differences(wanted: &VethEnd, mtu: &RangeInclusive<u32>, link: &Link, place: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let name = &link.name;
    if !link.is_veth() {
        faults.push(format!("link {name} {place} is no end of a veth pair"));
    }
    if !link.is_up {
        faults.push(format!("link {name} {place} is down"));
    }
    if !mtu.contains(&link.mtu) {
        faults.push(format!("link {name} {place} has MTU {}, not {}", link.mtu, wanted.mtu));
    }
    if link.mac != Some(wanted.mac) {
        let mac = link.mac.map_or("no hardware address".to_owned(), |mac| mac.to_string());
        faults.push(format!("link {name} {place} has {mac}, not {}", wanted.mac));
    }
    faults
}

async fn missing(kernel: &Kernel, side: &Side, place: &str) -> Result<Vec<String>, rtnl::Error> {
    let addresses = kernel.addresses().await?;
    let routes = kernel.routes(owner::ROUTE_PROTOCOL).await?;
    let has_address = |wanted: &rtnl::Address| {
        addresses.iter().any(|there| there.link == wanted.link && there.network == wanted.network)
    };
    let addresses = side.addresses.iter().filter(|address| !has_address(address));
    let addresses = addresses.map(|address| format!("address {} {place} is missing", address.network));
    let routes = side.routes.iter().filter(|route| !routes.contains(route));
    let routes = routes.map(|route| format!("route {route} {place} is missing"));
    Ok(addresses.chain(routes).collect())
}

/// Takes away the host end of that name, and with it the pod's end, its addresses and all routes over it, and then the link that
/// what the pod sent was limited on; says whether the host end was there. The name is proof enough: it is a hash of the
/// attachment, and someone may have changed the hardware address.
pub async fn demolish(host: &Kernel, host_end: &str) -> Result<bool, Error> {
    let there = find(host, host_end).await.map_err(on_host)?.filter(Link::is_veth);
    if let Some(link) = &there {
        remove(host, link).await.map_err(on_host)?;
    }
    limits::remove_ifb(host, host_end).await.map_err(on_host)?;
    Ok(there.is_some())
}

/// Deletes a link; one that went away in the meantime is no error.
async fn remove(host: &Kernel, link: &Link) -> Result<(), rtnl::Error> {
    match host.delete_link(link.index).await {
        Err(error) if error.is_not_found() => Ok(()),
        done => done,
    }
}

/// Lists the host ends that we made for attachments with leases in `run_dir`, and those of which no more than the link is left
/// that what their pods sent was limited on.
pub async fn host_ends(host: &Kernel, run_dir: &Path) -> Result<BTreeSet<String>, Error> {
    let links = host.links().await.map_err(on_host)?;
    Ok(links.iter().filter_map(|link| host_end_for(link, run_dir)).collect())
}

//! What a pod has of its node, host ports and being masqueraded: claimed and told to the kernel when its link is up, and taken back before
//! its address is free.
//!
//! In: the record of an attachment, which says what it is to have. Out: claims on disk and elements in the tables of their kinds, both
//! or neither, whoever else does the same at the same time: all of it is done while the claims are locked.
//!
//! ```text
//! ADD   record → link → [ claims → elements ] → flows that were begun to the port end
//! DEL   [ elements → claims ] → flows to the pod end → link → record
//! ```
//!
//! A pod whose address is of the daemon's pod CIDRs is the daemon's to masquerade, which knows whom pods are to reach as themselves.

use std::{collections::BTreeSet, net::IpAddr};

use dataplane::{
    claims::{self, Claim, Claimed, Claims, Locked, Owner, kernel::Tables},
    conntrack,
    host_ports::{HostPort, flows},
    masquerade::Masqueraded,
    nft,
    rtnl::{self, Kernel},
    sysctl,
};

use super::reclaim::{self, Node};
use crate::{
    conf::Network,
    failure::{Code, Coded, Failure},
    ipam::{
        Ask,
        store::{Record, Store},
    },
    node,
    request::Attachment,
    wiring::Wiring,
};

/// Why a pod could not have something of its node, or not give it back.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{what} is taken by {holder}")]
    Taken { what: Claimed, holder: Box<Claim> },
    #[error("host port {0}: the pod has no address of that family")]
    NoAddress(String),
    #[error("host ports and masquerade")]
    Claims(#[from] claims::Error),
    #[error("host ports and masquerade")]
    Nft(#[from] nft::Error),
    #[error("host ports: end flows that lead astray")]
    Flows(#[from] conntrack::Error),
    #[error("host ports on 127.0.0.1")]
    Localhost(#[source] sysctl::Error),
    #[error("host ports and masquerade: tell this boot from others")]
    Boot(#[source] sysctl::Error),
    #[error("host ports: ask for the node's addresses")]
    Addresses(#[source] rtnl::Error),
}

impl Coded for Error {
    fn code(&self) -> Code {
        match self {
            Self::Taken { what: Claimed::HostPort(_), .. } => Code::HostPortTaken,
            Self::Taken { what: Claimed::Masquerade(_), .. } | Self::NoAddress(_) => {
                Code::InvalidConfiguration
            }
            Self::Claims(_) | Self::Boot(_) => Code::InputOutput,
            Self::Nft(_) | Self::Flows(_) | Self::Localhost(_) | Self::Addresses(_) => Code::Wiring,
        }
    }
}

fn owner_of(network: &str, attachment: &Attachment) -> Owner {
    Owner {
        network: network.to_owned(),
        container_id: attachment.container_id().to_owned(),
        ifname: attachment.ifname().to_owned(),
    }
}

/// What a record says that its pod is to have.
fn claims_of(network: &Network, record: &Record, wiring: &Wiring) -> Result<Vec<Claim>, Error> {
    let mut all = Vec::new();
    for mapping in &record.port_mappings {
        let ports = mapping.host_ports(&record.addresses);
        if ports.is_empty() {
            return Err(Error::NoAddress(mapping.to_string()));
        }
        all.extend(ports.into_iter().map(Claimed::HostPort));
    }
    if record.is_masqueraded {
        let node = node::Node::read(&super::run_dir(network)).ok();
        let is_the_daemon_s = |address: IpAddr| node.as_ref().is_some_and(|node| node.has(address));
        let own = wiring.own_networks().filter(|(address, _)| !is_the_daemon_s(*address));
        all.extend(own.map(|(address, network)| Claimed::Masquerade(Masqueraded { address, network })));
    }
    let claim = |what| Claim {
        owner: Owner {
            network: network.name.clone(),
            container_id: record.container_id.clone(),
            ifname: record.ifname.clone(),
        },
        pod: record.pod.clone(),
        boot_id: record.boot_id.clone(),
        what,
    };
    Ok(all.into_iter().map(claim).collect())
}

/// Whatever a record says that its pod may have, by name.
fn named_in(record: &Record) -> Vec<Claimed> {
    let ports = record.port_mappings.iter().flat_map(|mapping| mapping.host_ports(&record.addresses));
    let pods = record.addresses.iter().filter(|_| record.is_masqueraded);
    let pods = pods.map(|address| Masqueraded { address: *address, network: (*address).into() });
    ports.map(Claimed::HostPort).chain(pods.map(Claimed::Masquerade)).collect()
}

fn names(record: &Record, claim: &Claim) -> bool {
    named_in(record).iter().any(|named| match (named, &claim.what) {
        (Claimed::Masquerade(named), Claimed::Masquerade(claimed)) => named.address == claimed.address,
        (named, claimed) => named == claimed,
    })
}

fn has_nothing(record: &Record) -> bool {
    record.port_mappings.is_empty() && !record.is_masqueraded
}

fn host_ports_in(claims: &[Claim]) -> Vec<HostPort> {
    claims.iter().filter_map(|claim| claim.what.host_port().copied()).collect()
}

/// Takes back what an earlier ADD of the same attachment got, where this one gets something else, or the pod does not keep its addresses. `ask`
/// is what it asks for; nothing where another plugin leases.
pub(super) fn withdraw_others(
    network: &str,
    store: &Store,
    (attachment, record): (&Attachment, &Record),
    ask: Option<&Ask>,
) -> Result<(), Failure> {
    // What is wrong with the leases, the lease will tell.
    let Ok(Some(there)) = store.find(attachment) else { return Ok(()) };
    if has_nothing(&there) {
        return Ok(());
    }
    let keeps_addresses = || ask.is_none_or(|ask| store.keeps(attachment, &there, ask).unwrap_or(true));
    let is_the_same =
        there.port_mappings == record.port_mappings && there.is_masqueraded == record.is_masqueraded;
    if is_the_same && keeps_addresses() {
        return Ok(());
    }
    withdraw_those_of(network, store, attachment, Some(&there))
}

/// Gives a pod whose link is up what it is to have. What it has already is made whole.
pub(super) async fn publish(
    network: &Network,
    store: &Store,
    record: &Record,
    wiring: &Wiring,
    host: &Kernel,
) -> Result<(), Failure> {
    let claims = claims_of(network, record, wiring)?;
    if claims.is_empty() {
        return Ok(());
    }
    {
        let locked = lock(store)?;
        let tables = Tables::open().map_err(Error::from)?;
        clear_the_way(&locked, &claims, (store, host), &tables).await?;
        let all = || of_this_boot(&locked, &record.boot_id);
        if locked.make(&claims).map_err(Error::from)? {
            tables.serve(&all()?).map_err(Error::from)?; // what the earlier claims said goes
        } else {
            tables.add(&claims, all)?;
        }
    }
    let ports = host_ports_in(&claims);
    if ports.iter().any(HostPort::serves_localhost) {
        let key = route_localnet(wiring);
        sysctl::set_if_different(&key, "1").map_err(Error::Localhost)?;
    }
    end_flows_from_before(&ports, host).await?;
    Ok(())
}

fn lock(store: &Store) -> Result<Locked, Error> {
    Ok(Claims::of(store.run_dir()).and_then(|claims| claims.lock())?)
}

/// Where packets from and to 127.0.0.1 leave and come in: the rules drop those that nobody of the node sent.
fn route_localnet(wiring: &Wiring) -> String {
    let link = wiring.bridging.as_ref().map_or(&wiring.host_end.name, |bridging| &bridging.bridge);
    format!("net/ipv4/conf/{link}/route_localnet")
}

fn of_this_boot(locked: &Locked, boot_id: &str) -> Result<Vec<Claim>, Error> {
    let mut all = locked.all()?;
    all.retain(|claim| claim.boot_id == boot_id);
    Ok(all)
}

/// Takes back what nobody can have any more, or says who has it.
async fn clear_the_way(
    locked: &Locked,
    claims: &[Claim],
    (store, host): (&Store, &Kernel),
    tables: &Tables,
) -> Result<(), Failure> {
    let in_the_way = locked.in_the_way(claims).map_err(Error::from)?;
    if in_the_way.is_empty() {
        return Ok(());
    }
    let node = Node::look(host).await?;
    for (what, holder) in &in_the_way {
        if !is_stale(holder, store, &node)? {
            return Err(Error::Taken { what: *what, holder: Box::new(holder.clone()) }.into());
        }
    }
    let stale: BTreeSet<&Claim> = in_the_way.iter().map(|(_, holder)| holder).collect();
    Ok(drop_claims(locked, &stale, &node, tables)?)
}

/// Makes the kernel forget some claims, whatever others there are of the same owners, and gives them up.
fn drop_claims(locked: &Locked, stale: &BTreeSet<&Claim>, node: &Node, tables: &Tables) -> Result<(), Error> {
    let mut others = of_this_boot(locked, node.boot_id())?;
    others.retain(|claim| !stale.contains(claim));
    tables.serve(&others)?;
    Ok(locked.give_up(stale.iter().copied())?)
}

/// Says whether nobody can have it any more: its pod is gone, or does not name it.
fn is_stale(claim: &Claim, store: &Store, node: &Node) -> Result<bool, Failure> {
    let Owner { network, container_id, ifname } = &claim.owner;
    if claim.boot_id != node.boot_id() {
        return Ok(true);
    }
    let Ok(attachment) = Attachment::new(container_id, ifname) else { return Ok(true) };
    let record = Store::of(store.run_dir(), network)?.find(&attachment)?;
    let is_named = record.as_ref().is_none_or(|record| names(record, claim));
    Ok(!is_named || node.standing(network, &attachment, record.as_ref()).is_stale())
}

/// Takes back what a pod has, if it has anything.
pub(super) fn withdraw(network: &str, store: &Store, attachment: &Attachment) -> Result<(), Failure> {
    let record = store.find(attachment)?;
    withdraw_those_of(network, store, attachment, record.as_ref())
}

/// Without a record, claims are found by their owner.
fn withdraw_those_of(
    network: &str,
    store: &Store,
    attachment: &Attachment,
    record: Option<&Record>,
) -> Result<(), Failure> {
    if record.is_some_and(has_nothing) {
        return Ok(());
    }
    let claims = Claims::of(store.run_dir()).map_err(Error::from)?;
    if !claims.are_there() {
        return Ok(());
    }
    Ok(withdraw_locked(&claims.lock().map_err(Error::from)?, &owner_of(network, attachment), record)?)
}

fn withdraw_locked(locked: &Locked, owner: &Owner, record: Option<&Record>) -> Result<(), Error> {
    let own = match record {
        Some(record) => locked.held_by(owner, &named_in(record))?,
        None => locked.all()?.into_iter().filter(|claim| claim.owner == *owner).collect(),
    };
    if own.is_empty() {
        return Ok(());
    }
    let boot_id = reclaim::boot_id().map_err(Error::Boot)?;
    // What was of an earlier boot, the kernel knows nothing of: an address may be another pod's by now.
    let live: Vec<Claim> = own.iter().filter(|claim| claim.boot_id == boot_id).cloned().collect();
    Tables::open()?.remove(&live, || {
        let mut others = of_this_boot(locked, &boot_id)?;
        others.retain(|claim| claim.owner != *owner);
        Ok::<_, Error>(others)
    })?;
    locked.give_up(&own)?;
    let ports = host_ports_in(&live);
    if flows::may_lead_astray(&ports) {
        flows::end_those_to_pods(&mut conntrack::Socket::open()?, &ports)?;
    }
    Ok(())
}

/// Ends what was begun to a host port before it was one, and would go on to be led nowhere, or to whom it led then.
async fn end_flows_from_before(ports: &[HostPort], host: &Kernel) -> Result<(), Error> {
    if !flows::may_lead_astray(ports) {
        return Ok(());
    }
    let own = host.addresses().await.map_err(Error::Addresses)?;
    let own: BTreeSet<IpAddr> = own.into_iter().map(|own| own.network.ip()).collect();
    Ok(flows::end_those_from_before(&mut conntrack::Socket::open()?, ports, &own)?)
}

/// Lists what is not as the record says: claims, tables, chains, rules, elements.
pub(super) fn faults(
    network: &Network,
    store: &Store,
    record: &Record,
    wiring: &Wiring,
) -> Result<Vec<String>, Failure> {
    let claims = claims_of(network, record, wiring)?;
    let Some(first) = claims.first() else { return Ok(Vec::new()) };
    let locked = lock(store)?;
    let wanted: Vec<Claimed> = claims.iter().map(|claim| claim.what).collect();
    let held = locked.held_by(&first.owner, &wanted).map_err(Error::from)?;
    let missing = claims.iter().filter(|claim| !held.contains(claim));
    let mut faults: Vec<String> =
        missing.map(|claim| format!("{} is not claimed for it", claim.what)).collect();
    faults.extend(Tables::open().and_then(|tables| tables.faults(&claims)).map_err(Error::from)?);
    if host_ports_in(&claims).iter().any(HostPort::serves_localhost) {
        let key = route_localnet(wiring);
        match sysctl::read(&key) {
            Ok(value) if value == "0" => faults.push(format!("sysctl {key} on the host is 0")),
            Err(error) if !error.is_not_found() => return Err(Error::Localhost(error).into()),
            _ => {} // without the link, that is the fault
        }
    }
    Ok(faults)
}

/// Removes claims that nobody can have any more, and whatever the kernel has beyond the others.
pub(super) async fn sweep(store: &Store, host: &Kernel) -> Result<(), Failure> {
    let claims = Claims::of(store.run_dir()).map_err(Error::from)?;
    let tables = Tables::open().map_err(Error::from)?;
    if !claims.are_there() {
        tables.serve(&[]).map_err(Error::from)?;
        return Ok(());
    }
    let locked = claims.lock().map_err(Error::from)?;
    locked.sweep().map_err(Error::from)?;
    let all = locked.all().map_err(Error::from)?;
    let node = Node::look(host).await?;
    let mut stale = BTreeSet::new();
    for claim in &all {
        if is_stale(claim, store, &node)? {
            stale.insert(claim);
        }
    }
    Ok(drop_claims(&locked, &stale, &node, &tables)?)
}

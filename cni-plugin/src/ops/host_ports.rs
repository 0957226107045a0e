//! A pod's host ports: claimed and told to the kernel when its link is up, and taken back before its address is free.
//!
//! In: the record of an attachment, which lists what it is to have. Out: claims on disk and elements in the tables of host ports, both
//! or neither, whoever else does the same at the same time: all of it is done while the claims are locked.
//!
//! ```text
//! ADD   record → link → [ claims → elements ] → flows that were begun to the port end
//! DEL   [ elements → claims ] → flows to the pod end → link → record
//! ```

use std::{collections::BTreeSet, net::IpAddr};

use dataplane::{
    conntrack,
    host_ports::{
        HostPort,
        claims::{self, Claim, Claims, Locked, Owner},
        flows, kernel,
    },
    nft,
    rtnl::{self, Kernel},
    sysctl,
};

use super::reclaim::{self, Node};
use crate::{
    failure::{Code, Coded, Failure},
    ipam::{
        Ask,
        store::{Record, Store},
    },
    request::Attachment,
    wiring::Wiring,
};

/// Why a pod's host ports could not be had or given back.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("host port {port} is taken by {holder}")]
    Taken { port: HostPort, holder: Box<Claim> },
    #[error("host port {0}: the pod has no address of that family")]
    NoAddress(String),
    #[error("host ports")]
    Claims(#[from] claims::Error),
    #[error("host ports")]
    Nft(#[from] nft::Error),
    #[error("host ports: end flows that lead astray")]
    Flows(#[from] conntrack::Error),
    #[error("host ports on 127.0.0.1")]
    Localhost(#[source] sysctl::Error),
    #[error("host ports: tell this boot from others")]
    Boot(#[source] sysctl::Error),
    #[error("host ports: ask for the node's addresses")]
    Addresses(#[source] rtnl::Error),
}

impl Coded for Error {
    fn code(&self) -> Code {
        match self {
            Self::Taken { .. } => Code::HostPortTaken,
            Self::NoAddress(_) => Code::InvalidConfiguration,
            Self::Claims(_) | Self::Boot(_) => Code::InputOutput,
            Self::Nft(_) | Self::Flows(_) | Self::Localhost(_) | Self::Addresses(_) => Code::Wiring,
        }
    }
}

fn socket() -> Result<nft::Socket, Error> {
    Ok(nft::Socket::open()?.to_host_ports())
}

fn owner_of(network: &str, attachment: &Attachment) -> Owner {
    Owner {
        network: network.to_owned(),
        container_id: attachment.container_id().to_owned(),
        ifname: attachment.ifname().to_owned(),
    }
}

/// What a record says that its pod is to have.
fn claims_of(network: &str, record: &Record) -> Result<Vec<Claim>, Error> {
    let mut claims = Vec::new();
    for mapping in &record.port_mappings {
        let ports = mapping.host_ports(&record.addresses);
        if ports.is_empty() {
            return Err(Error::NoAddress(mapping.to_string()));
        }
        claims.extend(ports.into_iter().map(|host_port| Claim {
            owner: Owner {
                network: network.to_owned(),
                container_id: record.container_id.clone(),
                ifname: record.ifname.clone(),
            },
            pod: record.pod.clone(),
            boot_id: record.boot_id.clone(),
            host_port,
        }));
    }
    Ok(claims)
}

/// Takes back what an earlier ADD of the same attachment mapped, where this one maps others, or the pod does not keep its addresses. `ask`
/// is what it asks for; nothing where another plugin leases.
pub(super) fn withdraw_others(
    network: &str,
    store: &Store,
    (attachment, record): (&Attachment, &Record),
    ask: Option<&Ask>,
) -> Result<(), Failure> {
    // What is wrong with the leases, the lease will tell.
    let Ok(Some(there)) = store.find(attachment) else { return Ok(()) };
    if there.port_mappings.is_empty() {
        return Ok(());
    }
    let keeps_addresses = || ask.is_none_or(|ask| store.keeps(attachment, &there, ask).unwrap_or(true));
    if there.port_mappings == record.port_mappings && keeps_addresses() {
        return Ok(());
    }
    withdraw_those_of(network, store, attachment, Some(&there))
}

/// Gives a pod whose link is up its host ports. Those that it has already are made whole.
pub(super) async fn publish(
    network: &str,
    store: &Store,
    record: &Record,
    wiring: &Wiring,
    host: &Kernel,
) -> Result<(), Failure> {
    let claims = claims_of(network, record)?;
    if claims.is_empty() {
        return Ok(());
    }
    {
        let locked = lock(store)?;
        let socket = socket()?;
        clear_the_way(&locked, &claims, (store, host), &socket).await?;
        locked.make(&claims).map_err(Error::from)?;
        kernel::add(&socket, &claims, || of_this_boot(&locked, &record.boot_id))?;
    }
    if claims.iter().any(|claim| claim.host_port.serves_localhost()) {
        let key = route_localnet(wiring);
        sysctl::set_if_different(&key, "1").map_err(Error::Localhost)?;
    }
    end_flows_from_before(&claims, host).await?;
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

/// Takes ports back that nobody can have any more, or says who has one.
async fn clear_the_way(
    locked: &Locked,
    claims: &[Claim],
    (store, host): (&Store, &Kernel),
    socket: &nft::Socket,
) -> Result<(), Failure> {
    let in_the_way = locked.in_the_way(claims).map_err(Error::from)?;
    if in_the_way.is_empty() {
        return Ok(());
    }
    let node = Node::look(host).await?;
    for (port, holder) in &in_the_way {
        if !is_stale(holder, store, &node)? {
            return Err(Error::Taken { port: *port, holder: Box::new(holder.clone()) }.into());
        }
    }
    let stale: BTreeSet<&Claim> = in_the_way.iter().map(|(_, holder)| holder).collect();
    Ok(drop_claims(locked, &stale, &node, socket)?)
}

/// Makes the kernel forget some claims, whatever others there are of the same owners, and gives them up.
fn drop_claims(
    locked: &Locked,
    stale: &BTreeSet<&Claim>,
    node: &Node,
    socket: &nft::Socket,
) -> Result<(), Error> {
    let mut others = of_this_boot(locked, node.boot_id())?;
    others.retain(|claim| !stale.contains(claim));
    socket.commit(&kernel::changes(socket, &others)?)?;
    Ok(locked.give_up(stale.iter().copied())?)
}

/// Says whether nobody can have the port any more: its pod is gone, or does not list it.
fn is_stale(claim: &Claim, store: &Store, node: &Node) -> Result<bool, Failure> {
    let Owner { network, container_id, ifname } = &claim.owner;
    if claim.boot_id != node.boot_id() {
        return Ok(true);
    }
    let Ok(attachment) = Attachment::new(container_id, ifname) else { return Ok(true) };
    let record = Store::of(store.run_dir(), network)?.find(&attachment)?;
    let is_listed = record.as_ref().is_none_or(|record| {
        let mut listed =
            record.port_mappings.iter().flat_map(|mapping| mapping.host_ports(&record.addresses));
        listed.any(|port| port == claim.host_port)
    });
    Ok(!is_listed || node.standing(network, &attachment, record.as_ref()).is_stale())
}

/// Takes a pod's host ports back, if it has any.
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
    if record.is_some_and(|record| record.port_mappings.is_empty()) {
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
        Some(record) => {
            let ports = record.port_mappings.iter().flat_map(|mapping| mapping.host_ports(&record.addresses));
            locked.held_by(owner, &ports.collect::<Vec<_>>())?
        }
        None => locked.all()?.into_iter().filter(|claim| claim.owner == *owner).collect(),
    };
    if own.is_empty() {
        return Ok(());
    }
    let boot_id = reclaim::boot_id().map_err(Error::Boot)?;
    // What was of an earlier boot, the kernel knows nothing of: an address may be another pod's by now.
    let live: Vec<Claim> = own.iter().filter(|claim| claim.boot_id == boot_id).cloned().collect();
    kernel::remove(&socket()?, &live, || {
        let mut others = of_this_boot(locked, &boot_id)?;
        others.retain(|claim| claim.owner != *owner);
        Ok::<_, Error>(others)
    })?;
    locked.give_up(&own)?;
    if flows::may_lead_astray(&live) {
        flows::end_those_to_pods(&mut conntrack::Socket::open()?, &live)?;
    }
    Ok(())
}

/// Ends what was begun to a host port before it was one, and would go on to be led nowhere, or to whom it led then.
async fn end_flows_from_before(claims: &[Claim], host: &Kernel) -> Result<(), Error> {
    if !flows::may_lead_astray(claims) {
        return Ok(());
    }
    let own = host.addresses().await.map_err(Error::Addresses)?;
    let own: BTreeSet<IpAddr> = own.into_iter().map(|own| own.network.ip()).collect();
    Ok(flows::end_those_from_before(&mut conntrack::Socket::open()?, claims, &own)?)
}

/// Lists what is not as the record says: claims, tables, chains, rules, elements.
pub(super) fn faults(
    network: &str,
    store: &Store,
    record: &Record,
    wiring: &Wiring,
) -> Result<Vec<String>, Failure> {
    let claims = claims_of(network, record)?;
    let Some(first) = claims.first() else { return Ok(Vec::new()) };
    let locked = lock(store)?;
    let ports: Vec<HostPort> = claims.iter().map(|claim| claim.host_port).collect();
    let held = locked.held_by(&first.owner, &ports).map_err(Error::from)?;
    let missing = claims.iter().filter(|claim| !held.contains(claim));
    let mut faults: Vec<String> =
        missing.map(|claim| format!("host port {} is not claimed for it", claim.host_port)).collect();
    faults.extend(kernel::faults(&socket()?, &claims).map_err(Error::from)?);
    if claims.iter().any(|claim| claim.host_port.serves_localhost()) {
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
    let socket = socket()?;
    if !claims.are_there() {
        socket.commit(&kernel::changes(&socket, &[]).map_err(Error::from)?).map_err(Error::from)?;
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
    Ok(drop_claims(&locked, &stale, &node, &socket)?)
}

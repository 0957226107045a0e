//! CHECK: is the attachment still what ADD made of it?

use dataplane::rtnl::Kernel;

use super::{Error, Plan, Sandbox, claims, kernel, mtu, store, tune};
use crate::{
    conf::{self, Conf, Network},
    delegate::Delegate,
    failure::{Code, Coded, Failure},
    ipam::store::Record,
    request::Target,
    result::AddResult,
    spec::SpecVersion,
    wiring::{Wiring, kernel as wire},
};

/// What is not as it should be.
#[derive(Debug, thiserror::Error)]
enum Altered {
    #[error("no lease is kept for this container and link")]
    NoLease,
    #[error("{0}")]
    Faults(String),
}

impl Coded for Altered {
    fn code(&self) -> Code {
        Code::Altered
    }
}

/// Compares what ADD returned, what the lease says and what the kernel has, and names what differs.
pub(super) async fn run(
    network: Network,
    target: &Target,
    delegate: Option<&Delegate<'_>>,
) -> Result<(), Failure> {
    network.require("CHECK", SpecVersion::V0_4_0)?;
    let conf = Conf::parse(network)?;
    let returned = conf.prev_result.clone().ok_or(conf::Error::Missing("prevResult"))?;
    let sandbox = Sandbox::open(target)?;
    let plan = Plan::of(&conf, None)?;
    mtu::follow(&conf, &plan).await;
    let store = store(&conf.network)?;
    let record = store.find(&target.attachment)?.ok_or(Altered::NoLease)?;
    if let Some(delegate) = delegate {
        delegate.pass_on()?;
    }
    let homeless: Vec<String> = record
        .addresses
        .iter()
        .filter(|address| delegate.is_none() && plan.ask.range_of(**address).is_none())
        .map(|address| format!("address {address} is leased to it, and of no range of the network any more"))
        .collect();
    if !homeless.is_empty() {
        return Err(Altered::Faults(homeless.join("; ")).into()); // how it should be wired is not known any more either
    }
    let mut wiring = plan.wiring(&conf, target, &record)?;

    let mut faults = disagreements(&returned, &wiring, &record);
    if let Some(place) = place_of(&returned, &wiring)
        && let Some(pod_end) = returned.interfaces.get(place)
    {
        let host_end = returned.interfaces.iter().find(|link| link.name == wiring.host_end.name);
        wiring = wiring.as_returned(pod_end, host_end);
    }
    let pod = Kernel::open_in(&sandbox.netns).map_err(Error::Kernel)?;
    faults.extend(wire::faults(&wiring, &kernel()?, &pod).await?);
    faults.extend(tune::faults(&conf.tuning, &wiring.pod_end.name, &sandbox.netns, &pod).await?);
    faults.extend(claims::faults(&conf.network, &store, &record, &wiring)?);
    if faults.is_empty() { Ok(()) } else { Err(Altered::Faults(faults.join("; ")).into()) }
}

/// Finds the pod end among the links that ADD returned.
fn place_of(returned: &AddResult, wiring: &Wiring) -> Option<usize> {
    let mut links = returned.interfaces.iter();
    links.position(|link| {
        link.name == wiring.pod_end.name && link.sandbox.as_ref().is_some_and(|s| !s.is_empty())
    })
}

/// Lists where what ADD returned and what is leased are not the same.
fn disagreements(returned: &AddResult, wiring: &Wiring, record: &Record) -> Vec<String> {
    let mut faults = Vec::new();
    let Some(place) = place_of(returned, wiring) else {
        return vec![format!("prevResult has no link {} in the pod", wiring.pod_end.name)];
    };
    let of_pod_end = returned.ips.iter().filter(|ip| ip.interface == Some(place));
    let returned: Vec<_> = of_pod_end.map(|ip| ip.address.ip()).collect();
    for address in &returned {
        if !record.addresses.contains(address) {
            faults.push(format!("prevResult has address {address}, which is not leased to it"));
        }
    }
    for address in &record.addresses {
        if !returned.contains(address) {
            faults.push(format!("address {address} is leased to it, and prevResult does not have it"));
        }
    }
    faults
}

//! ADD: a lease, a link, host ports, a result; or none of them.

use std::{fs::File, io::Read, path::Path};

use dataplane::rtnl::Kernel;
use serde_json::Value;

use super::{Error, Plan, Sandbox, host_ports, kernel, reclaim, store, tune};
use crate::{
    conf::{Conf, Network, resolv},
    delegate::Delegate,
    failure::Failure,
    ipam::{
        Ask,
        store::{self, Delegated, Record, Store},
    },
    request::Target,
    result::AddResult,
    wiring::kernel as wire,
};

/// Wires a pod. A pod that is wired already gets the same answer again.
pub(super) async fn run(
    network: Network,
    target: &Target,
    delegate: Option<&Delegate<'_>>,
) -> Result<String, Failure> {
    let conf = Conf::parse(network)?;
    let plan = Plan::of(&conf, target.requested)?;
    let resolved = conf.resolv_conf.as_deref().map(resolve).transpose()?;
    let sandbox = Sandbox::open(target)?;
    // Of two at once for one container, each could take the other's half-made link for what a crash left.
    sandbox.netns.hold().map_err(Error::Hold)?;
    let host = kernel()?;
    let store = match delegate {
        Some(_) => store(&conf.network)?,
        None => store(&conf.network)?.after_host_local(&conf.host_local, &conf.network.name)?,
    };

    let record = Record { port_mappings: conf.port_mappings.clone(), ..record_of(target, &sandbox)? };
    let ask = delegate.is_none().then_some(&plan.ask);
    host_ports::withdraw_others(&conf.network.name, &store, (&target.attachment, &record), ask)?;
    let record = match delegate {
        Some(delegate) => lease_elsewhere(&store, target, record, delegate)?,
        None => lease(&conf.network.name, &host, &store, (target, &record), &plan.ask).await?,
    };
    let wired = async {
        let wiring = plan.wiring(&conf, target, &record)?;
        let bridge = wire::build(&wiring, &host, &sandbox.netns).await?;
        tune::tune(&conf.tuning, target, &sandbox, &store).await?;
        host_ports::publish(&conf.network.name, &store, &record, &wiring, &host).await?;
        Ok::<_, Failure>(wiring.result(&target.netns.to_string_lossy(), bridge.as_ref()))
    };
    match wired.await {
        Ok(mut result) => {
            result.dns =
                conf.dns.or(record.delegated.and_then(|delegated| delegated.result.dns)).or(resolved);
            let result = result.after(conf.prev_result.unwrap_or_default());
            Ok(result.to_json(conf.network.version))
        }
        Err(failure) => {
            // The first error is the one to tell; what cannot be undone now, DEL or GC finds by the lease.
            let _ = super::del::undo(&conf.network.name, &host, &store, (&target.attachment, delegate)).await;
            Err(failure)
        }
    }
}

/// Reads `ipam.resolvConf`, as far as such a file is ever long.
fn resolve(path: &Path) -> Result<Value, Error> {
    const MOST: u64 = 64 << 10;
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut text));
    read.map_err(|source| Error::ResolvConf { path: path.to_owned(), source })?;
    Ok(resolv::dns_in(&String::from_utf8_lossy(&text)))
}

/// Has another plugin lease addresses. The record comes first: whatever happens then, GC finds the attachment by it.
fn lease_elsewhere(
    store: &Store,
    target: &Target,
    record: Record,
    delegate: &Delegate<'_>,
) -> Result<Record, Failure> {
    let is_new = store.find(&target.attachment)?.is_none();
    if is_new {
        let nothing = Delegated { name: delegate.name().to_owned(), result: AddResult::default() };
        store.hold(&target.attachment, &Record { delegated: Some(nothing), ..record.clone() })?;
    }
    let result = match delegate.add() {
        Ok(result) => result,
        Err(error) => {
            // What it may have leased before it failed or printed nonsense. A second ADD takes nothing from the first one.
            if is_new {
                let _ = delegate.release(&target.attachment);
                let _ = store.release(&target.attachment);
            }
            return Err(error.into());
        }
    };
    let addresses = result.ips.iter().map(|ip| ip.address.ip()).collect();
    let delegated = Some(Delegated { name: delegate.name().to_owned(), result });
    let record = Record { addresses, delegated, ..record };
    match store.hold(&target.attachment, &record) {
        Ok(()) => Ok(record),
        Err(error) => {
            let _ = delegate.release(&target.attachment);
            let _ = store.release(&target.attachment);
            Err(error.into())
        }
    }
}

/// Leases addresses; where there are none left, after those that nobody uses have been given back.
async fn lease(
    network: &str,
    host: &Kernel,
    store: &Store,
    (target, record): (&Target, &Record),
    ask: &Ask,
) -> Result<Record, Failure> {
    match store.lease(&target.attachment, record, ask) {
        Err(error @ (store::Error::Exhausted { .. } | store::Error::Taken { .. })) => {
            if !reclaim::reclaim(network, host, store).await? {
                return Err(error.into());
            }
            Ok(store.lease(&target.attachment, record, ask)?)
        }
        leased => Ok(leased?),
    }
}

fn record_of(target: &Target, sandbox: &Sandbox) -> Result<Record, Error> {
    Ok(Record {
        netns: target.netns.to_string_lossy().into_owned(),
        netns_inode: sandbox.inode,
        boot_id: reclaim::boot_id().map_err(Error::Boot)?,
        pod: target.pod.as_ref().map(ToString::to_string),
        ..Record::of(&target.attachment, target.now)
    })
}

//! ADD: a lease, a link, a result; or none of them.

use dataplane::rtnl::Kernel;

use super::{Error, Plan, Sandbox, kernel, reclaim, store};
use crate::{
    conf::{Conf, Network},
    failure::Failure,
    ipam::{
        Ask,
        store::{self, Record, Store},
    },
    request::Target,
    wiring::{Wiring, kernel as wire},
};

/// Wires a pod. A pod that is wired already gets the same answer again.
pub(super) async fn run(network: Network, target: &Target) -> Result<String, Failure> {
    let conf = Conf::parse(network)?;
    let plan = Plan::of(&conf, target.requested)?;
    let sandbox = Sandbox::open(target)?;
    let host = kernel()?;
    let store = store(&conf.network)?;

    let record = record_of(target, &sandbox)?;
    let record = lease(&conf.network.name, &host, &store, (target, &record), &plan.ask).await?;
    let wired = async {
        let wiring = plan.wiring(&conf, target, &record)?;
        wire::build(&wiring, &host, &sandbox.netns).await?;
        Ok::<Wiring, Failure>(wiring)
    };
    match wired.await {
        Ok(wiring) => {
            let mut result = wiring.result(&target.netns.to_string_lossy());
            result.dns = conf.dns;
            let result = result.after(conf.prev_result.unwrap_or_default());
            Ok(result.to_json(conf.network.version))
        }
        Err(failure) => {
            // The first error is the one to tell; what cannot be undone now, DEL or GC finds by the lease.
            let _ = super::del::undo(&conf.network.name, &host, &store, &target.attachment).await;
            Err(failure)
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
            let stale = reclaim::stale(network, host, store).await?;
            if stale.is_empty() {
                return Err(error.into());
            }
            for attachment in stale {
                super::del::undo(network, host, store, &attachment).await?;
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
        boot_id: reclaim::boot_id()?,
        pod: target.pod.as_ref().map(ToString::to_string),
        ..Record::of(&target.attachment, target.now)
    })
}

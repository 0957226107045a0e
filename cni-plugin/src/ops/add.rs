//! ADD: a lease, a link, a result; or none of them.

use dataplane::sysctl;

use super::{Error, Plan, Sandbox, kernel, store};
use crate::{
    conf::{Conf, Network},
    failure::Failure,
    ipam::store::Record,
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

    let record = store.lease(&target.attachment, &record_of(target, &sandbox)?, &plan.ask)?;
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
            let _ = super::del::undo(&conf.network, &host, &store, &target.attachment).await;
            Err(failure)
        }
    }
}

fn record_of(target: &Target, sandbox: &Sandbox) -> Result<Record, Error> {
    Ok(Record {
        netns: target.netns.to_string_lossy().into_owned(),
        netns_inode: sandbox.inode,
        boot_id: sysctl::read("kernel/random/boot_id").map_err(Error::Boot)?,
        pod: target.pod.as_ref().map(ToString::to_string),
        ..Record::of(&target.attachment, target.now)
    })
}

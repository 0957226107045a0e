//! ADD: a lease, a link, host ports and masquerade, a result; or none of them.

use std::{fs::File, io::Read, path::Path};

use dataplane::rtnl::Kernel;
use serde_json::Value;

use super::{Error, Plan, Sandbox, claims, kernel, mtu, reclaim, store, tune};
use crate::{
    conf::{Conf, Network, resolv},
    delegate::Delegate,
    failure::Failure,
    ipam::store::{self, Delegated, Record, Store},
    request::Target,
    result::AddResult,
    wiring::{
        host_end_of,
        kernel::{self as wire, Pair},
    },
};

/// Wires a pod. A pod that is wired already gets the same answer again.
pub(super) async fn run(
    network: Network,
    target: &Target,
    delegate: Option<&Delegate<'_>>,
) -> Result<String, Failure> {
    let conf = Conf::parse(network)?;
    let plan = Plan::of(&conf, target.requested)?;
    mtu::follow(&conf, &plan).await;
    let resolved = conf.resolv_conf.as_deref().map(resolve).transpose()?;
    let sandbox = Sandbox::open(target)?;
    // Of two at once for one container, each could take the other's half-made link for what a crash left.
    sandbox.netns.hold().map_err(Error::Hold)?;
    let host = kernel()?;
    let store = match delegate {
        Some(_) => store(&conf.network)?,
        None => store(&conf.network)?.after_host_local(&conf.host_local, &conf.network.name)?,
    };

    let record = Record {
        port_mappings: conf.port_mappings.clone(),
        is_masqueraded: conf.is_masqueraded,
        ..record_of(target, &sandbox)?
    };
    let ask = delegate.is_none().then_some(&plan.ask);
    claims::withdraw_others(&conf.network.name, &store, (&target.attachment, &record), ask)?;
    let pod = Pod { conf: &conf, plan: &plan, target, sandbox: &sandbox, host: &host, store: &store };
    let (pair, record) = match delegate {
        Some(delegate) => pod.lease_elsewhere(record, delegate).await?,
        None => (None, pod.lease(&record).await?),
    };
    let wired = async {
        let wiring = plan.wiring(&conf, target, &record)?;
        let bridge = match &pair {
            Some(pair) => wire::complete(pair, &wiring, &host).await?,
            None => wire::build(&wiring, &host, &sandbox.netns).await?,
        };
        tune::tune(&conf.tuning, target, &sandbox, &store).await?;
        claims::publish(&conf.network, &store, &record, &wiring, &host).await?;
        Ok::<_, Failure>(wiring.result(&target.netns.to_string_lossy(), bridge.as_ref()))
    };
    match wired.await {
        Ok(mut result) => {
            drop(sandbox); // nobody need wait for it any more
            mtu::catch_up(&conf, &plan).await;
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

/// What an ADD is about.
struct Pod<'a> {
    conf: &'a Conf,
    plan: &'a Plan,
    target: &'a Target,
    sandbox: &'a Sandbox,
    host: &'a Kernel,
    store: &'a Store,
}

impl Pod<'_> {
    /// Has another plugin lease addresses, over the pod's link if it wants one: that is then there, too. The record comes first:
    /// whatever happens then, GC finds the attachment by it.
    async fn lease_elsewhere(
        &self,
        record: Record,
        delegate: &Delegate<'_>,
    ) -> Result<(Option<Pair>, Record), Failure> {
        let attachment = &self.target.attachment;
        let earlier = self.store.find(attachment)?;
        let nothing = Delegated { name: delegate.name().to_owned(), result: AddResult::default() };
        let held = Record { delegated: Some(nothing), ..record.clone() };
        if earlier.is_none() {
            self.store.hold(attachment, &held)?;
        }
        let leased = async {
            let over_the_link = delegate.asks_over_the_link();
            let pair = if over_the_link { self.join(earlier.as_ref(), &held).await? } else { None };
            Ok::<_, Failure>((pair, delegate.add()?))
        };
        let (pair, result) = match leased.await {
            Ok(leased) => leased,
            Err(failure) => {
                // What it may have leased before it failed or printed nonsense. A second ADD takes nothing from the first one.
                if earlier.is_none() {
                    self.give_back(delegate).await;
                }
                return Err(failure);
            }
        };
        let addresses = result.ips.iter().map(|ip| ip.address.ip()).collect();
        let delegated = Some(Delegated { name: delegate.name().to_owned(), result });
        let record = Record { addresses, delegated, ..record };
        match self.store.hold(attachment, &record) {
            Ok(()) => Ok((pair, record)),
            Err(error) => {
                self.give_back(delegate).await;
                Err(error.into())
            }
        }
    }

    /// Makes the link without addresses, unless it is there as an earlier ADD left it when it was done.
    async fn join(&self, earlier: Option<&Record>, held: &Record) -> Result<Option<Pair>, Failure> {
        if let Some(record) = earlier.filter(|record| !record.addresses.is_empty()) {
            let wiring = self.plan.wiring(self.conf, self.target, record)?;
            let pod = Kernel::open_in(&self.sandbox.netns).map_err(Error::Kernel)?;
            if wire::faults(&wiring, self.host, &pod).await?.is_empty() {
                return Ok(None);
            }
        }
        let wiring = self.plan.wiring(self.conf, self.target, held)?;
        wire::demolish(self.host, &wiring.host_end.name).await?;
        Ok(wire::join(&wiring, self.host, &self.sandbox.netns).await?)
    }

    async fn give_back(&self, delegate: &Delegate<'_>) {
        let attachment = &self.target.attachment;
        let _ = delegate.release(attachment);
        if delegate.asks_over_the_link() {
            let _ = wire::demolish(self.host, &host_end_of(&self.conf.network.name, attachment)).await;
        }
        let _ = self.store.release(attachment);
    }

    /// Leases addresses; where there are none left, after those that nobody uses have been given back.
    async fn lease(&self, record: &Record) -> Result<Record, Failure> {
        let (attachment, ask) = (&self.target.attachment, &self.plan.ask);
        match self.store.lease(attachment, record, ask) {
            Err(error @ (store::Error::Exhausted { .. } | store::Error::Taken { .. })) => {
                if !reclaim::reclaim(&self.conf.network.name, self.host, self.store).await? {
                    return Err(error.into());
                }
                Ok(self.store.lease(attachment, record, ask)?)
            }
            leased => Ok(leased?),
        }
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

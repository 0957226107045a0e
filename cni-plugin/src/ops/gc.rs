//! GC: everything of this network goes that the runtime does not know any more, or that nobody can use any more.
//!
//! It goes on over failures, and tells them at the end. The runtime runs no ADD and no DEL of the network meanwhile: SPEC "GC".

use std::collections::BTreeSet;

use dataplane::rtnl::Kernel;

use super::{claims, kernel, mtu, run_dir, store};
use crate::{
    conf::Network,
    delegate::Delegate,
    failure::{Code, Failure},
    ipam::store::Store,
    request::Attachment,
    spec::SpecVersion,
    wiring::{host_end_of, kernel as wire},
};

/// Removes links, leases and drafts that belong to no attachment.
pub(super) async fn run(network: &Network, delegate: Option<&Delegate<'_>>) -> Result<(), Failure> {
    network.require("GC", SpecVersion::V1_1_0)?;
    // What could never be an attachment of ours cannot be one now.
    let valid = network.valid_attachments()?;
    let valid = valid.iter().filter_map(|v| Attachment::new(&v.container_id, &v.ifname).ok());
    let valid: BTreeSet<Attachment> = valid.collect();
    let (host, store) = (kernel()?, store(network)?);
    let mut failures = Vec::new();

    let mut stale: BTreeSet<Attachment> =
        super::reclaim::stale(&network.name, &host, &store).await?.into_iter().collect();
    stale.extend(store.attachments()?.into_iter().filter(|attachment| !valid.contains(attachment)));
    for attachment in stale {
        failures.extend(super::del::undo(&network.name, &host, &store, (&attachment, delegate)).await.err());
    }
    // Whatever else it has kept: most of them do nothing here, so they were asked for each attachment above.
    failures.extend(delegate.and_then(|delegate| delegate.pass_on().err()).map(Failure::from));
    failures.extend(store.sweep_before().err().map(Failure::from));
    failures.extend(store.sweep().into_iter().map(Failure::from));
    failures.extend(claims::sweep(&store, &host).await.err());
    failures.extend(remove_stray_links(network, &host, &valid).await.unwrap_or_else(|failure| vec![failure]));
    mtu::follow_if_known(network).await;

    match Failure::first_of(failures) {
        Some(failure) => Err(failure.under(Code::Incomplete)),
        None => Ok(()),
    }
}

/// Removes host ends that no record and no attachment claims. Those of other networks are claimed by their records.
async fn remove_stray_links(
    network: &Network,
    host: &Kernel,
    valid: &BTreeSet<Attachment>,
) -> Result<Vec<Failure>, Failure> {
    let mut claimed: BTreeSet<String> = valid.iter().map(|valid| host_end_of(&network.name, valid)).collect();
    // An ADD of another network may be running: its record is there before its link is, so list the links first.
    let host_ends = wire::host_ends(host, &network.run_dir).await?;
    let run_dir = run_dir(network);
    for name in run_dir.names().map_err(crate::ipam::store::Error::from)? {
        let attachments = Store::of(&run_dir, &name)?.attachments()?;
        claimed.extend(attachments.iter().map(|attachment| host_end_of(&name, attachment)));
    }

    let mut failures = Vec::new();
    for name in host_ends.iter().filter(|name| !claimed.contains(*name)) {
        failures.extend(wire::demolish(host, name).await.err().map(Failure::from));
    }
    Ok(failures)
}

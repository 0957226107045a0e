//! DEL: everything of an attachment goes, whatever is left of it.
//!
//! Neither the pod's namespace nor the rest of the configuration is needed: the host end is found by the attachment, the pod end
//! goes with it, and the lease is found by the attachment as well.

use std::path::Path;

use dataplane::rtnl::Kernel;

use super::{kernel, store, tune};
use crate::{
    conf::Network,
    delegate::Delegate,
    failure::Failure,
    ipam::store::Store,
    request::Attachment,
    wiring::{
        host_end_of,
        kernel::{self as wire, errand},
    },
};

/// Takes an attachment away. Nothing to take is fine. With this `program`, nobody waits longer for the link than need be.
pub(super) async fn run(
    network: &Network,
    attachment: &Attachment,
    delegate: Option<&Delegate<'_>>,
    program: Option<&Path>,
) -> Result<(), Failure> {
    let host = kernel()?;
    if let Some(program) = program {
        errand::delete(&host, &host_end_of(&network.name, attachment), program).await;
    }
    undo(&network.name, &host, &store(network)?, (attachment, delegate)).await
}

/// Removes the link, then the lease. The order matters: an address is free only when nothing leads to it any more. A kernel parameter
/// that cannot be set back stands in the way of nothing, and is told of in the end.
pub(crate) async fn undo(
    network: &str,
    host: &Kernel,
    store: &Store,
    (attachment, delegate): (&Attachment, Option<&Delegate<'_>>),
) -> Result<(), Failure> {
    let untuned = tune::untune(store, attachment);
    wire::demolish(host, &host_end_of(network, attachment)).await?;
    if let Some(delegate) = delegate {
        delegate.release(attachment)?;
    }
    store.forget_before(attachment)?;
    store.release(attachment)?;
    untuned
}

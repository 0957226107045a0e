//! DEL: everything of an attachment goes, whatever is left of it.
//!
//! Neither the pod's namespace nor the rest of the configuration is needed: the host end is found by the attachment, the pod end
//! goes with it, and the lease is found by the attachment as well.

use dataplane::rtnl::Kernel;

use super::{claims, kernel, store, tune};
use crate::{
    conf::Network,
    delegate::Delegate,
    failure::Failure,
    ipam::store::Store,
    request::Attachment,
    wiring::{
        host_end_of,
        kernel::{self as wire, errand::Helper},
    },
};

/// Takes an attachment away. Nothing to take is fine. With a helper, nobody waits longer for the link than need be.
pub(super) async fn run(
    network: &Network,
    attachment: &Attachment,
    delegate: Option<&Delegate<'_>>,
    helper: Option<&Helper<'_>>,
) -> Result<(), Failure> {
    undo_with(helper, &network.name, &kernel()?, &store(network)?, (attachment, delegate)).await
}

/// Takes an attachment away, and waits until the kernel has forgotten its link.
pub(crate) async fn undo(
    network: &str,
    host: &Kernel,
    store: &Store,
    of: (&Attachment, Option<&Delegate<'_>>),
) -> Result<(), Failure> {
    undo_with(None, network, host, store, of).await
}

/// Takes back host ports and masquerade, removes the link, then the lease. The order matters: an address is free only when nothing leads to it any more. One
/// that was leased over the link is given back over it.
/// Where those stay, the link goes all the same. A kernel parameter that cannot be set back stands in the way of nothing, and
/// is told of in the end.
async fn undo_with(
    helper: Option<&Helper<'_>>,
    network: &str,
    host: &Kernel,
    store: &Store,
    (attachment, delegate): (&Attachment, Option<&Delegate<'_>>),
) -> Result<(), Failure> {
    let withdrawn = claims::withdraw(network, store, attachment);
    let untuned = tune::untune(store, attachment);
    let (before, after) = match delegate {
        Some(delegate) if delegate.asks_over_the_link() => (Some(delegate), None),
        delegate => (None, delegate),
    };
    let returned = before.map_or(Ok(()), |delegate| delegate.release(attachment));
    let host_end = host_end_of(network, attachment);
    if let Some(helper) = helper {
        helper.delete(host, &host_end).await;
    }
    wire::demolish(host, &host_end).await?;
    withdrawn?;
    returned?;
    if let Some(delegate) = after {
        delegate.release(attachment)?;
    }
    store.forget_before(attachment)?;
    store.release(attachment)?;
    untuned
}

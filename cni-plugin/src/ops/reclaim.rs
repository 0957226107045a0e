//! Leases that nobody can have any more: found, and given back.
//!
//! A runtime that is killed, or that never calls GC, leaves leases behind. They are looked for where addresses run short, by
//! GC, and by people (`fairway ipam`).

use std::collections::BTreeSet;

use dataplane::{netns::Netns, rtnl::Kernel, sysctl};

use super::Error;
use crate::{
    failure::Failure,
    ipam::{
        standing::{Facts, Found, Standing},
        store::{Record, Store},
    },
    request::Attachment,
    wiring::host_end_of,
};

/// The node, as far as leases depend on it.
pub(crate) struct Node {
    boot_id: String,
    links: BTreeSet<String>,
}

impl Node {
    /// Looks at it. List leases first, and then this: the link of a lease is made after it.
    pub(crate) async fn look(host: &Kernel) -> Result<Self, Failure> {
        let links = host.links().await.map_err(Error::Kernel)?;
        Ok(Self {
            boot_id: boot_id().map_err(Error::Boot)?,
            links: links.into_iter().map(|link| link.name).collect(),
        })
    }

    /// This boot.
    pub(super) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Tells how the lease of an attachment stands.
    pub(crate) fn standing(
        &self,
        network: &str,
        attachment: &Attachment,
        record: Option<&Record>,
    ) -> Standing {
        let found = record.map_or(Found::Unknown, |record| found_at(&record.netns));
        let has_link = self.links.contains(&host_end_of(network, attachment));
        Standing::of(record, Facts { boot_id: &self.boot_id, found, has_link })
    }
}

/// This boot.
pub(super) fn boot_id() -> Result<String, sysctl::Error> {
    sysctl::read("kernel/random/boot_id")
}

fn found_at(netns: &str) -> Found {
    if netns.is_empty() {
        return Found::Unknown;
    }
    match Netns::open(netns).map(|netns| netns.inode()) {
        Ok(Ok(inode)) => Found::Namespace(inode),
        Err(error) if error.is_not_found() => Found::Nothing,
        Ok(Err(_)) | Err(_) => Found::Unknown,
    }
}

/// Lists the attachments of a network whose leases nobody can have any more.
pub(super) async fn stale(network: &str, host: &Kernel, store: &Store) -> Result<Vec<Attachment>, Failure> {
    let mut all = Vec::new();
    for attachment in store.attachments()? {
        let record = store.find(&attachment)?;
        all.push((attachment, record));
    }
    let node = Node::look(host).await?;
    all.retain(|(attachment, record)| node.standing(network, attachment, record.as_ref()).is_stale());
    Ok(all.into_iter().map(|(attachment, _)| attachment).collect())
}

/// Gives back what nobody can have any more, and says whether there was any.
pub(super) async fn reclaim(network: &str, host: &Kernel, store: &Store) -> Result<bool, Failure> {
    let mut any = false;
    for attachment in stale(network, host, store).await? {
        super::del::undo(network, host, store, (&attachment, None)).await?;
        any = true;
    }
    for orphan in store.orphans()? {
        any |= store.remove_orphan(&orphan)?;
    }
    Ok(any)
}

//! What the plugin and the container runtime are told of this node.
//!
//! In: this node's object, and the largest packet that its pods may send. Out: files. The runtime is told of the plugin only when that
//! has been told all that it needs to wire a pod, and hears of it when others get in between.

use std::collections::BTreeSet;

use dataplane::disk;
use tracing::info;

use super::said;
use crate::{
    conflist::{self, Files, Written},
    health::{About, Complaint},
    objects::{Node, ObjectName},
};

/// Why the plugin was not told.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// There is nothing that pods' addresses could be taken from.
    #[error("this node, {0}, has no pod CIDR: no pod can start here")]
    NoPodCidr(ObjectName),
    /// The file could not be written.
    #[error(transparent)]
    Disk(#[from] disk::Error),
}

impl Error {
    /// Says whether it may succeed when tried again.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Disk(_))
    }
}

/// The files, and how far they have come.
#[derive(Debug)]
pub(super) struct Told {
    files: Files,
    /// Whether the plugin has been told all that it needs to wire a pod.
    can_wire: bool,
    /// Whether the runtime is yet to be told of the plugin, or to be looked at again.
    is_install_due: bool,
    /// What is wrong with what the runtime has.
    complaints: BTreeSet<Complaint>,
}

impl Told {
    pub(super) fn new(files: Files) -> Self {
        Self { files, can_wire: false, is_install_due: false, complaints: BTreeSet::new() }
    }

    /// Tells the plugin of our own node, if that is known.
    pub(super) fn tell(&mut self, own: Option<&Node>, mtu: u32) -> Result<(), Error> {
        let Some(node) = own else { return Ok(()) };
        self.can_wire = false;
        if node.pod_cidrs.is_empty() {
            return Err(Error::NoPodCidr(node.name.clone()));
        }
        if self.files.write_facts(node, mtu)? {
            info!(mtu, "told the CNI plugin of this node");
        }
        self.can_wire = true;
        Ok(())
    }

    /// What keeps the runtime from using the plugin, as it was when that was looked at last.
    pub(super) fn complaints(&self) -> &BTreeSet<Complaint> {
        &self.complaints
    }

    /// Has [`Self::install`] look once more at what the runtime has.
    pub(super) fn look_again(&mut self) {
        self.is_install_due = self.can_wire;
    }

    /// Makes the container runtime use the plugin, once that can wire pods. False: it does not yet, try again.
    pub(super) fn install(&mut self) -> bool {
        if !self.is_install_due {
            return true;
        }
        let mut complaints = BTreeSet::new();
        let installed = self.files.install();
        match &installed {
            Ok(Written { plugin: false, conflist: false }) => {}
            Ok(Written { plugin, conflist }) => {
                info!(plugin, conflist, "installed for the container runtime");
            }
            Err(error) => drop(complaints.insert(About::Plugin.complaint(said(error)))),
        }
        match self.files.rivals() {
            Ok(rivals) => complaints.extend(rivals.iter().map(|rival| {
                let ours = conflist::CONFLIST;
                About::Plugin.complaint(format!(
                    "container runtimes take {} before {ours}: remove it, or pods get another network",
                    rival.display()
                ))
            })),
            Err(error) => drop(complaints.insert(About::Plugin.complaint(said(&error)))),
        }
        self.complaints = complaints;
        self.is_install_due = installed.is_err();
        !self.is_install_due
    }
}

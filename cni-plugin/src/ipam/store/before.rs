//! What kernel parameters of a pod's namespace were before they were set: beside the leases, in files of their own.
//!
//! ```text
//! /run/fairway/<network>/sysctls/<container id>@<link>   parameters and values, as JSON
//! ```
//!
//! A file is written before any of its parameters is set, and removed when all have been set back, so whatever happens in between is undone by
//! the next who looks. Its owner's record outlives it.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::disk::Directory;
use serde::{Deserialize, Serialize};

use super::{Error, Store, key_of};
use crate::request::Attachment;

/// What parameters were.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Before {
    /// Where the network namespace was.
    pub netns: String,
    /// Its inode, which tells it from a later one at the same place.
    pub netns_inode: u64,
    /// Values, by path.
    pub values: BTreeMap<String, String>,
}

impl Store {
    fn sysctls(&self) -> Result<Directory, Error> {
        Ok(self.network.directory("sysctls")?)
    }

    /// Finds what parameters were before they were set for an attachment. What cannot be read is as good as nothing.
    pub fn before(&self, attachment: &Attachment) -> Result<Option<Before>, Error> {
        let content = self.sysctls()?.read(&key_of(attachment))?;
        Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
    }

    /// Keeps what parameters were.
    pub fn keep_before(&self, attachment: &Attachment, before: &Before) -> Result<(), Error> {
        let content = serde_json::to_string_pretty(before).map_err(Error::Encode)?;
        let directory = self.sysctls()?;
        directory.make()?;
        Ok(directory.replace(&key_of(attachment), format!("{content}\n").as_bytes())?)
    }

    /// Forgets what parameters were.
    pub fn forget_before(&self, attachment: &Attachment) -> Result<(), Error> {
        self.sysctls()?.remove(&key_of(attachment))?;
        Ok(())
    }

    /// Removes what is kept for attachments that have no record any more, such as those of another boot, and drafts.
    pub fn sweep_before(&self) -> Result<(), Error> {
        let directory = self.sysctls()?;
        let kept = directory.names()?;
        let owners: BTreeSet<String> = self.owners.names()?.into_iter().collect();
        for key in kept.iter().filter(|key| !owners.contains(*key)) {
            directory.remove(key)?;
        }
        Ok(directory.sweep()?)
    }
}

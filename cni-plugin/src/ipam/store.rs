//! Leases on disk, in the run directory: who has which address.
//!
//! In: an attachment and range sets. Out: a record with its addresses, kept until it is released. No lock is needed: whoever
//! creates a file first has it, and each file appears with its whole content.
//!
//! ```text
//! /run/fairway/<network>/owners/<container id>@<link>   the record, as JSON: this file is the truth
//!                       /leases/<address>               the same file by another name: a hard link
//!                       /last/<set>                     the address of that range set that was leased last
//! ```
//!
//! The order of steps makes every crash harmless. The owner comes first and goes last, and it names the addresses, so whatever
//! is left is found by it: by the same ADD again, by DEL, or by GC.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use dataplane::disk::{self, Directory};
use serde::{Deserialize, Serialize};

use super::RangeSet;
use crate::{
    failure::{Code, Coded},
    request::Attachment,
};

/// What is kept of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The container's id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The link's name in the container.
    pub ifname: String,
    /// Where the container's network namespace was.
    pub netns: String,
    /// Its inode, which tells it from a later one at the same place.
    pub netns_inode: u64,
    /// The boot in which all of this was so.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// The pod, where the runtime said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// One address of each range set.
    pub addresses: Vec<IpAddr>,
    /// When the addresses were leased, in seconds since 1970.
    pub time: u64,
}

impl Record {
    /// A record for an attachment that has no addresses yet.
    pub fn of(attachment: &Attachment, now: SystemTime) -> Self {
        Self {
            container_id: attachment.container_id().to_owned(),
            ifname: attachment.ifname().to_owned(),
            netns: String::new(),
            netns_inode: 0,
            boot_id: String::new(),
            pod: None,
            addresses: Vec::new(),
            time: now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }
}

/// Why a lease could not be had or given back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All are taken.
    #[error("no free address in {set} ({leased} leased): raise the pod CIDR or run GC")]
    Exhausted {
        /// The ranges.
        set: RangeSet,
        /// How many of their addresses are leased.
        leased: usize,
    },
    /// Someone else made the record in the same moment.
    #[error("another ADD for container {container_id} and link {ifname} is running")]
    Busy {
        /// The container's id.
        container_id: String,
        /// The link's name.
        ifname: String,
    },
    /// The disk said no.
    #[error("keep the leases")]
    Disk(#[from] disk::Error),
    /// Only a program that cannot be written as JSON meets this.
    #[error("write a lease as JSON")]
    Encode(#[source] serde_json::Error),
}

impl Coded for Error {
    fn code(&self) -> Code {
        match self {
            Self::Exhausted { .. } => Code::Exhausted,
            Self::Busy { .. } => Code::TryAgainLater,
            Self::Disk(_) | Self::Encode(_) => Code::InputOutput,
        }
    }
}

/// The leases of one network.
#[derive(Debug, Clone)]
pub struct Store {
    network: Directory,
    owners: Directory,
    leases: Directory,
    last: Directory,
}

impl Store {
    /// Names the leases of a network; nothing is read or made yet.
    pub fn of(run_dir: &Directory, network: &str) -> Result<Self, Error> {
        let network = run_dir.directory(network)?;
        Ok(Self {
            owners: network.directory("owners")?,
            leases: network.directory("leases")?,
            last: network.directory("last")?,
            network,
        })
    }

    /// Makes the directories. After this, leases can be had.
    pub fn make(&self) -> Result<(), Error> {
        for directory in [&self.network, &self.owners, &self.leases, &self.last] {
            directory.make()?;
        }
        Ok(())
    }

    /// Finds the record of an attachment.
    pub fn find(&self, attachment: &Attachment) -> Result<Option<Record>, Error> {
        self.read(&key_of(attachment))
    }

    /// Lists who has leases.
    pub fn attachments(&self) -> Result<Vec<Attachment>, Error> {
        Ok(self.owners.names()?.iter().filter_map(|key| attachment_of(key)).collect())
    }

    /// Leases one address of each set to the attachment of `record`. One that has its addresses already keeps them, as
    /// long as they are of these sets.
    pub fn lease(
        &self,
        attachment: &Attachment,
        record: &Record,
        sets: &[RangeSet],
    ) -> Result<Record, Error> {
        self.make()?;
        if let Some(there) = self.find(attachment)?
            && self.is_whole(attachment, &there, sets)?
        {
            return Ok(there);
        }
        self.release(attachment)?; // what a crash or an older configuration left
        match self.lease_anew(attachment, record, sets) {
            Err(Error::Exhausted { .. }) if self.release_other_boots(&record.boot_id)? => {
                self.lease_anew(attachment, record, sets)
            }
            leased => leased,
        }
    }

    fn lease_anew(
        &self,
        attachment: &Attachment,
        record: &Record,
        sets: &[RangeSet],
    ) -> Result<Record, Error> {
        let mut refused = BTreeSet::new();
        loop {
            let addresses = self.choose(sets, &refused)?;
            let record = Record { addresses, ..record.clone() };
            match self.claim(attachment, &record)? {
                None => {
                    self.remember_last(&record.addresses)?;
                    return Ok(record);
                }
                Some(taken) => refused.insert(taken), // by one that came first; its file may be gone again by now
            };
        }
    }

    /// Gives back what was leased in another boot, and says whether there was any. Its pods ended with that boot, but where the
    /// run directory is not in memory, their leases did not.
    fn release_other_boots(&self, boot_id: &str) -> Result<bool, Error> {
        let mut any = false;
        for attachment in self.attachments()? {
            if self.find(&attachment)?.is_some_and(|record| record.boot_id != boot_id) {
                any |= self.release(&attachment)?;
            }
        }
        Ok(any)
    }

    /// Gives back what an attachment has, and says whether it had anything.
    pub fn release(&self, attachment: &Attachment) -> Result<bool, Error> {
        let key = key_of(attachment);
        let Some(owner) = self.owners.inode(&key)? else { return Ok(false) };
        let addresses = match self.read(&key)? {
            Some(record) => record.addresses.iter().map(ToString::to_string).collect(),
            None => self.leases.names()?,
        };
        for address in addresses {
            if self.leases.inode(&address)? == Some(owner) {
                self.leases.remove(&address)?;
            }
        }
        Ok(self.owners.remove(&key)?)
    }

    /// Removes leases without an owner, and drafts. Goes on over what cannot be removed, and says what went wrong. Call it only
    /// when no other call on this network runs.
    pub fn sweep(&self) -> Vec<Error> {
        let mut failures: Vec<Error> = match self.orphans() {
            Ok(orphans) => {
                orphans.iter().filter_map(|name| self.leases.remove(name).err()).map(Error::from).collect()
            }
            Err(error) => vec![error],
        };
        for directory in [&self.network, &self.last] {
            failures.extend(directory.sweep().err().map(Error::from));
        }
        failures
    }

    /// Lists leases that are no owner's.
    fn orphans(&self) -> Result<Vec<String>, Error> {
        let mut owners = BTreeSet::new();
        for key in self.owners.names()? {
            owners.extend(self.owners.inode(&key)?);
        }
        let mut orphans = Vec::new();
        for name in self.leases.names()? {
            if self.leases.inode(&name)?.is_some_and(|inode| !owners.contains(&inode)) {
                orphans.push(name);
            }
        }
        Ok(orphans)
    }

    /// A record that cannot be read is as good as none: its leases are still found by it, and given back with it.
    fn read(&self, key: &str) -> Result<Option<Record>, Error> {
        let content = self.owners.read(key)?;
        Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
    }

    fn is_whole(&self, attachment: &Attachment, record: &Record, sets: &[RangeSet]) -> Result<bool, Error> {
        let owner = self.owners.inode(&key_of(attachment))?;
        if record.addresses.len() != sets.len() {
            return Ok(false);
        }
        for (address, set) in record.addresses.iter().zip(sets) {
            let is_leased = self.leases.inode(&address.to_string())? == owner;
            if !is_leased || set.range_of(*address).is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn choose(&self, sets: &[RangeSet], refused: &BTreeSet<IpAddr>) -> Result<Vec<IpAddr>, Error> {
        let mut taken: BTreeSet<IpAddr> =
            self.leases.names()?.iter().filter_map(|name| name.parse().ok()).collect();
        taken.extend(refused);
        let mut chosen = Vec::new();
        for (number, set) in sets.iter().enumerate() {
            let last = self.last.read(&number.to_string())?;
            let last = last.and_then(|text| str::from_utf8(&text).ok()?.trim().parse().ok());
            let Some(address) = set.choose(last, &taken) else {
                let leased = taken.iter().filter(|ip| set.range_of(**ip).is_some()).count();
                return Err(Error::Exhausted { set: set.clone(), leased });
            };
            chosen.push(address);
        }
        Ok(chosen)
    }

    /// Makes the owner and its leases, or none of them and says which address another has.
    fn claim(&self, attachment: &Attachment, record: &Record) -> Result<Option<IpAddr>, Error> {
        let key = key_of(attachment);
        let content = serde_json::to_string_pretty(record).map_err(Error::Encode)?;
        let draft = self.network.draft(format!("{content}\n").as_bytes())?;
        match self.owners.link(&draft, &key) {
            Err(error) if error.is_exists() => {
                let Record { container_id, ifname, .. } = record.clone();
                return Err(Error::Busy { container_id, ifname });
            }
            done => done?,
        }
        for address in &record.addresses {
            match self.leases.link(&draft, &address.to_string()) {
                Ok(()) => {}
                Err(error) => {
                    self.release(attachment)?;
                    return if error.is_exists() { Ok(Some(*address)) } else { Err(error.into()) };
                }
            }
        }
        Ok(None)
    }

    /// Two at once may leave the earlier of their addresses here. Then the later one is merely found to be taken.
    fn remember_last(&self, addresses: &[IpAddr]) -> Result<(), Error> {
        for (number, address) in addresses.iter().enumerate() {
            self.last.replace(&number.to_string(), address.to_string().as_bytes())?;
        }
        Ok(())
    }
}

/// `@` is in no container id, so two attachments never share a name.
fn key_of(attachment: &Attachment) -> String {
    format!("{}@{}", attachment.container_id(), attachment.ifname())
}

fn attachment_of(key: &str) -> Option<Attachment> {
    let (container_id, ifname) = key.split_once('@')?;
    Attachment::new(container_id, ifname).ok()
}

#[cfg(test)]
mod tests;

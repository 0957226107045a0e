//! Leases on disk, in the run directory: who has which address.
//!
//! In: an attachment and what it asks for. Out: a record with its addresses, kept until it is released. No lock is needed: whoever
//! creates a file first has it, and each file appears with its whole content.
//!
//! ```text
//! /run/fairway/<network>/owners/<container id>@<link>   the record, as JSON: this file is the truth
//!                       /leases/<address>               the same file by another name: a hard link
//!                       /last/<set>                     the address of that range set that was leased last
//!                       /freed/<set>                    those of it that were freed of late, one a line
//!                       /sysctls/<container id>@<link>  what a pod's kernel parameters were before
//!                       /mtu                            the largest packets of pods' links
//!                       /boot                           the boot in which the first lease was asked for
//! ```
//!
//! `last` and `freed` only say whose turn it is. Where they are missing or wrong, no address is given twice all the same.
//!
//! The order of steps makes every crash harmless. The owner comes first and goes last, and it names the addresses, so whatever
//! is left is found by it: by the same ADD again, by DEL, or by GC.

mod before;
mod predecessor;
mod record;
mod sizes;
mod turns;

use std::{collections::BTreeSet, net::IpAddr, path::Path, time::UNIX_EPOCH};

use dataplane::disk::{self, Directory};

pub use self::before::Before;
pub use self::record::{Delegated, Record};
use self::{
    predecessor::Predecessor,
    turns::{Turn, Turns},
};
use super::{Ask, RangeSet};
use crate::{
    failure::{Code, Coded},
    request::Attachment,
};

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
    /// The one that is asked for is another's.
    #[error("address {address} is asked for, and leased to {holder}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: String,
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
            Self::Exhausted { .. } | Self::Taken { .. } => Code::Exhausted,
            Self::Busy { .. } => Code::TryAgainLater,
            Self::Disk(_) | Self::Encode(_) => Code::InputOutput,
        }
    }
}

/// The leases of one network.
#[derive(Debug, Clone)]
pub struct Store {
    run_dir: Directory,
    network: Directory,
    owners: Directory,
    leases: Directory,
    turns: Turns,
    predecessor: Option<Predecessor>,
}

impl Store {
    /// Names the leases of a network; nothing is read or made yet.
    pub fn of(run_dir: &Directory, network: &str) -> Result<Self, Error> {
        let network = run_dir.directory(network)?;
        Ok(Self {
            run_dir: run_dir.clone(),
            owners: network.directory("owners")?,
            leases: network.directory("leases")?,
            turns: Turns::of(&network)?,
            network,
            predecessor: None,
        })
    }

    /// The directory that those of all networks are in.
    pub fn run_dir(&self) -> &Directory {
        &self.run_dir
    }

    /// Makes the directories, and says whether there is room for a lease in them.
    pub fn probe(&self) -> Result<(), Error> {
        const RECORD: usize = 1 << 10;
        self.make()?;
        self.network.draft(&[b' '; RECORD])?;
        Ok(())
    }

    /// Heeds, from the first lease of a boot on, what host-local has leased in that directory of its.
    pub fn after_host_local(self, data_dir: &Path, network: &str) -> Result<Self, Error> {
        Ok(Self { predecessor: Some(Predecessor::of(data_dir, network)?), ..self })
    }

    /// Makes the directories. After this, leases can be had.
    pub fn make(&self) -> Result<(), Error> {
        for directory in [&self.network, &self.owners, &self.leases] {
            directory.make()?;
        }
        Ok(self.turns.make()?)
    }

    /// Finds the record of an attachment.
    pub fn find(&self, attachment: &Attachment) -> Result<Option<Record>, Error> {
        self.read(&key_of(attachment))
    }

    /// Lists who has leases.
    pub fn attachments(&self) -> Result<Vec<Attachment>, Error> {
        Ok(self.owners.names()?.iter().filter_map(|key| attachment_of(key)).collect())
    }

    /// Leases what is asked for to the attachment of `record`. One that has such addresses already keeps them.
    pub fn lease(&self, attachment: &Attachment, record: &Record, ask: &Ask) -> Result<Record, Error> {
        self.make()?;
        self.begin(record)?;
        let there = self.find(attachment)?;
        let kept = match &there {
            Some(there) if self.keeps(attachment, there, ask)? => Some(&there.addresses),
            _ => None,
        };
        match (kept, &there) {
            (Some(_), Some(there)) if there.is_like(record) => return Ok(there.clone()),
            (Some(addresses), _) => {
                // The same container in a namespace that was made anew.
                self.release(attachment)?;
                let record = Record { addresses: addresses.clone(), ..record.clone() };
                if self.claim(attachment, &record)?.is_none() {
                    return Ok(record);
                }
            }
            _ => {} // what a crash or an older configuration left
        }
        self.release(attachment)?;
        self.lease_anew(attachment, record, ask)
    }

    /// Keeps the record of an attachment whose addresses another plugin leases; they are not taken here.
    pub fn hold(&self, attachment: &Attachment, record: &Record) -> Result<(), Error> {
        self.make()?;
        self.begin(record)?;
        let content = serde_json::to_string_pretty(record).map_err(Error::Encode)?;
        let key = key_of(attachment);
        if self.read(&key)?.is_none_or(|there| there.delegated.is_none()) {
            self.release(attachment)?; // what another configuration left
        }
        // Drafts are in one place, where GC finds those that a crash left.
        Ok(self.owners.put(self.network.draft(format!("{content}\n").as_bytes())?, &key)?)
    }

    fn lease_anew(&self, attachment: &Attachment, record: &Record, ask: &Ask) -> Result<Record, Error> {
        let mut refused = BTreeSet::new();
        loop {
            let chosen = self.choose(ask, &refused)?;
            let addresses = chosen.iter().map(|chosen| chosen.address).collect();
            let record = Record { addresses, ..record.clone() };
            match self.claim(attachment, &record)? {
                None => {
                    self.remember(&chosen, ask);
                    return Ok(record);
                }
                Some(taken) => refused.insert(taken), // by one that came first; its file may be gone again by now
            };
        }
    }

    /// With the first lease of a boot, gives back what was leased in another. Its pods ended with that boot, but where the run
    /// directory is not in memory, their leases did not.
    fn begin(&self, Record { boot_id, time: now, .. }: &Record) -> Result<(), Error> {
        const BOOT: &str = "boot";
        if self.network.read(BOOT)?.is_some_and(|known| known == boot_id.as_bytes()) {
            return Ok(());
        }
        for attachment in self.attachments()? {
            if self.find(&attachment)?.is_none_or(|record| record.boot_id != *boot_id) {
                self.release(&attachment)?;
            }
        }
        self.inherit(boot_id, *now)?;
        Ok(self.network.replace(BOOT, boot_id.as_bytes())?)
    }

    /// Takes over what host-local has leased to containers that may still run. They come and go here from then on.
    fn inherit(&self, boot_id: &str, now: u64) -> Result<(), Error> {
        let Some(predecessor) = &self.predecessor else { return Ok(()) };
        for held in predecessor.held(predecessor::booted(now))? {
            let (netns, netns_inode) = held.netns.unwrap_or_default();
            let record = Record {
                netns,
                netns_inode,
                boot_id: boot_id.to_owned(),
                addresses: held.addresses,
                time: held.since,
                is_inherited: true,
                ..Record::of(&held.attachment, UNIX_EPOCH)
            };
            match self.claim(&held.attachment, &record) {
                Ok(_) | Err(Error::Busy { .. }) => {} // another ADD does the same
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives back what an attachment has, and says whether it had anything.
    pub fn release(&self, attachment: &Attachment) -> Result<bool, Error> {
        let key = key_of(attachment);
        let Some(owner) = self.owners.inode(&key)? else { return Ok(false) };
        let addresses = match self.read(&key)? {
            Some(record) => record.addresses,
            None => self.leased()?,
        };
        for (set, address) in addresses.iter().enumerate() {
            let name = address.to_string();
            if self.leases.inode(&name)? == Some(owner) {
                self.turns.freed(set, *address);
                self.leases.remove(&name)?;
            }
        }
        // Someone else may have given all of it back meanwhile, and the container may have leased anew.
        Ok(self.owners.inode(&key)? == Some(owner) && self.owners.remove(&key)?)
    }

    /// Removes leases without an owner, and drafts. Goes on over what cannot be removed, and says what went wrong. Call it only
    /// when no other call on this network runs.
    pub fn sweep(&self) -> Vec<Error> {
        let mut failures: Vec<Error> = match self.orphans() {
            Ok(orphans) => orphans.iter().filter_map(|orphan| self.remove_orphan(orphan).err()).collect(),
            Err(error) => vec![error],
        };
        failures.extend(self.network.sweep().err().map(Error::from));
        failures.extend(self.turns.sweep().err().map(Error::from));
        failures
    }

    /// Lists leases that are no owner's, by name and inode. An ADD that runs at the same time makes none: its owner is there
    /// before its leases, so leases are listed first.
    pub fn orphans(&self) -> Result<Vec<(String, u64)>, Error> {
        let mut orphans = Vec::new();
        // What is called otherwise is no lease: should this ever be another directory, little goes.
        for name in self.leases.names()?.into_iter().filter(|name| name.parse::<IpAddr>().is_ok()) {
            let inode = self.leases.inode(&name)?;
            orphans.extend(inode.map(|inode| (name, inode)));
        }
        let mut owners = BTreeSet::new();
        for key in self.owners.names()? {
            owners.extend(self.owners.inode(&key)?);
        }
        orphans.retain(|(_, inode)| !owners.contains(inode));
        Ok(orphans)
    }

    /// Removes a lease that is no owner's, unless someone has leased the address meanwhile.
    pub fn remove_orphan(&self, (name, inode): &(String, u64)) -> Result<bool, Error> {
        Ok(self.leases.inode(name)? == Some(*inode) && self.leases.remove(name)?)
    }

    /// A record that cannot be read is as good as none: its leases are still found by it, and given back with it.
    fn read(&self, key: &str) -> Result<Option<Record>, Error> {
        let content = self.owners.read(key)?;
        Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
    }

    /// Says whether an attachment has all the addresses of its record still, and they are what it asks for.
    pub fn keeps(&self, attachment: &Attachment, record: &Record, ask: &Ask) -> Result<bool, Error> {
        let owner = self.owners.inode(&key_of(attachment))?;
        for address in &record.addresses {
            if self.leases.inode(&address.to_string())? != owner {
                return Ok(false);
            }
        }
        Ok(ask.is_met_by(&record.addresses))
    }

    /// Looks at addresses one by one until one is free: in a circle that is nearly always the first, however many are leased.
    fn choose(&self, ask: &Ask, refused: &BTreeSet<IpAddr>) -> Result<Vec<Chosen>, Error> {
        let mut chosen = Vec::new();
        for (number, (set, wish)) in ask.wishes().iter().enumerate() {
            if let Some(address) = wish {
                if let Some(holder) = self.holder(*address)? {
                    return Err(Error::Taken { address: *address, holder });
                }
                chosen.push(Chosen { address: *address, turn: None });
                continue;
            }
            let past = self.turns.past(number, set)?;
            let mut free = None;
            for address in set.in_turn(&past).filter(|address| !refused.contains(address)) {
                if self.leases.inode(&address.to_string())?.is_none() {
                    free = Some(address);
                    break;
                }
            }
            let Some(address) = free else {
                let leased = self.leased()?.iter().filter(|ip| set.range_of(**ip).is_some()).count();
                return Err(Error::Exhausted { set: set.clone(), leased });
            };
            let turn = if past.waiting.contains(&address) { Turn::Waited } else { Turn::Came };
            chosen.push(Chosen { address, turn: Some(turn) });
        }
        Ok(chosen)
    }

    /// Lists the addresses that are leased.
    fn leased(&self) -> Result<Vec<IpAddr>, Error> {
        Ok(self.leases.names()?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Says who has an address, if anybody has.
    fn holder(&self, address: IpAddr) -> Result<Option<String>, Error> {
        let record = self.leases.read(&address.to_string())?;
        Ok(record.map(|record| match serde_json::from_slice::<Record>(&record) {
            Ok(record) => record.to_string(),
            Err(_) => "someone whose record cannot be read (run GC)".to_owned(),
        }))
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

    fn remember(&self, chosen: &[Chosen], ask: &Ask) {
        for (number, (chosen, (set, _))) in chosen.iter().zip(ask.wishes()).enumerate() {
            if let Some(turn) = chosen.turn {
                self.turns.leased(number, set, chosen.address, turn);
            }
        }
    }
}

/// An address that is free.
#[derive(Debug, Clone, Copy)]
struct Chosen {
    address: IpAddr,
    /// How its turn came; one that was asked for had none.
    turn: Option<Turn>,
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

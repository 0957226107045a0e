//! What pods have of their node, who has which host port and who is masqueraded: claims on disk, in the run directory.
//!
//! In: an owner and what it wants. Out: that is its own, or who has it. Whoever reads or writes holds the lock, with
//! which goes all that is done in the kernel about claims ([`kernel`]): so tables and claims agree whenever nobody holds it, unless
//! somebody was killed, or others changed the tables.
//!
//! ```text
//! /run/fairway/host-ports/tcp-8080-ip            all IPv4 addresses of the node, as JSON
//!                         tcp-8080-192.0.2.1     this one
//!                         masquerade-10.1.0.2    what this pod sends to elsewhere
//!                         lock                   never removed
//! ```
//!
//! A claim is made before the kernel is told of it, and given up after the kernel has forgotten it.

pub mod kernel;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    disk::{self, Directory, Lock},
    host_ports::HostPort,
    masquerade::Masqueraded,
    packet::Family,
};

/// The directory's name. No network can be called like that.
pub const DIRECTORY: &str = "host-ports";

const LOCK: &str = "lock";

/// Why claims could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("keep the claims")]
    Disk(#[from] disk::Error),
    /// Only a program that cannot be written as JSON meets this.
    #[error("write a claim as JSON")]
    Encode(#[source] serde_json::Error),
}

/// Who has something: the link of a container to a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The network's name.
    pub network: String,
    /// The container's id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The link's name in the container.
    pub ifname: String,
}

/// What can be had of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Claimed {
    /// A port that leads to the pod.
    HostPort(HostPort),
    /// To be seen as the node elsewhere.
    Masquerade(Masqueraded),
}

impl Claimed {
    /// The port, if it is one.
    pub fn host_port(&self) -> Option<&HostPort> {
        match self {
            Self::HostPort(port) => Some(port),
            Self::Masquerade(_) => None,
        }
    }

    /// The pod that is masqueraded, if that is claimed.
    pub fn masqueraded(&self) -> Option<&Masqueraded> {
        match self {
            Self::Masquerade(pod) => Some(pod),
            Self::HostPort(_) => None,
        }
    }

    /// The family.
    pub fn family(&self) -> Family {
        match self {
            Self::HostPort(port) => port.family(),
            Self::Masquerade(pod) => pod.family(),
        }
    }

    /// Says whether only one of the two can be had.
    fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::HostPort(one), Self::HostPort(other)) => one.overlaps(other),
            (Self::Masquerade(one), Self::Masquerade(other)) => one.address == other.address,
            _ => false,
        }
    }

    /// What the names of all claims begin with that may exclude this one.
    fn beginning(&self) -> String {
        match self {
            Self::HostPort(port) => format!("{}-{}-", port.protocol, port.host_port),
            Self::Masquerade(pod) => format!("masquerade-{}", pod.address),
        }
    }

    fn name(&self) -> String {
        let beginning = self.beginning();
        match self {
            Self::HostPort(HostPort { host_ip: Some(address), .. }) => format!("{beginning}{address}"),
            Self::HostPort(port) => format!("{beginning}{}", port.family()),
            Self::Masquerade(_) => beginning,
        }
    }
}

impl fmt::Display for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostPort(port) => write!(f, "host port {port}"),
            Self::Masquerade(pod) => pod.fmt(f),
        }
    }
}

/// Something that is somebody's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Whose.
    #[serde(flatten)]
    pub owner: Owner,
    /// The pod, where the runtime said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The boot in which it was made.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// What is claimed.
    #[serde(flatten)]
    pub what: Claimed,
}

impl Claim {
    /// A word for people beside what is claimed: the pod, or else the container.
    pub fn comment(&self) -> &str {
        self.pod.as_deref().unwrap_or(&self.owner.container_id)
    }

    fn name(&self) -> String {
        self.what.name()
    }
}

/// Who has it, for people.
impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pod) = &self.pod {
            write!(f, "pod {pod}, ")?;
        }
        let Owner { network, container_id, ifname } = &self.owner;
        write!(f, "container {container_id}, link {ifname} of network {network}")
    }
}

/// The claims in a run directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    directory: Directory,
}

/// The claims, while nobody else reads or changes them.
#[derive(Debug)]
pub struct Locked {
    directory: Directory,
    _lock: Lock,
}

impl Claims {
    /// Names the claims; nothing is read or made yet.
    pub fn of(run_dir: &Directory) -> Result<Self, Error> {
        Ok(Self { directory: run_dir.directory(DIRECTORY)? })
    }

    /// Says whether there is, or was, any claim.
    pub fn are_there(&self) -> bool {
        self.directory.path().is_dir()
    }

    /// Waits until nobody else holds them, and makes the directory where it is missing.
    pub fn lock(&self) -> Result<Locked, Error> {
        self.directory.make()?;
        Ok(Locked { directory: self.directory.clone(), _lock: self.directory.lock(LOCK)? })
    }
}

impl Locked {
    /// Lists all claims, in order.
    pub fn all(&self) -> Result<Vec<Claim>, Error> {
        let mut claims = Vec::new();
        for name in self.names()? {
            claims.extend(self.read(&name)?);
        }
        Ok(claims)
    }

    /// Finds what an owner has of these.
    pub fn held_by(&self, owner: &Owner, these: &[Claimed]) -> Result<Vec<Claim>, Error> {
        let mut held = Vec::new();
        for claimed in these {
            held.extend(self.read(&claimed.name())?.filter(|claim| claim.owner == *owner));
        }
        Ok(held)
    }

    /// Finds claims of others that exclude those that are wanted, each with what it is in the way of.
    pub fn in_the_way(&self, wanted: &[Claim]) -> Result<Vec<(Claimed, Claim)>, Error> {
        let names = self.names()?;
        let mut found = Vec::new();
        for want in wanted {
            let beginning = want.what.beginning();
            for name in names.iter().filter(|name| name.starts_with(&beginning)) {
                let there = self.read(name)?;
                let other = |there: &Claim| there.owner != want.owner && there.what.excludes(&want.what);
                found.extend(there.filter(other).map(|claim| (want.what, claim)));
            }
        }
        Ok(found)
    }

    /// Makes claims that nobody is in the way of. Those that are there already stay as they are. Says whether one takes the place
    /// of another.
    pub fn make(&self, claims: &[Claim]) -> Result<bool, Error> {
        let mut is_any_replaced = false;
        for claim in claims {
            let name = claim.name();
            let there = self.read(&name)?;
            if there.as_ref() != Some(claim) {
                is_any_replaced |= there.is_some();
                let content = serde_json::to_string_pretty(claim).map_err(Error::Encode)?;
                self.directory.replace(&name, format!("{content}\n").as_bytes())?;
            }
        }
        Ok(is_any_replaced)
    }

    /// Gives claims up.
    pub fn give_up<'a>(&self, claims: impl IntoIterator<Item = &'a Claim>) -> Result<(), Error> {
        for claim in claims {
            self.directory.remove(&claim.name())?;
        }
        Ok(())
    }

    /// Removes what cannot be read, which nobody can have, and drafts.
    pub fn sweep(&self) -> Result<(), Error> {
        for name in self.names()? {
            if self.read(&name)?.is_none() {
                self.directory.remove(&name)?;
            }
        }
        Ok(self.directory.sweep()?)
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let mut names = self.directory.names()?;
        names.retain(|name| name != LOCK);
        Ok(names)
    }

    /// Reads a claim. One that cannot be read is as good as none; so is one that says something else than its name.
    fn read(&self, name: &str) -> Result<Option<Claim>, Error> {
        let content = self.directory.read(name)?;
        let claim = content.and_then(|content| serde_json::from_slice::<Claim>(&content).ok());
        Ok(claim.filter(|claim| claim.name() == name))
    }
}

#[cfg(test)]
mod tests;

//! Is a lease still somebody's? Pure: what is known of the node goes in, a word comes out.
//!
//! A lease is given back without its owner being asked only where it cannot have one any more. A pod that ended with an
//! earlier boot cannot, and one whose namespace is gone. That a path leads nowhere proves little by itself, since a namespace
//! lives as long as a process in it; but with the namespace the kernel takes both ends of the pod's link away.

use std::fmt;

use super::store::Record;

/// What there is on the node of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Facts<'a> {
    /// The boot that the node is in.
    pub boot_id: &'a str,
    /// What is found where the record says that the namespace is.
    pub found: Found,
    /// The host end of the pod's link is there.
    pub has_link: bool,
}

/// What is found at the path of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// A namespace with that inode.
    Namespace(u64),
    /// No namespace.
    Nothing,
    /// Nobody can tell: no path is known, or it cannot be looked at.
    Unknown,
}

/// How a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Its pod has it.
    InUse,
    /// Its pod is there, its link is not (yet, or any more).
    Unwired,
    /// Its pod ended with an earlier boot.
    EarlierBoot,
    /// Its pod's namespace is gone.
    Gone,
    /// Nobody knows whose it was, and there is no link either.
    Unreadable,
}

impl Standing {
    /// Tells how the lease of a record stands; without a record, that of one that cannot be read.
    pub fn of(record: Option<&Record>, facts: Facts<'_>) -> Self {
        let Some(record) = record else {
            return if facts.has_link { Self::InUse } else { Self::Unreadable };
        };
        if record.boot_id != facts.boot_id {
            return Self::EarlierBoot;
        }
        match facts.found {
            _ if facts.has_link => Self::InUse,
            Found::Unknown => Self::InUse,
            Found::Namespace(inode) if record.is_of(inode) && record.is_inherited => Self::InUse, // by another's link
            Found::Namespace(inode) if record.is_of(inode) => Self::Unwired,
            Found::Namespace(_) | Found::Nothing => Self::Gone,
        }
    }

    /// Says whether nobody can have the address any more.
    pub fn is_stale(self) -> bool {
        matches!(self, Self::EarlierBoot | Self::Gone | Self::Unreadable)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InUse => "in use",
            Self::Unwired => "no link",
            Self::EarlierBoot => "of an earlier boot",
            Self::Gone => "namespace gone",
            Self::Unreadable => "record unreadable",
        })
    }
}

#[cfg(test)]
mod tests;

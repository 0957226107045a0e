//! Why the kernel did not do what it was asked.

use std::{fmt, io};

use nix::errno::Errno;

use crate::netns;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Operation {
    List,
    Find,
    Add,
    Replace,
    Change,
    Delete,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "list",
            Self::Find => "find",
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Change => "change",
            Self::Delete => "delete",
        })
    }
}

/// Why a question about, or a change of, the network was not answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("open a route netlink socket")]
    Open(#[source] io::Error),
    /// The namespace to open it in cannot be entered.
    #[error("open a route netlink socket in another namespace")]
    Enter(#[source] netns::Error),
    /// The kernel said no.
    #[error("{operation} {object}")]
    Refused {
        /// What was asked for.
        operation: Operation,
        /// On what.
        object: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's answer was cut short or was another than expected.
    #[error("{operation} {object}: the kernel's answer is incomplete")]
    Incomplete {
        /// What was asked for.
        operation: Operation,
        /// On what.
        object: String,
    },
}

impl Error {
    pub(super) fn refused(operation: Operation, object: &str, errno: Errno) -> Self {
        Self::Refused { operation, object: object.to_string(), source: errno.into() }
    }

    /// What the kernel said, as a number.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open(source) | Self::Refused { source, .. } => source.raw_os_error(),
            Self::Enter(_) | Self::Incomplete { .. } => None,
        }
    }

    /// Says whether the object, or the link it is on, is not there.
    pub fn is_not_found(&self) -> bool {
        // A route: ESRCH. A link: ENODEV. An address: EADDRNOTAVAIL. A neighbour: ENOENT.
        let absent = [Errno::ESRCH, Errno::ENODEV, Errno::EADDRNOTAVAIL, Errno::ENOENT];
        self.errno().is_some_and(|errno| absent.contains(&Errno::from_raw(errno)))
    }

    /// Says whether the kernel knows no links, queues or filters of that kind: it was built without them, or lacks the module.
    pub fn is_unknown_kind(&self) -> bool {
        // A link: EOPNOTSUPP. A queue, a filter or its action: ENOENT.
        let unknown = [Errno::EOPNOTSUPP, Errno::ENOENT];
        self.errno().is_some_and(|errno| unknown.contains(&Errno::from_raw(errno)))
    }

    /// Says whether the kernel knows nothing of that kind in that family of addresses: it was built or started without it.
    pub fn is_unknown_family(&self) -> bool {
        let unknown = [Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP];
        self.errno().is_some_and(|errno| unknown.contains(&Errno::from_raw(errno)))
    }

    /// Says whether there is such an object already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST as i32)
    }
}

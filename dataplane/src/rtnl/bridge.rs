//! Bridges, and how they treat the links that are plugged into them.

use super::Mac;

/// A bridge to be made. It is up from the start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bridge {
    /// Name of the link.
    pub name: String,
    /// Its hardware address; otherwise the lowest of those plugged in, which changes as they come and go.
    pub mac: Option<Mac>,
    /// The largest packet it takes; otherwise the smallest MTU of those plugged in.
    pub mtu: Option<u32>,
}

impl Bridge {
    /// A bridge of that name that has nothing of its own.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), mac: None, mtu: None }
    }
}

/// How a bridge treats a link that is plugged into it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// What comes in may go out again here.
    pub hairpin: bool,
    /// Nothing goes from here to other isolated ports.
    pub isolated: bool,
    /// Only hardware addresses that are pinned to this port come in by it. Needs Linux 5.18; an older one ignores the wish.
    pub locked: bool,
}

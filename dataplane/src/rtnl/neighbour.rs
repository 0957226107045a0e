//! Neighbours: which hardware address answers for an IP address on a link.

use std::{fmt, net::IpAddr};

use super::Mac;

/// How far the kernel trusts an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NeighbourState {
    /// Never asked about again.
    Permanent,
    /// Used at once, and confirmed while it is used: a later change of the hardware address heals.
    Stale,
    /// Confirmed a moment ago.
    Reachable,
    /// Any other state of the kernel's own (`NUD_*`).
    Other(u16),
}

/// An entry of the neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The link's index.
    pub link: u32,
    /// Whose hardware address it is.
    pub address: IpAddr,
    /// Nothing while the kernel still asks for it.
    pub mac: Option<Mac>,
    /// How far it is trusted.
    pub state: NeighbourState,
}

impl fmt::Display for Neighbour {
    /// As `ip neighbour` would take it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.address, self.link)?;
        self.mac.map_or(Ok(()), |mac| write!(f, " lladdr {mac}"))
    }
}

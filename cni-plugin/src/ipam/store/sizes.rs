//! The largest packets that pods of a network may have on their links now: beside the leases, in a file of its own.
//!
//! ```text
//! /run/fairway/<network>/mtu        one number where all pods have it; several while they are brought from one to another
//!                       /mtu.lock   held by whoever brings them; never removed
//! ```
//!
//! Numbers are added before any link is changed, and taken away when all links have been, so whatever happens in between is found by the next
//! who looks.

use std::collections::BTreeSet;

use dataplane::disk::Lock;

use super::{Error, Store};

const FILE: &str = "mtu";
const LOCK: &str = "mtu.lock";

impl Store {
    /// Reads them; none if nobody has kept any, or they cannot be read.
    pub fn sizes(&self) -> Result<BTreeSet<u32>, Error> {
        let content = self.network.read(FILE)?.unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        Ok(content.lines().map_while(|line| line.parse().ok()).collect())
    }

    /// Keeps them.
    pub fn keep_sizes(&self, sizes: &BTreeSet<u32>) -> Result<(), Error> {
        let lines: Vec<String> = sizes.iter().map(u32::to_string).collect();
        Ok(self.network.replace(FILE, format!("{}\n", lines.join("\n")).as_bytes())?)
    }

    /// Waits until nobody else brings pods to another size.
    pub fn lock_sizes(&self) -> Result<Lock, Error> {
        self.make()?;
        Ok(self.network.lock(LOCK)?)
    }

    /// Nothing where somebody does.
    pub fn try_lock_sizes(&self) -> Result<Option<Lock>, Error> {
        self.make()?;
        Ok(self.network.try_lock(LOCK)?)
    }
}

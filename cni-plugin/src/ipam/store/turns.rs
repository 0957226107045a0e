//! Whose turn it is, kept from one process to the next: the address leased last, and those that were freed of late.
//!
//! ```text
//! last/<set>    10.244.1.7           and, when nothing was free but what had been freed of late, the set in a second line
//! freed/<set>   10.244.1.9           one line each: freed
//!               +10.244.1.9          leased again
//! ```
//!
//! Only the end of the second file is ever read, so leases cost the same however many there were. With ranges of up to some
//! 250 addresses the order of their turns is exact; of larger ones, an address waits until a few hundred others have been freed.
//! Losing any of this harms no lease.

use std::{collections::BTreeMap, net::IpAddr};

use dataplane::disk::{self, Directory};

use crate::ipam::{Past, RangeSet};

/// How much is read of what was freed: 250 addresses that come and go, if each has all its digits.
const READ: u64 = 10 << 10;

/// When the file is cut down to what is read of it.
const MOST: u64 = 64 << 10;

/// How an address came to be leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    /// It was next in the circle.
    Came,
    /// It was freed before, and waited.
    Waited,
}

/// The turns of one network's sets of ranges, each by its number.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    last: Directory,
    freed: Directory,
}

impl Turns {
    pub(super) fn of(network: &Directory) -> Result<Self, disk::Error> {
        Ok(Self { last: network.directory("last")?, freed: network.directory("freed")? })
    }

    pub(super) fn make(&self) -> Result<(), disk::Error> {
        self.last.make()?;
        self.freed.make()
    }

    /// Removes drafts.
    pub(super) fn sweep(&self) -> Result<(), disk::Error> {
        self.last.sweep()?;
        self.freed.sweep()
    }

    /// Reads what is known of earlier leases.
    pub(super) fn past(&self, number: usize, set: &RangeSet) -> Result<Past, disk::Error> {
        let last = self.last.read(&number.to_string())?.unwrap_or_default();
        let mut lines = str::from_utf8(&last).unwrap_or_default().lines();
        Ok(Past {
            last: lines.next().and_then(|line| line.parse().ok()),
            is_bare: lines.next().is_some_and(|line| line == set.to_string()),
            waiting: waiting_in(&self.freed.tail(&number.to_string(), READ)?),
        })
    }

    /// Remembers that an address was leased, unless the disk has no room for that. Two at once may leave the earlier one here;
    /// then the later one is merely found to be taken.
    pub(super) fn leased(&self, number: usize, set: &RangeSet, address: IpAddr, turn: Turn) {
        let last = match turn {
            Turn::Came => format!("{address}\n"),
            Turn::Waited => {
                self.note(number, &format!("+{address}\n"));
                format!("{address}\n{set}\n")
            }
        };
        let _ = self.last.replace(&number.to_string(), last.as_bytes());
    }

    /// Remembers that an address was freed, unless the disk has no room for that: it is freed all the same.
    pub(super) fn freed(&self, number: usize, address: IpAddr) {
        self.note(number, &format!("{address}\n"));
    }

    fn note(&self, number: usize, line: &str) {
        let name = number.to_string();
        let length = self.freed.append(&name, line.as_bytes());
        if length.is_ok_and(|length| length > MOST)
            && let Ok(tail) = self.freed.tail(&name, READ)
        {
            let _ = self.freed.replace(&name, &tail);
        }
    }
}

/// Replays what was freed and leased again. The first line may have lost its beginning; what it says then is of no harm.
fn waiting_in(log: &[u8]) -> Vec<IpAddr> {
    let mut freed: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for (place, line) in log.split(|byte| *byte == b'\n').enumerate() {
        let Ok(line) = str::from_utf8(line) else { continue };
        let (address, is_leased) = line.strip_prefix('+').map_or((line, false), |address| (address, true));
        match address.parse() {
            Ok(address) if is_leased => freed.remove(&address),
            Ok(address) => freed.insert(address, place),
            Err(_) => None,
        };
    }
    let mut in_order: Vec<(usize, IpAddr)> =
        freed.into_iter().map(|(address, place)| (place, address)).collect();
    in_order.sort_unstable();
    in_order.into_iter().map(|(_, address)| address).collect()
}

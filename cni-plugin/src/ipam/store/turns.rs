//! Whose turn it is, kept from one process to the next: the address leased last, and those freed of late.
//!
//! Only a few are ever read, so leases cost the same however many there were. With ranges of up to some 250 addresses the
//! order of their turns is exact; of larger ones, an address waits until a few hundred others have been freed. Losing any of
//! this harms no lease.

use std::net::IpAddr;

use dataplane::disk::{self, Directory};

/// How much is read of what was freed: 512 lines with the longest IPv4 address.
const READ: u64 = 8 << 10;

/// When the file is cut down to what is read of it.
const MOST: u64 = 64 << 10;

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

    /// Reads which address was leased last.
    pub(super) fn last(&self, set: usize) -> Result<Option<IpAddr>, disk::Error> {
        let last = self.last.read(&set.to_string())?;
        Ok(last.and_then(|text| str::from_utf8(&text).ok()?.trim().parse().ok()))
    }

    /// Remembers which address was leased last, unless the disk has no room for that. Two at once may leave the earlier one
    /// here; then the later one is merely found to be taken.
    pub(super) fn leased(&self, set: usize, address: IpAddr) {
        let _ = self.last.replace(&set.to_string(), address.to_string().as_bytes());
    }

    /// Reads which addresses were freed of late, the latest last.
    pub(super) fn freed_of_late(&self, set: usize) -> Result<Vec<IpAddr>, disk::Error> {
        let tail = self.freed.tail(&set.to_string(), READ)?;
        let lines = tail.split(|byte| *byte == b'\n');
        Ok(lines.filter_map(|line| str::from_utf8(line).ok()?.parse().ok()).collect())
    }

    /// Remembers that an address was freed, unless the disk has no room for that: it is freed all the same.
    pub(super) fn freed(&self, set: usize, address: IpAddr) {
        let name = set.to_string();
        let length = self.freed.append(&name, format!("{address}\n").as_bytes());
        if length.is_ok_and(|length| length > MOST)
            && let Ok(tail) = self.freed.tail(&name, READ)
        {
            let _ = self.freed.replace(&name, &tail);
        }
    }
}

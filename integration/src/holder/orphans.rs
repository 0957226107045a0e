//! Takes notice of processes that ended and that nobody else waits for: what a program of `lab exec` leaves behind becomes a child
//! of process 1, which is the holder.

use std::{collections::BTreeSet, fs};

use nix::{
    sys::wait::{WaitPidFlag, waitpid},
    unistd::Pid,
};

/// Lets go of all children that have ended but those that somebody here waits for.
pub(super) fn bury(awaited: &BTreeSet<u32>) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if !awaited.contains(&id)
            && let Ok(id) = id.try_into()
        {
            let _ = waitpid(Pid::from_raw(id), Some(WaitPidFlag::WNOHANG)); // no child, or one that runs
        }
    }
}

//! Processes that belong together.

use std::{io, os::unix::process::parent_id};

use nix::sys::{prctl::set_pdeathsig, signal::Signal};

/// Has the kernel kill this process when its parent ends, and says whether `parent` still is that. After a yes, nothing that this
/// process begins is begun later than that end.
pub fn end_with_parent(parent: u32) -> io::Result<bool> {
    set_pdeathsig(Signal::SIGKILL)?;
    Ok(parent_id() == parent) // who has lost its parent before has another now
}

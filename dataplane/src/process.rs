//! What a process asks of the kernel for itself.

use std::{fs, io, os::unix::process::parent_id};

use nix::sys::{prctl::set_pdeathsig, signal::Signal};

/// Has the kernel kill this process when its parent ends, and says whether `parent` still is that. After a yes, nothing that this
/// process begins is begun later than that end.
pub fn end_with_parent(parent: u32) -> io::Result<bool> {
    set_pdeathsig(Signal::SIGKILL)?;
    Ok(parent_id() == parent) // who has lost its parent before has another now
}

/// Tells the kernel how willingly to end this process where memory is short: -1000 (never) to 1000. To be ended less willingly than before
/// needs `CAP_SYS_RESOURCE`.
#[expect(clippy::disallowed_methods, reason = "it is the kernel's file, and there is nothing to lose in it")]
pub fn set_oom_score_adj(score: i32) -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", score.to_string())
}

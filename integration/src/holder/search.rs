//! Finds the holder in `/proc`, and sees it go.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};

use super::{Error, INSIDE, Request};
use crate::wait;

/// A holder that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    pid: i32,
}

impl Holder {
    /// Finds the holder of this user.
    pub fn find() -> Result<Self, Error> {
        Self::search().map_err(Error::Search)?.ok_or(Error::NotUp)
    }

    /// Makes sure that this user has none.
    pub fn require_none() -> Result<(), Error> {
        match Self::search().map_err(Error::Search)? {
            Some(holder) => Err(Error::IsUp(holder.pid)),
            None => Ok(()),
        }
    }

    fn search() -> io::Result<Option<Self>> {
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let is_own = entry.metadata().is_ok_and(|process| process.uid() == Uid::effective().as_raw());
            if is_own && is_holder(&entry.path()) {
                return Ok(Some(Self { pid }));
            }
        }
        Ok(None)
    }

    /// Ends it, and everything in its sandbox with it. Returns when it is gone.
    pub fn end(self) -> Result<(), Error> {
        if self.ask(&Request::Down).is_err() {
            // It does not listen; the kernel makes it, and all that it holds, go.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
        let gone = wait::until("the last process of the lab to end", || {
            if has_ended(self.pid) { Ok(()) } else { Err(format!("process {} runs", self.pid)) }
        });
        gone.map_err(Error::StillUp)
    }

    /// Its process id, as seen from outside.
    pub fn pid(self) -> i32 {
        self.pid
    }
}

/// Says whether a process is a holder: process 1 of a process namespace below ours, started as `fairway-lab inside … --stay`.
fn is_holder(process: &Path) -> bool {
    let command = fs::read(process.join("cmdline")).unwrap_or_default();
    let mut words = command.split(|byte| *byte == 0);
    let program = words.next().map(|word| String::from_utf8_lossy(word).into_owned()).unwrap_or_default();
    let is_lab = Path::new(&program).file_name().is_some_and(|name| name == "fairway-lab");
    let is_inside = words.next() == Some(INSIDE.as_bytes()) && words.any(|word| word == b"--stay");
    is_lab && is_inside && is_first_below(process)
}

/// Process 1 of a process namespace ends after all others in it. Then it is a zombie until its parent takes notice.
fn has_ended(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
    matches!(state, None | Some(None | Some('Z' | 'X')))
}

fn is_first_below(process: &Path) -> bool {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    let ids: Vec<&str> = ids.split_whitespace().collect();
    matches!(ids.as_slice(), [_, "1"])
}

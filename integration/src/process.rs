//! Programs that the lab starts: the plugin, the daemon, what runs in containers.

use std::{
    ffi::OsStr,
    io,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// Prepares the start of a program. It will run where the thread that starts it is.
#[expect(clippy::disallowed_methods, reason = "the lab is what starts processes")]
pub(crate) fn program(file: impl AsRef<OsStr>) -> Command {
    Command::new(file)
}

/// A program that runs until it is killed, at the latest when this handle goes, and with it what it has started.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        command.process_group(0).spawn().map(Self)
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    /// Ends it and its process group at once, and returns when it is gone.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        if self.0.try_wait()?.is_none() {
            let group = i32::try_from(self.id()).map_err(io::Error::other)?;
            killpg(Pid::from_raw(group), Signal::SIGKILL)?;
        }
        self.0.wait().map(|_| ())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill(); // gone already is as good
    }
}

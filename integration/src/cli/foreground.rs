//! Runs a program of the lab on the person's terminal, as a shell runs a job in the foreground.
//!
//! The program cannot share this process's group: seen from its own process namespace that group has no number, and a
//! shell without the number of its group does without job control.

use std::{
    io::{self, IsTerminal, stdin},
    os::unix::process::CommandExt,
    process::Command,
};

use nix::{
    sys::{
        signal::{SigSet, Signal, kill, raise},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getpgrp, tcsetpgrp},
};

use crate::sandbox;

/// Runs `command` to its end and returns its exit code: 128 + signal if one ended it. Ctrl-C and Ctrl-Z are for it alone.
pub(super) fn run(command: &mut Command) -> io::Result<u8> {
    if !stdin().is_terminal() {
        return command.status().map(sandbox::exit_code);
    }
    let child = command.process_group(0).spawn()?;
    let child = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    // One that is not in the foreground is stopped if it takes the terminal back, unless it holds this signal back.
    SigSet::from(Signal::SIGTTOU).thread_block()?;
    loop {
        tcsetpgrp(stdin(), child)?;
        kill(child, Signal::SIGCONT)?; // it may have asked for the terminal before it had it
        let status = waitpid(child, Some(WaitPidFlag::WUNTRACED));
        tcsetpgrp(stdin(), getpgrp())?;
        match status? {
            WaitStatus::Exited(_, code) => return Ok(u8::try_from(code).unwrap_or(1)),
            WaitStatus::Signaled(_, signal, _) => return Ok(u8::try_from(128 + signal as i32).unwrap_or(1)),
            // Stopped by Ctrl-Z: this one stops with it, and both go on together.
            _ => raise(Signal::SIGSTOP)?,
        }
    }
}

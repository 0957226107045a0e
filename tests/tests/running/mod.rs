//! A daemon that is running, and what it says.

#![allow(dead_code, reason = "each test program uses its part of it")]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use fairway_lab::binaries;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A daemon that is running, and what it says.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    lines: mpsc::Receiver<String>,
}

impl Daemon {
    pub(crate) fn run(program: &mut Command) -> Self {
        let mut child = program.stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// Waits until the daemon says something with `words` in it, and returns all it said until then.
    pub(crate) fn says(&self, words: &str) -> String {
        let mut said = String::new();
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(20));
            let line = line.unwrap_or_else(|_| panic!("it does not say {words:?}, but:\n{said}"));
            said += &line;
            said.push('\n');
            if line.contains(words) {
                return said;
            }
        }
    }

    /// Waits until it has ended, and returns what it still said and how it ended.
    pub(crate) fn ends(mut self) -> (String, ExitStatus) {
        let said = self.lines.iter().map(|line| line + "\n").collect();
        (said, self.child.wait().unwrap())
    }

    /// Sends a signal, and waits until it has ended.
    pub(crate) fn ends_by(self, signal: Signal) -> (String, ExitStatus) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        self.ends()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn program() -> Command {
    Command::new(&binaries::built().unwrap().fairway_proxy)
}

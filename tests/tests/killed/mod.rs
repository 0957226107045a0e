//! Kills the real program in the middle of a call: just before it asks the system for its n-th change.
//!
//! The program runs under `ptrace`, so it need not know. It is stopped at each system call; those that can change something, in
//! the kernel's network or on disk, are counted, and at the n-th it gets SIGKILL instead of an answer.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use fairway_lab::binaries;
use nix::{
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use serde_json::Value;

use crate::runtime::{Runtime, variables};

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Before its n-th change, as was wished.
    Killed,
    /// By itself: it asks for fewer changes than that.
    Finished(i32),
}

/// Calls the plugin, and kills it before its `n`-th change, counted from 1. Returns when other plugins that it has called have ended,
/// too: they are not killed, and have its stderr.
#[expect(clippy::zombie_processes, reason = "`watch` waits for it, and for its threads")]
pub(crate) fn kill_before(runtime: &Runtime, n: usize, verb: &str, container: &str, conf: &Value) -> End {
    runtime
        .host
        .run(|| {
            let mut child = Command::new(&binaries::built().unwrap().fairway)
                .env_clear()
                .envs(variables(verb, container, &format!("/run/netns/{container}")))
                .env("CNI_PATH", &runtime.path)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let program = Pid::from_raw(i32::try_from(child.id()).unwrap());
            // It waits for its configuration meanwhile.
            let options =
                Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
            ptrace::seize(program, options).unwrap();
            ptrace::interrupt(program).unwrap();
            child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
            let end = watch(program, n);
            child.stderr.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
            end
        })
        .unwrap()
}

/// Goes from system call to system call, in whatever thread, until the program has ended.
fn watch(program: Pid, n: usize) -> End {
    let (mut changes, mut is_killed) = (0, false);
    loop {
        // Only what this thread has started: other tests wait for theirs.
        let of_ours = WaitPidFlag::__WNOTHREAD | WaitPidFlag::__WALL;
        match waitpid(Pid::from_raw(-1), Some(of_ours)).unwrap() {
            WaitStatus::Exited(thread, code) if thread == program => return End::Finished(code),
            WaitStatus::Signaled(thread, signal, _) if thread == program => {
                assert_eq!((signal, is_killed), (Signal::SIGKILL, true));
                return End::Killed;
            }
            WaitStatus::PtraceSyscall(thread) => {
                changes += usize::from(begins_a_change(thread));
                if changes == n && !is_killed {
                    is_killed = true;
                    kill(program, Signal::SIGKILL).unwrap();
                } else {
                    go_on(thread, None);
                }
            }
            WaitStatus::Stopped(thread, signal) => go_on(thread, Some(signal)),
            WaitStatus::PtraceEvent(thread, ..) => go_on(thread, None),
            _ => {}
        }
    }
}

/// A thread that another one has ended meanwhile goes nowhere.
fn go_on(thread: Pid, signal: Option<Signal>) {
    let _ = ptrace::syscall(thread, signal);
}

const ENTRY: u8 = 1; // PTRACE_SYSCALL_INFO_ENTRY of <linux/ptrace.h>

#[cfg(target_arch = "x86_64")]
fn begins_a_change(thread: Pid) -> bool {
    let changes = [
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_write,
        libc::SYS_open,
        libc::SYS_openat,
        libc::SYS_link,
        libc::SYS_linkat,
        libc::SYS_rename,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_unlink,
        libc::SYS_unlinkat,
        libc::SYS_mkdir,
        libc::SYS_mkdirat,
    ];
    let is_entry = ptrace::syscall_info(thread).is_ok_and(|stop| stop.op == ENTRY);
    is_entry
        && ptrace::getregs(thread).is_ok_and(|registers| {
            changes.iter().any(|change| u64::try_from(*change) == Ok(registers.orig_rax))
        })
}

/// Elsewhere every system call counts: it takes longer, and shows the same.
#[cfg(not(target_arch = "x86_64"))]
fn begins_a_change(thread: Pid) -> bool {
    ptrace::syscall_info(thread).is_ok_and(|stop| stop.op == ENTRY)
}

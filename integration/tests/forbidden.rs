//! What a machine that forbids namespaces gets to read.
//!
//! This program plays that machine for others: started with `forbid PROGRAM …`, it becomes the program in a user namespace that
//! may have no namespaces in it.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and makes a place where programs run"
)]

use std::{
    env, fs,
    os::unix::process::CommandExt,
    process::{Command, ExitCode, Output},
};

use fairway_lab::binaries;
use nix::{
    sched::{CloneFlags, unshare},
    unistd::{getgid, getuid},
};

const FORBID: &str = "forbid";

/// Becomes a program that may make no namespaces. Returns only if that goes wrong.
fn become_forbidden(program: &[String]) -> std::io::Error {
    let (uid, gid) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER).unwrap();
    fs::write("/proc/self/setgroups", "deny").unwrap();
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).unwrap();
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).unwrap();
    for kind in ["user", "net"] {
        fs::write(format!("/proc/sys/user/max_{kind}_namespaces"), "0").unwrap(); // of this user namespace alone
    }
    let (file, arguments) = program.split_first().unwrap();
    Command::new(file).args(arguments).exec()
}

/// Runs a program where namespaces are forbidden, as if nothing were around it: no sandbox, no cargo.
fn forbidden(words: &[&str], required: bool) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.arg(FORBID).args(words);
    for name in ["FAIRWAY_SANDBOX", "FAIRWAY_REQUIRE_SANDBOX", "CARGO"] {
        command.env_remove(name);
    }
    if required {
        command.env("FAIRWAY_REQUIRE_SANDBOX", "1");
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fairway_lab::sandbox_tests! {
    fn the_lab_says_on_one_line_what_is_missing() {
        binaries::built().unwrap();

        for command in ["demo", "up"] {
            let output = forbidden(&[env!("CARGO_BIN_EXE_fairway-lab"), command], false);

            let said = text(&output.stderr);
            assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{said}");
            assert!(said.starts_with("lab: namespaces are not allowed here"), "{said}");
            assert!(said.contains("run as root, or allow unprivileged user namespaces"), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }

    fn tests_that_cannot_run_say_so_by_name() {
        let this = env::current_exe().unwrap();

        for (required, code) in [(false, 0), (true, 1)] {
            let output = forbidden(&[this.to_str().unwrap()], required);

            let (shown, said) = (text(&output.stdout), text(&output.stderr));
            assert_eq!(output.status.code(), Some(code), "{shown}{said}");
            assert!(said.starts_with("tests that need namespaces are skipped: namespaces are not allowed"), "{said}");
            for test in TESTS {
                let lines = shown.lines().filter(|line| line.contains(test.name) && line.ends_with("ignored"));
                assert_eq!(lines.count(), 1, "{shown}");
            }
            assert!(shown.contains("0 passed; 0 failed; 2 ignored"), "{shown}");
        }
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    if let Some((FORBID, program)) = words.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        eprintln!("{}", become_forbidden(program));
        return ExitCode::FAILURE;
    }
    fairway_lab::harness::run(&[TESTS])
}

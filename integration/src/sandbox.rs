//! The sandbox: where everything that touches a network runs.
//!
//! In: a program that has not started a thread yet. Out: the same program, as process 1 of fresh mount, network, process,
//! host-name and (without root) user namespaces, with its own `/run`, `/etc/cni`, `/opt/cni` and `/var/lib/fairway`.
//! The machine's own network is out of reach, and whatever happens, the kernel removes it all with process 1.
//!
//! ```text
//! program args…            outside: unshare, start itself again, wait, pass the exit code on
//!   └─ program args…       inside, process 1: furnish() and do the work; dies when the outer one dies
//! ```

use std::{
    env, fs, io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::{SigSet, Signal},
    },
    unistd::{Uid, getgid, getuid, sethostname},
};

/// Set in the environment of everything that runs inside.
const MARK: &str = "FAIRWAY_SANDBOX";

/// Where the machine's own directories are found once ours lie over them.
const HOST: &str = "/run/host";

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither root nor unprivileged user namespaces.
    #[error(
        "namespaces are not allowed here ({0}): run as root, or allow unprivileged user namespaces \
         (sysctl user.max_user_namespaces > 0, kernel.unprivileged_userns_clone = 1, \
         kernel.apparmor_restrict_unprivileged_userns = 0)"
    )]
    NotAllowed(io::Error),
    /// A mount inside the fresh mount namespace was refused.
    #[error("mount {what} in the sandbox")]
    Mount {
        /// The place it was meant for.
        what: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else that the set-up asks of the system.
    #[error("{what}")]
    System {
        /// The step.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}

/// Whether the outer program waits for the inner one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// The inner one ends with the outer one (Ctrl-C cleans up).
    Lifelong,
    /// The inner one stays (`lab up`).
    Loose,
}

/// Says whether this program already runs inside.
#[expect(clippy::disallowed_methods, reason = "the mark that separates inside from outside")]
pub fn is_inside() -> bool {
    env::var_os(MARK).is_some()
}

/// Prepares the start of this same program, with `args`, as process 1 of a sandbox. Call it before any thread is started:
/// the kernel gives a user namespace to single-threaded programs only. From here on the caller's children are inside.
#[expect(
    clippy::disallowed_methods,
    reason = "the sandbox is made of namespaces and of this program once more"
)]
pub fn inner(args: impl IntoIterator<Item = std::ffi::OsString>, tie: Tie) -> Result<Command, Error> {
    let rest = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    let as_root = Uid::effective().is_root() && unshare(rest).is_ok();
    if !as_root {
        let (uid, gid) = (getuid(), getgid());
        let own_user = unshare(CloneFlags::CLONE_NEWUSER).map_err(io::Error::from).and_then(|()| {
            fs::write("/proc/self/setgroups", "deny")?; // user_namespaces(7): before gid_map
            fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
            fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
            unshare(rest).map_err(io::Error::from)
        });
        own_user.map_err(Error::NotAllowed)?;
    }

    let program = env::current_exe().map_err(system("find this program's file"))?;
    let mut command = Command::new(program);
    command.args(args).env(MARK, if tie == Tie::Lifelong { "lifelong" } else { "loose" });
    command.env("TMPDIR", "/run/tmp");
    if tie == Tie::Lifelong {
        command.process_group(0); // the terminal's Ctrl-C is for the outer program, which ends this one as a whole
    }
    Ok(command)
}

/// Runs this same program, with the same arguments, inside a sandbox, and returns how it ended.
pub fn run_inside() -> Result<ExitStatus, Error> {
    let mut command = inner(env::args_os().skip(1), Tie::Lifelong)?;
    attend(command.stdin(Stdio::inherit()))
}

/// Runs what [`inner`] prepared, and returns how it ended. A signal that would end this program, such as Ctrl-C, ends the
/// sandbox instead: when this program goes, all that was in the sandbox is gone, and it counts as ended by that signal.
pub fn attend(command: &mut Command) -> Result<ExitStatus, Error> {
    let ends = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    let awaited: SigSet = ends.into_iter().chain([Signal::SIGCHLD]).collect();
    // Held back before there is anything to end. No thread can wait for them: none may be started after `inner`.
    awaited.thread_block().map_err(|e| system("hold signals back")(e.into()))?;
    let mut process = command.spawn().map_err(system("start process 1 of the sandbox"))?;
    loop {
        let signal = awaited.wait().map_err(|e| system("wait for a signal")(e.into()))?;
        if ends.contains(&signal) {
            process.kill().map_err(system("end process 1 of the sandbox"))?;
            process.wait().map_err(system("wait for process 1 of the sandbox"))?;
            return Ok(ExitStatus::from_raw(signal as i32)); // not that of the means
        }
        if let Some(status) = process.try_wait().map_err(system("wait for process 1 of the sandbox"))? {
            return Ok(status);
        }
    }
}

/// The exit code to pass on: that of the inner program, or 128 + signal as shells say it.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// Makes the inside habitable: own mounts, own process list, own places for all that Fairway keeps.
/// Call it first thing inside.
#[expect(clippy::disallowed_methods, reason = "reads the mark that the outer program set")]
pub fn furnish() -> Result<(), Error> {
    SigSet::all().thread_unblock().map_err(|e| system("let signals through")(e.into()))?;
    if env::var_os(MARK).is_some_and(|tie| tie == "lifelong") {
        prctl::set_pdeathsig(Signal::SIGKILL)
            .map_err(|e| system("tie the sandbox to its parent")(e.into()))?;
    }
    mount_at("/", None, None, MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    mount_at("/proc", Some("proc"), Some("proc"), MsFlags::empty())?;
    tmpfs(Path::new("/run"))?;
    for dir in ["/run/tmp", "/run/netns", "/run/fairway", "/run/lab", HOST] {
        fs::create_dir_all(dir).map_err(system("make a directory in /run"))?;
    }
    for (dir, ours) in [("/etc", "cni/net.d"), ("/opt", "cni/bin"), ("/var/lib", "fairway")] {
        lay_over(Path::new(dir), Path::new(ours))?;
    }
    sethostname("lab").map_err(|e| system("set the host name")(e.into()))
}

/// Covers `dir` with an empty one that links to every entry of the covered one but the first part of `ours`, and has `ours`.
fn lay_over(dir: &Path, ours: &Path) -> Result<(), Error> {
    let covered = Path::new(HOST).join(dir.strip_prefix("/").unwrap_or(dir));
    if dir.is_dir() {
        fs::create_dir_all(&covered).map_err(system("make a directory in /run/host"))?;
        bind(dir, &covered)?;
        tmpfs(dir)?;
        let own = ours.components().next().map(|c| c.as_os_str().to_owned());
        for entry in fs::read_dir(&covered).map_err(system("list a covered directory"))? {
            let name = entry.map_err(system("list a covered directory"))?.file_name();
            if Some(&name) != own.as_ref() {
                std::os::unix::fs::symlink(covered.join(&name), dir.join(&name))
                    .map_err(system("link to a covered entry"))?;
            }
        }
    }
    fs::create_dir_all(dir.join(ours)).map_err(system("make a directory of ours"))
}

/// Mounts an empty file system in memory over `dir`.
pub(crate) fn tmpfs(dir: &Path) -> Result<(), Error> {
    mount_at(dir, Some("fairway"), Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV)
}

/// Shows `from` at `to` as well.
pub(crate) fn bind(from: &Path, to: &Path) -> Result<(), Error> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| Error::Mount { what: to.into(), source: e.into() })
}

fn mount_at(
    target: impl AsRef<Path>,
    source: Option<&str>,
    kind: Option<&str>,
    flags: MsFlags,
) -> Result<(), Error> {
    let target = target.as_ref();
    mount(source, target, kind, flags, None::<&str>)
        .map_err(|e| Error::Mount { what: target.into(), source: e.into() })
}

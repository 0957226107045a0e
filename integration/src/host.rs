//! A host: a machine of the lab, as namespaces.
//!
//! In: a name. Out: a handle that runs functions, and so starts processes, as if on that machine: its own network,
//! host name, `/run/netns`, `/run/fairway`, `/etc/cni` and `/var/lib/fairway`. Works inside a [`crate::sandbox`] only.
//! It goes away with the handle and the processes in it.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::{Path, PathBuf},
};

use dataplane::netns::on_own_thread;
use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::sethostname,
};

use crate::sandbox;

/// Why a host could not be made or entered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step of making or entering it.
    #[error("{step} of host {host}")]
    Step {
        /// The host's name.
        host: String,
        /// What was asked of the system.
        step: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A mount of its own places.
    #[error("furnish host {host}")]
    Mount {
        /// The host's name.
        host: String,
        /// Which one, and what the system said.
        source: sandbox::Error,
    },
}

/// The places that each host has for itself.
const OWN_PLACES: [&str; 5] = ["/run/netns", "/run/fairway", "/run/lab", "/etc/cni", "/var/lib/fairway"];

/// A machine of the lab.
#[derive(Debug)]
pub struct Host {
    name: String,
    net: File,
    mnt: File,
    uts: File,
}

impl Host {
    /// Makes a host with nothing on it but a loopback link that is down.
    #[expect(clippy::disallowed_methods, reason = "a host is made of namespaces")]
    pub fn make(name: &str) -> Result<Self, Error> {
        let step = |step| move |source: io::Error| Error::Step { host: name.to_owned(), step, source };
        on_own_thread(|| {
            let own = CloneFlags::CLONE_FS
                | CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWUTS;
            unshare(own).map_err(|e| step("make the namespaces")(e.into()))?;
            sethostname(name).map_err(|e| step("set the name")(e.into()))?;
            for place in OWN_PLACES {
                sandbox::tmpfs(Path::new(place))
                    .map_err(|source| Error::Mount { host: name.to_owned(), source })?;
            }
            fs::create_dir_all("/etc/cni/net.d").map_err(step("make /etc/cni/net.d"))?;
            let open = |kind| File::open(format!("/proc/thread-self/ns/{kind}"));
            Ok(Self {
                name: name.to_owned(),
                net: open("net").map_err(step("open the network namespace"))?,
                mnt: open("mnt").map_err(step("open the mount namespace"))?,
                uts: open("uts").map_err(step("open the name's namespace"))?,
            })
        })
    }

    /// Runs `work` on a new thread of this host and returns what it returned. Processes that it starts are the host's.
    #[expect(clippy::disallowed_methods, reason = "a host is entered here and nowhere else")]
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let step = |step| {
            move |errno: nix::Error| Error::Step { host: self.name.clone(), step, source: errno.into() }
        };
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_FS).map_err(step("unshare the working directory"))?;
            setns(self.net.as_fd(), CloneFlags::CLONE_NEWNET).map_err(step("enter the network namespace"))?;
            setns(self.uts.as_fd(), CloneFlags::CLONE_NEWUTS).map_err(step("enter the name's namespace"))?;
            setns(self.mnt.as_fd(), CloneFlags::CLONE_NEWNS).map_err(step("enter the mount namespace"))?;
            Ok(work())
        })
    }

    /// Makes a network namespace on this host and binds it to `/run/netns/<name>`, as container runtimes do.
    #[expect(clippy::disallowed_methods, reason = "plays the container runtime")]
    pub fn make_netns(&self, name: &str) -> Result<PathBuf, Error> {
        let path = Path::new("/run/netns").join(name);
        let made = self.run(|| {
            File::create(&path)?;
            unshare(CloneFlags::CLONE_NEWNET)?;
            sandbox::bind(Path::new("/proc/thread-self/ns/net"), &path).map_err(io::Error::other)
        })?;
        made.map_err(|source| Error::Step {
            host: self.name.clone(),
            step: "make a pod's network namespace",
            source,
        })?;
        Ok(path)
    }

    /// Unbinds a network namespace made by [`Host::make_netns`] and removes its file.
    pub fn remove_netns(&self, name: &str) -> Result<(), Error> {
        let path = Path::new("/run/netns").join(name);
        let removed = self.run(|| {
            nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH)?;
            fs::remove_file(&path)
        })?;
        removed.map_err(|source| Error::Step {
            host: self.name.clone(),
            step: "remove a pod's network namespace",
            source,
        })
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network, mount and host-name namespaces, as descriptors of this process: for other processes to enter.
    pub fn descriptors(&self) -> (RawFd, RawFd, RawFd) {
        (self.net.as_raw_fd(), self.mnt.as_raw_fd(), self.uts.as_raw_fd())
    }

    /// The host's network namespace as a path that any process of the sandbox can open while this handle lives.
    pub fn netns_path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd()).into()
    }
}

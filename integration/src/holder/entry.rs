//! Goes into a place of a lab that another process holds.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, RawFd},
        unix::fs::MetadataExt,
    },
};

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use super::{Error, Holder};

/// The namespaces of a place, as file descriptors of the holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Network.
    pub net: RawFd,
    /// Mounts.
    pub mnt: RawFd,
    /// Host name.
    pub uts: RawFd,
}

impl Holder {
    /// Moves this process there. Programs that it starts from now on are processes of the lab; call it before any thread is
    /// started, because the kernel lets only single-threaded programs change their user namespace.
    #[expect(clippy::disallowed_methods, reason = "a command goes where the person who typed it wants")]
    pub fn enter(self, namespaces: &Namespaces) -> Result<(), Error> {
        let opened = |what: &str| {
            let file = File::open(format!("/proc/{}/{what}", self.pid()));
            file.map_err(|source| Error::Enter { what: what.to_owned(), source })
        };
        // Everything is opened first: once inside, another /proc is seen.
        let user = opened("ns/user")?;
        let others = [
            ("ns/pid".to_owned(), CloneFlags::CLONE_NEWPID),
            (format!("fd/{}", namespaces.net), CloneFlags::CLONE_NEWNET),
            (format!("fd/{}", namespaces.uts), CloneFlags::CLONE_NEWUTS),
            (format!("fd/{}", namespaces.mnt), CloneFlags::CLONE_NEWNS),
        ];
        let others = others.map(|(what, kind)| opened(&what).map(|file| (what, file, kind)));

        let entered = |what: &str, file: &File, kind| {
            setns(file.as_fd(), kind)
                .map_err(|errno| Error::Enter { what: what.to_owned(), source: errno.into() })
        };
        let is_own = is_own_user_namespace(&user);
        if !is_own.map_err(|source| Error::Enter { what: "ns/user".into(), source })? {
            entered("ns/user", &user, CloneFlags::CLONE_NEWUSER)?;
        }
        for other in others {
            let (what, file, kind) = other?;
            entered(&what, &file, kind)?;
        }
        Ok(())
    }
}

/// The kernel refuses to enter the user namespace that one is in.
fn is_own_user_namespace(other: &File) -> io::Result<bool> {
    let own = File::open("/proc/self/ns/user")?.metadata()?;
    let other = other.metadata()?;
    Ok((own.dev(), own.ino()) == (other.dev(), other.ino()))
}

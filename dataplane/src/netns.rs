//! Network namespaces: the only place that enters one.
//!
//! In: a path or nothing. Out: a handle that keeps the namespace alive and can run a function inside it, on a thread
//! of its own, so that no caller's thread ever ends up in the wrong namespace. A socket opened inside stays inside:
//! open it here, use it from anywhere.

use std::{
    fs::{File, TryLockError},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

use nix::{
    fcntl::OFlag,
    sched::{CloneFlags, setns, unshare},
};

/// The calling thread's own namespace, as a path.
const OWN: &str = "/proc/thread-self/ns/net";

/// Why a network namespace could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path does not lead to a namespace.
    #[error("open network namespace {path}")]
    Open {
        /// The path that was tried.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path exists, but is something else.
    #[error("{path} is not a network namespace")]
    NotANamespace {
        /// The path that was tried.
        path: PathBuf,
    },
    /// The kernel refused a new namespace.
    #[error("make a network namespace (needs CAP_SYS_ADMIN)")]
    Make(#[source] io::Error),
    /// The kernel refused to let this thread in.
    #[error("enter network namespace {path} (needs CAP_SYS_ADMIN)")]
    Enter {
        /// Where the namespace was opened from.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Says whether the namespace is simply not there (any more).
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Open { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::NotANamespace { .. } => true, // the mount is gone, the file it lay on is left
            Self::Make(_) | Self::Enter { .. } => false,
        }
    }
}

/// A network namespace, kept alive while this handle lives.
#[derive(Debug)]
pub struct Netns {
    handle: File,
    path: PathBuf,
}

impl Netns {
    /// Opens the namespace bound to, or found at, `path`.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        // Whatever the path leads to, opening it must not wait for anybody.
        match File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path) {
            // setns would refuse an ordinary file too, but only once inside the thread.
            Ok(handle) if is_namespace(&handle) => Ok(Self { handle, path }),
            Ok(_) => Err(Error::NotANamespace { path }),
            Err(source) => Err(Error::Open { path, source }),
        }
    }

    /// Opens the namespace of the calling thread.
    pub fn current() -> Result<Self, Error> {
        Self::open(OWN)
    }

    /// Makes a namespace without a name; it goes away with the last handle, process and socket in it.
    #[expect(clippy::disallowed_methods, reason = "this module makes namespaces")]
    pub fn make() -> Result<Self, Error> {
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Make(errno.into()))?;
            Self::current()
        })
    }

    /// Runs `work` on a new thread inside this namespace and returns what it returned.
    #[expect(clippy::disallowed_methods, reason = "this module enters namespaces")]
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_own_thread(|| {
            setns(self.handle.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::Enter { path: self.path.clone(), source: errno.into() })?;
            Ok(work())
        })
    }

    /// The inode that tells this namespace from every other one that lives.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.handle.metadata()?.ino())
    }

    /// Waits until nobody else holds this namespace, and holds it until this handle is gone. Another handle of the same
    /// namespace is the same to it, wherever that was opened.
    pub fn hold(&self) -> io::Result<()> {
        self.handle.lock()
    }

    /// Holds this namespace as [`Netns::hold`] does, unless somebody else does, and says whether it does.
    pub fn try_hold(&self) -> io::Result<bool> {
        match self.handle.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Something that keeps this namespace, and holds it if this handle does: to be given to another process.
    pub fn keeper(&self) -> io::Result<OwnedFd> {
        self.handle.try_clone().map(OwnedFd::from)
    }

    /// Where the namespace was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.handle.as_raw_fd()
    }
}

/// Namespaces are files of the kernel's own, without the types that a file system gives.
fn is_namespace(file: &File) -> bool {
    let plain = file.metadata().is_ok_and(|m| m.file_type().is_file() || m.file_type().is_char_device());
    plain
        && nix::sys::statfs::fstatfs(file)
            .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

/// Runs `work` on a thread that ends with it: what the thread entered, nobody else inherits.
pub fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

//! The kernel parameter `route_localnet`, without which packets from 127.0.0.1 leave the node for nowhere.
//!
//! In: the run directory. Out: the parameter at 1, and a file that says what it was before, so that it can be put back. It was somebody else
//! who set it if there is no such file: then it is left alone. The file is written first: a crash in between changes nothing.
//!
//! Set, it lets in packets for 127.0.0.1 from the network, too (CVE-2020-8558): only a rule keeps them out then. So set it after
//! that rule is there, and put it back before the rule goes.

use std::path::PathBuf;

use dataplane::{
    disk::{self, Directory, Durability},
    sysctl,
};

/// For all links: the kernel asks whether this or the link's own is set (`include/linux/inetdevice.h`, `IN_DEV_ROUTE_LOCALNET`).
const KEY: &str = "net/ipv4/conf/all/route_localnet";

/// What the parameter was.
const FILE: &str = "route_localnet";

/// Why the parameter could not be set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel or whoever mounted it refused.
    #[error("route to 127.0.0.1")]
    Sysctl(#[from] sysctl::Error),
    /// It cannot be remembered.
    #[error("remember what route_localnet was")]
    File(#[from] disk::Error),
}

/// The parameter of the calling thread's network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteLocalnet {
    run: Directory,
}

impl RouteLocalnet {
    /// Names the directory in which to remember what it was.
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self { run: Directory::new(run_dir, Durability::Volatile) }
    }

    /// Sets it, and says whether it had to.
    pub fn set(&self) -> Result<bool, Error> {
        let before = sysctl::read(KEY)?;
        if before == "1" {
            return Ok(false);
        }
        self.run.make()?;
        self.run.replace(FILE, before.as_bytes())?;
        let set = sysctl::set(KEY, "1");
        if set.is_err() {
            self.run.remove(FILE)?;
        }
        Ok(set.map(|()| true)?)
    }

    /// Puts it back where [`RouteLocalnet::set`] has set it, and says whether it had to.
    pub fn put_back(&self) -> Result<bool, Error> {
        let Some(before) = self.run.read(FILE)? else { return Ok(false) };
        let is_changed = sysctl::set_if_different(KEY, &String::from_utf8_lossy(&before))?;
        self.run.remove(FILE)?;
        Ok(is_changed)
    }
}

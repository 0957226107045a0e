//! The reference plugin host-local, where a node is switched over from it: what it has leased is read once, and never written.
//!
//! In: its directory. Out: whom it has given which addresses, as far as they may still be in use. It keeps a file for each address
//! that holds a container's id and its link; the library that runtimes call plugins with (libcni) keeps beside it what an ADD
//! answered, and thereby where the namespace is.
//!
//! ```text
//! /var/lib/cni/networks/<network>/<address>         "<container id>\r\n<link>"
//! /var/lib/cni/results/<network>-<container id>-<link>   { "result": { "interfaces": [{ "name": …, "sandbox": … }] } }
//! ```

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path, time::UNIX_EPOCH};

use dataplane::{
    disk::{self, Directory, Durability},
    netns::Netns,
};
use serde_json::Value;

use crate::request::Attachment;

/// Neither file is long.
const MOST: u64 = 1 << 20;

/// The link of records that are older than the second line.
const FIRST_LINK: &str = "eth0";

/// host-local's leases of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Predecessor {
    leases: Directory,
    results: Option<Directory>,
    network: String,
}

/// What an attachment has from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) attachment: Attachment,
    pub(super) addresses: Vec<IpAddr>,
    /// Where its namespace is, and the inode, where that is known.
    pub(super) netns: Option<(String, u64)>,
    /// Since when, in seconds since 1970.
    pub(super) since: u64,
}

impl Predecessor {
    /// Names its leases of a network; `data_dir` is its `dataDir`.
    pub(super) fn of(data_dir: &Path, network: &str) -> Result<Self, disk::Error> {
        let directory = |path: &Path| Directory::new(path, Durability::Volatile);
        Ok(Self {
            leases: directory(data_dir).directory(network)?,
            results: data_dir.parent().map(|parent| directory(&parent.join("results"))),
            network: network.to_owned(),
        })
    }

    /// Lists who may still have addresses: not those from before this boot began (in seconds since 1970), and not those whose
    /// namespace is known to be gone.
    pub(super) fn held(&self, booted: u64) -> Result<Vec<Held>, disk::Error> {
        let mut all: BTreeMap<Attachment, Held> = BTreeMap::new();
        for name in self.leases.names()? {
            let Ok(address) = name.parse::<IpAddr>() else { continue }; // its lock, and which came last
            let since = changed(&self.leases.path().join(&name));
            let Some(attachment) = owner_in(&self.leases.tail(&name, MOST)?) else { continue };
            let new = Held { attachment: attachment.clone(), addresses: Vec::new(), netns: None, since };
            all.entry(attachment).or_insert(new).addresses.push(address);
        }
        let mut held = Vec::new();
        for mut one in all.into_values() {
            if let Some(path) = self.netns_of(&one.attachment) {
                match Netns::open(&path).map(|netns| netns.inode()) {
                    Err(error) if error.is_not_found() => continue,
                    opened => one.netns = opened.ok().and_then(Result::ok).map(|inode| (path, inode)),
                }
            }
            // A namespace that is there is of this boot, whatever the clock was set to since.
            if one.netns.is_some() || one.since >= booted {
                held.push(one);
            }
        }
        Ok(held)
    }

    /// Where nothing can be read, nothing is known.
    fn netns_of(&self, attachment: &Attachment) -> Option<String> {
        let results = self.results.as_ref()?;
        let name = format!("{}-{}-{}", self.network, attachment.container_id(), attachment.ifname());
        let result: Option<Value> = serde_json::from_slice(&results.tail(&name, MOST).ok()?).ok();
        let interfaces = result.as_ref().and_then(|result| result.pointer("/result/interfaces")?.as_array());
        let of_pod = interfaces
            .into_iter()
            .flatten()
            .filter(|link| link.get("name").and_then(Value::as_str) == Some(attachment.ifname()));
        let mut sandboxes = of_pod.filter_map(|link| link.get("sandbox")?.as_str());
        sandboxes.find(|sandbox| !sandbox.is_empty()).map(str::to_owned)
    }
}

/// Whom a file is for; nobody if it is empty, as after a crash, or says nonsense.
fn owner_in(content: &[u8]) -> Option<Attachment> {
    let mut lines = str::from_utf8(content).ok()?.lines().map(str::trim);
    let (container, link) = (lines.next()?, lines.next().filter(|link| !link.is_empty()));
    Attachment::new(container, link.unwrap_or(FIRST_LINK)).ok()
}

/// When a file was written; never, as far as anybody cares, if that cannot be told.
fn changed(path: &Path) -> u64 {
    let changed = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    changed
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(u64::MAX, |since| since.as_secs())
}

/// When this boot began, in seconds since 1970; at the very beginning if that cannot be told.
pub(super) fn booted(now: u64) -> u64 {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let whole = uptime.split(['.', ' ']).next().and_then(|seconds| seconds.parse::<u64>().ok());
    whole.map_or(0, |uptime| now.saturating_sub(uptime))
}

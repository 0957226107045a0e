//! What the container runtime and the CNI plugin must know of this node.
//!
//! In: our own node and the network it is on. Out: two files, written whole and only if they differ:
//!
//! ```text
//! /run/fairway/node.json               {"mtu": 1500, "podCIDRs": ["10.244.1.0/24"]}     for the plugin
//! /etc/cni/net.d/10-fairway.conflist   makes the container runtime use the plugin
//! ```

use std::path::PathBuf;

use dataplane::{
    disk::{self, Directory, Durability},
    rtnl::{Address, Link},
};
use serde_json::{Value, json};

use crate::objects::Node;

/// The plugin's file, in the run directory.
pub const NODE_FILE: &str = "node.json";

/// The runtime's file, in its CNI directory.
pub const CONFLIST: &str = "10-fairway.conflist";

/// What it says.
const CONFLIST_TEXT: &str = include_str!("../../conf/10-fairway.conflist");

/// The largest packet where nothing is known of the node's links.
const ETHERNET_MTU: u32 = 1500;

/// Where the files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    run: Directory,
    cni: Directory,
    is_installed: bool,
}

/// Which files were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// The plugin's file.
    pub node: bool,
    /// The runtime's file.
    pub conflist: bool,
}

impl Files {
    /// Names the directories; whether the runtime's file is to be written is `is_installed`.
    pub fn new(run_dir: impl Into<PathBuf>, cni_conf_dir: impl Into<PathBuf>, is_installed: bool) -> Self {
        let run = Directory::new(run_dir, Durability::Volatile);
        Self { run, cni: Directory::new(cni_conf_dir, Durability::Durable), is_installed }
    }

    /// Writes what differs from what is there: first the plugin's file, then the one that makes the runtime call it.
    pub fn write(&self, node: &Node, mtu: u32) -> Result<Written, disk::Error> {
        self.run.make()?;
        let mut written = Written {
            node: replace(&self.run, NODE_FILE, &format!("{:#}\n", facts(node, mtu)))?,
            conflist: false,
        };
        // Without the directory there is no container runtime here that would read it.
        if self.is_installed && self.cni.path().is_dir() {
            written.conflist = replace(&self.cni, CONFLIST, CONFLIST_TEXT)?;
        }
        Ok(written)
    }

    /// Removes both files, the runtime's first.
    pub fn remove(&self) -> Result<(), disk::Error> {
        self.cni.remove(CONFLIST)?;
        self.run.remove(NODE_FILE)?;
        Ok(())
    }
}

fn replace(directory: &Directory, name: &str, content: &str) -> Result<bool, disk::Error> {
    let differs = directory.read(name)?.is_none_or(|known| known != content.as_bytes());
    if differs {
        directory.replace(name, content.as_bytes())?;
    }
    Ok(differs)
}

fn facts(node: &Node, mtu: u32) -> Value {
    json!({"podCIDRs": node.pod_cidrs, "mtu": mtu})
}

/// The largest packet on the link that the other nodes reach this one by.
pub fn mtu(node: &Node, addresses: &[Address], links: &[Link]) -> u32 {
    let address = addresses.iter().find(|address| node.internal_ips.contains(&address.network.ip()));
    let link = address.and_then(|address| links.iter().find(|link| link.index == address.link));
    link.map_or(ETHERNET_MTU, |link| link.mtu)
}

#[cfg(test)]
mod tests;

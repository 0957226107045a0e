//! What a lease's file holds.
//!
//! Fields that are not known to this release are ignored, and those that are not there yet have a default: leases outlive the
//! binary that wrote them.

use std::{
    fmt,
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{conf::PortMapping, request::Attachment, result::AddResult};

/// What is kept of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The container's id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The link's name in the container.
    pub ifname: String,
    /// Where the container's network namespace was.
    pub netns: String,
    /// Its inode, which tells it from a later one at the same place.
    pub netns_inode: u64,
    /// The boot in which all of this was so.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// The pod, where the runtime said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// One address of each range set.
    pub addresses: Vec<IpAddr>,
    /// Ports of the node that lead to the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// Whether what it sends to elsewhere is masqueraded, as far as that is not the daemon's to do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_masqueraded: bool,
    /// When the addresses were leased, in seconds since 1970.
    pub time: u64,
    /// The lease is host-local's, from before the node was switched over; another plugin has wired the pod.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_inherited: bool,
    /// What another plugin leased, where one does that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegated: Option<Delegated>,
}

/// Addresses that another plugin leased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegated {
    /// The plugin's name.
    #[serde(rename = "type")]
    pub name: String,
    /// What it answered.
    pub result: AddResult,
}

/// Who it is, for people.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pod) = &self.pod {
            write!(f, "pod {pod}, ")?;
        }
        write!(f, "container {}, link {}", self.container_id, self.ifname)
    }
}

impl Record {
    /// Says whether a network namespace with that inode is the container's.
    pub fn is_of(&self, inode: u64) -> bool {
        self.netns_inode == inode
    }

    /// Says whether both were made for the same container in the same boot, with the same host ports and masquerade.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let facts = |record: &Self| {
            (record.netns.clone(), record.netns_inode, record.boot_id.clone(), record.pod.clone())
        };
        facts(self) == facts(other)
            && self.port_mappings == other.port_mappings
            && self.is_masqueraded == other.is_masqueraded
    }

    /// A record for an attachment that has no addresses yet.
    pub fn of(attachment: &Attachment, now: SystemTime) -> Self {
        Self {
            container_id: attachment.container_id().to_owned(),
            ifname: attachment.ifname().to_owned(),
            netns: String::new(),
            netns_inode: 0,
            boot_id: String::new(),
            pod: None,
            addresses: Vec::new(),
            port_mappings: Vec::new(),
            is_masqueraded: false,
            time: now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            is_inherited: false,
            delegated: None,
        }
    }
}

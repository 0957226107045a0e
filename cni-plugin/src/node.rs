//! What the daemon knows of this node, as it leaves it for the plugin in `node.json` of the run directory.

use std::{net::IpAddr, path::PathBuf};

use dataplane::disk::{self, Directory};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::failure::{Code, Coded};

/// The file's name.
pub const FILE: &str = "node.json";

/// What the daemon knows of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The networks that pods of this node get their addresses from, one of each family at most.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNetwork>,
    /// The largest packet that reaches the other nodes whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// Why the node is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon has not written it.
    #[error(
        "{path} is not there yet: start fairway-proxy on this node (it writes the file once the node has a pod CIDR), \
         or set ipam.subnet in the network configuration"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The daemon does not know the pod CIDR either.
    #[error(
        "{path} has no pod CIDR yet: does the node have one (kubectl get node -o jsonpath={{.spec.podCIDRs}})?"
    )]
    NoPodCidr {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("read what the daemon knows of this node")]
    Read(#[source] disk::Error),
    /// It is not what it should be.
    #[error("decode {path}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
}

impl Coded for Error {
    fn code(&self) -> Code {
        match self {
            Self::Missing { .. } | Self::NoPodCidr { .. } => Code::TryAgainLater,
            Self::Read(_) => Code::InputOutput,
            Self::Decode { .. } => Code::Decode,
        }
    }
}

impl Node {
    /// Says whether an address is of the node's pod CIDRs.
    pub fn has(&self, address: IpAddr) -> bool {
        self.pod_cidrs.iter().any(|cidr| cidr.contains(address))
    }

    /// Reads the file in the run directory.
    pub fn read(run_dir: &Directory) -> Result<Self, Error> {
        let path = run_dir.path().join(FILE);
        let Some(content) = run_dir.read(FILE).map_err(Error::Read)? else {
            return Err(Error::Missing { path });
        };
        match serde_json::from_slice::<Self>(&content) {
            Ok(node) if node.pod_cidrs.is_empty() => Err(Error::NoPodCidr { path }),
            Ok(node) => Ok(node),
            Err(source) => Err(Error::Decode { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use dataplane::disk::Durability;

    use super::*;

    fn read(content: Option<&str>) -> Result<Node, Error> {
        let place = tempfile::tempdir().unwrap();
        let run_dir = Directory::new(place.path(), Durability::Volatile);
        if let Some(content) = content {
            run_dir.replace(FILE, content.as_bytes()).unwrap();
        }
        Node::read(&run_dir)
    }

    #[test]
    fn what_the_daemon_writes_is_read() {
        let node = Node { pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()], mtu: Some(1450) };
        let written = serde_json::to_string(&node).unwrap();

        assert_eq!(written, r#"{"podCIDRs":["10.244.1.0/24"],"mtu":1450}"#);
        assert_eq!(read(Some(&written)).unwrap(), node);
        assert_eq!(read(Some(r#"{"podCIDRs":["10.244.1.0/24"]}"#)).unwrap(), Node { mtu: None, ..node });
    }

    #[test]
    fn a_node_that_is_not_known_yet_is_worth_another_try_and_nonsense_is_not() {
        assert_eq!(read(None).unwrap_err().code(), Code::TryAgainLater);
        assert_eq!(read(Some(r#"{"podCIDRs":[]}"#)).unwrap_err().code(), Code::TryAgainLater);
        assert_eq!(read(Some("{")).unwrap_err().code(), Code::Decode);
    }
}

//! What the daemon knows of this node, as it leaves it for the plugin in `node.json` of the run directory.

use std::path::PathBuf;

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
            Self::Missing { .. } => Code::TryAgainLater,
            Self::Read(_) => Code::InputOutput,
            Self::Decode { .. } => Code::Decode,
        }
    }
}

impl Node {
    /// Reads the file in the run directory.
    pub fn read(run_dir: &Directory) -> Result<Self, Error> {
        let path = run_dir.path().join(FILE);
        match run_dir.read(FILE).map_err(Error::Read)? {
            Some(content) => {
                serde_json::from_slice(&content).map_err(|source| Error::Decode { path, source })
            }
            None => Err(Error::Missing { path }),
        }
    }
}

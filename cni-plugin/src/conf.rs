//! The network configuration, read from standard input.
//!
//! In: JSON as the runtime passes it. Out: what every verb needs ([`Network`]), and what ADD, CHECK and STATUS need beyond it
//! ([`Conf`]): DEL and GC work with whatever the rest has become meanwhile. Unknown keys are ignored, as the specification
//! asks; known ones that would change what a pod gets, and that the plugin does not honour, are an error.

mod addresses;
pub(crate) mod mode;
pub(crate) mod port_mappings;
pub mod resolv;

use std::{net::IpAddr, path::PathBuf};

pub use addresses::PodRoute;
pub(crate) use addresses::pod_route;
use dataplane::{claims, rtnl::Mac};
use ipnetwork::IpNetwork;
pub use port_mappings::PortMapping;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    bandwidth::{self, Bandwidth},
    failure::{Code, Coded},
    ipam::{self, RangeSet},
    request::is_identifier,
    result::AddResult,
    spec::{Incompatible, SpecVersion},
    tuning::{self, Tuning},
    wiring::bridge::Bridging,
};

/// Where leases are kept, unless the configuration says otherwise.
pub const RUN_DIR: &str = "/run/fairway";

/// The longest configuration that is read. No honest one comes near, with all attachments of a node in it for GC.
pub const MOST_BYTES: usize = 16 << 20;

/// What is kept beside the networks' directories, by the daemon or for all of them: no network can be called like that.
const NO_NETWORKS: [&str; 3] = [crate::node::FILE, "route_localnet", claims::DIRECTORY];

/// Where host-local keeps its leases, unless the configuration says otherwise.
const HOST_LOCAL: &str = "/var/lib/cni/networks";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No JSON object.
    #[error("decode the network configuration")]
    Decode(#[source] serde_json::Error),
    /// More than anybody has to say.
    #[error("the network configuration is longer than {MOST_BYTES} bytes")]
    TooLong,
    /// A key holds something else than it should.
    #[error("decode {key} of the network configuration")]
    Key {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Another version.
    #[error(transparent)]
    Version(#[from] Incompatible),
    /// The version does not know the verb.
    #[error("CNI {version} has no {verb}: it came with {since}")]
    Verb {
        /// The verb.
        verb: &'static str,
        /// The version of the configuration.
        version: SpecVersion,
        /// The first that has it.
        since: SpecVersion,
    },
    /// A key that must be there.
    #[error("{0} is missing in the network configuration")]
    Missing(&'static str),
    /// A name that cannot be one.
    #[error(
        "name {0:?}: at most 200 of a-z A-Z 0-9 _ . - and a letter or digit first, and not node.json, route_localnet or host-ports"
    )]
    Name(String),
    /// A run directory that depends on where the plugin is started.
    #[error("runDir {0:?}: must be an absolute path")]
    RunDir(PathBuf),
    /// A range that is none.
    #[error("ipam")]
    Ranges(#[from] ipam::Error),
    /// A bridge that could not be.
    #[error("bridge {0:?}: at most 15 bytes, without / : or space, and not . or ..")]
    Bridge(String),
    /// A hardware address that no link can have.
    #[error("mac {0:?}: six pairs of hexadecimal digits with colons between them, and no group's")]
    Mac(String),
    /// What is no address.
    #[error("{key}: {value:?} is no address")]
    Address {
        /// The key, with its parents.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// A route that leads nowhere.
    #[error("ipam.routes: {0}")]
    Route(String),
    /// A host port that cannot be.
    #[error("runtimeConfig.portMappings: {0}")]
    PortMapping(String),
    /// A key that we know and cannot honour.
    #[error("{key}={value}: {reason}")]
    Unsupported {
        /// The key, with its parents.
        key: String,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// A limit that is none.
    #[error("bandwidth")]
    Bandwidth(#[from] bandwidth::Error),
    /// What cannot be set.
    #[error("tuning")]
    Tuning(#[from] tuning::Error),
    /// The earlier result is no result.
    #[error("prevResult")]
    PrevResult(#[source] serde_json::Error),
}

impl Coded for Error {
    fn code(&self) -> Code {
        match self {
            Self::Decode(_) | Self::TooLong | Self::Key { .. } | Self::PrevResult(_) => Code::Decode,
            Self::Bandwidth(error) => error.code(),
            Self::Tuning(error) => error.code(),
            Self::Version(_) | Self::Verb { .. } => Code::IncompatibleVersion,
            Self::Unsupported { .. } => Code::UnsupportedField,
            Self::Missing(_)
            | Self::Name(_)
            | Self::RunDir(_)
            | Self::Ranges(_)
            | Self::Bridge(_)
            | Self::Mac(_)
            | Self::Address { .. }
            | Self::PortMapping(_)
            | Self::Route(_) => Code::InvalidConfiguration,
        }
    }
}

/// What every verb needs of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The version that the result is to be in.
    pub version: SpecVersion,
    /// The network's name: a directory in the run directory.
    pub name: String,
    /// Where leases are kept.
    pub run_dir: PathBuf,
    whole: Value,
}

impl Network {
    /// Reads a configuration.
    pub fn parse(stdin: &[u8]) -> Result<Self, Error> {
        if stdin.len() > MOST_BYTES {
            return Err(Error::TooLong);
        }
        let whole: Map<String, Value> = serde_json::from_slice(stdin).map_err(Error::Decode)?;
        let whole = Value::Object(whole);
        // Without a version it is of the first one. // SPEC "Version considerations"
        let version: Option<String> = key(&whole, "cniVersion")?;
        let version = version.unwrap_or_else(|| "0.1.0".to_owned()).parse()?;
        let name: String = key(&whole, "name")?.ok_or(Error::Missing("name"))?;
        if name.len() > 200 || !is_identifier(&name) || NO_NETWORKS.contains(&name.as_str()) {
            return Err(Error::Name(name));
        }
        let run_dir: PathBuf = key(&whole, "runDir")?.unwrap_or_else(|| RUN_DIR.into());
        if !run_dir.is_absolute() {
            return Err(Error::RunDir(run_dir));
        }
        Ok(Self { version, name, run_dir, whole })
    }

    /// Refuses a verb that the configuration's version does not know.
    pub fn require(&self, verb: &'static str, since: SpecVersion) -> Result<(), Error> {
        if self.version < since { Err(Error::Verb { verb, version: self.version, since }) } else { Ok(()) }
    }

    /// Says whether the loopback link is meant, and no other: the plugin is called as type `loopback`.
    pub fn is_loopback(&self) -> bool {
        self.whole.get("type").and_then(Value::as_str) == Some("loopback")
    }

    /// What the plugins before this one did, or, for CHECK, what ADD returned.
    pub fn prev_result(&self) -> Result<Option<AddResult>, Error> {
        let result: Option<Value> = key(&self.whole, "prevResult")?;
        result.map(AddResult::parse).transpose().map_err(Error::PrevResult)
    }

    /// The plugin that leases the addresses, if not this one.
    pub fn delegate(&self) -> Option<&str> {
        addresses::delegate(&self.whole)
    }

    /// The attachments that the runtime still knows, for GC. None at all is a valid answer; the key must be there, though:
    /// its absence is not taken for a wish to remove everything.
    pub fn valid_attachments(&self) -> Result<Vec<ValidAttachment>, Error> {
        const KEY: &str = "cni.dev/valid-attachments";
        match self.whole.get(KEY) {
            None => Err(Error::Missing(KEY)),
            Some(Value::Null) => Ok(Vec::new()), // how Go prints an empty list
            Some(_) => Ok(key(&self.whole, KEY)?.unwrap_or_default()),
        }
    }
}

/// An attachment, as the runtime lists it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct ValidAttachment {
    /// The container's id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The link's name in the container.
    pub ifname: String,
}

/// What ADD, CHECK and STATUS need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conf {
    /// What every verb needs.
    pub network: Network,
    /// The largest packet; otherwise what the daemon says, or Ethernet's.
    pub mtu: Option<u32>,
    /// The bridge that pods are plugged into; nothing where they are routed.
    pub bridging: Option<Bridging>,
    /// The hardware address that the pod's link must have.
    pub mac: Option<Mac>,
    /// How fast the pod may receive and send.
    pub bandwidth: Bandwidth,
    /// What the pod's namespace and link are set to.
    pub tuning: Tuning,
    /// Where addresses come from: one of each set. Nothing: from the daemon's pod CIDRs.
    pub ranges: Option<Vec<RangeSet>>,
    /// Addresses that the pod must get, or else nothing.
    pub requested: Vec<IpAddr>,
    /// Addresses that nobody gets who does not ask for them.
    pub reserved: Vec<IpNetwork>,
    /// The pod's routes; otherwise a default route for each family that it has an address of.
    pub routes: Option<Vec<PodRoute>>,
    /// Ports of the node that lead to the pod.
    pub port_mappings: Vec<PortMapping>,
    /// Whether what pods send to elsewhere than their network is masqueraded.
    pub is_masqueraded: bool,
    /// Name servers and such, passed on as they are.
    pub dns: Option<Value>,
    /// The file that name servers and such are read from, where `dns` is not there.
    pub resolv_conf: Option<PathBuf>,
    /// Where host-local's leases are, which are heeded when a node is switched over from it.
    pub host_local: PathBuf,
    /// What the plugins before this one did, or, for CHECK, what ADD returned.
    pub prev_result: Option<AddResult>,
}

impl Conf {
    /// Reads the rest of a configuration.
    pub fn parse(network: Network) -> Result<Self, Error> {
        let whole = &network.whole;
        let asked = addresses::parse(whole)?;
        let prev_result = network.prev_result()?;
        Ok(Self {
            bridging: mode::parse(whole)?,
            mac: mode::mac(whole)?,
            mtu: key(whole, "mtu")?.filter(|mtu| *mtu > 0),
            bandwidth: Bandwidth::parse(whole)?,
            tuning: Tuning::parse(whole)?,
            ranges: asked.ranges,
            requested: asked.requested,
            reserved: asked.reserved,
            resolv_conf: asked.resolv_conf,
            host_local: asked.data_dir.unwrap_or_else(|| HOST_LOCAL.into()),
            routes: asked.routes,
            port_mappings: port_mappings::parse(whole)?,
            is_masqueraded: mode::is_masqueraded(whole)?,
            dns: key(whole, "dns")?.filter(|dns| !is_empty(dns)),
            prev_result,
            network,
        })
    }
}

/// Reads a key; nothing if it is absent or null.
fn key<T: DeserializeOwned>(object: &Value, key: &'static str) -> Result<Option<T>, Error> {
    let value = object.get(key).cloned().unwrap_or_default();
    serde_json::from_value(value).map_err(|source| Error::Key { key, source })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Bool(_) => false,
    }
}

#[cfg(test)]
mod tests;

//! The network configuration, read from standard input.
//!
//! In: JSON as the runtime passes it. Out: what every verb needs ([`Network`]), and what ADD, CHECK and STATUS need beyond it
//! ([`Conf`]): DEL and GC work with whatever the rest has become meanwhile. Unknown keys are ignored, as the specification
//! asks; known ones that would change what a pod gets, and that the plugin does not honour, are an error.

pub(crate) mod mode;

use std::{net::IpAddr, path::PathBuf};

use dataplane::rtnl::Mac;
use ipnetwork::IpNetwork;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    failure::{Code, Coded},
    ipam::{self, Bounds, Range, RangeSet},
    request::is_identifier,
    result::AddResult,
    spec::{Incompatible, SpecVersion},
    wiring::bridge::Bridging,
};

/// Where leases are kept, unless the configuration says otherwise.
pub const RUN_DIR: &str = "/run/fairway";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No JSON object.
    #[error("decode the network configuration")]
    Decode(#[source] serde_json::Error),
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
    #[error("name {0:?}: at most 200 of a-z A-Z 0-9 _ . - and a letter or digit first")]
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
    /// A route that leads nowhere.
    #[error("ipam.routes: {0}")]
    Route(String),
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
    /// The earlier result is no result.
    #[error("prevResult")]
    PrevResult(#[source] serde_json::Error),
}

impl Coded for Error {
    fn code(&self) -> Code {
        match self {
            Self::Decode(_) | Self::Key { .. } | Self::PrevResult(_) => Code::Decode,
            Self::Version(_) | Self::Verb { .. } => Code::IncompatibleVersion,
            Self::Unsupported { .. } => Code::UnsupportedField,
            Self::Missing(_)
            | Self::Name(_)
            | Self::RunDir(_)
            | Self::Ranges(_)
            | Self::Bridge(_)
            | Self::Mac(_)
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
        let whole: Value = serde_json::from_slice(stdin).map_err(Error::Decode)?;
        // Without a version it is of the first one. // SPEC "Version considerations"
        let version: Option<String> = key(&whole, "cniVersion")?;
        let version = version.unwrap_or_else(|| "0.1.0".to_owned()).parse()?;
        let name: String = key(&whole, "name")?.ok_or(Error::Missing("name"))?;
        if name.len() > 200 || !is_identifier(&name) {
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
    /// Where addresses come from: one of each set. Nothing: from the daemon's pod CIDRs.
    pub ranges: Option<Vec<RangeSet>>,
    /// The pod's routes; otherwise a default route for each family that it has an address of.
    pub routes: Option<Vec<PodRoute>>,
    /// Name servers and such, passed on as they are.
    pub dns: Option<Value>,
    /// What the plugins before this one did, or, for CHECK, what ADD returned.
    pub prev_result: Option<AddResult>,
}

/// A route of the pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct PodRoute {
    /// Where to.
    pub dst: IpNetwork,
    /// Through whom; otherwise the gateway of the family.
    #[serde(default)]
    pub gw: Option<IpAddr>,
    /// The largest packet.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Which of several routes comes first.
    #[serde(default)]
    pub priority: Option<u32>,
}

/// Keys that would change what a pod gets. To go on without a word would be wrong.
const NOT_HONOURED: [(&str, &str); 5] = [
    ("runtimeConfig/portMappings", "host ports are not supported yet"),
    ("runtimeConfig/bandwidth", "bandwidth limits are not supported yet"),
    ("runtimeConfig/ipRanges", "set ipam.ranges instead"),
    ("runtimeConfig/ips", "the plugin chooses addresses itself"),
    ("args/cni/ips", "the plugin chooses addresses itself"),
];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ipam {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(flatten)]
    only: RawRange,
    ranges: Option<Vec<Vec<RawRange>>>,
    routes: Option<Vec<Value>>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRange {
    subnet: Option<IpNetwork>,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

impl Conf {
    /// Reads the rest of a configuration.
    pub fn parse(network: Network) -> Result<Self, Error> {
        let whole = &network.whole;
        for (path, reason) in NOT_HONOURED {
            let value = path.split('/').try_fold(whole, |value, key| value.get(key));
            if let Some(value) = value.filter(|value| !is_empty(value)) {
                return Err(Error::Unsupported {
                    key: path.replace('/', "."),
                    value: value.to_string(),
                    reason,
                });
            }
        }
        let ipam: Ipam = key(whole, "ipam")?.unwrap_or_default();
        if let Some(kind) = ipam.kind.filter(|kind| !kind.is_empty() && kind != "fairway") {
            let reason = "addresses are leased by fairway itself: leave it out";
            return Err(Error::Unsupported { key: "ipam.type".to_owned(), value: kind, reason });
        }
        let prev_result = network.prev_result()?;
        Ok(Self {
            bridging: mode::parse(whole)?,
            mac: mode::mac(whole)?,
            mtu: key(whole, "mtu")?.filter(|mtu| *mtu > 0),
            ranges: range_sets(ipam.only, ipam.ranges.unwrap_or_default())?,
            routes: ipam.routes.map(|routes| routes.into_iter().map(pod_route).collect()).transpose()?,
            dns: key(whole, "dns")?.filter(|dns| !is_empty(dns)),
            prev_result,
            network,
        })
    }
}

/// `subnet` and its companions beside `ranges` are a set of their own, and the first. // host-local does the same
fn range_sets(only: RawRange, sets: Vec<Vec<RawRange>>) -> Result<Option<Vec<RangeSet>>, Error> {
    let RawRange { subnet, range_start, range_end, gateway } = only;
    if subnet.is_none() && (range_start, range_end, gateway) != (None, None, None) {
        return Err(Error::Missing("ipam.subnet beside rangeStart, rangeEnd or gateway"));
    }
    let first = subnet.is_some().then(|| vec![only]);
    let mut all = Vec::new();
    for set in first.into_iter().chain(sets) {
        let ranges: Result<Vec<Range>, Error> = set.iter().map(range).collect();
        all.push(RangeSet::new(ranges?)?);
    }
    ipam::disjoint(all.iter().flat_map(RangeSet::ranges))?;
    Ok((!all.is_empty()).then_some(all))
}

fn range(raw: &RawRange) -> Result<Range, Error> {
    let subnet = raw.subnet.ok_or(Error::Missing("subnet of a range in ipam.ranges"))?;
    let bounds = Bounds { start: raw.range_start, end: raw.range_end, gateway: raw.gateway };
    Ok(Range::new(subnet, bounds)?)
}

fn pod_route(value: Value) -> Result<PodRoute, Error> {
    for field in ["advmss", "table", "scope"] {
        let wish = value.get(field).filter(|wish| !is_empty(wish));
        if let Some(wish) = wish {
            let (key, value) = (format!("ipam.routes.{field}"), wish.to_string());
            return Err(Error::Unsupported { key, value, reason: "only dst, gw, mtu and priority are" });
        }
    }
    let route: PodRoute =
        serde_json::from_value(value).map_err(|source| Error::Key { key: "ipam.routes", source })?;
    if route.dst.ip() != route.dst.network() {
        return Err(Error::Route(format!("{} has bits set beyond its prefix", route.dst)));
    }
    match route.gw {
        Some(gw) if gw.is_ipv4() != route.dst.is_ipv4() => {
            Err(Error::Route(format!("{} and its gateway {gw} are of different families", route.dst)))
        }
        _ => Ok(route),
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

//! What a configuration says of addresses: `ipam`, and what runtimes pass on for a single pod.
//!
//! In: the whole configuration. Out: ranges, addresses that are asked for, addresses that are kept back, routes. The keys are
//! those of the reference plugin host-local; `exclude` is whereabouts'.

use std::{net::IpAddr, path::PathBuf};

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::Value;

use super::{Error, is_empty, key};
use crate::ipam::{self, Bounds, Range, RangeSet};

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

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    pub(super) ranges: Option<Vec<RangeSet>>,
    pub(super) requested: Vec<IpAddr>,
    pub(super) reserved: Vec<IpNetwork>,
    pub(super) routes: Option<Vec<PodRoute>>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) resolv_conf: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ipam {
    #[serde(flatten)]
    only: RawRange,
    ranges: Option<Vec<Vec<RawRange>>>,
    routes: Option<Vec<Value>>,
    exclude: Option<Vec<String>>,
    data_dir: Option<PathBuf>,
    resolv_conf: Option<PathBuf>,
}

/// What the runtime passes on for a single pod.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeConfig {
    ips: Option<Vec<String>>,
    ip_ranges: Option<Vec<Vec<RawRange>>>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRange {
    subnet: Option<IpNetwork>,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

/// Which plugin leases the addresses, if not this one. Whatever else `ipam` may be, this can be asked.
pub(super) fn delegate(whole: &Value) -> Option<&str> {
    let name = whole.pointer("/ipam/type").and_then(Value::as_str);
    name.filter(|name| !name.is_empty() && *name != "fairway")
}

/// Reads what concerns addresses.
pub(super) fn parse(whole: &Value) -> Result<Addresses, Error> {
    if delegate(whole).is_some() {
        return Ok(Addresses::default()); // all of it is the other plugin's to read
    }
    let ipam: Ipam = key(whole, "ipam")?.unwrap_or_default();
    let runtime: RuntimeConfig = key(whole, "runtimeConfig")?.unwrap_or_default();
    let from_args: Option<Vec<String>> = match whole.pointer("/args/cni") {
        Some(args) => key(args, "ips")?,
        None => None,
    };
    let requested = from_args.into_iter().flatten().map(|text| address("args.cni.ips", text));
    let from_runtime = runtime.ips.into_iter().flatten().map(|text| address("runtimeConfig.ips", text));
    let reserved = ipam
        .exclude
        .into_iter()
        .flatten()
        .map(|text| text.parse().map_err(|_| Error::Address { key: "ipam.exclude", value: text }));
    Ok(Addresses {
        ranges: range_sets(
            runtime.ip_ranges.unwrap_or_default(),
            ipam.only,
            ipam.ranges.unwrap_or_default(),
        )?,
        requested: requested.chain(from_runtime).collect::<Result<_, _>>()?,
        reserved: reserved.collect::<Result<_, _>>()?,
        data_dir: ipam.data_dir,
        resolv_conf: ipam.resolv_conf.filter(|path| !path.as_os_str().is_empty()),
        routes: ipam.routes.map(|routes| routes.into_iter().map(pod_route).collect()).transpose()?,
    })
}

/// Runtimes pass addresses with or without the length of their prefix, which is the range's to say.
fn address(key: &'static str, text: String) -> Result<IpAddr, Error> {
    ipam::address_in(&text).ok_or(Error::Address { key, value: text })
}

/// The runtime's ranges come first, then `subnet` with its companions as a set of its own. // host-local `LoadIPAMConfig`
fn range_sets(
    from_runtime: Vec<Vec<RawRange>>,
    only: RawRange,
    sets: Vec<Vec<RawRange>>,
) -> Result<Option<Vec<RangeSet>>, Error> {
    let RawRange { subnet, range_start, range_end, gateway } = only;
    if subnet.is_none() && (range_start, range_end, gateway) != (None, None, None) {
        return Err(Error::Missing("ipam.subnet beside rangeStart, rangeEnd or gateway"));
    }
    let second = subnet.is_some().then(|| vec![only]);
    let mut all = Vec::new();
    for set in from_runtime.into_iter().chain(second).chain(sets) {
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

/// Reads a route of a pod.
pub(crate) fn pod_route(value: Value) -> Result<PodRoute, Error> {
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

//! What of the tables counts new connections.

use dataplane::nft::SetType;

use super::{external, layout, masquerade, settings::Settings};

/// What elements of a map stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Addresses of services, of this sort.
    Addresses(&'static str),
    /// Backends.
    Backends,
}

/// The chains whose rules masquerade, and why they do, counting rule by counting rule: the connection would not come back, it comes
/// back to who began it, or it leaves for where nobody knows pods.
pub const MASQUERADE: [(&str, &[&str]); 2] =
    [(masquerade::POSTROUTING, &["marked", "hairpin"]), (masquerade::LEAVING_PODS, &["outside"])];
/// The chain that leads to backends. What it counts was led to none.
pub const PICKING: &str = layout::PICK;

/// The maps whose elements count, with their kinds: none, where that is switched off.
pub fn maps(settings: &Settings) -> impl Iterator<Item = (Use, &'static str, SetType)> + use<> {
    let kinds = layout::maps(settings);
    let counting = [
        (Use::Addresses("cluster-ip"), layout::CLUSTER_VIPS),
        (Use::Addresses("external-ip"), external::EXTERNAL_VIPS),
        (Use::Addresses("node-port"), layout::NODE_PORTS),
        (Use::Backends, layout::SLOTS),
    ];
    counting
        .into_iter()
        .filter_map(move |(usage, map)| Some((usage, map, *kinds.get(map)?)))
        .filter(|(_, _, kind)| kind.counter)
}

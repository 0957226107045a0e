//! How pods are wired: `mode`, and what the reference plugin bridge knows besides.
//!
//! In: the whole configuration. Out: routed, or a bridge with all that is to be said of it. What a bridge has and routes have not
//! is refused where pods are routed; what would be wrong to ignore is refused in any case.

use dataplane::rtnl::{Mac, Port};
use serde_json::Value;

use super::{Error, key};
use crate::{
    request::is_link_name,
    wiring::bridge::{Bridging, Role},
};

/// The bridge's name, unless the configuration says another: the reference plugin's.
const BRIDGE: &str = "cni0";

/// What only bridges have.
const OF_BRIDGES: [&str; 7] =
    ["bridge", "vlan", "vlanTrunk", "macspoofchk", "portIsolation", "promiscMode", "enabledad"];

/// Keys of the reference plugin bridge that would change what a pod gets.
const NOT_HONOURED: [(&str, &str); 3] = [
    ("disableContainerInterface", "a pod's link is set up"),
    ("vlan", "the VLANs of a bridge are not supported: plug pods into a bridge of one VLAN"),
    ("vlanTrunk", "the VLANs of a bridge are not supported: plug pods into a bridge of one VLAN"),
];

/// Finds the bridge that pods are plugged into; nothing where they are routed.
pub(super) fn parse(whole: &Value) -> Result<Option<Bridging>, Error> {
    refuse(whole, &NOT_HONOURED)?;
    let mode: Option<String> = key(whole, "mode")?;
    let kind: Option<String> = key(whole, "type")?;
    match mode.as_deref().or(kind.as_deref().filter(|kind| *kind == "bridge")) {
        Some("bridge") => bridging(whole).map(Some),
        None | Some("" | "routed") => {
            let elsewhere = "only bridges have it: set mode to bridge, or leave it out";
            refuse(whole, &OF_BRIDGES.map(|key| (key, elsewhere))).map(|()| None)
        }
        Some(other) => Err(unsupported("mode", &other.into(), "routed or bridge")),
    }
}

fn bridging(whole: &Value) -> Result<Bridging, Error> {
    let flag = |name| key::<bool>(whole, name).map(Option::unwrap_or_default);
    let bridge: Option<String> = key(whole, "bridge")?;
    let bridge = bridge.filter(|name| !name.is_empty()).unwrap_or_else(|| BRIDGE.to_owned());
    if !is_link_name(&bridge) {
        return Err(Error::Bridge(bridge));
    }
    let role = match (flag("isDefaultGateway")?, flag("isGateway")?) {
        (true, _) => Role::DefaultGateway,
        (false, true) => Role::Gateway,
        (false, false) => Role::Switch,
    };
    let is_promiscuous = flag("promiscMode")?;
    let port = Port {
        hairpin: flag("hairpinMode")?,
        isolated: flag("portIsolation")?,
        locked: flag("macspoofchk")?,
    };
    if is_promiscuous && port.hairpin {
        let reason = "hairpinMode is set too, and does what promiscMode is for: leave one out";
        return Err(unsupported("promiscMode", &true.into(), reason));
    }
    let (takes_over, seeks_duplicates) = (flag("forceAddress")?, flag("enabledad")?);
    Ok(Bridging { bridge, role, takes_over, is_promiscuous, seeks_duplicates, port })
}

/// Says whether pods are masqueraded: the keys of the reference plugins bridge and ptp.
pub(super) fn is_masqueraded(whole: &Value) -> Result<bool, Error> {
    let is_masqueraded = key(whole, "ipMasq")?.unwrap_or_default();
    let backend: Option<String> = key(whole, "ipMasqBackend")?;
    match backend.as_deref() {
        Some(other) if is_masqueraded && !["", "nftables"].contains(&other) => {
            let reason = "it is done with nftables: say nftables, or leave it out";
            Err(unsupported("ipMasqBackend", &other.into(), reason))
        }
        _ => Ok(is_masqueraded),
    }
}

/// Finds the hardware address that the pod's link must have: what the runtime says first.
pub(super) fn mac(whole: &Value) -> Result<Option<Mac>, Error> {
    let said = |path: &str| whole.pointer(path).and_then(Value::as_str).filter(|mac| !mac.is_empty());
    let said = said("/runtimeConfig/mac").or_else(|| said("/args/cni/mac"));
    said.map(|text| mac_in(text).ok_or_else(|| Error::Mac(text.to_owned()))).transpose()
}

/// Reads a hardware address that a link can have.
pub(crate) fn mac_in(text: &str) -> Option<Mac> {
    text.replace('-', ":").parse().ok().filter(|mac: &Mac| mac.is_unicast())
}

fn refuse(whole: &Value, keys: &[(&'static str, &'static str)]) -> Result<(), Error> {
    for (name, reason) in keys {
        let value = whole.get(name).filter(|value| !super::is_empty(value) && **value != Value::Bool(false));
        if let Some(value) = value {
            return Err(unsupported(name, value, reason));
        }
    }
    Ok(())
}

fn unsupported(key: &str, value: &Value, reason: &'static str) -> Error {
    Error::Unsupported { key: key.to_owned(), value: value.to_string(), reason }
}

#[cfg(test)]
mod tests;

//! Nodes.

use serde::Deserialize;

use super::{Metadata, Wrong, sloppy_ip};
use crate::objects::Node;

/// What the cluster autoscaler taints a node with that it is about to delete.
const ABOUT_TO_GO: &str = "ToBeDeletedByClusterAutoscaler";

#[derive(Deserialize)]
pub(super) struct Wire {
    metadata: Metadata,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Deserialize, Default)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
    taints: Option<Vec<Taint>>,
}

#[derive(Deserialize)]
struct Taint {
    key: Option<String>,
}

#[derive(Deserialize, Default)]
struct Status {
    addresses: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    address_type: Option<String>,
    address: Option<String>,
}

pub(super) fn node(wire: Wire) -> Result<Node, Wrong> {
    let spec = wire.spec.unwrap_or_default();
    let mut taints = spec.taints.iter().flatten();
    let is_leaving = wire.metadata.deletion_timestamp.is_some()
        || taints.any(|taint| taint.key.as_deref() == Some(ABOUT_TO_GO));
    let (field, cidrs) = match (spec.pod_cidrs, spec.pod_cidr) {
        (Some(all), _) if !all.is_empty() => ("podCIDRs", all),
        (_, single) => ("podCIDR", single.into_iter().filter(|cidr| !cidr.is_empty()).collect()),
    };
    let mut pod_cidrs = Vec::with_capacity(cidrs.len());
    for (index, cidr) in cidrs.into_iter().enumerate() {
        let place =
            if field == "podCIDRs" { format!("spec.podCIDRs[{index}]") } else { "spec.podCIDR".into() };
        pod_cidrs.push(super::cidr(&cidr).map_err(|reason| (place, reason))?);
    }
    let (mut internal_ips, mut external_ips) = (Vec::new(), Vec::new());
    let addresses = wire.status.unwrap_or_default().addresses.unwrap_or_default();
    for (index, wire) in addresses.into_iter().enumerate() {
        let ips = match wire.address_type.as_deref() {
            Some("InternalIP") => &mut internal_ips,
            Some("ExternalIP") => &mut external_ips,
            _ => continue,
        };
        let address = wire.address.unwrap_or_default();
        let ip =
            sloppy_ip(&address).map_err(|reason| (format!("status.addresses[{index}].address"), reason))?;
        ips.push(ip);
    }
    let zone = wire.metadata.labels.as_ref().and_then(|labels| labels.zone.as_deref());
    let zone = zone.filter(|zone| !zone.is_empty()).map(Into::into);
    Ok(Node {
        name: wire.metadata.object_name(|_| String::new())?,
        pod_cidrs,
        internal_ips,
        external_ips,
        zone,
        is_leaving,
    })
}

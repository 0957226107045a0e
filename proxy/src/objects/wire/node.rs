//! Nodes.

use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::{Metadata, Wrong, sloppy_ip, wrong};
use crate::objects::Node;

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
    let (field, cidrs) = match (spec.pod_cidrs, spec.pod_cidr) {
        (Some(all), _) if !all.is_empty() => ("podCIDRs", all),
        (_, single) => ("podCIDR", single.into_iter().filter(|cidr| !cidr.is_empty()).collect()),
    };
    let mut pod_cidrs = Vec::with_capacity(cidrs.len());
    for (index, cidr) in cidrs.into_iter().enumerate() {
        let place =
            if field == "podCIDRs" { format!("spec.podCIDRs[{index}]") } else { "spec.podCIDR".into() };
        match cidr.parse::<IpNetwork>() {
            // Host bits are cut off, as Go's net.ParseCIDR does.
            Ok(given) if cidr.contains('/') => {
                let network = IpNetwork::new(given.network(), given.prefix());
                pod_cidrs.push(network.map_err(|error| (place, error.to_string()))?);
            }
            _ => return wrong(place, format!("{cidr:?} is not a CIDR")),
        }
    }
    let mut internal_ips = Vec::new();
    let addresses = wire.status.unwrap_or_default().addresses.unwrap_or_default();
    for (index, wire) in addresses.into_iter().enumerate() {
        if wire.address_type.as_deref() == Some("InternalIP") {
            let address = wire.address.unwrap_or_default();
            let ip = sloppy_ip(&address)
                .map_err(|reason| (format!("status.addresses[{index}].address"), reason))?;
            internal_ips.push(ip);
        }
    }
    Ok(Node { name: wire.metadata.object_name(|_| String::new())?, pod_cidrs, internal_ips })
}

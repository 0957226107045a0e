//! Service CIDRs.

use serde::Deserialize;

use super::{Metadata, Wrong, cidr};
use crate::objects::ServiceCidr;

#[derive(Deserialize)]
pub(super) struct Wire {
    metadata: Metadata,
    spec: Option<Spec>,
}

#[derive(Deserialize, Default)]
struct Spec {
    cidrs: Option<Vec<String>>,
}

pub(super) fn service_cidr(wire: Wire) -> Result<ServiceCidr, Wrong> {
    let wire_cidrs = wire.spec.unwrap_or_default().cidrs.unwrap_or_default();
    let mut cidrs = Vec::with_capacity(wire_cidrs.len());
    for (index, text) in wire_cidrs.into_iter().enumerate() {
        cidrs.push(cidr(&text).map_err(|reason| (format!("spec.cidrs[{index}]"), reason))?);
    }
    Ok(ServiceCidr { name: wire.metadata.object_name(|_| String::new())?, cidrs })
}

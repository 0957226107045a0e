//! Endpoint slices.

use std::num::NonZeroU64;

use jiff::Timestamp;
use serde::Deserialize;

use super::{Metadata, WireProtocol, Wrong, namespaced, protocol, sloppy_ip, wrong};
use crate::{
    objects::{EndpointSlice, Hints, SliceEndpoint, SlicePort, Triggered},
    service_port::Family,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wire {
    metadata: Metadata,
    address_type: AddressType,
    endpoints: Option<Vec<WireEndpoint>>,
    ports: Option<Vec<WirePort>>,
}

#[derive(Deserialize, Clone, Copy)]
enum AddressType {
    IPv4,
    IPv6,
    #[serde(rename = "FQDN")]
    Fqdn,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireEndpoint {
    addresses: Option<Vec<String>>,
    conditions: Option<Conditions>,
    hostname: Option<String>,
    node_name: Option<String>,
    target_ref: Option<Reference>,
    hints: Option<WireHints>,
}

/// What an endpoint is.
#[derive(Deserialize)]
struct Reference {
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireHints {
    for_nodes: Option<Vec<Named>>,
    for_zones: Option<Vec<Named>>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize, Default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct WirePort {
    name: Option<String>,
    protocol: Option<WireProtocol>,
    port: Option<u16>,
}

pub(super) fn endpoint_slice(wire: Wire) -> Result<EndpointSlice, Wrong> {
    let family = match wire.address_type {
        AddressType::IPv4 => Some(Family::Ip),
        AddressType::IPv6 => Some(Family::Ip6),
        AddressType::Fqdn => None,
    };
    let labels = wire.metadata.labels.as_ref();
    let service = labels.and_then(|labels| labels.service_name.clone());
    let is_headless = labels.is_some_and(|labels| labels.headless.is_some());
    let ports = wire.ports.unwrap_or_default().into_iter().filter_map(|wire| {
        let port = wire.port.filter(|&port| port != 0)?;
        Some(SlicePort {
            name: wire.name.unwrap_or_default().into(),
            protocol: protocol(wire.protocol),
            port,
        })
    });
    let endpoints = match family {
        Some(family) => endpoints(wire.endpoints.unwrap_or_default(), family)?,
        None => Vec::new(),
    };
    let annotations = wire.metadata.annotations.as_ref();
    let triggered = annotations.and_then(|annotations| annotations.triggered.as_deref()).and_then(time);
    Ok(EndpointSlice {
        name: wire.metadata.object_name(namespaced)?,
        service: service.map(Into::into),
        is_headless,
        family,
        ports: ports.collect(),
        endpoints,
        triggered: Triggered(triggered),
    })
}

/// A time as RFC 3339 writes it, in microseconds since 1970. One that makes no sense is none: nothing but a measurement hangs on it.
fn time(text: &str) -> Option<NonZeroU64> {
    let time: Timestamp = text.parse().ok()?;
    NonZeroU64::new(time.as_microsecond().try_into().ok()?)
}

fn endpoints(wire: Vec<WireEndpoint>, family: Family) -> Result<Vec<SliceEndpoint>, Wrong> {
    let mut endpoints = Vec::with_capacity(wire.len());
    for (index, wire) in wire.into_iter().enumerate() {
        let field = || format!("endpoints[{index}].addresses[0]");
        // All addresses of an endpoint mean the same pod; the first is the one to use.
        let Some(address) = wire.addresses.unwrap_or_default().into_iter().next() else { continue };
        let address = sloppy_ip(&address).map_err(|reason| (field(), reason))?;
        if Family::of(address) != family {
            return wrong(field(), format!("{address} is not of the slice's address type"));
        }
        let conditions = wire.conditions.unwrap_or_default();
        endpoints.push(SliceEndpoint {
            address,
            target: wire.target_ref.and_then(|target| target.name).map(Into::into),
            hostname: wire.hostname.filter(|name| !name.is_empty()).map(Into::into),
            node: wire.node_name.map(Into::into),
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
            hints: wire.hints.and_then(hints),
        });
    }
    Ok(endpoints)
}

fn hints(wire: WireHints) -> Option<Box<Hints>> {
    let names =
        |named: Option<Vec<Named>>| named.into_iter().flatten().map(|named| named.name.into()).collect();
    let hints = Hints { nodes: names(wire.for_nodes), zones: names(wire.for_zones) };
    (hints != Hints::default()).then(|| Box::new(hints))
}

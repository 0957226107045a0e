//! Services.

use std::{net::IpAddr, ops::RangeInclusive};

use serde::{Deserialize, Deserializer};

use super::{Metadata, WireProtocol, Wrong, namespaced, protocol, sloppy_ip, wrong};
use crate::{
    objects::{Port, Service, ServiceType},
    service_port::Family,
};

/// Three hours, the API's default.
const AFFINITY_SECONDS: u32 = 10_800;

/// What the API takes: up to a day.
const AFFINITY_RANGE: RangeInclusive<u32> = 1..=86_400;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wire {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "type")]
    service_type: Option<ServiceType>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<ClusterIp>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<ClusterIp>>,
    ports: Option<Vec<WirePort>>,
    session_affinity: Option<Affinity>,
    session_affinity_config: Option<AffinityConfig>,
}

#[derive(Deserialize, Clone, Copy)]
enum Affinity {
    None,
    #[serde(rename = "ClientIP")]
    ClientIp,
}

#[derive(Deserialize)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientIp {
    timeout_seconds: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePort {
    name: Option<String>,
    protocol: Option<WireProtocol>,
    port: u16,
    node_port: Option<u16>,
}

pub(super) fn service(wire: Wire) -> Result<Service, Wrong> {
    let Wire { metadata, spec } = wire;
    let service_type = spec.service_type.unwrap_or(ServiceType::ClusterIp);
    Ok(Service {
        service_type,
        has_other_proxy: metadata.labels.as_ref().is_some_and(|labels| labels.other_proxy.is_some()),
        cluster_ips: cluster_ips(spec.cluster_ip, spec.cluster_ips, service_type)?,
        affinity_seconds: affinity_seconds(spec.session_affinity, spec.session_affinity_config)?,
        ports: ports(spec.ports.unwrap_or_default(), service_type)?,
        name: metadata.object_name(namespaced)?,
    })
}

fn cluster_ips(
    single: Option<ClusterIp>,
    all: Option<Vec<ClusterIp>>,
    service_type: ServiceType,
) -> Result<Vec<IpAddr>, Wrong> {
    match (single, all) {
        (_, Some(all)) if !all.is_empty() => one_of_each_family(all),
        (Some(single), _) => Ok(single.0.into_iter().collect()),
        (None, _) if service_type == ServiceType::ExternalName => Ok(Vec::new()),
        (None, _) => wrong("spec.clusterIP", "missing: nothing here allots one; give an address, or None"),
    }
}

fn affinity_seconds(
    affinity: Option<Affinity>,
    config: Option<AffinityConfig>,
) -> Result<Option<u32>, Wrong> {
    let Some(Affinity::ClientIp) = affinity else { return Ok(None) };
    let seconds = config.and_then(|config| config.client_ip?.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    if !AFFINITY_RANGE.contains(&seconds) {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        return wrong(field, format!("{seconds} is not between 1 and 86400"));
    }
    Ok(Some(seconds))
}

fn ports(wire: Vec<WirePort>, service_type: ServiceType) -> Result<Vec<Port>, Wrong> {
    let has_node_ports = matches!(service_type, ServiceType::NodePort | ServiceType::LoadBalancer);
    let mut ports: Vec<Port> = Vec::with_capacity(wire.len());
    for (index, wire) in wire.into_iter().enumerate() {
        let port = Port {
            name: wire.name.unwrap_or_default().into(),
            protocol: protocol(wire.protocol),
            port: wire.port,
            node_port: wire.node_port.filter(|&port| port != 0 && has_node_ports),
        };
        if port.port == 0 {
            return wrong(format!("spec.ports[{index}].port"), "0 is not a port");
        }
        if ports.iter().any(|other| (&other.name, other.protocol) == (&port.name, port.protocol)) {
            let reason = format!("{:?} is taken by an earlier port", port.name);
            return wrong(format!("spec.ports[{index}].name"), reason);
        }
        ports.push(port);
    }
    Ok(ports)
}

fn one_of_each_family(all: Vec<ClusterIp>) -> Result<Vec<IpAddr>, Wrong> {
    let mut kept: Vec<IpAddr> = Vec::new();
    for (index, ip) in all.into_iter().enumerate() {
        let Some(ip) = ip.0 else { continue };
        if kept.iter().any(|&other| Family::of(other) == Family::of(ip)) {
            return wrong(
                format!("spec.clusterIPs[{index}]"),
                format!("{ip} is a second address of its family"),
            );
        }
        kept.push(ip);
    }
    Ok(kept)
}

/// An address; none where the API says `None` or an empty string.
struct ClusterIp(Option<IpAddr>);

impl<'de> Deserialize<'de> for ClusterIp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "" | "None" => Ok(Self(None)),
            text => sloppy_ip(text).map(|ip| Self(Some(ip))).map_err(serde::de::Error::custom),
        }
    }
}

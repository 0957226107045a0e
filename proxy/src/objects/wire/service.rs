//! Services.

use std::{net::IpAddr, ops::RangeInclusive};

use serde::{Deserialize, Deserializer};

use super::{Annotations, Metadata, WireProtocol, Wrong, cidr, namespaced, protocol, sloppy_ip, wrong};
use crate::{
    objects::{
        Note, Port, Service, ServiceType,
        annotations::{self, BALANCING, WEIGHTS, Weights},
    },
    service_port::{Family, TrafficPolicy},
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
    status: Option<Status>,
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
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    load_balancer_source_ranges: Option<Vec<String>>,
    internal_traffic_policy: Option<TrafficPolicy>,
    external_traffic_policy: Option<TrafficPolicy>,
    health_check_node_port: Option<u16>,
    session_affinity: Option<Affinity>,
    session_affinity_config: Option<AffinityConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    load_balancer: Option<LoadBalancer>,
}

#[derive(Deserialize)]
struct LoadBalancer {
    ingress: Option<Vec<Ingress>>,
}

/// One address of the load balancer. A host name without an address is nothing to serve.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ingress {
    ip: Option<String>,
    ip_mode: Option<IpMode>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
enum IpMode {
    /// Packets keep the address on their way to the node, which serves it.
    #[serde(rename = "VIP")]
    Vip,
    /// The load balancer must see them first, even those that come from here.
    Proxy,
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
    let Wire { mut metadata, spec, status } = wire;
    let mut notes = Vec::new();
    let Annotations { balancing, weights, .. } = metadata.annotations.take().unwrap_or_default();
    let service_type = spec.service_type.unwrap_or(ServiceType::ClusterIp);
    let external_policy = spec.external_traffic_policy.unwrap_or_default();
    let is_load_balancer = service_type == ServiceType::LoadBalancer;
    let has_health_check = is_load_balancer && external_policy == TrafficPolicy::Local;
    let source_ranges = spec.load_balancer_source_ranges.unwrap_or_default();
    Ok(Service {
        service_type,
        has_other_proxy: metadata.labels.as_ref().is_some_and(|labels| labels.other_proxy.is_some()),
        cluster_ips: cluster_ips(spec.cluster_ip, spec.cluster_ips, service_type)?,
        external_ips: each("spec.externalIPs", spec.external_ips.unwrap_or_default(), sloppy_ip)?,
        load_balancer_ips: load_balancer_ips(status.filter(|_| is_load_balancer))?,
        source_ranges: each("spec.loadBalancerSourceRanges", source_ranges, cidr)?,
        internal_policy: spec.internal_traffic_policy.unwrap_or_default(),
        external_policy,
        health_check_node_port: spec.health_check_node_port.filter(|&port| port != 0 && has_health_check),
        affinity_seconds: affinity_seconds(spec.session_affinity, spec.session_affinity_config)?,
        balancing: annotation(BALANCING, balancing, annotations::balancing, &mut notes),
        weights: annotation(WEIGHTS, weights, Weights::parse, &mut notes),
        ports: ports(spec.ports.unwrap_or_default(), service_type)?,
        name: metadata.object_name(namespaced)?,
        notes,
    })
}

/// Reads an annotation. One that makes no sense is as good as none, and noted.
fn annotation<T: Default>(
    name: &str,
    text: Option<String>,
    read: impl Fn(&str) -> Result<T, String>,
    notes: &mut Vec<Note>,
) -> T {
    text.map_or_else(|| Ok(T::default()), |text| read(&text)).unwrap_or_else(|reason| {
        notes.push(Note { field: format!("metadata.annotations[{name}]"), reason });
        T::default()
    })
}

/// Reads every entry of a list, each value once.
fn each<T: PartialEq>(
    field: &str,
    wire: Vec<String>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, Wrong> {
    let mut values = Vec::with_capacity(wire.len());
    for (index, text) in wire.into_iter().enumerate() {
        let value = read(&text).map_err(|reason| (format!("{field}[{index}]"), reason))?;
        if !values.contains(&value) {
            values.push(value);
        }
    }
    Ok(values)
}

fn load_balancer_ips(status: Option<Status>) -> Result<Vec<IpAddr>, Wrong> {
    let ingress = status.and_then(|status| status.load_balancer?.ingress).unwrap_or_default();
    let served = ingress.into_iter().filter(|ingress| ingress.ip_mode != Some(IpMode::Proxy));
    let ips = served.filter_map(|ingress| ingress.ip.filter(|ip| !ip.is_empty()));
    each("status.loadBalancer.ingress", ips.collect(), sloppy_ip)
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

//! The fields that we read, in the shape of the Kubernetes API, and the way from there to our values.
//!
//! Whatever the API allows to be absent may also be null. Defaults are the API server's, because a manifest
//! has not been through it.

use std::{net::IpAddr, sync::Arc};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use super::{
    EndpointSlice, Invalid, Kind, Node, Object, ObjectName, Port, Service, ServiceType, SliceEndpoint,
    SlicePort,
};
use crate::service_port::{Family, Protocol};

/// Three hours, the API's default.
const AFFINITY_SECONDS: u32 = 10_800;

/// A field's path, and what is wrong with it.
type Wrong = (String, String);

pub(super) fn parse(value: Value) -> Result<Option<Object>, Invalid> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let named = |field: &str| value.get("metadata")?.get(field)?.as_str();
    let group = text("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
    let kind = match (group, text("kind")) {
        ("", "Service") => Kind::Service,
        ("discovery.k8s.io" | "", "EndpointSlice") => Kind::EndpointSlice,
        ("", "Node") => Kind::Node,
        ("", "") => {
            let object = format!("object {}", named("name").unwrap_or("without a name"));
            return Err(Invalid { object, field: "kind".into(), reason: "missing".into() });
        }
        _ => return Ok(None),
    };

    let name = named("name").unwrap_or("without a name");
    let object = match kind {
        Kind::Node => format!("{kind} {name}"),
        _ => format!("{kind} {}/{name}", named("namespace").unwrap_or("default")),
    };
    let parsed = match kind {
        Kind::Service => read(value).and_then(service).map(|s| Object::Service(Arc::new(s))),
        Kind::EndpointSlice => {
            read(value).and_then(endpoint_slice).map(|s| Object::EndpointSlice(Arc::new(s)))
        }
        Kind::Node => read(value).and_then(node).map(|n| Object::Node(Arc::new(n))),
    };
    parsed.map(Some).map_err(|(field, reason)| Invalid { object, field, reason })
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, Wrong> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (place, reason) = (error.path().to_string(), error.inner().to_string());
        // The path ends where the field should have been: name the field instead.
        let absent = reason.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
        match absent {
            Some(field) if place == "." => (field.to_owned(), "missing".to_owned()),
            Some(field) => (format!("{place}.{field}"), "missing".to_owned()),
            None => (place, reason),
        }
    })
}

fn wrong<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T, Wrong> {
    Err((field.into(), reason.into()))
}

#[derive(Deserialize)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    labels: Option<Labels>,
}

/// The labels that mean something to a proxy.
#[derive(Deserialize)]
struct Labels {
    #[serde(rename = "kubernetes.io/service-name")]
    service_name: Option<String>,
    #[serde(rename = "service.kubernetes.io/headless")]
    headless: Option<String>,
    #[serde(rename = "service.kubernetes.io/service-proxy-name")]
    other_proxy: Option<String>,
}

impl Metadata {
    fn object_name(self, namespace: impl FnOnce(Option<String>) -> String) -> Result<ObjectName, Wrong> {
        match self.name {
            Some(name) if !name.is_empty() => Ok(ObjectName { namespace: namespace(self.namespace), name }),
            _ => wrong("metadata.name", "missing"),
        }
    }
}

fn namespaced(namespace: Option<String>) -> String {
    namespace.filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".into())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireService {
    metadata: Metadata,
    spec: WireServiceSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireServiceSpec {
    #[serde(rename = "type")]
    service_type: Option<WireType>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<ClusterIp>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<ClusterIp>>,
    ports: Option<Vec<WirePort>>,
    session_affinity: Option<WireAffinity>,
    session_affinity_config: Option<WireAffinityConfig>,
}

#[derive(Deserialize, Clone, Copy)]
enum WireType {
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Deserialize)]
enum WireAffinity {
    None,
    #[serde(rename = "ClientIP")]
    ClientIp,
}

#[derive(Deserialize)]
struct WireAffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<WireClientIp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireClientIp {
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

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "UPPERCASE")]
enum WireProtocol {
    Tcp,
    Udp,
    Sctp,
}

impl From<WireProtocol> for Protocol {
    fn from(protocol: WireProtocol) -> Self {
        match protocol {
            WireProtocol::Tcp => Self::Tcp,
            WireProtocol::Udp => Self::Udp,
            WireProtocol::Sctp => Self::Sctp,
        }
    }
}

/// Absent means TCP.
fn protocol(protocol: Option<WireProtocol>) -> Protocol {
    protocol.map_or(Protocol::Tcp, Protocol::from)
}

fn service(wire: WireService) -> Result<Service, Wrong> {
    let WireService { metadata, spec } = wire;
    let service_type = match spec.service_type {
        None | Some(WireType::ClusterIp) => ServiceType::ClusterIp,
        Some(WireType::NodePort) => ServiceType::NodePort,
        Some(WireType::LoadBalancer) => ServiceType::LoadBalancer,
        Some(WireType::ExternalName) => ServiceType::ExternalName,
    };
    let has_other_proxy = metadata.labels.as_ref().is_some_and(|labels| labels.other_proxy.is_some());
    let affinity_seconds = match spec.session_affinity {
        None | Some(WireAffinity::None) => None,
        Some(WireAffinity::ClientIp) => {
            let configured =
                spec.session_affinity_config.and_then(|config| config.client_ip?.timeout_seconds);
            Some(configured.unwrap_or(AFFINITY_SECONDS))
        }
    };
    let cluster_ips = match (spec.cluster_ip, spec.cluster_ips) {
        (_, Some(all)) if !all.is_empty() => one_of_each_family(all)?,
        (Some(single), _) => single.0.into_iter().collect(),
        (None, _) if service_type == ServiceType::ExternalName => Vec::new(),
        (None, _) => {
            return wrong("spec.clusterIP", "missing: nothing here allots one; give an address, or None");
        }
    };
    let has_node_ports = matches!(service_type, ServiceType::NodePort | ServiceType::LoadBalancer);

    let mut ports: Vec<Port> = Vec::new();
    for (index, wire) in spec.ports.unwrap_or_default().into_iter().enumerate() {
        let port = Port {
            name: wire.name.unwrap_or_default(),
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
    Ok(Service {
        name: metadata.object_name(namespaced)?,
        service_type,
        has_other_proxy,
        cluster_ips,
        affinity_seconds,
        ports,
    })
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

/// Reads an address as old objects may hold it: leading zeros in an IPv4 address are decimal.
fn sloppy_ip(text: &str) -> Result<IpAddr, String> {
    if let Ok(ip) = text.parse() {
        return Ok(ip);
    }
    let parts: Vec<&str> = text.split('.').map(|part| part.trim_start_matches('0')).collect();
    let stripped = parts.iter().map(|part| if part.is_empty() { "0" } else { part });
    let stripped = stripped.collect::<Vec<_>>().join(".");
    // An empty part (`10..0.1`) must not turn into a zero.
    match stripped.parse() {
        Ok(ip) if text.split('.').all(|part| !part.is_empty()) => Ok(IpAddr::V4(ip)),
        _ => Err(format!("{text:?} is not an IP address")),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSlice {
    metadata: Metadata,
    address_type: WireAddressType,
    endpoints: Option<Vec<WireEndpoint>>,
    ports: Option<Vec<WireSlicePort>>,
}

#[derive(Deserialize, Clone, Copy)]
enum WireAddressType {
    IPv4,
    IPv6,
    #[serde(rename = "FQDN")]
    Fqdn,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireEndpoint {
    addresses: Option<Vec<String>>,
    conditions: Option<WireConditions>,
    node_name: Option<String>,
}

#[derive(Deserialize, Default)]
struct WireConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct WireSlicePort {
    name: Option<String>,
    protocol: Option<WireProtocol>,
    port: Option<u16>,
}

fn endpoint_slice(wire: WireSlice) -> Result<EndpointSlice, Wrong> {
    let family = match wire.address_type {
        WireAddressType::IPv4 => Some(Family::Ip),
        WireAddressType::IPv6 => Some(Family::Ip6),
        WireAddressType::Fqdn => None,
    };
    let labels = wire.metadata.labels.as_ref();
    let service = labels.and_then(|labels| labels.service_name.clone());
    let is_headless = labels.is_some_and(|labels| labels.headless.is_some());
    let ports = wire.ports.unwrap_or_default().into_iter().filter_map(|wire| {
        let port = wire.port.filter(|&port| port != 0)?;
        Some(SlicePort { name: wire.name.unwrap_or_default(), protocol: protocol(wire.protocol), port })
    });
    let endpoints = match family {
        Some(family) => endpoints(wire.endpoints.unwrap_or_default(), family)?,
        None => Vec::new(),
    };
    Ok(EndpointSlice {
        name: wire.metadata.object_name(namespaced)?,
        service,
        is_headless,
        family,
        ports: ports.collect(),
        endpoints,
    })
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
            node: wire.node_name,
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
        });
    }
    Ok(endpoints)
}

#[derive(Deserialize)]
struct WireNode {
    metadata: Metadata,
    spec: Option<WireNodeSpec>,
    status: Option<WireNodeStatus>,
}

#[derive(Deserialize, Default)]
struct WireNodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
struct WireNodeStatus {
    addresses: Option<Vec<WireAddress>>,
}

#[derive(Deserialize)]
struct WireAddress {
    #[serde(rename = "type")]
    address_type: Option<String>,
    address: Option<String>,
}

fn node(wire: WireNode) -> Result<Node, Wrong> {
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

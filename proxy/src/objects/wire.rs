//! The fields that we read, in the shape of the Kubernetes API, and the way from there to our values.
//!
//! Whatever the API allows to be absent may also be null. Defaults are the API server's, because a manifest
//! has not been through it.

use std::{net::IpAddr, sync::Arc};

use ipnetwork::IpNetwork;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Invalid, Kind, Object, ObjectName};
use crate::service_port::Protocol;

mod endpoint_slice;
mod node;
mod service;
mod service_cidr;

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
        ("networking.k8s.io" | "", "ServiceCIDR") => Kind::ServiceCidr,
        ("", "") => {
            let object = format!("object {}", named("name").unwrap_or("without a name"));
            return Err(Invalid { object, kind: None, field: "kind".into(), reason: "missing".into() });
        }
        _ => return Ok(None),
    };

    of_kind(kind, Json::Value(value)).map(Some)
}

/// An object, before it is read.
#[derive(Clone)]
pub(super) enum Json<'a> {
    Value(Value),
    Text(&'a str),
}

pub(super) fn of_kind(kind: Kind, json: Json<'_>) -> Result<Object, Invalid> {
    let whole = json.clone();
    let object = match kind {
        Kind::Service => read(json).and_then(service::service).map(|s| Object::Service(Arc::new(s))),
        Kind::EndpointSlice => {
            read(json).and_then(endpoint_slice::endpoint_slice).map(|s| Object::EndpointSlice(Arc::new(s)))
        }
        Kind::Node => read(json).and_then(node::node).map(|n| Object::Node(Arc::new(n))),
        Kind::ServiceCidr => {
            read(json).and_then(service_cidr::service_cidr).map(|c| Object::ServiceCidr(Arc::new(c)))
        }
    };
    object.map_err(|(field, reason)| Invalid {
        object: description(kind, whole),
        kind: Some(kind),
        field,
        reason,
    })
}

/// Which object it is, as far as it says so.
fn description(kind: Kind, json: Json<'_>) -> String {
    let value = match json {
        Json::Value(value) => value,
        Json::Text(text) => serde_json::from_str(text).unwrap_or_default(),
    };
    let named = |field: &str| value.get("metadata")?.get(field)?.as_str();
    let name = named("name").unwrap_or("without a name");
    match kind {
        Kind::Node | Kind::ServiceCidr => format!("{kind} {name}"),
        _ => format!("{kind} {}/{name}", named("namespace").unwrap_or("default")),
    }
}

fn read<T: DeserializeOwned>(json: Json<'_>) -> Result<T, Wrong> {
    let read = match json {
        Json::Value(value) => serde_path_to_error::deserialize(value),
        Json::Text(text) => match serde_json::from_str(text) {
            Ok(read) => return Ok(read),
            // Once more, for where the error is: to keep track of that takes longer.
            Err(_) => serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text)),
        },
    };
    read.map_err(|error| {
        let (place, reason) = (error.path().to_string(), error.inner().to_string());
        // The path ends where the field should have been: name the field instead.
        let absent = reason.strip_prefix("missing field `").and_then(|rest| rest.split_once('`'));
        match absent {
            Some((field, _)) if place == "." => (field.to_owned(), "missing".to_owned()),
            Some((field, _)) => (format!("{place}.{field}"), "missing".to_owned()),
            None => (place, reason),
        }
    })
}

/// Reads a network as the API does: white space around it is ignored, and bits of a host are cut off.
fn cidr(text: &str) -> Result<IpNetwork, String> {
    let text = text.trim();
    match (text.parse::<IpNetwork>(), text.contains('/')) {
        (Ok(given), true) => {
            IpNetwork::new(given.network(), given.prefix()).map_err(|error| error.to_string())
        }
        _ => Err(format!("{text:?} is not a CIDR")),
    }
}

fn wrong<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T, Wrong> {
    Err((field.into(), reason.into()))
}

#[derive(Deserialize)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    labels: Option<Labels>,
    annotations: Option<Annotations>,
    #[serde(rename = "deletionTimestamp")]
    deletion_timestamp: Option<String>,
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
    #[serde(rename = "topology.kubernetes.io/zone")]
    zone: Option<String>,
}

/// The annotations that mean something to Fairway.
#[derive(Deserialize, Default)]
struct Annotations {
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    triggered: Option<String>,
    #[serde(rename = "fairway.dev/balancing")]
    balancing: Option<String>,
    #[serde(rename = "fairway.dev/weights")]
    weights: Option<String>,
}

impl Metadata {
    fn object_name(self, namespace: impl FnOnce(Option<String>) -> String) -> Result<ObjectName, Wrong> {
        match self.name {
            Some(name) if !name.is_empty() => {
                Ok(ObjectName { namespace: namespace(self.namespace).into(), name: name.into() })
            }
            _ => wrong("metadata.name", "missing"),
        }
    }
}

fn namespaced(namespace: Option<String>) -> String {
    namespace.filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".into())
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

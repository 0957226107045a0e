//! The fields of Kubernetes objects that the lab acts on, named as the API names them.

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize};

use super::{WrongField, is_name, not_a_name};

type Labels = BTreeMap<String, String>;

/// `metadata` of any object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The object's name.
    pub name: String,
    /// The object's namespace.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// What selectors choose by.
    #[serde(default, deserialize_with = "null_as_default")]
    pub labels: Labels,
}

fn default_namespace() -> String {
    "default".into()
}

/// Kubernetes writes an absent list or map as null now and then.
fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A transport protocol, as the API writes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// The default.
    #[default]
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol.
    Sctp,
}

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// Name and labels.
    pub metadata: Metadata,
    /// Its share of the pod network.
    #[serde(default)]
    pub spec: NodeSpec,
    /// Its addresses.
    pub status: NodeStatus,
}

/// `spec` of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// The addresses its pods get, one network per family.
    #[serde(default, rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNetwork>,
}

/// `status` of a node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NodeStatus {
    /// Addresses of all types.
    pub addresses: Vec<NodeAddress>,
}

/// An address of a node, or a name: by its type.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NodeAddress {
    /// `InternalIP`, `Hostname`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The value.
    pub address: String,
}

impl Node {
    /// The addresses that the other machines reach it by.
    pub fn internal_ips(&self) -> impl Iterator<Item = IpAddr> {
        let internal = self.status.addresses.iter().filter(|address| address.kind == "InternalIP");
        internal.filter_map(|address| address.address.parse().ok())
    }

    /// Says whether pods are spread over it.
    pub fn is_worker(&self) -> bool {
        !self.metadata.labels.contains_key("node-role.kubernetes.io/control-plane")
    }

    pub(super) fn wrong_field(&self) -> Option<WrongField> {
        let internal = || self.status.addresses.iter().zip(0..).filter(|(a, _)| a.kind == "InternalIP");
        let bad = internal().find(|(address, _)| address.address.parse::<IpAddr>().is_err());
        if let Some((bad, index)) = bad {
            let field = format!("status.addresses[{index}].address");
            return Some((field, format!("{:?} is no IP address", bad.address)));
        }
        internal().next().is_none().then(|| ("status.addresses".into(), "has no InternalIP".into()))
    }
}

/// Containers that share a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Pod {
    /// Name and labels.
    pub metadata: Metadata,
    /// What runs in it, and where.
    pub spec: PodSpec,
}

/// `spec` of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node it is bound to; without it the lab chooses one.
    pub node_name: Option<String>,
    /// At least one.
    pub containers: Vec<Container>,
}

/// A program of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// The lab's own server plays every image.
    #[serde(default)]
    pub image: String,
    /// What to run instead of the lab's server.
    #[serde(default, deserialize_with = "null_as_default")]
    pub command: Vec<String>,
    /// Where it listens.
    #[serde(default, deserialize_with = "null_as_default")]
    pub ports: Vec<ContainerPort>,
}

/// A port that a container listens on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// What `targetPort` may call it.
    #[serde(default)]
    pub name: String,
    /// The number.
    pub container_port: u16,
    /// TCP is answered as HTTP, UDP as an echo.
    #[serde(default)]
    pub protocol: Protocol,
}

impl Pod {
    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }

    pub(super) fn wrong_field(&self) -> Option<WrongField> {
        if self.spec.containers.is_empty() {
            return Some(("spec.containers".into(), "a pod has at least one".into()));
        }
        let unnamed = self.spec.containers.iter().zip(0..).find(|(container, _)| !is_name(&container.name));
        if let Some((container, c)) = unnamed {
            return Some((format!("spec.containers[{c}].name"), not_a_name(&container.name)));
        }
        let ports = self.spec.containers.iter().zip(0..).flat_map(|(container, c)| {
            container
                .ports
                .iter()
                .zip(0..)
                .map(move |(port, p)| (port, format!("spec.containers[{c}].ports[{p}]")))
        });
        let mut taken = BTreeMap::new();
        for (port, field) in ports {
            if port.protocol == Protocol::Sctp {
                return Some((
                    format!("{field}.protocol"),
                    "the lab's server speaks TCP and UDP only".into(),
                ));
            }
            if let Some(first) = taken.insert((port.protocol, port.container_port), field.clone()) {
                // The containers of a pod share its ports as they share its address.
                return Some((field, format!("the same port as {first}")));
            }
        }
        None
    }
}

/// A stable address in front of pods.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Service {
    /// Name and labels.
    pub metadata: Metadata,
    /// Addresses, ports and the choice of pods.
    pub spec: ServiceSpec,
}

/// `spec` of a service: what the lab reads of it. The daemon reads the whole document.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ClusterIP` if absent.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// An address, or `None` for a headless service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// One address per family.
    #[serde(default, rename = "clusterIPs", deserialize_with = "null_as_default")]
    pub cluster_ips: Vec<String>,
    /// Labels of the pods behind it; without it somebody else writes the slices.
    #[serde(default, deserialize_with = "null_as_default")]
    pub selector: Labels,
    /// Its ports.
    #[serde(default, deserialize_with = "null_as_default")]
    pub ports: Vec<ServicePort>,
    /// `ClientIP` or `None`.
    pub session_affinity: Option<String>,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// May be empty if it is the only one.
    #[serde(default)]
    pub name: String,
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The port on the service's addresses.
    pub port: u16,
    /// The port on the pods; the same as `port` if absent.
    pub target_port: Option<TargetPort>,
    /// The port on every node.
    pub node_port: Option<u16>,
}

/// A port of the pods: a number, or a name that each pod's containers explain.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "neither a port number nor a port name")]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// A name.
    Name(String),
}

impl Service {
    /// Its cluster IPs, one per family; none for a headless one.
    pub fn cluster_ips(&self) -> impl Iterator<Item = IpAddr> {
        let listed = self.spec.cluster_ips.iter();
        let single = self.spec.cluster_ip.iter().filter(|_| self.spec.cluster_ips.is_empty());
        listed.chain(single).filter_map(|address| address.parse().ok())
    }

    pub(super) fn wrong_field(&self) -> Option<WrongField> {
        let kind = self.spec.kind.as_deref().unwrap_or("ClusterIP");
        if kind == "ExternalName" {
            return None;
        }
        let given = self.spec.cluster_ips.iter().chain(&self.spec.cluster_ip);
        if given.clone().next().is_none() {
            let reason = "the lab allocates no addresses: give one, such as 10.96.0.10, or None";
            return Some(("spec.clusterIP".into(), reason.into()));
        }
        for address in given {
            if address != "None" && address.parse::<IpAddr>().is_err() {
                return Some(("spec.clusterIP".into(), format!("{address:?} is no IP address")));
            }
        }
        let needs_node_port = |port: &ServicePort| kind == "NodePort" && port.node_port.is_none();
        let bad = self.spec.ports.iter().position(needs_node_port)?;
        let reason = "the lab allocates no node ports: give one between 30000 and 32767";
        Some((format!("spec.ports[{bad}].nodePort"), reason.into()))
    }
}

/// Backends of a service, as the endpoint controller writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// `discovery.k8s.io/v1`.
    pub api_version: &'static str,
    /// `EndpointSlice`.
    pub kind: &'static str,
    /// Named after the service; the label `kubernetes.io/service-name` says which one.
    pub metadata: Metadata,
    /// `IPv4` or `IPv6`.
    pub address_type: &'static str,
    /// The pods.
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports, by the names of the service's ports.
    pub ports: Vec<EndpointPort>,
}

/// A backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpoint {
    /// One address of the slice's type.
    pub addresses: Vec<IpAddr>,
    /// Whether it may be chosen.
    pub conditions: Condition,
    /// Where it runs.
    pub node_name: String,
    /// What it is.
    pub target_ref: Reference,
}

/// `conditions` of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// It serves and does not go away.
    pub ready: bool,
    /// It serves.
    pub serving: bool,
    /// It goes away.
    pub terminating: bool,
}

/// Names another object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reference {
    /// `Pod`.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A port of all backends of a slice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct EndpointPort {
    /// The service port's name.
    pub name: String,
    /// The number.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

//! What is there: nodes, pods and services, as a value that can be shown and sent.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::Cluster;
use crate::{
    endpoints,
    manifest::{Content, Service},
};

/// All of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// By name.
    pub nodes: Vec<NodeStatus>,
    /// By namespace and name.
    pub pods: Vec<PodStatus>,
    /// By namespace and name.
    pub services: Vec<ServiceStatus>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The process id of its daemon, while that runs.
    pub daemon: Option<u32>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// `namespace/name`.
    pub name: String,
    /// Where it runs.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its containers.
    pub containers: Vec<String>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// `namespace/name`.
    pub name: String,
    /// `ClusterIP`, `NodePort`, …
    pub kind: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports: `8001/TCP`, `8001:30632/TCP`.
    pub ports: Vec<String>,
    /// The pods behind it: `10.244.1.2:80`.
    pub endpoints: Vec<String>,
}

impl Cluster {
    /// Says what is there.
    pub fn status(&mut self) -> Status {
        let nodes = self.nodes.values_mut().map(|node| NodeStatus {
            name: node.name().to_owned(),
            addresses: node.manifest().internal_ips().collect(),
            daemon: node.daemon_id(),
        });
        let nodes = nodes.collect();
        let pods = self.pods.values_mut().map(|pod| PodStatus {
            name: pod.key(),
            node: pod.host().name().to_owned(),
            addresses: pod.addresses().to_vec(),
            containers: pod
                .containers()
                .map(|(name, _, ended)| match ended {
                    Some(ended) => format!("{name} (ended: {ended})"),
                    None => name.to_owned(),
                })
                .collect(),
        });
        let pods = pods.collect();
        let services = self.objects.values().filter_map(|object| match &object.content {
            Content::Service(service) => Some(self.service_status(service)),
            _ => None,
        });
        Status { nodes, pods, services: services.collect() }
    }

    fn service_status(&self, service: &Service) -> ServiceStatus {
        let slices = endpoints::slices(service, self.backends());
        let endpoints = slices.iter().flat_map(|slice| {
            let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
            addresses.flat_map(|ip| slice.ports.iter().map(|port| (*ip, port.port).into()))
        });
        let mut endpoints: Vec<String> = endpoints.map(|at: std::net::SocketAddr| at.to_string()).collect();
        endpoints.sort();
        endpoints.dedup();
        let ports = service.spec.ports.iter().map(|port| {
            let protocol = format!("{:?}", port.protocol).to_uppercase();
            match port.node_port {
                Some(node_port) => format!("{}:{node_port}/{protocol}", port.port),
                None => format!("{}/{protocol}", port.port),
            }
        });
        ServiceStatus {
            name: format!("{}/{}", service.metadata.namespace, service.metadata.name),
            kind: service.spec.kind.clone().unwrap_or_else(|| "ClusterIP".into()),
            addresses: service.cluster_ips().collect(),
            ports: ports.collect(),
            endpoints,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.nodes.iter().map(|node| {
            let daemon = node.daemon.map_or("not running".into(), |pid| pid.to_string());
            [node.name.clone(), list(&node.addresses), daemon]
        });
        table(f, ["NODE", "ADDRESS", "DAEMON (PID IN THE LAB)"], nodes.collect())?;
        let pods = self
            .pods
            .iter()
            .map(|pod| [pod.name.clone(), list(&pod.addresses), pod.node.clone(), pod.containers.join(",")]);
        table(f, ["\nPOD", "ADDRESS", "NODE", "CONTAINERS"], pods.collect())?;
        let services = self.services.iter().map(|service| {
            [
                service.name.clone(),
                service.kind.clone(),
                list(&service.addresses),
                service.ports.join(","),
                service.endpoints.join(","),
            ]
        });
        table(f, ["\nSERVICE", "TYPE", "ADDRESS", "PORTS", "ENDPOINTS"], services.collect())
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
}

/// Writes columns as wide as their widest cell.
fn table<const N: usize>(f: &mut fmt::Formatter<'_>, head: [&str; N], rows: Vec<[String; N]>) -> fmt::Result {
    let mut widths = head.map(|cell| cell.trim_start().len());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let all = std::iter::once(head.map(str::to_owned)).chain(rows);
    for row in all {
        let indent = row.first().is_some_and(|cell| cell.starts_with('\n'));
        if indent {
            writeln!(f)?;
        }
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{:width$}", cell.trim_start()));
        writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

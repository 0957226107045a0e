//! The endpoint controller's part: which pods stand behind a service.
//!
//! In: a service and the pods that run. Out: its `EndpointSlice`s, one per address family and per set of port numbers, as
//! the controller of a real cluster writes them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::manifest::{
    Condition, EndpointPort, EndpointSlice, Metadata, Pod, Reference, Service, ServicePort, SliceEndpoint,
    TargetPort,
};

#[cfg(test)]
mod tests;

/// A pod that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend<'a> {
    /// Its manifest.
    pub pod: &'a Pod,
    /// Where it runs.
    pub node: &'a str,
    /// What the plugin gave it.
    pub addresses: &'a [IpAddr],
}

/// Writes the slices of `service`. None for a service without a selector: somebody else writes those.
pub fn slices<'a>(
    service: &Service,
    backends: impl Iterator<Item = Backend<'a>> + Clone,
) -> Vec<EndpointSlice> {
    let selector = &service.spec.selector;
    let is_chosen = |backend: &Backend<'a>| {
        let labels = &backend.pod.metadata.labels;
        !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let chosen = backends.filter(is_chosen);
    let families: BTreeSet<bool> = service.cluster_ips().map(|ip| ip.is_ipv6()).collect();
    families.into_iter().flat_map(|is_ipv6| of_family(service, chosen.clone(), is_ipv6)).collect()
}

fn of_family<'a>(
    service: &Service,
    backends: impl Iterator<Item = Backend<'a>>,
    is_ipv6: bool,
) -> Vec<EndpointSlice> {
    let mut by_ports: BTreeMap<Vec<EndpointPort>, Vec<SliceEndpoint>> = BTreeMap::new();
    for backend in backends {
        if let Some(address) = backend.addresses.iter().find(|address| address.is_ipv6() == is_ipv6) {
            let ports = service.spec.ports.iter().filter_map(|port| port_on(backend.pod, port)).collect();
            by_ports.entry(ports).or_default().push(endpoint(backend, *address));
        }
    }
    let address_type = if is_ipv6 { "IPv6" } else { "IPv4" };
    let named = by_ports.into_iter().zip(1..);
    named
        .map(|((ports, endpoints), number)| EndpointSlice {
            api_version: "discovery.k8s.io/v1",
            kind: "EndpointSlice",
            metadata: Metadata {
                name: format!("{}-{}-{number}", service.metadata.name, address_type.to_lowercase()),
                namespace: service.metadata.namespace.clone(),
                labels: BTreeMap::from([(
                    "kubernetes.io/service-name".into(),
                    service.metadata.name.clone(),
                )]),
            },
            address_type,
            endpoints,
            ports,
        })
        .collect()
}

/// What a service's port is on a pod: nothing if it has a name that no container of the pod explains.
fn port_on(pod: &Pod, port: &ServicePort) -> Option<EndpointPort> {
    let number = match &port.target_port {
        None => port.port,
        Some(TargetPort::Number(number)) => *number,
        Some(TargetPort::Name(name)) => {
            let mut declared = pod.spec.containers.iter().flat_map(|container| &container.ports);
            declared.find(|p| p.name == *name && p.protocol == port.protocol)?.container_port
        }
    };
    Some(EndpointPort { name: port.name.clone(), port: number, protocol: port.protocol })
}

fn endpoint(backend: Backend<'_>, address: IpAddr) -> SliceEndpoint {
    SliceEndpoint {
        addresses: vec![address],
        conditions: Condition { ready: true, serving: true, terminating: false },
        node_name: backend.node.to_owned(),
        target_ref: Reference {
            kind: "Pod",
            namespace: backend.pod.metadata.namespace.clone(),
            name: backend.pod.metadata.name.clone(),
        },
    }
}

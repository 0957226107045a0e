//! What load balancers are told of services with external policy Local: how many of their endpoints are here. Pure.

use std::collections::BTreeSet;

use super::{State, Touched};
use crate::{objects::ObjectName, service_port::Family};

/// A port on which load balancers ask for a service, and what they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HealthCheck {
    /// `healthCheckNodePort`.
    pub port: u16,
    /// Endpoints on this node that new connections should go to.
    pub local_endpoints: usize,
}

impl Touched {
    /// The services whose health check may be different now: each once, in order. Ask before the service ports are taken.
    pub fn health_checks(&self) -> BTreeSet<ObjectName> {
        let services = self.services.iter().map(|(service, _)| service);
        services
            .filter(|service| service.health_check_node_port.is_some())
            .map(|service| service.name.clone())
            .collect()
    }
}

impl State {
    /// Says whether this node should get new connections from load balancers: one that is leaving, or that the cluster does not know,
    /// should not. Where nobody says anything of nodes, it should.
    pub fn is_node_eligible(&self) -> bool {
        self.own().map_or(self.nodes.is_empty(), |node| !node.is_leaving)
    }

    /// What is to be said about a service, if anything is.
    pub fn health_check(&self, name: &ObjectName) -> Option<HealthCheck> {
        let service = self.services.get(name)?;
        if !super::is_served(service) {
            return None;
        }
        let port = service.health_check_node_port?;
        // A pod of two families counts once, as it does for a balancer that uses either.
        let local_endpoints = Family::ALL.map(|family| self.local_endpoints(name, family));
        Some(HealthCheck { port, local_endpoints: local_endpoints.into_iter().max().unwrap_or_default() })
    }

    /// Addresses on this node that are ready and stay. Those that only answer while they end still get what arrives here, but no
    /// load balancer should send more (`pkg/proxy/endpointschangetracker.go`, `getLocalReadyEndpointIPs`).
    fn local_endpoints(&self, service: &ObjectName, family: Family) -> usize {
        let slices = self.slices.get(service).into_iter().flatten();
        let endpoints =
            slices.filter(|slice| slice.family == Some(family)).flat_map(|slice| &slice.endpoints);
        let local = endpoints.filter(|endpoint| {
            endpoint.ready && !endpoint.terminating && endpoint.node.as_deref() == Some(&self.own_node)
        });
        local.map(|endpoint| endpoint.address).collect::<BTreeSet<_>>().len()
    }
}

//! A pod's host end plugged into a bridge of the node, in the place of routes to the pod.
//!
//! ```text
//!  host                                               │ pod
//!  cni0      address 10.244.1.1/24   if it is a gateway │ eth0
//!   └ fw7mqk…  a port of it, alias default/web        │ address   10.244.1.7/24
//!                                                     │ routes    default via 10.244.1.1
//! ```
//!
//! The bridge is many pods' and stays when they have gone.

use dataplane::rtnl::{Address, AddressFlags, Port};
use ipnetwork::IpNetwork;

use super::{Endpoint, Error, Side, Wiring};

/// What a bridge is to its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A switch: the node itself has no address there.
    Switch,
    /// Their gateway, for the routes that they are given.
    Gateway,
    /// Their gateway to everywhere.
    DefaultGateway,
}

/// A bridge, and how host ends are plugged into it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bridging {
    /// The bridge's name.
    pub bridge: String,
    /// What it is to its pods.
    pub role: Role,
    /// It loses addresses of other networks that overlap ours, rather than that ADD fails.
    pub takes_over: bool,
    /// It takes packets that are for others.
    pub is_promiscuous: bool,
    /// Pods look for others with the same IPv6 address before they use it.
    pub seeks_duplicates: bool,
    /// How it treats a host end.
    pub port: Port,
}

impl Endpoint {
    /// The address, with the length of its subnet's prefix.
    pub(super) fn in_subnet(&self) -> IpNetwork {
        IpNetwork::new(self.address, self.prefix).unwrap_or_else(|_| self.address.into())
    }

    /// The gateway, likewise.
    fn gateway_in_subnet(&self) -> IpNetwork {
        IpNetwork::new(self.gateway, self.prefix).unwrap_or_else(|_| self.gateway.into())
    }
}

/// Over a bridge a gateway is a neighbour like any other, so it must be in the subnet.
pub(super) fn gateways_are_near(endpoints: &[Endpoint]) -> Result<(), Error> {
    match endpoints.iter().find(|endpoint| !endpoint.in_subnet().contains(endpoint.gateway)) {
        Some(far) => Err(Error::FarGateway { gateway: far.gateway, address: far.in_subnet() }),
        None => Ok(()),
    }
}

impl Wiring {
    /// What belongs on the bridge.
    pub fn bridge_side(&self, bridge: u32) -> Side {
        let is_gateway = self.bridging.as_ref().is_some_and(|bridging| bridging.role != Role::Switch);
        let gateways = self.endpoints.iter().filter(|_| is_gateway);
        let mut addresses: Vec<_> =
            gateways.map(|endpoint| with_its_network(bridge, endpoint.gateway_in_subnet())).collect();
        addresses.dedup();
        Side { addresses, ..Side::default() }
    }

    /// Says whether the pod looks for others with the same IPv6 address.
    pub fn seeks_duplicates(&self) -> bool {
        self.bridging.as_ref().is_some_and(|bridging| bridging.seeks_duplicates)
    }

    /// What belongs on the end in a pod whose neighbours are on the bridge.
    pub(super) fn bridged_pod_side(&self, link: u32) -> Side {
        let mut own: Vec<_> =
            self.endpoints.iter().map(|endpoint| with_its_network(link, endpoint.in_subnet())).collect();
        for address in &mut own {
            address.flags.nodad &= !self.seeks_duplicates();
        }
        Side { addresses: own, routes: self.far_routes(link), neighbours: Vec::new() }
    }
}

/// An address that brings the route to its network, and that is usable at once.
fn with_its_network(link: u32, network: IpNetwork) -> Address {
    Address { link, network, flags: AddressFlags { noprefixroute: false, nodad: network.is_ipv6() } }
}

#[cfg(test)]
mod tests;

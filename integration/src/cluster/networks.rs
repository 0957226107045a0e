//! The networks that the nodes are on, and the router between them.
//!
//! In: nodes, by their first address. Out: a switch for each network; the machine outside has the first address of each, is the way out of
//! all of them, and forwards between them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::Error;
use crate::{
    host::Host,
    manifest::Node,
    network::{Switch, UPLINK, gateway_of, network_of},
};

/// Networks in the order in which nodes asked for them.
#[derive(Debug, Default)]
pub(super) struct Networks(Vec<(IpNetwork, Switch)>);

impl Networks {
    /// The switch that a node is on. The first node of a network makes it one.
    pub(super) fn switch_for(&mut self, node: &Node, router: &Host) -> Result<&Switch, Error> {
        let addresses: Vec<IpAddr> = node.internal_ips().collect();
        let network = addresses.first().map(|address| network_of(*address)).ok_or(Error::NoNodes)?;
        let network = IpNetwork::new(network.network(), network.prefix()).unwrap_or(network);
        let known = self.0.iter().position(|(known, _)| *known == network);
        let place = if let Some(place) = known {
            place
        } else {
            let switch = Switch::make()?;
            let link = if self.0.is_empty() { UPLINK.to_owned() } else { format!("eth{}", self.0.len()) };
            let gateways: Vec<IpAddr> = addresses.into_iter().map(gateway_of).collect();
            switch.connect_by(&link, router, &gateways)?;
            self.0.push((network, switch));
            self.0.len() - 1
        };
        self.0.get(place).map(|(_, switch)| switch).ok_or(Error::NoNodes)
    }

    /// The switch that a node is on, of those that there are.
    pub(super) fn switch_of(&self, node: &Node) -> Option<&Switch> {
        let address = node.internal_ips().next()?;
        self.0.iter().find(|(network, _)| network.contains(address)).map(|(_, switch)| switch)
    }

    /// The first network's.
    pub(super) fn first(&self) -> Option<&Switch> {
        self.0.first().map(|(_, switch)| switch)
    }
}

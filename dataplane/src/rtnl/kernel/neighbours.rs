//! Neighbours of links.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState as State},
};

use super::{Kernel, REPLACE};
use crate::rtnl::{Error, Mac, Neighbour, NeighbourState, Operation};

impl Kernel {
    /// Lists the neighbours on all links.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, Error> {
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        self.list(request, "neighbours", neighbour_of).await
    }

    /// Puts a neighbour in, in the place of what was known of its address.
    pub async fn put_neighbour(&self, neighbour: &Neighbour) -> Result<(), Error> {
        let request = RouteNetlinkMessage::NewNeighbour(message_of(neighbour));
        self.change(request, REPLACE, Operation::Add, &format!("neighbour {neighbour}")).await
    }

    /// Forgets a neighbour.
    pub async fn delete_neighbour(&self, neighbour: &Neighbour) -> Result<(), Error> {
        let request = RouteNetlinkMessage::DelNeighbour(message_of(neighbour));
        self.change(request, 0, Operation::Delete, &format!("neighbour {neighbour}")).await
    }
}

fn message_of(neighbour: &Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = neighbour.link;
    message.header.state = match neighbour.state {
        NeighbourState::Permanent => State::Permanent,
        NeighbourState::Stale => State::Stale,
        NeighbourState::Reachable => State::Reachable,
        NeighbourState::Other(state) => State::from(state),
    };
    let (family, address) = match neighbour.address {
        IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
    };
    message.header.family = family;
    message.attributes.push(NeighbourAttribute::Destination(address));
    if let Some(Mac(bytes)) = neighbour.mac {
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(bytes.to_vec()));
    }
    message
}

pub(super) fn neighbour_of(message: RouteNetlinkMessage) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(NeighbourMessage { header, attributes, .. }) = message else {
        return None;
    };
    let state = match header.state {
        State::Permanent => NeighbourState::Permanent,
        State::Stale => NeighbourState::Stale,
        State::Reachable => NeighbourState::Reachable,
        other => NeighbourState::Other(other.into()),
    };
    let (mut address, mut mac) = (None, None);
    for attribute in attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::V6(ip)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some(Neighbour { link: header.ifindex, address: address?, mac, state })
}

//! Bridges: made, and told how to treat the links that are plugged into them.

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{
        BridgePortState, InfoBridgePort, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo,
        LinkMessage,
    },
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};

use super::{
    CREATE, Kernel, REPLACE,
    links::{message_for, set_up_or_down},
};
use crate::rtnl::{Bridge, Error, Mac, Operation, Port};

impl Kernel {
    /// Makes a bridge.
    pub async fn add_bridge(&self, bridge: &Bridge) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        set_up_or_down(&mut message, true);
        message.attributes.push(LinkAttribute::IfName(bridge.name.clone()));
        message.attributes.extend(bridge.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        message.attributes.extend(bridge.mtu.map(LinkAttribute::Mtu));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        let object = format!("bridge {}", bridge.name);
        self.change(RouteNetlinkMessage::NewLink(message), CREATE, Operation::Add, &object).await
    }

    /// Plugs a link into a bridge, or into none.
    pub async fn set_master(&self, index: u32, bridge: Option<u32>) -> Result<(), Error> {
        self.set(index, LinkAttribute::Controller(bridge.unwrap_or(0))).await
    }

    /// Tells the bridge that a link is plugged into how to treat it.
    pub async fn set_port(&self, index: u32, port: Port) -> Result<(), Error> {
        let settings = vec![
            InfoBridgePort::HairpinMode(port.hairpin),
            InfoBridgePort::Isolated(port.isolated),
            InfoBridgePort::Locked(port.locked),
        ];
        let mut message = message_for(index);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(settings)),
        ]));
        // Only RTM_NEWLINK takes settings of a port, for a link that is there as well. // kernel rtnetlink.c __rtnl_newlink
        let object = format!("port {index}");
        self.change(RouteNetlinkMessage::NewLink(message), 0, Operation::Change, &object).await
    }

    /// Pins a hardware address to the port that a link is: the bridge sends there what is for it, whatever it sees elsewhere.
    pub async fn pin(&self, index: u32, mac: Mac) -> Result<(), Error> {
        let mut message = forwarding(index);
        message.header.state = NeighbourState::Noarp; // neither learnt nor the bridge's own
        message.header.flags = NeighbourFlags::Controller | NeighbourFlags::Sticky;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let object = format!("forwarding of {mac} to port {index}");
        self.change(RouteNetlinkMessage::NewNeighbour(message), REPLACE, Operation::Add, &object).await
    }

    /// Lists the hardware addresses that are pinned to the port that a link is.
    pub async fn pinned(&self, index: u32) -> Result<Vec<Mac>, Error> {
        let request = RouteNetlinkMessage::GetNeighbour(forwarding(index));
        self.list(request, &format!("forwarding to port {index}"), |message| match message {
            RouteNetlinkMessage::NewNeighbour(message) if message.header.ifindex == index => {
                pinned_of(message)
            }
            _ => None,
        })
        .await
    }
}

fn forwarding(index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message
}

fn pinned_of(message: NeighbourMessage) -> Option<Mac> {
    let NeighbourMessage { header, attributes, .. } = message;
    let is_pinned = header.state == NeighbourState::Noarp && header.flags.contains(NeighbourFlags::Sticky);
    attributes.into_iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) if is_pinned => bytes.try_into().ok().map(Mac),
        _ => None,
    })
}

pub(super) fn port_of(settings: &[InfoBridgePort]) -> Port {
    let mut port = Port::default();
    for setting in settings {
        match setting {
            InfoBridgePort::HairpinMode(is_on) => port.hairpin = *is_on,
            InfoBridgePort::Isolated(is_on) => port.isolated = *is_on,
            InfoBridgePort::Locked(is_on) => port.locked = *is_on,
            _ => {}
        }
    }
    port
}

pub(super) fn forwards(settings: &[InfoBridgePort]) -> bool {
    settings.contains(&InfoBridgePort::State(BridgePortState::Forwarding))
}

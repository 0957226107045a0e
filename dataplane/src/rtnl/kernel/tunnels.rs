//! VXLAN devices and their forwarding tables.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState as State,
    },
};

use super::{
    CREATE, Kernel, REPLACE,
    links::{message_for, set_up_or_down},
    neighbours::neighbour_of,
};
use crate::rtnl::{
    Device, Error, Forwarding, Mac, Neighbour, NeighbourState, Operation, Tunnel, Tunnels, Vxlan,
};

impl Tunnels for Kernel {
    async fn device(&self, name: &str) -> Result<Option<Device>, Error> {
        match self.link(name).await {
            Ok(link) => Ok(link.vxlan()),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn add_device(&self, vxlan: &Vxlan) -> Result<(), Error> {
        let Tunnel { vni, port, local, is_learning } = vxlan.tunnel;
        let local = match local {
            IpAddr::V4(local) => InfoVxlan::Local(local),
            IpAddr::V6(local) => InfoVxlan::Local6(local),
        };
        let settings =
            vec![InfoVxlan::Id(vni), InfoVxlan::Port(port), local, InfoVxlan::Learning(is_learning)];
        let mut message = LinkMessage::default();
        set_up_or_down(&mut message, true);
        message.attributes = vec![
            LinkAttribute::IfName(vxlan.name.clone()),
            LinkAttribute::Address(vxlan.mac.0.to_vec()),
            LinkAttribute::Mtu(vxlan.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(settings)),
            ]),
        ];
        let request = RouteNetlinkMessage::NewLink(message);
        self.change(request, CREATE, Operation::Add, &format!("link {vxlan}")).await
    }

    async fn delete_device(&self, index: u32) -> Result<(), Error> {
        self.delete_link(index).await
    }

    async fn mend_device(&self, index: u32, mac: Option<Mac>, mtu: u32) -> Result<(), Error> {
        let mut message = message_for(index);
        set_up_or_down(&mut message, true);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        let request = RouteNetlinkMessage::SetLink(message);
        self.change(request, 0, Operation::Change, &format!("link {index}")).await
    }

    async fn forwardings(&self, device: u32) -> Result<Vec<Forwarding>, Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = device;
        let request = RouteNetlinkMessage::GetNeighbour(message);
        let mut found =
            self.list(request, &format!("forwardings of link {device}"), forwarding_message).await?;
        found.retain(|entry| entry.link == device);
        Ok(found)
    }

    async fn put_forwarding(&self, entry: &Forwarding) -> Result<(), Error> {
        let request = RouteNetlinkMessage::NewNeighbour(message_of(entry));
        self.change(request, REPLACE, Operation::Add, &format!("forwarding {entry}")).await
    }

    async fn delete_forwarding(&self, entry: &Forwarding) -> Result<(), Error> {
        let request = RouteNetlinkMessage::DelNeighbour(message_of(entry));
        self.change(request, 0, Operation::Delete, &format!("forwarding {entry}")).await
    }

    async fn permanent_neighbours(&self, device: u32) -> Result<Vec<Neighbour>, Error> {
        let mut message = NeighbourMessage::default();
        message.attributes.push(NeighbourAttribute::IfIndex(device)); // the kernel lists no others
        let request = RouteNetlinkMessage::GetNeighbour(message);
        let found = self.list(request, &format!("neighbours on link {device}"), neighbour_of).await?;
        let is_permanent =
            |found: &Neighbour| found.link == device && found.state == NeighbourState::Permanent;
        Ok(found.into_iter().filter(is_permanent).collect())
    }

    async fn put_neighbour(&self, neighbour: &Neighbour) -> Result<(), Error> {
        Self::put_neighbour(self, neighbour).await
    }

    async fn delete_neighbour(&self, neighbour: &Neighbour) -> Result<(), Error> {
        Self::delete_neighbour(self, neighbour).await
    }
}

/// What VXLAN says of a link.
pub(super) fn tunnel_of(settings: &[InfoVxlan]) -> Option<Tunnel> {
    let (mut vni, mut port, mut local, mut is_learning) = (None, None, None, false);
    for setting in settings {
        match setting {
            InfoVxlan::Id(id) => vni = Some(*id),
            InfoVxlan::Port(number) => port = Some(*number),
            InfoVxlan::Local(ip) => local = Some(IpAddr::V4(*ip)),
            InfoVxlan::Local6(ip) => local = Some(IpAddr::V6(*ip)),
            InfoVxlan::Learning(is_on) => is_learning = *is_on,
            _ => {}
        }
    }
    Some(Tunnel { vni: vni?, port: port?, local: local?, is_learning })
}

fn message_of(entry: &Forwarding) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = entry.link;
    message.header.state = State::Permanent;
    message.header.flags = NeighbourFlags::Own; // NTF_SELF: the device's own table, and no bridge's
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(entry.mac.0.to_vec()),
        NeighbourAttribute::Destination(entry.remote.into()),
    ];
    message
}

fn forwarding_message(message: RouteNetlinkMessage) -> Option<Forwarding> {
    match message {
        RouteNetlinkMessage::NewNeighbour(message) => forwarding_of(message),
        _ => None,
    }
}

pub(super) fn forwarding_of(message: NeighbourMessage) -> Option<Forwarding> {
    if message.header.family != AddressFamily::Bridge {
        return None;
    }
    let (mut mac, mut remote) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok().map(Mac),
            NeighbourAttribute::Destination(address) => remote = ip_of(address),
            _ => {}
        }
    }
    Some(Forwarding { link: message.header.ifindex, mac: mac?, remote: remote? })
}

/// The family of such a message is a bridge's, so only its length tells which an address is of.
fn ip_of(address: NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(ip) => Some(ip.into()),
        NeighbourAddress::Inet6(ip) => Some(ip.into()),
        NeighbourAddress::Other(bytes) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok()
        }
        _ => None,
    }
}

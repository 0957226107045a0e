//! Links: found, made, changed, deleted.

use std::os::fd::AsRawFd;

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        AfSpecInet, AfSpecUnspec, InetDevConf, InfoData, InfoKind, InfoPortData, InfoVeth, LinkAttribute,
        LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
    },
};

use super::{
    CREATE, Kernel,
    bridges::{forwards, port_of},
    tunnels::tunnel_of,
};
use crate::{
    netns::Netns,
    rtnl::{Error, Link, Mac, Operation, VethEnd},
};

impl Kernel {
    /// Lists all links.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(without_counters());
        self.list(RouteNetlinkMessage::GetLink(message), "links", link_of).await
    }

    /// Finds a link by its name.
    pub async fn link(&self, name: &str) -> Result<Link, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.find(message, &format!("link {name}")).await
    }

    /// Finds a link by its index.
    pub async fn link_by_index(&self, index: u32) -> Result<Link, Error> {
        self.find(message_for(index), &format!("link {index}")).await
    }

    async fn find(&self, mut message: LinkMessage, object: &str) -> Result<Link, Error> {
        message.attributes.push(without_counters());
        let request = RouteNetlinkMessage::GetLink(message);
        let found = self.ask(request, 0, Operation::Find, object, link_of).await?;
        let incomplete = || Error::Incomplete { operation: Operation::Find, object: object.to_string() };
        found.into_iter().next().ok_or_else(incomplete)
    }

    /// Makes a veth pair with `peer` as its other end: in `netns`, or here. One message, so no end is ever elsewhere,
    /// or without its address, for even a moment.
    pub async fn add_veth(&self, end: &VethEnd, peer: &VethEnd, netns: Option<&Netns>) -> Result<(), Error> {
        let mut peer_message = end_message(peer);
        if let Some(netns) = netns {
            peer_message.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
        }
        let mut message = end_message(end);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer_message))),
        ]));
        let object = format!("veth pair {} and {}", end.name, peer.name);
        self.change(RouteNetlinkMessage::NewLink(message), CREATE, Operation::Add, &object).await
    }

    /// Sets a link up or down.
    pub async fn set_up(&self, index: u32, is_up: bool) -> Result<(), Error> {
        let mut message = message_for(index);
        set_up_or_down(&mut message, is_up);
        self.change_link(message, index).await
    }

    /// Makes a link take IPv4 packets from all sources that there is a way to, by whichever link: its `rp_filter` is loose (2). Needs no
    /// `/proc/sys` that can be written. // kernel devinet.c `inet_set_link_af`
    pub async fn loosen_reverse_path_filter(&self, index: u32) -> Result<(), Error> {
        let mut settings = InetDevConf::default(); // what is 0 is not sent
        settings.rp_filter = 2;
        let settings = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(settings)]);
        let mut message = message_for(index);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![settings]));
        self.change_link(message, index).await
    }

    /// Makes a link take packets that are for others, or not.
    pub async fn set_promiscuous(&self, index: u32, is_promiscuous: bool) -> Result<(), Error> {
        self.set_flag(index, LinkFlags::Promisc, is_promiscuous).await
    }

    /// Makes a link take packets for all groups, or not.
    pub async fn set_allmulti(&self, index: u32, is_allmulti: bool) -> Result<(), Error> {
        self.set_flag(index, LinkFlags::Allmulti, is_allmulti).await
    }

    /// Sets how many packets wait in a queue that has no limit of its own.
    pub async fn set_tx_queue_len(&self, index: u32, packets: u32) -> Result<(), Error> {
        self.set(index, LinkAttribute::TxQueueLen(packets)).await
    }

    /// Sets the largest packet that a link takes.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), Error> {
        self.set(index, LinkAttribute::Mtu(mtu)).await
    }

    /// Sets the free text on a link, and the link up.
    pub async fn set_up_with_alias(&self, index: u32, alias: &str) -> Result<(), Error> {
        let mut message = message_for(index);
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        set_up_or_down(&mut message, true);
        self.change_link(message, index).await
    }

    /// Renames a link.
    pub async fn rename(&self, index: u32, name: &str) -> Result<(), Error> {
        self.set(index, LinkAttribute::IfName(name.to_owned())).await
    }

    /// Sets the hardware address of a link.
    pub async fn set_mac(&self, index: u32, mac: Mac) -> Result<(), Error> {
        self.set(index, LinkAttribute::Address(mac.0.to_vec())).await
    }

    /// Deletes a link; the other end of a veth pair, its addresses and routes go with it.
    pub async fn delete_link(&self, index: u32) -> Result<(), Error> {
        let request = RouteNetlinkMessage::DelLink(message_for(index));
        self.change(request, 0, Operation::Delete, &format!("link {index}")).await
    }

    pub(super) async fn set(&self, index: u32, attribute: LinkAttribute) -> Result<(), Error> {
        let mut message = message_for(index);
        message.attributes.push(attribute);
        self.change_link(message, index).await
    }

    async fn set_flag(&self, index: u32, flag: LinkFlags, is_on: bool) -> Result<(), Error> {
        let mut message = message_for(index);
        message.header.flags.set(flag, is_on);
        message.header.change_mask = flag;
        self.change_link(message, index).await
    }

    async fn change_link(&self, message: LinkMessage, index: u32) -> Result<(), Error> {
        let request = RouteNetlinkMessage::SetLink(message);
        self.change(request, 0, Operation::Change, &format!("link {index}")).await
    }
}

pub(super) fn message_for(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// Counters are most of what the kernel says of a link, and nobody here reads them.
fn without_counters() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

fn end_message(end: &VethEnd) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(end.name.clone()),
        LinkAttribute::Address(end.mac.0.to_vec()),
        LinkAttribute::Mtu(end.mtu),
        // One is used. Unasked, the kernel makes one for each CPU, each with its place in sysfs, takes all but one away again, and
        // waits for RCU while nobody else may change a link. // kernel veth.c veth_init_queues
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
    ];
    message
}

pub(super) fn set_up_or_down(message: &mut LinkMessage, is_up: bool) {
    message.header.flags.set(LinkFlags::Up, is_up);
    message.header.change_mask = LinkFlags::Up;
}

pub(super) fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(LinkMessage { header, attributes, .. }) = message else { return None };
    let mut link = Link {
        index: header.index,
        name: String::new(),
        kind: None,
        mac: None,
        mtu: 0,
        is_up: header.flags.contains(LinkFlags::Up),
        has_carrier: header.flags.contains(LinkFlags::LowerUp),
        is_running: header.flags.contains(LinkFlags::Running),
        has_neighbours: !header.flags.intersects(LinkFlags::Pointopoint | LinkFlags::Noarp),
        alias: None,
        is_promiscuous: header.flags.contains(LinkFlags::Promisc),
        is_allmulti: header.flags.contains(LinkFlags::Allmulti),
        tx_queue_len: 0,
        master: None,
        port: None,
        is_forwarding: false,
        peer: None,
        peer_netns: None,
        tunnel: None,
    };
    for attribute in attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::TxQueueLen(packets) => link.tx_queue_len = packets,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Link(index) => link.peer = Some(index),
            LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(id),
            LinkAttribute::LinkInfo(parts) => {
                for part in parts {
                    match part {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vxlan(settings)) => link.tunnel = tunnel_of(&settings),
                        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                            (link.port, link.is_forwarding) = (Some(port_of(&port)), forwards(&port));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}

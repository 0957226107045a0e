//! Addresses of links.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags as Flags, AddressMessage},
};

use super::{CREATE, Kernel};
use crate::rtnl::{Address, AddressFlags, Error, Operation, Uniqueness};

impl Kernel {
    /// Lists the addresses of all links.
    pub async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.list(request, "addresses", address_of).await
    }

    /// Lists the addresses of a link, and whether others have them.
    pub async fn uniqueness(&self, link: u32) -> Result<Vec<(IpAddr, Uniqueness)>, Error> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let of_link = |message| {
            let (address, flags) = address_and_flags(message)?;
            let found = if flags.contains(Flags::Dadfailed) {
                Uniqueness::Refuted
            } else if flags.contains(Flags::Tentative) {
                Uniqueness::Sought
            } else {
                Uniqueness::Taken
            };
            (address.link == link).then_some((address.network.ip(), found))
        };
        self.list(request, &format!("addresses of link {link}"), of_link).await
    }

    /// Adds an address to its link.
    pub async fn add_address(&self, address: &Address) -> Result<(), Error> {
        let request = RouteNetlinkMessage::NewAddress(message_of(address));
        self.change(request, CREATE, Operation::Add, &format!("address {address}")).await
    }

    /// Takes an address from its link.
    pub async fn delete_address(&self, address: &Address) -> Result<(), Error> {
        let request = RouteNetlinkMessage::DelAddress(message_of(address));
        self.change(request, 0, Operation::Delete, &format!("address {address}")).await
    }
}

fn message_of(address: &Address) -> AddressMessage {
    let ip = address.network.ip();
    let mut message = AddressMessage::default();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = address.network.prefix();
    message.header.index = address.link;
    let mut flags = Flags::empty();
    flags.set(Flags::Noprefixroute, address.flags.noprefixroute);
    flags.set(Flags::Nodad, address.flags.nodad);
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    if !flags.is_empty() {
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    message
}

pub(super) fn address_of(message: RouteNetlinkMessage) -> Option<Address> {
    address_and_flags(message).map(|(address, _)| address)
}

fn address_and_flags(message: RouteNetlinkMessage) -> Option<(Address, Flags)> {
    let RouteNetlinkMessage::NewAddress(AddressMessage { header, attributes, .. }) = message else {
        return None;
    };
    // Where both are there, `Local` is the link's own and `Address` the other end's.
    let (mut local, mut other): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    let mut flags = Flags::from_bits_retain(u32::from(header.flags.bits()));
    for attribute in attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => other = Some(ip),
            AddressAttribute::Flags(all) => flags = all,
            _ => {}
        }
    }
    let network = IpNetwork::new(local.or(other)?, header.prefix_len).ok()?;
    let kept = AddressFlags {
        noprefixroute: flags.contains(Flags::Noprefixroute),
        nodad: flags.contains(Flags::Nodad),
    };
    Some((Address { link: header.index, network, flags: kept }, flags))
}

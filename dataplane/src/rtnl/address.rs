//! Addresses of links.

use std::fmt;

use ipnetwork::IpNetwork;

/// How the kernel treats an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressFlags {
    /// The kernel adds no route for the address's network.
    pub noprefixroute: bool,
    /// An IPv6 address is usable at once, without a search for duplicates. IPv4 has no such search.
    pub nodad: bool,
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The link's index.
    pub link: u32,
    /// The address and the length of its network's prefix.
    pub network: IpNetwork,
    /// How it is treated.
    pub flags: AddressFlags,
}

impl Address {
    /// An address that is usable at once and brings no route with it.
    pub fn bare(link: u32, network: IpNetwork) -> Self {
        let flags = AddressFlags { noprefixroute: true, nodad: network.is_ipv6() };
        Self { link, network, flags }
    }
}

/// How far the search for others with the same IPv6 address has come. // RFC 4862 §5.4
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Uniqueness {
    /// It goes on: the address cannot be used yet.
    Sought,
    /// Another has the address.
    Refuted,
    /// Nobody else was found, or looked for.
    Taken,
}

impl fmt::Display for Address {
    /// As `ip address` would take it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.network, self.link)
    }
}

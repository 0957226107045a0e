//! Links and their hardware addresses.

use std::{fmt, str::FromStr};

use super::{Device, Port, Tunnel, Vxlan};

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Makes a locally administered unicast address of the low 46 bits of `seed`: the same for the same seed.
    ///
    /// Links that are made with an address of their own are left alone by udev and systemd-networkd, whose
    /// `MACAddressPolicy=persistent` would otherwise change it a moment later.
    pub fn locally_administered(seed: u64) -> Self {
        let [_, _, first, rest @ ..] = seed.to_be_bytes();
        let [second, third, fourth, fifth, sixth] = rest;
        Self([first & 0b1111_1100 | 0b10, second, third, fourth, fifth, sixth])
    }

    /// Says whether a link can have it: it is no group's, and not all zero. // `is_valid_ether_addr`, linux/etherdevice.h
    pub fn is_unicast(self) -> bool {
        let Self([first, ..]) = self;
        first & 1 == 0 && self != Self([0; 6])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

/// The text is not six pairs of hexadecimal digits with colons between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address")]
pub struct ParseMacError(String);

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseMacError(text.to_owned());
        let bytes = text.split(':').map(|pair| match pair.len() {
            2 => u8::from_str_radix(pair, 16).map_err(|_| wrong()),
            _ => Err(wrong()),
        });
        let bytes: Vec<u8> = bytes.collect::<Result<_, _>>()?;
        bytes.try_into().map(Self).map_err(|_| wrong())
    }
}

/// A link as the kernel shows it.
#[expect(clippy::struct_excessive_bools, reason = "the kernel has them apart")]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// What the kernel calls it; unique in its namespace while it lives.
    pub index: u32,
    /// What people call it.
    pub name: String,
    /// `veth`, `bridge`, …; nothing for the loopback link and for hardware.
    pub kind: Option<String>,
    /// Hardware address, where it is an Ethernet one.
    pub mac: Option<Mac>,
    /// The largest packet it takes.
    pub mtu: u32,
    /// Whether it has been set up.
    pub is_up: bool,
    /// Whether it could carry packets: up, and its other end as well.
    pub has_carrier: bool,
    /// Whether the kernel has noticed that it carries packets, and sends some.
    pub is_running: bool,
    /// Whether others on it are found by asking for their hardware addresses: not so where there is one other end, nor where the kernel is
    /// told not to ask.
    pub has_neighbours: bool,
    /// Free text on it: our host ends bear the pod's name.
    pub alias: Option<String>,
    /// Whether it takes packets that are for others.
    pub is_promiscuous: bool,
    /// Whether it takes packets for all groups.
    pub is_allmulti: bool,
    /// How many packets wait in a queue that has no limit of its own.
    pub tx_queue_len: u32,
    /// The bridge it belongs to.
    pub master: Option<u32>,
    /// How that bridge treats it.
    pub port: Option<Port>,
    /// Whether that bridge lets packets in and out here.
    pub is_forwarding: bool,
    /// The index of a veth's other end, in the namespace that `peer_netns` tells.
    pub peer: Option<u32>,
    /// This namespace's number for the one where the other end is; nothing if it is this one.
    pub peer_netns: Option<i32>,
    /// What it sends, and where from, if it is a VXLAN device with an address to send from.
    pub tunnel: Option<Tunnel>,
}

impl Link {
    /// Says whether this is an end of a veth pair.
    pub fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }

    /// Says whether others can be plugged into this.
    pub fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some("bridge")
    }

    /// The VXLAN device that this is, if it is one.
    pub fn vxlan(&self) -> Option<Device> {
        let vxlan = Vxlan { name: self.name.clone(), mac: self.mac?, mtu: self.mtu, tunnel: self.tunnel? };
        Some(Device { index: self.index, vxlan, is_up: self.is_up })
    }

    /// Says whether this is there only to have a queue, for packets that came in elsewhere.
    pub fn is_ifb(&self) -> bool {
        self.kind.as_deref() == Some("ifb")
    }
}

/// One end of a veth pair to be made. It is down at first: the kernel opens no end before the other is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VethEnd {
    /// Name of the link.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
    /// The largest packet it takes.
    pub mtu: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_mac_is_parsed_as_it_is_printed(bytes: [u8; 6]) {
            prop_assert_eq!(Mac(bytes).to_string().parse(), Ok(Mac(bytes)));
        }

        #[test]
        fn a_locally_administered_mac_is_unicast_and_local(seed: u64) {
            let Mac([first, ..]) = Mac::locally_administered(seed);
            prop_assert_eq!(first & 0b11, 0b10);
        }
    }

    #[test]
    fn what_is_no_mac_is_named() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "02:00:00:00:00:0g",
            "+2:00:00:00:00:00x",
        ] {
            let refused = text.parse::<Mac>().unwrap_err();
            assert_eq!(refused.to_string(), format!("{text:?} is not a MAC address"));
        }
    }
}

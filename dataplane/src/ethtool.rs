//! What links leave to the hardware, or to whoever comes next: read and set, as `ethtool -k` and `-K` do, without that program.
//!
//! In: a link and the name of a feature. Out: whether it is on; or it is on, or off. Over the kernel's generic netlink family
//! `ethtool` (Documentation/networking/ethtool-netlink.rst; features since Linux 5.8), in the namespace that the socket was opened in.

use std::io;

use netlink_sys::protocols::NETLINK_GENERIC;

use crate::nfnetlink::{ACK, Channel, REQUEST, message::Attributes, message::Writer};

/// The checksum of packets' transports is left to whoever comes next: on a VXLAN device, that of the packets inside.
pub const TX_CHECKSUM: &str = "tx-checksum-ip-generic";

// include/uapi/linux/genetlink.h
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

// include/uapi/linux/ethtool_netlink.h
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const HEADER: u16 = 1;
const HEADER_LINK: u16 = 1;
const WANTED: u16 = 3;
const ACTIVE: u16 = 4;
const BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// Room for a request.
const SEND_BUFFER: usize = 64 << 10;

/// Why a feature could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no such family, or not for us.
    #[error("ask the kernel's ethtool family")]
    Open(#[source] io::Error),
    /// It does not say.
    #[error("read the features of link {link}")]
    Read {
        /// The link's index.
        link: u32,
        /// What it says instead.
        source: io::Error,
    },
    /// It does not do it.
    #[error("set {feature} of link {link}")]
    Set {
        /// The link's index.
        link: u32,
        /// The feature.
        feature: String,
        /// What it says.
        source: io::Error,
    },
}

/// A socket to the links' features.
#[derive(Debug)]
pub struct Features {
    channel: Channel,
    /// What the kernel calls the family.
    family: u16,
}

impl Features {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let channel = Channel::open_to(NETLINK_GENERIC, SEND_BUFFER).map_err(Error::Open)?;
        let mut family = None;
        let name = |writer: &mut Writer| writer.put_name(FAMILY_NAME, "ethtool");
        ask(&channel, CONTROLLER, GET_FAMILY, name, |attributes| {
            family = attributes.find(FAMILY_ID).and_then(|id| id.try_into().ok()).map(u16::from_ne_bytes);
        })
        .map_err(Error::Open)?;
        let family = family.ok_or_else(|| Error::Open(io::ErrorKind::NotFound.into()))?;
        Ok(Self { channel, family })
    }

    /// Says whether a feature of a link is on.
    pub fn is_on(&self, link: u32, feature: &str) -> Result<bool, Error> {
        let mut is_on = false;
        let of_link = |writer: &mut Writer| put_link(writer, link);
        ask(&self.channel, self.family, FEATURES_GET, of_link, |attributes| {
            let bits = attributes.inside(ACTIVE).and_then(|active| active.inside(BITS));
            let named = |(_, bit)| Attributes(bit).name(BIT_NAME) == Some(feature);
            is_on |= bits.is_some_and(|bits| bits.into_iter().any(named)); // without a mask, only those that are on
        })
        .map_err(|source| Error::Read { link, source })?;
        Ok(is_on)
    }

    /// Sets a feature of a link on or off.
    pub fn set(&self, link: u32, feature: &str, is_on: bool) -> Result<(), Error> {
        let wanted = |writer: &mut Writer| {
            put_link(writer, link);
            let wanted = writer.open(WANTED);
            let bits = writer.open(BITS);
            let bit = writer.open(BIT);
            writer.put_name(BIT_NAME, feature);
            if is_on {
                writer.put(BIT_VALUE, &[]);
            }
            for open in [bit, bits, wanted] {
                writer.close(open);
            }
        };
        ask(&self.channel, self.family, FEATURES_SET, wanted, |_| {}).map_err(|source| Error::Set {
            link,
            feature: feature.to_owned(),
            source,
        })
    }
}

fn put_link(writer: &mut Writer, link: u32) {
    let header = writer.open(HEADER);
    writer.put(HEADER_LINK, &link.to_ne_bytes());
    writer.close(header);
}

/// Sends a request and hands each message of the answer to `take`.
fn ask(
    channel: &Channel,
    family: u16,
    command: u8,
    fill: impl Fn(&mut Writer),
    mut take: impl FnMut(Attributes<'_>),
) -> io::Result<()> {
    let mut writer = Writer::default();
    // A `genlmsghdr` is as long as an `nfgenmsg`, and begins with the command where that has the family.
    let open = writer.open_message(family, REQUEST | ACK, 1, command, 0);
    fill(&mut writer);
    writer.close_message(open);
    channel.send(writer.bytes())?;
    let mut interrupted = false;
    while !channel.answer(&mut interrupted, |_, attributes| take(attributes))? {}
    Ok(())
}

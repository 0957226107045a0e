//! VXLAN devices, and whom they reach: values, and what can be done with them.
//!
//! A device of ours learns nothing. Who is behind which hardware address is all told: a [`Neighbour`] says which hardware
//! address a gateway has, a [`Forwarding`] which machine has that address.

use std::{fmt, net::IpAddr};

use super::{Error, Mac, Neighbour};

/// A VXLAN device. // RFC 7348
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vxlan {
    /// Name of the link.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
    /// The largest packet that it takes.
    pub mtu: u32,
    /// What it sends, and where from. The device is another where this is different.
    pub tunnel: Tunnel,
}

/// What a VXLAN device sends, and where from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tunnel {
    /// The network's number: 24 bits.
    pub vni: u32,
    /// The UDP port, here and there.
    pub port: u16,
    /// The address that its packets come from. The other ends are of the same family.
    pub local: IpAddr,
    /// Whether it believes the packets that come in about who is where.
    pub is_learning: bool,
}

/// A VXLAN device that is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// What the kernel calls it.
    pub index: u32,
    /// What it is.
    pub vxlan: Vxlan,
    /// Whether it is set up.
    pub is_up: bool,
}

/// An entry of a VXLAN device's forwarding table: which machine has a hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forwarding {
    /// The device's index.
    pub link: u32,
    /// The hardware address.
    pub mac: Mac,
    /// The machine.
    pub remote: IpAddr,
}

impl fmt::Display for Vxlan {
    /// As `ip link add` would take it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tunnel { vni, port, local, is_learning } = self.tunnel;
        write!(f, "{} address {} mtu {} type vxlan id {vni} dstport {port}", self.name, self.mac, self.mtu)?;
        write!(f, " local {local} {}", if is_learning { "learning" } else { "nolearning" })
    }
}

impl fmt::Display for Forwarding {
    /// As `bridge fdb` would take it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {} dst {}", self.mac, self.link, self.remote)
    }
}

/// Whoever keeps VXLAN devices and what they are told: the kernel, or a fake of it.
pub trait Tunnels {
    /// Finds a link by its name, if it is there and a VXLAN device.
    fn device(&self, name: &str) -> impl Future<Output = Result<Option<Device>, Error>> + Send;

    /// Makes a device. It is up from the start.
    fn add_device(&self, vxlan: &Vxlan) -> impl Future<Output = Result<(), Error>> + Send;

    /// Deletes a device with all that it has been told, and the routes over it.
    fn delete_device(&self, index: u32) -> impl Future<Output = Result<(), Error>> + Send;

    /// Gives a device this MTU and, where it is to have another, this hardware address, and sets it up. With its hardware address the
    /// neighbours on it go, permanent ones as well. // kernel neighbour.c `neigh_changeaddr`
    fn mend_device(
        &self,
        index: u32,
        mac: Option<Mac>,
        mtu: u32,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Lists whom a device reaches.
    fn forwardings(&self, device: u32) -> impl Future<Output = Result<Vec<Forwarding>, Error>> + Send;

    /// Puts an entry in the place of the one with its hardware address, or adds it.
    fn put_forwarding(&self, entry: &Forwarding) -> impl Future<Output = Result<(), Error>> + Send;

    /// Deletes an entry. One of the same hardware address that leads elsewhere stays.
    fn delete_forwarding(&self, entry: &Forwarding) -> impl Future<Output = Result<(), Error>> + Send;

    /// Lists the permanent neighbours on a device.
    fn permanent_neighbours(&self, device: u32)
    -> impl Future<Output = Result<Vec<Neighbour>, Error>> + Send;

    /// Puts a neighbour in the place of what was known of its address, or adds it.
    fn put_neighbour(&self, neighbour: &Neighbour) -> impl Future<Output = Result<(), Error>> + Send;

    /// Forgets a neighbour that is there.
    fn delete_neighbour(&self, neighbour: &Neighbour) -> impl Future<Output = Result<(), Error>> + Send;
}

//! The wires between machines: switches, and a link from each machine to one of them.
//!
//! In: hosts and their addresses. Out: `eth0` on each, up, with its addresses and a default route. A switch is a bridge
//! in a namespace of its own and goes with its handle.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU32, Ordering},
};

use dataplane::{
    netns::{self, Netns},
    rtnl::{self, Address, AddressFlags, Bridge, Kernel, LOOPBACK, Mac, Route, Routes as _, VethEnd},
    sysctl,
};
use ipnetwork::IpNetwork;
use tokio::runtime::{self, Runtime};

use crate::host::{self, Host};

/// The interface that leads out of each machine.
pub const UPLINK: &str = "eth0";

/// How often links to come ask whether somebody has their address.
const DAD: &str = "net/ipv6/conf/default/dad_transmits";

const BRIDGE: &str = "switch";
const MTU: u32 = 1500;

/// `RTPROT_STATIC` (rtnetlink.h): a route that the administrator made, as this one plays.
const STATIC: u8 = 4;

/// Why a machine is not on the network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No event loop for netlink.
    #[error("start the event loop of the switch")]
    Runtime(#[source] io::Error),
    /// A namespace refused.
    #[error("network namespace of {of}")]
    Netns {
        /// The machine.
        of: String,
        /// Why.
        source: netns::Error,
    },
    /// A host refused.
    #[error("network of {of}")]
    Host {
        /// The machine.
        of: String,
        /// Why.
        source: host::Error,
    },
    /// The kernel refused a link, an address or a route.
    #[error("network of {of}")]
    Link {
        /// The machine.
        of: String,
        /// Why.
        source: rtnl::Error,
    },
    /// The kernel refused a parameter.
    #[error("network of {of}")]
    Parameter {
        /// The machine.
        of: String,
        /// Why.
        source: sysctl::Error,
    },
}

/// A switch that machines are connected to.
#[derive(Debug)]
pub struct Switch {
    runtime: Runtime,
    netns: Netns,
    connected: AtomicU32,
}

impl Switch {
    /// Makes a switch without any machine.
    pub fn make() -> Result<Self, Error> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
        let of = || BRIDGE.to_owned();
        let netns = Netns::make().map_err(|source| Error::Netns { of: of(), source })?;
        let made = runtime.block_on(async {
            Kernel::open_in(&netns)?.add_bridge(&Bridge::named(BRIDGE)).await.map(|()| &netns)
        });
        made.map_err(|source| Error::Link { of: of(), source })?;
        Ok(Self { runtime, netns, connected: AtomicU32::new(0) })
    }

    /// Where its frames pass: for whoever plays a network that takes not all of them.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Connects `host` with these addresses. Its default routes lead to the first address of each network, unless that
    /// is its own.
    pub fn connect(&self, host: &Host, addresses: &[IpAddr]) -> Result<(), Error> {
        self.connect_by(UPLINK, host, addresses)
    }

    /// The same, by a link of this name, for machines on several networks.
    pub fn connect_by(&self, link: &str, host: &Host, addresses: &[IpAddr]) -> Result<(), Error> {
        let of = || host.name().to_owned();
        let netns = Netns::open(host.netns_path()).map_err(|source| Error::Netns { of: of(), source })?;
        let set = |parameters: &[(&str, &str)]| {
            let all = host.run(|| parameters.iter().try_for_each(|(key, value)| set(key, value)));
            let all = all.map_err(|source| Error::Host { of: of(), source })?;
            all.map_err(|source| Error::Parameter { of: of(), source })
        };
        // Nobody else is on the switch whose address could be the same: no second is lost on searching for one.
        set(&[(DAD, "0")])?;
        let number = self.connected.fetch_add(1, Ordering::Relaxed);
        let wired = self.runtime.block_on(self.wire(number, link, &netns, addresses));
        wired.map_err(|source| Error::Link { of: of(), source })?;
        set(&[(DAD, "1"), ("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])
    }

    /// Takes these addresses from a machine that is connected, and gives it those.
    pub fn readdress(&self, host: &Host, old: &[IpAddr], new: &[IpAddr]) -> Result<(), Error> {
        let of = || host.name().to_owned();
        let netns = Netns::open(host.netns_path()).map_err(|source| Error::Netns { of: of(), source })?;
        let done = self.runtime.block_on(async {
            let machine = Kernel::open_in(&netns)?;
            let uplink = machine.link(UPLINK).await?.index;
            for address in old {
                machine.delete_address(&address_on(uplink, *address)).await?;
            }
            give(&machine, uplink, new).await
        });
        done.map_err(|source| Error::Link { of: of(), source })
    }

    async fn wire(
        &self,
        number: u32,
        uplink: &str,
        machine: &Netns,
        addresses: &[IpAddr],
    ) -> Result<(), rtnl::Error> {
        let switch = Kernel::open_in(&self.netns)?;
        let machine_kernel = Kernel::open_in(machine)?;
        let seed = u64::from(number) << 1;
        let end = |name: &str, seed| VethEnd {
            name: name.to_owned(),
            mac: Mac::locally_administered(seed),
            mtu: MTU,
        };
        let port = format!("port{number}");
        switch.add_veth(&end(&port, seed), &end(uplink, seed | 1), Some(machine)).await?;
        let bridge = switch.link(BRIDGE).await?.index;
        let port = switch.link(&port).await?.index;
        switch.set_master(port, Some(bridge)).await?;
        switch.set_up(port, true).await?;

        machine_kernel.set_up(LOOPBACK, true).await?;
        let uplink = machine_kernel.link(uplink).await?.index;
        machine_kernel.set_up(uplink, true).await?;
        give(&machine_kernel, uplink, addresses).await
    }
}

/// Gives a machine addresses, and a way out through the first of each network, unless that is its own.
async fn give(machine: &Kernel, uplink: u32, addresses: &[IpAddr]) -> Result<(), rtnl::Error> {
    for address in addresses {
        machine.add_address(&address_on(uplink, *address)).await?;
    }
    for gateway in addresses.iter().map(|address| gateway_of(*address)) {
        if !addresses.contains(&gateway) {
            let default = Route { protocol: STATIC, ..Route::through(everything(gateway), gateway, uplink) };
            machine.replace_route(&default).await?;
        }
    }
    Ok(())
}

fn address_on(uplink: u32, address: IpAddr) -> Address {
    let flags = AddressFlags { noprefixroute: false, nodad: address.is_ipv6() };
    Address { link: uplink, network: network_of(address), flags }
}

/// Sets a parameter of the calling thread's namespace; none of IPv6 where the kernel has no IPv6.
fn set(key: &str, value: &str) -> Result<(), sysctl::Error> {
    match sysctl::set_if_different(key, value) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// The network that a machine's address is in: /24, or /64 with IPv6.
pub fn network_of(address: IpAddr) -> IpNetwork {
    let bits = if address.is_ipv4() { 24 } else { 64 };
    IpNetwork::new(address, bits).unwrap_or(address.into())
}

/// The first address of the network that `address` is in: where the way out is.
pub fn gateway_of(address: IpAddr) -> IpAddr {
    match network_of(address).network() {
        IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() | 1).into(),
        IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() | 1).into(),
    }
}

fn everything(of_family: IpAddr) -> IpNetwork {
    let zero: IpAddr = match of_family {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNetwork::new(zero, 0).unwrap_or(zero.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_out_is_the_first_address_of_the_network() {
        let check = |address: &str, gateway: &str| {
            assert_eq!(gateway_of(address.parse().unwrap()), gateway.parse::<IpAddr>().unwrap());
        };
        check("192.168.14.52", "192.168.14.1");
        check("fd00:192:168:14::52", "fd00:192:168:14::1");
    }
}

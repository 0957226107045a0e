//! Three machines in a row, with a node in the middle for whoever tries its tables alone, without a cluster around it.
//!
//! ```text
//! client 192.168.1.2 ── 192.168.1.1 node 192.168.2.1 ── 192.168.2.2, .3 server
//!                                        10.128.0.0/9 ─▶
//! ```
//!
//! The server is said to have all endpoints behind it, and throws away what comes for them.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use dataplane::{
    netns::Netns,
    rtnl::{Address, AddressFlags, Kernel, LOOPBACK, Mac, Route, Routes as _, VethEnd},
    sysctl,
};
use ipnetwork::IpNetwork;
use tokio::runtime;

use crate::host::Host;

/// The client's address.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
/// The server's own addresses.
pub const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 2, 2), Ipv4Addr::new(192, 168, 2, 3)];

const CLIENT_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const SERVER_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 1);

/// Where the node sends packets to the server although the server does not have the addresses.
const ENDPOINTS: &str = "10.128.0.0/9";

/// The machines. They are gone when this is dropped.
#[derive(Debug)]
pub struct Row {
    /// Sends everything to the node.
    pub client: Host,
    /// Forwards; what else it does is up to the caller.
    pub node: Host,
    /// Sends everything to the node.
    pub server: Host,
}

impl Row {
    /// Makes the machines, the links between them, and the ways over the node.
    pub fn make() -> Result<Self> {
        let row =
            Self { client: Host::make("client")?, node: Host::make("node")?, server: Host::make("server")? };
        row.wire()?;
        Ok(row)
    }

    fn wire(&self) -> Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let netns = |host: &Host| Netns::open(host.netns_path());
        let (client, on_node, server) = (netns(&self.client)?, netns(&self.node)?, netns(&self.server)?);
        self.node.run(|| sysctl::set_if_different("net/ipv4/ip_forward", "1"))??;
        runtime.block_on(async {
            let kernel = Kernel::open_in(&on_node)?;
            link(&kernel, ("client", CLIENT_GATEWAY), &client, &[CLIENT]).await?;
            let index = link(&kernel, ("server", SERVER_GATEWAY), &server, &SERVERS).await?;
            kernel.add_route(&Route::through(ENDPOINTS.parse()?, SERVERS[0].into(), index)).await?;
            Ok(())
        })
    }
}

/// Links a machine to the node, with its default route over there. Returns the index of the node's end.
async fn link(node: &Kernel, end: (&str, Ipv4Addr), to: &Netns, addresses: &[Ipv4Addr]) -> Result<u32> {
    const UPLINK: &str = "eth0";
    let (name, gateway) = end;
    let seed = u64::from(gateway.to_bits());
    let veth =
        |name: &str, seed| VethEnd { name: name.to_owned(), mac: Mac::locally_administered(seed), mtu: 1500 };
    let machine = Kernel::open_in(to)?;
    node.add_veth(&veth(name, seed << 1), &veth(UPLINK, seed << 1 | 1), Some(to)).await?;
    let index = node.link(name).await?.index;
    let uplink = machine.link(UPLINK).await?.index;
    machine.set_up(LOOPBACK, true).await?;
    machine.set_up(uplink, true).await?;
    node.set_up(index, true).await?;
    let address = |link, ip: &Ipv4Addr| -> Result<Address> {
        let network = IpNetwork::new(IpAddr::V4(*ip), 24)?;
        Ok(Address { link, network, flags: AddressFlags::default() })
    };
    node.add_address(&address(index, &gateway)?).await?;
    for ip in addresses {
        machine.add_address(&address(uplink, ip)?).await?;
    }
    machine.add_route(&Route::through("0.0.0.0/0".parse()?, gateway.into(), uplink)).await?;
    Ok(index)
}

//! The same ways as ours, made of links, addresses and routes alone, as `ip` makes them: no daemon, no plugin, no tables.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use anyhow::{Context as _, Result};
use dataplane::{
    forwarding,
    netns::Netns,
    packet::Family,
    rtnl::{
        Address, AddressFlags, Forwarding, Kernel, LOOPBACK, Mac, Neighbour, NeighbourState, Route,
        Routes as _, Tunnel, Tunnels as _, VethEnd, Vxlan,
    },
};
use ipnetwork::IpNetwork;
use tokio::runtime;

use super::{PATIENCE, Way};
use crate::{
    host::Host,
    network::{Switch, UPLINK},
};

/// Two machines with something between them, and the second one's address.
pub(super) struct ByHand {
    name: &'static str,
    machines: [Host; 2],
    address: Ipv4Addr,
    /// What is between them, which goes with this.
    _nodes: Vec<Host>,
    _switch: Option<Switch>,
}

/// A pod, and the node that it is on.
#[derive(Debug, Clone, Copy)]
struct End {
    node: Ipv4Addr,
    pod: Ipv4Addr,
    gateway: Ipv4Addr,
    /// Of the node's end of the tunnel.
    mac: Mac,
}

const BARE: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 31, 1), Ipv4Addr::new(192, 168, 31, 2)];

const ENDS: [End; 2] = [
    End {
        node: Ipv4Addr::new(192, 168, 30, 11),
        pod: Ipv4Addr::new(10, 30, 0, 2),
        gateway: Ipv4Addr::new(10, 30, 0, 1),
        mac: Mac([2, 0, 0, 0, 30, 11]),
    },
    End {
        node: Ipv4Addr::new(192, 168, 30, 12),
        pod: Ipv4Addr::new(10, 30, 1, 2),
        gateway: Ipv4Addr::new(10, 30, 1, 1),
        mac: Mac([2, 0, 0, 0, 30, 12]),
    },
];

/// What an Ethernet link takes.
const ETHERNET: u32 = 1500;

impl ByHand {
    /// A pair of links, and nothing else.
    pub(super) fn bare() -> Result<Self> {
        let machines = [Host::make("veth0")?, Host::make("veth1")?];
        block_on(async {
            let [one, two] = &machines;
            wire(one, "eth0", BARE[0], two, BARE[1], ETHERNET).await
        })?;
        Ok(Self { name: "veth", machines, address: BARE[1], _nodes: Vec::new(), _switch: None })
    }

    /// Two pods on one node.
    pub(super) fn on_a_node() -> Result<Self> {
        let (node, pods) = (Host::make("n")?, [Host::make("p0")?, Host::make("p1")?]);
        block_on(async {
            for ((end, pod), link) in ENDS.into_iter().zip(&pods).zip(["pod0", "pod1"]) {
                add_pod(&node, link, end, pod, ETHERNET).await?;
            }
            Ok(())
        })?;
        let name = "by_hand_node";
        Ok(Self { name, machines: pods, address: ENDS[1].pod, _nodes: vec![node], _switch: None })
    }

    /// Two pods on two nodes, with a route between these.
    pub(super) fn routed() -> Result<Self> {
        Self::across("by_hand_direct", ETHERNET, &async |kernel: &Kernel, _, other: End| {
            let link = kernel.link(UPLINK).await?.index;
            Ok(kernel.add_route(&Route::through(pods_of(other)?, other.node.into(), link)).await?)
        })
    }

    /// Two pods on two nodes, with a tunnel between these.
    pub(super) fn tunnelled() -> Result<Self> {
        Self::across("by_hand_vxlan", ETHERNET - 50, &async |kernel: &Kernel, own, other| {
            tunnel(kernel, own, other).await
        })
    }

    fn across(
        name: &'static str,
        mtu: u32,
        lead: &impl AsyncFn(&Kernel, End, End) -> Result<()>,
    ) -> Result<Self> {
        let (switch, nodes) = (Switch::make()?, [Host::make("n0")?, Host::make("n1")?]);
        let pods = [Host::make("p0")?, Host::make("p1")?];
        for (node, end) in nodes.iter().zip(ENDS) {
            switch.connect(node, &[end.node.into()])?;
        }
        block_on(async {
            let others = ENDS.into_iter().rev();
            for (((own, other), node), pod) in ENDS.into_iter().zip(others).zip(&nodes).zip(&pods) {
                add_pod(node, "pod", own, pod, mtu).await?;
                lead(&kernel_of(node)?, own, other).await?;
            }
            Ok(())
        })?;
        Ok(Self { name, machines: pods, address: ENDS[1].pod, _nodes: nodes.into(), _switch: Some(switch) })
    }

    /// From the first machine to the second.
    pub(super) fn way(&self) -> Result<Way<'_>> {
        let [client, server] = &self.machines;
        let listener = server.run(|| TcpListener::bind((self.address, 0)))??;
        let to: SocketAddr = listener.local_addr()?;
        let connect = move || {
            let connected = client.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
            connected.with_context(|| format!("connect to {to}"))
        };
        Ok(Way { name: self.name, connect: Box::new(connect), listener })
    }
}

/// Wires a pod to its node, and has it send everything there.
async fn add_pod(node: &Host, link: &str, end: End, pod: &Host, mtu: u32) -> Result<()> {
    node.run(|| forwarding::allow(Family::Ip))??;
    wire(node, link, end.gateway, pod, end.pod, mtu).await?;
    let inside = kernel_of(pod)?;
    let eth0 = inside.link("eth0").await?.index;
    let everything = IpNetwork::new(Ipv4Addr::UNSPECIFIED.into(), 0)?;
    Ok(inside.add_route(&Route::through(everything, end.gateway.into(), eth0)).await?)
}

/// A pair of links from a machine to another's `eth0`, with an address on each.
async fn wire(
    from: &Host,
    name: &str,
    address: Ipv4Addr,
    to: &Host,
    other: Ipv4Addr,
    mtu: u32,
) -> Result<()> {
    let (near, far) = (kernel_of(from)?, kernel_of(to)?);
    let seed = u64::from(address.to_bits());
    let end = |name: &str, seed| VethEnd { name: name.to_owned(), mac: Mac::locally_administered(seed), mtu };
    near.add_veth(&end(name, seed), &end("eth0", seed + 1), Some(&netns_of(to)?)).await?;
    for (kernel, name, address) in [(&near, name, address), (&far, "eth0", other)] {
        kernel.set_up(LOOPBACK, true).await?;
        let link = kernel.link(name).await?.index;
        kernel.set_up(link, true).await?;
        let network = IpNetwork::new(address.into(), 24)?;
        kernel.add_address(&Address { link, network, flags: AddressFlags::default() }).await?;
    }
    Ok(())
}

async fn tunnel(kernel: &Kernel, own: End, other: End) -> Result<()> {
    let tunnel = Tunnel { vni: 1, port: 8472, local: own.node.into(), is_learning: false };
    let vxlan = Vxlan { name: "vxlan".to_owned(), mac: own.mac, mtu: ETHERNET - 50, tunnel };
    kernel.add_device(&vxlan).await?;
    let link = kernel.device("vxlan").await?.context("the device is not there")?.index;
    let (remote, mac): (IpAddr, _) = (other.node.into(), other.mac);
    kernel.put_forwarding(&Forwarding { link, mac, remote }).await?;
    let state = NeighbourState::Permanent;
    kernel.put_neighbour(&Neighbour { link, address: remote, mac: Some(mac), state }).await?;
    let route = Route { onlink: true, ..Route::through(pods_of(other)?, remote, link) };
    Ok(kernel.add_route(&route).await?)
}

/// The network of the pods of a node.
fn pods_of(end: End) -> Result<IpNetwork> {
    Ok(IpNetwork::new(IpNetwork::new(end.pod.into(), 24)?.network(), 24)?)
}

fn netns_of(host: &Host) -> Result<Netns> {
    Ok(Netns::open(host.netns_path())?)
}

fn kernel_of(host: &Host) -> Result<Kernel> {
    Ok(Kernel::open_in(&netns_of(host)?)?)
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

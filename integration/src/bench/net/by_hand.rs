//! The same ways as ours, made of links and routes alone: no daemon, no plugin, no tables.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use anyhow::{Context as _, Result};
use dataplane::{
    netns::Netns,
    rtnl::{
        Address, AddressFlags, Forwarding, Kernel, LOOPBACK, Mac, Neighbour, NeighbourState, Route,
        Routes as _, Tunnel, Tunnels as _, VethEnd, Vxlan,
    },
};
use ipnetwork::IpNetwork;
use tokio::runtime;

use super::{PATIENCE, Way};
use crate::{host::Host, network::Switch};

/// Two machines and a pair of links between them.
pub(super) struct Bare {
    machines: [Host; 2],
}

/// Two pods on two nodes with a tunnel between them.
pub(super) struct Tunnelled {
    pods: [Host; 2],
    _nodes: [Host; 2],
    _switch: Switch,
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

impl Bare {
    pub(super) fn make() -> Result<Self> {
        let machines = [Host::make("veth0")?, Host::make("veth1")?];
        block_on(async {
            let [one, two] = &machines;
            wire(one, "eth0", BARE[0], two, BARE[1], 1500).await
        })?;
        Ok(Self { machines })
    }

    pub(super) fn way(&self) -> Result<Way<'_>> {
        between("veth", &self.machines, BARE[1])
    }
}

impl Tunnelled {
    pub(super) fn make() -> Result<Self> {
        let (switch, nodes) = (Switch::make()?, [Host::make("n0")?, Host::make("n1")?]);
        let pods = [Host::make("p0")?, Host::make("p1")?];
        for (node, end) in nodes.iter().zip(ENDS) {
            switch.connect(node, &[end.node.into()])?;
        }
        block_on(async {
            let others = ENDS.into_iter().rev();
            for (((own, other), node), pod) in ENDS.into_iter().zip(others).zip(&nodes).zip(&pods) {
                wire(node, "pod", own.gateway, pod, own.pod, 1450).await?;
                let inside = kernel_of(pod)?;
                let eth0 = inside.link("eth0").await?.index;
                let everything = IpNetwork::new(Ipv4Addr::UNSPECIFIED.into(), 0)?;
                inside.add_route(&Route::through(everything, own.gateway.into(), eth0)).await?;
                tunnel(&kernel_of(node)?, own, other).await?;
            }
            Ok(())
        })?;
        Ok(Self { pods, _nodes: nodes, _switch: switch })
    }

    pub(super) fn way(&self) -> Result<Way<'_>> {
        between("by_hand", &self.pods, ENDS[1].pod)
    }
}

/// From the first of two machines to the second.
fn between<'a>(name: &'static str, machines: &'a [Host; 2], address: Ipv4Addr) -> Result<Way<'a>> {
    let [client, server] = machines;
    let listener = server.run(|| TcpListener::bind((address, 0)))??;
    let to: SocketAddr = listener.local_addr()?;
    let connect = move || {
        let connected = client.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        connected.with_context(|| format!("connect to {to}"))
    };
    Ok(Way { name, connect: Box::new(connect), listener })
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
    let end = |name: &str, seed| VethEnd { name: name.to_owned(), mac: Mac::locally_administered(seed), mtu };
    near.add_veth(&end(name, 1001), &end("eth0", 1002), Some(&netns_of(to)?)).await?;
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
    let vxlan = Vxlan { name: "vxlan".to_owned(), mac: own.mac, mtu: 1450, tunnel };
    kernel.add_device(&vxlan).await?;
    let link = kernel.device("vxlan").await?.context("the device is not there")?.index;
    let (remote, mac): (IpAddr, _) = (other.node.into(), other.mac);
    kernel.put_forwarding(&Forwarding { link, mac, remote }).await?;
    let state = NeighbourState::Permanent;
    kernel.put_neighbour(&Neighbour { link, address: remote, mac: Some(mac), state }).await?;
    let pods = IpNetwork::new(IpNetwork::new(other.pod.into(), 24)?.network(), 24)?;
    kernel.add_route(&Route { onlink: true, ..Route::through(pods, remote, link) }).await?;
    Ok(())
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

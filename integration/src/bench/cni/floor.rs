//! What the kernel alone takes for the same pods: one process that has its sockets open and makes what the plugin makes.
//!
//! No program is started, no file is read or written, nothing is looked for that is known, and nothing is waited for.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use anyhow::{Context as _, Result};
use dataplane::{
    netns::Netns,
    rtnl::{self, Address, Kernel, LOOPBACK, Mac, Neighbour, NeighbourState, Route, Routes as _, VethEnd},
};
use ipnetwork::IpNetwork;
use tokio::runtime::{self, Runtime};

use crate::{
    bench::figures::{Samples, measure},
    host::Host,
};

/// The address of all host ends.
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));

const MTU: u32 = 1500;

/// A node whose pods have no plugin.
#[derive(Debug)]
pub(super) struct Floor {
    pub(super) host: Host,
    runtime: Runtime,
    kernel: Kernel,
    prepared: Vec<Pod>,
    wired: Vec<(Pod, u32)>,
    adds: Samples,
    dels: Samples,
}

/// A pod's namespace, open.
#[derive(Debug)]
struct Pod {
    netns: Netns,
    kernel: Kernel,
    number: u16,
}

impl Floor {
    pub(super) fn new(name: &str) -> Result<Self> {
        let host = Host::make(name)?;
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let kernel = host.run(|| {
            let _inside = runtime.enter();
            Kernel::open()
        })??;
        let (adds, dels) = (Samples::default(), Samples::default());
        Ok(Self { host, runtime, kernel, prepared: Vec::new(), wired: Vec::new(), adds, dels })
    }

    /// Makes the namespaces of so many pods, and opens them.
    pub(super) fn prepare(&mut self, pods: u32) -> Result<()> {
        for number in 0..u16::try_from(pods)? {
            let path = self.host.make_netns(&format!("pod-{number}"))?;
            let netns = self.host.run(|| Netns::open(path))??;
            let kernel = {
                let _inside = self.runtime.enter();
                Kernel::open_in(&netns)?
            };
            self.prepared.push(Pod { netns, kernel, number });
        }
        Ok(())
    }

    /// Wires a pod that is prepared.
    pub(super) fn add(&mut self) -> Result<()> {
        let pod = self.prepared.pop().context("no pod is prepared")?;
        let (made, spent) = measure(|| self.runtime.block_on(wire(&self.kernel, &pod)));
        self.wired.push((pod, made?));
        self.adds.add(spent.wall);
        Ok(())
    }

    /// Takes the pod away that was wired last.
    pub(super) fn del(&mut self) -> Result<()> {
        let (_, link) = self.wired.pop().context("no pod is wired")?;
        let (deleted, spent) = measure(|| self.runtime.block_on(self.kernel.delete_link(link)));
        deleted?;
        self.dels.add(spent.wall);
        Ok(())
    }

    /// Where the namespaces of the pods are that are wired.
    pub(super) fn wired(&self) -> impl Iterator<Item = &Path> {
        self.wired.iter().map(|(pod, _)| pod.netns.path())
    }

    /// The medians of what was measured, in microseconds.
    pub(super) fn medians_us(mut self) -> (f64, f64) {
        (self.adds.percentile_us(50), self.dels.percentile_us(50))
    }
}

/// Makes what the plugin makes, in its order, and returns the host end's index.
async fn wire(host: &Kernel, pod: &Pod) -> Result<u32, rtnl::Error> {
    let name = format!("fw{}", pod.number);
    let end = |name: &str, side| {
        let mac = Mac::locally_administered(u64::from(pod.number) << 8 | side);
        VethEnd { name: name.to_owned(), mac, mtu: MTU }
    };
    let (host_end, pod_end) = (end(&name, 0), end("eth0", 1));
    host.add_veth(&host_end, &pod_end, Some(&pod.netns)).await?;
    let end = host.link(&name).await?;
    let (outer, inner) = (end.index, end.peer.unwrap_or_default());

    pod.kernel.set_up(LOOPBACK, true).await?;
    host.set_up_with_alias(outer, &format!("default/pod-{}", pod.number)).await?;
    pod.kernel.set_up(inner, true).await?;

    let [high, low] = pod.number.saturating_add(2).to_be_bytes();
    let own = IpAddr::from([10, 1, high, low]);
    pod.kernel.add_address(&Address::bare(inner, own.into())).await?;
    pod.kernel.put_neighbour(&known(inner, GATEWAY, host_end.mac)).await?;
    pod.kernel.add_route(&Route::on_link(GATEWAY.into(), inner)).await?;
    let all = IpNetwork::new(Ipv4Addr::UNSPECIFIED.into(), 0).unwrap_or(GATEWAY.into());
    pod.kernel.add_route(&Route::through(all, GATEWAY, inner)).await?;
    host.add_address(&Address::bare(outer, GATEWAY.into())).await?;
    host.put_neighbour(&known(outer, own, pod_end.mac)).await?;
    host.add_route(&Route { source: Some(GATEWAY), ..Route::on_link(own.into(), outer) }).await?;
    Ok(outer)
}

fn known(link: u32, address: IpAddr, mac: Mac) -> Neighbour {
    Neighbour { link, address, mac: Some(mac), state: NeighbourState::Stale }
}

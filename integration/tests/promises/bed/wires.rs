//! Machines besides the nodes, and the addresses and ways of all.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
};

use dataplane::{
    netns::Netns,
    packet::Family,
    rtnl::{Address, Kernel, Route, Routes as _},
};
use fairway_lab::{cluster::OUTSIDE, host::Host, network::UPLINK, server, wait};
use ipnetwork::IpNetwork;
use tokio::runtime;

use super::{Bed, SILENCE};

impl Bed {
    /// The network namespace of a place.
    pub(crate) fn netns(&self, place: &str) -> Netns {
        let path = match self.strangers.get(place) {
            Some(host) => host.netns_path(),
            None => self.cluster.place(place).unwrap().netns_path(),
        };
        Netns::open(path).unwrap()
    }

    /// Another machine outside, with these addresses on the nodes' network.
    pub(crate) fn add_stranger(&mut self, name: &str, addresses: &[&str]) {
        let host = Host::make(name).unwrap();
        self.name(name, addresses);
        self.cluster.switch().unwrap().connect(&host, &self.addresses[name]).unwrap();
        self.strangers.insert(name.into(), host);
    }

    /// Has a machine send what goes to these networks through a node.
    pub(crate) fn route(&self, from: &str, networks: &[&str], through: &str) {
        let netns = self.netns(from);
        let networks = networks.iter().map(|network| network.parse::<IpNetwork>().unwrap());
        let networks = networks.filter(|network| self.families.contains(&Family::of(network.ip())));
        block_on(async {
            let kernel = Kernel::open_in(&netns).unwrap();
            let link = kernel.link(UPLINK).await.unwrap().index;
            for network in networks {
                let gateway = self.address(through, Family::of(network.ip()));
                kernel.add_route(&Route::through(network, gateway, link)).await.unwrap();
            }
        });
    }

    /// Gives a machine the addresses of a name on its uplink, too.
    pub(crate) fn add_addresses(&self, place: &str, name: &str) {
        self.on_uplink(place, name, true);
        // The kernel makes the routes of IPv6 addresses a little later.
        for address in &self.addresses[name] {
            let nobody = SocketAddr::new(*address, 1);
            let refusal = || match TcpStream::connect_timeout(&nobody, SILENCE) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
                other => Err(format!("{other:?}")),
            };
            let awaited = format!("{place} to have {address}");
            self.netns(place).run(|| wait::until(&awaited, refusal)).unwrap().unwrap();
        }
    }

    /// Takes them away again.
    pub(crate) fn remove_addresses(&self, place: &str, name: &str) {
        self.on_uplink(place, name, false);
    }

    fn on_uplink(&self, place: &str, name: &str, is_there: bool) {
        let netns = self.netns(place);
        block_on(async {
            let kernel = Kernel::open_in(&netns).unwrap();
            let link = kernel.link(UPLINK).await.unwrap().index;
            for address in &self.addresses[name] {
                let address = Address::bare(link, (*address).into());
                let done = if is_there {
                    kernel.add_address(&address).await
                } else {
                    kernel.delete_address(&address).await
                };
                done.unwrap();
            }
        });
    }

    /// Has the node's end of a pod's link take packets of at most this size; the pod's end does not know.
    pub(crate) fn narrow(&self, pod: &str, mtu: u32) {
        let node = self.cluster.pod(pod).unwrap().host().name();
        let netns = self.netns(node);
        block_on(async {
            let kernel = Kernel::open_in(&netns).unwrap();
            let links = kernel.links().await.unwrap();
            let link =
                links.iter().find(|link| link.alias.as_deref() == Some(&format!("default/{pod}"))).unwrap();
            kernel.set_mtu(link.index, mtu).await.unwrap();
        });
    }

    /// Has the machine outside answer at the addresses of a name: whoever is not led elsewhere arrives there.
    pub(crate) fn answer_outside(&self, name: &str) {
        let outside = self.cluster.place(OUTSIDE).unwrap();
        outside.run(|| server::listen(OUTSIDE, &[80], &[])).unwrap().unwrap();
        self.add_addresses(OUTSIDE, name);
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

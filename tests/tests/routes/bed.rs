//! Node `m`, its kernel, and the part of the daemon that follows nodes.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use dataplane::{
    owner,
    rtnl::{
        Address, AddressFlags, Forwarding, Kernel, Mac, Neighbour, Reports, Route, Routes as _, Rules as _,
        Table, Tunnels as _, VethEnd, Vxlan,
    },
};
use fairway_lab::host::Host;
use proxy::{
    config::{ChecksumOffload, Overlay, RouteMode},
    conflist::Files,
    objects::{Kind, Object, ObjectName},
    plan::routes::tunnel,
    state::State,
    sync::{
        Nodes as _,
        nodes::{NodeRoutes, Wish},
    },
    watch::Event,
};
use serde_json::json;

/// Node `m` at 192.168.14.50 on link `eth0`, as the daemon sees it.
pub(crate) struct NodeM {
    pub(crate) kernel: Kernel,
    pub(crate) eth0: u32,
    pub(crate) state: State,
    pub(crate) routes: NodeRoutes,
    /// Nodes that are different since the last sync.
    pub(crate) names: BTreeSet<Arc<str>>,
}

/// How long something is waited for that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Who has told nothing for so long has told all.
pub(crate) const QUIET: Duration = Duration::from_millis(100);

pub(crate) const OVERLAY: Overlay = Overlay { vni: 1, port: 8472, checksum_offload: ChecksumOffload::Off };

impl NodeM {
    /// Runs `work` on such a node, inside a runtime.
    pub(crate) fn run<F: Future<Output = ()>>(work: impl FnOnce(Self) -> F + Send) {
        let host = Host::make("m").unwrap();
        host.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { work(Self::new().await).await });
        })
        .unwrap();
    }

    pub(crate) async fn new() -> Self {
        let kernel = Kernel::open().unwrap();
        let eth0 = Self::add_link(&kernel, "eth0", "switch").await;
        for network in ["192.168.14.50/24", "fd00:14::50/64"] {
            let (network, nodad) = (network.parse().unwrap(), true);
            let flags = AddressFlags { nodad, ..AddressFlags::default() };
            kernel.add_address(&Address { link: eth0, network, flags }).await.unwrap();
        }
        let routes = Self::daemon(&kernel, RouteMode::Auto);
        Self { kernel, eth0, state: State::new("m"), routes, names: BTreeSet::new() }
    }

    /// Makes a link, with its other end here as well.
    pub(crate) async fn add_link(kernel: &Kernel, name: &str, other: &str) -> u32 {
        let end = |name: &str| {
            let seed = name.bytes().fold(1, |seed, byte| seed * 31 + u64::from(byte));
            VethEnd { name: name.to_owned(), mac: Mac::locally_administered(seed), mtu: 1450 }
        };
        kernel.add_veth(&end(name), &end(other), None).await.unwrap();
        for name in [name, other] {
            kernel.set_up(kernel.link(name).await.unwrap().index, true).await.unwrap();
        }
        kernel.link(name).await.unwrap().index
    }

    /// Gives the node another link, with an address on it.
    pub(crate) async fn add_eth1(&self, network: &str) -> u32 {
        let eth1 = Self::add_link(&self.kernel, "eth1", "switch1").await;
        let (network, flags) = (network.parse().unwrap(), AddressFlags::default());
        self.kernel.add_address(&Address { link: eth1, network, flags }).await.unwrap();
        eth1
    }

    /// Makes a route as an administrator does.
    pub(crate) async fn add_foreign_route(
        &self,
        destination: &str,
        gateway: &str,
        link: u32,
        mtu: Option<u32>,
    ) -> Route {
        let route = Route::through(destination.parse().unwrap(), gateway.parse().unwrap(), link);
        let route = Route { protocol: 4, mtu, ..route };
        self.kernel.add_route(&route).await.unwrap();
        route
    }

    pub(crate) fn daemon(kernel: &Kernel, mode: RouteMode) -> NodeRoutes {
        let wish = Wish { mode, overlay: OVERLAY, sweep_period: Duration::ZERO };
        let files = Files::new("/run/fairway", "/etc/cni/net.d", true);
        NodeRoutes::new(kernel.clone(), Some(Reports::open().unwrap()), wish, files)
    }

    pub(crate) fn set(&mut self, name: &str, pod_cidrs: &[&str], addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| json!({"type": "InternalIP", "address": address}));
        let node = json!({
            "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": pod_cidrs},
            "status": {"addresses": addresses.collect::<Vec<_>>()},
        });
        let touched = self.state.apply(Event::set(Object::parse(node).unwrap().unwrap()));
        self.names.extend(touched.node_names);
    }

    /// Adds a VXLAN device of somebody else's, with our number and port.
    pub(crate) async fn add_overlay_of_another(&self) -> Vxlan {
        let end = "192.168.14.50".parse().unwrap();
        let device = Vxlan { name: "flannel.1".to_owned(), ..tunnel::device(OVERLAY, end, 1450) };
        self.kernel.add_device(&device).await.unwrap();
        device
    }

    /// Adds a route that somebody else makes, by a router on the network.
    pub(crate) async fn add_route_of_another(&self, destination: &str) -> Route {
        let (destination, router) = (destination.parse().unwrap(), "192.168.14.1".parse().unwrap());
        let route = Route { protocol: 4, ..Route::through(destination, router, self.eth0) };
        self.kernel.add_route(&route).await.unwrap();
        route
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let name = ObjectName { namespace: "".into(), name: name.into() };
        self.names.extend(self.state.apply(Event::gone(Kind::Node, name)).node_names);
    }

    /// What the daemon does about its nodes; whether all of it succeeded.
    pub(crate) async fn sync(&mut self) -> bool {
        let is_prepared = self.routes.prepare(&self.state, &std::mem::take(&mut self.names)).await;
        self.routes.finish().await && is_prepared
    }

    /// Waits until the daemon hears that something is not as it was.
    pub(crate) async fn hear(&mut self) {
        let heard = tokio::time::timeout(PATIENCE, self.routes.disturbed()).await;
        assert!(heard.is_ok(), "the kernel does not tell of it: {:?}", self.routes.complaints());
    }

    /// Waits until the daemon hears that something is not as it was, and lets it do what it does then.
    pub(crate) async fn mend(&mut self) {
        self.hear().await;
        while !self.sync().await {
            self.hear().await;
        }
        self.rest().await;
    }

    /// Lets the daemon answer all that it is told, also of what it did itself: what it hears then is about something else.
    pub(crate) async fn rest(&mut self) {
        while tokio::time::timeout(QUIET, self.routes.disturbed()).await.is_ok() {
            assert!(self.sync().await, "{:?}", self.routes.complaints());
        }
    }

    /// Waits for what the daemon does by itself when it is told of something that disturbs no way.
    pub(crate) async fn listen_until(&mut self, is_done: impl Fn(&Self) -> bool) {
        let listening = async {
            while !is_done(self) {
                // Nothing of ours is disturbed, so this never ends by itself.
                let _ = tokio::time::timeout(Duration::from_millis(20), self.routes.disturbed()).await;
            }
        };
        tokio::time::timeout(PATIENCE, listening).await.unwrap();
    }

    pub(crate) async fn set_eth0_mtu(&self, mtu: u32) {
        self.kernel.set_mtu(self.eth0, mtu).await.unwrap();
    }

    /// A far node and a near one, in both families, and what is there for them.
    pub(crate) async fn among_others(&mut self) -> BTreeSet<String> {
        self.set("m", &["10.244.0.0/24", "fd00:0::/64"], &["192.168.14.50", "fd00:14::50"]);
        self.set("w1", &["10.244.1.0/24", "fd00:1::/64"], &["192.168.14.51", "fd00:14::51"]);
        self.set("w3", &["10.244.3.0/24", "fd00:3::/64"], &["192.168.15.53", "fd00:15::53"]);
        assert!(self.sync().await, "{:?}", self.routes.complaints());
        self.rest().await;
        self.all().await
    }

    /// Everything that is there for ways to other nodes.
    pub(crate) async fn all(&self) -> BTreeSet<String> {
        let mut all = self.routes().await;
        all.extend(self.for_nodes().await);
        for name in owner::TUNNELS {
            let Some(device) = self.kernel.device(name).await.unwrap() else { continue };
            all.insert(format!("{} {}", device.vxlan, if device.is_up { "up" } else { "down" }));
            for Forwarding { mac, remote, .. } in self.kernel.forwardings(device.index).await.unwrap() {
                all.insert(format!("{name}: {mac} dst {remote}"));
            }
            for Neighbour { address, mac, .. } in
                self.kernel.permanent_neighbours(device.index).await.unwrap()
            {
                all.insert(format!("{name}: {address} lladdr {}", mac.unwrap()));
            }
            let addresses = self.kernel.addresses().await.unwrap().into_iter();
            let addresses =
                addresses.filter(|address| address.link == device.index).map(|address| address.network);
            all.extend(
                addresses
                    .filter(|network| !network.to_string().starts_with("fe80"))
                    .map(|network| format!("{name}: {network}")),
            );
        }
        all
    }

    pub(crate) async fn tunnel(&self) -> u32 {
        self.kernel.device("fairway.1").await.unwrap().unwrap().index
    }

    pub(crate) fn facts() -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string("/run/fairway/node.json").unwrap()).unwrap()
    }

    /// Destinations and gateways of the routes with our mark in a table.
    pub(crate) async fn routes_in(&self, table: Table) -> BTreeSet<String> {
        let routes = self.kernel.routes(owner::ROUTE_PROTOCOL).await.unwrap();
        let routes = routes.into_iter().filter(|route| route.table == table);
        let lines = routes.map(|route| match route.gateway {
            Some(gateway) => format!("{} via {gateway}", route.destination),
            None => route.destination.to_string(),
        });
        lines.collect()
    }

    pub(crate) async fn routes(&self) -> BTreeSet<String> {
        self.routes_in(Table::Main).await
    }

    /// What leads packets of pods to nodes themselves: rules, and the routes that they lead to.
    pub(crate) async fn for_nodes(&self) -> BTreeSet<String> {
        let rules = self.kernel.rules().await.unwrap();
        let rules = rules.into_iter().map(|rule| rule.to_string());
        let routes = self.routes_in(Table::Own).await;
        rules.chain(routes.into_iter().map(|route| format!("for pods: {route}"))).collect()
    }

    pub(crate) async fn check(&self, routes: &[&str]) {
        assert_eq!(self.routes().await, routes.iter().map(|&route| route.to_owned()).collect());
    }
}

/// Runs `nft`; false where it is not installed.
pub(crate) fn nft(words: &str) -> bool {
    run("nft", &[words])
}

/// Runs another program; false where it is not installed.
#[expect(clippy::disallowed_methods, reason = "others make tables and rules")]
pub(crate) fn run(program: &str, words: &[&str]) -> bool {
    let Ok(done) = std::process::Command::new(program).args(words).output() else {
        assert!(std::env::var_os("FAIRWAY_REQUIRE_SANDBOX").is_none(), "{program} is required here");
        println!("{program} is not installed: nobody else makes anything");
        return false;
    };
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    true
}

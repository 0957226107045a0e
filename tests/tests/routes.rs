//! The daemon's routes on the real kernel: what it adds, what it removes, and what it leaves alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use dataplane::{
    ethtool::{Features, TX_CHECKSUM},
    forwarding,
    nft::{Key, Socket},
    owner,
    packet::Family,
    rtnl::{
        Address, AddressFlags, Forwarding, Kernel, Mac, Neighbour, Reports, Route, Routes, Rule, Rules,
        Table, Tunnels, VethEnd,
    },
    sysctl,
};
use fairway_lab::host::Host;
use proxy::{
    config::{ChecksumOffload, Overlay, RouteMode},
    conflist::Files,
    metrics::Metrics,
    objects::{Kind, Object, ObjectName},
    plan::Settings,
    state::State,
    sync::{
        Nodes, Services,
        nodes::{NodeRoutes, Wish, remove_routes},
        pace::SETTLED,
        services::Nftables,
    },
    watch::Event,
};
use serde_json::json;

/// Node `m` at 192.168.14.50 on link `eth0`, as the daemon sees it.
struct NodeM {
    kernel: Kernel,
    eth0: u32,
    state: State,
    routes: NodeRoutes,
    /// Nodes that are different since the last sync.
    names: BTreeSet<Arc<str>>,
}

/// How long something is waited for that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who has told nothing for so long has told all.
const QUIET: Duration = Duration::from_millis(100);

const OVERLAY: Overlay = Overlay { vni: 1, port: 8472, checksum_offload: ChecksumOffload::Off };

impl NodeM {
    /// Runs `work` on such a node, inside a runtime.
    fn run<F: Future<Output = ()>>(work: impl FnOnce(Self) -> F + Send) {
        let host = Host::make("m").unwrap();
        host.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { work(Self::new().await).await });
        })
        .unwrap();
    }

    async fn new() -> Self {
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
    async fn add_link(kernel: &Kernel, name: &str, other: &str) -> u32 {
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
    async fn add_eth1(&self, network: &str) -> u32 {
        let eth1 = Self::add_link(&self.kernel, "eth1", "switch1").await;
        let (network, flags) = (network.parse().unwrap(), AddressFlags::default());
        self.kernel.add_address(&Address { link: eth1, network, flags }).await.unwrap();
        eth1
    }

    /// Makes a route as an administrator does.
    async fn add_foreign_route(
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

    fn daemon(kernel: &Kernel, mode: RouteMode) -> NodeRoutes {
        let wish = Wish { mode, overlay: OVERLAY, sweep_period: Duration::ZERO };
        let files = Files::new("/run/fairway", "/etc/cni/net.d", true);
        NodeRoutes::new(kernel.clone(), Some(Reports::open().unwrap()), wish, files)
    }

    fn set(&mut self, name: &str, pod_cidrs: &[&str], addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| json!({"type": "InternalIP", "address": address}));
        let node = json!({
            "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": pod_cidrs},
            "status": {"addresses": addresses.collect::<Vec<_>>()},
        });
        let touched = self.state.apply(Event::set(Object::parse(node).unwrap().unwrap()));
        self.names.extend(touched.node_names);
    }

    fn remove(&mut self, name: &str) {
        let name = ObjectName { namespace: "".into(), name: name.into() };
        self.names.extend(self.state.apply(Event::gone(Kind::Node, name)).node_names);
    }

    /// What the daemon does about its nodes; whether all of it succeeded.
    async fn sync(&mut self) -> bool {
        let is_prepared = self.routes.prepare(&self.state, &std::mem::take(&mut self.names)).await;
        self.routes.finish().await && is_prepared
    }

    /// Waits until the daemon hears that something is not as it was.
    async fn hear(&mut self) {
        let heard = tokio::time::timeout(PATIENCE, self.routes.disturbed()).await;
        assert!(heard.is_ok(), "the kernel does not tell of it: {:?}", self.routes.complaints());
    }

    /// Waits until the daemon hears that something is not as it was, and lets it do what it does then.
    async fn mend(&mut self) {
        self.hear().await;
        while !self.sync().await {
            self.hear().await;
        }
        self.rest().await;
    }

    /// Lets the daemon answer all that it is told, also of what it did itself: what it hears then is about something else.
    async fn rest(&mut self) {
        while tokio::time::timeout(QUIET, self.routes.disturbed()).await.is_ok() {
            assert!(self.sync().await, "{:?}", self.routes.complaints());
        }
    }

    /// Waits for what the daemon does by itself when it is told of something that disturbs no way.
    async fn listen_until(&mut self, is_done: impl Fn(&Self) -> bool) {
        let listening = async {
            while !is_done(self) {
                // Nothing of ours is disturbed, so this never ends by itself.
                let _ = tokio::time::timeout(Duration::from_millis(20), self.routes.disturbed()).await;
            }
        };
        tokio::time::timeout(PATIENCE, listening).await.unwrap();
    }

    async fn set_eth0_mtu(&self, mtu: u32) {
        self.kernel.set_mtu(self.eth0, mtu).await.unwrap();
    }

    /// A far node and a near one, in both families, and what is there for them.
    async fn among_others(&mut self) -> BTreeSet<String> {
        self.set("m", &["10.244.0.0/24", "fd00:0::/64"], &["192.168.14.50", "fd00:14::50"]);
        self.set("w1", &["10.244.1.0/24", "fd00:1::/64"], &["192.168.14.51", "fd00:14::51"]);
        self.set("w3", &["10.244.3.0/24", "fd00:3::/64"], &["192.168.15.53", "fd00:15::53"]);
        assert!(self.sync().await, "{:?}", self.routes.complaints());
        self.rest().await;
        self.all().await
    }

    /// Everything that is there for ways to other nodes.
    async fn all(&self) -> BTreeSet<String> {
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

    async fn tunnel(&self) -> u32 {
        self.kernel.device("fairway.1").await.unwrap().unwrap().index
    }

    fn facts() -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string("/run/fairway/node.json").unwrap()).unwrap()
    }

    /// Destinations and gateways of the routes with our mark in a table.
    async fn routes_in(&self, table: Table) -> BTreeSet<String> {
        let routes = self.kernel.routes(owner::ROUTE_PROTOCOL).await.unwrap();
        let routes = routes.into_iter().filter(|route| route.table == table);
        let lines = routes.map(|route| match route.gateway {
            Some(gateway) => format!("{} via {gateway}", route.destination),
            None => route.destination.to_string(),
        });
        lines.collect()
    }

    async fn routes(&self) -> BTreeSet<String> {
        self.routes_in(Table::Main).await
    }

    /// What leads packets of pods to nodes themselves: rules, and the routes that they lead to.
    async fn for_nodes(&self) -> BTreeSet<String> {
        let rules = self.kernel.rules().await.unwrap();
        let rules = rules.into_iter().map(|rule| rule.to_string());
        let routes = self.routes_in(Table::Own).await;
        rules.chain(routes.into_iter().map(|route| format!("for pods: {route}"))).collect()
    }

    async fn check(&self, routes: &[&str]) {
        assert_eq!(self.routes().await, routes.iter().map(|&route| route.to_owned()).collect());
    }
}

/// Runs `nft`; false where it is not installed.
fn nft(words: &str) -> bool {
    run("nft", &[words])
}

/// Runs another program; false where it is not installed.
#[expect(clippy::disallowed_methods, reason = "others make tables and rules")]
fn run(program: &str, words: &[&str]) -> bool {
    let Ok(done) = std::process::Command::new(program).args(words).output() else {
        assert!(std::env::var_os("FAIRWAY_REQUIRE_SANDBOX").is_none(), "{program} is required here");
        println!("{program} is not installed: nobody else makes anything");
        return false;
    };
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    true
}

fairway_lab::sandbox_tests! {
    fn nodes_are_inside_before_anything_leads_to_their_pods() {
        NodeM::run(async |mut m: NodeM| {
            m.set("m", &["10.244.0.0/24"], &["192.168.14.50"]);
            let settings = Settings { unmasqueraded_by_pods: Some(Vec::new()), ..Settings::default() };
            let start = |m: &NodeM| {
                let mut services = Nftables::new(Socket::open().unwrap(), &[Family::Ip], &settings);
                services.surround(&m.state.surroundings());
                services.begin().unwrap();
                services
            };
            let inside = || {
                let table = Socket::open().unwrap().held(Family::Ip).unwrap().unwrap();
                ["pods", "nodes"].map(|set| table.maps.get(set).unwrap().elements.keys().map(Key::to_string).collect::<Vec<_>>())
            };
            let mut services = start(&m);
            services.commit().unwrap();

            // As the loop has it: what comes between the two is the routes.
            m.set("w1", &["10.244.1.0/24"], &["192.168.14.51"]);
            services.set_node("w1", m.state.node("w1"));
            services.admit_nodes();
            assert_eq!(inside(), [["10.244.1.128"], ["192.168.14.51"]], "the routes come later, and so do services");

            // One that has come while no daemon ran.
            services = start(&m);
            m.set("w2", &["10.244.2.0/24"], &["192.168.14.52"]);
            for name in ["w1", "w2"] {
                services.set_node(name, m.state.node(name));
            }
            services.admit_nodes();
            assert_eq!(inside()[1], ["192.168.14.51", "192.168.14.52"], "at a start as well");

            services.commit().unwrap();
            services.set_node("w2", None);
            services.admit_nodes();
            services.commit().unwrap();
            assert_eq!(inside()[1], ["192.168.14.51", "192.168.14.52"], "the routes go later");
            while services.commit().unwrap().is_unfinished {
                tokio::time::sleep(SETTLED).await; // as the daemon waits between commits
            }
            assert_eq!(inside(), [["10.244.1.128"], ["192.168.14.51"]]);
        });
    }

    fn nodes_come_and_go_with_their_routes() {
        NodeM::run(async |mut m: NodeM| {
            m.set("w1", &["10.244.1.0/24", "fd00:1::/64"], &["192.168.14.51", "fd00:14::51"]);
            m.set("w2", &["10.244.2.0/24"], &["192.168.14.52"]);
            assert!(m.sync().await);
            m.check(&[
                "10.244.1.0/24 via 192.168.14.51",
                "10.244.2.0/24 via 192.168.14.52",
                "fd00:1::/64 via fd00:14::51",
            ]).await;

            m.set("w1", &["10.244.1.0/24"], &["192.168.14.61"]);
            m.remove("w2");
            assert!(m.sync().await);
            m.check(&["10.244.1.0/24 via 192.168.14.61"]).await;
        });
    }

    fn an_obsolete_route_stays_until_the_services_have_let_go_of_it() {
        NodeM::run(async |mut m: NodeM| {
            m.set("w1", &["10.244.1.0/24"], &["192.168.14.51"]);
            assert!(m.sync().await);
            m.remove("w1");
            m.set("w2", &["10.244.2.0/24"], &["192.168.14.52"]);

            assert!(m.routes.prepare(&m.state, &std::mem::take(&mut m.names)).await);
            m.check(&["10.244.1.0/24 via 192.168.14.51", "10.244.2.0/24 via 192.168.14.52"]).await;
            assert!(m.routes.finish().await);
            m.check(&["10.244.2.0/24 via 192.168.14.52"]).await;
        });
    }

    fn a_daemon_that_starts_again_adopts_the_routes_and_removes_the_stale_ones() {
        NodeM::run(async |mut m: NodeM| {
            m.set("m", &["10.244.0.0/24"], &["192.168.14.50"]);
            m.set("w1", &["10.244.1.0/24"], &["192.168.14.51"]);
            m.set("w2", &["10.244.2.0/24"], &["192.168.14.52"]);
            assert!(m.sync().await);

            m.routes = NodeM::daemon(&m.kernel, RouteMode::Auto);
            m.remove("w2"); // while nobody looked
            assert!(m.sync().await);

            m.check(&["10.244.1.0/24 via 192.168.14.51"]).await;
        });
    }

    fn a_pod_s_route_and_foreign_ones_are_left_alone() {
        NodeM::run(async |mut m: NodeM| {
            let pod = Route::on_link("10.244.0.7/32".parse().unwrap(), m.eth0);
            let foreign = Route {
                protocol: 4,
                ..Route::through("10.9.0.0/16".parse().unwrap(), "192.168.14.1".parse().unwrap(), m.eth0)
            };
            for route in [pod, foreign] {
                m.kernel.add_route(&route).await.unwrap();
            }

            assert!(m.sync().await);
            assert_eq!(remove_routes(&m.kernel).await.unwrap(), 0);

            m.check(&["10.244.0.7/32"]).await;
            assert_eq!(m.kernel.routes(4).await.unwrap(), [foreign]);
        });
    }

    fn a_node_out_of_reach_is_reached_once_its_network_is_there() {
        NodeM::run(async |mut m: NodeM| {
            m.routes = NodeM::daemon(&m.kernel, RouteMode::Direct);
            m.set("w1", &["10.244.1.0/24"], &["172.16.0.1"]);
            m.set("w2", &["10.244.2.0/24"], &["192.168.14.52"]);
            assert!(m.sync().await);
            m.check(&["10.244.2.0/24 via 192.168.14.52"]).await;

            let (network, flags) = ("172.16.0.50/24".parse().unwrap(), AddressFlags::default());
            m.kernel.add_address(&Address { link: m.eth0, network, flags }).await.unwrap();
            m.mend().await;
            m.check(&["10.244.1.0/24 via 172.16.0.1", "10.244.2.0/24 via 192.168.14.52"]).await;
        });
    }

    fn a_route_that_somebody_else_made_is_not_replaced() {
        NodeM::run(async |mut m: NodeM| {
            let foreign = Route {
                protocol: 4,
                ..Route::through("10.244.1.0/24".parse().unwrap(), "192.168.14.1".parse().unwrap(), m.eth0)
            };
            m.kernel.add_route(&foreign).await.unwrap();
            m.set("w1", &["10.244.1.0/24"], &["192.168.14.51"]);

            assert!(!m.sync().await);

            assert_eq!(m.kernel.routes(4).await.unwrap(), [foreign]);
        });
    }

    fn a_route_of_another_s_in_the_way_costs_nobody_but_the_pods_behind_it() {
        NodeM::run(async |mut m: NodeM| {
            let foreign = Route {
                protocol: 4,
                ..Route::through("10.244.1.0/24".parse().unwrap(), "192.168.14.1".parse().unwrap(), m.eth0)
            };
            m.kernel.add_route(&foreign).await.unwrap();
            m.set("w1", &["10.244.1.0/24"], &["192.168.14.51"]);
            m.set("w2", &["10.244.2.0/24"], &["192.168.14.52"]);
            assert!(!m.sync().await);
            m.check(&["10.244.2.0/24 via 192.168.14.52"]).await;

            // An event costs its own node, and the others are not looked at.
            for route in m.kernel.routes(owner::ROUTE_PROTOCOL).await.unwrap() {
                m.kernel.delete_route(&route).await.unwrap();
            }
            m.set("w3", &["10.244.3.0/24"], &["192.168.14.53"]);
            assert!(!m.sync().await);
            m.check(&["10.244.3.0/24 via 192.168.14.53"]).await;

            // A node that moves does not take another's place either.
            m.set("w1", &["10.244.1.0/24"], &["192.168.14.61"]);
            assert!(!m.sync().await);
            assert_eq!(m.kernel.routes(4).await.unwrap(), [foreign]);

            m.kernel.delete_route(&foreign).await.unwrap();
            assert!(m.sync().await);
            m.check(&["10.244.1.0/24 via 192.168.14.61", "10.244.2.0/24 via 192.168.14.52", "10.244.3.0/24 via 192.168.14.53"]).await;
        });
    }

    fn a_node_that_comes_back_before_its_old_way_is_gone_has_its_new_one() {
        NodeM::run(async |mut m: NodeM| {
            m.set("m", &["10.244.0.0/24"], &["192.168.14.50"]);
            m.set("w1", &["10.244.1.0/24"], &["192.168.14.51"]);
            m.set("w3", &["10.244.3.0/24"], &["192.168.15.53"]);
            assert!(m.sync().await);
            m.remove("w1");
            m.remove("w3");
            assert!(m.routes.prepare(&m.state, &std::mem::take(&mut m.names)).await); // and no commit of the services

            m.set("w1", &["10.244.1.0/24"], &["192.168.14.61"]);
            m.set("w3", &["10.244.3.0/24"], &["192.168.15.63"]);
            assert!(m.sync().await, "{:?}", m.routes.complaints());

            m.check(&["10.244.1.0/24 via 192.168.14.61", "10.244.3.0/24 via 192.168.15.63"]).await;
            assert_eq!(
                m.for_nodes().await,
                ["from 10.244.0.0/24 lookup 18007 priority 1070 proto 70", "for pods: 192.168.15.63/32 via 192.168.15.63"].map(str::to_owned).into()
            );
        });
    }

    fn without_route_mode_and_at_cleanup_our_routes_go() {
        NodeM::run(async |mut m: NodeM| {
            m.set("w1", &["10.244.1.0/24"], &["192.168.14.51"]);
            assert!(m.sync().await);
            m.routes = NodeM::daemon(&m.kernel, RouteMode::None);
            assert!(m.sync().await);
            m.check(&[]).await;

            m.routes = NodeM::daemon(&m.kernel, RouteMode::Direct);
            assert!(m.sync().await);
            assert_eq!(remove_routes(&m.kernel).await.unwrap(), 1);
            m.check(&[]).await;
        });
    }

    fn the_plugin_is_told_of_our_own_pod_cidr_and_mtu() {
        NodeM::run(async |mut m: NodeM| {
            m.set("m", &["10.244.0.0/24"], &["192.168.14.50"]);

            assert!(m.sync().await);

            assert_eq!(NodeM::facts(), json!({"podCIDRs": ["10.244.0.0/24"], "mtu": 1450}));
            assert!(std::path::Path::new("/etc/cni/net.d/10-fairway.conflist").exists());
        });
    }

    fn a_node_on_another_network_is_reached_through_a_tunnel() {
        NodeM::run(async |mut m: NodeM| {
            let all = m.among_others().await;

            assert_eq!(all, [
                "fairway.1 address 02:46:c0:a8:0e:32 mtu 1400 type vxlan id 1 dstport 8472 local 192.168.14.50 nolearning up",
                "fairway.1: 10.244.0.0/32",
                "fairway.1: fd00::/128",
                "fairway.1: 02:46:c0:a8:0f:35 dst 192.168.15.53",
                "fairway.1: 192.168.15.53 lladdr 02:46:c0:a8:0f:35",
                "fairway.1: fe80::46:c0ff:fea8:f35 lladdr 02:46:c0:a8:0f:35",
                "10.244.1.0/24 via 192.168.14.51",
                "10.244.3.0/24 via 192.168.15.53",
                "fd00:1::/64 via fd00:14::51",
                "fd00:3::/64 via fe80::46:c0ff:fea8:f35",
                "from 10.244.0.0/24 lookup 18007 priority 1070 proto 70",
                "from fd00::/64 lookup 18007 priority 1070 proto 70",
                "for pods: 192.168.15.53/32 via 192.168.15.53",
                "for pods: fd00:15::53/128 via fe80::46:c0ff:fea8:f35",
            ].map(str::to_owned).into());
            assert_eq!(NodeM::facts(), json!({"podCIDRs": ["10.244.0.0/24", "fd00::/64"], "mtu": 1400}));
        });
    }

    fn a_tunnel_stays_for_what_others_send_though_nothing_leaves_by_it() {
        NodeM::run(async |mut m: NodeM| {
            m.among_others().await;

            m.remove("w3");
            assert!(m.sync().await);

            assert_eq!(m.all().await, [
                "fairway.1 address 02:46:c0:a8:0e:32 mtu 1400 type vxlan id 1 dstport 8472 local 192.168.14.50 nolearning up",
                "fairway.1: 10.244.0.0/32",
                "fairway.1: fd00::/128",
                "10.244.1.0/24 via 192.168.14.51",
                "fd00:1::/64 via fd00:14::51",
            ].map(str::to_owned).into());
            assert_eq!(NodeM::facts().get("mtu"), Some(&json!(1450)), "pods send nothing through it");

            m.routes = NodeM::daemon(&m.kernel, RouteMode::Direct);
            assert!(m.sync().await);
            assert_eq!(m.all().await, ["10.244.1.0/24 via 192.168.14.51", "fd00:1::/64 via fd00:14::51"].map(str::to_owned).into());
        });
    }

    fn rules_are_there_as_long_as_some_node_is_behind_a_tunnel() {
        NodeM::run(async |mut m: NodeM| {
            m.set("w4", &["10.244.4.0/24"], &["192.168.15.54"]);
            m.among_others().await;

            m.remove("w3");
            assert!(m.sync().await);
            assert_eq!(
                m.for_nodes().await,
                ["from 10.244.0.0/24 lookup 18007 priority 1070 proto 70", "for pods: 192.168.15.54/32 via 192.168.15.54"].map(str::to_owned).into()
            );

            // One that vanishes while nobody looks, and other flags.
            m.remove("w4");
            m.routes = NodeM::daemon(&m.kernel, RouteMode::Auto);
            assert!(m.sync().await);
            assert_eq!(m.for_nodes().await, BTreeSet::new());
            for mode in [RouteMode::Direct, RouteMode::None] {
                m.routes = NodeM::daemon(&m.kernel, RouteMode::Vxlan);
                assert!(m.sync().await);
                assert_eq!(m.for_nodes().await.len(), 4, "w1 in both families");
                m.routes = NodeM::daemon(&m.kernel, mode);
                assert!(m.sync().await);
                assert_eq!(m.for_nodes().await, BTreeSet::new(), "{mode:?}");
            }
        });
    }

    fn a_rule_of_another_s_is_left_alone() {
        NodeM::run(async |mut m: NodeM| {
            let rule = |verb| ["rule", verb, "from", "10.244.0.0/24", "lookup", "99", "priority", "500", "protocol", "4"];
            if !run("ip", &rule("add")) {
                return;
            }

            m.among_others().await;
            remove_routes(&m.kernel).await.unwrap();

            assert_eq!(m.for_nodes().await, BTreeSet::new());
            assert!(run("ip", &rule("del")), "it is there");
        });
    }

    fn a_tunnel_takes_what_is_answered_by_another_link_whatever_others_set() {
        NodeM::run(async |mut m: NodeM| {
            let filter = || sysctl::read("net/ipv4/conf/fairway.1/rp_filter").unwrap();
            sysctl::set("net/ipv4/conf/default/rp_filter", "1").unwrap();
            m.among_others().await;
            assert_eq!(filter(), "2");
            assert!(!m.routes.complaints().iter().any(|complaint| complaint.contains("fairway.1")), "{:?}", m.routes.complaints());

            sysctl::set("net/ipv4/conf/fairway.1/rp_filter", "1").unwrap();
            let is_back = async {
                while filter() != "2" {
                    // Nothing of ours is disturbed, so this never ends by itself.
                    let _ = tokio::time::timeout(Duration::from_millis(20), m.routes.disturbed()).await;
                }
            };
            tokio::time::timeout(PATIENCE, is_back).await.unwrap();
        });
    }

    fn a_tunnel_outlives_a_moment_without_the_node_s_address() {
        NodeM::run(async |mut m: NodeM| {
            let all = m.among_others().await;
            let tunnel = m.tunnel().await;
            let addresses = m.kernel.addresses().await.unwrap();
            let address = addresses.into_iter().find(|address| address.network.to_string() == "192.168.14.50/24").unwrap();

            m.kernel.delete_address(&address).await.unwrap();
            m.mend().await;
            assert_eq!(m.tunnel().await, tunnel);
            let named = m.routes.complaints().iter().any(|complaint| complaint.starts_with("192.168.14.50, where"));
            assert!(named, "{:?}", m.routes.complaints());

            m.kernel.add_address(&address).await.unwrap();
            m.mend().await;
            assert_eq!((m.tunnel().await, m.all().await), (tunnel, all));
            assert_eq!(m.routes.complaints(), BTreeSet::new());
        });
    }

    fn a_daemon_that_starts_while_the_node_s_address_is_gone_keeps_the_tunnel() {
        NodeM::run(async |mut m: NodeM| {
            let all = m.among_others().await;
            let tunnel = m.tunnel().await;
            let addresses = m.kernel.addresses().await.unwrap();
            let address = addresses.into_iter().find(|address| address.network.to_string() == "192.168.14.50/24").unwrap();
            m.kernel.set_mtu(m.eth0, 9000).await.unwrap(); // nobody knows what leads where
            m.kernel.delete_address(&address).await.unwrap();

            m.routes = NodeM::daemon(&m.kernel, RouteMode::Auto);
            assert!(m.sync().await, "{:?}", m.routes.complaints());
            let device = m.kernel.device("fairway.1").await.unwrap().unwrap();
            assert_eq!((device.index, device.vxlan.tunnel.local, device.vxlan.mtu), (tunnel, "192.168.14.50".parse().unwrap(), 1400));
            let named = m.routes.complaints().iter().any(|complaint| complaint.starts_with("192.168.14.50, where"));
            assert!(named, "{:?}", m.routes.complaints());

            m.kernel.set_mtu(m.eth0, 1450).await.unwrap();
            m.kernel.add_address(&address).await.unwrap();
            m.mend().await;
            assert_eq!((m.tunnel().await, m.all().await), (tunnel, all));
        });
    }

    fn of_two_links_on_a_network_the_one_that_packets_leave_by_is_taken_and_left_again() {
        NodeM::run(async |mut m: NodeM| {
            let eth1 = m.add_eth1("192.168.14.60/26").await;
            m.set("m", &["10.244.0.0/24"], &["192.168.14.50"]);
            m.set("w1", &["10.244.1.0/24"], &["192.168.14.51"]);
            assert!(m.sync().await);
            let link_of_route = async |m: &NodeM| m.kernel.routes(owner::ROUTE_PROTOCOL).await.unwrap().first().unwrap().link;
            assert_eq!(link_of_route(&m).await, eth1);

            let (switch, switch1) = (m.kernel.link("switch").await.unwrap().index, m.kernel.link("switch1").await.unwrap().index);
            m.kernel.set_up(switch1, false).await.unwrap(); // the cable is out
            m.mend().await;
            assert_eq!(link_of_route(&m).await, m.eth0);

            m.kernel.set_up(switch1, true).await.unwrap();
            m.mend().await;
            assert_eq!(link_of_route(&m).await, eth1);

            // With both out there is no better one: nothing changes until one is back.
            for switch in [switch, switch1] {
                m.kernel.set_up(switch, false).await.unwrap();
                m.mend().await;
            }
            m.check(&["10.244.1.0/24 via 192.168.14.51"]).await;
            assert_eq!(m.routes.complaints(), BTreeSet::new());
        });
    }

    fn a_node_on_a_link_that_is_down_is_reached_through_a_tunnel_until_it_is_up() {
        NodeM::run(async |mut m: NodeM| {
            let eth1 = m.add_eth1("172.16.0.50/24").await;
            m.add_foreign_route("0.0.0.0/0", "172.16.0.1", eth1, None).await;
            m.set("m", &["10.244.0.0/24"], &["192.168.14.50"]);
            m.set("w1", &["10.244.1.0/24"], &["192.168.14.51"]);
            assert!(m.sync().await, "{:?}", m.routes.complaints());
            let is_tunnelled = async |m: &NodeM| {
                let routes = m.kernel.routes(owner::ROUTE_PROTOCOL).await.unwrap();
                let route = routes.into_iter().find(|route| route.destination.to_string() == "10.244.1.0/24").unwrap();
                route.link == m.tunnel().await
            };
            assert!(!is_tunnelled(&m).await);

            m.kernel.set_up(m.eth0, false).await.unwrap();
            m.mend().await;
            assert!(is_tunnelled(&m).await);

            m.kernel.set_up(m.eth0, true).await.unwrap();
            m.mend().await;
            assert!(!is_tunnelled(&m).await);
        });
    }

    fn the_mtu_is_that_of_the_links_and_routes_that_lead_to_other_nodes() {
        NodeM::run(async |mut m: NodeM| {
            let mtu = async |m: &NodeM| {
                let device = m.kernel.device("fairway.1").await.unwrap().unwrap().vxlan.mtu;
                assert_eq!(NodeM::facts().get("mtu"), Some(&json!(device)));
                device
            };
            let eth1 = m.add_eth1("172.16.0.50/24").await;
            m.kernel.set_mtu(eth1, 1400).await.unwrap();
            let elsewhere = m.add_foreign_route("192.168.99.0/24", "172.16.0.1", eth1, Some(1360)).await;
            m.among_others().await;
            assert_eq!(mtu(&m).await, 1400, "the other link leads to nobody");

            let everything = m.add_foreign_route("0.0.0.0/0", "172.16.0.1", eth1, None).await;
            m.mend().await;
            assert_eq!(mtu(&m).await, 1350);
            m.kernel.replace_route(&Route { mtu: Some(1380), ..everything }).await.unwrap();
            m.mend().await;
            assert_eq!(mtu(&m).await, 1330);

            // A node that comes is behind a route of its own.
            m.set("w9", &["10.244.9.0/24"], &["192.168.99.59"]);
            assert!(m.sync().await, "{:?}", m.routes.complaints());
            assert_eq!(mtu(&m).await, 1310);
            m.kernel.delete_route(&elsewhere).await.unwrap();
            m.mend().await;
            assert_eq!(mtu(&m).await, 1330);
        });
    }

    fn a_tunnel_of_ipv4_goes_on_where_ipv6_does_not_fit_through_it() {
        NodeM::run(async |mut m: NodeM| {
            let all = m.among_others().await;

            m.set_eth0_mtu(1300).await; // less 50, that is less than IPv6 asks of a link
            m.hear().await;
            assert!(!m.sync().await);
            let routes = m.routes().await;
            assert!(routes.contains("10.244.3.0/24 via 192.168.15.53"), "{routes:?}");

            m.set_eth0_mtu(1450).await;
            m.mend().await;
            assert_eq!(m.all().await, all);
        });
    }

    fn a_device_stays_while_something_goes_through_it_that_could_not_be_moved() {
        NodeM::run(async |mut m: NodeM| {
            m.among_others().await;
            m.set_eth0_mtu(1340).await; // less 70 for a tunnel of IPv6, that is less than IPv6 asks of a link
            m.mend().await;
            let of_ipv4 = m.tunnel().await;

            m.set("m", &["10.244.0.0/24", "fd00:0::/64"], &["fd00:14::50"]);
            assert!(!m.sync().await);
            let routes = m.kernel.routes(owner::ROUTE_PROTOCOL).await.unwrap();
            assert!(routes.iter().any(|route| route.link == of_ipv4 && route.destination.is_ipv6()), "{routes:?}");
            assert!(routes.iter().any(|route| route.link != of_ipv4 && route.destination.to_string() == "10.244.3.0/24"), "{routes:?}");

            m.set_eth0_mtu(1450).await;
            m.mend().await;
            assert_eq!(m.kernel.device("fairway.1").await.unwrap(), None);
            assert!(m.routes().await.iter().any(|route| route.starts_with("fd00:3::/64")));
        });
    }

    fn a_tunnel_has_ipv6_also_where_new_links_have_none() {
        NodeM::run(async |mut m: NodeM| {
            sysctl::set("net/ipv6/conf/default/disable_ipv6", "1").unwrap();

            let all = m.among_others().await;

            assert!(all.contains("fairway.1: fd00::/128"), "{all:?}");
            assert!(all.contains("fd00:3::/64 via fe80::46:c0ff:fea8:f35"), "{all:?}");
        });
    }

    fn no_pod_starts_where_a_tunnel_is_needed_and_none_can_begin() {
        NodeM::run(async |mut m: NodeM| {
            m.set("m", &["10.244.0.0/24"], &["203.0.113.1"]);
            m.set("w3", &["10.244.3.0/24"], &["192.168.15.53"]);
            assert!(m.sync().await);
            assert!(!std::path::Path::new("/run/fairway/node.json").exists());
            let named = m.routes.complaints().iter().any(|complaint| complaint.contains("no tunnel can begin"));
            assert!(named, "{:?}", m.routes.complaints());

            let (network, flags) = ("203.0.113.1/32".parse().unwrap(), AddressFlags::default());
            m.kernel.add_address(&Address { link: m.eth0, network, flags }).await.unwrap();
            m.mend().await;
            m.check(&["10.244.3.0/24 via 192.168.15.53"]).await;
            assert_eq!(NodeM::facts().get("mtu"), Some(&json!(1400)));
        });
    }

    fn a_node_behind_a_tunnel_moves_and_leaves_nothing() {
        NodeM::run(async |mut m: NodeM| {
            m.among_others().await;

            m.set("w3", &["10.244.3.0/24"], &["192.168.16.53"]);
            assert!(m.sync().await);

            let all = m.all().await;
            assert!(all.contains("10.244.3.0/24 via 192.168.16.53") && all.contains("fairway.1: 02:46:c0:a8:10:35 dst 192.168.16.53"), "{all:?}");
            assert!(!all.iter().any(|line| line.contains("192.168.15.53") || line.contains("fd00:3::")), "{all:?}");
        });
    }

    fn nodes_that_vanished_while_the_daemon_was_down_are_removed_with_all_that_led_there() {
        NodeM::run(async |mut m: NodeM| {
            m.set("w4", &["10.244.4.0/24"], &["192.168.15.54"]);
            m.among_others().await;

            m.routes = NodeM::daemon(&m.kernel, RouteMode::Auto);
            m.remove("w4"); // while nobody looked
            assert!(m.sync().await);

            let all = m.all().await;
            assert!(!all.iter().any(|line| line.contains("192.168.15.54")), "{all:?}");
            assert!(all.contains("10.244.3.0/24 via 192.168.15.53"), "{all:?}");
        });
    }

    fn what_others_do_to_routes_and_tunnels_is_put_back() {
        NodeM::run(async |mut m: NodeM| {
            let all = m.among_others().await;
            let tunnel = m.tunnel().await;
            let routes = m.kernel.routes(owner::ROUTE_PROTOCOL).await.unwrap();
            for route in routes {
                m.kernel.delete_route(&route).await.unwrap();
                m.mend().await;
                assert_eq!(m.all().await, all, "{route}");
            }
            // systemd-networkd does this to rules that it has not made, when it starts.
            for rule in m.kernel.rules().await.unwrap() {
                m.kernel.delete_rule(&rule).await.unwrap();
                m.mend().await;
                assert_eq!(m.all().await, all, "{rule}");
            }
            let foreign = Rule::of_source("10.244.9.0/24".parse().unwrap());
            m.kernel.add_rule(&foreign).await.unwrap();
            m.mend().await;
            assert_eq!(m.all().await, all, "{foreign}");
            // udev and systemd-networkd do this to devices that they take for theirs; all neighbours go with it.
            m.kernel.set_mac(tunnel, Mac::locally_administered(99)).await.unwrap();
            m.mend().await;
            assert_eq!(m.all().await, all, "hardware address");
            m.kernel.set_mtu(tunnel, 1300).await.unwrap();
            m.mend().await;
            assert_eq!(m.all().await, all, "MTU");
            m.kernel.set_up(tunnel, false).await.unwrap();
            m.mend().await;
            assert_eq!(m.all().await, all, "set down");
            for entry in m.kernel.forwardings(tunnel).await.unwrap() {
                m.kernel.delete_forwarding(&entry).await.unwrap();
                m.mend().await;
                assert_eq!(m.all().await, all, "{entry}");
            }
            for entry in m.kernel.permanent_neighbours(tunnel).await.unwrap() {
                m.kernel.delete_neighbour(&entry).await.unwrap();
                m.mend().await;
                assert_eq!(m.all().await, all, "{entry}");
            }
            for address in m.kernel.addresses().await.unwrap() {
                if address.link == tunnel && address.network.prefix() >= 32 && address.network.is_ipv4() {
                    m.kernel.delete_address(&address).await.unwrap();
                    m.mend().await;
                    assert_eq!(m.all().await, all, "{address}");
                }
            }
            m.kernel.delete_device(tunnel).await.unwrap();
            m.mend().await;
            assert_eq!(m.all().await, all, "deleted");
        });
    }

    fn a_link_that_goes_down_and_up_again_loses_nothing() {
        NodeM::run(async |mut m: NodeM| {
            let all = m.among_others().await;
            m.kernel.set_up(m.eth0, false).await.unwrap();
            m.kernel.set_up(m.eth0, true).await.unwrap();
            // IPv6 addresses went with it: whoever manages the link puts them back.
            let (network, flags) = ("fd00:14::50/64".parse().unwrap(), AddressFlags { nodad: true, ..AddressFlags::default() });
            m.kernel.add_address(&Address { link: m.eth0, network, flags }).await.unwrap();

            m.mend().await;

            assert_eq!(m.all().await, all);
        });
    }

    fn another_mtu_of_the_network_is_followed() {
        NodeM::run(async |mut m: NodeM| {
            m.among_others().await;

            m.kernel.set_mtu(m.eth0, 1380).await.unwrap();
            m.mend().await;

            assert_eq!(m.kernel.device("fairway.1").await.unwrap().unwrap().vxlan.mtu, 1330);
            assert_eq!(NodeM::facts().get("mtu"), Some(&json!(1330)));
        });
    }

    fn a_new_address_of_this_node_begins_its_tunnels_anew() {
        NodeM::run(async |mut m: NodeM| {
            m.among_others().await;
            let (network, flags) = ("192.168.14.60/24".parse().unwrap(), AddressFlags::default());
            m.kernel.add_address(&Address { link: m.eth0, network, flags }).await.unwrap();

            m.set("m", &["10.244.0.0/24", "fd00:0::/64"], &["192.168.14.60", "fd00:14::50"]);
            assert!(m.sync().await);

            let device = m.kernel.device("fairway.1").await.unwrap().unwrap();
            assert_eq!(device.vxlan.tunnel.local.to_string(), "192.168.14.60");
            assert_eq!(device.vxlan.mac.to_string(), "02:46:c0:a8:0e:3c");
            assert!(m.routes().await.contains("10.244.3.0/24 via 192.168.15.53"));
        });
    }

    fn an_overlay_of_another_s_is_named_and_left_alone() {
        NodeM::run(async |mut m: NodeM| {
            let mut flannel = proxy::plan::routes::tunnel::device(OVERLAY, "192.168.14.50".parse().unwrap(), 1450);
            "flannel.1".clone_into(&mut flannel.name);
            m.kernel.add_device(&flannel).await.unwrap();
            m.set("m", &["10.244.0.0/24"], &["192.168.14.50"]);
            m.set("w3", &["10.244.3.0/24"], &["192.168.15.53"]);

            assert!(!m.sync().await, "it is to be tried again");
            assert!(!std::path::Path::new("/run/fairway/node.json").exists(), "no pod is to start before its packets can leave");
            let there = m.kernel.device("flannel.1").await.unwrap().unwrap();
            assert_eq!(there.vxlan, flannel);

            m.kernel.delete_device(there.index).await.unwrap();
            assert!(m.sync().await);
            m.check(&["10.244.3.0/24 via 192.168.15.53"]).await;
            assert_eq!(NodeM::facts().get("mtu"), Some(&json!(1400)));
        });
    }

    fn a_device_that_cannot_be_made_makes_other_nodes_no_dearer() {
        NodeM::run(async |mut m: NodeM| {
            let mut flannel = proxy::plan::routes::tunnel::device(OVERLAY, "192.168.14.50".parse().unwrap(), 1450);
            "flannel.1".clone_into(&mut flannel.name);
            m.kernel.add_device(&flannel).await.unwrap();
            m.set("m", &["10.244.0.0/24"], &["192.168.14.50"]);
            m.set("w1", &["10.244.1.0/24"], &["192.168.14.51"]);
            assert!(!m.sync().await, "the device is to be tried again");
            let w1 = *m.kernel.routes(owner::ROUTE_PROTOCOL).await.unwrap().first().unwrap();

            // What others have done shows whether everything is compared.
            m.kernel.delete_route(&w1).await.unwrap();
            m.set("w2", &["10.244.2.0/24"], &["192.168.14.52"]);
            assert!(!m.sync().await, "the device is still to be tried again");
            m.check(&["10.244.2.0/24 via 192.168.14.52"]).await;

            assert!(!m.sync().await, "it cannot be made now either");
            m.check(&["10.244.1.0/24 via 192.168.14.51", "10.244.2.0/24 via 192.168.14.52"]).await;
        });
    }

    fn a_start_without_this_node_s_object_leaves_what_an_earlier_run_made() {
        NodeM::run(async |mut m: NodeM| {
            let all = m.among_others().await;

            m.state = State::new("m");
            m.set("w1", &["10.244.1.0/24", "fd00:1::/64"], &["192.168.14.51", "fd00:14::51"]);
            m.routes = NodeM::daemon(&m.kernel, RouteMode::Auto);
            assert!(m.sync().await, "{:?}", m.routes.complaints());
            assert_eq!(m.all().await, all, "neither the device nor what leads to w3, of which nobody has said that it is gone");
            let complaint = m.routes.complaints().pop_first().unwrap();
            assert!(complaint.contains("there is no node m") && complaint.contains("--hostname-override"), "{complaint}");

            m.set("m", &["10.244.0.0/24", "fd00:0::/64"], &["192.168.14.50", "fd00:14::50"]);
            assert!(m.sync().await);
            assert_eq!(m.routes.complaints(), BTreeSet::new());
            let gone = m.all().await;
            assert!(!gone.iter().any(|line| line.contains("192.168.15.53")), "now it is said: {gone:?}");
        });
    }

    fn what_it_has_made_itself_is_no_news() {
        NodeM::run(async |mut m: NodeM| {
            m.set("m", &["10.244.0.0/24", "fd00:0::/64"], &["192.168.14.50", "fd00:14::50"]);
            m.set("w3", &["10.244.3.0/24", "fd00:3::/64"], &["192.168.15.53", "fd00:15::53"]);

            assert!(m.sync().await, "{:?}", m.routes.complaints());

            let heard = tokio::time::timeout(QUIET, m.routes.disturbed()).await;
            assert!(heard.is_err(), "it compares everything again because of its own device");
        });
    }

    fn checksums_in_tunnels_are_left_to_nobody_where_that_is_asked_for() {
        NodeM::run(async |mut m: NodeM| {
            m.among_others().await;
            let (tunnel, features) = (m.tunnel().await, Features::open().unwrap());
            assert!(!features.is_on(tunnel, TX_CHECKSUM).unwrap());

            // Whoever turns it on again is answered when everything is looked at again.
            features.set(tunnel, TX_CHECKSUM, true).unwrap();
            assert!(features.is_on(tunnel, TX_CHECKSUM).unwrap());
            m.kernel.set_mtu(tunnel, 1300).await.unwrap();
            m.mend().await;
            assert!(!features.is_on(tunnel, TX_CHECKSUM).unwrap());
            assert!(features.is_on(999_999, TX_CHECKSUM).is_err());
        });
    }

    fn what_others_have_set_that_keeps_packets_from_pods_is_named() {
        NodeM::run(async |mut m: NodeM| {
            let named = |m: &NodeM, word: &str| m.routes.complaints().iter().any(|complaint| complaint.contains(word));
            m.among_others().await;
            assert_eq!(m.routes.complaints(), BTreeSet::new());

            sysctl::set("net/ipv4/conf/eth0/rp_filter", "1").unwrap();
            m.listen_until(|m| named(m, "rp_filter is strict (1) on eth0:")).await;
            sysctl::set("net/ipv4/conf/eth0/rp_filter", "2").unwrap();
            m.listen_until(|m| m.routes.complaints().is_empty()).await;

            sysctl::set("net/ipv4/conf/eth0/rp_filter", "1").unwrap();
            let is_nft_there = nft("table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; \
                                    chain INPUT { type filter hook input priority 0; policy drop; }; }");
            m.kernel.set_mtu(m.eth0, 1400).await.unwrap(); // a reason to look again
            m.mend().await;

            assert!(named(&m, "rp_filter is strict (1) on eth0:"), "{:?}", m.routes.complaints());
            if is_nft_there {
                assert!(named(&m, "chain ip filter FORWARD of another program drops"), "{:?}", m.routes.complaints());
                assert!(!named(&m, "INPUT"));
            }
        });
    }

    fn those_who_ask_are_told_how_pods_are_reached_and_what_is_in_the_way() {
        NodeM::run(async |mut m: NodeM| {
            let metrics = Metrics::new(&Family::ALL);
            m.routes = NodeM::daemon(&m.kernel, RouteMode::Auto).with_metrics(metrics.routing.clone());
            let report = m.routes.report();
            let said = |path: &str| report.lock().unwrap().said().pointer(path).cloned().unwrap();
            let counted = |sample: &str| {
                let text = metrics.text().unwrap();
                text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ').map(str::to_owned)).unwrap()
            };

            m.set("m", &["10.244.0.0/24", "fd00:0::/64"], &["192.168.14.50", "fd00:14::50"]);
            m.set("w1", &["10.244.1.0/24", "fd00:1::/64"], &["192.168.14.51", "fd00:14::51"]);
            assert!(m.sync().await);
            assert_eq!(said("/ways"), json!({"direct": 2, "tunnel": 0}));
            m.among_others().await;
            assert_eq!(said("/ways"), json!({"direct": 2, "tunnel": 2}));
            assert_eq!(said("/devices/0/name"), "fairway.1");
            assert_eq!(said("/devices/0/mtu"), 1400);
            assert_eq!((said("/unreachable"), said("/complaints")), (json!([]), json!([])));
            assert_eq!([r#"fairway_ways{way="direct"}"#, r#"fairway_ways{way="tunnel"}"#].map(counted), ["2", "2"]);
            assert_eq!(counted("fairway_route_repairs_total"), "0");

            // A node that shares another's pods, one that has none, and a route of another's in the way.
            let foreign = Route {
                protocol: 4,
                ..Route::through("10.244.7.0/24".parse().unwrap(), "192.168.14.1".parse().unwrap(), m.eth0)
            };
            m.kernel.add_route(&foreign).await.unwrap();
            m.set("w2", &["10.244.1.0/24"], &["192.168.14.52"]);
            m.set("w6", &[], &["192.168.14.56"]);
            m.set("w7", &["10.244.7.0/24"], &["192.168.14.57"]);
            assert!(!m.sync().await);
            assert_eq!(said("/unreachableNodes"), 2);
            assert_eq!(said("/unreachable/0"), json!({"node": "w2", "reason": "node w2 shares its pod CIDR 10.244.1.0/24 with another node"}));
            assert_eq!((counted("fairway_nodes_unreachable"), counted(r#"fairway_routing_complaints{about="route"}"#)), ("2".into(), "1".into()));
            assert!(said("/complaints/0/said").as_str().unwrap().contains("10.244.7.0/24"), "{}", said("/complaints"));

            m.set("w2", &["10.244.2.0/24"], &["192.168.14.52"]);
            m.set("w6", &["10.244.6.0/24"], &["192.168.14.56"]);
            m.kernel.delete_route(&foreign).await.unwrap();
            assert!(m.sync().await);
            assert_eq!((said("/unreachableNodes"), said("/complaints")), (json!(0), json!([])));
            assert_eq!((counted("fairway_nodes_unreachable"), counted(r#"fairway_routing_complaints{about="route"}"#)), ("0".into(), "0".into()));
            assert_eq!(counted("fairway_route_repairs_total"), "0", "what was never there was not put back");

            m.rest().await;
            let route = *m.kernel.routes(owner::ROUTE_PROTOCOL).await.unwrap().first().unwrap();
            m.kernel.delete_route(&route).await.unwrap();
            m.mend().await;
            assert_eq!(counted("fairway_route_repairs_total"), "1");
            m.kernel.set_mtu(m.tunnel().await, 1300).await.unwrap();
            m.mend().await;
            assert_eq!(counted("fairway_route_repairs_total"), "2");
        });
    }

    fn cleanup_takes_the_tunnels_away() {
        NodeM::run(async |mut m: NodeM| {
            m.among_others().await;

            assert_eq!(remove_routes(&m.kernel).await.unwrap(), 6);

            assert_eq!(m.all().await, BTreeSet::new());
        });
    }

    fn a_node_with_pods_forwards_and_goes_on_when_others_forbid_it() {
        NodeM::run(async |mut m: NodeM| {
            for family in Family::ALL {
                sysctl::set(forwarding::parameter(family), "0").unwrap();
            }
            sysctl::set("net/ipv6/conf/eth0/accept_ra", "1").unwrap();
            m.among_others().await;
            let forwards = || Family::ALL.map(|family| sysctl::read(forwarding::parameter(family)).unwrap());
            assert_eq!(forwards(), ["1", "1"]);
            let hears = |link: &str| sysctl::read(&format!("net/ipv6/conf/{link}/accept_ra")).unwrap();
            assert_eq!(hears("eth0"), "2", "what routers advertise is still heard");
            assert_eq!(hears("fairway.1"), "0", "but not what comes out of a tunnel");

            for family in Family::ALL {
                sysctl::set(forwarding::parameter(family), "0").unwrap();
            }
            m.listen_until(|_| forwards() == ["1", "1"]).await;
        });
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

//! The daemon's routes on the real kernel: what it adds, what it removes, and what it leaves alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;

use dataplane::{
    owner,
    rtnl::{Address, AddressFlags, Kernel, Mac, Route, Routes, VethEnd},
};
use fairway_lab::host::Host;
use proxy::{
    config::RouteMode,
    conflist::Files,
    objects::{Kind, Object, ObjectName},
    state::State,
    sync::{
        Nodes,
        nodes::{NodeRoutes, remove_routes},
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
}

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
        let end = |name: &str, seed| VethEnd {
            name: name.to_owned(),
            mac: Mac::locally_administered(seed),
            mtu: 1450,
        };
        kernel.add_veth(&end("eth0", 1), &end("switch", 2), None).await.unwrap();
        for name in ["eth0", "switch"] {
            kernel.set_up(kernel.link(name).await.unwrap().index, true).await.unwrap();
        }
        let eth0 = kernel.link("eth0").await.unwrap().index;
        for network in ["192.168.14.50/24", "fd00:14::50/64"] {
            let (network, nodad) = (network.parse().unwrap(), true);
            let flags = AddressFlags { nodad, ..AddressFlags::default() };
            kernel.add_address(&Address { link: eth0, network, flags }).await.unwrap();
        }
        let routes = Self::daemon(&kernel, RouteMode::Auto);
        Self { kernel, eth0, state: State::new("m"), routes }
    }

    fn daemon(kernel: &Kernel, mode: RouteMode) -> NodeRoutes {
        NodeRoutes::new(kernel.clone(), mode, Files::new("/run/fairway", "/etc/cni/net.d", true))
    }

    fn set(&mut self, name: &str, pod_cidrs: &[&str], addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| json!({"type": "InternalIP", "address": address}));
        let node = json!({
            "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": pod_cidrs},
            "status": {"addresses": addresses.collect::<Vec<_>>()},
        });
        self.state.apply(Event::set(Object::parse(node).unwrap().unwrap()));
    }

    fn remove(&mut self, name: &str) {
        let name = ObjectName { namespace: "".into(), name: name.into() };
        self.state.apply(Event::gone(Kind::Node, name));
    }

    /// What the daemon does about its nodes; whether all of it succeeded.
    async fn sync(&mut self) -> bool {
        let is_prepared = self.routes.prepare(&self.state).await;
        self.routes.finish().await && is_prepared
    }

    /// Destinations and gateways of the routes with our mark.
    async fn routes(&self) -> BTreeSet<String> {
        let routes = self.kernel.routes(owner::ROUTE_PROTOCOL).await.unwrap();
        let lines = routes.into_iter().map(|route| match route.gateway {
            Some(gateway) => format!("{} via {gateway}", route.destination),
            None => route.destination.to_string(),
        });
        lines.collect()
    }

    async fn check(&self, routes: &[&str]) {
        assert_eq!(self.routes().await, routes.iter().map(|&route| route.to_owned()).collect());
    }
}

fairway_lab::sandbox_tests! {
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

            assert!(m.routes.prepare(&m.state).await);
            m.check(&["10.244.1.0/24 via 192.168.14.51", "10.244.2.0/24 via 192.168.14.52"]).await;
            assert!(m.routes.finish().await);
            m.check(&["10.244.2.0/24 via 192.168.14.52"]).await;
        });
    }

    fn a_daemon_that_starts_again_adopts_the_routes_and_removes_the_stale_ones() {
        NodeM::run(async |mut m: NodeM| {
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
            m.set("w1", &["10.244.1.0/24"], &["172.16.0.1"]);
            m.set("w2", &["10.244.2.0/24"], &["192.168.14.52"]);
            assert!(!m.sync().await, "the missing route is to be tried again");
            m.check(&["10.244.2.0/24 via 192.168.14.52"]).await;

            let (network, flags) = ("172.16.0.50/24".parse().unwrap(), AddressFlags::default());
            m.kernel.add_address(&Address { link: m.eth0, network, flags }).await.unwrap();
            assert!(m.sync().await);
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

            let facts = std::fs::read_to_string("/run/fairway/node.json").unwrap();
            let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
            assert_eq!(facts, json!({"podCIDRs": ["10.244.0.0/24"], "mtu": 1450}));
            assert!(std::path::Path::new("/etc/cni/net.d/10-fairway.conflist").exists());
        });
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

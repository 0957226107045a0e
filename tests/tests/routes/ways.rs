//! Nodes come and go, and routes with them.

use dataplane::{
    nft::{Key, Socket},
    owner,
    packet::Family,
    rtnl::{Route, Routes as _},
};
use proxy::{
    config::RouteMode,
    plan::Settings,
    sync::{Nodes as _, Services as _, nodes::remove_routes, pace::SETTLED, services::Nftables},
};
use serde_json::json;

use super::bed::NodeM;

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
            m.kernel.add_route(&pod).await.unwrap();
            let foreign = m.add_route_of_another("10.9.0.0/16").await;

            assert!(m.sync().await);
            assert_eq!(remove_routes(&m.kernel).await.unwrap(), 0);

            m.check(&["10.244.0.7/32"]).await;
            assert_eq!(m.kernel.routes(4).await.unwrap(), [foreign]);
        });
    }

    fn a_route_that_somebody_else_made_is_not_replaced() {
        NodeM::run(async |mut m: NodeM| {
            let foreign = m.add_route_of_another("10.244.1.0/24").await;
            m.set("w1", &["10.244.1.0/24"], &["192.168.14.51"]);

            assert!(!m.sync().await);

            assert_eq!(m.kernel.routes(4).await.unwrap(), [foreign]);
        });
    }

    fn a_route_of_another_s_in_the_way_costs_nobody_but_the_pods_behind_it() {
        NodeM::run(async |mut m: NodeM| {
            let foreign = m.add_route_of_another("10.244.1.0/24").await;
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
}

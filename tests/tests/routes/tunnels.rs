//! Tunnels, and all that stands on them.

use std::{collections::BTreeSet, time::Duration};

use dataplane::{
    ethtool::{Features, TX_CHECKSUM},
    owner,
    rtnl::{Address, AddressFlags, Routes as _, Tunnels as _},
    sysctl,
};
use proxy::{
    config::RouteMode,
    sync::{Nodes as _, nodes::remove_routes},
};
use serde_json::json;

use super::bed::{NodeM, PATIENCE, QUIET, run};

fairway_lab::sandbox_tests! {
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
            // Of another's table, or of his making.
            let others = [("99", "70"), ("18007", "4")];
            let rule = |verb, (table, protocol)| {
                run("ip", &["rule", verb, "from", "10.244.0.0/24", "lookup", table, "priority", "500", "protocol", protocol])
            };
            if !others.into_iter().all(|other| rule("add", other)) {
                return;
            }

            m.among_others().await;
            remove_routes(&m.kernel).await.unwrap();

            assert_eq!(m.for_nodes().await, BTreeSet::new());
            assert!(others.into_iter().all(|other| rule("del", other)), "they are there");
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
            let flannel = m.add_overlay_of_another().await;
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
            m.add_overlay_of_another().await;
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

    fn cleanup_takes_the_tunnels_away() {
        NodeM::run(async |mut m: NodeM| {
            m.among_others().await;

            assert_eq!(remove_routes(&m.kernel).await.unwrap(), 6);

            assert_eq!(m.all().await, BTreeSet::new());
        });
    }
}

//! What others do to links, routes and parameters, and who is told of it.

use std::collections::BTreeSet;

use dataplane::{
    forwarding, owner,
    packet::Family,
    rtnl::{Address, AddressFlags, Mac, Route, Routes as _, Rule, Rules as _, Tunnels as _},
    sysctl,
};
use proxy::{config::RouteMode, metrics::Metrics, state::State};
use serde_json::json;

use super::bed::{NodeM, nft};

fairway_lab::sandbox_tests! {
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

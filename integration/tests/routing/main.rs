//! Pods on other nodes, as pods see it: four nodes on two networks with a router between them, and real packets.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod bed;
mod moving;
mod outside;
mod strangers;

use fairway_lab::{cluster::OUTSIDE, wait};

use self::bed::{ALL_PODS, Bed, FAR_IPS, Peer};

fairway_lab::sandbox_tests! {
    fn every_pod_reaches_every_other_under_its_own_address_by_both_ways() {
        let bed = Bed::start(&[]);

        for from in ALL_PODS {
            for to in ALL_PODS.into_iter().filter(|to| *to != from) {
                for (own, url) in bed.ips(from).into_iter().zip(bed.urls(to)) {
                    let answer = bed.cluster.await_answer(from, &url).unwrap();
                    assert_eq!((answer.name.as_str(), answer.client.ip()), (to, own), "{url}");
                }
            }
        }
        assert!(bed.packets("m", "fairway.1") > 0, "far nodes are reached through the tunnel");
        assert_eq!(bed.devices("m"), ["fairway.1"]);
        let before = bed.packets("m", "fairway.1");
        bed.cluster.ask("client", "near").unwrap();
        assert_eq!(bed.packets("m", "fairway.1"), before, "near ones are not");
    }

    fn a_cluster_ip_keeps_the_pod_s_address_across_nodes() {
        let bed = Bed::start(&[]);

        for (own, service) in bed.ips("client").into_iter().zip(FAR_IPS) {
            let url = format!("http://{}/", std::net::SocketAddr::new(service.parse().unwrap(), 80));
            let answer = bed.cluster.await_answer("client", &url).unwrap();
            assert_eq!((answer.name.as_str(), answer.client.ip()), ("far", own));
        }
    }

    fn nodes_and_far_pods_reach_each_other() {
        let bed = Bed::start(&[]);

        for url in bed.urls("far") {
            assert_eq!(bed.cluster.await_answer("m", &url).unwrap().name, "far");
        }
        // A node port of a node whose backend is behind a tunnel, asked from outside.
        let answer = bed.cluster.await_answer(OUTSIDE, "http://192.168.14.50:30080/").unwrap();
        assert_eq!(answer.name, "far");
        let answer = bed.cluster.await_answer(OUTSIDE, "http://[fd00:192:168:14::50]:30080/").unwrap();
        assert_eq!(answer.name, "far");
    }

    fn datagrams_of_all_sizes_pass_whole_through_tunnels_and_services() {
        let bed = Bed::start(&[]);
        for (family, service) in FAR_IPS.into_iter().enumerate() {
            let far = Peer::at(&bed, "far", family, 7);
            let header = if family == 0 { 28 } else { 48 };
            for to in [far.address(), std::net::SocketAddr::new(service.parse().unwrap(), 7)] {
                let client = Peer::at(&bed, "client", family, 0);
                wait::until("the way", || client.echo(to, &far, 1)).unwrap();
                for size in [512, 1449 - header, 1450 - header, 1451 - header, 1500 - header, 4000, 20_000, 60_000] {
                    // Whoever sends many fragments at once to a busy machine may lose one of them, and with it all.
                    wait::until(&format!("{size} bytes from {to}"), || client.echo(to, &far, size)).unwrap();
                }
            }
        }
    }

    fn datagrams_of_all_sizes_come_in_by_node_ports_whose_endpoint_is_behind_a_tunnel() {
        let bed = Bed::start(&[]);
        for (family, node) in ["192.168.14.51", "fd00:192:168:14::51"].into_iter().enumerate() {
            let far = Peer::at(&bed, "far", family, 7);
            let stranger = Peer::at(&bed, OUTSIDE, family, 0);
            let to = std::net::SocketAddr::new(node.parse().unwrap(), 30007);
            let header = if family == 0 { 28 } else { 48 };
            for size in [1, 1450 - header, 1451 - header, 1500 - header, 4000, 20_000] {
                // What is larger than the tunnel takes is lost once, and the node says to the stranger what is not.
                wait::until(&format!("{size} bytes by {to}"), || stranger.echo_through_a_node(to, &far, size)).unwrap();
            }
        }
    }

    fn streams_flow_through_tunnels_and_services_both_ways() {
        let bed = Bed::start(&[]);
        for (family, service) in FAR_IPS.into_iter().enumerate() {
            bed.cluster.await_answer("client", &bed.urls("far")[family]).unwrap();
            let pod = bed.ips("far")[family];
            for (from, to) in [("client", pod), ("client", service.parse().unwrap()), ("near", pod), ("m", pod)] {
                bed.stream(from, to, 9, ("far", pod));
            }
            let node = if family == 0 { "192.168.14.51" } else { "fd00:192:168:14::51" };
            bed.stream(OUTSIDE, node.parse().unwrap(), 30009, ("far", pod));
        }
    }

    fn pods_that_are_there_learn_of_a_smaller_mtu() {
        let bed = Bed::start(&["--routes", "vxlan"]);
        for family in 0..2 {
            bed.cluster.await_answer("client", &bed.urls("far")[family]).unwrap();
        }
        for node in ["m", "w3"] {
            bed.set_uplink_mtu(node, 1400);
        }
        for node in ["m", "w3"] {
            wait::until("the tunnel to follow", || match bed.mtu(node, "fairway.1") {
                1350 => Ok(()),
                other => Err(other.to_string()),
            }).unwrap();
            wait::until("new pods to be told", || {
                let facts = bed.node_facts(node);
                if facts["mtu"] == 1350 { Ok(()) } else { Err(facts.to_string()) }
            }).unwrap();
        }
        assert_eq!(bed.pod_mtu("client"), 1450, "nobody has called the plugin");

        for family in 0..2 {
            let far = Peer::at(&bed, "far", family, 7);
            let client = Peer::at(&bed, "client", family, 0);
            let size = 1450 - if family == 0 { 28 } else { 48 };
            // The first of that size is lost, and the pod's own node says why.
            wait::until("the pod to learn", || client.echo(far.address(), &far, size)).unwrap();
            bed.stream("client", bed.ips("far")[family], 9, ("far", bed.ips("far")[family]));
            bed.stream("far", bed.ips("client")[family], 9, ("client", bed.ips("client")[family]));
        }
    }

    fn pods_that_are_there_get_another_mtu_when_the_plugin_is_called_next() {
        let mut bed = Bed::start(&["--routes", "vxlan"]);
        for (uplink, late) in [(1400, "late"), (1500, "later")] {
            bed.set_uplink_mtu("m", uplink);
            wait::until("new pods to be told", || {
                let facts = bed.node_facts("m");
                if facts["mtu"] == uplink - 50 { Ok(()) } else { Err(facts.to_string()) }
            }).unwrap();
            bed.apply(&bed::new_pod(late, "m"));

            assert_eq!((bed.pod_mtu("client"), bed.pod_mtu(late)), (uplink - 50, uplink - 50));
            bed.cluster.await_answer("client", &bed.urls("far")[0]).unwrap();
        }
    }

    fn what_is_done_to_a_tunnel_is_mended_under_way() {
        let bed = Bed::start(&[]);
        bed.cluster.await_answer("client", "far").unwrap();
        let index = || bed.link("m", "fairway.1").unwrap().index;

        let first = index();
        bed.on("m", async |kernel| kernel.delete_link(first).await.unwrap());
        assert_eq!(bed.cluster.await_answer("client", "far").unwrap().name, "far");
        let second = index();
        bed.on("m", async |kernel| kernel.set_mac(second, dataplane::rtnl::Mac::locally_administered(5)).await.unwrap());
        assert_eq!(bed.cluster.await_answer("client", "far").unwrap().name, "far");
        // The other end still sends to the hardware address that belongs to the node.
        wait::until("the hardware address to be the node's", || match bed.link("m", "fairway.1") {
            Some(link) if link.mac.unwrap().to_string() == "02:46:c0:a8:0e:32" => Ok(()),
            other => Err(format!("{other:?}")),
        }).unwrap();
        assert_eq!(bed.cluster.await_answer("far", "client").unwrap().name, "client");
    }

    fn a_cluster_of_ipv6_alone_has_tunnels_of_ipv6() {
        let bed = Bed::start_from(bed::IPV6_ALONE, &[]);

        let answer = bed.cluster.await_answer("client", &bed.urls("far")[0]).unwrap();

        assert_eq!((answer.name.as_str(), answer.client.ip()), ("far", bed.ips("client")[0]));
        assert_eq!(bed.devices("m"), ["fairway6.1"]);
        assert_eq!(bed.mtu("m", "fairway6.1"), 1430);
        bed.stream("client", bed.ips("far")[0], 9, ("far", bed.ips("far")[0]));
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS, moving::TESTS, outside::TESTS, strangers::TESTS])
}

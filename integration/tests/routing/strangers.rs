//! Networks that drop packets from addresses they do not know, as those of clouds do: whatever goes from node to node there bears the
//! address of a node, or is inside a packet that does.

use std::net::SocketAddr;

use dataplane::{rtnl::Rules as _, sysctl};
use fairway_lab::wait;

use super::bed::{Bed, FAR_IPS, Peer};

/// A service without a selector, as `kubernetes` in front of the API servers is: its endpoint is a node's own address.
const NODE_SERVICE: &str = r#"
{kind: Service, metadata: {name: api}, spec: {ipFamilyPolicy: RequireDualStack, clusterIP: 10.105.77.241,
 clusterIPs: [10.105.77.241, "fd00:10:105:77::241"],
 ports: [{name: echo, port: 443, protocol: UDP}, {name: stream, port: 443}]}}
---
{kind: EndpointSlice, metadata: {name: api-4, labels: {kubernetes.io/service-name: api}}, addressType: IPv4,
 endpoints: [{addresses: [192.168.15.53]}], ports: [{name: echo, port: 6443, protocol: UDP}, {name: stream, port: 6444}]}
---
{kind: EndpointSlice, metadata: {name: api-6, labels: {kubernetes.io/service-name: api}}, addressType: IPv6,
 endpoints: [{addresses: ["fd00:192:168:15::53"]}], ports: [{name: echo, port: 6443, protocol: UDP}, {name: stream, port: 6444}]}
"#;

const NODE_SERVICE_IPS: [&str; 2] = ["10.105.77.241", "fd00:10:105:77::241"];

/// Everything but frames of machines' own addresses, and what IPv6 asks neighbours.
const STRANGERS: &str = "table bridge strangers { chain forward { type filter hook forward priority 0; \
    ether type ip ip saddr != 192.168.14.0/23 drop; \
    ether type ip6 ip6 saddr != { ::, fe80::/10, fd00:192:168:14::/63 } drop; }; }";

/// Has the switches drop what comes from strangers. False where nft is not installed.
#[expect(clippy::disallowed_methods, reason = "plays a network that knows nobody but nodes")]
fn close_networks(bed: &Bed) -> bool {
    for switch in ["m", "w3"].map(|node| bed.cluster.switch_of(node).unwrap()) {
        let nft = || std::process::Command::new("nft").arg(STRANGERS).output();
        let Ok(done) = switch.netns().run(nft).unwrap() else {
            assert!(std::env::var_os("FAIRWAY_REQUIRE_SANDBOX").is_none(), "nft is required here");
            println!("nft is not installed: skipped");
            return false;
        };
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    true
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// The addresses of node number `number` on a network, in both families.
fn node_ips(network: u8, number: u8) -> [String; 2] {
    [format!("192.168.{network}.{number}"), format!("fd00:192:168:{network}::{number}")]
}

/// Pods of `m` and a node behind a tunnel reach each other, and so do `m` and that node's pods, all under their own addresses.
fn both_ways(bed: &Bed, node: &str, ips: &[String; 2], pod: &str) {
    for (family, (ip, own)) in ips.iter().zip(node_ips(14, 50)).enumerate() {
        let (client, there) = (Peer::at(bed, "client", family, 0), Peer::with(bed, node, at(ip, 7000)));
        let (here, far) = (Peer::with(bed, "m", at(&own, 7001)), Peer::at(bed, pod, family, 7002));
        for (from, to) in [(&client, &there), (&there, &client), (&here, &far), (&far, &here)] {
            let what = format!("{} to {}", from.address(), to.address());
            wait::until(&what, || from.echo(to.address(), to, 100)).unwrap();
        }
        bed.stream_to("client", at(ip, 7003), (node, at(ip, 7003)));
    }
}

/// The same by way of services: in front of a far node's own address, and in front of a far pod.
fn through_services(bed: &mut Bed) {
    bed.apply(NODE_SERVICE);
    for (family, (ip, own)) in node_ips(15, 53).iter().zip(node_ips(14, 50)).enumerate() {
        let (client, there) = (Peer::at(bed, "client", family, 0), Peer::with(bed, "w3", at(ip, 6443)));
        let service = at(NODE_SERVICE_IPS[family], 443);
        wait::until("a pod to a far node", || client.echo(service, &there, 100)).unwrap();
        bed.stream_to("client", service, ("w3", at(ip, 6444)));

        let (here, far) = (Peer::with(bed, "m", at(&own, 7004)), Peer::at(bed, "far", family, 7));
        wait::until("a node to a far pod", || here.echo(at(FAR_IPS[family], 7), &far, 100)).unwrap();
        bed.stream("m", FAR_IPS[family].parse().unwrap(), 9, ("far", bed.ips("far")[family]));
    }
}

fairway_lab::sandbox_tests! {
    fn pods_and_far_nodes_reach_each_other_where_the_network_knows_nobody_but_nodes() {
        let mut bed = Bed::start(&["--routes", "vxlan"]);
        if !close_networks(&bed) {
            return;
        }
        both_ways(&bed, "w1", &node_ips(14, 51), "near");
        both_ways(&bed, "w3", &node_ips(15, 53), "far");
        through_services(&mut bed);

        // It is the rules that do it: without them, the network drops what pods send to nodes.
        let client = Peer::at(&bed, "client", 0, 0);
        let there = Peer::with(&bed, "w3", at("192.168.15.53", 7005));
        wait::until("the way", || client.echo(there.address(), &there, 100)).unwrap();
        bed.cluster.node_mut("m").unwrap().stop_daemon().unwrap();
        bed.on("m", async |kernel| {
            for rule in kernel.rules().await.unwrap() {
                kernel.delete_rule(&rule).await.unwrap();
            }
        });
        assert!(client.echo(there.address(), &there, 100).is_err());
        bed.cluster.node_mut("m").unwrap().start_daemon().unwrap();
        wait::until("the daemon to put them back", || client.echo(there.address(), &there, 100)).unwrap();
    }

    fn behind_a_router_that_knows_nobody_but_nodes_pods_and_nodes_reach_each_other_too() {
        let mut bed = Bed::start(&[]);
        if !close_networks(&bed) {
            return;
        }
        both_ways(&bed, "w3", &node_ips(15, 53), "far");
        through_services(&mut bed);
    }

    fn pods_and_far_nodes_reach_each_other_though_packets_must_come_by_the_way_of_their_answers() {
        let mut bed = Bed::start(&[]);
        for node in ["m", "w1", "w3", "w4"] {
            let check = || sysctl::set("net/ipv4/conf/all/rp_filter", "1").unwrap();
            bed.cluster.place(node).unwrap().run(check).unwrap();
        }

        both_ways(&bed, "w3", &node_ips(15, 53), "far");
        through_services(&mut bed);
        // A node that asks another's port for a pod there: the question goes from node to node, and the pod's answer through the tunnel.
        // The one that is asked must take such questions, the other takes such answers anyhow.
        let take = || sysctl::set("net/ipv4/conf/eth0/rp_filter", "2").unwrap();
        bed.cluster.place("w3").unwrap().run(take).unwrap();
        for node in node_ips(15, 53) {
            let url = format!("http://{}/", at(&node, 30080));
            assert_eq!(bed.cluster.await_answer("m", &url).unwrap().name, "far");
        }
    }
}

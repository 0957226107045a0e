//! Under which address pods are seen: by the outside, under their node's; by pods, nodes and services of the cluster, under their own.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use dataplane::disk::{Directory, Durability};
use fairway_lab::{cluster::OUTSIDE, runtime::CONF_DIR, wait, wire::Datagram};
use serde_json::json;

use crate::bed::{Bed, FAR_IPS, NEW_NODE, PATIENCE, Peer, new_pod};

/// The addresses of the machine outside on the nodes' first network, of node `m`, of `w1` beside it, and of `w3` behind the router.
const ROUTER: [&str; 2] = ["192.168.14.1", "fd00:192:168:14::1"];
const M: [&str; 2] = ["192.168.14.50", "fd00:192:168:14::50"];
const W1: [&str; 2] = ["192.168.14.51", "fd00:192:168:14::51"];
const W3: [&str; 2] = ["192.168.15.53", "fd00:192:168:15::53"];

/// The address under which a place sees a datagram that was sent to it: to that address of its own, or to another that leads there.
fn seen(bed: &Bed, from: &str, place: &str, own: IpAddr, to: IpAddr) -> IpAddr {
    let at = |place: &str, ip: IpAddr, port| {
        let bind = || UdpSocket::bind((ip, port)).unwrap();
        let socket = bed.cluster.place(place).unwrap().run(bind).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let server = at(place, own, 7);
    let family = usize::from(to.is_ipv6());
    let client = at(from, bed.ips(from)[family], 0);
    let mut seen = None;
    wait::until(&format!("an answer to {from} from {place} at {to}"), || {
        client.send_to(b"who am I?", SocketAddr::new(to, 7)).map_err(|error| error.to_string())?;
        let mut buffer = [0; 16];
        let (_, by) = server.recv_from(&mut buffer).map_err(|error| format!("there: {error}"))?;
        seen = Some(by.ip());
        server.send_to(b"you", by).map_err(|error| error.to_string())?;
        client.recv_from(&mut buffer).map_err(|error| format!("back: {error}"))?;
        Ok(())
    })
    .unwrap();
    seen.unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fairway_lab::sandbox_tests! {
    fn pods_are_seen_as_their_node_outside_and_as_they_are_inside() {
        let mut bed = Bed::start(&[]);
        bed.apply(NEW_NODE); // which is inside as soon as it is there

        for family in 0..2 {
            let [client, near, far, new] = ["client", "near", "far", "new"].map(|pod| bed.ips(pod)[family]);
            let at = |place, own| seen(&bed, "client", place, own, own);
            assert_eq!(at(OUTSIDE, ip(ROUTER[family])), ip(M[family]));
            for (place, own) in [("near", near), ("far", far), ("new", new)] {
                assert_eq!(at(place, own), client, "{place}");
            }
            for (place, own) in [("m", M), ("w1", W1), ("w3", W3)] {
                assert_eq!(at(place, ip(own[family])), client, "{place}");
            }
            assert_eq!(seen(&bed, "client", "far", far, ip(FAR_IPS[family])), client, "through a cluster IP");
        }
    }

    fn a_network_of_pods_with_ip_masq_is_as_one_without_beside_a_daemon() {
        let mut bed = Bed::start(&[]);
        let ranges = json!([
            [{ "subnet": "10.244.0.0/24", "rangeStart": "10.244.0.100" }],
            [{ "subnet": "fd00:10:244:0::/64", "rangeStart": "fd00:10:244:0::100" }],
        ]);
        let plugin = json!({ "type": "fairway", "ipMasq": true, "ipam": { "ranges": ranges } });
        let list = json!({ "cniVersion": "1.1.0", "name": "own", "plugins": [plugin] }).to_string();
        let confs = Directory::new(CONF_DIR, Durability::Volatile);
        let write = || confs.replace("05-own.conflist", list.as_bytes()).unwrap(); // before the daemon's by its name
        bed.cluster.place("m").unwrap().run(write).unwrap();
        bed.apply(&new_pod("own", "m"));

        for family in 0..2 {
            let [own, near, far] = ["own", "near", "far"].map(|pod| bed.ips(pod)[family]);
            let at = |place, ip| seen(&bed, "own", place, ip, ip);
            assert_eq!(at(OUTSIDE, ip(ROUTER[family])), ip(M[family]));
            for (place, address) in [("near", near), ("far", far), ("w1", ip(W1[family])), ("w3", ip(W3[family]))] {
                assert_eq!(at(place, address), own, "{place}");
            }
            assert_eq!(seen(&bed, "own", "far", far, ip(FAR_IPS[family])), own, "through a cluster IP");
        }
    }

    fn pods_are_seen_as_they_are_in_networks_that_are_excepted() {
        let mut bed = Bed::start(&["--non-masquerade-cidrs", "192.168.14.0/24,fd00:192:168:14::/64"]);
        bed.lead_to_pods_from_outside();

        for (family, router) in ROUTER.map(ip).into_iter().enumerate() {
            assert_eq!(seen(&bed, "client", OUTSIDE, router, router), bed.ips("client")[family]);
        }
    }

    fn who_is_no_node_puts_nothing_into_a_tunnel() {
        let bed = Bed::start(&[]);
        bed.cluster.await_answer("client", "near").unwrap(); // so both know each other
        let pod = Peer::at(&bed, "client", 1, 7);
        let forge = |place: &str, words: &str| {
            let from = "[fd00:10:244:3::99]:99".parse().unwrap(); // a pod of w3's, it seems
            let inside = Datagram { from, to: pod.address(), data: words.as_bytes().to_vec() }.bytes();
            let vxlan = [0x08, 0, 0, 0, 0, 0, 1, 0]; // RFC 7348 §5: the network's number is there, and it is 1
            let ethernet = [0x02, 0x46, 0xc0, 0xa8, 0x0e, 0x32, 0x02, 0x46, 0xc0, 0xa8, 0x0f, 0x35, 0x86, 0xdd];
            let send = || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.send_to(&[&vxlan, &ethernet[..], &inside].concat(), "192.168.14.50:8472").unwrap();
            };
            bed.cluster.place(place).unwrap().run(send).unwrap();
        };

        for _ in 0..20 {
            forge(OUTSIDE, "stranger");
            forge("near", "pod");
        }
        wait::until("a node's", || {
            forge("w1", "node");
            let heard = pod.hear()?;
            assert_eq!(heard, "node");
            Ok(())
        })
        .unwrap();
    }

    fn where_others_lead_to_pods_they_are_seen_as_they_are() {
        let mut bed = Bed::start(&["--routes=none"]);
        bed.lead_to_pods_from_outside();

        for (family, router) in ROUTER.map(ip).into_iter().enumerate() {
            assert_eq!(seen(&bed, "client", OUTSIDE, router, router), bed.ips("client")[family]);
        }
    }
}

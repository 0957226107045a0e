//! Who sees whom: where the source address is kept, and where the node's stands for it.

use std::net::{SocketAddr, TcpStream};

use dataplane::packet::Family;
use fairway_lab::{answer::Answer, client};
use socket2::{Domain, Socket, Type};

use crate::bed::{Bed, on};

const WEB: &str = "spec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}";
const PODS: &str = "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48";
const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/64"];

/// Two endpoints, one on each node, and a machine outside that sends what goes to cluster IPs to w1.
fn bed(flags: &[&str]) -> Bed {
    let mut bed = Bed::start(flags);
    bed.serve("web", WEB, &[on("a"), on("c")]);
    bed.route("outside", &SERVICES, "w1");
    bed
}

fairway_lab::sandbox_tests! {
    fn pods_are_seen_as_they_are_and_strangers_as_they_are_where_nobody_says_what_a_pod_is() {
        let mut bed = bed(&[]);
        bed.serve("near", "spec: {ports: [{port: 80}]}", &[on("a"), on("b")]); // whose answers pass w1 in any case

        bed.check("client", "web:80", ["a sees client", "c sees client"]);
        bed.check("outside", "near:80", ["a sees outside", "b sees outside"]);
        bed.check("outside", "w1:30080", ["a sees w1", "c sees w1"]);
        bed.check("outside", "w2:30080", ["a sees w2", "c sees w2"]);
    }

    fn strangers_at_a_cluster_ip_are_seen_as_the_node_where_it_is_said_what_a_pod_is() {
        let bed = bed(&[PODS]);

        bed.check("outside", "web:80", ["a sees w1", "c sees w1"]);
        bed.check("client", "web:80", ["a sees client", "c sees client"]);
        bed.check("w1", "web:80", ["a sees w1", "c sees w1"]);
    }

    fn everybody_at_a_cluster_ip_is_seen_as_the_node_on_demand() {
        let bed = bed(&["--masquerade-all"]);

        for from in ["client", "w1", "outside"] {
            bed.check(from, "web:80", ["a sees w1", "c sees w1"]);
        }
        bed.check("client2", "web:80", ["a sees w2", "c sees w2"]);
    }

    fn pods_at_a_node_port_are_seen_as_the_node() {
        let bed = bed(&[PODS]);

        bed.check("client", "w1:30080", ["a sees w1", "c sees w1"]);
        bed.check("client2", "w2:30080", ["a sees w2", "c sees w2"]);
    }

    fn who_meets_itself_is_seen_as_the_node_and_nobody_else() {
        let bed = bed(&[PODS]);

        bed.check("a", "web:80", ["a sees w1", "c sees a"]);
        bed.check("c", "web:80", ["a sees c", "c sees w2"]);
    }

    fn pods_of_the_node_may_be_told_by_its_own_networks() {
        let bed = bed(&["--detect-local-mode=NodeCIDR"]);

        bed.check("client", "web:80", ["a sees client", "c sees client"]);
        bed.check("client2", "web:80", ["a sees client2", "c sees client2"]);
        bed.check("outside", "web:80", ["a sees w1", "c sees w1"]);
        bed.check("w1", "web:80", ["a sees w1", "c sees w1"]);
    }

    fn pods_of_the_node_may_be_told_by_the_names_of_their_links() {
        let bed = bed(&["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=fw"]);

        bed.check("client", "web:80", ["a sees client", "c sees client"]);
        bed.check("outside", "web:80", ["a sees w1", "c sees w1"]);
        bed.check("w1", "web:80", ["a sees w1", "c sees w1"]);
    }

    fn pods_of_the_node_may_be_told_by_the_link_that_they_come_over() {
        // Pods of Fairway are on no bridge: whoever comes over the uplink plays them.
        let mut bed = bed(&["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=eth0"]);
        bed.serve("near", "spec: {ports: [{port: 80}]}", &[on("a")]);

        bed.check("outside", "near:80", ["a sees outside"]);
        bed.check("client", "near:80", ["a sees w1"]);
    }

    fn the_port_that_stands_for_a_stranger_s_is_drawn_at_random() {
        let bed = bed(&[]);

        for family in Family::ALL {
            let (_, to) = bed.door(family, "w1:30080");
            let mut shifts = (0_u16..3).map(|n| {
                let own = 20_000 + n;
                seen_port(&bed, own, to).wrapping_sub(own)
            });
            // One that is kept, or counted on from there, is the same distance away each time.
            let first = shifts.next().unwrap();
            assert!(shifts.all(|shift| shift != first && shift != 0), "{family}");
        }
    }
}

/// The port that the server sees when the machine outside asks from a port of its choice.
fn seen_port(bed: &Bed, own: u16, to: SocketAddr) -> u16 {
    let answer = bed.netns("outside").run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
        socket.bind(&SocketAddr::new(any.parse().unwrap(), own).into()).unwrap();
        socket.connect(&to.into()).unwrap();
        client::ask_over(TcpStream::from(socket), to, "/").unwrap()
    });
    let answer: Answer = client::body_of(&answer.unwrap()).parse().unwrap();
    answer.client.port()
}

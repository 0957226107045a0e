//! What is told when something is wrong, and what must not be taken for an answer.

use std::{
    fs,
    net::{SocketAddr, TcpStream, UdpSocket},
};

use dataplane::packet::Family;
use fairway_lab::{
    answer::Answer,
    client::{self, PATIENCE},
    wire::{ACK, SYN, Segment},
};

use crate::{
    bed::{Bed, SILENCE, on},
    raw::{Listener, ping, send},
};

const WEB: &str = "spec: {ports: [{port: 80}]}";

/// How many ICMP errors a node has sent because packets were too large, as its kernel counts them.
fn errors_told_by(bed: &Bed, node: &str, family: Family) -> u64 {
    let read = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
    let number = |text: Option<&str>| text.unwrap().parse().unwrap();
    bed.netns(node)
        .run(|| match family {
            Family::Ip => {
                let text = read("snmp");
                let mut icmp =
                    text.lines().filter(|line| line.starts_with("Icmp: ")).map(|line| line.split(' '));
                let mut columns = icmp.next().unwrap().zip(icmp.next().unwrap());
                number(columns.find(|(name, _)| *name == "OutDestUnreachs").map(|(_, count)| count))
            }
            Family::Ip6 => {
                let text = read("snmp6");
                let line = text.lines().find(|line| line.starts_with("Icmp6OutPktTooBigs"));
                number(line.and_then(|line| line.split_whitespace().nth(1)))
            }
        })
        .unwrap()
}

fairway_lab::sandbox_tests! {
    fn nobody_behind_a_service_is_told_at_once_whoever_asks() {
        let mut bed = Bed::start(&[]);
        let both = "spec: {type: NodePort, ports: [{name: t, port: 80, nodePort: 30080}, \
                    {name: u, port: 80, protocol: UDP, nodePort: 30080}]}";
        bed.serve("empty", both, &[]);

        for from in ["client", "client2", "w1", "w2"] {
            bed.check(from, "empty:80", ["refused"]);
            bed.check(from, "empty:80/udp", ["refused"]);
        }
        bed.check("outside", "w1:30080", ["refused"]);
        bed.check("outside", "w1:30080/udp", ["refused"]);
    }

    fn an_error_of_the_endpoint_reaches_the_client_as_one_of_the_service() {
        let mut bed = Bed::start(&[]);
        // Nobody listens there: the pods' kernels say so, about an address that the clients never asked.
        let closed = "spec: {type: NodePort, ports: [
            {name: t, port: 80, targetPort: 9, nodePort: 30080},
            {name: u, port: 80, targetPort: 9, protocol: UDP, nodePort: 30080},
            {name: open, port: 81, targetPort: 80, nodePort: 30081}]}";
        bed.serve("web", closed, &[on("a"), on("c")]);

        for from in ["client", "a", "w1"] {
            bed.check(from, "web:80", ["refused"]);
            bed.check(from, "web:80/udp", ["refused"]);
        }
        bed.check("outside", "w1:30080", ["refused"]);
        bed.check("outside", "w1:30080/udp", ["refused"]);
        bed.check("client", "web:81", ["a sees client", "c sees client"]);
    }

    fn a_path_that_takes_smaller_packets_is_told_to_the_client() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", WEB, &[on("c")]);

        // Both ends go by the larger size that their own links have: only the node between knows better, and says so about an
        // address that the client never asked.
        bed.narrow("c", 1300);

        for family in Family::ALL {
            let (_, to) = bed.door(family, "web:80");
            let connection = bed.netns("client").run(|| TcpStream::connect(to)).unwrap().unwrap();
            connection.set_read_timeout(Some(PATIENCE)).unwrap();
            let path = format!("/{}", "long".repeat(5_000));
            let answer = client::ask_over(connection, to, &path).map_err(|error| format!("{family}: {error}"));
            assert!(client::body_of(&answer.unwrap()).starts_with("c at "));
            assert!(errors_told_by(&bed, "w2", family) > 0, "{family}");
        }
    }

    fn a_datagram_in_pieces_arrives_whole() {
        let mut bed = Bed::start(&[]);
        bed.serve("dns", "spec: {ports: [{port: 80, protocol: UDP}]}", &[on("c")]);

        for family in Family::ALL {
            let (_, to) = bed.door(family, "dns:80/udp");
            let any = if family == Family::Ip { "0.0.0.0:0" } else { "[::]:0" };
            let socket = bed.netns("client").run(|| UdpSocket::bind(any)).unwrap().unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(to).unwrap();
            socket.send(&[b'?'; 4_000]).unwrap();
            let mut answer = [0; 512];
            let length = socket.recv(&mut answer).unwrap();
            assert!(answer[..length].starts_with(b"c at "), "{family}");
        }
    }

    fn a_packet_out_of_its_window_ends_no_connection() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", WEB, &[on("c")]);

        for family in Family::ALL {
            let (_, to) = bed.door(family, "web:80");
            let (server, client) = (bed.netns("c"), bed.netns("client"));
            let listen = || Listener::open(family);
            let (at_server, at_client) = (server.run(listen).unwrap(), client.run(listen).unwrap());
            let connection = client.run(|| TcpStream::connect(to)).unwrap().unwrap();
            let own_port = connection.local_addr().unwrap().port();
            let client_begins = at_server.sequence_to(80, SYN);
            let server_begins = at_client.sequence_to(own_port, SYN | ACK);

            // As a server's kernel may send it, or somebody else: the client knows nothing of this address, and would answer with
            // a reset that ends the connection.
            let stray = Segment {
                from: SocketAddr::new(bed.address("c", family), 80),
                to: SocketAddr::new(bed.address("client", family), own_port),
                sequence: server_begins.wrapping_add(0x1000_0000),
                acknowledgement: client_begins.wrapping_add(1),
                flags: ACK,
            };
            server.run(|| send(&stray)).unwrap();
            assert_eq!(bed.ask(family, "c", "client:80"), "client sees c"); // which comes after it, and after a reset

            let answer = client::ask_over(connection, to, "/").map_err(|error| format!("{family}: {error}"));
            let answer: Answer = client::body_of(&answer.unwrap()).parse().unwrap();
            assert_eq!(answer.name, "c");
        }
    }

    fn a_port_that_no_service_has_is_refused_at_a_cluster_ip() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", WEB, &[on("a")]);
        bed.route("outside", &["10.96.0.0/16", "fd00:10:96::/64"], "w1");

        for from in ["client", "w1", "outside"] {
            bed.check(from, "web:81", ["refused"]);
            bed.check(from, "web:80/udp", ["refused"]);
        }
        bed.check("client", "web:80", ["a sees client"]);
    }

    fn what_nobody_was_allotted_within_the_service_networks_is_dropped() {
        let mut bed = Bed::start(&[]);
        bed.name("nobody", &["10.96.77.77", "fd00:10:96::77"]);
        bed.answer_outside("nobody");
        bed.check("client", "nobody:80", ["outside sees w1"]);

        let service_cidr = "{kind: ServiceCIDR, apiVersion: networking.k8s.io/v1, metadata: {name: kubernetes}, \
                            spec: {cidrs: [10.96.0.0/16, \"fd00:10:96::/64\"]}}";
        bed.write_manifest("network.yaml", service_cidr);
        bed.check("client", "nobody:80", ["silent"]);
        bed.check("w1", "nobody:80", ["silent"]);

        bed.serve("web", "spec: {clusterIPs: [10.96.77.77, \"fd00:10:96::77\"], ports: [{port: 80}]}", &[on("a")]);
        bed.check("client", "nobody:80", ["a sees client"]);
        bed.check("client", "nobody:81", ["refused"]);
    }

    fn a_cluster_ip_answers_ping_on_demand_while_somebody_is_behind_it() {
        let mut bed = Bed::start(&["--ping-cluster-ips"]);
        bed.serve("web", WEB, &[on("c")]);
        let pinged = |bed: &Bed, from, patience| {
            let to = Family::ALL.map(|family| bed.address("web", family));
            bed.netns(from).run(|| to.map(|to| ping(to, patience))).unwrap()
        };

        assert_eq!(pinged(&bed, "client", PATIENCE), ["echo"; 2]);
        assert_eq!(pinged(&bed, "w1", PATIENCE), ["echo"; 2]);

        bed.back("web", &[]);
        assert!(!pinged(&bed, "client", SILENCE).contains(&"echo"));
        bed.back("web", &[on("a")]);
        assert_eq!(pinged(&bed, "client", PATIENCE), ["echo"; 2]);

        bed.restart(&[]);
        assert!(!pinged(&bed, "client", SILENCE).contains(&"echo"));
    }
}

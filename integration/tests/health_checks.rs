//! What a load balancer hears that asks a node for a service's endpoints there.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails; and it plays the user"
)]

mod lone_node;

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use dataplane::{
    netns::Netns,
    rtnl::{Address, Kernel, LOOPBACK},
};
use fairway_lab::{
    client::{self, PATIENCE},
    wait,
};
use lone_node::{LoneNode, NODE};

impl LoneNode {
    /// What the node says on a port, to somebody outside.
    fn ask(&self, address: &str, port: u16) -> Result<String, client::Error> {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        self.outside.run(|| client::http_text(to, "/healthz", PATIENCE)).unwrap()
    }

    /// Waits until the node says `expected` on a port: a status and a number of endpoints.
    fn await_answer(&self, address: &str, port: u16, expected: (u16, u32)) {
        let looked = wait::until_within(
            Duration::from_secs(10),
            &format!("{address}:{port} to say {expected:?}"),
            || {
                let said = self.ask(address, port).map_err(|error| error.to_string())?;
                let weight = format!("X-Load-Balancing-Endpoint-Weight: {}\r\n", expected.1);
                let is_it = said.starts_with(&format!("HTTP/1.1 {} ", expected.0)) && said.contains(&weight);
                if is_it { Ok(()) } else { Err(said) }
            },
        );
        looked.unwrap();
    }

    /// Waits until nobody listens on a port of an address any more, or yet.
    fn await_refusal(&self, address: &str, port: u16) {
        let looked =
            wait::until_within(Duration::from_secs(10), &format!("{address}:{port} to be closed"), || {
                match self.ask(address, port) {
                    Err(error) if error.is_refused() => Ok(()),
                    said => Err(format!("{said:?}")),
                }
            });
        looked.unwrap();
    }

    /// Gives the node an address on its loopback link, or takes it.
    fn set_address(&self, address: &str, is_there: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let kernel = Kernel::open_in(&Netns::open(self.node.netns_path()).unwrap()).unwrap();
            let ip: IpAddr = address.parse().unwrap();
            let address = Address::bare(LOOPBACK, ip.into());
            if is_there { kernel.add_address(&address).await } else { kernel.delete_address(&address).await }
                .unwrap();
        });
    }

    /// The ports that somebody on the node listens on at all addresses of IPv4, or at this one.
    fn listened_on(&self, address: [u8; 4]) -> Vec<u16> {
        const LISTEN: &str = "0A";
        let table = self.node.run(|| fs::read_to_string("/proc/thread-self/net/tcp").unwrap()).unwrap();
        let local = format!("{:08X}:", u32::from_ne_bytes(address));
        let sockets = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        let listening = sockets.filter(|socket| socket.get(3) == Some(&LISTEN));
        let ports = listening.filter_map(|socket| socket.get(1)?.strip_prefix(&local).map(str::to_owned));
        ports.map(|port| u16::from_str_radix(&port, 16).unwrap()).collect()
    }
}

/// A service behind a load balancer that asks on `port`; the address is made from its last letter.
fn service(name: &str, port: u16) -> String {
    let last = name.bytes().last().unwrap();
    format!(
        "{{kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{type: LoadBalancer, clusterIP: 10.96.0.{last}, \
         externalTrafficPolicy: Local, healthCheckNodePort: {port}, ports: [{{port: 80}}]}}}}"
    )
}

/// Endpoints of a service: address, node, and whether it is about to end.
fn slice(name: &str, endpoints: &[(&str, &str, bool)]) -> String {
    let endpoints = endpoints.iter().map(|(address, node, is_ending)| {
        let conditions = format!("ready: {}, serving: true, terminating: {is_ending}", !is_ending);
        format!("{{addresses: [{address}], nodeName: {node}, conditions: {{{conditions}}}}}")
    });
    format!(
        "{{kind: EndpointSlice, metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}, \
         addressType: IPv4, ports: [{{port: 8080}}], endpoints: [{}]}}",
        endpoints.collect::<Vec<_>>().join(", ")
    )
}

const HERE: (&str, &str, bool) = ("10.244.1.2", "w1", false);
const ELSEWHERE: (&str, &str, bool) = ("10.244.2.2", "w2", false);

fairway_lab::sandbox_tests! {
    fn the_answer_is_kube_proxy_s_byte_for_byte_in_both_families() {
        let slice = slice("web", &[HERE, ("10.244.1.3", "w1", false), ELSEWHERE]);
        let lab = LoneNode::start(&[], &[("service.yaml", &service("web", 30_100)), ("slice.yaml", &slice)]);
        for address in NODE {
            lab.await_answer(address, 30_100, (200, 2));
        }

        for address in NODE {
            let to = SocketAddr::new(address.parse().unwrap(), 30_100);
            let said = lab.outside.run(|| {
                let mut stream = TcpStream::connect(to).unwrap();
                stream.write_all(b"GET / HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n").unwrap();
                let mut said = String::new();
                stream.read_to_string(&mut said).unwrap();
                said
            });

            let (head, body) = said.as_ref().unwrap().split_once("\r\n\r\n").unwrap();
            let head: Vec<_> = head.split("\r\n").filter(|line| !line.starts_with("Date: ")).collect();
            let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\
                            \"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
            assert_eq!(body, expected);
            assert_eq!(head, [
                "HTTP/1.1 200 OK", "Content-Type: application/json", "X-Content-Type-Options: nosniff",
                "X-Load-Balancing-Endpoint-Weight: 2", "Connection: close", &format!("Content-Length: {}", expected.len()),
            ]);
        }
    }

    fn a_node_without_endpoints_that_stay_wants_no_more_traffic() {
        let lab = LoneNode::start(&[], &[("service.yaml", &service("web", 30_100)), ("slice.yaml", &slice("web", &[HERE, ELSEWHERE]))]);
        lab.await_answer(NODE[0], 30_100, (200, 1));

        lab.write("slice.yaml", &slice("web", &[("10.244.1.2", "w1", true), ELSEWHERE]));
        lab.await_answer(NODE[0], 30_100, (503, 0));
        lab.write("slice.yaml", &slice("web", &[HERE, ELSEWHERE]));
        lab.await_answer(NODE[0], 30_100, (200, 1));
        lab.write("slice.yaml", &slice("web", &[ELSEWHERE]));
        lab.await_answer(NODE[0], 30_100, (503, 0));
        lab.remove("slice.yaml");
        lab.await_answer(NODE[0], 30_100, (503, 0));
    }

    fn a_health_check_port_follows_its_service() {
        let lab = LoneNode::start(&[], &[("service.yaml", &service("web", 30_100)), ("slice.yaml", &slice("web", &[HERE]))]);
        lab.await_answer(NODE[0], 30_100, (200, 1));

        lab.write("service.yaml", &service("web", 30_200));
        lab.await_answer(NODE[0], 30_200, (200, 1));
        lab.await_refusal(NODE[0], 30_100);

        lab.write("service.yaml", &service("web", 30_200).replace("Local", "Cluster"));
        lab.await_refusal(NODE[0], 30_200);
        lab.write("service.yaml", &service("web", 30_200));
        lab.await_answer(NODE[0], 30_200, (200, 1));

        lab.remove("service.yaml");
        lab.await_refusal(NODE[0], 30_200);
        assert_eq!(lab.listened_on([0; 4]), [0_u16; 0]);
    }

    fn a_port_that_is_taken_is_said_once_and_served_when_it_is_free() {
        let (node, taken) = ("0.0.0.0", 30_100);
        let lab = LoneNode::start(&[], &[]);
        let other = lab.node.run(|| TcpListener::bind((node, taken)).unwrap()).unwrap();

        lab.write("web.yaml", &format!("{}\n---\n{}", service("web", taken), slice("web", &[HERE])));
        let said = lab.says("WARN");
        for words in ["shop/web", "0.0.0.0:30100", "Address already in use", "ss -lnp"] {
            assert!(said.contains(words), "no {words:?}: {said}");
        }
        lab.write("api.yaml", &format!("{}\n---\n{}", service("api", 30_101), slice("api", &[HERE])));
        lab.await_answer(NODE[0], 30_101, (200, 1));
        lab.await_answer(NODE[1], taken, (200, 1)); // only IPv4 is taken

        drop(other);
        lab.await_answer(NODE[0], taken, (200, 1));
        let said = lab.says("could not be opened before");
        assert!(!said.contains("WARN"), "the same complaint again: {said}");
    }

    fn node_port_addresses_are_listened_on_as_they_come_and_go() {
        let flags = ["--nodeport-addresses=192.168.14.48/29,192.168.14.72/29"];
        let lab = LoneNode::start(&flags, &[("service.yaml", &service("web", 30_100)), ("slice.yaml", &slice("web", &[HERE]))]);
        lab.await_answer(NODE[0], 30_100, (200, 1));
        lab.await_answer(NODE[1], 30_100, (200, 1)); // no network names its family

        lab.set_address("192.168.14.90", true);
        lab.set_address("192.168.14.73", true);
        lab.await_answer("192.168.14.73", 30_100, (200, 1));
        lab.await_refusal("192.168.14.90", 30_100);
        assert_eq!(lab.listened_on([192, 168, 14, 73]), [30_100]);

        lab.set_address("192.168.14.73", false);
        let gone = || if lab.listened_on([192, 168, 14, 73]).is_empty() { Ok(()) } else { Err("still there".to_owned()) };
        wait::until("the port of a gone address to be closed", gone).unwrap();
        lab.await_answer(NODE[0], 30_100, (200, 1));
    }

    fn primary_is_the_address_that_the_node_s_object_has_now() {
        let node = |address: &str| {
            format!("{{kind: Node, metadata: {{name: w1}}, status: {{addresses: [{{type: InternalIP, address: {address}}}]}}}}")
        };
        let lab = LoneNode::start(
            &["--nodeport-addresses=primary"],
            &[("node.yaml", &node(NODE[0])), ("service.yaml", &service("web", 30_100)), ("slice.yaml", &slice("web", &[HERE]))],
        );
        lab.set_address("192.168.14.73", true);
        lab.await_answer(NODE[0], 30_100, (200, 1));
        lab.await_refusal("192.168.14.73", 30_100);

        lab.write("node.yaml", &node("192.168.14.73"));
        lab.await_answer("192.168.14.73", 30_100, (200, 1));
        lab.await_refusal(NODE[0], 30_100);
    }

    fn clients_that_say_nothing_keep_nobody_from_asking() {
        let lab = LoneNode::start(&[], &[("service.yaml", &service("web", 30_100)), ("slice.yaml", &slice("web", &[HERE]))]);
        lab.await_answer(NODE[0], 30_100, (200, 1));
        let to = SocketAddr::new(NODE[0].parse().unwrap(), 30_100);

        let silent: Vec<_> = (0..200).map(|_| lab.outside.run(|| TcpStream::connect(to).unwrap()).unwrap()).collect();

        lab.await_answer(NODE[0], 30_100, (200, 1));
        // The oldest were hung up on, the youngest may still say something.
        let mut first = silent.first().unwrap();
        assert!(matches!(first.read(&mut [0]), Ok(0) | Err(_)));
        let mut last = silent.last().unwrap();
        last.write_all(b"GET / HTTP/1.1\r\nHost: lb\r\n\r\n").unwrap();
        assert_ne!(last.read(&mut [0; 512]).unwrap(), 0);
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

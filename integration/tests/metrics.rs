//! What Prometheus hears that asks a real daemon.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails; and it plays the user"
)]

#[allow(dead_code, reason = "each test uses some of it")]
mod lone_node;

use std::{
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use dataplane::rtnl::{Address, Kernel, LOOPBACK};
use fairway_lab::{
    client::{self, PATIENCE},
    wait,
};
use lone_node::{LoneNode, NODE, OUTSIDE};

/// An address of the node's pods.
const POD: &str = "10.244.9.2";

impl LoneNode {
    /// Gives the node itself that address.
    fn have_address(&self, ip: &str) {
        let network = ip.parse().unwrap();
        let add = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let kernel = Kernel::open().unwrap();
                kernel.add_address(&Address::bare(LOOPBACK, network)).await.unwrap();
            });
        };
        self.node.run(add).unwrap();
    }

    /// What the daemon says at a path of its metrics address, to a program on its node.
    fn hear(&self, path: &str) -> String {
        let to = SocketAddr::from(([127, 0, 0, 1], 10249));
        self.node.run(|| client::http_text(to, path, PATIENCE)).unwrap().unwrap()
    }

    /// Waits until a page has a line that begins so, and returns the rest of that line.
    fn await_line(&self, path: &str, beginning: &str, is_it: impl Fn(&str) -> bool) {
        let looked =
            wait::until_within(Duration::from_secs(10), &format!("{path} to say {beginning}"), || {
                let page = self.hear(path);
                let mut rests = page.lines().filter_map(|line| line.strip_prefix(beginning));
                if rests.any(|rest| is_it(rest.trim())) { Ok(()) } else { Err(page) }
            });
        looked.unwrap();
    }
}

fn service(port: &str) -> String {
    format!(
        "kind: Service\nmetadata: {{name: web, namespace: shop}}\n\
         spec: {{clusterIP: 10.96.0.1, internalTrafficPolicy: Local, ports: [{{port: {port}}}]}}\n"
    )
}

fn slice(address: &str, triggered: &str) -> String {
    format!(
        "kind: EndpointSlice\naddressType: IPv4\nports: [{{port: 80}}]\n\
         metadata:\n  name: web-1\n  namespace: shop\n  labels: {{kubernetes.io/service-name: web}}\n  \
         annotations: {{endpoints.kubernetes.io/last-change-trigger-time: \"{triggered}\"}}\n\
         endpoints: [{{addresses: [{address}], nodeName: elsewhere}}]\n"
    )
}

fairway_lab::sandbox_tests! {
    fn a_daemon_tells_prometheus_what_it_does() {
        let first = slice("10.244.2.1", "2026-01-02T03:04:05Z");
        let lab = LoneNode::start(&[], &[("service.yaml", &service("80")), ("slice.yaml", &first)]);

        let page = lab.hear("/metrics");

        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        assert!(page.contains("\r\ncontent-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"), "{page}");
        for sample in [
            "fairway_services 1",
            "fairway_endpoints 1",
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
            r#"kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1"#,
            r#"kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"} 1"#,
            r#"kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 0"#,
        ] {
            assert!(page.lines().any(|line| line == sample), "{sample}: {page}");
        }

        lab.write("slice.yaml", &slice("10.244.2.2", "2126-01-02T03:04:06Z"));
        lab.await_line("/metrics", r#"kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"}"#, |n| n == "1");
        lab.await_line("/metrics", r#"kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family="IPv4"}"#, |n| n != "0");
        lab.write("service.yaml", &service("http"));
        lab.await_line("/metrics", r#"fairway_skipped_objects_total{kind="Service"}"#, |n| n == "1");
        lab.hear("/healthz");
        lab.await_line("/metrics", r#"kubeproxy_proxy_healthz_total{code="200"}"#, |n| n == "1");
    }

    fn connections_are_counted_by_service_and_backend_and_read_when_asked_for() {
        let node_port = "kind: Service\nmetadata: {name: web, namespace: shop}\n\
            spec: {type: NodePort, clusterIP: 10.96.0.1, ports: [{name: http, port: 80, nodePort: 30080}]}\n";
        let backend = format!("{}ports: [{{name: http, port: 8080}}]\n", slice(OUTSIDE[0], "").replace("ports: [{port: 80}]\n", ""));
        let own = "kind: Node\nmetadata: {name: w1}\nspec: {podCIDRs: [10.244.9.0/24]}\n";
        let files = [("service.yaml", node_port), ("slice.yaml", &backend), ("node.yaml", own)];
        let lab = LoneNode::start(&[], &files);
        let at = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
        let server = lab.outside.run(|| TcpListener::bind(at(OUTSIDE[0], 8080)).unwrap()).unwrap();
        let page = lab.hear("/metrics/services");
        assert!(page.contains("\nfairway_connections_cut 0\n") && !page.contains("30080"), "{page}");

        for _ in 0..3 {
            let _client = lab.outside.run(|| TcpStream::connect_timeout(&at(NODE[0], 30_080), PATIENCE).unwrap()).unwrap();
            server.accept().unwrap();
        }
        lab.have_address(POD);
        let server = lab.outside.run(|| UdpSocket::bind(at(OUTSIDE[0], 53)).unwrap()).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let pod = lab.node.run(|| UdpSocket::bind(at(POD, 0)).unwrap()).unwrap();
        pod.send_to(b"hello", at(OUTSIDE[0], 53)).unwrap();
        assert_eq!(server.recv_from(&mut [0; 8]).unwrap().1.ip(), at(NODE[0], 0).ip());

        let page = lab.hear("/metrics/services");
        let service = r#"namespace="shop",service="web",port="http",by="node-port",address=":30080",protocol="tcp""#;
        for sample in [
            format!("fairway_service_connections_total{{{service}}} 3"),
            format!("fairway_backend_connections_total{{backend=\"{}:8080\"}} 3", OUTSIDE[0]),
            r#"fairway_masqueraded_connections_total{ip_family="IPv4",why="marked"} 3"#.to_owned(),
            r#"fairway_masqueraded_connections_total{ip_family="IPv4",why="hairpin"} 0"#.to_owned(),
            r#"fairway_masqueraded_connections_total{ip_family="IPv4",why="outside"} 1"#.to_owned(),
            "fairway_astray_packets_total 0".to_owned(),
        ] {
            assert!(page.lines().any(|line| line == sample), "{sample}: {page}");
        }
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

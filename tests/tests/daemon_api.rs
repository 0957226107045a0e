//! The daemon as a process against a double of the API server, over sockets: TLS, certificates, tokens, exec plugins, restarts; and what
//! it says of itself over HTTP.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails; and it plays the user and the API server"
)]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use dataplane::{
    nft::{Key, Socket, Transaction},
    packet::{Family, Protocol},
    rtnl::Kernel,
};
use fairway_api_double::{Double, Server, Tls};
use fairway_lab::{binaries, host::Host, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::runtime::{self, Runtime};

/// In a place that each host has for itself.
const DIR: &str = "/var/lib/fairway";

/// An API server's double on a node, and the daemon that follows it.
struct Node {
    double: Double,
    runtime: Runtime,
    server: Option<Server>,
    tls: Tls,
    daemon: Option<Child>,
}

impl Node {
    fn new() -> Self {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let kernel = Kernel::open().unwrap();
            kernel.set_up(kernel.link("lo").await.unwrap().index, true).await.unwrap();
        });
        let mut node =
            Self { double: Double::default(), runtime, server: None, tls: Tls::new().unwrap(), daemon: None };
        node.serve("127.0.0.1:0".parse().unwrap());
        node
    }

    fn serve(&mut self, address: SocketAddr) {
        let server = Server::start(&self.double, address, Some(&self.tls));
        self.server = Some(self.runtime.block_on(server).unwrap());
    }

    fn address(&self) -> SocketAddr {
        self.server.as_ref().unwrap().address()
    }

    /// Writes a kubeconfig with this user in it.
    fn kubeconfig(&self, user: &str) {
        write("ca.crt", &self.tls.authority());
        write(
            "kubeconfig",
            &format!(
                "{{kind: Config, apiVersion: v1, current-context: c,\n\
                 clusters: [{{name: k, cluster: {{server: 'https://{}', certificate-authority: ca.crt}}}}],\n\
                 users: [{{name: u, user: {user}}}], contexts: [{{name: c, context: {{cluster: k, user: u}}}}]}}",
                self.address()
            ),
        );
    }

    fn start(&mut self, flags: &[&str]) {
        let mut command = Command::new(&binaries::built().unwrap().fairway_proxy);
        let log = fs::OpenOptions::new().create(true).append(true).open(Path::new(DIR).join("daemon.log"));
        command.args(flags).stdin(Stdio::null()).stderr(log.unwrap());
        self.daemon = Some(command.spawn().unwrap());
    }

    /// Ends the daemon as an update would, and what it has started with it.
    fn stop(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        kill(Pid::from_raw(daemon.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        daemon.wait().unwrap();
    }

    fn follow(&mut self) {
        self.start(&["--kubeconfig", &format!("{DIR}/kubeconfig"), "--hostname-override=w1"]);
    }

    fn put_service(&self, port: u16) {
        self.double.put(&json!({
            "kind": "Service", "metadata": {"name": format!("s{port}"), "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]},
        }));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn write(file: &str, text: &str) {
    let (draft, file) = (Path::new(DIR).join("draft"), Path::new(DIR).join(file));
    fs::write(&draft, text).unwrap();
    fs::rename(draft, file).unwrap();
}

/// How a kubeconfig names the exec plugin.
const EXEC: &str =
    "apiVersion: client.authentication.k8s.io/v1, command: /var/lib/fairway/plugin, interactiveMode: Never";

/// Writes an exec plugin that does this.
fn plugin(script: &str) {
    let draft = Path::new(DIR).join("draft");
    fs::write(&draft, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(draft, Path::new(DIR).join("plugin")).unwrap();
}

/// What an exec plugin does that has a credential.
fn prints(status: &Value) -> String {
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status,
    });
    format!("echo '{credential}'")
}

/// What the daemons of this node have said.
fn log() -> String {
    fs::read_to_string(Path::new(DIR).join("daemon.log")).unwrap_or_default()
}

/// Takes away what the daemon programmed, as a boot would.
fn remove_rules() {
    let mut transaction = Transaction::default();
    transaction.delete(Family::Ip);
    transaction.delete(Family::Ip6);
    Socket::open().unwrap().commit(&transaction).unwrap();
}

fn on_a_node(work: impl FnOnce(Node) + Send) {
    Host::make("w1").unwrap().run(|| work(Node::new())).unwrap();
}

/// Waits until a port of the cluster IP is served, or not any more.
fn serves(port: u16, is_served: bool) {
    let socket = Socket::open().unwrap();
    let key = Key::Service([10, 96, 0, 1].into(), Protocol::Tcp, port);
    until(&format!("port {port} served: {is_served}"), || {
        let held = socket.held(Family::Ip).unwrap();
        let map = held.and_then(|held| held.maps.get("cluster-vips").cloned());
        map.is_some_and(|map| map.elements.contains_key(&key)) == is_served
    });
}

/// Waits until something is so; what the daemon said is told where it never is.
fn until(awaited: &str, mut holds: impl FnMut() -> bool) {
    wait::until(awaited, || if holds() { Ok(()) } else { Err(log()) }).unwrap();
}

/// Asks over HTTP: the status and the body, once there is an answer.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut answer = String::new();
    until(&format!("an answer from {address}"), || {
        answer.clear();
        let Ok(mut stream) = TcpStream::connect(address) else { return false };
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_to_string(&mut answer).is_ok()
    });
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fairway_lab::sandbox_tests! {
    fn a_token_is_read_anew_when_the_api_server_does_not_take_it_any_more() {
        on_a_node(|mut node| {
            node.double.require("first");
            write("token", "first");
            node.kubeconfig("{tokenFile: token}");
            node.put_service(80);
            node.follow();
            serves(80, true);

            write("token", "second");
            node.double.require("second");
            node.double.cut();
            node.put_service(81);

            serves(81, true);
        });
    }

    fn a_client_certificate_or_an_exec_plugin_says_who_we_are() {
        on_a_node(|mut node| {
            let (certificate, key) = node.tls.client("system:kube-proxy").unwrap();
            write("client.crt", &certificate);
            write("client.key", &key);
            node.kubeconfig("{client-certificate: client.crt, client-key: client.key}");
            node.put_service(80);
            node.follow();
            serves(80, true);
        });
        on_a_node(|mut node| {
            plugin(&prints(&json!({"token": "from-a-plugin"})));
            node.double.require("from-a-plugin");
            node.kubeconfig(&format!("{{exec: {{{EXEC}}}}}"));
            node.put_service(80);
            node.follow();
            serves(80, true);
        });
    }

    fn an_exec_plugin_that_fails_is_asked_again_and_what_it_says_is_told_to_nobody() {
        on_a_node(|mut node| {
            node.double.require("from-a-plugin");
            plugin("echo s3cret; echo s3cret >&2; exit 3");
            node.kubeconfig(&format!("{{exec: {{{EXEC}, env: [{{name: KEY, value: s3cret}}]}}}}"));
            node.put_service(80);
            node.start(&["--kubeconfig", &format!("{DIR}/kubeconfig"), "--hostname-override=w1", "--v=9"]);
            until("the daemon to say so", || log().contains("the exec plugin ended with exit status: 3"));

            plugin("echo '{s3cret: '");
            until("the daemon to say so", || log().contains("what the exec plugin printed is no ExecCredential"));
            // It expires at once, so that the plugin is asked again before every request.
            plugin(&prints(&json!({"token": "from-a-plugin", "expirationTimestamp": "2020-01-01T00:00:00Z"})));
            serves(80, true);
            plugin("echo s3cret; exit 4");
            node.double.cut();
            until("the daemon to say so", || log().contains("the exec plugin ended with exit status: 4"));

            assert!(!log().contains("s3cret"), "{}", log());
        });
    }

    fn an_exec_plugin_that_hangs_holds_up_nothing_that_is_known() {
        on_a_node(|mut node| {
            node.double.require("from-a-plugin");
            plugin(&prints(&json!({"token": "from-a-plugin"})));
            node.kubeconfig(&format!("{{exec: {{{EXEC}}}}}"));
            node.put_service(80);
            node.follow();
            serves(80, true);
            until("what is known to be kept", || Path::new(DIR).join("state").exists());
            node.stop();
            remove_rules();

            plugin(&format!("echo run >> {DIR}/runs; exec sleep 1000"));
            node.follow();

            serves(80, true);
            assert_eq!(get("127.0.0.1:10256", "/livez").0, 200);
            assert_eq!(fs::read_to_string(format!("{DIR}/runs")).unwrap(), "run\n", "one is enough to hang");
            node.stop();
        });
    }

    fn services_stay_while_the_api_server_is_away_and_what_changed_meanwhile_is_followed() {
        on_a_node(|mut node| {
            node.kubeconfig("{}");
            node.put_service(80);
            node.put_service(81);
            node.follow();
            serves(81, true);

            let address = node.address();
            node.runtime.block_on(node.server.take().unwrap().stop());
            node.double.delete(fairway_api_double::Kind::Service, "shop", "s81");
            node.double.compact();
            node.put_service(82);
            serves(81, true);
            node.serve(address);

            serves(82, true);
            serves(81, false);
            serves(80, true);
        });
    }

    fn it_says_whether_it_is_healthy_and_whether_its_node_is_to_get_traffic() {
        on_a_node(|mut node| {
            let with_taints = |taints: Value| {
                json!({"kind": "Node", "metadata": {"name": "w1"}, "spec": {"taints": taints}})
            };
            node.kubeconfig("{}");
            node.double.put(&with_taints(json!([])));
            node.put_service(80);
            node.follow();
            serves(80, true);

            let (status, said) = get("127.0.0.1:10256", "/healthz");
            assert!(status == 200 && said.contains("\"nodeEligible\":true") && said.contains("lastUpdated"), "{said}");
            assert_eq!(get("127.0.0.1:10249", "/proxyMode"), (200, "nftables".into()));
            assert_eq!(get("127.0.0.1:10256", "/proxyMode").0, 404);
            until("all that is known to be told", || {
                let said: Value = serde_json::from_str(&get("127.0.0.1:10249", "/status").1).unwrap();
                (said.get("services"), said.get("nodes")) == (Some(&1.into()), Some(&1.into()))
            });

            node.double.put(&with_taints(json!([{"key": "ToBeDeletedByClusterAutoscaler"}])));
            until("the node is to be left", || get("127.0.0.1:10256", "/healthz").0 == 503);
            assert_eq!(get("127.0.0.1:10256", "/livez").0, 200);
        });
    }

    fn nodes_that_cannot_be_reached_are_told_and_make_this_one_no_less_ready() {
        on_a_node(|mut node| {
            node.kubeconfig("{}");
            node.double.put(&json!({"kind": "Node", "metadata": {"name": "w1"}}));
            node.double.put(&json!({"kind": "Node", "metadata": {"name": "w9"}}));
            node.follow();

            until("it to be told", || {
                let said: Value = serde_json::from_str(&get("127.0.0.1:10249", "/status").1).unwrap();
                let unreachable = json!([{"node": "w9", "reason": "node w9 has no pod CIDR"}]);
                (said.pointer("/routing/mode"), said.pointer("/routing/unreachable"))
                    == (Some(&"auto".into()), Some(&unreachable))
            });
            until("it to be counted", || get("127.0.0.1:10249", "/metrics").1.contains("\nfairway_nodes_unreachable 1\n"));
            until("the daemon to be ready", || get("127.0.0.1:10256", "/readyz").0 == 200);
            assert_eq!(get("127.0.0.1:10256", "/livez").0, 200);
        });
    }

    fn kube_proxy_s_configuration_file_is_all_that_it_needs() {
        on_a_node(|mut node| {
            node.kubeconfig("{}");
            write(
                "config.conf",
                &format!(
                    "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n\
                     clientConnection: {{kubeconfig: {DIR}/kubeconfig}}\nhealthzBindAddress: 127.0.0.1:10399\n"
                ),
            );
            node.put_service(80);
            node.start(&["--config", &format!("{DIR}/config.conf"), "--hostname-override=w1"]);

            serves(80, true);
            until("the daemon to be ready", || get("127.0.0.1:10399", "/readyz").0 == 200);
        });
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

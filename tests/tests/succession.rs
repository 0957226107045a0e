//! The daemon takes a node over: from kube-proxy, from another daemon, and from its own last run while there is no API server.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails; and it plays the user"
)]

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use dataplane::{
    nft::Socket,
    packet::Family,
    rtnl::{Kernel, LOOPBACK},
};
use fairway_api_double::{Double, Server};
use fairway_lab::{binaries, host::Host, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use running::{Daemon, program};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

mod running;

/// In a place that each host has for itself.
const MANIFESTS: &str = "/var/lib/fairway/manifests";

impl Daemon {
    fn start(flags: &[&str]) -> Self {
        Self::run(program().args(flags))
    }

    fn with_manifests() -> Self {
        fs::create_dir_all(MANIFESTS).unwrap();
        Self::start(&["--manifests", MANIFESTS])
    }
}

/// There once a first start has removed what kube-proxy left.
const REMOVED: &str = "/run/fairway/kube-proxy-removed";

fn await_first_start() {
    let is_done = || if Path::new(REMOVED).exists() { Ok(()) } else { Err("not yet".to_owned()) };
    wait::until("the first start to be done", is_done).unwrap();
}

fn on_a_node(work: impl FnOnce() + Send) {
    Host::make("w1").unwrap().run(work).unwrap();
}

fn clean_up() -> Output {
    program().arg("--cleanup").output().unwrap()
}

/// Says whether a program is there, and if not, that nothing is shown about it.
fn is_installed(name: &str) -> bool {
    let is_there =
        ["/usr/sbin", "/sbin", "/usr/bin"].iter().any(|place| Path::new(place).join(name).exists());
    if !is_there {
        eprintln!("{name} is not installed: what it makes is not cleaned up");
    }
    is_there
}

/// Runs a program with this on its standard input, and returns what it says.
fn run(command: &[&str], input: &str) -> String {
    let [name, arguments @ ..] = command else { panic!("no program") };
    let mut child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What kube-proxy's nftables mode leaves, cut short.
const OF_NFTABLES_MODE: &str = "
table ip kube-proxy {
    map service-ips {
        type ipv4_addr . inet_proto . inet_service : verdict
    }
    chain endpoint-X {
        meta l4proto tcp dnat to 10.244.1.2:6443
    }
    chain service-X {
        numgen random mod 1 vmap { 0 : goto endpoint-X }
    }
    chain services {
        ip daddr . meta l4proto . th dport vmap @service-ips
    }
    chain nat-prerouting {
        type nat hook prerouting priority dstnat
        jump services
    }
}
add element ip kube-proxy service-ips { 10.96.0.1 . tcp . 443 : goto service-X }
table ip6 kube-proxy {
    chain services {
    }
}
table ip somebodys {
    chain c {
        counter
    }
}
";

/// What its iptables mode leaves, with chains of kubelet's and of others around it.
const OF_IPTABLES_MODE: &str = "
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
:DOCKER-USER - [0:0]
-A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -j DOCKER-USER
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A KUBE-FIREWALL -d 127.0.0.0/8 -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-SERVICES -d 10.96.0.9/32 -p tcp -m tcp --dport 80 -j REJECT
-A DOCKER-USER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE
-A KUBE-SEP-AAAAAAAAAAAAAAAA -s 10.244.1.2/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m tcp -j DNAT --to-destination 10.244.1.2:6443
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-AAAAAAAAAAAAAAAA
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-AAAAAAAAAAAAAAAA -m statistic --mode random --probability 0.5 -j KUBE-SEP-AAAAAAAAAAAAAAAA
COMMIT
";

/// The lines of what iptables has that name a chain of Kubernetes, of somebody else's, or an address of somebody else's.
fn left_of_iptables() -> Vec<String> {
    let all = run(&["iptables-nft-save"], "");
    let is_named = |line: &&str| ["KUBE-", "DOCKER", "172.17."].iter().any(|word| line.contains(word));
    let lines = all.lines().filter(is_named).map(|line| line.split(" [").next().unwrap_or(line).to_owned());
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}

fn assert_kube_proxy_is_gone() {
    if is_installed("nft") {
        let tables = run(&["nft", "list", "tables"], "");
        assert!(!tables.contains("kube-proxy") && tables.contains("table ip somebodys"), "{tables}");
    }
    if is_installed("iptables-nft-restore") {
        assert_eq!(
            left_of_iptables(),
            [
                "-A DOCKER-USER -j RETURN",
                "-A FORWARD -j DOCKER-USER",
                "-A INPUT -j KUBE-FIREWALL",
                "-A KUBE-FIREWALL -d 127.0.0.0/8 -j DROP",
                "-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE",
                ":DOCKER-USER -",
                ":KUBE-FIREWALL -",
                ":KUBE-KUBELET-CANARY -",
            ]
        );
    }
}

/// Makes what kube-proxy leaves in both of its modes, as far as there are programs to make it.
fn leave_what_kube_proxy_leaves() {
    if is_installed("nft") {
        run(&["nft", "-f", "-"], OF_NFTABLES_MODE);
    }
    if is_installed("iptables-nft-restore") {
        run(&["iptables-nft-restore"], OF_IPTABLES_MODE);
    }
}

fn has_table() -> bool {
    Socket::open().unwrap().held(Family::Ip).unwrap().is_some()
}

/// How many services the kernel serves.
fn served() -> usize {
    let held = Socket::open().unwrap().held(Family::Ip).unwrap();
    held.map_or(0, |held| held.maps.get("cluster-vips").map_or(0, |map| map.elements.len()))
}

/// An API server's double on a port of the node, on threads of its own in the node's network.
fn api_server(double: &Double, port: u16) -> (Runtime, Server) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Kernel::open().unwrap().set_up(LOOPBACK, true).await.unwrap() });
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let server = runtime.block_on(Server::start(double, address, None)).unwrap();
    (runtime, server)
}

fairway_lab::sandbox_tests! {
    fn what_kube_proxy_left_goes_once_our_own_rules_are_there_and_what_is_others_stays() {
        on_a_node(|| {
            leave_what_kube_proxy_leaves();

            let daemon = Daemon::with_manifests();
            let said = daemon.says("committed");
            assert!(!said.contains("removed what kube-proxy left"), "{said}");
            if ["nft", "iptables-nft-restore"].iter().any(|program| is_installed(program)) {
                daemon.says("removed what kube-proxy left");
            }

            assert_kube_proxy_is_gone();
        });
    }

    fn cleanup_removes_what_kube_proxy_left_too() {
        on_a_node(|| {
            leave_what_kube_proxy_leaves();

            for _ in 0..2 {
                let output = clean_up();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }

            assert_kube_proxy_is_gone();
        });
    }

    fn a_kube_proxy_that_runs_beside_a_daemon_that_comes_back_is_named_and_left_alone() {
        if !is_installed("nft") {
            return;
        }
        on_a_node(|| {
            let daemon = Daemon::with_manifests();
            await_first_start();
            daemon.ends_by(Signal::SIGTERM);
            run(&["nft", "-f", "-"], OF_NFTABLES_MODE);

            let daemon = Daemon::with_manifests();

            let said = daemon.says("kube-proxy's rules are here beside ours");
            assert!(said.contains("table ip kube-proxy, table ip6 kube-proxy"), "{said}");
            assert!(run(&["nft", "list", "tables"], "").contains("table ip kube-proxy"));
        });
    }

    fn what_a_first_start_had_no_time_to_remove_goes_at_the_next() {
        if !is_installed("nft") {
            return;
        }
        on_a_node(|| {
            let daemon = Daemon::with_manifests();
            await_first_start();
            daemon.ends_by(Signal::SIGTERM);
            fs::remove_file(REMOVED).unwrap(); // as if it had ended before
            run(&["nft", "-f", "-"], OF_NFTABLES_MODE);

            let _daemon = Daemon::with_manifests();

            await_first_start();
            assert!(!run(&["nft", "list", "tables"], "").contains("table ip kube-proxy"));
        });
    }

    fn what_a_kube_proxy_that_runs_serves_by_stays_at_cleanup() {
        if !is_installed("nft") {
            return;
        }
        on_a_node(|| {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { Kernel::open().unwrap().set_up(LOOPBACK, true).await.unwrap() });
            run(&["nft", "-f", "-"], OF_NFTABLES_MODE);
            let kube_proxy = TcpListener::bind("127.0.0.1:10249").unwrap();
            let answers = thread::spawn(move || {
                let (mut client, _) = kube_proxy.accept().unwrap();
                let mut request = [0; 64];
                let length = client.read(&mut request).unwrap();
                client.write_all(b"HTTP/1.0 200 OK\r\n\r\nnftables").unwrap();
                String::from_utf8_lossy(request.get(..length).unwrap()).into_owned()
            });

            let output = clean_up();

            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success() && said.contains("kube-proxy runs here: its rules stay"), "{said}");
            assert!(answers.join().unwrap().starts_with("GET /proxyMode "));
            assert!(run(&["nft", "list", "tables"], "").contains("table ip kube-proxy"));
        });
    }

    fn a_daemon_that_waits_ends_when_asked_to_also_as_the_first_process_of_a_container() {
        on_a_node(|| {
            let first = Daemon::with_manifests();
            first.says("committed");
            let mut container = Command::new("unshare");
            container.args(["--pid", "--fork", "--kill-child"]).arg(&binaries::built().unwrap().fairway_proxy);
            let second = Daemon::run(container.args(["--manifests", MANIFESTS]));
            second.says("another daemon runs on this node");

            let parent = second.child.id();
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
            kill(Pid::from_raw(children.trim().parse().unwrap()), Signal::SIGTERM).unwrap();

            let (said, status) = second.ends();
            assert!(status.success() && said.contains("SIGTERM"), "{said}");
        });
    }

    fn a_second_daemon_waits_until_the_first_has_ended() {
        on_a_node(|| {
            let first = Daemon::with_manifests();
            first.says("committed");

            let second = Daemon::with_manifests();
            second.says("another daemon runs on this node: waits until it has ended");
            first.ends_by(Signal::SIGTERM);

            let said = second.says("committed");
            assert!(said.contains("the other daemon has ended"), "{said}");
        });
    }

    fn cleanup_beside_a_daemon_is_refused() {
        on_a_node(|| {
            let daemon = Daemon::with_manifests();
            daemon.says("committed");

            let output = clean_up();

            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && said.contains("stop it first"), "{said}");
            assert!(has_table());
        });
    }

    fn a_daemon_whose_configuration_file_changes_ends_and_its_rules_stay() {
        on_a_node(|| {
            fs::create_dir_all(MANIFESTS).unwrap();
            let file = "/var/lib/fairway/config.conf";
            let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
            fs::write(file, text).unwrap();
            let daemon = Daemon::start(&["--manifests", MANIFESTS, "--config", file]);
            daemon.says("committed");

            fs::write(file, format!("{text}mode: nftables\n")).unwrap();

            let (said, status) = daemon.ends();
            assert!(said.contains("the configuration file has changed"), "{said}");
            assert_eq!(status.code(), Some(1));
            assert!(has_table());
        });
    }

    fn the_configuration_is_written_as_kube_proxy_writes_it() {
        on_a_node(|| {
            let file = "/var/lib/fairway/written.conf";

            let output = program().args(["--masquerade-all", "--write-config-to", file]).output().unwrap();

            assert!(output.status.success(), "{output:?}");
            let text = fs::read_to_string(file).unwrap();
            let line = |line: &str| assert!(text.lines().any(|found| found.trim() == line), "no {line}:\n{text}");
            line("kind: KubeProxyConfiguration");
            line("masqueradeAll: true");
            assert!(!has_table());
        });
    }

    fn a_node_that_comes_back_without_its_api_server_serves_what_it_knew() {
        let double = Double::default();
        for number in 1..=3 {
            double.put(&json!({
                "kind": "Service", "metadata": {"name": format!("web-{number}"), "namespace": "shop"},
                "spec": {"clusterIP": format!("10.96.0.{number}"), "ports": [{"port": 80}]},
            }));
        }
        double.put(&json!({"kind": "Node", "metadata": {"name": "w1"}}));
        let state = tempfile::tempdir_in("/run").unwrap();
        let flags = ["--master", "http://127.0.0.1:16443", "--state-dir", state.path().to_str().unwrap()];
        on_a_node(|| {
            let server = Background::start(&double);
            let daemon = Daemon::start(&flags);
            wait::until("services from the API server", || Some(()).filter(|()| served() == 3).ok_or_else(|| served().to_string())).unwrap();
            daemon.ends_by(Signal::SIGTERM);
            drop(server);
        });

        // As after a power cut: a machine of the same name, with the same disk, and nothing in its kernel.
        on_a_node(|| {
            assert!(!has_table());
            let daemon = Daemon::start(&flags);
            let said = daemon.says("committed");
            assert!(said.contains("the API server does not answer: serves what was known last"), "{said}");
            assert_eq!(served(), 3);

            double.delete(fairway_api_double::Kind::Service, "shop", "web-2");
            let _server = Background::start(&double);

            wait::until("what is gone to go", || Some(()).filter(|()| served() == 2).ok_or_else(|| served().to_string())).unwrap();
        });
    }
}

/// A double that answers in the background, in the network of the thread that started it.
struct Background {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Background {
    fn start(double: &Double) -> Self {
        let (runtime, server) = api_server(double, 16443);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let _ = stopped.await;
                drop(server);
            });
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

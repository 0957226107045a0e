//! The daemon with the rights that `conf/fairway.yaml` gives it, and no others: one capability, a root file system and a `/proc/sys` that are
//! read-only, and an API server over TLS that it knows by a certificate and that knows it by a token.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails; and it plays kubelet"
)]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use dataplane::{
    nft::{Key, Socket},
    packet::{Family, Protocol},
    rtnl,
};
use fairway_api_double::{Double, Options, Server, Tls};
use fairway_lab::{binaries, client, host::Host, wait};
use proxy::conflist::{CONFLIST, PLUGIN};
use serde_json::{Value, json};
use tokio::runtime;

/// Where kubelet mounts what a pod is to the API server.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where the `ConfigMap` is mounted: in a place that each host has for itself.
const CONFIG: &str = "/run/lab/kube-proxy";

const TOKEN: &str = "of fairway";

fn object(kind: &str) -> Value {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/fairway.yaml")).unwrap();
    let mut objects = text.split("\n---\n").map(|part| serde_saphyr::from_str::<Value>(part).unwrap());
    objects.find(|object| object["kind"] == kind).unwrap()
}

/// The daemon's container.
fn container() -> Value {
    object("DaemonSet")["spec"]["template"]["spec"]["containers"][0].clone()
}

/// A shell's words that leave whoever runs after them as little as a container runtime does.
fn confined(capabilities: &[String]) -> String {
    let added = capabilities.iter().fold(String::new(), |added, name| added + ",+" + &name.to_lowercase());
    format!(
        "set -e
        mount --bind /proc/sys /proc/sys
        mount -o remount,bind,ro /proc/sys
        mount -o remount,bind,ro /
        exec setpriv --bounding-set=-all{added} --inh-caps=-all --no-new-privs \"$@\""
    )
}

/// The daemon as the `DaemonSet` starts it, until this is dropped.
struct Daemon(Child);

impl Daemon {
    fn start() -> Self {
        let container = container();
        let added = container["securityContext"]["capabilities"]["add"].as_array().unwrap();
        let capabilities: Vec<_> = added.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        let arguments = container["args"].as_array().unwrap().iter().map(|argument| {
            let argument = argument.as_str().unwrap().replace("$(NODE_NAME)", "w1");
            argument.replace("/var/lib/kube-proxy", CONFIG)
        });
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &confined(&capabilities), "sh"]);
        command.arg(&binaries::built().unwrap().fairway_proxy).args(arguments);
        let log = fs::File::create("/run/lab/daemon.log").unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill(); // gone already is as good
        let _ = self.0.wait();
    }
}

fn write_config(url: &str) {
    let map = object("ConfigMap");
    fs::create_dir_all(CONFIG).unwrap();
    for (file, text) in map["data"].as_object().unwrap() {
        let text = text.as_str().unwrap().replace("https://API-SERVER:6443", url);
        fs::write(Path::new(CONFIG).join(file), text.replace("/var/lib/kube-proxy", CONFIG)).unwrap();
    }
}

/// An API server that holds a node and a service, and lets in whoever has the token.
fn double() -> Double {
    let double = Double::new(Options::default());
    double.require(TOKEN);
    let objects = [
        json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "w1"}, "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}}),
        json!({
            "kind": "Service", "apiVersion": "v1", "metadata": {"namespace": "default", "name": "web"},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 80, "protocol": "TCP"}]},
        }),
        json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"port": 8080, "protocol": "TCP"}], "endpoints": [{"addresses": ["10.244.1.2"]}],
        }),
    ];
    for object in objects {
        double.put(&object).unwrap();
    }
    double
}

fn log() -> String {
    fs::read_to_string("/run/lab/daemon.log").unwrap_or_default()
}

/// Waits until something is so; what the daemon said is told where it never is.
fn await_that(what: &str, is_so: impl Fn() -> bool) {
    wait::until(what, || if is_so() { Ok(()) } else { Err(log()) }).unwrap();
}

fairway_lab::sandbox_tests! {
    fn the_daemon_does_its_work_with_the_rights_that_the_daemon_set_gives_it() {
        if fs::read_to_string("/proc/self/uid_map").unwrap().split_whitespace().last() == Some("1") {
            // What is mounted may not be remounted then.
            assert!(std::env::var_os("FAIRWAY_REQUIRE_SANDBOX").is_none(), "not root: the daemon cannot be confined");
            eprintln!("not root: the daemon is not confined");
            return;
        }
        Host::make("w1").unwrap().run(|| {
            let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let (double, tls) = (double(), Tls::new().unwrap());
            let server = runtime.block_on(async {
                let kernel = rtnl::Kernel::open().unwrap();
                kernel.set_up(kernel.link("lo").await.unwrap().index, true).await.unwrap();
                Server::start(&double, "127.0.0.1:0".parse().unwrap(), Some(&tls)).await.unwrap()
            });
            fs::create_dir_all(ACCOUNT).unwrap();
            fs::write(Path::new(ACCOUNT).join("ca.crt"), tls.authority()).unwrap();
            fs::write(Path::new(ACCOUNT).join("token"), TOKEN).unwrap();
            write_config(&server.url());

            let daemon = Daemon::start();

            await_that("pods to be wired", || Path::new("/etc/cni/net.d").join(CONFLIST).exists());
            await_that("the daemon to be ready", || {
                let readyz = client::http_text("127.0.0.1:10256".parse().unwrap(), "/readyz", client::PATIENCE);
                readyz.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
            });
            let held = Socket::open().unwrap().held(Family::Ip).unwrap().unwrap();
            let service = Key::Service("10.96.0.1".parse().unwrap(), Protocol::Tcp, 80);
            assert!(held.maps["cluster-vips"].elements.contains_key(&service), "{}", log());
            assert!(Path::new("/run/fairway/node.json").exists());
            await_that("what is known to be kept", || Path::new("/var/lib/fairway/state").exists());
            assert_eq!(
                fs::read(Path::new("/opt/cni/bin").join(PLUGIN)).unwrap(),
                fs::read(&binaries::built().unwrap().fairway).unwrap()
            );
            // CAP_NET_ADMIN is bit 12 (capability.h).
            let status = fs::read_to_string(format!("/proc/{}/status", daemon.0.id())).unwrap();
            for set in ["CapPrm", "CapEff", "CapBnd"] {
                assert!(status.contains(&format!("{set}:\t0000000000001000\n")), "{status}");
            }
        })
        .unwrap();
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

//! The daemon as a process: manifests in, kernel state out, and what people read on the way.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails; and it plays the user"
)]

use std::{fs, net::SocketAddr, path::Path, process::Stdio};

use dataplane::{
    nft::{Data, Held, Key, Socket},
    packet::{Family, Protocol},
    sysctl,
};
use fairway_lab::{host::Host, wait};
use nix::sys::signal::Signal;
use running::{Daemon, program};

mod repair;
mod running;

/// In a place that each host has for itself.
const MANIFESTS: &str = "/var/lib/fairway/manifests";

impl Daemon {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(flags: &[&str]) -> Self {
        Self::run(program().args(["--manifests", MANIFESTS]).args(flags))
    }
}

fn on_a_node(work: impl FnOnce() + Send) {
    let host = Host::make("w1").unwrap();
    host.run(|| {
        fs::create_dir(MANIFESTS).unwrap();
        work();
    })
    .unwrap();
}

fn write(file: &str, text: &str) {
    let (draft, file) = (Path::new(MANIFESTS).join("draft"), Path::new(MANIFESTS).join(file));
    fs::write(&draft, text).unwrap();
    fs::rename(draft, file).unwrap();
}

const NODE: &str = "{kind: Node, metadata: {name: w1}, spec: {podCIDR: 10.244.1.0/24}}";

/// Service `web` at 10.96.0.1:80 with whatever else its spec says.
fn service(rest: &str) -> String {
    format!("{{kind: Service, metadata: {{name: web}}, spec: {{clusterIP: 10.96.0.1, {rest}}}}}")
}

fn slice(addresses: &[&str]) -> String {
    let endpoints: Vec<_> = addresses.iter().map(|address| format!("{{addresses: [{address}]}}")).collect();
    let labels = "labels: {kubernetes.io/service-name: web}";
    format!(
        "{{kind: EndpointSlice, metadata: {{name: web-1, {labels}}}, addressType: IPv4, ports: [{{port: 8080}}], endpoints: [{}]}}",
        endpoints.join(", ")
    )
}

fn held() -> Option<Held> {
    Socket::open().unwrap().held(Family::Ip).unwrap()
}

/// The keys of the maps that lead to a service, and the endpoints.
fn served() -> (Vec<Key>, Vec<SocketAddr>) {
    let held = held().expect("no table");
    let keys = ["cluster-vips", "node-ports"].iter().flat_map(|map| held.maps[*map].elements.keys().copied());
    let slots = held.maps["slots"].elements.values().map(|element| match element.data {
        Data::Endpoint(address) => address,
        ref other => panic!("{other:?}"),
    });
    let mut slots: Vec<_> = slots.collect();
    slots.sort();
    (keys.collect(), slots)
}

fn cluster_ip() -> Key {
    Key::Service("10.96.0.1".parse().unwrap(), Protocol::Tcp, 80)
}

fn endpoint(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fairway_lab::sandbox_tests! {
    fn it_serves_what_the_manifests_say_and_follows_them() {
        on_a_node(|| {
            write("web.yaml", &format!("{}\n---\n{}", service("ports: [{port: 80}]"), slice(&["10.244.1.2"])));
            write("node.yaml", NODE);

            let daemon = Daemon::start();
            daemon.says("committed");
            assert_eq!(served(), (vec![cluster_ip()], vec![endpoint("10.244.1.2:8080")]));
            assert!(fs::exists("/run/fairway/node.json").unwrap());

            let edited = service("type: NodePort, ports: [{port: 80, nodePort: 30632}]");
            write("web.yaml", &format!("{edited}\n---\n{}", slice(&["10.244.1.3"])));
            daemon.says("committed");
            let keys = vec![cluster_ip(), Key::Port(Protocol::Tcp, 30632)];
            assert_eq!(served(), (keys, vec![endpoint("10.244.1.3:8080")]));

            fs::remove_file(Path::new(MANIFESTS).join("web.yaml")).unwrap();
            daemon.says("committed"); // nothing leads there any more
            assert_eq!(served().0, []);
            let slots = || Some(served().1).filter(|slots| !slots.is_empty());
            wait::until("the slot to go", || slots().map_or(Ok(()), |left| Err(format!("{left:?}")))).unwrap();
            let (said, _) = daemon.ends_by(Signal::SIGTERM);
            assert!(!said.contains("committed"), "tells of a commit that changed no service: {said}");
        });
    }

    fn it_sets_how_connections_are_tracked_and_names_what_it_may_not_set() {
        on_a_node(|| {
            write("node.yaml", NODE);
            let all = u32::MAX.to_string(); // more than any machine has; a million is the most that is wanted
            let flags = ["--conntrack-min", &all, "--conntrack-tcp-timeout-established=2h", "--conntrack-udp-timeout=41s"];

            let said = Daemon::start_with(&flags).says("committed");

            // The limit is the machine's, and this is not its first namespace.
            let line = said.lines().find(|line| line.contains("read-only here")).unwrap_or_else(|| panic!("{said}"));
            assert!(line.contains("INFO") && line.contains("net/netfilter/nf_conntrack_max=1048576"), "{line}");
            assert!(!said.contains("WARN"), "{said}");
            for (key, value) in [("tcp_timeout_established", "7200"), ("tcp_timeout_close_wait", "3600"), ("udp_timeout", "41")] {
                assert_eq!(sysctl::read(&format!("net/netfilter/nf_conntrack_{key}")).unwrap(), value, "{key}");
            }
            // Once they are set, there is nothing to say.
            assert!(!Daemon::start_with(&flags).says("committed").contains("set kernel parameters"));
        });
    }

    fn one_bad_object_is_named_once_and_the_rest_is_served() {
        on_a_node(|| {
            let bad = "{kind: Service, metadata: {name: bad, namespace: shop}, spec: {clusterIP: 10.96.0.2, ports: [{port: http}]}}";
            write("all.yaml", &format!("{bad}\n---\n{}", service("ports: [{port: 80}]")));

            let daemon = Daemon::start();
            let said = daemon.says("committed");
            assert_eq!(served().0, [cluster_ip()]);
            let warnings: Vec<_> = said.lines().filter(|line| line.contains("WARN")).collect();
            let [warning] = warnings[..] else { panic!("{said}") };
            for words in ["all.yaml", "Service shop/bad", "spec.ports[0].port"] {
                assert!(warning.contains(words), "{warning}");
            }

            write("slice.yaml", &slice(&["10.244.1.2"]));
            assert!(!daemon.says("committed").contains("WARN"), "the same complaint again");
        });
    }

    fn what_of_a_service_is_not_honoured_is_said_once_and_the_rest_is_served() {
        on_a_node(|| {
            let annotations = "annotations: {fairway.dev/balancing: least-loaded, fairway.dev/weights: 10.244.1.2=1000}";
            let odd = service("ports: [{port: 80}]").replace("name: web", &format!("name: web, {annotations}"));
            write("web.yaml", &odd);

            let daemon = Daemon::start();
            let said = daemon.says("committed");
            assert_eq!(served().0, [cluster_ip()]);
            let warnings: Vec<_> = said.lines().filter(|line| line.contains("WARN")).collect();
            let [warning] = warnings[..] else { panic!("{said}") };
            for words in ["default/web", "fairway.dev/balancing", "least-loaded", "round-robin, random, source-hash"] {
                assert!(warning.contains(words), "{warning}");
            }

            write("slice.yaml", &slice(&["10.244.1.2", "10.244.1.3"]));
            assert!(!daemon.says("committed").contains("WARN"), "1001 turns are few enough");
            let many: Vec<_> = (2..30).map(|n| format!("10.244.1.{n}")).collect();
            write("slice.yaml", &slice(&many.iter().map(String::as_str).collect::<Vec<_>>()));
            let said = daemon.says("committed");
            let warning = said.lines().find(|line| line.contains("WARN")).unwrap();
            assert!(warning.contains("default/web") && warning.contains("turns=1027"), "{warning}");
        });
    }

    fn rules_stay_when_it_stops_and_a_restart_changes_nothing() {
        on_a_node(|| {
            write("web.yaml", &format!("{}\n---\n{}", service("ports: [{port: 80}]"), slice(&["10.244.1.2", "10.244.1.3"])));
            let daemon = Daemon::start();
            daemon.says("committed");
            let before = held();

            let (said, status) = daemon.ends_by(Signal::SIGTERM);
            assert!(status.success() && said.contains("SIGTERM"), "{status} {said}");
            assert_eq!(held(), before);

            let daemon = Daemon::start();
            let said = daemon.says("committed");
            assert!(said.contains("elements=0 "), "changed what had not changed: {said}");
            write("other.yaml", "{kind: Service, metadata: {name: other}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}");
            let said = daemon.says("committed");
            assert!(said.contains("elements=2 "), "more than the new service's address, and that it is a cluster IP: {said}");
        });
    }

    fn what_changed_while_it_was_away_is_changed_at_the_start_even_after_a_kill() {
        on_a_node(|| {
            write("web.yaml", &format!("{}\n---\n{}", service("ports: [{port: 80}]"), slice(&["10.244.1.2"])));
            let daemon = Daemon::start();
            daemon.says("committed");
            daemon.ends_by(Signal::SIGKILL);

            write("web.yaml", &format!("{}\n---\n{}", service("ports: [{port: 80}]"), slice(&["10.244.1.9"])));
            Daemon::start().says("committed");

            assert_eq!(served(), (vec![cluster_ip()], vec![endpoint("10.244.1.9:8080")]));
        });
    }

    fn cleanup_leaves_nothing_and_may_be_repeated() {
        on_a_node(|| {
            write("web.yaml", &format!("{NODE}\n---\n{}", service("ports: [{port: 80}]")));
            let daemon = Daemon::start();
            daemon.says("committed");
            daemon.ends_by(Signal::SIGINT);

            for _ in 0..2 {
                assert!(program().arg("--cleanup").stderr(Stdio::null()).status().unwrap().success());
                assert_eq!(held(), None);
            }
            assert!(!fs::exists("/run/fairway/node.json").unwrap());
            assert!(!fs::exists("/etc/cni/net.d/10-fairway.conflist").unwrap());
        });
    }

    fn what_it_needs_and_does_not_get_is_said_in_one_line() {
        on_a_node(|| {
            for (arguments, words) in [
                (&[][..], "give --kubeconfig FILE or --manifests DIR"),
                (&["--manifests", "/nowhere"][..], "watch manifests in /nowhere: No such file or directory"),
            ] {
                let output = program().args(arguments).output().unwrap();
                let said = String::from_utf8(output.stderr).unwrap();
                assert!(!output.status.success() && said.contains(words) && said.lines().count() == 1, "{said}");
            }
        });
    }

    fn it_ends_with_an_error_if_the_directory_of_manifests_goes_away() {
        on_a_node(|| {
            let mut daemon = Daemon::start();
            daemon.says("committed"); // so all has been listed
            fs::remove_dir(MANIFESTS).unwrap();

            daemon.says("the directory of manifests /var/lib/fairway/manifests is gone");
            assert!(!daemon.child.wait().unwrap().success());
        });
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS, repair::TESTS])
}

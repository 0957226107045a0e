//! Two hundred pods come and go at once on one host: routed and over a bridge, of two networks and two families, some with an
//! address that they ask for, a host port, or limits of bandwidth. Each is added twice, checked, and deleted twice, once or twice over.
//! Each call is a process, as in real life.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays the container runtime"
)]

mod runtime;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use fairway_lab::binaries;
use runtime::{Runtime, addresses, success};
use serde_json::{Value, json};

/// How long nobody may get any further until that counts as a deadlock.
const PATIENCE: Duration = Duration::from_mins(2);

const PODS: usize = 200;

/// Of each group, as many pods are at it at once.
const CROWD: usize = 50;

fn routed() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "routed", "type": "fairway",
        "ipam": {
            "ranges": [[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "fd00:1::/64" }]],
            "exclude": ["10.1.0.192/26"], // for those who ask: nobody gets their address while they have none
        },
    })
}

fn bridged() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "bridged", "type": "fairway", "mode": "bridge", "bridge": "br0", "isDefaultGateway": true,
        "ipam": { "ranges": [[{ "subnet": "10.2.0.0/24" }], [{ "subnet": "fd00:2::/64" }]] },
    })
}

/// The other network of pods that have two: it leads to its own, and the first one everywhere else.
fn second() -> Value {
    let mut conf = with(with(bridged(), "isDefaultGateway", json!(false)), "isGateway", json!(true));
    conf["ipam"]["routes"] = json!([{ "dst": "10.9.0.0/16" }]);
    conf
}

/// A pod, and what it wants.
struct Pod {
    name: String,
    /// Its links: a configuration for each name.
    links: Vec<(&'static str, Value)>,
    /// How often it is deleted and added again.
    turns: usize,
}

impl Pod {
    fn number(n: usize) -> Self {
        let asking = |conf: Value, address: String| with(conf, "runtimeConfig", json!({ "ips": [address] }));
        let port =
            json!({ "portMappings": [{ "hostPort": 20_000 + n, "containerPort": 80, "protocol": "tcp" }] });
        let rates = json!({ "bandwidth": { "ingressRate": 80_000_000, "egressRate": 80_000_000 } });
        let links = match n % 5 {
            0 => vec![("eth0", with(routed(), "runtimeConfig", port))],
            1 => vec![("eth0", with(bridged(), "runtimeConfig", rates))],
            2 => vec![("eth0", asking(routed(), format!("10.1.0.{}", 200 + n / 5)))],
            3 => vec![("eth0", asking(bridged(), format!("fd00:2::f:{n}")))],
            _ => vec![("eth0", routed()), ("net1", second())],
        };
        Self { name: format!("pod{n}"), links, turns: 1 + n % 2 }
    }
}

fn with(mut conf: Value, key: &str, value: Value) -> Value {
    conf[key] = value;
    conf
}

/// Who has which address, as the runtime sees it: nobody has another's.
#[derive(Default)]
struct Held(Mutex<BTreeMap<String, String>>);

impl Held {
    fn take(&self, pod: &Pod, ifname: &str, result: &Value) {
        let mut held = self.0.lock().unwrap();
        for address in addresses(result) {
            let before = held.insert(address.clone(), format!("{} {ifname}", pod.name));
            assert_eq!(before, None, "{address} of {} is another's, too", pod.name);
        }
    }

    fn leave(&self, result: &Value) {
        let mut held = self.0.lock().unwrap();
        for address in addresses(result) {
            assert!(held.remove(&address).is_some(), "{address}");
        }
    }
}

/// What a pod's runtime does in its life, but for the end of it.
fn live(runtime: &Runtime, held: &Held, pod: &Pod) -> Vec<(&'static str, Value, Value)> {
    let fairway = &binaries::built().unwrap().fairway;
    let call = |verb: &str, ifname: &str, conf: &Value| {
        success(&runtime.exec_as(fairway, verb, &pod.name, ifname, conf))
    };
    let mut links: Vec<(&str, Value, Value)> = Vec::new();
    for turn in 0..=pod.turns {
        if turn > 0 {
            for (ifname, conf, result) in links.drain(..).rev() {
                held.leave(&result); // from here on others may have them
                call("DEL", ifname, &conf);
                call("DEL", ifname, &conf);
            }
        }
        for (ifname, conf) in &pod.links {
            let result = call("ADD", ifname, conf);
            held.take(pod, ifname, &result);
            assert_eq!(call("ADD", ifname, conf)["ips"], result["ips"], "the same again");
            links.push((ifname, conf.clone(), result));
        }
        for (ifname, conf, result) in &links {
            call("CHECK", ifname, &with(conf.clone(), "prevResult", result.clone()));
        }
    }
    links
}

/// Does something for each pod, many at a time, and fails if for long none gets any further.
fn all_at_once<T: Send>(pods: &[Pod], work: impl Fn(&Pod) -> T + Sync) -> Vec<T> {
    let waiting = Mutex::new(pods.iter());
    let (done, dones) = channel();
    thread::scope(|scope| {
        for _ in 0..CROWD {
            let (done, waiting, work) = (done.clone(), &waiting, &work);
            scope.spawn(move || {
                loop {
                    let next = waiting.lock().unwrap().next();
                    let Some(pod) = next else { break };
                    done.send((pod.name.clone(), work(pod))).unwrap();
                }
            });
        }
        drop(done);
        let (mut results, mut names) = (Vec::new(), BTreeSet::new());
        loop {
            match dones.recv_timeout(PATIENCE) {
                Ok((name, result)) => {
                    names.insert(name);
                    results.push(result);
                }
                Err(RecvTimeoutError::Disconnected) => return results, // one that panicked, the scope tells
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("only {names:?} got anywhere");
                    std::process::abort(); // who hangs cannot be waited for
                }
            }
        }
    })
}

/// Files in which something is kept of a pod.
fn files(runtime: &Runtime, kind: &str) -> BTreeSet<String> {
    let files = ["routed", "bridged"].map(|network| runtime.files(&format!("/run/fairway/{network}/{kind}")));
    files.concat().iter().map(|file| file.rsplit('/').next().unwrap().to_owned()).collect()
}

fn links(runtime: &Runtime) -> usize {
    let names = runtime.on_host(|kernel| async move {
        kernel.links().await.unwrap().into_iter().map(|link| link.name).collect::<Vec<_>>()
    });
    names.iter().filter(|name| name.starts_with("fw")).count()
}

fairway_lab::sandbox_tests! {
    fn two_hundred_mixed_pods_at_once_share_no_address_and_leave_nothing() {
        let runtime = Runtime::new(routed());
        let pods: Vec<Pod> = (0..PODS).map(Pod::number).collect();
        for pod in &pods {
            runtime.sandbox(&pod.name);
        }
        let held = Held::default();

        let lives = all_at_once(&pods, |pod| live(&runtime, &held, pod));

        let all = pods.iter().map(|pod| pod.links.len()).sum::<usize>();
        let addresses_of_all: BTreeSet<String> = held.0.lock().unwrap().keys().cloned().collect();
        assert_eq!(lives.iter().map(Vec::len).sum::<usize>(), all);
        assert_eq!(addresses_of_all.len(), 2 * all);
        assert_eq!(files(&runtime, "leases"), addresses_of_all);
        assert_eq!((files(&runtime, "owners").len(), links(&runtime)), (all, all));

        let fairway = &binaries::built().unwrap().fairway;
        all_at_once(&pods, |pod| {
            for (ifname, conf) in pod.links.iter().rev() {
                success(&runtime.exec_as(fairway, "DEL", &pod.name, ifname, conf));
            }
        });

        assert_eq!((files(&runtime, "leases").len(), files(&runtime, "owners").len(), links(&runtime)), (0, 0, 0));
        assert_eq!(runtime.files("/run/fairway/host-ports"), ["/run/fairway/host-ports/lock"]);
        let drafts = runtime.files("/run/fairway").into_iter().filter(|file| file.contains("/.draft-")).count();
        assert_eq!(drafts, 0);
        for pod in &pods {
            let links = runtime.in_pod(&pod.name, |kernel| async move { kernel.links().await.unwrap().len() });
            assert_eq!(links, 1, "lo, of {}", pod.name);
        }
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

//! The lesson that the project starts from, played step by step on a cluster that has [`lesson::objects`].
//!
//! Each step does what a person would try, shows what came back, and claims something that must hold.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use crate::{
    answer::{is_in_turn, names},
    cluster::{self, Cluster, OUTSIDE},
    harness::report,
    lesson::{self, BACKENDS, NODE_PORT_NUMBER, SERVICE_URL, STICKY_URL},
    manifest, node,
    screen::Screen,
    wait,
};

/// A claim that did not hold.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(String);

macro_rules! broken_by {
    ($($error:ty),*) => {
        $(impl From<$error> for Broken {
            fn from(error: $error) -> Self {
                Self(report(&error))
            }
        })*
    };
}
broken_by!(cluster::Error, node::Error, manifest::Error, wait::TimedOut);

struct Step {
    heading: &'static str,
    claim: &'static str,
    play: fn(&mut Cluster, Screen) -> Result<(), Broken>,
}

const STEPS: [Step; 7] = [
    Step {
        heading: "Pods get their addresses, by the plugin",
        claim: "each pod has an address of its own, from its node's pod CIDR",
        play: addresses,
    },
    Step {
        heading: "Pod to pod, on the same node and across nodes",
        claim: "pods reach each other, and see each other's own address; the overlay leaves them 1450 bytes of 1500",
        play: pod_to_pod,
    },
    Step {
        heading: "myweb-service, 10.105.77.228:8001: twelve connections from apache-pod",
        claim: "the three pods behind it answer in strict turn",
        play: cluster_ip,
    },
    Step {
        heading: "myweb-service edited live to type NodePort, 30632: from outside, by every node's address",
        claim: "every node answers, and its three pods in strict turn",
        play: node_port,
    },
    Step {
        heading: "pair-pod: two containers in one pod",
        claim: "they share one address and one localhost",
        play: two_containers,
    },
    Step {
        heading: "sticky-service, 10.105.77.229:8001: session affinity, four connections from each client",
        claim: "every client stays with the pod that it met first",
        play: session_affinity,
    },
    Step {
        heading: "The daemon on w1 is killed: six connections from apache-pod, on w1",
        claim: "services go on without the daemon",
        play: killed_daemon,
    },
];

/// Plays all steps, up to the first whose claim does not hold. Says whether all held.
pub fn play(cluster: &mut Cluster, screen: Screen) -> bool {
    for step in STEPS {
        screen.heading(step.heading);
        match (step.play)(cluster, screen) {
            Ok(()) => screen.held(step.claim),
            Err(broken) => {
                screen.broken(step.claim, broken);
                return false;
            }
        }
    }
    true
}

fn addresses(cluster: &mut Cluster, screen: Screen) -> Result<(), Broken> {
    let mut taken = BTreeSet::new();
    for pod in cluster.pods() {
        let node = pod.host().name();
        for address in pod.addresses() {
            screen.line(format_args!("{:<22} {:<4} {address}", pod.key(), node));
            let cidrs = cluster.node(node).map(|node| node.manifest().spec.pod_cidrs.clone());
            if !cidrs.unwrap_or_default().iter().any(|cidr| cidr.contains(*address)) {
                return Err(Broken(format!("{address} is in no pod CIDR of {node}")));
            }
            if !taken.insert(*address) {
                return Err(Broken(format!("{address} was given twice")));
            }
        }
        if pod.addresses().is_empty() {
            return Err(Broken(format!("{} has none", pod.key())));
        }
    }
    Ok(())
}

fn pod_to_pod(cluster: &mut Cluster, screen: Screen) -> Result<(), Broken> {
    let own = address_of(cluster, "apache-pod")?;
    for to in ["nginx-pod", "nginx-pod2"] {
        // The routes between nodes come from the daemon, which follows on its own.
        let answer = cluster.await_answer("apache-pod", to)?;
        screen.line(&answer);
        if answer.name != to || answer.client.ip() != own {
            return Err(Broken(format!("{answer}, asked from {own}")));
        }
    }
    let mtu = cluster.pod("apache-pod").and_then(|pod| pod.result().pointer("/interfaces/1/mtu")?.as_u64());
    screen.line(format_args!("apache-pod: eth0 mtu {}", mtu.unwrap_or_default()));
    if mtu == Some(1450) { Ok(()) } else { Err(Broken(format!("the MTU of apache-pod's eth0 is {mtu:?}"))) }
}

fn cluster_ip(cluster: &mut Cluster, screen: Screen) -> Result<(), Broken> {
    cluster.await_backends("apache-pod", SERVICE_URL, &BACKENDS)?;
    turns(cluster, screen, "apache-pod", SERVICE_URL, 12)
}

fn node_port(cluster: &mut Cluster, screen: Screen) -> Result<(), Broken> {
    cluster.apply(lesson::node_port()?)?;
    let addresses: Vec<IpAddr> =
        cluster.nodes().filter_map(|node| node.manifest().internal_ips().next()).collect();
    for address in addresses {
        let url = format!("http://{}/", SocketAddr::new(address, NODE_PORT_NUMBER));
        cluster.await_backends(OUTSIDE, &url, &BACKENDS)?;
        screen.line(&url);
        turns(cluster, screen, OUTSIDE, &url, 6)?;
    }
    Ok(())
}

fn two_containers(cluster: &mut Cluster, screen: Screen) -> Result<(), Broken> {
    let own = address_of(cluster, "pair-pod")?;
    let asked = [
        ("pair-pod", "http://127.0.0.1:80/".to_owned(), "pair-pod/web"),
        ("pair-pod", "http://127.0.0.1:8080/".to_owned(), "pair-pod/admin"),
        ("apache-pod", format!("http://{own}:80/"), "pair-pod/web"),
        ("apache-pod", format!("http://{own}:8080/"), "pair-pod/admin"),
    ];
    for (from, url, name) in asked {
        let answer = cluster.ask(from, &url)?;
        screen.line(format_args!("from {from}: {answer}"));
        if answer.name != name {
            return Err(Broken(format!("{answer}, where {name} should answer")));
        }
    }
    Ok(())
}

fn session_affinity(cluster: &mut Cluster, screen: Screen) -> Result<(), Broken> {
    cluster.apply(lesson::sticky()?)?;
    for from in ["apache-pod", "nginx-pod2", "pair-pod"] {
        cluster.await_answer(from, STICKY_URL)?;
        let answers = cluster.ask_times(4, from, STICKY_URL)?;
        let names = names(&answers);
        screen.line(format_args!("from {from}: {}", names.join(", ")));
        if names.iter().any(|name| Some(name) != names.first()) {
            return Err(Broken(format!("{from} met {}", names.join(", "))));
        }
    }
    Ok(())
}

fn killed_daemon(cluster: &mut Cluster, screen: Screen) -> Result<(), Broken> {
    cluster.node_mut("w1")?.kill_daemon()?;
    turns(cluster, screen, "apache-pod", SERVICE_URL, 6)?;
    Ok(cluster.node_mut("w1")?.start_daemon()?)
}

fn turns(cluster: &Cluster, screen: Screen, from: &str, url: &str, count: usize) -> Result<(), Broken> {
    let answers = cluster.ask_times(count, from, url)?;
    let names = names(&answers);
    for round in names.chunks(BACKENDS.len()) {
        screen.line(round.join(", "));
    }
    if is_in_turn(&answers, BACKENDS.len()) { Ok(()) } else { Err(Broken(names.join(", "))) }
}

fn address_of(cluster: &Cluster, pod: &str) -> Result<IpAddr, Broken> {
    let address = cluster.pod(pod).and_then(|pod| pod.addresses().first().copied());
    address.ok_or_else(|| Broken(format!("{pod} has no address")))
}

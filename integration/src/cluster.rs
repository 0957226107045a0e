//! A cluster: nodes on a switch, a machine outside, pods and services.
//!
//! In: objects, applied and deleted as with `kubectl`. Out: machines, pods that run, files that the daemons follow, and
//! answers to whoever asks from anywhere in it. Works inside a [`crate::sandbox`] only, and goes with its handle.
//!
//! ```text
//!             outside  192.168.14.1, the nodes' way out, with the API server if there is one
//!                │
//!   ┌────────────┼─── switch ───┬────────────┐
//!   m .50        w1 .51         w2 .52         a daemon on each; pods by the plugin
//! ```
//!
//! Nodes whose first addresses are in another /24 (or /64) are on a switch of their own, behind the machine outside, which routes.

mod applied;
mod networks;
mod publishing;
mod questions;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::{AsRawFd, RawFd},
    path::PathBuf,
    sync::Arc,
};

use dataplane::netns;

pub use applied::Applied;
use publishing::Audience;
pub use publishing::Source;
pub use questions::Asker;
pub use status::{NodeStatus, PodStatus, ServiceStatus, Status};

use self::networks::Networks;
use crate::{
    api_server::{self, ApiServer},
    binaries::Binaries,
    client::{self, BadUrl},
    endpoints::Backend,
    host::{self, Host},
    kubelet::{self, RunningPod},
    manifest::{Content, Node, Object, ObjectName, Pod},
    network::{self, Switch, gateway_of},
    node::{self, RunningNode},
    runtime,
};

/// The machine that is no node: the nodes' way out, and a client from outside.
pub const OUTSIDE: &str = "outside";

/// Why the cluster did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The switch or the machine outside.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// A namespace of the lab.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// A network namespace of the lab.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The API server.
    #[error(transparent)]
    ApiServer(#[from] api_server::Error),
    /// A node.
    #[error(transparent)]
    Node(#[from] node::Error),
    /// A pod.
    #[error(transparent)]
    Pod(#[from] kubelet::Error),
    /// The plugin cannot be installed.
    #[error("install the plugin in {}", runtime::BIN_DIR)]
    Install(#[source] std::io::Error),
    /// Nothing to start with.
    #[error("no Node among the objects: a cluster starts with at least one")]
    NoNodes,
    /// The pod asks for a node that is not there.
    #[error("pod {pod}: spec.nodeName: no node {node}")]
    NoSuchNode {
        /// The pod.
        pod: String,
        /// The node.
        node: String,
    },
    /// A node cannot get other pod CIDRs, nor go to another network.
    #[error(
        "{0}: only the labels of a node, and its addresses on its network, can change while the lab is up"
    )]
    NodesStay(ObjectName),
    /// Not there.
    #[error("{0} not found")]
    NoSuchObject(ObjectName),
    /// No place of that name.
    #[error("{0:?} is no pod, no node and not {OUTSIDE:?}")]
    NoSuchPlace(String),
    /// The URL leads nowhere.
    #[error(transparent)]
    BadUrl(#[from] BadUrl),
    /// The name in the URL is unknown.
    #[error("{0:?} is no address, no service, no pod and no node")]
    UnknownName(String),
    /// An object could not be written as YAML or JSON.
    #[error("write {object}: {reason}")]
    Write {
        /// The object.
        object: ObjectName,
        /// Why.
        reason: String,
    },
    /// The answer did not come.
    #[error(transparent)]
    Ask(#[from] client::Error),
}

impl Error {
    /// Says whether the one who was asked refused at once, rather than kept silent.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Ask(error) if error.is_refused())
    }
}

/// Somewhere in the lab that programs run.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// A node, or the machine outside.
    Machine(&'a Host),
    /// A pod, on a node.
    Pod(&'a RunningPod),
}

impl Place<'_> {
    /// Runs `work` there, on a new thread.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        match self {
            Self::Machine(host) => Ok(host.run(work)?),
            Self::Pod(pod) => Ok(pod.run(work)?),
        }
    }

    /// The machine whose files are seen there.
    pub fn host(&self) -> &Host {
        match self {
            Self::Machine(host) => host,
            Self::Pod(pod) => pod.host(),
        }
    }

    /// Its network, mount and host-name namespaces, as descriptors of this process: for other processes to enter.
    pub fn descriptors(&self) -> (RawFd, RawFd, RawFd) {
        let (net, mnt, uts) = self.host().descriptors();
        match self {
            Self::Machine(_) => (net, mnt, uts),
            Self::Pod(pod) => (pod.netns().as_raw_fd(), mnt, uts),
        }
    }

    /// Its network namespace as a path, while the place is there.
    pub fn netns_path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.descriptors().0).into()
    }
}

/// A cluster that runs.
#[derive(Debug)]
pub struct Cluster {
    pods: BTreeMap<String, RunningPod>, // before the nodes, so that they go before them
    nodes: BTreeMap<String, RunningNode>,
    outside: Host,
    networks: Networks,
    audience: Audience,
    binaries: Binaries,
    flags: Vec<String>,
    objects: BTreeMap<ObjectName, Object>,
}

impl Cluster {
    /// Starts a cluster of these objects, at least one node among them, and returns when all pods are ready.
    pub fn start(binaries: &Binaries, objects: Vec<Object>) -> Result<Self, Error> {
        Self::start_with(binaries, objects, &[])
    }

    /// The same, with these flags for the daemons besides those that the lab needs.
    pub fn start_with(binaries: &Binaries, objects: Vec<Object>, flags: &[&str]) -> Result<Self, Error> {
        Self::start_on(binaries, objects, Source::Manifests, flags)
    }

    /// The same, with daemons that follow a source of the caller's choice.
    pub fn start_on(
        binaries: &Binaries,
        objects: Vec<Object>,
        source: Source,
        flags: &[&str],
    ) -> Result<Self, Error> {
        install(binaries).map_err(Error::Install)?;
        let first = objects.iter().find_map(|object| match &object.content {
            Content::Node(node) => Some(node),
            _ => None,
        });
        let first = first.ok_or(Error::NoNodes)?;
        let (outside, mut networks) = (Host::make(OUTSIDE)?, Networks::default());
        networks.switch_for(first, &outside)?;
        let audience = match (source, first.internal_ips().next().map(gateway_of)) {
            (Source::Manifests, _) | (Source::Api, None) => Audience::Directories,
            (Source::Api, Some(ip)) => Audience::Api(ApiServer::start(&outside, ip)?.into()),
        };
        let mut cluster = Self {
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            outside,
            networks,
            audience,
            binaries: binaries.clone(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            objects: BTreeMap::new(),
        };
        cluster.apply(objects)?;
        Ok(cluster)
    }

    /// Makes the cluster have these objects: starts, replaces and tells the daemons what is new. Returns when the pods are
    /// ready and the daemons can see it all; they follow on their own.
    pub fn apply(&mut self, mut objects: Vec<Object>) -> Result<Vec<Applied>, Error> {
        objects.sort_by_key(|object| match object.content {
            Content::Node(_) => 0,
            Content::Pod(_) => 1,
            Content::Service(_) | Content::EndpointSlice => 2,
        });
        let mut applied = Vec::new();
        let admitted = objects.into_iter().try_for_each(|object| {
            let before = self.objects.get(&object.name);
            if before == Some(&object) {
                applied.push(Applied::Unchanged(object.name));
                return Ok(());
            }
            let name = object.name.clone();
            let is_new = before.is_none();
            self.admit(object, is_new)?;
            applied.push(if is_new { Applied::Created(name) } else { Applied::Configured(name) });
            Ok(())
        });
        self.publish()?;
        admitted.map(|()| applied)
    }

    fn admit(&mut self, object: Object, is_new: bool) -> Result<(), Error> {
        match &object.content {
            Content::Node(node) if !is_new => {
                let name = &object.name.name;
                let running = self.nodes.get_mut(name).ok_or_else(|| Error::NoSuchPlace(name.clone()))?;
                let switch = self.networks.switch_for(running.manifest(), &self.outside)?;
                if !running.change(node, switch)? {
                    return Err(Error::NodesStay(object.name));
                }
            }
            Content::Node(node) => {
                let (name, node) = (object.name.clone(), node.clone());
                self.objects.insert(name.clone(), object); // its daemon is to see it from the start
                return self.boot(node).inspect_err(|_| {
                    self.objects.remove(&name);
                    self.nodes.remove(&name.name);
                });
            }
            Content::Pod(pod) => {
                self.objects.remove(&object.name);
                self.stop_pod(&pod.key())?;
                self.start_pod(pod.clone())?;
            }
            Content::Service(_) | Content::EndpointSlice => {}
        }
        self.objects.insert(object.name.clone(), object);
        Ok(())
    }

    /// Takes objects away: first from the daemons' sight, then for good.
    pub fn delete(&mut self, names: &[ObjectName]) -> Result<(), Error> {
        for name in names {
            self.objects.remove(name).ok_or_else(|| Error::NoSuchObject(name.clone()))?;
            if name.kind == "Node" {
                self.remove_node(&name.name)?;
            }
            if name.kind == "Pod" {
                self.stop_pod(&format!("{}/{}", name.namespace, name.name))?;
            }
        }
        self.publish()
    }

    /// Takes a node away with its pods: the other nodes hear of it before it is gone.
    fn remove_node(&mut self, name: &str) -> Result<(), Error> {
        let is_there = |pod: &&RunningPod| pod.host().name() == name;
        let pods: Vec<String> = self.pods.values().filter(is_there).map(RunningPod::key).collect();
        for pod in pods {
            self.objects.retain(|object, _| {
                object.kind != "Pod" || format!("{}/{}", object.namespace, object.name) != pod
            });
            self.stop_pod(&pod)?;
        }
        self.publish()?;
        self.node_mut(name)?.stop_daemon()?;
        self.nodes.remove(name);
        Ok(())
    }

    fn boot(&mut self, manifest: Node) -> Result<(), Error> {
        let name = manifest.metadata.name.clone();
        let switch = self.networks.switch_for(&manifest, &self.outside)?;
        let mut node = RunningNode::boot(manifest, switch, &self.binaries)?;
        node.set_flags(&self.flags);
        if let Audience::Api(server) = &self.audience {
            node.follow(server)?;
        }
        self.nodes.insert(name.clone(), node);
        self.publish()?;
        let node = self.node_mut(&name)?;
        node.start_daemon()?;
        Ok(node.await_network()?)
    }

    fn start_pod(&mut self, pod: Pod) -> Result<(), Error> {
        let node = self.node_for(&pod)?;
        let running = kubelet::start(node.host(), pod)?;
        self.pods.insert(running.key(), running);
        Ok(())
    }

    fn stop_pod(&mut self, key: &str) -> Result<(), Error> {
        if let Some(pod) = self.pods.remove(key) {
            self.publish()?;
            pod.stop()?;
        }
        Ok(())
    }

    /// The scheduler's part: the node that the pod asks for, or the worker with the fewest pods.
    fn node_for(&self, pod: &Pod) -> Result<&RunningNode, Error> {
        if let Some(node) = &pod.spec.node_name {
            let missing = || Error::NoSuchNode { pod: pod.key(), node: node.clone() };
            return self.nodes.get(node).ok_or_else(missing);
        }
        let pods_on = |node: &RunningNode| {
            self.pods.values().filter(|pod| Arc::ptr_eq(pod.host(), node.host())).count()
        };
        // false before true: workers first, the others if there are none.
        let rank = |node: &&RunningNode| (!node.manifest().is_worker(), pods_on(node));
        self.nodes.values().min_by_key(rank).ok_or(Error::NoNodes)
    }

    fn backends(&self) -> impl Iterator<Item = Backend<'_>> + Clone {
        self.pods.values().map(|pod| Backend {
            pod: pod.manifest(),
            node: pod.host().name(),
            addresses: pod.addresses(),
        })
    }

    /// An object as it was applied.
    pub fn object(&self, name: &ObjectName) -> Option<&Object> {
        self.objects.get(name)
    }

    /// A pod that runs, by its name in namespace `default`, or by `namespace/name`.
    pub fn pod(&self, name: &str) -> Option<&RunningPod> {
        if name.contains('/') { self.pods.get(name) } else { self.pods.get(&format!("default/{name}")) }
    }

    /// A node, by its name.
    pub fn node(&self, name: &str) -> Option<&RunningNode> {
        self.nodes.get(name)
    }

    /// A node, by its name, to do something to its daemon.
    pub fn node_mut(&mut self, name: &str) -> Result<&mut RunningNode, Error> {
        self.nodes.get_mut(name).ok_or_else(|| Error::NoSuchPlace(name.to_owned()))
    }

    /// The API server, where the daemons follow one.
    pub fn api_server(&self) -> Option<&ApiServer> {
        match &self.audience {
            Audience::Api(server) => Some(server),
            Audience::Directories => None,
        }
    }

    /// The first node's switch, to connect other machines to.
    pub fn switch(&self) -> Result<&Switch, Error> {
        self.networks.first().ok_or(Error::NoNodes)
    }

    /// The switch that a node is on.
    pub fn switch_of(&self, node: &str) -> Result<&Switch, Error> {
        let missing = || Error::NoSuchPlace(node.to_owned());
        let manifest = self.node(node).ok_or_else(missing)?.manifest();
        self.networks.switch_of(manifest).ok_or_else(missing)
    }

    /// The ids of all processes that the cluster started and looks after.
    pub fn processes(&self) -> BTreeSet<u32> {
        let daemons = self.nodes.values().filter_map(RunningNode::process);
        self.pods.values().flat_map(RunningPod::processes).chain(daemons).collect()
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &RunningNode> {
        self.nodes.values()
    }

    /// All pods, by namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = &RunningPod> {
        self.pods.values()
    }

    /// The machine outside, a node or a pod, by its name.
    pub fn place(&self, name: &str) -> Result<Place<'_>, Error> {
        let machine = || match name {
            OUTSIDE => Some(Place::Machine(&self.outside)),
            _ => self.nodes.get(name).map(|node| Place::Machine(node.host())),
        };
        let found = self.pod(name).map(Place::Pod).or_else(machine);
        found.ok_or_else(|| Error::NoSuchPlace(name.to_owned()))
    }

    /// What a service's, a pod's or a node's name stands for: its first address.
    pub fn look_up(&self, name: &str) -> Option<IpAddr> {
        let (namespace, short) = name.split_once('/').unwrap_or(("default", name));
        let service = ObjectName { kind: "Service".into(), namespace: namespace.into(), name: short.into() };
        let service_ip = self.objects.get(&service).and_then(|object| match &object.content {
            Content::Service(service) => service.cluster_ips().next(),
            _ => None,
        });
        let pod_ip = || self.pod(name)?.addresses().first().copied();
        let node_ip = || self.node(name)?.manifest().internal_ips().next();
        service_ip.or_else(pod_ip).or_else(node_ip)
    }
}

/// Puts the plugin where the runtime of every node looks for it.
fn install(binaries: &Binaries) -> std::io::Result<()> {
    let place = std::path::Path::new(runtime::BIN_DIR).join("fairway");
    match std::os::unix::fs::symlink(&binaries.fairway, place) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

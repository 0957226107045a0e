//! A cluster for questions: two nodes of both families, pods of the real plugin on them, services and slices as a test
//! writes them, and what whoever asks is told.
//!
//! ```text
//!   outside ── switch ──┬─ w1 (zone east): client, a, b
//!                       └─ w2 (zone west): client2, c, d
//! ```
//!
//! `bed.check("client", "web:80", ["a sees client", "c sees client"])` asks in each family, over a connection of its own each
//! time, and compares all that was said: who answered, and whom it saw; or `refused`, `unreachable`, `silent`.

mod questions;
mod wires;

use std::{
    collections::BTreeMap,
    error::Error as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use dataplane::{
    disk::{Directory, Durability},
    packet::Family,
    sysctl,
};
use fairway_lab::{
    binaries, client,
    cluster::{Cluster, OUTSIDE},
    host::Host,
    manifest::{Object, ObjectName, parse},
    node::MANIFESTS,
    wait,
};
use serde_json::{Value, json};

/// How long nobody may answer until it counts as silence.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// The service that is changed last: once it answers, all that came before it is served.
const MARKER: &str = "zzz-marker";
const MARKER_ADDRESSES: [&str; 2] = ["10.96.255.254", "fd00:10:96::ffff"];

const NODES: [(&str, u8, &str); 2] = [("w1", 1, "east"), ("w2", 2, "west")];
const PODS: [(&str, &str); 6] =
    [("client", "w1"), ("a", "w1"), ("b", "w1"), ("c", "w2"), ("d", "w2"), ("client2", "w2")];

/// What the nodes are told.
const PARAMETERS: [(&str, &str); 2] = [
    // Strangers come and go by one link. Who tells them so holds other errors back for a second (kernel `route.c`,
    // `ip_rt_send_redirect`).
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/eth0/send_redirects", "0"),
];

/// A cluster for questions.
pub(crate) struct Bed {
    pub(crate) cluster: Cluster,
    families: Vec<Family>,
    /// What a name in a question stands for: a pod, a node, the machine outside, a service, or what a test named.
    addresses: BTreeMap<String, Vec<IpAddr>>,
    services: BTreeMap<String, Value>,
    strangers: BTreeMap<String, Host>,
    marks: u16,
}

/// An endpoint to be, as it stands in a slice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Backend {
    place: &'static str,
    fields: Value,
}

/// A ready endpoint at a pod, or at whatever the bed knows by that name.
pub(crate) fn on(place: &'static str) -> Backend {
    Backend { place, fields: json!({}) }
}

impl Backend {
    /// The same with these fields, in YAML, such as `conditions: {ready: false}`.
    pub(crate) fn with(mut self, fields: &str) -> Self {
        let more: Value = serde_saphyr::from_str(&format!("{{{fields}}}")).unwrap();
        self.fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self
    }

    /// On its way out, and still answering.
    pub(crate) fn terminating(self) -> Self {
        self.with("conditions: {ready: false, serving: true, terminating: true}")
    }

    /// There, but not ready.
    pub(crate) fn unready(self) -> Self {
        self.with("conditions: {ready: false, serving: false, terminating: false}")
    }
}

impl Bed {
    /// Starts it, with these flags for both daemons.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::of(&Family::ALL, flags)
    }

    /// Starts it without IPv4.
    pub(crate) fn of_ipv6(flags: &[&str]) -> Self {
        Self::of(&[Family::Ip6], flags)
    }

    fn of(families: &[Family], flags: &[&str]) -> Self {
        let of_families = |all: [String; 2]| all.into_iter().filter(|a| families.contains(&family_of(a)));
        let nodes = NODES.map(|(name, n, zone)| {
            let cidrs = of_families([format!("10.244.{n}.0/24"), format!("fd00:10:244:{n}::/64")]);
            let addresses = of_families([format!("192.168.14.5{n}"), format!("fd00:192:168:14::5{n}")]);
            let addresses = addresses.map(|address| json!({"type": "InternalIP", "address": address}));
            json!({
                "kind": "Node", "apiVersion": "v1",
                "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
                "spec": {"podCIDRs": cidrs.collect::<Vec<_>>()},
                "status": {"addresses": addresses.collect::<Vec<_>>()},
            })
        });
        let pods = PODS.map(|(name, node)| {
            let ports: Vec<_> = ["TCP", "UDP"]
                .into_iter()
                .flat_map(|p| [80, 8080].map(|port| json!({"containerPort": port, "protocol": p})))
                .collect();
            json!({
                "kind": "Pod", "apiVersion": "v1", "metadata": {"name": name},
                "spec": {"nodeName": node, "containers": [{"name": "web", "ports": ports}]},
            })
        });
        let cluster = Cluster::start_with(binaries::built().unwrap(), objects(&nodes), flags).unwrap();
        let mut bed = Self {
            cluster,
            families: families.to_vec(),
            addresses: BTreeMap::new(),
            services: BTreeMap::new(),
            strangers: BTreeMap::new(),
            marks: 0,
        };
        for (node, ..) in NODES {
            let set = || PARAMETERS.iter().for_each(|(key, value)| sysctl::set(key, value).unwrap());
            bed.cluster.node(node).unwrap().run(set).unwrap();
        }
        bed.cluster.apply(objects(&pods)).unwrap();
        bed.name_places();
        for (node, n, _) in NODES {
            bed.route(OUTSIDE, &[&format!("10.244.{n}.0/24"), &format!("fd00:10:244:{n}::/64")], node);
        }
        bed.settle();
        bed
    }

    /// Writes a file into both daemons' directories as it is, and waits until they serve what it says.
    pub(crate) fn write_manifest(&mut self, file: &str, text: &str) {
        for (node, ..) in NODES {
            let directory = || Directory::new(MANIFESTS, Durability::Volatile).replace(file, text.as_bytes());
            self.cluster.node(node).unwrap().run(directory).unwrap().unwrap();
        }
        self.settle();
    }

    fn name_places(&mut self) {
        for (pod, _) in PODS {
            let addresses = self.cluster.pod(pod).unwrap().addresses().to_vec();
            self.addresses.insert(pod.into(), addresses);
        }
        for (node, ..) in NODES {
            let addresses = self.cluster.node(node).unwrap().manifest().internal_ips().collect();
            self.addresses.insert(node.into(), addresses);
        }
        self.name(OUTSIDE, &["192.168.14.1", "fd00:192:168:14::1"]);
    }

    /// Has questions and answers call these addresses so, those of families that the bed has.
    pub(crate) fn name(&mut self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap());
        let kept = addresses.filter(|address| self.families.contains(&Family::of(*address)));
        let kept = kept.collect();
        self.addresses.insert(name.into(), kept);
    }

    /// What a name stands for, in one family.
    pub(crate) fn address(&self, name: &str, family: Family) -> IpAddr {
        let addresses = self.addresses.get(name).unwrap_or_else(|| panic!("{name} has no address"));
        *addresses.iter().find(|address| Family::of(**address) == family).unwrap()
    }

    /// Serves `rest`, the part of a Service that matters, in front of these backends: in one slice of each family, with the
    /// ports that the service says. The bed gives cluster IPs where `rest` says none.
    pub(crate) fn serve(&mut self, name: &str, rest: &str, backends: &[Backend]) {
        let mut service: Value = serde_saphyr::from_str(rest).unwrap();
        let number = self.services.len() + 1;
        let ips = self.families.iter().map(|family| match family {
            Family::Ip => format!("10.96.0.{number}"),
            Family::Ip6 => format!("fd00:10:96::{number}"),
        });
        service["kind"] = "Service".into();
        service["apiVersion"] = "v1".into();
        service["metadata"]["name"] = name.into();
        if service.pointer("/spec/clusterIP").is_none() && service.pointer("/spec/clusterIPs").is_none() {
            match self.services.get(name) {
                Some(before) => service["spec"]["clusterIPs"] = before["spec"]["clusterIPs"].clone(),
                None => service["spec"]["clusterIPs"] = ips.collect(),
            }
        }
        let slices = self.slices_of(name, &format!("{name}-1"), &service, backends);
        let ips = service.pointer("/spec/clusterIPs").and_then(Value::as_array).cloned().unwrap_or_default();
        let ips = ips.iter().filter_map(|ip| ip.as_str().unwrap().parse().ok()).collect();
        self.addresses.insert(name.into(), ips);
        self.services.insert(name.into(), service.clone());
        let mut all = slices;
        all.push(service);
        self.apply(&all);
    }

    /// Changes a service as `kubectl edit` would.
    pub(crate) fn edit(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let service = self.services.get_mut(name).unwrap();
        change(service);
        let service = service.clone();
        self.apply(&[service]);
    }

    /// Writes other backends into a service's slices.
    pub(crate) fn back(&mut self, name: &str, backends: &[Backend]) {
        let slices = self.slices_of(name, &format!("{name}-1"), &self.services[name], backends);
        self.apply(&slices);
    }

    /// Writes backends of a service into slices of another name, besides those that it has.
    pub(crate) fn back_also(&mut self, name: &str, slice: &str, backends: &[Backend]) {
        let slices = self.slices_of(name, slice, &self.services[name], backends);
        self.apply(&slices);
    }

    /// The slices that a controller would write, one of each family.
    pub(crate) fn slices_of(
        &self,
        name: &str,
        slice: &str,
        service: &Value,
        backends: &[Backend],
    ) -> Vec<Value> {
        let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
        let ports = ports.iter().map(|port| {
            let number = port.get("targetPort").unwrap_or(&port["port"]);
            json!({
                "name": port.get("name").cloned().unwrap_or_else(|| "".into()),
                "protocol": port.get("protocol").cloned().unwrap_or_else(|| "TCP".into()),
                "port": number,
            })
        });
        let ports: Vec<_> = ports.collect();
        let slices = self.families.iter().map(|family| {
            let endpoints = backends.iter().map(|backend| {
                let mut endpoint = json!({"addresses": [self.address(backend.place, *family)]});
                if let Some((_, node)) = PODS.iter().find(|(pod, _)| *pod == backend.place) {
                    endpoint["nodeName"] = (*node).into();
                }
                endpoint.as_object_mut().unwrap().extend(backend.fields.as_object().unwrap().clone());
                endpoint
            });
            let address_type = if *family == Family::Ip { "IPv4" } else { "IPv6" };
            json!({
                "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
                "metadata": {
                    "name": format!("{slice}-{}", address_type.to_lowercase()),
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": address_type, "ports": ports, "endpoints": endpoints.collect::<Vec<_>>(),
            })
        });
        slices.collect()
    }

    /// Applies objects, and waits until both daemons serve what they say.
    pub(crate) fn apply(&mut self, documents: &[Value]) {
        self.cluster.apply(objects(documents)).unwrap();
        self.settle();
    }

    /// Applies objects written in YAML, and waits likewise.
    pub(crate) fn apply_text(&mut self, text: &str) {
        self.cluster.apply(parse("test.yaml", text).unwrap()).unwrap();
        self.settle();
    }

    /// Deletes objects of the default namespace, and waits likewise.
    pub(crate) fn delete(&mut self, names: &[(&str, &str)]) {
        let names = names.iter().map(|(kind, name)| {
            let (kind, namespace, name) = ((*kind).into(), "default".into(), (*name).into());
            ObjectName { kind, namespace, name }
        });
        self.cluster.delete(&names.collect::<Vec<_>>()).unwrap();
        self.settle();
    }

    /// Starts both daemons anew with other flags, and waits until they serve.
    pub(crate) fn restart(&mut self, flags: &[&str]) {
        for (node, ..) in NODES {
            let node = self.cluster.node_mut(node).unwrap();
            node.set_flags(flags);
            node.start_daemon().unwrap();
        }
        self.settle();
    }

    /// Labels a node, and waits until both daemons know.
    pub(crate) fn label_node(&mut self, node: &str, labels: &[(&str, &str)]) {
        let name = ObjectName { kind: "Node".into(), namespace: String::new(), name: node.into() };
        let mut document = self.cluster.object(&name).unwrap().document.clone();
        document["metadata"]["labels"] = labels.iter().map(|(k, v)| (*k, Value::from(*v))).collect();
        self.apply(&[document]);
    }

    /// Waits until both daemons serve all that was applied: changes the marker, whose files come last, and asks it.
    pub(crate) fn settle(&mut self) {
        self.marks += 1;
        let port = 1000 + self.marks;
        let at = |family: Family| MARKER_ADDRESSES[usize::from(family == Family::Ip6)];
        let ips: Vec<_> = self.families.iter().map(|family| at(*family)).collect();
        let service = json!({
            "kind": "Service", "apiVersion": "v1", "metadata": {"name": MARKER},
            "spec": {"clusterIPs": ips, "ports": [{"port": port, "targetPort": 80}]},
        });
        let mut all = self.slices_of(MARKER, MARKER, &service, &[on("a")]);
        all.push(service);
        self.cluster.apply(objects(&all)).unwrap();
        self.addresses.insert(MARKER.into(), ips.iter().map(|ip| ip.parse().unwrap()).collect());
        for (node, ..) in NODES {
            let awaited = format!("the daemon on {node} to follow");
            let last = || self.cluster.node(node).unwrap().log();
            let asked = || self.marker_answers(node, SILENCE).map_err(|error| format!("{error}\n{}", last()));
            wait::until_within(Duration::from_secs(10), &awaited, asked).unwrap();
        }
    }

    fn marker_answers(&self, from: &str, patience: Duration) -> Result<(), String> {
        let to = SocketAddr::new(self.address(MARKER, self.families[0]), 1000 + self.marks);
        let asked = self.netns(from).run(|| client::http(to, patience)).unwrap();
        asked.map(|_| ()).map_err(|error| format!("{error}: {:?}", error.source().map(ToString::to_string)))
    }
}

fn family_of(address: &str) -> Family {
    if address.contains(':') { Family::Ip6 } else { Family::Ip }
}

fn objects(documents: &[Value]) -> Vec<Object> {
    let text: Vec<_> = documents.iter().map(Value::to_string).collect();
    parse("test.yaml", &text.join("\n---\n")).unwrap()
}

//! The lesson's objects, as they stand in `conf/lab`: three nodes, five pods, and services in front of three of them.

use crate::manifest::{self, Object, parse};

const NODES: (&str, &str) = ("nodes.yaml", include_str!("../../conf/lab/nodes.yaml"));
const PODS: (&str, &str) = ("pods.yaml", include_str!("../../conf/lab/pods.yaml"));
const SERVICE: (&str, &str) = ("service.yaml", include_str!("../../conf/lab/service.yaml"));
const NODE_PORT: (&str, &str) =
    ("service-node-port.yaml", include_str!("../../conf/lab/service-node-port.yaml"));
const STICKY: (&str, &str) = ("service-sticky.yaml", include_str!("../../conf/lab/service-sticky.yaml"));

/// What the daemons are told besides: the lesson's overlay.
pub const FLAGS: [&str; 2] = ["--routes", "vxlan"];

/// The pods behind `myweb-service`.
pub const BACKENDS: [&str; 3] = ["nginx-pod", "nginx-pod2", "nginx-pod3"];

/// `myweb-service` inside the cluster.
pub const SERVICE_URL: &str = "http://10.105.77.228:8001/";

/// The port of `myweb-service` on every node, once it has one.
pub const NODE_PORT_NUMBER: u16 = 30632;

/// `sticky-service` inside the cluster.
pub const STICKY_URL: &str = "http://10.105.77.229:8001/";

/// Nodes, pods and `myweb-service` with its cluster IP.
pub fn objects() -> Result<Vec<Object>, manifest::Error> {
    let mut all = Vec::new();
    for (file, text) in [NODES, PODS, SERVICE] {
        all.extend(parse(file, text)?);
    }
    Ok(all)
}

/// `myweb-service` as a person edits it to be reachable from outside.
pub fn node_port() -> Result<Vec<Object>, manifest::Error> {
    parse(NODE_PORT.0, NODE_PORT.1)
}

/// A service in front of the same pods that keeps each client where it was.
pub fn sticky() -> Result<Vec<Object>, manifest::Error> {
    parse(STICKY.0, STICKY.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Content;

    #[test]
    fn the_lesson_s_manifests_are_understood() {
        let names: Vec<String> = objects().unwrap().iter().map(|object| object.name.to_string()).collect();

        assert_eq!(names[..3], ["Node m", "Node w1", "Node w2"]);
        assert_eq!(names[3..8].iter().filter(|name| name.starts_with("Pod default/")).count(), 5);
        assert_eq!(names[8..], ["Service default/myweb-service"]);
    }

    /// Where a service of ours answers inside the cluster, and on which port of every node.
    fn places_of(objects: &[Object]) -> (String, Option<u16>) {
        let Some(Content::Service(service)) = objects.last().map(|object| &object.content) else {
            panic!("no service")
        };
        let port = &service.spec.ports[0];
        (format!("http://{}:{}/", service.cluster_ips().next().unwrap(), port.port), port.node_port)
    }

    #[test]
    fn the_services_are_where_the_lesson_looks_for_them() {
        assert_eq!(places_of(&objects().unwrap()), (SERVICE_URL.into(), None));
        assert_eq!(places_of(&node_port().unwrap()), (SERVICE_URL.into(), Some(NODE_PORT_NUMBER)));
        assert_eq!(places_of(&sticky().unwrap()), (STICKY_URL.into(), None));
    }

    #[test]
    fn the_cluster_of_both_families_is_understood() {
        let objects = parse("dual-stack.yaml", include_str!("../../conf/lab/dual-stack.yaml")).unwrap();

        assert_eq!(objects.len(), 6);
    }

    #[test]
    fn the_edit_is_of_the_same_service() {
        assert_eq!(node_port().unwrap()[0].name.to_string(), "Service default/myweb-service");
        assert_eq!(sticky().unwrap()[0].name.to_string(), "Service default/sticky-service");
    }
}

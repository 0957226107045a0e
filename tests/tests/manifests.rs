//! What is applied to a cluster: `conf/*.yaml`, read as strictly as an API server reads it, and compared with what the daemon is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Container, PodSpec, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use proxy::{
    config::{Config, file},
    conflist,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

const FAIRWAY: &str = "fairway.yaml";

fn conf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf")
}

fn text(file: &str) -> String {
    fs::read_to_string(conf().join(file)).unwrap()
}

/// The objects in a file. A key that stands twice is an error.
fn objects(file: &str) -> Vec<Value> {
    let text = text(file);
    let parts = text.split("\n---\n").map(|part| serde_saphyr::from_str(part).unwrap());
    parts.collect()
}

/// The only object of a kind in a file, of which nothing is unknown to the API: all of it is there again when it is written out.
fn only<T: DeserializeOwned + Serialize>(file: &str, kind: &str) -> T {
    let mut found: Vec<_> = objects(file).into_iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind} in {file}");
    let written = found.remove(0);
    let read: T = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), written);
    read
}

fn daemon_set() -> DaemonSet {
    only(FAIRWAY, "DaemonSet")
}

fn pod(daemon_set: &DaemonSet) -> &PodSpec {
    daemon_set.spec.as_ref().unwrap().template.spec.as_ref().unwrap()
}

fn daemon(pod: &PodSpec) -> &Container {
    let [daemon] = pod.containers.as_slice() else { panic!("{:?}", pod.containers) };
    daemon
}

/// What a container's arguments, and the configuration file among them, come to.
fn config(container: &Container) -> (Config, Vec<String>) {
    let map: ConfigMap = only(FAIRWAY, "ConfigMap");
    let arguments = container.args.iter().flatten().map(|argument| argument.replace("$(NODE_NAME)", "w1"));
    let words = std::iter::once("fairway-proxy".to_owned()).chain(arguments).map(OsString::from);
    let read = |path: &Path| {
        let file = path.strip_prefix("/var/lib/kube-proxy").ok().and_then(Path::to_str);
        let text = file.and_then(|file| map.data.as_ref()?.get(file).cloned());
        text.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    let (config, notices) = Config::of(words, read).unwrap();
    (config, notices.into_iter().map(|notice| notice.subject).collect())
}

#[test]
fn every_field_is_one_that_the_api_has() {
    let kinds: BTreeSet<_> =
        objects(FAIRWAY).iter().map(|object| object["kind"].as_str().unwrap().to_owned()).collect();
    let known = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet"];
    assert_eq!(kinds, known.map(str::to_owned).into());

    only::<ServiceAccount>(FAIRWAY, "ServiceAccount");
    only::<ClusterRole>(FAIRWAY, "ClusterRole");
    only::<ClusterRoleBinding>(FAIRWAY, "ClusterRoleBinding");
    only::<ConfigMap>(FAIRWAY, "ConfigMap");
    daemon_set();
    only::<DaemonSet>("cleanup.yaml", "DaemonSet");
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    let twice = text(FAIRWAY).replacen(
        "  namespace: kube-system\n",
        "  namespace: kube-system\n  namespace: other\n",
        1,
    );
    let first = twice.split("\n---\n").next().unwrap();
    assert!(serde_saphyr::from_str::<Value>(first).is_err());
}

#[test]
fn the_role_allows_what_the_daemon_asks_for_and_nothing_else() {
    // The paths that are listed and watched, as the source has them.
    let feed = fs::read_to_string(conf().join("../proxy/src/watch/kubernetes/feed.rs")).unwrap();
    let paths = feed.split('"').filter(|word| word.starts_with("/api/") || word.starts_with("/apis/"));
    let asked: BTreeSet<_> = paths
        .map(|path| {
            let parts: Vec<_> = path.split('/').skip(1).collect();
            match parts[..] {
                ["api", "v1", resource] => (String::new(), resource.to_owned()),
                ["apis", group, _, resource] => (group.to_owned(), resource.to_owned()),
                _ => panic!("{path}"),
            }
        })
        .collect();
    assert_eq!(asked.len(), 4, "{asked:?}");

    let role: ClusterRole = only(FAIRWAY, "ClusterRole");
    let mut allowed = BTreeSet::new();
    for rule in role.rules.iter().flatten() {
        assert_eq!(rule.verbs, ["list", "watch"]);
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                assert!(allowed.insert((group.clone(), resource.clone())), "{resource} twice");
            }
        }
    }
    assert_eq!(allowed, asked);

    let binding: ClusterRoleBinding = only(FAIRWAY, "ClusterRoleBinding");
    let account: ServiceAccount = only(FAIRWAY, "ServiceAccount");
    let subject = &binding.subjects.as_ref().unwrap()[0];
    assert_eq!(Some(&binding.role_ref.name), role.metadata.name.as_ref());
    assert_eq!(
        (Some(&subject.name), &subject.namespace),
        (account.metadata.name.as_ref(), &account.metadata.namespace)
    );
    assert_eq!(pod(&daemon_set()).service_account_name, account.metadata.name);
}

#[test]
fn the_daemon_takes_its_arguments_and_its_configuration_file_without_a_word() {
    let daemon_set = daemon_set();
    let pod = pod(&daemon_set);

    let (config_of_daemon, said) = config(daemon(pod));
    assert_eq!(said, Vec::<String>::new());
    assert!(config_of_daemon.install_cni && !config_of_daemon.cleanup && !config_of_daemon.init_only);
    assert_eq!(config_of_daemon.node_name("host"), "w1");
    assert_eq!(config_of_daemon.kubeconfig.as_deref(), Some("/var/lib/kube-proxy/kubeconfig.conf"));
    let (first, said) = config(&pod.init_containers.as_ref().unwrap()[0]);
    assert_eq!(said, Vec::<String>::new());
    assert!(first.init_only);
    assert_eq!(first.conntrack, config_of_daemon.conntrack);

    let cleanup: DaemonSet = only("cleanup.yaml", "DaemonSet");
    let (last, _) = config(&self::pod(&cleanup).init_containers.as_ref().unwrap()[0]);
    assert!(last.cleanup);
    assert_eq!((last.run_dir, last.cni_conf_dir), (config_of_daemon.run_dir, config_of_daemon.cni_conf_dir));
}

/// The node's own places that a container may write to, each of which it sees where it is.
fn writable<'a>(pod: &'a PodSpec, container: &'a Container) -> BTreeSet<PathBuf> {
    let places: BTreeMap<_, _> = pod
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| Some((volume.name.clone(), volume.host_path.as_ref()?.path.clone())))
        .collect();
    let mounts = container.volume_mounts.iter().flatten().filter(|mount| mount.read_only != Some(true));
    mounts
        .map(|mount| {
            assert_eq!(places.get(&mount.name), Some(&mount.mount_path));
            PathBuf::from(&mount.mount_path)
        })
        .collect()
}

#[test]
fn what_the_daemon_writes_is_the_node_s_own() {
    let daemon_set = daemon_set();
    let pod = pod(&daemon_set);

    let (config, _) = config(daemon(pod));

    let written = [config.run_dir, config.cni_conf_dir, config.cni_bin_dir.unwrap(), config.state_dir.into()];
    assert_eq!(writable(pod, daemon(pod)), written.into());
}

#[test]
fn what_cleanup_removes_is_the_node_s_own() {
    let cleanup: DaemonSet = only("cleanup.yaml", "DaemonSet");
    let pod = pod(&cleanup);
    let container = pod.init_containers.as_ref().unwrap().first().unwrap();

    let (config, _) = config(container);

    let removed = [config.run_dir, config.cni_conf_dir, config.state_dir.into()];
    assert_eq!(writable(pod, container), removed.into());
}

#[test]
fn probes_ask_where_the_daemon_answers() {
    let daemon_set = daemon_set();
    let daemon = daemon(pod(&daemon_set));
    let port = &daemon.ports.as_ref().unwrap()[0];

    let (config, _) = config(daemon);

    assert_eq!(i32::from(config.healthz_bind_address.0.unwrap().port()), port.container_port);
    assert_eq!(port.host_port, Some(port.container_port), "as the node's own network has it");
    for (probe, path) in [(&daemon.liveness_probe, "/livez"), (&daemon.readiness_probe, "/readyz")] {
        let probe = serde_json::to_value(probe).unwrap();
        assert_eq!(probe["httpGet"], json!({ "path": path, "port": port.name }));
    }
}

#[test]
fn the_daemon_has_no_right_but_that_over_the_network() {
    let daemon_set = daemon_set();
    let pod = pod(&daemon_set);

    let rights = serde_json::to_value(&daemon(pod).security_context).unwrap();

    assert_eq!(
        rights,
        json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] },
        })
    );
    assert_eq!((pod.host_network, pod.host_pid, pod.host_ipc), (Some(true), None, None));
    assert_eq!(pod.priority_class_name.as_deref(), Some("system-node-critical"));
    assert_eq!(serde_json::to_value(&pod.tolerations).unwrap(), json!([{ "operator": "Exists" }]));
}

#[test]
fn every_container_of_ours_is_of_the_image_that_the_lab_writes() {
    for file in [FAIRWAY, "cleanup.yaml"] {
        let set: DaemonSet = only(file, "DaemonSet");
        let pod = pod(&set);
        let ours = pod.init_containers.iter().flatten().chain(&pod.containers);
        let mut images: Vec<_> = ours.filter_map(|container| container.image.as_deref()).collect();
        images.retain(|image| !image.starts_with("registry.k8s.io/pause:"));
        assert!(
            !images.is_empty() && images.iter().all(|image| *image == fairway_lab::image::NAME),
            "{images:?}"
        );
    }
}

#[test]
fn the_way_to_the_api_server_is_one_that_the_daemon_can_go() {
    let map: ConfigMap = only(FAIRWAY, "ConfigMap");
    let kubeconfig: Value = serde_saphyr::from_str(&map.data.unwrap()["kubeconfig.conf"]).unwrap();

    let read: kube::config::Kubeconfig = serde_json::from_value(kubeconfig).unwrap();

    let cluster = read.clusters[0].cluster.as_ref().unwrap();
    cluster.server.as_ref().unwrap().parse::<http::Uri>().unwrap();
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    assert_eq!(cluster.certificate_authority, Some(format!("{account}/ca.crt")));
    let user = read.auth_infos[0].auth_info.as_ref().unwrap();
    assert_eq!(user.token_file, Some(format!("{account}/token")));
}

#[test]
fn the_configuration_file_has_no_field_that_means_nothing() {
    let map: ConfigMap = only(FAIRWAY, "ConfigMap");
    let translation = file::translate(&map.data.unwrap()["config.conf"]).unwrap();
    assert_eq!((translation.unknown, translation.idle), (Vec::new(), Vec::new()));
}

/// A folder's overlay.
fn kustomization(folder: &str) -> Value {
    serde_saphyr::from_str(&text(&format!("{folder}/kustomization.yaml"))).unwrap()
}

#[test]
fn overlays_lead_to_what_is_there() {
    for folder in [".", "kubeadm"] {
        for resource in kustomization(folder)["resources"].as_array().unwrap() {
            let resource = conf().join(folder).join(resource.as_str().unwrap());
            assert!(
                resource.is_file(),
                "{folder}: {}: a folder that has the overlay in it is a cycle",
                resource.display()
            );
        }
    }
    let all = kustomization("kubeadm");
    let patch: Value = serde_saphyr::from_str(all["patches"][0]["patch"].as_str().unwrap()).unwrap();
    let set = serde_json::to_value(daemon_set()).unwrap();
    assert_eq!(patch[0]["op"], "replace");
    assert_eq!(set.pointer(patch[0]["path"].as_str().unwrap()), Some(&json!("fairway")));
}

/// What `kubectl` makes of a folder by the flags that the docs have; nothing where it is not installed, or is older than 1.21.
#[expect(clippy::disallowed_methods, reason = "a person types commands")]
fn kustomized(folder: &str, flags: &[&str]) -> Option<Vec<Value>> {
    let mut command = Command::new("kubectl");
    let output = command.arg("kustomize").args(flags).arg(conf().join(folder)).output();
    let knows = |output: &Output| !String::from_utf8_lossy(&output.stderr).contains("unknown flag");
    let Some(output) = output.ok().filter(knows) else {
        eprintln!("skipped: there is no kubectl of 1.21 or newer");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.split("\n---\n").map(|part| serde_saphyr::from_str(part).unwrap()).collect())
}

#[test]
fn kubectl_makes_of_the_overlays_what_their_page_says() {
    let config = |objects: &[Value]| -> Value {
        let set = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
        set["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"].clone()
    };
    let by_kind = |mut objects: Vec<Value>| {
        objects.sort_by_key(|object| object["kind"].to_string());
        objects
    };

    if let Some(plain) = kustomized(".", &[]) {
        assert_eq!(by_kind(plain), by_kind(objects(FAIRWAY)));
    }
    if let Some(on_kubeadm) = kustomized("kubeadm", &["--load-restrictor=LoadRestrictionsNone"]) {
        assert_eq!((on_kubeadm.len(), config(&on_kubeadm)), (objects(FAIRWAY).len(), json!("kube-proxy")));
    }
}

#[test]
fn the_conflist_that_is_installed_names_the_plugin_that_is_installed() {
    let conflist: Value = serde_json::from_str(&text(conflist::CONFLIST)).unwrap();
    assert_eq!(conflist["plugins"][0]["type"], conflist::PLUGIN);
}

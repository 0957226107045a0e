#![expect(clippy::disallowed_methods, reason = "plays others that write files")]

use std::{fs, os::unix::fs::PermissionsExt};

use tempfile::TempDir;

use super::*;
use crate::objects::ObjectName;

fn node(pod_cidrs: &[&str]) -> Node {
    Node {
        name: ObjectName { namespace: "".into(), name: "w1".into() },
        pod_cidrs: pod_cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        internal_ips: vec!["192.168.14.51".parse().unwrap()],
        external_ips: Vec::new(),
        zone: None,
        is_leaving: false,
    }
}

fn read(dir: &TempDir, name: &str) -> Value {
    serde_json::from_slice(&fs::read(dir.path().join(name)).unwrap()).unwrap()
}

#[test]
fn the_plugin_finds_pod_cidrs_and_mtu() {
    let (run, cni) = (TempDir::new().unwrap(), TempDir::new().unwrap());

    let files = Files::new(run.path(), cni.path(), true);
    files.write_facts(&node(&["10.244.1.0/24", "fd00:1::/64"]), 1450).unwrap();

    assert_eq!(read(&run, NODE_FILE), json!({"podCIDRs": ["10.244.1.0/24", "fd00:1::/64"], "mtu": 1450}));
}

#[test]
fn the_runtime_is_led_to_the_plugin() {
    let (run, cni) = (TempDir::new().unwrap(), TempDir::new().unwrap());

    Files::new(run.path(), cni.path(), true).install().unwrap();

    let conflist = read(&cni, CONFLIST);
    assert_eq!(conflist["cniVersion"], "1.0.0", "containerd before 2.0 and podman know no later one");
    assert_eq!(conflist["cniVersions"], json!(["1.0.0", "1.1.0"]), "those that do take the last");
    assert_eq!(conflist["plugins"][0]["type"], "fairway");
    assert_eq!(conflist["plugins"][0]["capabilities"]["bandwidth"], true, "or else runtimes do not say it");
}

#[test]
fn what_is_as_it_should_be_is_not_written_again() {
    let (run, cni) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let files = Files::new(run.path(), cni.path(), true);
    let node = node(&["10.244.1.0/24"]);

    assert!(files.write_facts(&node, 1500).unwrap());
    assert!(!files.write_facts(&node, 1500).unwrap());
    assert!(files.write_facts(&node, 1450).unwrap());
    assert_eq!(files.install().unwrap(), Written { plugin: false, conflist: true });
    assert_eq!(files.install().unwrap(), Written::default());
}

#[test]
fn the_runtime_s_file_is_left_out_where_it_is_not_wanted_or_nobody_would_read_it() {
    let (run, cni) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let nowhere = cni.path().join("net.d");

    assert!(!Files::new(run.path(), cni.path(), false).install().unwrap().conflist);
    assert!(!Files::new(run.path(), &nowhere, true).install().unwrap().conflist);
    assert!(!nowhere.exists());
}

/// Where a plugin comes from, and where it goes; neither is there yet.
fn plugin_in(dir: &TempDir) -> (PathBuf, PathBuf) {
    (dir.path().join("companion"), dir.path().join("opt/cni/bin"))
}

#[test]
fn the_plugin_is_installed_where_it_differs_and_nothing_else_is_touched() {
    let (run, cni, dir) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let (source, bin) = plugin_in(&dir);
    let files = Files::new(run.path(), cni.path(), true).with_plugin(&source, &bin);
    let read = |name: &str| fs::read_to_string(bin.join(name)).unwrap();
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("loopback"), "another's").unwrap();

    fs::write(&source, "one").unwrap();
    assert_eq!(files.install().unwrap(), Written { plugin: true, conflist: true });
    assert_eq!(files.install().unwrap(), Written::default());
    assert_eq!(read(PLUGIN), "one");
    fs::write(&source, "two").unwrap();
    fs::write(bin.join(".draft-1"), "of a daemon that was killed").unwrap();
    assert_eq!(files.install().unwrap(), Written { plugin: true, conflist: false });

    assert_eq!(read(PLUGIN), "two");
    assert_eq!(fs::metadata(bin.join(PLUGIN)).unwrap().permissions().mode() & 0o700, 0o700, "it can be run");
    assert_eq!(read("loopback"), "another's");
    assert_eq!(fs::read_dir(&bin).unwrap().count(), 2);
}

#[test]
fn the_runtime_is_not_led_to_a_plugin_that_could_not_be_installed() {
    let (run, cni, dir) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let (source, bin) = plugin_in(&dir);

    let error = Files::new(run.path(), cni.path(), true).with_plugin(&source, bin).install().unwrap_err();

    let said = error.to_string();
    assert!(said.contains(source.to_str().unwrap()) && said.contains("--cni-plugin"), "{said}");
    assert_eq!(fs::read_dir(cni.path()).unwrap().count(), 0);
}

#[test]
fn what_runtimes_take_before_ours_is_named() {
    let (run, cni) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for name in [
        "05-cilium.conf",
        "10-calico.conflist",
        "00-old.json",
        "10-flannel.conflist",
        "01-notes.md",
        "README",
    ] {
        fs::write(cni.path().join(name), "").unwrap();
    }

    let rivals = Files::new(run.path(), cni.path(), true).rivals().unwrap();

    assert_eq!(
        rivals,
        ["00-old.json", "05-cilium.conf", "10-calico.conflist"].map(|name| cni.path().join(name))
    );
    assert!(Files::new(run.path(), cni.path(), false).rivals().unwrap().is_empty(), "there is none of ours");
}

#[test]
fn removal_takes_both_files_leaves_the_plugin_and_may_be_repeated() {
    let (run, cni, dir) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let (source, bin) = plugin_in(&dir);
    fs::write(&source, "one").unwrap();
    let files = Files::new(run.path(), cni.path(), true).with_plugin(&source, &bin);
    files.write_facts(&node(&["10.244.1.0/24"]), 1500).unwrap();
    files.install().unwrap();

    files.remove().unwrap();
    files.remove().unwrap();

    assert_eq!(fs::read_dir(run.path()).unwrap().count() + fs::read_dir(cni.path()).unwrap().count(), 0);
    assert!(bin.join(PLUGIN).exists(), "pods that are there need it for their DEL");
}

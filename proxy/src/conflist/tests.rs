use std::fs;

use dataplane::rtnl::AddressFlags;
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

    Files::new(run.path(), cni.path(), true).write(&node(&["10.244.1.0/24", "fd00:1::/64"]), 1450).unwrap();

    assert_eq!(read(&run, NODE_FILE), json!({"podCIDRs": ["10.244.1.0/24", "fd00:1::/64"], "mtu": 1450}));
}

#[test]
fn the_runtime_is_led_to_the_plugin() {
    let (run, cni) = (TempDir::new().unwrap(), TempDir::new().unwrap());

    Files::new(run.path(), cni.path(), true).write(&node(&["10.244.1.0/24"]), 1500).unwrap();

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

    assert_eq!(files.write(&node, 1500).unwrap(), Written { node: true, conflist: true });
    assert_eq!(files.write(&node, 1500).unwrap(), Written::default());
    assert_eq!(files.write(&node, 1450).unwrap(), Written { node: true, conflist: false });
}

#[test]
fn the_runtime_s_file_is_left_out_where_it_is_not_wanted_or_nobody_would_read_it() {
    let (run, cni) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let node = node(&["10.244.1.0/24"]);
    let nowhere = cni.path().join("net.d");

    assert!(!Files::new(run.path(), cni.path(), false).write(&node, 1500).unwrap().conflist);
    assert!(!Files::new(run.path(), &nowhere, true).write(&node, 1500).unwrap().conflist);
    assert!(!nowhere.exists());
}

#[test]
fn removal_takes_both_files_and_may_be_repeated() {
    let (run, cni) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let files = Files::new(run.path(), cni.path(), true);
    files.write(&node(&["10.244.1.0/24"]), 1500).unwrap();

    files.remove().unwrap();
    files.remove().unwrap();

    assert_eq!(fs::read_dir(run.path()).unwrap().count() + fs::read_dir(cni.path()).unwrap().count(), 0);
}

#[test]
fn the_mtu_is_that_of_the_link_with_the_node_s_address() {
    let link = |index, mtu| Link {
        index,
        name: format!("eth{index}"),
        kind: None,
        mac: None,
        mtu,
        is_up: true,
        has_carrier: true,
        is_running: true,
        alias: None,
        is_promiscuous: false,
        is_allmulti: false,
        tx_queue_len: 1000,
        master: None,
        port: None,
        is_forwarding: false,
        peer: None,
        peer_netns: None,
    };
    let address =
        Address { link: 3, network: "192.168.14.51/24".parse().unwrap(), flags: AddressFlags::default() };

    assert_eq!(mtu(&node(&[]), &[address], &[link(2, 9000), link(3, 1450)]), 1450);
    assert_eq!(mtu(&node(&[]), &[], &[link(2, 9000)]), 1500);
}

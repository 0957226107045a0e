//! Pods that others see as their node, by the plugin alone and beside a daemon: real packets, and what is kept of it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays the container runtime and the daemon"
)]

mod host_ports;
mod runtime;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use dataplane::{
    nft::{Change, DataType, Key, KeyType, SetType},
    owner,
    packet::Family,
};
use host_ports::{Daemon, From, Node, claims, held_in, mapping, socket_to};
use runtime::{addresses, failure, success, traces::PATIENCE};
use serde_json::{Value, json};

/// The client outside, the node's own address, the pods' gateway and the first pod, in each family.
const ADDRESSES: [[&str; 4]; 2] = [
    ["192.168.1.2", "192.168.1.1", "10.244.1.1", "10.244.1.2"],
    ["fd01::2", "fd01::1", "fd00:10:244:1::1", "fd00:10:244:1::2"],
];

fn masqueraded(more: &Value) -> Node {
    let mut more = more.clone();
    more["ipMasq"] = json!(true);
    Node::make(&more)
}

fn bridged() -> Value {
    json!({ "mode": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasqBackend": "nftables" })
}

/// As whom somebody who listens at an address sees a pod.
fn seen(node: &Node, pod: &str, by: From<'_>, at: &str) -> String {
    let at = SocketAddr::new(at.parse::<IpAddr>().unwrap(), 80);
    let listener = node.run(by, || TcpListener::bind(at).unwrap());
    node.runtime.inside(pod, || drop(TcpStream::connect_timeout(&at, PATIENCE).unwrap()));
    listener.accept().unwrap().1.ip().to_string()
}

/// What the tables of masquerade hold.
fn held(node: &Node) -> Vec<String> {
    Family::ALL.iter().flat_map(|family| held_in(&node.runtime, owner::MASQUERADE_TABLE, *family)).collect()
}

/// What they hold for the first pod of the network.
const OF_THE_FIRST: [&str; 4] = [
    "networks: 10.244.1.2 . 10.244.1.0/24",
    "pods: 10.244.1.2",
    "networks: fd00:10:244:1::2 . fd00:10:244:1::/64",
    "pods: fd00:10:244:1::2",
];

fn check(node: &Node, pod: &str, conf: &Value, result: &Value) -> cni_plugin::Outcome {
    let mut conf = conf.clone();
    conf["prevResult"] = result.clone();
    node.runtime.call_with("CHECK", pod, &conf)
}

fn gc(node: &Node, valid: &Value) {
    success(&node.runtime.call_with(
        "GC",
        "",
        &node.runtime.conf_with(&json!({ "cni.dev/valid-attachments": valid })),
    ));
}

fn wipe(node: &Node) {
    let mut transaction = dataplane::nft::Transaction::default();
    for family in Family::ALL {
        transaction.delete(family);
    }
    socket_to(&node.runtime, owner::MASQUERADE_TABLE).commit(&transaction).unwrap();
}

fairway_lab::sandbox_tests! {
    fn what_a_pod_sends_to_elsewhere_is_seen_as_its_node_s() {
        for shape in [json!({}), bridged()] {
            let node = masqueraded(&shape);
            node.runtime.add("a");
            node.runtime.add("b");

            for [client, own, _, pod] in ADDRESSES {
                assert_eq!(seen(&node, "a", From::Outside, client), own, "{shape}");
                let other = if pod.contains(':') { "fd00:10:244:1::3" } else { "10.244.1.3" };
                assert_eq!(seen(&node, "a", From::Pod("b"), other), pod, "pods of its network see it as itself");
                assert_eq!(seen(&node, "a", From::Node, own), pod, "and so does its node");
            }
        }
    }

    fn without_ip_masq_pods_are_seen_as_themselves_and_there_is_no_table() {
        let node = Node::make(&json!({}));
        node.runtime.add("a");

        for [client, _, _, pod] in ADDRESSES {
            assert_eq!(seen(&node, "a", From::Outside, client), pod);
            assert_eq!(socket_to(&node.runtime, owner::MASQUERADE_TABLE).held(Family::Ip).unwrap(), None);
        }
    }

    fn another_network_of_the_node_is_elsewhere_too() {
        let node = masqueraded(&json!({}));
        node.runtime.add("a");
        let other = node.runtime.conf_with(&json!({ "name": "other", "ipMasq": false, "ipam": { "subnet": "10.9.0.0/24" } }));
        node.runtime.sandbox("b");
        success(&node.runtime.call_with("ADD", "b", &other));

        assert_eq!(seen(&node, "a", From::Pod("b"), "10.9.0.2"), "10.9.0.1");
        assert_eq!(seen(&node, "b", From::Pod("a"), "10.244.1.2"), "10.9.0.2", "the other one is not masqueraded");
    }

    fn host_ports_of_a_masqueraded_pod_are_as_those_of_others() {
        let node = masqueraded(&json!({}));
        node.runtime.sandbox("a");
        let conf = node.conf(&[mapping(8080, 80, "tcp")]);
        let result = success(&node.runtime.call_with("ADD", "a", &conf));

        for [client, own, gateway, pod] in ADDRESSES {
            let (to, at) = (|ip: &str| SocketAddr::new(ip.parse().unwrap(), 8080), SocketAddr::new(pod.parse().unwrap(), 80));
            assert_eq!(node.tcp(From::Outside, to(own), "a", at).unwrap().to_string(), client);
            assert_eq!(node.tcp(From::Pod("a"), to(own), "a", at).unwrap().to_string(), gateway, "itself");
            assert_eq!(seen(&node, "a", From::Outside, client), own);
        }
        success(&check(&node, "a", &conf, &result));
    }

    fn del_and_gc_leave_nothing_of_a_masquerade() {
        let node = masqueraded(&json!({}));
        let bare = json!({ "cniVersion": "1.1.0", "name": "pods" });
        node.runtime.add("a");
        assert_eq!(held(&node), OF_THE_FIRST);
        assert_eq!(claims(&node.runtime), ["masquerade-10.244.1.2", "masquerade-fd00:10:244:1::2"]);

        success(&node.runtime.call_in("DEL", "a", "", &bare));
        assert_eq!((held(&node), claims(&node.runtime)), (vec![], vec![]));

        node.runtime.add("b");
        node.runtime.add("c");
        gc(&node, &json!([{ "containerID": "c", "ifname": "eth0" }]));
        assert_eq!(held(&node).len(), 4);
        assert_eq!(claims(&node.runtime), ["masquerade-10.244.1.4", "masquerade-fd00:10:244:1::4"]);
        node.runtime.host.remove_netns("c").unwrap();
        node.wait_until_link_is_gone();
        gc(&node, &json!([{ "containerID": "c", "ifname": "eth0" }]));
        assert_eq!((held(&node), claims(&node.runtime)), (vec![], vec![]));
    }

    fn check_names_what_is_missing_of_a_masquerade_and_the_same_add_mends_it() {
        let node = masqueraded(&json!({}));
        let result = node.runtime.add("a");
        success(&check(&node, "a", &node.runtime.conf, &result));
        let damage: [(&dyn Fn(), &str); 3] = [
            (&|| wipe(&node), "table ip fairway-masquerade is missing; table ip6 fairway-masquerade is missing"),
            (
                &|| {
                    let kind = SetType { key: KeyType::Address, data: DataType::None, counter: false, dynamic: None };
                    let mut changes = dataplane::nft::Transaction::default();
                    let key = Key::Address("10.244.1.2".parse().unwrap());
                    changes.push(Family::Ip, Change::DeleteElements("pods".into(), kind, vec![key]));
                    changes.push(Family::Ip, Change::FlushChain("elsewhere".into()));
                    socket_to(&node.runtime, owner::MASQUERADE_TABLE).commit(&changes).unwrap();
                },
                "table ip fairway-masquerade: chain elsewhere lacks 3 of its rules; table ip fairway-masquerade: pods lacks 10.244.1.2",
            ),
            (
                &|| node.runtime.host.run(|| std::fs::remove_file("/run/fairway/host-ports/masquerade-10.244.1.2").unwrap()).unwrap(),
                "the masquerade of 10.244.1.2 is not claimed for it",
            ),
        ];
        for (damage, told) in damage {
            damage();
            let found = failure(&check(&node, "a", &node.runtime.conf, &result));
            assert_eq!(found, (102, format!("pod default/a: {told}")));

            success(&node.runtime.call("ADD", "a"));

            success(&check(&node, "a", &node.runtime.conf, &result));
            assert_eq!(held(&node), OF_THE_FIRST);
            assert_eq!(seen(&node, "a", From::Outside, "192.168.1.2"), "192.168.1.1");
        }
    }

    fn add_again_in_another_network_or_without_ip_masq_changes_the_masquerade() {
        let node = masqueraded(&json!({ "ipam": { "subnet": "10.244.1.0/24" } }));
        node.runtime.add("a");

        let wider = node.runtime.conf_with(&json!({ "ipam": { "subnet": "10.244.0.0/16", "rangeStart": "10.244.1.2", "gateway": "10.244.1.1" } }));
        success(&node.runtime.call_with("ADD", "a", &wider));
        assert_eq!(held(&node), ["networks: 10.244.1.2 . 10.244.0.0/16", "pods: 10.244.1.2"]);

        let without = node.runtime.conf_with(&json!({ "ipMasq": false }));
        success(&node.runtime.call_with("ADD", "a", &without));
        assert_eq!((held(&node), claims(&node.runtime)), (vec![], vec![]));
        assert_eq!(seen(&node, "a", From::Outside, "192.168.1.2"), "10.244.1.2");
    }

    fn two_pods_of_one_address_are_told_of_each_other() {
        let switch = json!({ "mode": "bridge", "bridge": "br0", "ipam": { "subnet": "10.244.1.0/24" } });
        let node = masqueraded(&switch);
        node.runtime.add("a");
        let the_same = json!({ "cni": { "ips": ["10.244.1.2"] } });
        let other = node.runtime.conf_with(&json!({ "name": "other", "bridge": "br1", "args": the_same }));
        node.runtime.sandbox("b");

        let (code, told) = failure(&node.runtime.call_with("ADD", "b", &other));

        let expected = "pod default/b: the masquerade of 10.244.1.2 is taken by pod default/a, container a, link eth0 of network pods";
        assert_eq!((code, told.as_str()), (7, expected));
        assert_eq!(held(&node), OF_THE_FIRST[..2]);
        node.runtime.host.remove_netns("a").unwrap();
        node.wait_until_link_is_gone();
        let result = success(&node.runtime.call_with("ADD", "b", &other));
        success(&check(&node, "b", &other, &result));
        assert_eq!(held(&node), OF_THE_FIRST[..2]);
    }

    fn pods_of_the_daemon_s_pod_cidrs_are_the_daemon_s_to_masquerade() {
        let node = masqueraded(&json!({}));
        let facts = json!({ "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"], "mtu": 1450 }).to_string();
        node.runtime.host.run(|| std::fs::write("/run/fairway/node.json", facts).unwrap()).unwrap();
        let of_the_daemon = node.runtime.conf_with(&json!({ "name": "cluster", "ipam": null }));
        let of_others = node.runtime.conf_with(&json!({ "name": "other", "ipam": { "subnet": "10.9.0.0/24" } }));
        for (pod, conf) in [("a", &node.runtime.conf), ("b", &of_the_daemon), ("c", &of_others)] {
            node.runtime.sandbox(pod);
            let result = success(&node.runtime.call_with("ADD", pod, conf));
            success(&check(&node, pod, conf, &result));
            let own = &addresses(&result)[0];
            let as_whom = if pod == "c" { "192.168.1.1" } else { own };
            assert_eq!(seen(&node, pod, From::Outside, "192.168.1.2"), as_whom, "{conf}");
            success(&node.runtime.call_with("DEL", pod, conf));
        }
        assert_eq!((held(&node), claims(&node.runtime)), (vec![], vec![]));
    }

    fn what_others_take_away_of_a_masquerade_the_daemon_puts_back() {
        let node = masqueraded(&json!({}));
        node.runtime.add("a");
        let daemon = Daemon::start(&node.runtime);
        daemon.says("committed");

        wipe(&node);

        let said = daemon.says("put back the masquerade of pods");
        assert!(said.contains("missing (table ip, table ip6)"), "{said}");
        assert_eq!(held(&node), OF_THE_FIRST);
        assert_eq!(seen(&node, "a", From::Outside, "192.168.1.2"), "192.168.1.1");
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

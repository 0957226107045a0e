//! Host ports by the plugin alone, with real packets: who reaches the pod, as whom, and who has which port.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays the container runtime"
)]

mod host_ports;
mod runtime;

use std::{
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use dataplane::{
    nft::Change,
    packet::{Family, Protocol},
    sysctl,
};
use fairway_lab::{sctp, wait};
use host_ports::{Daemon, From, IN_VAIN, Node, claims, held, mapping, wipe};
use runtime::{failure, success, traces::PATIENCE};
use serde_json::{Value, json};

const ADDRESSES: [(&str, &str, &str); 2] =
    [("192.168.1.1", "10.244.1.1", "10.244.1.2"), ("fd01::1", "fd00:10:244:1::1", "fd00:10:244:1::2")];

fn bridged() -> Value {
    json!({ "mode": "bridge", "bridge": "br0", "isDefaultGateway": true })
}

/// Adds a pod with these mappings, which must succeed.
fn add(node: &Node, pod: &str, mappings: &[Value]) -> Value {
    node.runtime.sandbox(pod);
    success(&node.runtime.call_with("ADD", pod, &node.conf(mappings)))
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// What everybody sees of a pod `web` with host port 8080, beside a pod `other`.
fn everybody_reaches(node: &Node, other_pod_is_seen_as: [&str; 2]) {
    add(node, "web", &[mapping(8080, 80, "tcp")]);
    add(node, "other", &[]);

    for (family, (own, gateway, pod)) in ADDRESSES.into_iter().enumerate() {
        let seen = |from, to: &str| {
            let seen = node.tcp(from, at(to, 8080), "web", at(pod, 80));
            seen.unwrap_or_else(|| panic!("{from:?} does not reach {to}")).to_string()
        };
        assert_eq!(seen(From::Outside, own), ["192.168.1.2", "fd01::2"][family], "its own address");
        assert_eq!(seen(From::Pod("other"), own), other_pod_is_seen_as[family]);
        assert_eq!(seen(From::Pod("other"), gateway), other_pod_is_seen_as[family]);
        assert_eq!(seen(From::Node, own), own);
        assert_eq!(seen(From::Pod("web"), own), gateway, "itself");
    }
    let localhost = node.tcp(From::Node, at("127.0.0.1", 8080), "web", at("10.244.1.2", 80));
    assert_eq!(localhost.unwrap().to_string(), "10.244.1.1");
    // The kernel would not route it, and a program that listens there is left alone.
    let refused = node.runtime.host.run(|| TcpStream::connect_timeout(&at("::1", 8080), IN_VAIN)).unwrap();
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

fairway_lab::sandbox_tests! {
    fn a_host_port_of_a_routed_pod_is_reached_from_everywhere() {
        everybody_reaches(&Node::make(&json!({})), ["10.244.1.3", "fd00:10:244:1::3"]);
    }

    fn a_host_port_of_a_pod_on_a_bridge_is_reached_from_everywhere() {
        let node = Node::make(&bridged());
        // An answer between pods of one bridge does not pass the node then.
        node.runtime.host.run(|| {
            for key in ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"] {
                assert!(sysctl::set_if_different(key, "0").is_ok() || sysctl::read(key).is_err());
            }
        }).unwrap();
        everybody_reaches(&node, ["10.244.1.1", "fd00:10:244:1::1"]);
    }

    fn with_br_netfilter_pods_on_a_bridge_are_seen_as_themselves() {
        let mut more = bridged();
        more["hairpinMode"] = json!(true); // the bridge itself leads what is for the pod back to it
        let node = Node::make(&more);
        if node.runtime.host.run(|| sysctl::read("net/bridge/bridge-nf-call-iptables")).unwrap().is_err() {
            println!("br_netfilter is not loaded: not tried");
            return;
        }
        everybody_reaches(&node, ["10.244.1.3", "fd00:10:244:1::3"]);
    }

    fn datagrams_and_sctp_are_led_to_the_pod_and_back() {
        let node = Node::make(&json!({}));
        add(&node, "web", &[mapping(53, 5353, "udp"), mapping(3868, 3869, "sctp")]);

        for (own, gateway, pod) in ADDRESSES {
            for (from, to) in [(From::Outside, own), (From::Node, own), (From::Pod("web"), gateway)] {
                assert_eq!(node.udp(from, at(to, 53), "web", at(pod, 5353)), Some(at(to, 53)), "{from:?}");
            }
        }
        let heard = node.runtime.inside("web", || sctp::open().unwrap());
        heard.set_read_timeout(Some(PATIENCE)).unwrap();
        let said = node.client.run(|| sctp::open().unwrap()).unwrap();
        said.send_to(&sctp::init(4_000, 3868), &at("192.168.1.1", 0).into()).unwrap();
        let mut packet = [0; 256];
        let length = std::io::Read::read(&mut &heard, &mut packet).unwrap();
        let packet = &packet[20..length]; // after the IP header
        assert_eq!((&packet[..4], sctp::is_intact(packet)), (&[4_000_u16.to_be_bytes(), 3869_u16.to_be_bytes()].concat()[..], true));
    }

    fn a_host_ip_is_served_and_no_other() {
        let node = Node::make(&json!({}));
        let on = |ip: &str, port| json!({ "hostPort": port, "containerPort": 80, "protocol": "tcp", "hostIP": ip });
        add(&node, "web", &[on("192.168.1.1", 8080), on("fd01::1", 8080), on("0.0.0.0", 8081), on("127.0.0.1", 8082)]);

        let reaches = |from, to: &str, port| node.tcp(from, at(to, port), "web", at("10.244.1.2", 80)).is_some();
        let reaches6 = |to: &str, port| node.tcp(From::Outside, at(to, port), "web", at("fd00:10:244:1::2", 80)).is_some();
        assert_eq!([reaches(From::Outside, "192.168.1.1", 8080), reaches6("fd01::1", 8080)], [true; 2]);
        assert_eq!([reaches(From::Node, "127.0.0.1", 8080), reaches(From::Pod("web"), "10.244.1.1", 8080)], [false; 2]);
        assert_eq!([reaches(From::Outside, "192.168.1.1", 8081), reaches6("fd01::1", 8081)], [true, false]);
        assert_eq!([reaches(From::Node, "127.0.0.1", 8082), reaches(From::Outside, "192.168.1.1", 8082)], [true, false]);
    }

    fn behind_another_plugin_s_link_it_is_ours_that_host_ports_lead_to() {
        let node = Node::make(&json!({}));
        node.runtime.sandbox("web");
        let mut conf = node.conf(&[mapping(8080, 80, "tcp")]);
        conf["prevResult"] = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{ "name": "net0", "sandbox": "/run/netns/web" }],
            "ips": [{ "interface": 0, "address": "172.16.0.2/24" }],
        });

        success(&node.runtime.call_with("ADD", "web", &conf));
        assert!(node.tcp(From::Outside, at("192.168.1.1", 8080), "web", at("10.244.1.2", 80)).is_some());
    }

    fn a_host_ip_of_another_host_is_left_to_it() {
        let node = Node::make(&json!({}));
        add(&node, "web", &[json!({ "hostPort": 8080, "containerPort": 80, "hostIP": "192.168.1.2" })]);
        add(&node, "other", &[]);
        let listener = node.client.run(|| TcpListener::bind("192.168.1.2:8080").unwrap()).unwrap();

        let to = at("192.168.1.2", 8080);
        let connected = node.runtime.inside("other", || TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        assert_eq!(listener.accept().unwrap().1, connected.local_addr().unwrap());
    }

    fn a_host_port_that_is_taken_is_refused_by_name() {
        let node = Node::make(&json!({}));
        add(&node, "web", &[mapping(8080, 80, "tcp")]);
        let held_by = "pod default/web, container web, link eth0 of network pods";
        node.runtime.sandbox("late");
        let refused = |mapping| failure(&node.runtime.call_with("ADD", "late", &node.conf(&[mapping])));

        assert_eq!(refused(mapping(8080, 81, "tcp")), (104, format!("pod default/late: host port 8080/tcp is taken by {held_by}")));
        let one = json!({ "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.168.1.1" });
        assert_eq!(refused(one).1, format!("pod default/late: host port 8080/tcp on 192.168.1.1 is taken by {held_by}"));
        assert_eq!(node.runtime.leases(), ["10.244.1.2", "fd00:10:244:1::2"], "nothing is left of it");
        success(&node.runtime.call_with("ADD", "late", &node.conf(&[mapping(8080, 80, "udp")])));

        success(&node.runtime.call("DEL", "web"));
        add(&node, "next", &[mapping(8080, 80, "tcp")]);
    }

    fn a_host_port_of_a_family_that_the_pod_has_not_is_an_error() {
        let node = Node::make(&json!({ "ipam": { "subnet": "10.244.1.0/24" } }));
        node.runtime.sandbox("web");
        let on = json!({ "hostPort": 8080, "containerPort": 80, "hostIP": "fd01::1" });

        let (code, told) = failure(&node.runtime.call_with("ADD", "web", &node.conf(&[on])));
        assert_eq!((code, told.as_str()), (7, "pod default/web: host port 8080/tcp on fd01::1: the pod has no address of that family"));
        assert_eq!(node.runtime.leases(), [""; 0]);
    }

    fn a_port_whose_pod_is_gone_is_given_to_the_next_who_wants_it() {
        let node = Node::make(&json!({}));
        add(&node, "web", &[mapping(8080, 80, "tcp"), mapping(8081, 81, "tcp")]);
        node.runtime.host.remove_netns("web").unwrap();
        node.wait_until_link_is_gone();

        add(&node, "next", &[mapping(8080, 80, "tcp")]);
        assert!(node.tcp(From::Outside, at("192.168.1.1", 8080), "next", at("10.244.1.3", 80)).is_some());
        success(&node.runtime.call("DEL", "web"));
        assert!(node.tcp(From::Outside, at("192.168.1.1", 8080), "next", at("10.244.1.3", 80)).is_some());
        assert_eq!(claims(&node.runtime), ["tcp-8080-ip", "tcp-8080-ip6"]);
    }

    fn del_takes_host_ports_back_without_namespace_and_configuration() {
        for more in [json!({}), bridged()] {
            let node = Node::make(&more);
            add(&node, "web", &[mapping(8080, 80, "tcp"), mapping(53, 53, "udp")]);
            node.runtime.host.remove_netns("web").unwrap();

            for _ in 0..2 {
                success(&node.runtime.call_in("DEL", "web", "", &node.runtime.conf));
                assert_eq!(claims(&node.runtime), [""; 0]);
                for family in Family::ALL {
                    assert_eq!(held(&node.runtime, family), Vec::<String>::new());
                }
            }
        }
    }

    fn an_unreadable_record_does_not_keep_host_ports_back() {
        let node = Node::make(&json!({}));
        add(&node, "web", &[mapping(8080, 80, "tcp")]);
        node.runtime.host.run(|| std::fs::write("/run/fairway/pods/owners/web@eth0", "{").unwrap()).unwrap();

        success(&node.runtime.call("DEL", "web"));
        assert_eq!((claims(&node.runtime), held(&node.runtime, Family::Ip)), (vec![], vec![]));
    }

    fn of_many_pods_that_want_one_port_one_gets_it() {
        let node = Node::make(&json!({}));
        let pods: Vec<String> = (0..12).map(|n| format!("p{n}")).collect();
        for pod in &pods {
            node.runtime.sandbox(pod);
        }
        let conf = node.conf(&[mapping(8080, 80, "tcp"), mapping(8080, 80, "udp")]);

        let add = |pod: &String| node.runtime.call_with("ADD", pod, &conf).exit_code == 0;
        let added: Vec<bool> = thread::scope(|scope| {
            let calls: Vec<_> = pods.iter().map(|pod| scope.spawn(move || add(pod))).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });

        assert_eq!(added.iter().filter(|added| **added).count(), 1);
        let winner = &pods[added.iter().position(|added| *added).unwrap()];
        let check = success(&node.runtime.call_with("ADD", winner, &conf));
        let [address, _] = runtime::addresses(&check).try_into().unwrap();
        assert!(node.tcp(From::Outside, at("192.168.1.1", 8080), winner, at(&address, 80)).is_some());
        assert_eq!(node.runtime.leases().len(), 2);
    }

    fn a_client_s_datagrams_find_whichever_pod_has_the_port() {
        let node = Node::make(&json!({}));
        let client = node.client.run(|| UdpSocket::bind("192.168.1.2:4000").unwrap()).unwrap();
        client.set_read_timeout(Some(IN_VAIN)).unwrap();
        let to = at("192.168.1.1", 53);
        add(&node, "first", &[mapping(8080, 80, "tcp")]); // from here on, the kernel tracks
        let own = node.runtime.host.run(|| UdpSocket::bind(to).unwrap()).unwrap();
        own.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send_to(b"early", to).unwrap();
        own.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(node.flows_to(Protocol::Udp, 53).len(), 1);

        for (pod, address) in [("one", "10.244.1.3"), ("two", "10.244.1.4")] {
            add(&node, pod, &[mapping(53, 5353, "udp")]);
            let server = node.runtime.inside(pod, || UdpSocket::bind(at(address, 5353)).unwrap());
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            client.send_to(pod.as_bytes(), to).unwrap();
            let mut heard = [0; 8];
            let (length, from) = server.recv_from(&mut heard).unwrap();
            assert_eq!((&heard[..length], from), (pod.as_bytes(), at("192.168.1.2", 4000)));
            success(&node.runtime.call("DEL", pod));
        }
    }

    fn datagrams_that_pass_to_the_port_of_another_host_go_on() {
        let node = Node::make(&json!({}));
        add(&node, "other", &[mapping(8080, 80, "tcp")]); // from here on, the kernel tracks
        let server = node.client.run(|| UdpSocket::bind("192.168.1.2:53").unwrap()).unwrap();
        let client = node.runtime.inside("other", || UdpSocket::bind("10.244.1.2:4000").unwrap());
        client.send_to(b"hello", at("192.168.1.2", 53)).unwrap();
        server.recv_from(&mut [0; 8]).unwrap();
        let flows = || node.flows_to(Protocol::Udp, 53);
        let before = flows();
        assert_eq!(before.len(), 1);

        add(&node, "web", &[mapping(53, 53, "udp")]);
        assert_eq!(flows(), before);
        success(&node.runtime.call("DEL", "web"));
        assert_eq!(flows(), before);
    }

    fn the_same_add_mends_host_ports_and_another_replaces_them() {
        let node = Node::make(&json!({}));
        add(&node, "web", &[mapping(8080, 80, "tcp")]);
        add(&node, "other", &[mapping(9090, 80, "tcp")]);
        let whole = Family::ALL.map(|family| held(&node.runtime, family));
        let again = |mappings: &[Value]| success(&node.runtime.call_with("ADD", "web", &node.conf(mappings)));

        wipe(&node.runtime);
        again(&[mapping(8080, 80, "tcp")]);
        assert_eq!(Family::ALL.map(|family| held(&node.runtime, family)), whole, "also the other pod's");

        again(&[mapping(8081, 80, "tcp")]);
        assert_eq!(claims(&node.runtime), ["tcp-8081-ip", "tcp-8081-ip6", "tcp-9090-ip", "tcp-9090-ip6"]);
        assert!(node.tcp(From::Outside, at("192.168.1.1", 8081), "web", at("10.244.1.2", 80)).is_some());
        again(&[]);
        success(&node.runtime.call("DEL", "other"));
        assert_eq!((claims(&node.runtime), held(&node.runtime, Family::Ip)), (vec![], vec![]));
    }

    fn an_add_again_with_other_addresses_leaves_no_host_port_to_the_earlier_ones() {
        let node = Node::make(&json!({}));
        add(&node, "web", &[mapping(8080, 80, "tcp")]);
        let mut conf = node.conf(&[mapping(8080, 80, "tcp")]);
        conf["ipam"] = json!({ "subnet": "10.244.1.0/24" });

        success(&node.runtime.call_with("ADD", "web", &conf));
        assert_eq!((claims(&node.runtime), held(&node.runtime, Family::Ip6)), (vec!["tcp-8080-ip".to_owned()], vec![]));
        success(&node.runtime.call_with("DEL", "web", &conf));
        assert_eq!((claims(&node.runtime), held(&node.runtime, Family::Ip)), (vec![], vec![]));
    }

    fn check_names_what_is_wrong_with_host_ports() {
        let node = Node::make(&json!({}));
        let result = add(&node, "web", &[mapping(8080, 80, "tcp")]);
        let mut conf = node.conf(&[mapping(8080, 80, "tcp")]);
        conf["prevResult"] = result;
        let check = || node.runtime.call_with("CHECK", "web", &conf);
        let told = || failure(&check());
        success(&check());

        node.change(Change::FlushChain("find".into()));
        assert_eq!(told(), (102, "pod default/web: table ip fairway-host-ports: chain find lacks 2 of its rules".to_owned()));
        wipe(&node.runtime);
        node.runtime.host.run(|| std::fs::remove_file("/run/fairway/host-ports/tcp-8080-ip6").unwrap()).unwrap();
        let link = node.runtime.on_host(|kernel| async move { kernel.links().await.unwrap() });
        let link = link.into_iter().find(|link| link.name.starts_with("fw")).unwrap().name;
        let key = format!("net/ipv4/conf/{link}/route_localnet");
        node.runtime.host.run(|| sysctl::set(&key, "0").unwrap()).unwrap();
        assert_eq!(
            told().1,
            format!(
                "pod default/web: host port 8080/tcp is not claimed for it; table ip fairway-host-ports is missing; \
                 table ip6 fairway-host-ports is missing; sysctl {key} on the host is 0"
            )
        );

        success(&node.runtime.call_with("ADD", "web", &node.conf(&[mapping(8080, 80, "tcp")])));
        success(&check());
    }

    fn gc_removes_host_ports_that_are_nobody_s() {
        let node = Node::make(&json!({}));
        add(&node, "web", &[mapping(8080, 80, "tcp")]);
        let kept = Family::ALL.map(|family| held(&node.runtime, family));
        add(&node, "gone", &[mapping(8081, 80, "tcp")]);
        node.runtime.host.run(|| {
            std::fs::write("/run/fairway/host-ports/tcp-99-ip", "{").unwrap();
            std::fs::remove_file("/run/fairway/host-ports/tcp-8081-ip").unwrap(); // and its element is nobody's
        }).unwrap();
        let valid = json!({ "cni.dev/valid-attachments": [{ "containerID": "web", "ifname": "eth0" }] });

        success(&node.runtime.call_with("GC", "", &node.runtime.conf_with(&valid)));
        assert_eq!(claims(&node.runtime), ["tcp-8080-ip", "tcp-8080-ip6"]);
        assert_eq!(Family::ALL.map(|family| held(&node.runtime, family)), kept);
    }

    fn a_service_comes_first_where_both_want_a_port() {
        let node = Node::make(&json!({}));
        add(&node, "web", &[mapping(8080, 80, "tcp"), mapping(8081, 80, "tcp")]);
        add(&node, "endpoint", &[]);
        node.serve(8080, at("10.244.1.3", 80));

        let asked = |port, pod, address| node.tcp(From::Outside, at("192.168.1.1", port), pod, at(address, 80));
        assert!(asked(8080, "endpoint", "10.244.1.3").is_some());
        assert!(asked(8081, "web", "10.244.1.2").is_some());
    }

    fn what_others_take_away_the_daemon_puts_back() {
        let node = Node::make(&json!({}));
        let daemon = Daemon::start(&node.runtime);
        daemon.says("committed");
        add(&node, "web", &[mapping(8080, 80, "tcp"), mapping(53, 5353, "udp")]);
        add(&node, "other", &[mapping(8081, 80, "tcp")]);
        success(&node.runtime.call("DEL", "other"));
        let held = || Family::ALL.map(|family| held(&node.runtime, family));
        let whole = held();

        wipe(&node.runtime);
        let said = daemon.says("put back host ports");
        assert!(said.contains("found=2 missing (table ip, table ip6)") && said.contains("repairs=1"), "{said}");
        assert!(!said.contains("our tables"), "{said}");
        assert_eq!(held(), whole);

        node.change(Change::FlushChain("find".into()));
        let said = daemon.says("put back host ports");
        assert!(said.contains("found=1 missing (ip rules of find)") && said.contains("repairs=2"), "{said}");
        assert!(node.tcp(From::Outside, at("192.168.1.1", 8080), "web", at("10.244.1.2", 80)).is_some());
    }

    fn the_daemon_puts_host_ports_back_after_nft_flush_ruleset() {
        let node = Node::make(&json!({}));
        if std::process::Command::new("nft").arg("--version").output().is_err() {
            println!("nft is not installed: not tried");
            return;
        }
        let daemon = Daemon::start(&node.runtime);
        daemon.says("committed");
        add(&node, "web", &[mapping(53, 5353, "udp")]);
        let client = node.client.run(|| UdpSocket::bind("192.168.1.2:4000").unwrap()).unwrap();

        let flush = || std::process::Command::new("nft").args(["flush", "ruleset"]).status().unwrap();
        assert!(node.runtime.host.run(flush).unwrap().success());
        client.send_to(b"meanwhile", at("192.168.1.1", 53)).unwrap(); // perhaps tracked as the node's own
        daemon.says("put back host ports");
        // The kernel begins to track anew with the tables: what is on its way just then may be lost, and is sent again.
        let answer = wait::until("the pod answers", || {
            let answer = node.udp(From::Outside, at("192.168.1.1", 53), "web", at("10.244.1.2", 5353));
            answer.ok_or_else(|| "it does not".to_owned())
        });
        assert_eq!(answer.unwrap(), at("192.168.1.1", 53));
    }

    fn what_was_taken_away_while_there_was_no_daemon_is_put_back_when_there_is_one() {
        let node = Node::make(&json!({}));
        add(&node, "web", &[mapping(8080, 80, "tcp")]);
        wipe(&node.runtime);

        let daemon = Daemon::start(&node.runtime);
        daemon.says("put back host ports");
        assert!(node.tcp(From::Outside, at("192.168.1.1", 8080), "web", at("10.244.1.2", 80)).is_some());
    }

    fn a_client_that_called_while_host_ports_were_missing_finds_the_pod_again() {
        let node = Node::make(&json!({}));
        add(&node, "web", &[mapping(53, 5353, "udp")]);
        node.serve(8080, at("10.244.1.2", 80)); // so that the kernel goes on tracking
        wipe(&node.runtime);
        let client = node.client.run(|| UdpSocket::bind("192.168.1.2:4000").unwrap()).unwrap();
        client.send_to(b"early", at("192.168.1.1", 53)).unwrap();
        wait::until("the flow is tracked", || {
            if node.flows_to(Protocol::Udp, 53).is_empty() { Err("it is not".to_owned()) } else { Ok(()) }
        }).unwrap();

        let daemon = Daemon::start(&node.runtime);
        daemon.says("put back host ports");
        let server = node.runtime.inside("web", || UdpSocket::bind("10.244.1.2:5353").unwrap());
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send_to(b"now", at("192.168.1.1", 53)).unwrap();
        let mut heard = [0; 8];
        let (length, _) = server.recv_from(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"now");
    }

    fn what_could_not_be_put_back_is_tried_again() {
        let node = Node::make(&json!({}));
        add(&node, "web", &[mapping(8080, 80, "tcp")]);
        let lock = "/run/fairway/host-ports/lock";
        node.runtime.host.run(|| std::fs::remove_file(lock).and_then(|()| std::fs::create_dir(lock)).unwrap()).unwrap();
        wipe(&node.runtime);

        let daemon = Daemon::start(&node.runtime);
        daemon.says("host ports are not looked after");
        node.runtime.host.run(|| std::fs::remove_dir(lock).unwrap()).unwrap();
        daemon.says("put back host ports");
    }

    fn a_pod_without_host_ports_makes_nothing_of_theirs() {
        let node = Node::make(&json!({}));
        add(&node, "plain", &[json!({ "hostPort": 0, "containerPort": 80 })]);
        success(&node.runtime.call("DEL", "plain"));

        assert!(!node.runtime.host.run(|| std::path::Path::new("/run/fairway/host-ports").exists()).unwrap());
        assert!(Family::ALL.into_iter().all(|family| node.chains(family).is_none()));
    }

    fn tables_of_others_and_what_others_put_into_ours_do_not_last() {
        let node = Node::make(&json!({}));
        add(&node, "web", &[mapping(8080, 80, "tcp")]);
        let chains = node.chains(Family::Ip);
        node.change(Change::AddChain("foreign".into(), None));
        assert_ne!(node.chains(Family::Ip), chains);

        success(&node.runtime.call_with("ADD", "web", &node.conf(&[mapping(8080, 80, "tcp")])));
        assert_eq!(node.chains(Family::Ip), chains);
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

//! What services promise, as pods, nodes and strangers see it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod start;

use std::net::IpAddr;

use fairway_lab::{
    answer::{Answer, is_in_turn, names},
    binaries,
    cluster::{Cluster, OUTSIDE},
    lesson::{self, BACKENDS, SERVICE_URL, STICKY_URL},
    manifest::{Object, ObjectName, parse},
};

/// `myweb-service` from outside, through the node that runs none of its pods, and through the others.
const NODE_PORT_URLS: [&str; 3] =
    ["http://192.168.14.50:30632/", "http://192.168.14.51:30632/", "http://192.168.14.52:30632/"];

fn objects(text: &str) -> Vec<Object> {
    parse("test.yaml", text).unwrap()
}

fn service(name: &str, rest: &str) -> Vec<Object> {
    objects(&format!("{{kind: Service, apiVersion: v1, metadata: {{name: {name}}}, spec: {{{rest}}}}}"))
}

fn pod(name: &str, app: &str, node: &str) -> Vec<Object> {
    objects(&format!(
        "{{kind: Pod, apiVersion: v1, metadata: {{name: {name}, labels: {{app: {app}}}}}, spec: {{nodeName: {node}, \
         containers: [{{name: web, image: nginx, ports: [{{containerPort: 80}}]}}]}}}}"
    ))
}

fn named(kind: &str, name: &str) -> [ObjectName; 1] {
    [ObjectName { kind: kind.into(), namespace: "default".into(), name: name.into() }]
}

fn address_of(cluster: &Cluster, pod: &str) -> IpAddr {
    cluster.pod(pod).unwrap().addresses()[0]
}

fairway_lab::sandbox_tests! {
    fn twelve_connections_to_three_backends_are_answered_in_strict_turn() {
        let cluster = start::lesson();

        for from in ["apache-pod", "nginx-pod2", "m", "w1"] {
            let answers = cluster.ask_times(12, from, SERVICE_URL).unwrap();
            assert!(is_in_turn(&answers, 3), "from {from}: {:?}", names(&answers));
        }
    }

    fn a_pod_s_own_address_is_seen_behind_a_cluster_ip() {
        let cluster = start::lesson();

        let answers = cluster.ask_times(3, "apache-pod", SERVICE_URL).unwrap();

        for answer in answers {
            assert_eq!(answer.client.ip(), address_of(&cluster, "apache-pod"), "{answer}");
        }
    }

    fn a_pod_reaches_itself_through_its_service_under_another_address() {
        let cluster = start::lesson();

        cluster.await_backends("nginx-pod", SERVICE_URL, &BACKENDS).unwrap();
        let answers = cluster.ask_times(3, "nginx-pod", SERVICE_URL).unwrap();

        let own = address_of(&cluster, "nginx-pod");
        let itself = answers.iter().find(|answer| answer.name == "nginx-pod").unwrap();
        assert_ne!(itself.client.ip(), own, "{itself}");
        assert!(answers.iter().all(|a| a.name == "nginx-pod" || a.client.ip() == own), "{answers:?}");
    }

    fn a_node_port_answers_strangers_in_strict_turn_on_every_node() {
        let mut cluster = start::lesson();

        cluster.apply(lesson::node_port().unwrap()).unwrap();

        for url in NODE_PORT_URLS {
            cluster.await_backends(OUTSIDE, url, &BACKENDS).unwrap();
            let answers = cluster.ask_times(6, OUTSIDE, url).unwrap();
            assert!(is_in_turn(&answers, 3), "{url}: {:?}", names(&answers));
        }
    }

    fn a_stranger_is_seen_behind_a_node_port_as_the_node() {
        let mut cluster = start::lesson();
        cluster.apply(lesson::node_port().unwrap()).unwrap();
        cluster.await_backends(OUTSIDE, NODE_PORT_URLS[0], &BACKENDS).unwrap();

        let answers = cluster.ask_times(3, OUTSIDE, NODE_PORT_URLS[0]).unwrap();

        for answer in answers {
            assert_eq!(answer.client.ip(), "192.168.14.50".parse::<IpAddr>().unwrap(), "{answer}");
        }
    }

    fn a_node_port_and_the_cluster_ip_share_one_rotation() {
        let mut cluster = start::lesson();
        cluster.apply(lesson::node_port().unwrap()).unwrap();
        cluster.await_backends("w1", NODE_PORT_URLS[1], &BACKENDS).unwrap();

        let urls = [SERVICE_URL, NODE_PORT_URLS[1]].into_iter().cycle().take(6);
        let answers: Vec<Answer> = urls.map(|url| cluster.ask("w1", url).unwrap()).collect();

        assert!(is_in_turn(&answers, 3), "{:?}", names(&answers));
    }

    fn a_node_port_taken_back_is_closed_and_the_cluster_ip_stays() {
        let mut cluster = start::lesson();
        cluster.apply(lesson::node_port().unwrap()).unwrap();
        cluster.await_backends(OUTSIDE, NODE_PORT_URLS[0], &BACKENDS).unwrap();

        let before = lesson::objects().unwrap().into_iter().filter(|object| object.name.kind == "Service");
        cluster.apply(before.collect()).unwrap();

        cluster.await_refusal(OUTSIDE, NODE_PORT_URLS[0]).unwrap();
        let answers = cluster.ask_times(6, "apache-pod", SERVICE_URL).unwrap();
        assert!(is_in_turn(&answers, 3), "{:?}", names(&answers));
    }

    fn datagrams_take_turns_too() {
        let mut cluster = start::lesson();
        cluster
            .apply(service(
                "dns",
                "clusterIP: 10.96.0.10, selector: {app: myweb}, ports: [{name: dns, protocol: UDP, port: 53, targetPort: dns}]",
            ))
            .unwrap();
        let ask = || cluster.ask_udp("apache-pod", "10.96.0.10:53");
        fairway_lab::wait::until("a datagram to be answered", || ask().map_err(|e| e.to_string())).unwrap();

        let answers: Vec<Answer> = (0..6).map(|_| ask().unwrap()).collect();

        assert!(is_in_turn(&answers, 3), "{:?}", names(&answers));
    }

    fn a_service_without_endpoints_refuses_at_once() {
        let mut cluster = start::lesson();

        cluster
            .apply(service("empty", "clusterIP: 10.96.0.99, selector: {app: nobody}, ports: [{port: 80}]"))
            .unwrap();

        for from in ["apache-pod", "w2"] {
            cluster.await_refusal(from, "http://10.96.0.99/").unwrap();
        }
    }

    fn a_service_whose_last_endpoint_goes_refuses_until_another_comes() {
        let mut cluster = start::lesson();
        cluster.apply(pod("late", "late", "w2")).unwrap();
        cluster
            .apply(service("late", "clusterIP: 10.96.0.98, selector: {app: late}, ports: [{port: 80}]"))
            .unwrap();
        cluster.await_backends("apache-pod", "http://10.96.0.98/", &["late"]).unwrap();

        cluster.delete(&named("Pod", "late")).unwrap();
        cluster.await_refusal("apache-pod", "http://10.96.0.98/").unwrap();

        cluster.apply(pod("later", "late", "w1")).unwrap();
        cluster.await_backends("apache-pod", "http://10.96.0.98/", &["later"]).unwrap();
    }

    fn endpoints_join_and_leave_the_turn() {
        let mut cluster = start::lesson();

        cluster.apply(pod("nginx-pod4", "myweb", "w1")).unwrap();
        let four = ["nginx-pod", "nginx-pod2", "nginx-pod3", "nginx-pod4"];
        cluster.await_backends("apache-pod", SERVICE_URL, &four).unwrap();
        let answers = cluster.ask_times(8, "apache-pod", SERVICE_URL).unwrap();
        assert!(is_in_turn(&answers, 4), "{:?}", names(&answers));

        cluster.delete(&named("Pod", "nginx-pod2")).unwrap();
        let three = ["nginx-pod", "nginx-pod3", "nginx-pod4"];
        cluster.await_backends("apache-pod", SERVICE_URL, &three).unwrap();
        let answers = cluster.ask_times(6, "apache-pod", SERVICE_URL).unwrap();
        assert!(is_in_turn(&answers, 3), "{:?}", names(&answers));
    }

    fn a_pod_with_another_label_changes_services() {
        let mut cluster = start::lesson();

        cluster.apply(pod("nginx-pod3", "other", "w2")).unwrap();

        cluster.await_backends("apache-pod", SERVICE_URL, &["nginx-pod", "nginx-pod2"]).unwrap();
    }

    fn an_edited_port_moves_and_another_service_keeps_its_turn() {
        let mut cluster = start::lesson();
        let other = |port| {
            let rest = format!("clusterIP: 10.96.0.97, selector: {{app: myweb}}, ports: [{{port: {port}, targetPort: 80}}]");
            service("other", &rest)
        };
        cluster.apply(other(81)).unwrap();
        cluster.await_backends("apache-pod", "http://10.96.0.97:81/", &BACKENDS).unwrap();

        // One connection between any two changes: a rotation that began anew would show.
        let mut answers = Vec::new();
        for port in [82, 83, 84, 85] {
            answers.push(cluster.ask("apache-pod", SERVICE_URL).unwrap());
            cluster.apply(other(port)).unwrap();
            let url = format!("http://10.96.0.97:{port}/");
            cluster.await_backends("apache-pod", &url, &BACKENDS).unwrap();
        }

        answers.extend(cluster.ask_times(2, "apache-pod", SERVICE_URL).unwrap());
        assert!(is_in_turn(&answers, 3), "{:?}", names(&answers));
        assert!(cluster.ask("apache-pod", "http://10.96.0.97:81/").is_err());
    }

    fn a_sticky_service_keeps_each_client_where_it_was() {
        let mut cluster = start::lesson();
        cluster.apply(lesson::sticky().unwrap()).unwrap();

        for from in ["apache-pod", "pair-pod", "nginx-pod2", "m"] {
            let first = cluster.await_answer(from, STICKY_URL).unwrap();
            let answers = cluster.ask_times(6, from, STICKY_URL).unwrap();
            assert!(answers.iter().all(|answer| answer.name == first.name), "{first}; then {answers:?}");
        }
    }

    fn clients_of_a_sticky_service_are_spread() {
        let mut cluster = start::lesson();
        cluster.apply(lesson::sticky().unwrap()).unwrap();

        // All on w1, so that one node's rotation deals them out.
        let clients = ["apache-pod", "nginx-pod", "pair-pod"];
        let mut met: Vec<String> =
            clients.iter().map(|from| cluster.await_answer(from, STICKY_URL).unwrap().name).collect();

        met.sort_unstable();
        assert_eq!(met, BACKENDS);
    }

    fn both_families_take_turns() {
        let text = include_str!("../../conf/lab/dual-stack.yaml");
        let cluster = Cluster::start(binaries::built().unwrap(), objects(text)).unwrap();

        let outside_v6 = "http://[fd00:192:168:14::51]:30080/";
        for (from, url) in [
            ("client", "http://10.96.0.80/"),
            ("client", "http://[fd00:10:96::80]/"),
            (OUTSIDE, "http://192.168.14.51:30080/"),
            (OUTSIDE, outside_v6),
        ] {
            cluster.await_backends(from, url, &["web1", "web2"]).unwrap();
            let answers = cluster.ask_times(6, from, url).unwrap();
            assert!(is_in_turn(&answers, 2), "{url}: {:?}", names(&answers));
        }
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

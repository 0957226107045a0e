//! What pods get from the plugin, as they and their nodes see it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, net::IpAddr};

use fairway_lab::{
    binaries,
    cluster::Cluster,
    host::Host,
    lesson,
    manifest::{Object, ObjectName, parse},
    wait,
};

fn lesson() -> Cluster {
    Cluster::start(binaries::built().unwrap(), lesson::objects().unwrap()).unwrap()
}

fn address_of(cluster: &Cluster, pod: &str) -> IpAddr {
    *cluster.pod(pod).unwrap().addresses().first().unwrap()
}

fn passing_pod() -> Vec<Object> {
    let text = "{kind: Pod, apiVersion: v1, metadata: {name: passing}, spec: {nodeName: w2, \
                containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}}";
    parse("test.yaml", text).unwrap()
}

/// Everything a pod could leave on its host: links, routes, namespaces, files.
fn traces(host: &Host) -> Vec<String> {
    let look = || {
        // Counters follow the name of a link, flags the destination of a route.
        let mut seen: Vec<String> = [("dev", 1), ("route", 2)]
            .iter()
            .flat_map(|(table, words)| {
                let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
                let firsts = |line: &str| line.split_whitespace().take(*words).collect::<Vec<_>>().join(" ");
                text.lines().map(firsts).collect::<Vec<_>>()
            })
            .collect();
        seen.extend(files_below("/run/netns"));
        // Whose turn it is outlives the pods.
        let is_of_pods = |file: &String| !file.contains("/last/") && !file.contains("/freed/");
        seen.extend(files_below("/run/fairway").into_iter().filter(is_of_pods));
        seen.sort();
        seen
    };
    host.run(look).unwrap()
}

fn files_below(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| {
            let path = entry.path().display().to_string();
            if entry.path().is_dir() { files_below(&path) } else { vec![path] }
        })
        .collect()
}

fairway_lab::sandbox_tests! {
    fn each_pod_reaches_each_other_under_its_own_address() {
        let cluster = lesson();
        let pods = ["apache-pod", "nginx-pod", "nginx-pod2", "nginx-pod3"];

        for from in pods {
            for to in pods.into_iter().filter(|to| *to != from) {
                let answer = cluster.await_answer(from, to).unwrap();

                assert_eq!(answer.name, to);
                assert_eq!(answer.client.ip(), address_of(&cluster, from), "{answer}");
                assert_eq!(answer.address.ip(), address_of(&cluster, to), "{answer}");
            }
        }
    }

    fn every_node_reaches_every_pod() {
        let cluster = lesson();

        for from in ["m", "w1", "w2"] {
            for to in ["nginx-pod", "nginx-pod2"] {
                assert_eq!(cluster.await_answer(from, to).unwrap().name, to);
            }
        }
    }

    fn the_containers_of_a_pod_share_its_address_and_its_localhost() {
        let cluster = lesson();
        let own = address_of(&cluster, "pair-pod");

        for (port, container) in [(80, "pair-pod/web"), (8080, "pair-pod/admin")] {
            let inside = cluster.ask("pair-pod", &format!("http://127.0.0.1:{port}/")).unwrap();
            let outside = cluster.ask("apache-pod", &format!("http://{own}:{port}/")).unwrap();

            assert_eq!((inside.name.as_str(), outside.name.as_str()), (container, container));
        }
    }

    fn addresses_come_from_the_pod_s_node_and_are_given_once() {
        let cluster = lesson();
        let mut addresses: Vec<IpAddr> = Vec::new();

        for pod in cluster.pods() {
            let node = cluster.node(pod.host().name()).unwrap();
            let cidrs = &node.manifest().spec.pod_cidrs;
            assert!(pod.addresses().iter().all(|ip| cidrs.iter().any(|cidr| cidr.contains(*ip))), "{}", pod.key());
            addresses.extend(pod.addresses());
        }

        let given = addresses.len();
        addresses.sort();
        addresses.dedup();
        assert_eq!((addresses.len(), given), (5, 5));
    }

    fn a_pod_without_a_node_goes_to_a_worker() {
        let cluster = lesson();

        assert!(["w1", "w2"].contains(&cluster.pod("pair-pod").unwrap().host().name()));
    }

    fn the_plugin_finds_its_pods_as_it_made_them() {
        for pod in lesson().pods() {
            pod.check().unwrap();
        }
    }

    fn a_pod_that_cannot_start_says_why_and_leaves_nothing() {
        let mut cluster = lesson();
        let host = cluster.node("w2").unwrap().host().clone();
        let before = traces(&host);
        let text = "{kind: Pod, apiVersion: v1, metadata: {name: broken}, spec: {nodeName: w2, \
                    containers: [{name: web, command: [/no/such/program]}]}}";

        let error = cluster.apply(parse("test.yaml", text).unwrap()).unwrap_err();

        assert_eq!(error.to_string(), "pod default/broken: start container web");
        assert!(cluster.pod("broken").is_none());
        assert_eq!(traces(&host), before);
    }

    fn what_a_container_has_started_ends_with_its_pod() {
        let mut cluster = lesson();
        let text = "{kind: Pod, metadata: {name: busy}, spec: {containers: [{name: c, command: [sh, -c, sleep 7777 & wait]}]}}";
        let running = || {
            let commands = fs::read_dir("/proc").unwrap().flatten();
            let commands = commands.map(|process| fs::read_to_string(process.path().join("cmdline")).unwrap_or_default());
            commands.filter(|command| command == "sleep\x007777\0").count()
        };
        cluster.apply(parse("test.yaml", text).unwrap()).unwrap();
        wait::until("the program to run", || if running() == 1 { Ok(()) } else { Err(running().to_string()) }).unwrap();

        cluster.delete(&[parse("test.yaml", text).unwrap().remove(0).name]).unwrap();

        wait::until("it to end", || if running() == 0 { Ok(()) } else { Err(running().to_string()) }).unwrap();
    }

    fn a_pod_that_goes_leaves_nothing_on_its_node() {
        let mut cluster = lesson();
        let host = cluster.node("w2").unwrap().host().clone();
        let before = traces(&host);

        cluster.apply(passing_pod()).unwrap();
        cluster.await_answer("apache-pod", "passing").unwrap();
        assert_ne!(traces(&host), before);
        let name = ObjectName { kind: "Pod".into(), namespace: "default".into(), name: "passing".into() };
        cluster.delete(&[name]).unwrap();

        assert_eq!(traces(&host), before);
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

//! How connections are spread over a service's endpoints, by annotation of the service, as clients see it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod start;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use fairway_lab::{
    answer::{Answer, is_in_turn, names},
    binaries,
    cluster::{Cluster, OUTSIDE},
    lesson::BACKENDS,
    manifest::{Object, parse},
    wait,
};

/// The service under test, by its cluster IP and by a node port of each node.
const URL: &str = "http://10.96.0.60/";
const NODE_PORT_URLS: [&str; 3] =
    ["http://192.168.14.50:30060/", "http://192.168.14.51:30060/", "http://192.168.14.52:30060/"];

/// The service in front of the lesson's three backends, with these annotations and whatever else its spec says.
fn spread(annotations: &str, rest: &str) -> Vec<Object> {
    let spec = format!(
        "{{clusterIP: 10.96.0.60, type: NodePort, selector: {{app: myweb}}, ports: [{{port: 80, nodePort: 30060}}]{rest}}}"
    );
    let service = format!(
        "{{kind: Service, apiVersion: v1, metadata: {{name: spread, annotations: {{{annotations}}}}}, spec: {spec}}}"
    );
    parse("test.yaml", &service).unwrap()
}

fn balanced(by: &str) -> Vec<Object> {
    spread(&format!("fairway.dev/balancing: {by}"), "")
}

fn weighed(weights: &str) -> Vec<Object> {
    spread(&format!("fairway.dev/weights: \"{weights}\""), "")
}

/// How often each backend has answered.
fn counts(answers: &[Answer]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for name in names(answers) {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// Waits until a round of connections from a pod is spread like this.
fn await_round(cluster: &Cluster, shares: &[(&str, usize)]) {
    let wanted: BTreeMap<_, _> = shares.iter().copied().collect();
    wait::until("a round as weighed", || {
        let answers =
            cluster.ask_times(wanted.values().sum(), "apache-pod", URL).map_err(|e| e.to_string())?;
        if counts(&answers) == wanted { Ok(()) } else { Err(format!("{:?}", names(&answers))) }
    })
    .unwrap();
}

/// Waits until a client is answered by one and the same backend, whichever node it asks; says which.
fn await_one(cluster: &Cluster, from: &str, urls: &[&str]) -> String {
    wait::until("the same backend everywhere", || {
        let ask = |url: &&str| cluster.ask_times(4, from, url).map_err(|e| e.to_string());
        let answers: Vec<_> = urls.iter().map(ask).collect::<Result<_, _>>()?;
        match counts(&answers.concat()).into_keys().collect::<Vec<_>>()[..] {
            [one] => Ok(one.to_owned()),
            ref several => Err(several.join(", ")),
        }
    })
    .unwrap()
}

fairway_lab::sandbox_tests! {
    fn weights_are_exact_over_each_round() {
        let mut cluster = start::lesson();
        cluster.apply(weighed("nginx-pod2=3")).unwrap();
        await_round(&cluster, &[("nginx-pod", 1), ("nginx-pod2", 3), ("nginx-pod3", 1)]);

        let answers = cluster.ask_times(20, "apache-pod", URL).unwrap();

        for round in answers.windows(5) {
            let counts = counts(round);
            assert_eq!((counts["nginx-pod"], counts["nginx-pod2"], counts["nginx-pod3"]), (1, 3, 1), "{answers:?}");
        }
    }

    fn weights_by_address_count_and_without_weight_come_no_connections() {
        let mut cluster = start::lesson();
        let address = cluster.pod("nginx-pod3").unwrap().addresses()[0];

        cluster.apply(weighed(&format!("nginx-pod=0, {address}=2"))).unwrap();

        await_round(&cluster, &[("nginx-pod2", 1), ("nginx-pod3", 2)]);
        let answers = cluster.ask_times(12, "apache-pod", URL).unwrap();
        assert_eq!(counts(&answers), BTreeMap::from([("nginx-pod2", 4), ("nginx-pod3", 8)]));
    }

    fn at_random_every_backend_is_met_in_no_order() {
        let mut cluster = start::lesson();
        cluster.apply(balanced("random")).unwrap();
        cluster.await_answer("apache-pod", URL).unwrap();

        let answers = cluster.ask_times(90, "apache-pod", URL).unwrap();

        assert_eq!(counts(&answers).into_keys().collect::<Vec<_>>(), BACKENDS);
        assert!(!is_in_turn(&answers, 3), "{:?}", names(&answers));
    }

    fn by_source_hash_a_client_meets_the_same_backend_on_every_node() {
        let mut cluster = start::lesson();
        cluster.apply(balanced("source-hash")).unwrap();

        await_one(&cluster, OUTSIDE, &NODE_PORT_URLS);
        // Pods are seen under their own address, so their node makes no difference either.
        let clients = ["apache-pod", "pair-pod", "nginx-pod2", "nginx-pod3"];
        let met: BTreeSet<_> = clients.map(|from| await_one(&cluster, from, &[URL])).into();
        assert!(met.len() > 1, "all clients meet {met:?}");
    }

    fn by_source_hash_an_endpoint_that_leaves_takes_only_its_own_clients_along() {
        let mut cluster = start::lesson();
        cluster.apply(balanced("source-hash")).unwrap();
        let clients = [OUTSIDE, "apache-pod", "pair-pod", "m", "w1", "w2"];
        let url = |from: &str| if from == OUTSIDE { NODE_PORT_URLS[0] } else { URL };
        let meet = |cluster: &Cluster| clients.map(|from| await_one(cluster, from, &[url(from)]));
        let before = meet(&cluster);

        let left = before[0].clone();
        cluster.delete(&[fairway_lab::manifest::ObjectName {
            kind: "Pod".into(),
            namespace: "default".into(),
            name: left.clone(),
        }])
        .unwrap();
        wait::until("the client to move", || match cluster.ask(OUTSIDE, NODE_PORT_URLS[0]) {
            Ok(answer) if answer.name != left => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .unwrap();

        for ((from, before), after) in clients.into_iter().zip(before).zip(meet(&cluster)) {
            assert!(after == before || before == left, "{from} moved from {before} to {after}, but {left} left");
        }
    }

    fn by_source_hash_a_sticky_client_s_first_choice_is_its_hash_s() {
        let mut cluster = start::lesson();
        cluster.apply(balanced("source-hash")).unwrap();
        let chosen = await_one(&cluster, OUTSIDE, &NODE_PORT_URLS);

        cluster.apply(spread("fairway.dev/balancing: source-hash", ", sessionAffinity: ClientIP")).unwrap();

        assert_eq!(await_one(&cluster, OUTSIDE, &NODE_PORT_URLS), chosen);
    }

    fn both_families_are_hashed() {
        let text = include_str!("../../conf/lab/dual-stack.yaml");
        let hashed = |object: &str| object.replace("name: web\n", "name: web\n  annotations: {fairway.dev/balancing: source-hash}\n");
        let text: Vec<_> = text.split("---\n").map(|o| if o.contains("kind: Service") { hashed(o) } else { o.to_owned() }).collect();
        let cluster = Cluster::start(binaries::built().unwrap(), parse("test.yaml", &text.join("---\n")).unwrap()).unwrap();

        for urls in [
            ["http://192.168.14.51:30080/", "http://192.168.14.52:30080/"],
            ["http://[fd00:192:168:14::51]:30080/", "http://[fd00:192:168:14::52]:30080/"],
        ] {
            await_one(&cluster, OUTSIDE, &urls);
        }
    }

    fn a_service_is_balanced_otherwise_under_load_and_no_connection_fails() {
        let mut cluster = start::lesson();
        cluster.apply(balanced("round-robin")).unwrap();
        cluster.await_backends("apache-pod", URL, &BACKENDS).unwrap();
        let asker = cluster.asker("apache-pod", URL).unwrap();
        let is_over = AtomicBool::new(false);

        let asked = thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut asked = 0_u32;
                while !is_over.load(Ordering::Relaxed) {
                    asker.ask().unwrap();
                    asked += 1;
                }
                asked
            });
            for _ in 0..3 {
                cluster.apply(balanced("source-hash")).unwrap();
                await_one(&cluster, "pair-pod", &[URL]);
                cluster.apply(weighed("nginx-pod=4")).unwrap();
                await_heavy(&cluster, "nginx-pod");
                cluster.apply(balanced("random")).unwrap();
                cluster.apply(spread("fairway.dev/balancing: source-hash", ", sessionAffinity: ClientIP")).unwrap();
                await_one(&cluster, "pair-pod", &[URL]);
            }
            is_over.store(true, Ordering::Relaxed);
            asking.join().unwrap()
        });

        assert!(asked > 100, "only {asked} connections");
    }
}

/// Waits until a backend answers most of a pod's connections, but not all, whoever else connects meanwhile.
fn await_heavy(cluster: &Cluster, name: &str) {
    wait::until("one to have most turns", || {
        let answers = cluster.ask_times(12, "pair-pod", URL).map_err(|e| e.to_string())?;
        let counts = counts(&answers);
        let turns = counts.get(name).copied().unwrap_or(0);
        if turns >= 6 && counts.len() > 1 { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .unwrap();
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

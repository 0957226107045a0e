//! A lab whose daemons follow an API server: the same cluster as by files.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use fairway_lab::{
    binaries,
    cluster::{Cluster, OUTSIDE, Source},
    lesson::{self, BACKENDS, SERVICE_URL},
    manifest::ObjectName,
    node::MANIFESTS,
};

fn named(kind: &str, name: &str) -> [ObjectName; 1] {
    [ObjectName { kind: kind.into(), namespace: "default".into(), name: name.into() }]
}

fairway_lab::sandbox_tests! {
    fn daemons_that_follow_an_api_server_serve_what_the_cluster_has() {
        let objects = lesson::objects().unwrap();

        let mut cluster = Cluster::start_on(binaries::built().unwrap(), objects, Source::Api, &[]).unwrap();
        cluster.await_backends("apache-pod", SERVICE_URL, &BACKENDS).unwrap();
        cluster.apply(lesson::node_port().unwrap()).unwrap();
        cluster.await_backends(OUTSIDE, "http://192.168.14.50:30632/", &BACKENDS).unwrap();
        let [gone, left @ ..] = BACKENDS;
        cluster.delete(&named("Pod", gone)).unwrap();
        cluster.await_backends(OUTSIDE, "http://192.168.14.50:30632/", &left).unwrap();
        cluster.delete(&named("Service", "myweb-service")).unwrap();
        cluster.await_refusal(OUTSIDE, "http://192.168.14.50:30632/").unwrap();

        let double = cluster.api_server().unwrap().double();
        for node in cluster.nodes() {
            let files = node.run(|| std::fs::read_dir(MANIFESTS).unwrap().count()).unwrap();
            assert_eq!(files, 0, "{}", node.name());
        }
        assert_eq!(double.requests("list /api/v1/services"), 3);
    }

    fn a_daemon_that_comes_back_and_watches_that_break_learn_what_they_missed() {
        let objects = lesson::objects().unwrap();
        let mut cluster = Cluster::start_on(binaries::built().unwrap(), objects, Source::Api, &[]).unwrap();
        cluster.await_backends("apache-pod", SERVICE_URL, &BACKENDS).unwrap();

        cluster.node_mut("w1").unwrap().kill_daemon().unwrap();
        cluster.apply(lesson::node_port().unwrap()).unwrap();
        cluster.api_server().unwrap().double().cut();
        cluster.node_mut("w1").unwrap().start_daemon().unwrap();

        for node in ["192.168.14.50", "192.168.14.51", "192.168.14.52"] {
            cluster.await_backends(OUTSIDE, &format!("http://{node}:30632/"), &BACKENDS).unwrap();
        }
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

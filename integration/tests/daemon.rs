//! What happens to services while their daemon dies, comes back, or is told to clean up.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod start;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use fairway_lab::{
    answer::{Answer, is_in_turn, names},
    cluster::{self, Asker},
    lesson::{self, BACKENDS, SERVICE_URL},
    manifest::parse,
};

/// A client that asks without a pause until it is told to stop.
struct Load {
    is_over: Arc<AtomicBool>,
    answers: JoinHandle<Result<Vec<Answer>, cluster::Error>>,
}

impl Load {
    fn start(asker: Asker) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_over);
        let answers = thread::spawn(move || {
            let mut answers = Vec::new();
            while !flag.load(Ordering::Relaxed) {
                answers.push(asker.ask()?);
            }
            Ok(answers)
        });
        Self { is_over, answers }
    }

    /// All answers, or the first error.
    fn stop(self) -> Vec<Answer> {
        self.is_over.store(true, Ordering::Relaxed);
        self.answers.join().unwrap().unwrap()
    }
}

fairway_lab::sandbox_tests! {
    fn services_go_on_without_the_daemon() {
        let mut cluster = start::lesson();

        cluster.node_mut("w1").unwrap().kill_daemon().unwrap();

        let answers = cluster.ask_times(12, "apache-pod", SERVICE_URL).unwrap();
        assert!(is_in_turn(&answers, 3), "{:?}", names(&answers));
    }

    fn a_daemon_that_comes_back_learns_what_it_missed() {
        let mut cluster = start::lesson();
        cluster.node_mut("w1").unwrap().kill_daemon().unwrap();
        let pod = "{kind: Pod, apiVersion: v1, metadata: {name: nginx-pod4, labels: {app: myweb}}, spec: {nodeName: w2, \
                   containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}}";
        cluster.apply(parse("test.yaml", pod).unwrap()).unwrap();

        cluster.node_mut("w1").unwrap().start_daemon().unwrap();

        let four = ["nginx-pod", "nginx-pod2", "nginx-pod3", "nginx-pod4"];
        cluster.await_backends("apache-pod", SERVICE_URL, &four).unwrap();
    }

    fn a_restart_loses_no_connection_and_no_turn() {
        let mut cluster = start::lesson();
        let load = Load::start(cluster.asker("apache-pod", SERVICE_URL).unwrap());

        for _ in 0..3 {
            let node = cluster.node_mut("w1").unwrap();
            node.stop_daemon().unwrap();
            node.start_daemon().unwrap();
            node.await_network().unwrap();
        }
        // Answered by the rules of the last daemon, once that has followed an edit.
        cluster.apply(lesson::sticky().unwrap()).unwrap();
        cluster.await_answer("apache-pod", lesson::STICKY_URL).unwrap();

        let answers = load.stop();
        assert!(is_in_turn(&answers, 3), "{:?}", names(&answers));
    }

    fn an_edit_loses_no_connection() {
        let mut cluster = start::lesson();
        let load = Load::start(cluster.asker("apache-pod", SERVICE_URL).unwrap());
        let cluster_ip: Vec<_> =
            lesson::objects().unwrap().into_iter().filter(|object| object.name.kind == "Service").collect();

        for _ in 0..5 {
            cluster.apply(lesson::node_port().unwrap()).unwrap();
            cluster.await_backends("outside", "http://192.168.14.51:30632/", &BACKENDS).unwrap();
            cluster.apply(cluster_ip.clone()).unwrap();
            cluster.await_refusal("outside", "http://192.168.14.51:30632/").unwrap();
        }

        assert!(load.stop().len() > 10);
    }

    fn cleanup_takes_services_and_configuration_away() {
        let mut cluster = start::lesson();
        let node = cluster.node_mut("w1").unwrap();
        node.stop_daemon().unwrap();

        let cleaned = node.run_daemon(&["--cleanup"]).unwrap();

        assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
        let left = node.run(|| {
            ["/run/fairway/node.json", "/etc/cni/net.d/10-fairway.conflist"].map(|file| Path::new(file).exists())
        });
        assert_eq!(left.unwrap(), [false, false]);
        assert!(cluster.ask("apache-pod", SERVICE_URL).is_err());
        // Pods keep their network.
        assert_eq!(cluster.ask("apache-pod", "nginx-pod").unwrap().name, "nginx-pod");
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

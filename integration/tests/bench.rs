//! The benchmarks, as typed, at sizes that take a moment: they run, and say what their page says that they do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::{Map, Value};

/// The JSON object that a benchmark prints, which is all that it prints.
#[expect(clippy::disallowed_methods, reason = "a person types commands")]
fn figures(words: &[&str]) -> Map<String, Value> {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_fairway-lab"));
    // It knows nothing of the sandbox around this test, and so makes one of its own.
    let output = lab.arg("bench").args(words).arg("--json").env_remove("FAIRWAY_SANDBOX").output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {complaint}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{words:?}: {error}\n{complaint}"))
}

/// The keys that the page documents in the table under a command.
fn documented(command: &str) -> BTreeSet<String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/testing.md")).unwrap();
    let (_, section) = page.split_once(&format!("### `cargo lab {command}")).unwrap();
    let section = section.split("\n#").next().unwrap();
    let keys = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    keys.flat_map(|(keys, _)| keys.split("`, `").map(str::to_owned)).collect()
}

#[track_caller]
fn says_what_its_page_says(command: &str, figures: &Map<String, Value>) {
    assert_eq!(figures.keys().cloned().collect::<BTreeSet<_>>(), documented(command));
}

#[track_caller]
fn are_positive(figures: &Map<String, Value>, keys: &[&str]) {
    for key in keys {
        assert!(
            figures.get(*key).and_then(Value::as_f64).is_some_and(|value| value > 0.0),
            "{key}: {figures:?}"
        );
    }
}

fairway_lab::sandbox_tests! {
    fn sync_measures_ours_and_the_peer_s() {
        let figures = figures(&["sync", "--services", "40", "--endpoints", "3"]);

        says_what_its_page_says("bench sync", &figures);
        assert_eq!((figures.get("services"), figures.get("endpoints")), (Some(&40.into()), Some(&3.into())));
        are_positive(&figures, &["full_sync_cpu_ms", "full_sync_wall_ms", "burst_1000_ms", "restart_ms", "rss_kb"]);
        are_positive(&figures, &["replace_p50_us", "replace_p99_us", "replace_idle_p50_us", "resize_p50_us"]);
        are_positive(&figures, &["add_p50_us", "remove_p50_us", "daemon_rss_kb", "daemon_start_ms"]);
        match figures.get("peer_skipped") {
            Some(Value::Null) => are_positive(&figures, &["peer_full_sync_cpu_ms", "peer_replace_ms", "replace_ratio"]),
            why => assert_eq!(why, Some(&"nft is not installed".into())),
        }
    }

    fn connect_measures_both_ways() {
        let figures = figures(&["connect", "--services", "20"]);

        says_what_its_page_says("bench connect", &figures);
        are_positive(&figures, &["direct_per_s", "service_per_s", "ratio", "direct_cpu_us", "service_cpu_us"]);
    }

    fn api_measures_the_daemon_on_an_api_server() {
        let figures = figures(&["api", "--services", "30", "--endpoints", "2", "--idle", "1", "--churn", "1"]);

        says_what_its_page_says("bench api", &figures);
        assert_eq!(figures.get("api_server"), Some(&"double".into()));
        are_positive(&figures, &["start_ms", "idle_rss_kb", "peak_rss_kb", "change_p50_ms", "change_max_ms"]);
        are_positive(&figures, &["churn_changes", "churn_rss_kb", "churn_peak_rss_kb", "restart_ms", "restart_rss_kb"]);
        assert_eq!(figures.get("restart_writes"), Some(&0.into()));
    }

    fn cni_measures_ours_the_peer_s_and_the_floor() {
        let figures = figures(&["cni", "--pods", "2", "--parallel", "2", "--leases", "100"]);

        says_what_its_page_says("bench cni", &figures);
        assert_eq!((figures.get("pods"), figures.get("parallel")), (Some(&2.into()), Some(&2.into())));
        are_positive(&figures, &["add_median_us", "add_p99_us", "add_cpu_us", "del_median_us", "del_p99_us"]);
        are_positive(&figures, &["parallel_adds_per_s", "bridge_add_median_us", "bridge_parallel_adds_per_s"]);
        are_positive(&figures, &["floor_add_median_us", "floor_del_median_us", "floor_ratio", "binary_bytes"]);
        let with_leases = figures.get("with_leases").and_then(Value::as_object).unwrap();
        assert_eq!((with_leases.get("few"), with_leases.get("many")), (Some(&1.into()), Some(&100.into())));
        are_positive(with_leases, &["few_add_median_us", "many_add_median_us"]);
        match figures.get("peer_skipped") {
            Some(Value::Null) => {
                are_positive(&figures, &["peer_bridge_add_median_us", "peer_bridge_del_median_us", "add_ratio"]);
                are_positive(&figures, &["peer_bridge_parallel_adds_per_s", "peer_ptp_add_median_us"]);
            }
            why => {
                let how = "the reference plugins are not installed: apt-get install containernetworking-plugins";
                assert_eq!(why, Some(&how.into()));
                assert_eq!(figures.get("peer_bridge_add_median_us"), Some(&Value::Null));
            }
        }
    }

    fn net_measures_every_way() {
        let figures = figures(&["net", "--seconds", "1", "--turns", "1"]);

        says_what_its_page_says("bench net", &figures);
        assert_eq!((figures.get("seconds"), figures.get("turns")), (Some(&1.into()), Some(&1.into())));
        let ours = ["node", "direct", "vxlan", "service_direct", "service_vxlan"];
        for way in ours.into_iter().chain(["veth", "by_hand_node", "by_hand_direct", "by_hand_vxlan"]) {
            let figures = figures.get(way).and_then(Value::as_object).unwrap();
            are_positive(figures, &["mbit_s", "ratio", "rtt_us"]);
            if ours.contains(&way) {
                are_positive(figures, &["ratio_by_hand", "rtt_ratio_by_hand"]);
            }
        }
    }

    fn routes_measures_many_nodes_and_one() {
        let figures = figures(&["routes", "--nodes", "50"]);

        says_what_its_page_says("bench routes", &figures);
        // A route to each node that is near; to each other one the gateway, who has it, and routes to its pods and itself; and one rule.
        let objects = 25 + 25 * 4 + 1;
        assert_eq!((figures.get("nodes"), figures.get("objects")), (Some(&50.into()), Some(&objects.into())));
        are_positive(&figures, &["start_ms", "start_cpu_ms", "restart_ms", "restart_cpu_ms", "join_p50_us", "join_p99_us"]);
        are_positive(&figures, &["move_p50_us", "move_p99_us", "leave_p50_us", "leave_p99_us", "mend_p50_us", "flap_ms", "rss_kb"]);
    }

    fn churn_goes_through_the_daemon_s_loop() {
        let figures = figures(&["churn", "--services", "50", "--endpoints", "2", "--seconds", "1"]);

        says_what_its_page_says("bench churn", &figures);
        are_positive(&figures, &["changes", "changes_per_s", "steady_per_s", "p50_us", "p99_us", "max_us"]);
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

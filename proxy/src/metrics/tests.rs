use std::time::{Duration, SystemTime};

use super::*;
use crate::{objects::Kind, sync::Committed};

/// The line of a sample, without its value; and its value.
fn value(metrics: &Metrics, sample: &str) -> Option<f64> {
    let text = metrics.text().unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn a_node_without_ipv6_says_nothing_of_it() {
    let text = Metrics::new(&[Family::Ip]).text().unwrap();

    assert!(text.contains(r#"ip_family="IPv4""#));
    assert!(!text.contains("IPv6"), "{text}");
}

#[test]
fn a_commit_is_measured_for_both_families_and_takes_what_was_pending_along() {
    let metrics = Metrics::new(&Family::ALL);
    metrics.sync.changed(Kind::Service);
    metrics.sync.changed(Kind::EndpointSlice);
    metrics.sync.changed(Kind::EndpointSlice);
    assert_eq!(value(&metrics, "kubeproxy_sync_proxy_rules_endpoint_changes_pending"), Some(2.0));

    let committed = Committed { elements: 7, is_full: true, is_unfinished: false };
    metrics.sync.committed(committed, true, Duration::from_millis(3), at(1_700_000_000));

    for family in ["IPv4", "IPv6"] {
        let of_family = |name: &str, more: &str| {
            value(&metrics, &format!("kubeproxy_sync_{name}{{{more}ip_family=\"{family}\"}}"))
        };
        assert_eq!(of_family("proxy_rules_duration_seconds_count", ""), Some(1.0));
        assert_eq!(of_family("proxy_rules_duration_seconds_bucket", "le=\"0.002\","), Some(0.0));
        assert_eq!(of_family("proxy_rules_duration_seconds_bucket", "le=\"0.004\","), Some(1.0));
        assert_eq!(of_family("full_proxy_rules_duration_seconds_count", ""), Some(1.0));
        assert_eq!(of_family("partial_proxy_rules_duration_seconds_count", ""), Some(0.0));
        assert_eq!(of_family("proxy_rules_last_timestamp_seconds", ""), Some(1_700_000_000.0));
    }
    assert_eq!(value(&metrics, "kubeproxy_sync_proxy_rules_endpoint_changes_total"), Some(2.0));
    assert_eq!(value(&metrics, "kubeproxy_sync_proxy_rules_endpoint_changes_pending"), Some(0.0));
    assert_eq!(value(&metrics, "kubeproxy_sync_proxy_rules_service_changes_total"), Some(1.0));
    assert_eq!(value(&metrics, "fairway_elements_changed_total"), Some(7.0));
}

#[test]
fn what_is_made_in_advance_is_no_sync() {
    let metrics = Metrics::new(&Family::ALL);

    metrics.sync.committed(Committed::default(), false, Duration::from_secs(1), at(1));

    let count = r#"kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}"#;
    assert_eq!(value(&metrics, count), Some(0.0));
}

#[test]
fn programming_is_measured_from_the_trigger_in_kube_proxy_s_buckets() {
    let metrics = Metrics::new(&[Family::Ip]);
    let triggered = (1_700_000_000 * 1_000_000 + 250_000).try_into().unwrap();

    metrics.sync.programmed(triggered, at(1_700_000_001));
    metrics.sync.programmed(triggered, at(1_600_000_000)); // by a clock that is behind

    let name = "kubeproxy_network_programming_duration_seconds";
    let bucket = |le| value(&metrics, &format!("{name}_bucket{{le=\"{le}\",ip_family=\"IPv4\"}}"));
    assert_eq!((bucket("0.5"), bucket("1.0")), (Some(1.0), Some(2.0)));
    assert_eq!(value(&metrics, &format!("{name}_sum{{ip_family=\"IPv4\"}}")), Some(0.75));
    let buckets = metrics.text().unwrap().matches(&format!("{name}_bucket")).count();
    assert_eq!(buckets, 2 + 59 + 12 + 7 + 1);
}

#[test]
fn this_process_is_there() {
    let metrics = Metrics::new(&Family::ALL);

    for (name, least) in [
        ("process_resident_memory_bytes", 100_000.0),
        ("process_virtual_memory_bytes", 100_000.0),
        ("process_open_fds", 1.0),
        ("process_max_fds", 1.0),
        ("process_start_time_seconds", 1_700_000_000.0),
        ("process_cpu_seconds_total", 0.0),
    ] {
        assert!(value(&metrics, name).is_some_and(|value| value >= least), "{name}");
    }
}

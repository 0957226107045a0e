//! Metrics as people find them: explained in the docs, asked for by the dashboard and the alerts.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fs,
    path::Path,
};

use dataplane::packet::Family;
use fairway_api_double::Double;
use kube::Client;
use proxy::{
    metrics::Metrics,
    watch::{
        Event,
        kubernetes::{Access, Kubernetes},
    },
};
use serde_json::{Value, json};
use tokio::{runtime, sync::mpsc};
use tokio_util::sync::CancellationToken;

/// What is served once an API server has been listed.
fn served() -> String {
    let double = Double::default();
    double
        .put(&json!({"kind": "Service", "metadata": {"name": "odd"}, "spec": {"ports": [{"port": "http"}]}}));
    let answers = double.clone();
    let service = tower::service_fn(move |request| {
        let double = answers.clone();
        async move { Ok::<_, Infallible>(double.answer(request).await) }
    });
    let metrics = Metrics::new(&Family::ALL);
    let counted = metrics.source.clone();
    let runtime = runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let source = Kubernetes::new(Access::through(Client::new(service, "default"))).with_metrics(counted);
        let (events, mut told) = mpsc::channel(16);
        let source = tokio::spawn(source.run(events, CancellationToken::new()));
        while told.recv().await != Some(Event::Listed) {}
        drop(told);
        source.await.unwrap();
    });
    metrics.text().unwrap()
}

/// The name of every sample, with the name and type of its metric.
fn samples(text: &str) -> BTreeMap<String, (String, String)> {
    let (mut samples, mut metric) = (BTreeMap::new(), (String::new(), String::new()));
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap();
            metric = (name.to_owned(), kind.to_owned());
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(name.starts_with(&metric.0), "{line} is no sample of {}", metric.0);
            samples.insert(name.to_owned(), metric.clone());
        }
    }
    samples
}

/// The words of a text that may only be names of ours.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let prefixes = ["kubeproxy_", "fairway_", "rest_client_", "process_"];
    words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))).map(str::to_owned).collect()
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(file)).unwrap()
}

#[test]
fn every_metric_is_explained_with_its_type_and_every_explained_one_is_served() {
    let page = read("docs/operating.md");
    let section = page.split("\n### Metrics\n").nth(1).unwrap().split("\n### ").next().unwrap();
    let mut explained = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        for name in names(cells[0]) {
            explained.insert(name, cells[1].to_owned());
        }
    }

    let text = served();
    let metrics = samples(&text).into_iter().map(|(sample, (metric, kind))| {
        let name = if kind == "histogram" { metric } else { sample };
        (name, kind)
    });
    // Nobody has asked for health yet.
    let asked =
        ["healthz", "livez"].map(|path| (format!("kubeproxy_proxy_{path}_total"), "counter".to_owned()));
    assert_eq!(explained, metrics.chain(asked).collect());
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn requests_are_counted_as_client_go_counts_them_and_skipped_objects_by_kind() {
    let text = served();

    let has = |sample: &str| text.lines().any(|line| line.starts_with(sample));
    assert!(has(r#"rest_client_requests_total{code="200",method="GET",host=""} "#), "{text}");
    assert!(has(r#"rest_client_request_duration_seconds_bucket{le="0.005",verb="GET",host=""} "#), "{text}");
    assert!(has(r#"fairway_skipped_objects_total{kind="Service"} 1"#), "{text}");
    assert!(has(r#"fairway_source_lists_total{kind="EndpointSlice"} 1"#), "{text}");
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_nothing_that_is_not_served() {
    let mut served: BTreeSet<_> = samples(&served()).into_keys().collect();
    served.extend(["kubeproxy_proxy_healthz_total", "kubeproxy_proxy_livez_total"].map(str::to_owned));

    let dashboard: Value = serde_json::from_str(&read("conf/grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut asked: Vec<_> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    let panels = asked.len();
    let alerts: Value = serde_saphyr::from_str(&read("conf/prometheus-alerts.yaml")).unwrap();
    let rules =
        alerts["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    for rule in rules {
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].is_string(), "{rule}");
        }
        asked.push(rule["expr"].as_str().unwrap().to_owned());
    }

    for expression in &asked {
        let names = names(expression);
        assert!(!names.is_empty() || expression.starts_with("up{"), "{expression}");
        for name in names {
            assert!(served.contains(&name), "{name} of {expression}");
        }
    }
    assert!(panels >= 20 && asked.len() - panels >= 8, "{panels} panels of {}", asked.len());
}

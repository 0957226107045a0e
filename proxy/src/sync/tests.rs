use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::task::JoinHandle;

use super::*;
use crate::{
    health::Health,
    metrics::Metrics,
    objects::{Kind, Object, ObjectName},
    watch::Event,
};

/// What was done, in order; and what is to go wrong, first to last.
#[derive(Debug, Clone, Default)]
struct Script(Arc<Mutex<(Vec<String>, Vec<&'static str>)>>);

impl Script {
    fn note(&self, step: impl Into<String>) {
        self.0.lock().unwrap().0.push(step.into());
    }

    fn goes_wrong(&self, step: &str) -> bool {
        let wrong = &mut self.0.lock().unwrap().1;
        let at = wrong.iter().position(|name| *name == step);
        at.map(|at| wrong.remove(at)).is_some()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct Refused;

struct FakeServices(Script, usize);

impl Services for FakeServices {
    type Error = Refused;

    fn surround(&mut self, surroundings: &Surroundings) {
        if *surroundings != Surroundings::default() {
            self.0.note(format!("surrounded by {:?}", surroundings.node_ips));
        }
    }

    fn begin(&mut self) -> Result<(), Refused> {
        Ok(())
    }

    fn set_node(&mut self, name: &str, node: Option<&Node>) {
        let word = if node.is_some() { "inside" } else { "outside" };
        self.0.note(format!("{name} is {word}"));
    }

    fn admit_nodes(&mut self) {}

    fn set(&mut self, name: &ServicePortName, family: Family, port: Option<ServicePort>) {
        self.1 += 1;
        let endpoints = port.map(|port| port.endpoints.len());
        self.0.note(format!("set {name} {family}: {endpoints:?}"));
    }

    fn commit(&mut self) -> Result<Committed, Refused> {
        self.0.note("commit");
        if self.0.goes_wrong("commit") {
            return Err(Refused);
        }
        let is_unfinished = self.0.goes_wrong("finished");
        Ok(Committed { elements: std::mem::take(&mut self.1), is_unfinished, is_full: false })
    }

    async fn disturbed(&mut self) {
        if !self.0.goes_wrong("kernel") {
            future::pending::<()>().await;
        }
    }

    fn repair(&mut self) -> bool {
        self.0.note("repair");
        !self.0.goes_wrong("repair")
    }
}

struct FakeNodes(Script);

impl Nodes for FakeNodes {
    async fn prepare(&mut self, state: &State, _: &BTreeSet<Arc<str>>) -> bool {
        self.0.note(format!("add routes to {}", state.nodes().count()));
        !self.0.goes_wrong("add routes")
    }

    async fn finish(&mut self) -> bool {
        self.0.note("remove routes");
        !self.0.goes_wrong("remove routes")
    }
}

/// A loop that is running on a clock that only moves when everybody waits.
struct Running {
    script: Script,
    events: mpsc::Sender<Event>,
    cancelled: CancellationToken,
    task: JoinHandle<()>,
    health: Arc<Health>,
    metrics: Metrics,
}

impl Running {
    fn start(wrong: &[&'static str]) -> Self {
        let script = Script::default();
        script.0.lock().unwrap().1.extend(wrong);
        let (events, receiver) = mpsc::channel(16);
        let cancelled = CancellationToken::new();
        let metrics = Metrics::new(&[Family::Ip]);
        let sync = Sync::new("m", FakeServices(script.clone(), 0), FakeNodes(script.clone()));
        let mut sync = sync.with_metrics(metrics.sync.clone());
        let health = sync.followers().health();
        let task = tokio::spawn(sync.run(receiver, cancelled.clone()));
        Self { script, events, cancelled, task, health, metrics }
    }

    /// What was done for these events, and within `pause` after.
    async fn does(&self, events: impl IntoIterator<Item = Event>, pause: Duration) -> Vec<String> {
        for event in events {
            self.events.try_send(event).unwrap();
        }
        tokio::time::sleep(pause).await; // on the paused clock: once nothing else can go on
        std::mem::take(&mut self.script.0.lock().unwrap().0)
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_nodes_is_not_tried_again_with_every_change_of_a_service() {
    let sync = Running::start(&["add routes", "add routes"]);
    sync.does([Event::Listed], AT_ONCE).await;

    for name in ["a", "b", "c"] {
        let done = sync.does([service(name)], AT_ONCE).await;
        assert!(
            done.contains(&"commit".to_owned()) && !done.contains(&"add routes to 0".to_owned()),
            "{done:?}"
        );
    }

    let tries = async |seconds| {
        let done = sync.does([], Duration::from_secs(seconds)).await;
        done.iter().filter(|step| step.starts_with("add routes")).count()
    };
    assert_eq!([tries(1).await, tries(1).await, tries(2).await, tries(3_600).await], [1, 0, 1, 0]);
}

const AT_ONCE: Duration = Duration::from_millis(1);

fn service(name: &str) -> Event {
    object(&format!(
        r#"{{"kind": "Service", "metadata": {{"name": "{name}"}},
            "spec": {{"clusterIP": "10.96.0.1", "ports": [{{"port": 80}}]}}}}"#
    ))
}

fn node(name: &str) -> Event {
    object(&format!(r#"{{"kind": "Node", "metadata": {{"name": "{name}"}}}}"#))
}

#[tokio::test(start_paused = true)]
async fn the_surroundings_come_before_the_services_and_only_when_they_change() {
    let running = Running::start(&[]);
    let own = || {
        let addresses = r#"[{"type": "InternalIP", "address": "10.2.0.1"}]"#;
        object(&format!(
            r#"{{"kind": "Node", "metadata": {{"name": "m"}}, "status": {{"addresses": {addresses}}}}}"#
        ))
    };

    let done = running.does([service("a"), own(), Event::Listed], AT_ONCE).await;
    assert_eq!(
        done[..4],
        ["surrounded by [10.2.0.1]", "m is inside", "add routes to 1", "set default/a ip: Some(0)"]
    );
    assert_eq!(
        running.does([own(), node("w1")], AT_ONCE).await,
        ["w1 is inside", "add routes to 2", "commit", "remove routes"]
    );
}

fn object(json: &str) -> Event {
    Event::set(Object::parse(serde_json::from_str(json).unwrap()).unwrap().unwrap())
}

#[tokio::test(start_paused = true)]
async fn nothing_is_committed_before_all_is_listed() {
    let running = Running::start(&[]);

    assert_eq!(running.does([service("a"), node("w1")], Duration::from_mins(1)).await, [""; 0]);
    assert_eq!(
        running.does([service("b"), Event::Listed], AT_ONCE).await,
        [
            "w1 is inside",
            "add routes to 1",
            "set default/a ip: Some(0)",
            "set default/b ip: Some(0)",
            "commit",
            "remove routes"
        ],
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_cluster_is_committed_too() {
    assert_eq!(
        Running::start(&[]).does([Event::Listed], AT_ONCE).await,
        ["add routes to 0", "commit", "remove routes"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_burst_costs_one_commit_and_only_what_it_touches() {
    let running = Running::start(&[]);
    running.does([service("a"), service("b"), Event::Listed], AT_ONCE).await;
    let gone = Event::gone(Kind::Service, ObjectName { namespace: "default".into(), name: "a".into() });

    assert_eq!(
        running.does([service("c"), gone, service("d")], AT_ONCE).await,
        ["set default/c ip: Some(0)", "set default/a ip: None", "set default/d ip: Some(0)", "commit"],
    );
    assert_eq!(running.does([service("d")], AT_ONCE).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn routes_come_before_the_services_and_go_after_them() {
    let running = Running::start(&[]);
    running.does([Event::Listed], AT_ONCE).await;

    assert_eq!(
        running.does([service("a"), node("w1")], AT_ONCE).await,
        ["w1 is inside", "add routes to 1", "set default/a ip: Some(0)", "commit", "remove routes"],
    );
}

#[tokio::test(start_paused = true)]
async fn after_a_refused_commit_no_route_goes_until_a_later_one_succeeds() {
    let running = Running::start(&["commit"]);

    assert_eq!(running.does([Event::Listed], AT_ONCE).await, ["add routes to 0", "commit"]);
    assert_eq!(
        running.does([], Duration::from_secs(1)).await,
        ["add routes to 0", "commit", "remove routes"]
    );
    assert_eq!(running.does([], Duration::from_mins(1)).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn services_are_served_even_if_a_route_is_missing_and_the_route_is_tried_again() {
    let running = Running::start(&["add routes", "add routes", "remove routes"]);

    let all = ["add routes to 0", "commit", "remove routes"];
    assert_eq!(running.does([Event::Listed], AT_ONCE).await, all);
    assert_eq!(running.does([], Duration::from_secs(1)).await, all);
    assert_eq!(running.does([], Duration::from_secs(2)).await, all);
    assert_eq!(running.does([], Duration::from_mins(1)).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_unfinished_is_committed_a_moment_later() {
    let running = Running::start(&["finished"]);

    running.does([Event::Listed], AT_ONCE).await;
    assert_eq!(running.does([], Duration::from_millis(100)).await, ["commit"]);
    assert_eq!(running.does([], Duration::from_mins(1)).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_disturbance_is_repaired_without_a_commit_unless_that_fails() {
    let running = Running::start(&["kernel", "kernel", "repair"]);

    assert_eq!(running.does([service("a")], Duration::from_mins(1)).await, [""; 0]); // nothing of it is ours yet
    let done = running.does([Event::Listed], AT_ONCE).await;
    let done: Vec<_> = done.iter().filter(|step| matches!(step.as_str(), "repair" | "commit")).collect();
    assert_eq!(done, ["commit", "repair", "commit", "repair"]);
}

fn slice(address: &str, triggered: &str) -> Event {
    object(&format!(
        r#"{{"kind": "EndpointSlice", "addressType": "IPv4", "ports": [{{"port": 80}}],
            "metadata": {{"name": "a-1", "labels": {{"kubernetes.io/service-name": "a"}},
                "annotations": {{"endpoints.kubernetes.io/last-change-trigger-time": "{triggered}"}}}},
            "endpoints": [{{"addresses": ["{address}"]}}]}}"#
    ))
}

#[tokio::test(start_paused = true)]
async fn changes_of_endpoints_are_measured_from_their_trigger_once_and_only_after_the_first_commit() {
    let running = Running::start(&[]);
    let sample = |name: &str| {
        let text = running.metrics.text().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next().map(str::to_owned)).unwrap()
    };
    let measured = || sample("kubeproxy_network_programming_duration_seconds_count");

    let first = slice("10.1.0.1", "2026-01-02T03:04:05.678Z");
    running.does([service("a"), first, Event::Listed], AT_ONCE).await;
    assert_eq!(measured(), "0");

    running.does([slice("10.1.0.9", "2026-01-02T03:04:06Z")], AT_ONCE).await;
    assert_eq!(measured(), "0", "began before the daemon did");
    running.does([slice("10.1.0.2", "2126-01-02T03:04:06Z")], AT_ONCE).await;
    assert_eq!(measured(), "1");

    // The same again, with another annotation, changes nothing; one that makes no sense is not measured.
    assert_eq!(running.does([slice("10.1.0.2", "2126-01-02T03:04:07Z")], AT_ONCE).await, [""; 0]);
    running.does([slice("10.1.0.3", "yesterday")], AT_ONCE).await;
    assert_eq!(measured(), "1");
    assert_eq!(sample("kubeproxy_sync_proxy_rules_endpoint_changes_total"), "4");
    assert_eq!(sample("kubeproxy_sync_proxy_rules_endpoint_changes_pending"), "0");
    assert_eq!(sample("fairway_endpoints"), "1");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_all_to_be_listed_is_no_fault_of_the_daemon() {
    let running = Running::start(&[]);

    running.does([service("a")], Duration::from_mins(10)).await;

    assert!(running.health.is_healthy());
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_committed_is_pending_and_measured_when_it_is() {
    let running = Running::start(&["commit"]);
    let has = |sample: &str| running.metrics.text().unwrap().lines().any(|line| line == sample);

    running.does([service("a"), Event::Listed], AT_ONCE).await;
    assert!(has("kubeproxy_sync_proxy_rules_service_changes_pending 1"));
    assert!(has(r#"kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv4"} 1"#));
    assert!(has("fairway_services 0"));

    running.does([], Duration::from_secs(1)).await;
    assert!(has("kubeproxy_sync_proxy_rules_service_changes_pending 0"));
    assert!(has("fairway_services 1"));
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_cancelled_or_with_its_source() {
    let running = Running::start(&[]);
    running.cancelled.cancel();
    running.task.await.unwrap();

    let running = Running::start(&[]);
    drop(running.events);
    running.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn load_balancers_are_told_what_is_committed_and_not_before() {
    let running = Running::start(&["commit"]);
    let health = Arc::clone(&running.health);
    let local = object(
        r#"{"kind": "Service", "metadata": {"name": "a"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}],
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30100}}"#,
    );

    assert_eq!(running.does([local, Event::Listed], AT_ONCE).await.last().unwrap(), "commit");
    assert!(tokio::time::timeout(AT_ONCE, health.checks.heard()).await.is_err(), "the commit was refused");

    let told = health.checks.heard().await;
    let told: Vec<_> =
        told.into_iter().map(|(name, check)| (name.to_string(), check.map(|c| c.port))).collect();
    assert_eq!(told, [("default/a".to_owned(), Some(30_100))]);
}

#[tokio::test(start_paused = true)]
async fn it_is_unhealthy_while_a_change_waits_for_more_than_a_minute() {
    let running = Running::start(&["commit"; 8]); // after 1, 3, 7, 15, 31, 61 and 91 seconds
    let health = Arc::clone(&running.health);

    running.does([Event::Listed], Duration::from_secs(59)).await;
    assert!(health.is_healthy());
    running.does([], Duration::from_secs(2)).await;
    assert!(!health.is_healthy());
    running.does([], Duration::from_mins(2)).await;
    assert!(health.is_healthy());
}

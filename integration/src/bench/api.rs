//! `bench api`: the daemon itself on an API server: how soon it serves all, how soon a change, with how much memory.
//!
//! ```text
//! client ── node ── server      a service of the client's has its endpoint on the server, now at one address, now at another
//!            │
//!    fairway-proxy ── HTTPS, on the same machine ── the API server's double, in this process
//! ```
//!
//! Everything that the daemon hears and does is real but the API server: its double answers sooner than an API server would that has a
//! database and other clients. So what is told is the daemon's part.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use dataplane::rtnl::{Kernel, LOOPBACK};
use fairway_api_double::Double;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::runtime;

use super::{
    connect::connect,
    daemon::Daemon,
    engine,
    figures::{Samples, memory_kb, millis, rounded},
    workload::{
        Backends, Cluster, ENDPOINT_PORT, OWN_NODE, SERVICE_PORT, Size, node_name, service_name, slice_name,
    },
};
use crate::{
    api_server::{ApiServer, KUBECONFIG},
    row::{Row, SERVERS},
    wait,
};

/// How often one change is followed.
const CHANGES: u32 = 50;

/// Between these changes: all is quiet.
const PAUSE: Duration = Duration::from_millis(20);

/// How long after the start the daemon counts as idle: what is left to do then is done at its own pace.
const SETTLED: Duration = Duration::from_secs(3);

/// Between two changes of many.
const TICK: Duration = Duration::from_millis(1);

/// What `bench api` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ApiFigures {
    api_server: &'static str,
    services: u32,
    endpoints: u32,
    start_ms: f64,
    idle_rss_kb: u64,
    peak_rss_kb: u64,
    idle_wakeups_per_s: f64,
    change_p50_ms: f64,
    change_max_ms: f64,
    churn_changes: u32,
    churn_rss_kb: u64,
    churn_peak_rss_kb: u64,
    restart_ms: f64,
    restart_writes: u32,
    restart_rss_kb: u64,
}

/// How long to look at the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub(super) struct Spans {
    /// How long to look at the daemon while nothing happens
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    idle: u32,
    /// How long to replace endpoints, up to a thousand a second
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=7200))]
    churn: u32,
}

/// Measures with so many services besides the one that changes are seen by.
pub(super) fn measure(size: Size, spans: Spans, fairway_proxy: &Path) -> Result<ApiFigures> {
    let Row { client, node, server } = Row::make().context("wire the machines")?;
    node.run(|| {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { anyhow::Ok(Kernel::open()?.set_up(LOOPBACK, true).await?) })
    })??;
    let api = ApiServer::start(&node, Ipv4Addr::LOCALHOST.into())?;
    api.introduce(&node)?;
    let mut cluster = Following { double: api.double().clone(), cluster: Cluster::new(size), size };
    cluster.begin();
    let listener = server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, ENDPOINT_PORT)))??;

    let start = || node.run(|| Daemon::start(fairway_proxy, &["--kubeconfig", KUBECONFIG]))?;
    let mut daemon = start()?;
    let started = node.run(|| daemon.await_all(size))??;
    thread::sleep(SETTLED);
    let (wakeups, idle) = (wakeups(daemon.id())?, Duration::from_secs(spans.idle.into()));
    thread::sleep(idle);
    let wakeups = self::wakeups(daemon.id())?.saturating_sub(wakeups);
    let (idle_rss_kb, peak_rss_kb) = memory(&daemon)?;

    let mut changes = client.run(|| {
        let mut samples = Samples::default();
        for _ in 0..CHANGES {
            thread::sleep(PAUSE);
            samples.add(cluster.follow_a_change(&listener)?);
        }
        anyhow::Ok(samples)
    })??;

    let churn_changes = cluster.churn(Duration::from_secs(spans.churn.into()));
    client.run(|| cluster.follow_a_change(&listener))?.context("follow what many changes came before")?;
    thread::sleep(SETTLED);
    let (churn_rss_kb, churn_peak_rss_kb) = memory(&daemon)?;

    daemon.stop()?;
    let written = node.run(engine::transactions)??;
    let mut daemon = start()?;
    let restarted = node.run(|| daemon.await_all(size))??;
    thread::sleep(SETTLED);
    let written = node.run(engine::transactions)??.wrapping_sub(written);
    let (restart_rss_kb, _) = memory(&daemon)?;
    Ok(ApiFigures {
        api_server: "double",
        services: size.services,
        endpoints: size.endpoints,
        start_ms: millis(started),
        idle_rss_kb,
        peak_rss_kb,
        idle_wakeups_per_s: rounded(f64::from(u32::try_from(wakeups)?) / idle.as_secs_f64(), 100.0),
        change_p50_ms: rounded(changes.percentile_us(50) / 1e3, 1000.0),
        change_max_ms: rounded(changes.percentile_us(100) / 1e3, 1000.0),
        churn_changes,
        churn_rss_kb,
        churn_peak_rss_kb,
        restart_ms: millis(restarted),
        restart_writes: written,
        restart_rss_kb,
    })
}

/// A daemon's memory, now and at most, in kB.
fn memory(daemon: &Daemon) -> Result<(u64, u64)> {
    Ok((memory_kb(daemon.id(), "VmRSS")?, memory_kb(daemon.id(), "VmHWM")?))
}

/// How often the threads of a process waited for something and were woken.
fn wakeups(process: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let mut lines = status.lines().filter_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += lines.next().context("no voluntary_ctxt_switches")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}

/// What the API server has, and how it changes.
struct Following {
    double: Double,
    cluster: Cluster,
    size: Size,
}

impl Following {
    /// Everything at the start. The last service is the one that changes are seen by.
    fn begin(&mut self) {
        self.double.put(&node());
        for number in 0..self.size.services {
            self.double.put(&service(number));
            let backends = Backends { count: self.size.endpoints, is_replaced: false };
            self.double.put(&slice(number, self.size.endpoint_ips(number, backends)));
        }
        self.double.put(&service(self.size.services));
        self.double.put(&slice(self.size.services, [SERVERS[0]]));
    }

    /// Changes a slice, and connects to the service until that is served. Says how long that took, from when the API server is told on.
    #[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
    fn follow_a_change(&mut self, listener: &TcpListener) -> Result<Duration> {
        let service = SocketAddrV4::new(Size::service_ip(self.size.services), SERVICE_PORT);
        let before = wait::until("the service to answer", || {
            connect(service, listener).map_err(|error| error.to_string())
        })?;
        let after =
            SERVERS.into_iter().map(IpAddr::V4).find(|ip| *ip != before.ip()).context("one server")?;
        let IpAddr::V4(to) = after else { anyhow::bail!("{after} is no server") };
        let slice = slice(self.size.services, [to]);
        let began = Instant::now();
        self.double.put(&slice);
        while connect(service, listener)?.ip() != after {
            ensure!(began.elapsed() < wait::PATIENCE, "connections still lead to {before}");
        }
        Ok(began.elapsed())
    }

    /// Replaces endpoints of one service after the other for a while, and says how many.
    #[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
    fn churn(&mut self, span: Duration) -> u32 {
        let began = Instant::now();
        let mut changes = 0;
        while began.elapsed() < span {
            let number = self.cluster.pick(changes);
            let backends = self.cluster.replaced(number);
            self.double.put(&slice(number, self.size.endpoint_ips(number, backends)));
            changes += 1;
            thread::sleep(TICK);
        }
        changes
    }
}

/// A number as a UID is written (RFC 9562 §5.8).
fn uid(number: u32, kind: u16) -> String {
    format!("{number:08x}-{kind:04x}-8000-8000-0123456789ab")
}

const CREATED: &str = "2026-01-01T00:00:00Z";

fn node() -> Value {
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {"name": OWN_NODE, "uid": uid(0, 0), "creationTimestamp": CREATED},
        "spec": {"podCIDR": "10.128.0.0/24", "podCIDRs": ["10.128.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.2.1"}]},
    })
}

/// A service as an API server has it, but for fields of its managers, which the double adds.
fn service(number: u32) -> Value {
    let (name, ip) = (service_name(number), Size::service_ip(number));
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {
            "name": &*name.name, "namespace": &*name.namespace, "uid": uid(number, 1), "creationTimestamp": CREATED,
            "labels": {"app.kubernetes.io/name": &*name.name, "app.kubernetes.io/managed-by": "Helm"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "selector": {"app.kubernetes.io/name": &*name.name},
            "ports": [{"name": "http", "protocol": "TCP", "port": SERVICE_PORT, "targetPort": ENDPOINT_PORT}],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
        },
        "status": {"loadBalancer": {}},
    })
}

/// Its endpoints, as the endpoint slice controller writes them.
fn slice(number: u32, ips: impl IntoIterator<Item = Ipv4Addr>) -> Value {
    let (slice, service) = (slice_name(number), service_name(number));
    let endpoints = (number..).zip(ips).map(|(seat, ip)| {
        json!({
            "addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": node_name(seat), "zone": "a",
            "targetRef": {
                "kind": "Pod", "namespace": &*service.namespace, "name": format!("{}-7c9d6b5f4-{:05x}", service.name, ip.to_bits()),
                "uid": uid(ip.to_bits(), 3),
            },
        })
    });
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
        "metadata": {
            "name": &*slice.name, "namespace": &*slice.namespace, "uid": uid(number, 2), "creationTimestamp": CREATED,
            "generateName": format!("{}-", service.name), "generation": 1,
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": CREATED},
            "labels": {
                "kubernetes.io/service-name": &*service.name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": &*service.name, "uid": uid(number, 1),
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "http", "protocol": "TCP", "port": ENDPOINT_PORT}],
    })
}

impl fmt::Display for ApiFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let a = self;
        writeln!(f, "{} services × {} endpoints, from the API server's double:", a.services, a.endpoints)?;
        let (rss, peak) = (a.idle_rss_kb, a.peak_rss_kb);
        writeln!(f, "  {:<34}{:>10} ms", "start until all is served", a.start_ms)?;
        writeln!(f, "  {:<34}{rss:>10} kB     {peak:>10} kB at most", "memory")?;
        writeln!(f, "  {:<34}{:>10} a second", "wake-ups when idle", a.idle_wakeups_per_s)?;
        let (p50, max) = (a.change_p50_ms, a.change_max_ms);
        writeln!(f, "  {:<34}{p50:>10} ms     {max:>10} ms at most", "a slice changed until packets follow")?;
        let (rss, peak) = (a.churn_rss_kb, a.churn_peak_rss_kb);
        let what = format!("memory after {} changes", a.churn_changes);
        writeln!(f, "  {what:<34}{rss:>10} kB     {peak:>10} kB at most")?;
        let (ms, writes) = (a.restart_ms, a.restart_writes);
        writeln!(f, "  {:<34}{ms:>10} ms     {writes:>10} writes", "restart, nothing changed")?;
        write!(f, "  {:<34}{:>10} kB", "memory after that", a.restart_rss_kb)
    }
}

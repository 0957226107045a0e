//! `bench churn`: events through the daemon's own loop, and when each of them is in force in the kernel.
//!
//! First as many as the loop takes, then at a steady rate below that: what latency is worth a figure only where nothing piles up.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use dataplane::nft;
use proxy::{
    objects::Node,
    service_port::{Family, ServicePort, ServicePortName},
    state::State,
    surroundings::Surroundings,
    sync::{Committed, Nodes, Services, Sync, services::Nftables},
    watch::Event,
};
use serde::Serialize;
use tokio::{
    runtime,
    sync::{Notify, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    engine,
    figures::{Samples, cpu_of_this_process, micros, rounded},
    workload::{Cluster, OWN_NODE, Size, number_of},
};
use crate::{host::Host, wait::PATIENCE};

/// Events on their way, as many as in the daemon.
const EVENTS: usize = 1024;

/// Changes per second at which latency is measured, or [`SHARE`] of what can be had, if that is less.
const STEADY_RATE: f64 = 10_000.0;
const SHARE: f64 = 0.8;

/// Changes are due in ticks: no timer is finer.
const TICK: Duration = Duration::from_millis(1);

/// What `bench churn` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ChurnFigures {
    services: u32,
    endpoints: u32,
    changes: u64,
    changes_per_s: f64,
    cpu_us_per_change: f64,
    saturated_p50_us: f64,
    saturated_p99_us: f64,
    steady_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
}

/// When changes were told, and how long each took until it was in force.
#[derive(Debug, Default)]
struct Course {
    told: BTreeMap<u32, Instant>,
    latencies: Samples,
}

/// A course that feeder and loop share.
#[derive(Debug, Clone, Default)]
struct Shared {
    course: Arc<Mutex<Course>>,
    committed: Arc<Notify>,
}

impl Shared {
    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every change that was told is in force.
    async fn all_in_force(&self) -> Result<()> {
        self.when(|course| course.told.is_empty()).await
    }

    async fn when(&self, condition: impl Fn(&Course) -> bool) -> Result<()> {
        loop {
            let committed = self.committed.notified();
            if condition(&self.course()) {
                return Ok(());
            }
            timeout(PATIENCE, committed).await.context("the daemon's loop commits nothing any more")?;
        }
    }
}

/// The kernel's end, with a look at the clock after each commit.
struct Timed {
    nftables: Nftables,
    /// The services in the next commit.
    set: Vec<u32>,
    shared: Shared,
}

impl Services for Timed {
    type Error = nft::Error;

    fn surround(&mut self, surroundings: &Surroundings) {
        self.nftables.surround(surroundings);
    }

    fn begin(&mut self) -> Result<(), nft::Error> {
        self.nftables.begin()
    }

    fn set_node(&mut self, name: &str, node: Option<&Node>) {
        self.nftables.set_node(name, node);
    }

    fn admit_nodes(&mut self) {
        self.nftables.admit_nodes();
    }

    fn set(&mut self, name: &ServicePortName, family: Family, port: Option<ServicePort>) {
        self.set.extend(number_of(&name.name));
        self.nftables.set(name, family, port);
    }

    fn commit(&mut self) -> Result<Committed, nft::Error> {
        let committed = self.nftables.commit()?;
        let now = Instant::now();
        let mut course = self.shared.course();
        for number in mem::take(&mut self.set) {
            if let Some(told) = course.told.remove(&number) {
                course.latencies.add(now.duration_since(told));
            }
        }
        self.shared.committed.notify_one();
        Ok(committed)
    }

    async fn disturbed(&mut self) {
        self.nftables.disturbed().await;
    }

    fn repair(&mut self) -> bool {
        self.nftables.repair()
    }
}

/// Nodes are no part of this.
struct NoNodes;

impl Nodes for NoNodes {
    async fn prepare(&mut self, _: &State, _: &BTreeSet<Arc<str>>) -> bool {
        true
    }

    async fn finish(&mut self) -> bool {
        true
    }
}

/// Sends changes for so many seconds.
pub(super) fn measure(size: Size, seconds: u32) -> Result<ChurnFigures> {
    let host = Host::make(OWN_NODE)?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2) // as in the daemon
        .enable_all()
        .build()
        .context("start the event loop")?;
    let nftables = host.run(|| engine::nftables(&runtime))??;
    runtime.block_on(churn(size, Duration::from_secs(seconds.into()) / 2, nftables))
}

async fn churn(size: Size, half: Duration, nftables: Nftables) -> Result<ChurnFigures> {
    let shared = Shared::default();
    let services = Timed { nftables, set: Vec::new(), shared: shared.clone() };
    let (events, received) = mpsc::channel(EVENTS);
    let daemon = tokio::spawn(Sync::new(OWN_NODE, services, NoNodes).run(received, CancellationToken::new()));
    let mut feeder = Feeder { cluster: Cluster::new(size), turn: 0, events, shared };
    feeder.start().await?;

    let (began, cpu) = (Instant::now(), cpu_of_this_process());
    let (changes, mut saturated) = feeder.feed(half, None).await?;
    let (took, cpu) = (began.elapsed(), cpu_of_this_process().saturating_sub(cpu));
    ensure!(changes > 0, "no change was committed");
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 changes")]
    let per_second = changes as f64 / took.as_secs_f64();

    let steady = (per_second * SHARE).min(STEADY_RATE);
    let (steady_changes, mut latencies) = feeder.feed(half, Some(steady)).await?;

    drop(feeder); // the source ends, and so does the loop
    daemon.await.context("the daemon's loop")?;
    Ok(ChurnFigures {
        services: size.services,
        endpoints: size.endpoints,
        changes: changes + steady_changes,
        changes_per_s: rounded(per_second, 1.0),
        cpu_us_per_change: micros(cpu.div_f64(per_second * took.as_secs_f64())),
        saturated_p50_us: saturated.percentile_us(50),
        saturated_p99_us: saturated.percentile_us(99),
        steady_per_s: rounded(steady, 1.0),
        p50_us: latencies.percentile_us(50),
        p99_us: latencies.percentile_us(99),
        max_us: latencies.percentile_us(100),
    })
}

/// Tells the loop of changes.
struct Feeder {
    cluster: Cluster,
    turn: u32,
    events: mpsc::Sender<Event>,
    shared: Shared,
}

impl Feeder {
    /// Tells of everything that there is at first, and waits for the first service to be in force: all come at once.
    async fn start(&mut self) -> Result<()> {
        for event in self.cluster.all() {
            self.events.send(event).await.context("tell the daemon's loop")?;
        }
        self.shared.course().told.insert(0, Instant::now());
        self.events.send(Event::Listed).await.context("tell the daemon's loop")?;
        self.shared.all_in_force().await
    }

    /// Replaces endpoints for so long, so many per second or as many as are taken. Returns how many, and how long each took.
    async fn feed(&mut self, during: Duration, per_second: Option<f64>) -> Result<(u64, Samples)> {
        self.shared.course().latencies = Samples::default();
        let began = Instant::now();
        let mut changes: u64 = 0;
        while began.elapsed() < during {
            if let Some(per_second) = per_second {
                #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 changes")]
                let due = began + Duration::from_secs_f64(changes as f64 / per_second);
                if due > Instant::now() {
                    sleep_until(Instant::now() + TICK).await;
                    continue;
                }
            }
            self.change().await?;
            changes += 1;
        }
        self.shared.all_in_force().await?;
        Ok((changes, mem::take(&mut self.shared.course().latencies)))
    }

    /// Replaces an endpoint of a service whose last change is in force.
    async fn change(&mut self) -> Result<()> {
        let number = self.cluster.pick(self.turn);
        self.turn = self.turn.wrapping_add(1);
        self.shared.when(|course| !course.told.contains_key(&number)).await?;
        let event = self.cluster.replace(number);
        self.shared.course().told.insert(number, Instant::now());
        self.events.send(event).await.context("tell the daemon's loop")
    }
}

impl fmt::Display for ChurnFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} services × {} endpoints, {} endpoints replaced",
            self.services, self.endpoints, self.changes
        )?;
        writeln!(f, "                              changes/s          p50          p99          max")?;
        let (per_s, p50, p99) = (self.changes_per_s, self.saturated_p50_us, self.saturated_p99_us);
        writeln!(f, "  {:<26}{per_s:>11}{p50:>10} µs{p99:>10} µs", "as many as are taken")?;
        let (per_s, p50, p99, max) = (self.steady_per_s, self.p50_us, self.p99_us, self.max_us);
        writeln!(f, "  {:<26}{per_s:>11}{p50:>10} µs{p99:>10} µs{max:>10} µs", "at a steady rate")?;
        write!(f, "  {:<26}{:>11} µs", "CPU for one change", self.cpu_us_per_change)
    }
}

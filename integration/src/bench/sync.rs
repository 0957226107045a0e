//! `bench sync`: from decoded objects to the kernel's word that they are in force.

use std::{fmt, path::Path, process::Stdio, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use proxy::watch::Event;
use serde::{Deserialize, Serialize};

use super::{
    daemon::{self, DaemonFigures},
    engine::{self, Engine},
    figures::{Samples, Spent, measure as timed, memory_kb, millis, rounded, slab_kb},
    peer::{self, PeerFigures},
    workload::{self, Cluster, Size, VISITORS},
};
use crate::{host::Host, process::program};

/// How often each change is made, back to back.
const CHANGES: u32 = VISITORS;

/// How often a change is made after a second in which nothing happened.
const IDLE_CHANGES: u32 = 5;

/// Objects made at a time, before they are taken in: what makes them is not measured.
const AT_A_TIME: usize = 1_000;

/// What `bench sync` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct SyncFigures {
    #[serde(flatten)]
    engine: EngineFigures,
    #[serde(flatten)]
    daemon: DaemonFigures,
    #[serde(flatten)]
    peer: PeerFigures,
    /// How many times the peer's CPU time for a full sync is ours.
    full_sync_ratio: Option<f64>,
    /// How many times the peer's time for a replaced endpoint is ours.
    replace_ratio: Option<f64>,
}

/// What the measured process prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct EngineFigures {
    services: u32,
    endpoints: u32,
    full_sync_cpu_ms: f64,
    full_sync_wall_ms: f64,
    replace_p50_us: f64,
    replace_p99_us: f64,
    replace_idle_p50_us: f64,
    replace_idle_cpu_p50_us: f64,
    resize_p50_us: f64,
    resize_p99_us: f64,
    add_p50_us: f64,
    add_p99_us: f64,
    remove_p50_us: f64,
    remove_p99_us: f64,
    burst_1000_ms: f64,
    restart_writes: u32,
    restart_ms: f64,
    restart_cpu_ms: f64,
    rss_kb: u64,
    slab_kb: u64,
}

/// Measures everything: ours in a process of its own, the daemon, and then the peer.
pub(super) fn measure(size: Size, fairway_proxy: &Path) -> Result<SyncFigures> {
    let engine = in_own_process(size).context("measure the engine")?;
    let daemon = daemon::measure(size, fairway_proxy).context("measure the daemon")?;
    let peer = peer::measure(size).context("measure kube-proxy's layout")?;
    let full_sync = peer.peer_full_sync_cpu_ms.map(|peer| peer / engine.full_sync_cpu_ms);
    let replace = peer.peer_replace_ms.map(|peer| peer * 1e3 / engine.replace_p50_us);
    Ok(SyncFigures {
        engine,
        daemon,
        peer,
        full_sync_ratio: full_sync.map(|ratio| rounded(ratio, 10.0)),
        replace_ratio: replace.map(|ratio| rounded(ratio, 10.0)),
    })
}

fn in_own_process(size: Size) -> Result<EngineFigures> {
    let host = Host::make("engine")?;
    let own = std::env::current_exe().context("find this program's file")?;
    let mut command = program(own);
    command.args(["bench", "sync", "--stage", "engine"]);
    command.args(["--services", &size.services.to_string(), "--endpoints", &size.endpoints.to_string()]);
    let output = host.run(|| command.stderr(Stdio::inherit()).output())?.context("start it")?;
    ensure!(output.status.success(), "it ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("read what it printed")
}

/// Measures the engine alone, in the calling process and its network namespace.
pub(super) fn measure_engine(size: Size) -> Result<EngineFigures> {
    let slab_before = slab_kb()?;
    let mut course = Course { engine: Engine::open()?, cluster: Cluster::new(size) };
    let full_sync = course.start()?;
    let slab_kb = slab_kb()?.saturating_sub(slab_before);

    let mut replace = course.each_time(|cluster, turn| {
        let number = cluster.pick(turn);
        [cluster.replace(number)]
    })?;
    let mut resize = course.each_time(|cluster, turn| {
        let number = cluster.pick(turn);
        if (turn / size.services).is_multiple_of(2) {
            [cluster.grow(number)]
        } else {
            [cluster.shrink(number)]
        }
    })?;
    let mut add = course.each_time(|cluster, turn| cluster.added(size.services + turn))?;
    let mut remove = course.each_time(|_, turn| workload::removed(size.services + turn))?;
    let burst = course.burst()?;
    let (mut idle, mut idle_cpu) = (Samples::default(), Samples::default());
    for turn in 0..IDLE_CHANGES {
        course.engine.settle()?;
        thread::sleep(Duration::from_secs(1));
        let number = course.cluster.pick(turn);
        let event = course.cluster.replace(number);
        let spent = course.change([event])?;
        idle.add(spent.wall);
        idle_cpu.add(spent.cpu);
    }
    course.engine.settle()?;
    let rss_kb = memory_kb(std::process::id(), "VmHWM")?;

    let (restart, restart_writes) = course.restart()?;
    Ok(EngineFigures {
        services: size.services,
        endpoints: size.endpoints,
        full_sync_cpu_ms: millis(full_sync.cpu),
        full_sync_wall_ms: millis(full_sync.wall),
        replace_p50_us: replace.percentile_us(50),
        replace_p99_us: replace.percentile_us(99),
        replace_idle_p50_us: idle.percentile_us(50),
        replace_idle_cpu_p50_us: idle_cpu.percentile_us(50),
        resize_p50_us: resize.percentile_us(50),
        resize_p99_us: resize.percentile_us(99),
        add_p50_us: add.percentile_us(50),
        add_p99_us: add.percentile_us(99),
        remove_p50_us: remove.percentile_us(50),
        remove_p99_us: remove.percentile_us(99),
        burst_1000_ms: millis(burst.wall),
        restart_writes,
        restart_ms: millis(restart.wall),
        restart_cpu_ms: millis(restart.cpu),
        rss_kb,
        slab_kb,
    })
}

/// One engine and the cluster that it is told of.
struct Course {
    engine: Engine,
    cluster: Cluster,
}

impl Course {
    /// Takes everything in and commits it. The time is until all is served, the CPU time until nothing is left to do.
    fn start(&mut self) -> Result<Spent> {
        let mut spent = Spent::default();
        let mut events = self.cluster.all();
        loop {
            let some: Vec<Event> = events.by_ref().take(AT_A_TIME).collect();
            if some.is_empty() {
                break;
            }
            spent += timed(|| some.into_iter().for_each(|event| self.engine.take(event))).1;
        }
        let (committed, commit) = timed(|| self.engine.commit());
        committed?;
        spent += commit;
        let (settled, rest) = timed(|| self.engine.settle());
        settled?;
        spent.cpu += rest.cpu;
        Ok(spent)
    }

    /// Makes changes at once, from the events to the kernel's acknowledgement.
    fn change(&mut self, events: impl IntoIterator<Item = Event>) -> Result<Spent> {
        let (committed, spent) = timed(|| self.engine.change(events));
        committed?;
        Ok(spent)
    }

    /// Makes a change many times, back to back.
    fn each_time<const N: usize>(
        &mut self,
        change: impl Fn(&mut Cluster, u32) -> [Event; N],
    ) -> Result<Samples> {
        self.engine.settle()?;
        let mut samples = Samples::default();
        for turn in 0..CHANGES {
            let events = change(&mut self.cluster, turn);
            samples.add(self.change(events)?.wall);
        }
        Ok(samples)
    }

    /// A thousand endpoints are replaced at once.
    fn burst(&mut self) -> Result<Spent> {
        self.engine.settle()?;
        let events: Vec<_> = (0..CHANGES)
            .map(|turn| {
                let number = self.cluster.pick(turn);
                self.cluster.replace(number)
            })
            .collect();
        self.change(events)
    }

    /// Starts anew with nothing changed. Returns how many transactions were written, too.
    fn restart(self) -> Result<(Spent, u32)> {
        drop(self.engine);
        let before = engine::transactions()?;
        let mut next = Course { engine: Engine::open()?, cluster: self.cluster };
        let spent = next.start()?;
        Ok((spent, engine::transactions()?.wrapping_sub(before)))
    }
}

impl fmt::Display for EngineFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = self;
        writeln!(f, "{} services × {} endpoints", e.services, e.endpoints)?;
        writeln!(f, "  {:<28}{:>10} ms CPU {:>10} ms", "full sync", e.full_sync_cpu_ms, e.full_sync_wall_ms)?;
        writeln!(f, "  {:<28}{:>10} ms", "1,000 changes at once", e.burst_1000_ms)?;
        writeln!(
            f,
            "  {:<28}{:>10} ms     {:>10} writes",
            "restart, nothing changed", e.restart_ms, e.restart_writes
        )?;
        writeln!(f, "  one change, back to back:          p50          p99")?;
        for (what, p50, p99) in [
            ("endpoint replaced", e.replace_p50_us, e.replace_p99_us),
            ("one endpoint more", e.resize_p50_us, e.resize_p99_us),
            ("service added", e.add_p50_us, e.add_p99_us),
            ("service removed", e.remove_p50_us, e.remove_p99_us),
        ] {
            writeln!(f, "  {what:<28}{p50:>10} µs{p99:>10} µs")?;
        }
        writeln!(f, "  {:<28}{:>10} µs", "endpoint replaced, when idle", e.replace_idle_p50_us)?;
        writeln!(
            f,
            "  {:<28}{:>10} kB     {:>10} kB in the kernel, about",
            "memory, at most", e.rss_kb, e.slab_kb
        )
    }
}

impl fmt::Display for SyncFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.engine, self.daemon, self.peer)?;
        if let (Some(full_sync), Some(replace)) = (self.full_sync_ratio, self.replace_ratio) {
            write!(
                f,
                "\n  Fairway's full sync is {full_sync} times as fast, a replaced endpoint {replace} times"
            )?;
        }
        Ok(())
    }
}

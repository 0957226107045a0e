//! The daemon itself, as people run it, on a directory of manifests: how soon it serves, how much memory it has.

use std::{
    fmt::{self, Write as _},
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use dataplane::{nft::Socket, packet::Family};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;

use super::{
    figures::{memory_kb, millis},
    workload::{Backends, ENDPOINT_PORT, OWN_NODE, SERVICE_PORT, Size, node_name, service_name},
};
use crate::{
    host::Host,
    process::{Process, program},
};

/// In a place that each host has for itself.
const MANIFESTS: &str = "/var/lib/fairway/manifests";

/// Services in one file.
const IN_A_FILE: usize = 500;

/// How long the daemon may take to serve everything.
const PATIENCE: Duration = Duration::from_mins(2);

/// After so long without a word from the daemon, it may have said all it has to say.
const QUIET: Duration = Duration::from_secs(2);

/// What is measured of the daemon.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(clippy::struct_field_names, reason = "the keys that are printed")]
pub(super) struct DaemonFigures {
    daemon_start_ms: f64,
    daemon_rss_kb: u64,
    daemon_peak_rss_kb: u64,
}

/// Starts the daemon on manifests of that size, and waits until the kernel has them all.
pub(super) fn measure(size: Size, fairway_proxy: &Path) -> Result<DaemonFigures> {
    let host = Host::make(OWN_NODE)?;
    host.run(|| {
        write_manifests(size).context("write manifests")?;
        let mut daemon = Daemon::start(fairway_proxy, &["--manifests", MANIFESTS])?;
        Ok(DaemonFigures {
            daemon_start_ms: millis(daemon.await_all(size)?),
            daemon_rss_kb: memory_kb(daemon.id(), "VmRSS")?,
            daemon_peak_rss_kb: memory_kb(daemon.id(), "VmHWM")?,
        })
    })?
}

/// The daemon, on the calling thread's machine.
pub(super) struct Daemon {
    process: Process,
    began: Instant,
    /// What it says, and when.
    said: Receiver<(Instant, String)>,
}

impl Daemon {
    /// Starts it.
    #[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
    pub(super) fn start(fairway_proxy: &Path, source: &[&str]) -> Result<Self> {
        let began = Instant::now();
        let mut command = program(fairway_proxy);
        command.args(source).args(["--hostname-override", OWN_NODE, "--routes", "none"]);
        let mut process = Process::start(command.stderr(Stdio::piped())).context("start the daemon")?;
        let said = listen(&mut process)?;
        Ok(Self { process, began, said })
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it has committed and the kernel has everything, and says how long that took from its start on. What it says is when to
    /// look, as is that it has nothing more to say; what counts is what the kernel holds.
    #[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
    pub(super) fn await_all(&mut self, size: Size) -> Result<Duration> {
        let (mut has_committed, mut last) = (false, String::new());
        while self.began.elapsed() < PATIENCE {
            let news = self.said.recv_timeout(QUIET);
            let is_commit = news.as_ref().is_ok_and(|(_, line)| line.contains("committed"));
            has_committed |= is_commit;
            let is_time = is_commit || has_committed && news.is_err();
            let at = news.as_ref().map_or_else(|_| Instant::now(), |(at, _)| *at);
            if is_time && serves(size)? {
                return Ok(at.duration_since(self.began));
            }
            match news {
                Ok((_, line)) => last = line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        bail!("it does not serve everything after {} s; it said last: {last}", self.began.elapsed().as_secs())
    }

    /// Ends it as an update would (SIGTERM), and waits until it is gone.
    pub(super) fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.id().try_into()?), Signal::SIGTERM).context("stop the daemon")?;
        self.process.child().wait().context("wait for the daemon")?;
        Ok(())
    }
}

/// Hands on each line of the daemon's log with the time at which it came.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn listen(daemon: &mut Process) -> Result<Receiver<(Instant, String)>> {
    let stderr = daemon.child().stderr.take().context("read its log")?;
    let (sender, said) = mpsc::channel();
    thread::spawn(move || {
        let lines = BufReader::new(stderr).lines().map_while(Result::ok);
        lines.map(|line| (Instant::now(), line)).try_for_each(|said| sender.send(said))
    });
    Ok(said)
}

/// Whether the kernel leads the address of every service somewhere, and has every endpoint.
fn serves(size: Size) -> Result<bool> {
    let Some(held) = Socket::open()?.held(Family::Ip)? else { return Ok(false) };
    let elements = |map: &str| held.maps.get(map).map_or(0, |map| map.elements.len());
    let endpoints = u64::from(size.services) * u64::from(size.endpoints);
    Ok(elements("cluster-vips") >= usize::try_from(size.services)?
        && elements("slots") >= usize::try_from(endpoints)?)
}

#[expect(clippy::disallowed_methods, reason = "plays the user")]
fn write_manifests(size: Size) -> Result<()> {
    fs::create_dir(MANIFESTS)?;
    let numbers: Vec<u32> = (0..size.services).collect();
    for (file, numbers) in numbers.chunks(IN_A_FILE).enumerate() {
        let documents: Vec<_> = numbers.iter().map(|number| documents(size, *number)).collect();
        fs::write(Path::new(MANIFESTS).join(format!("{file}.yaml")), documents.concat())?;
    }
    Ok(())
}

/// A service and its endpoints, as `kubectl get -o yaml` shows what matters of them.
fn documents(size: Size, number: u32) -> String {
    let name = service_name(number);
    let (namespace, name) = (name.namespace, name.name);
    let cluster_ip = Size::service_ip(number);
    let mut text = format!(
        "---
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {namespace}
spec:
  type: ClusterIP
  clusterIP: {cluster_ip}
  clusterIPs: [{cluster_ip}]
  selector: {{app: {name}}}
  ports:
  - {{name: http, protocol: TCP, port: {SERVICE_PORT}, targetPort: {ENDPOINT_PORT}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: {namespace}
  labels: {{kubernetes.io/service-name: {name}}}
addressType: IPv4
ports:
- {{name: http, protocol: TCP, port: {ENDPOINT_PORT}}}
endpoints:
"
    );
    let backends = Backends { count: size.endpoints, is_replaced: false };
    for (seat, ip) in (number..).zip(size.endpoint_ips(number, backends)) {
        let _ = writeln!(
            text,
            "- {{addresses: [{ip}], nodeName: {}, conditions: {{ready: true, serving: true, terminating: false}}}}",
            node_name(seat)
        );
    }
    text
}

impl fmt::Display for DaemonFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the daemon, from manifests:")?;
        writeln!(f, "  {:<28}{:>10} ms", "start until all is served", self.daemon_start_ms)?;
        let (now, peak) = (self.daemon_rss_kb, self.daemon_peak_rss_kb);
        writeln!(f, "  {:<28}{now:>10} kB     {peak:>10} kB at most", "memory")
    }
}

//! What the kernel says of this process, under the names that every Prometheus client uses. Read when asked for.

use std::{
    fmt, fs,
    time::{Duration, SystemTime},
};

use nix::sys::{
    resource::{Resource, UsageWho, getrlimit, getrusage},
    time::TimeValLike,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// This process.
#[derive(Debug)]
pub(super) struct Process {
    began: SystemTime,
}

impl Process {
    /// Takes note of when it began: now.
    #[expect(clippy::disallowed_methods, reason = "told in the time of the wall")]
    pub(super) fn begin() -> Self {
        Self { began: SystemTime::now() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        if let Some(seconds) = cpu_seconds() {
            let help = "User and system time of the process";
            add(&mut encoder, "process_cpu_seconds", help, &ConstCounter::new(seconds))?;
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (name, help, field) in [
            ("process_resident_memory_bytes", "Memory of the process that is there", "VmRSS:"),
            ("process_virtual_memory_bytes", "Addresses of the process that mean something", "VmSize:"),
        ] {
            if let Some(bytes) = bytes(&status, field) {
                add(&mut encoder, name, help, &ConstGauge::new(bytes))?;
            }
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            let open = u64::try_from(open.count()).unwrap_or(u64::MAX).saturating_sub(1); // the one that reads this
            add(&mut encoder, "process_open_fds", "Open files", &ConstGauge::new(open))?;
        }
        if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            add(&mut encoder, "process_max_fds", "Files that may be open", &ConstGauge::new(soft))?;
        }
        let began = self.began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let help = "When the process began, in seconds since 1970";
        add(&mut encoder, "process_start_time_seconds", help, &ConstGauge::new(began.as_secs_f64()))
    }
}

fn add(encoder: &mut DescriptorEncoder, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn cpu_seconds() -> Option<f64> {
    let used = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let used = (used.user_time() + used.system_time()).num_microseconds();
    Some(Duration::from_micros(used.try_into().ok()?).as_secs_f64())
}

/// A line of `/proc/self/status` that is in kB.
fn bytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

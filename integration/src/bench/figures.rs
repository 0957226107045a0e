//! How long, how much CPU, how much memory: taking the measure, and rounding it for people.

use std::{
    fs, io,
    ops::AddAssign,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeVal,
    },
    time::{ClockId, clock_gettime},
};

/// What something took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) wall: Duration,
    /// Time on a CPU, in the program and in the kernel for it.
    pub(super) cpu: Duration,
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

/// Does something in this process, and says what it took.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
pub(super) fn measure<T>(work: impl FnOnce() -> T) -> (T, Spent) {
    let (wall, cpu) = (Instant::now(), cpu_of_this_process());
    let done = work();
    let spent = Spent { wall: wall.elapsed(), cpu: cpu_of_this_process().saturating_sub(cpu) };
    (done, spent)
}

/// Runs something that starts processes and waits for their end, and says what those took.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
pub(super) fn measure_children<T>(work: impl FnOnce() -> T) -> (T, Spent) {
    let (wall, cpu) = (Instant::now(), cpu_of_children());
    let done = work();
    let spent = Spent { wall: wall.elapsed(), cpu: cpu_of_children().saturating_sub(cpu) };
    (done, spent)
}

/// CPU time of this process since it began.
pub(super) fn cpu_of_this_process() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

fn cpu_of_children() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Duration::ZERO };
    let of = |time: TimeVal| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
        Duration::from_secs(seconds)
            + Duration::from_micros(u64::try_from(time.tv_usec()).unwrap_or_default())
    };
    of(usage.user_time()) + of(usage.system_time())
}

/// One measure, taken many times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Samples(Vec<Duration>);

impl Samples {
    pub(super) fn add(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// The value that `percent` of all do not exceed, in microseconds; 100 gives the largest.
    pub(super) fn percentile_us(&mut self, percent: usize) -> f64 {
        self.0.sort_unstable();
        let rank = (self.0.len() * percent).div_ceil(100).max(1) - 1;
        micros(self.0.get(rank).copied().unwrap_or_default())
    }
}

/// The middle one of a few numbers.
pub(super) fn median(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Milliseconds, to a hundredth.
pub(super) fn millis(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3, 100.0)
}

/// Microseconds, to a tenth.
pub(super) fn micros(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e6, 10.0)
}

/// A number to one part of `parts`.
pub(super) fn rounded(number: f64, parts: f64) -> f64 {
    (number * parts).round() / parts
}

/// A line of a process's status, in kB: `VmRSS`, or `VmHWM` for the largest it ever was.
pub(super) fn memory_kb(process: u32, line: &str) -> io::Result<u64> {
    kb_in(&format!("/proc/{process}/status"), line)
}

/// Memory of the kernel's own that cannot be taken back, of the whole machine.
pub(super) fn slab_kb() -> io::Result<u64> {
    kb_in("/proc/meminfo", "SUnreclaim")
}

fn kb_in(file: &str, name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(file)?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let value = lines.filter(|(key, _)| *key == name).map(|(_, value)| value).next();
    let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("no {name} in {file}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_samples() {
        let mut samples = Samples((1..=200).rev().map(Duration::from_micros).collect());

        let percentiles = [0, 50, 99, 100].map(|percent| samples.percentile_us(percent));
        assert_eq!(percentiles.map(|us| us.to_string()), ["1", "100", "198", "200"]);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]).to_string(), "2");
    }
}

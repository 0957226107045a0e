//! When to try again. Pure: no clock inside.

use std::time::Duration;

/// The pause after a failure, doubled by each further one.
const FIRST: Duration = Duration::from_secs(1);

/// The longest pause, kube-proxy's `syncPeriod`.
const LONGEST: Duration = Duration::from_secs(30);

/// Counts failures in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    failures: u32,
}

impl Pace {
    /// How long to wait before the next attempt, after one that did all or left something to do.
    pub fn after(&mut self, is_complete: bool) -> Option<Duration> {
        if is_complete {
            self.failures = 0;
            return None;
        }
        let pause = FIRST.saturating_mul(1 << self.failures.min(5)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute_and_start_over_after_a_success() {
        let mut pace = Pace::default();

        let pauses: Vec<_> = (0..7).map(|_| pace.after(false).unwrap().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pace.after(true), None);
        assert_eq!(pace.after(false), Some(FIRST));
    }
}

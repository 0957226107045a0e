//! How long to wait before the API server is asked again. Pure: luck is given.

use std::time::Duration;

/// After the first failure, before luck.
const FIRST: Duration = Duration::from_millis(200);

/// At most, before luck.
const LONGEST: Duration = Duration::from_secs(30);

/// Failures in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It failed: the pause doubles each time, up to half a minute. `luck` is any number, and makes it longer by up to as much again, so that
    /// the nodes of a cluster do not come back all at once.
    pub(super) fn failed(&mut self, luck: u64) -> Duration {
        let doubled = 1_u32.checked_shl(self.failures).and_then(|factor| FIRST.checked_mul(factor));
        let pause = doubled.unwrap_or(LONGEST).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let millionths = u32::try_from(luck % 1_000_000).unwrap_or(0);
        pause + pause.mul_f64(f64::from(millionths) / 1e6)
    }

    /// It succeeded.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::default();

        let pauses: Vec<u128> = (0..40).map(|_| backoff.failed(0).as_millis()).collect();
        assert_eq!(pauses[..9], [200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000]);
        assert!(pauses[9..].iter().all(|pause| *pause == 30_000));

        backoff.succeeded();
        assert_eq!(backoff.failed(0).as_millis(), 200);
    }

    #[test]
    fn luck_makes_a_pause_up_to_twice_as_long() {
        assert_eq!(Backoff::default().failed(500_000).as_millis(), 300);
        assert_eq!(
            Backoff::default().failed(u64::MAX).as_millis(),
            200 + 200 * (u128::from(u64::MAX) % 1_000_000) / 1_000_000
        );
    }
}

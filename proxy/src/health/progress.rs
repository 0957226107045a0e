//! Whether changes are served in time. Pure: times are given, as counted from any beginning.

use std::time::Duration;

/// How long a change may wait: twice kube-proxy's `syncPeriod`.
const PATIENCE: Duration = Duration::from_mins(1);

/// What waits, and since when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Progress {
    /// When the oldest change came that is not served yet.
    oldest: Option<Duration>,
    last_served: Option<Duration>,
}

impl Progress {
    /// A change has come.
    pub fn queued(&mut self, now: Duration) {
        self.oldest.get_or_insert(now);
    }

    /// All changes that have come are served.
    pub fn served(&mut self, now: Duration) {
        *self = Self { oldest: None, last_served: Some(now) };
    }

    /// Says whether no change has waited too long. So it is at the beginning.
    pub fn is_healthy(&self, now: Duration) -> bool {
        self.oldest.is_none_or(|oldest| now.saturating_sub(oldest) < PATIENCE)
    }

    /// When all was served last.
    pub fn last_served(&self) -> Option<Duration> {
        self.last_served
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_is_healthy_at_the_beginning_and_while_nothing_waits() {
        let mut progress = Progress::default();
        assert!(progress.is_healthy(at(1_000_000)));

        progress.queued(at(10));
        progress.served(at(11));

        assert!(progress.is_healthy(at(1_000_000)));
        assert_eq!(progress.last_served(), Some(at(11)));
    }

    #[test]
    fn the_oldest_change_counts_however_many_come_after_it() {
        let mut progress = Progress::default();
        progress.queued(at(10));
        progress.queued(at(60));

        assert!(progress.is_healthy(at(69)));
        assert!(!progress.is_healthy(at(70)));
    }

    #[test]
    fn it_recovers_at_once() {
        let mut progress = Progress::default();
        progress.queued(at(10));
        assert!(!progress.is_healthy(at(100)));

        progress.served(at(100));
        progress.queued(at(101));

        assert!(progress.is_healthy(at(160)));
        assert!(!progress.is_healthy(at(161)));
    }
}

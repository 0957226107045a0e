//! When to try again. Pure: no clock inside.

use std::time::Duration;

/// Long enough for every packet that was being looked up to have been sent on.
pub const SETTLED: Duration = Duration::from_millis(100);

/// The first pause after a failure, doubled by each further one.
const FIRST: Duration = Duration::from_secs(1);

/// The longest pause, kube-proxy's `syncPeriod`.
const LONGEST: Duration = Duration::from_secs(30);

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Nothing is left to do.
    Done,
    /// The rest may go in a moment.
    Unfinished,
    /// Something went wrong.
    Failed,
}

/// Counts failures in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    failures: u32,
}

impl Pace {
    /// How long to wait before the next attempt, if there is to be one.
    pub fn after(&mut self, outcome: Outcome) -> Option<Duration> {
        match outcome {
            Outcome::Done => {
                self.failures = 0;
                None
            }
            Outcome::Unfinished => {
                self.failures = 0;
                Some(SETTLED)
            }
            Outcome::Failed => {
                let pause = FIRST.saturating_mul(1 << self.failures.min(5)).min(LONGEST);
                self.failures += 1;
                Some(pause)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute_and_start_over_after_a_success() {
        let mut pace = Pace::default();

        let pauses: Vec<_> = (0..7).map(|_| pace.after(Outcome::Failed).unwrap().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pace.after(Outcome::Done), None);
        assert_eq!(pace.after(Outcome::Failed), Some(FIRST));
    }

    #[test]
    fn what_is_unfinished_goes_on_soon() {
        assert_eq!(Pace::default().after(Outcome::Unfinished), Some(SETTLED));
    }
}

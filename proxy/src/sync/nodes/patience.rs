//! How soon somebody who interferes with links or routes is answered. Pure: no clock inside.
//!
//! In: how long ago he last did. Out: how long to wait. At once, as a rule, for a link may well flap a few times, and every moment counts;
//! more and more slowly where somebody undoes what is put back again and again, so that neither he nor we keep the machine busy.

use std::time::Duration;

/// How many are answered at once.
const AT_ONCE: u32 = 32;

/// How much longer each further one waits.
const STEP: Duration = Duration::from_millis(50);

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(5);

/// After so long without interference, counted from the answer to the last, all is forgotten.
const QUIET: Duration = Duration::from_secs(5);

/// Counts those who interfered, one soon after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Patience {
    times: u32,
    /// How long the last of them waits for an answer.
    pause: Duration,
}

impl Patience {
    /// Says how long to wait after interference, when the last was `since` ago.
    pub(super) fn pause(&mut self, since: Duration) -> Duration {
        // While he waits there is nothing that he could undo: that he keeps quiet then says nothing of him.
        let quiet = since.saturating_sub(self.pause);
        self.times = if quiet > QUIET { 0 } else { self.times.saturating_add(1) };
        self.pause = STEP.saturating_mul(self.times.saturating_sub(AT_ONCE)).min(LONGEST);
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long one waits who undoes again and again what was put back, each time so long after that.
    fn pauses(patience: &mut Patience, after_the_answer: Duration) -> Vec<Duration> {
        let mut since = Duration::MAX;
        let next = |_| {
            let pause = patience.pause(since);
            since = pause + after_the_answer;
            pause
        };
        (0..400).map(next).collect()
    }

    #[test]
    fn those_who_interfere_again_and_again_are_answered_more_and_more_slowly() {
        for after_the_answer in [Duration::from_millis(1), Duration::from_secs(3)] {
            let mut patience = Patience::default();
            let pauses = pauses(&mut patience, after_the_answer);

            assert!(pauses.iter().take(32).all(Duration::is_zero));
            assert!(pauses.is_sorted() && pauses.last() == Some(&LONGEST), "{pauses:?}");
            assert_eq!(patience.pause(LONGEST + 2 * QUIET), Duration::ZERO, "after a while all is forgotten");
        }
    }
}

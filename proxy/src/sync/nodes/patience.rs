//! How soon somebody who interferes with links or routes is answered. Pure: no clock inside.
//!
//! In: how long ago he last did. Out: how long to wait. At once, as a rule, for a link may well flap a few times, and every moment counts;
//! more and more slowly where somebody undoes what is put back again and again, so that neither he nor we keep the machine busy.

use std::time::Duration;

/// How many are answered at once.
const AT_ONCE: u32 = 32;

/// How much longer each further one waits.
const STEP: Duration = Duration::from_millis(50);

/// The longest wait; and after so long without interference, all is forgotten.
const LONGEST: Duration = Duration::from_secs(5);

/// Counts those who interfered, one soon after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Patience {
    times: u32,
}

impl Patience {
    /// Says how long to wait after interference, when the last was `since` ago.
    pub(super) fn pause(&mut self, since: Duration) -> Duration {
        self.times = if since > LONGEST { 0 } else { self.times.saturating_add(1) };
        STEP.saturating_mul(self.times.saturating_sub(AT_ONCE)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_interfere_again_and_again_are_answered_more_and_more_slowly() {
        let mut patience = Patience::default();
        let pauses: Vec<_> = (0..150).map(|_| patience.pause(Duration::from_millis(1))).collect();

        assert!(pauses.iter().take(32).all(Duration::is_zero));
        assert!(pauses.is_sorted() && pauses.last() == Some(&LONGEST), "{pauses:?}");
        assert_eq!(patience.pause(2 * LONGEST), Duration::ZERO, "after a while all is forgotten");
    }
}

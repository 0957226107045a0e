//! How long to wait before a repair, when another one undoes them. Pure: no clock inside.

use std::time::Duration;

/// So long without being undone makes up for one repair: at that pace, repairs cost next to nothing.
const PEACE: Duration = Duration::from_secs(2);

/// So many in a row are made at once.
const AT_ONCE: u32 = 5;

/// The first pause, doubled by each further repair.
const FIRST: Duration = Duration::from_millis(100);

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(10);

/// So many in a row make the pause its longest; more are not counted.
const MOST: u32 = AT_ONCE + 7;

/// Counts repairs in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Contest {
    repairs: u32,
}

/// A pause before a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    /// How long.
    pub(super) length: Duration,
    /// Whether it is the first of a row.
    pub(super) is_new: bool,
}

impl Contest {
    /// How long to wait before a repair, when the last one was `since` ago.
    pub(super) fn pause(&mut self, since: Duration) -> Pause {
        let forgiven = u32::try_from(since.as_secs() / PEACE.as_secs()).unwrap_or(u32::MAX);
        self.repairs = self.repairs.saturating_sub(forgiven);
        let over = self.repairs.checked_sub(AT_ONCE);
        self.repairs = (self.repairs + 1).min(MOST);
        let length = |over: u32| FIRST.saturating_mul(1 << over).min(LONGEST);
        Pause { length: over.map_or(Duration::ZERO, length), is_new: over == Some(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_repairs_are_made_at_once_and_those_after_them_ever_later() {
        let mut contest = Contest::default();

        let pauses: Vec<_> = (0..14).map(|_| contest.pause(Duration::ZERO).length.as_millis()).collect();

        assert_eq!(pauses, [0, 0, 0, 0, 0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    }

    #[test]
    fn a_row_begins_once_and_ends_with_a_time_of_peace() {
        let mut contest = Contest::default();

        let begun: Vec<_> = (0..30).filter(|_| contest.pause(Duration::ZERO).is_new).collect();

        assert_eq!(begun, [5]);
        assert_eq!(contest.pause(PEACE * MOST).length, Duration::ZERO);
    }

    #[test]
    fn who_comes_now_and_then_is_answered_at_once_for_ever() {
        let mut contest = Contest::default();

        assert!((0..100).all(|_| contest.pause(PEACE).length.is_zero()));
        assert!(!(0..100).all(|_| contest.pause(PEACE / 2).length.is_zero()));
    }
}

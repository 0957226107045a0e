//! How long to wait before a repair, when another one undoes them. Pure: no clock inside.

use std::time::Duration;

/// Repairs this far apart have nothing to do with each other.
const APART: Duration = Duration::from_secs(10);

/// So many in a row are made at once.
const AT_ONCE: u32 = 5;

/// The first pause, doubled by each further repair.
const FIRST: Duration = Duration::from_millis(100);

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(10);

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
        if since > APART {
            self.repairs = 0;
        }
        let over = self.repairs.checked_sub(AT_ONCE);
        self.repairs = self.repairs.saturating_add(1);
        let length = |over: u32| FIRST.saturating_mul(1 << over.min(7)).min(LONGEST);
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

        let begun: Vec<_> = (0..8).filter(|_| contest.pause(Duration::ZERO).is_new).collect();

        assert_eq!(begun, [5]);
        assert_eq!(contest.pause(APART * 2), Pause { length: Duration::ZERO, is_new: false });
    }
}

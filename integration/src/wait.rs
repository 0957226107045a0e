//! Waiting for a condition: the one place of the lab that polls and the one that reads the clock for it.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long anything in the lab may take until it counts as broken, unless said otherwise.
pub const PATIENCE: Duration = Duration::from_mins(1);

const PAUSE: Duration = Duration::from_millis(10);

/// A condition did not come true.
#[derive(Debug, thiserror::Error)]
#[error("waited {}s for {awaited}: {last}", patience.as_secs())]
pub struct TimedOut {
    /// What was waited for.
    pub awaited: String,
    /// What was seen at the last look.
    pub last: String,
    /// How long.
    pub patience: Duration,
}

/// Looks until `look` gives a value, at most for [`PATIENCE`]. What it says instead of a value is told at the end.
pub fn until<T>(awaited: &str, look: impl FnMut() -> Result<T, String>) -> Result<T, TimedOut> {
    until_within(PATIENCE, awaited, look)
}

/// Looks until `look` gives a value, at most for `patience`.
#[expect(clippy::disallowed_methods, reason = "a wait reads the clock")]
pub fn until_within<T>(
    patience: Duration,
    awaited: &str,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T, TimedOut> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(last) if start.elapsed() >= patience => {
                return Err(TimedOut { awaited: awaited.to_owned(), last, patience });
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

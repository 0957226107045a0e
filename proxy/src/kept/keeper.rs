//! When the state is to be kept, and the task that does it, so that the sync never waits for a disk.
//!
//! In: word of changes, and the state. Out: what a [`Store`] holds is at most a minute behind while the API server answers, as the daemon was when
//! it was asked to stop, and confirmed once a day where nothing changes.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tracing::{debug, warn};

use super::store::Store;
use crate::{objects::Object, state::State};

/// How often it is written, at most.
const SHORTEST: Duration = Duration::from_mins(1);

/// How often it is written, at least: what is too old is not used.
const LONGEST: Duration = Duration::from_hours(24);

/// The sync's side: says when to keep the state.
#[derive(Debug)]
pub struct Turns {
    to: mpsc::Sender<Vec<Object>>,
    /// None: nothing is confirmed yet, so nothing is worth to be kept.
    due: Option<Instant>,
    kept_at: Option<Instant>,
    is_different: bool,
}

/// The task's side: keeps what it is given.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    from: mpsc::Receiver<Vec<Object>>,
}

/// Both sides.
pub fn keep_in(store: Store) -> (Turns, Keeper) {
    let (to, from) = mpsc::channel(1);
    (Turns { to, due: None, kept_at: None, is_different: false }, Keeper { store, from })
}

impl Turns {
    /// What is known is what the API server says.
    pub fn confirmed(&mut self, now: Instant) {
        self.due = Some(now);
        self.is_different = true;
    }

    /// Something changed.
    pub fn changed(&mut self, now: Instant) {
        self.is_different = true;
        if self.due.is_some() {
            self.due = Some(self.kept_at.map_or(now, |at| (at + SHORTEST).max(now)));
        }
    }

    /// When to keep it.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Gives the state away to be kept.
    pub fn keep(&mut self, state: &State, now: Instant) {
        // Whoever is still writing the one before takes this one next time.
        let is_taken = self.to.try_send(state.objects().collect()).is_ok();
        self.is_different &= !is_taken;
        self.kept_at = Some(now);
        self.due = Some(now + if is_taken { LONGEST } else { SHORTEST });
    }

    /// The last time, before the daemon ends.
    pub async fn keep_last(self, state: &State) {
        if self.due.is_some() && self.is_different {
            let _ = self.to.send(state.objects().collect()).await; // or the keeper has ended, and said why
        }
    }
}

impl Keeper {
    /// Keeps what it is given until no more can come. What cannot be kept is tried again, until something newer is given.
    pub async fn run(mut self) {
        let (mut owed, mut is_told) = (None, false);
        loop {
            let given = tokio::select! {
                given = self.from.recv() => given,
                () = sleep(SHORTEST), if owed.is_some() => owed.take(),
            };
            let is_last = given.is_none();
            let Some(objects) = given.or_else(|| owed.take()) else { return };
            owed = self.keep(objects, &mut is_told).await;
            if is_last {
                return;
            }
        }
    }

    /// Returns what could not be kept.
    async fn keep(&self, objects: Vec<Object>, is_told: &mut bool) -> Option<Vec<Object>> {
        let store = self.store.clone();
        let saved = spawn_blocking(move || {
            let saved = store.save(&objects);
            (saved, objects)
        });
        match saved.await {
            Ok((Ok(bytes), objects)) => {
                debug!(objects = objects.len(), bytes, "kept what is known");
                *is_told = false;
                None
            }
            Ok((Err(error), objects)) => {
                if !*is_told {
                    let error: &(dyn std::error::Error + 'static) = &error;
                    warn!(
                        error,
                        file = self.store.path(),
                        "what is known is not kept: a start without the API server would have nothing to serve"
                    );
                    *is_told = true;
                }
                Some(objects)
            }
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn turns() -> (Turns, mpsc::Receiver<Vec<Object>>) {
        let (to, from) = mpsc::channel(1);
        (Turns { to, due: None, kept_at: None, is_different: false }, from)
    }

    #[tokio::test]
    async fn the_state_is_kept_once_it_is_confirmed_and_then_once_a_minute_at_most_and_once_a_day_at_least() {
        let ((mut turns, mut given), state, now) = (turns(), State::new("w1"), Instant::now());

        turns.changed(now);
        assert_eq!(turns.due(), None);
        turns.confirmed(now);
        assert_eq!(turns.due(), Some(now));
        turns.keep(&state, now);
        assert_eq!(given.try_recv(), Ok(Vec::new()));
        assert_eq!(turns.due(), Some(now + LONGEST));

        turns.changed(now + SECOND);
        assert_eq!(turns.due(), Some(now + SHORTEST));
        turns.keep(&state, now + SHORTEST);
        turns.changed(now + 5 * SHORTEST);
        assert_eq!(turns.due(), Some(now + 5 * SHORTEST));
    }

    #[tokio::test]
    async fn what_the_keeper_has_no_time_for_is_kept_later() {
        let ((mut turns, mut given), state, now) = (turns(), State::new("w1"), Instant::now());
        turns.confirmed(now);
        turns.keep(&state, now);

        turns.changed(now + SHORTEST);
        turns.keep(&state, now + SHORTEST);
        assert_eq!(turns.due(), Some(now + 2 * SHORTEST));

        given.recv().await.unwrap();
        turns.keep_last(&state).await;
        assert_eq!(given.recv().await, Some(Vec::new()));
        assert_eq!(given.recv().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_kept_is_tried_again_also_when_no_more_comes() {
        let place = tempfile::tempdir().unwrap();
        let (state, as_dir) = (place.path().join("state"), place.path().join("state/in-the-way"));
        let in_the_way = || std::fs::create_dir_all(&as_dir).unwrap();
        let gone = || std::fs::remove_dir_all(&state).unwrap();
        let owner = crate::kept::Owner { node: "w1".into(), server: "https://192.168.14.50:6443/".into() };
        let (to, from) = mpsc::channel(1);
        let keeper = Keeper { store: Store::new(place.path().to_str().unwrap(), owner), from };
        let running = tokio::spawn(keeper.run());

        in_the_way();
        to.send(Vec::new()).await.unwrap();
        to.send(Vec::new()).await.unwrap(); // the first was taken
        to.send(Vec::new()).await.unwrap(); // the second, so the first has failed
        gone();
        while !state.is_file() {
            tokio::time::sleep(SECOND).await;
            tokio::task::yield_now().await;
        }
        drop(to);
        running.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_kept_already_is_not_kept_again_at_the_end() {
        let ((mut turns, mut given), state, now) = (turns(), State::new("w1"), Instant::now());
        turns.confirmed(now);
        turns.keep(&state, now);
        given.recv().await.unwrap();

        turns.keep_last(&state).await;

        assert_eq!(given.recv().await, None);
    }
}

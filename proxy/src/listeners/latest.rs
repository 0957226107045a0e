//! The newest word about each thing, from the one who knows to the one who acts on it.
//!
//! In: words, each about a thing. Out: all that are new, at once. Whoever speaks never waits, and whoever listens slowly
//! hears less: an older word about the same thing is forgotten. So it holds no more than there are things.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;

/// What has been said and not been heard.
#[derive(Debug)]
pub struct Latest<K, V> {
    words: Mutex<BTreeMap<K, V>>,
    said: Notify,
}

impl<K, V> Default for Latest<K, V> {
    fn default() -> Self {
        Self { words: Mutex::default(), said: Notify::new() }
    }
}

impl<K: Ord, V> Latest<K, V> {
    /// Says these things.
    pub fn say(&self, words: impl IntoIterator<Item = (K, V)>) {
        let mut waiting = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(words);
        if !waiting.is_empty() {
            self.said.notify_one();
        }
    }

    /// Waits until something has been said, and takes all of it. May be dropped while it waits.
    pub async fn heard(&self) -> BTreeMap<K, V> {
        loop {
            let words = mem::take(&mut *self.words.lock().unwrap_or_else(PoisonError::into_inner));
            if !words.is_empty() {
                return words;
            }
            self.said.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn only_the_newest_word_about_each_thing_is_heard_and_once() {
        let latest = Latest::default();
        latest.say([("a", 1), ("b", 1)]);
        latest.say([("a", 2)]);

        assert_eq!(latest.heard().await, BTreeMap::from([("a", 2), ("b", 1)]));
        assert!(timeout(Duration::ZERO, latest.heard()).await.is_err());
    }

    #[tokio::test]
    async fn whoever_waits_is_woken() {
        let latest = Latest::default();

        let (heard, ()) = tokio::join!(latest.heard(), async { latest.say([("a", 1)]) });

        assert_eq!(heard, BTreeMap::from([("a", 1)]));
    }
}

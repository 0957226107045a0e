//! What was kept of the last time, for feeds whose API server does not answer.
//!
//! In: where it is kept. Out: the objects of each kind, once. It is read when the first feed asks, and not at all where none does.

use std::collections::BTreeMap;

use tokio::{
    sync::{Mutex, OnceCell},
    task::spawn_blocking,
};
use tracing::{info, warn};

use crate::{
    kept::store::Store,
    objects::{Kind, Object},
};

/// The objects of each kind that nobody has asked for yet.
type Left = BTreeMap<Kind, Vec<Object>>;

/// What was kept.
#[derive(Debug)]
pub(super) struct Memory {
    store: Store,
    /// None: there is nothing that is of use.
    left: OnceCell<Option<Mutex<Left>>>,
}

impl Memory {
    pub(super) fn new(store: Store) -> Self {
        Self { store, left: OnceCell::new() }
    }

    /// The objects of a kind as they were known last; `None` if that is not known. None of them is given twice.
    pub(super) async fn take(&self, kind: Kind) -> Option<Vec<Object>> {
        let left = self.left.get_or_init(|| async { self.read().await.map(Mutex::new) }).await;
        Some(left.as_ref()?.lock().await.remove(&kind).unwrap_or_default())
    }

    /// The API server has just answered what there is of a kind.
    pub(super) fn heard(&self, kind: Kind) {
        self.store.heard(kind);
    }

    /// Lets go of what nobody needs any more.
    pub(super) async fn forget(&self) {
        if let Some(Some(left)) = self.left.get() {
            left.lock().await.clear();
        }
    }

    async fn read(&self) -> Option<Left> {
        let store = self.store.clone();
        let (objects, age) = match spawn_blocking(move || store.load()).await {
            Ok(Ok(Some(read))) => read,
            Ok(Ok(None)) => {
                info!("nothing is known from an earlier run: waits for the API server");
                return None;
            }
            Ok(Err(error)) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                warn!(
                    error,
                    file = self.store.path(),
                    "what was known last is not used: waits for the API server"
                );
                return None;
            }
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        warn!(
            objects = objects.len(),
            age_s = age.as_secs(),
            "the API server does not answer: serves what was known last until it does"
        );
        let mut left = Left::new();
        for object in objects {
            left.entry(object.kind()).or_default().push(object);
        }
        Some(left)
    }
}

//! The file in which the last known state is kept.
//!
//! In: objects. Out: a file that is there whole or not at all, also after a loss of power, and only for its owner to read; or what
//! was in it, if that is of any use. Blocks: call it on a thread that may.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use dataplane::disk::{self, Directory, Durability};

use super::{Owner, Refused, decode, encode};
use crate::objects::{Kind, Object};

/// The file's name.
const FILE: &str = "state";

/// Why a state is not kept, or not used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// It says nothing that is of use.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It cannot be said.
    #[error("write the state down")]
    Encode(#[from] serde_json::Error),
}

/// Where the state of a node is kept.
#[derive(Debug, Clone)]
pub struct Store {
    directory: Directory,
    owner: Owner,
    heard: Arc<Mutex<BTreeMap<Kind, u64>>>,
}

impl Store {
    /// In this directory, which need not exist.
    pub fn new(path: &str, owner: Owner) -> Self {
        Self {
            directory: Directory::new(path, Durability::Durable).for_owner_only(),
            owner,
            heard: Arc::default(),
        }
    }

    /// The file, for people to find.
    pub fn path(&self) -> String {
        self.directory.path().join(FILE).display().to_string()
    }

    /// The API server has just answered what there is of a kind. As old as the oldest of these answers is all that is kept.
    pub fn heard(&self, kind: Kind) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, now());
    }

    fn as_of(&self) -> u64 {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.values().min().copied().unwrap_or_else(now)
    }

    /// Writes objects down, in the place of what was there, and returns how many bytes that took.
    pub fn save(&self, objects: &[Object]) -> Result<usize, Error> {
        let pieces = encode(&self.owner, self.as_of(), objects)?;
        self.directory.make()?;
        self.directory.sweep()?;
        self.directory.replace_by_pieces(FILE, pieces.map(|piece| piece.map_err(Error::Encode)))
    }

    /// Reads what was kept, and how long ago; nothing if nothing was.
    pub fn load(&self) -> Result<Option<(Vec<Object>, Duration)>, Error> {
        let Some(bytes) = self.directory.read(FILE)? else { return Ok(None) };
        let kept = decode(&bytes)?;
        let age = kept.age(&self.owner, now())?;
        Ok(Some((kept.objects, age)))
    }
}

/// Removes what is kept in this directory, whoever it is of.
pub fn remove(path: &str) -> Result<(), disk::Error> {
    Directory::new(path, Durability::Durable).remove(FILE).map(drop)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the shell reads the clock; this one goes on while the machine is off"
)]
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

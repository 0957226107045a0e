//! One daemon on a node at a time: two would each take away what the other makes.
//!
//! In: the run directory. Out: a lock that the kernel frees with the process, however that ends. A daemon waits for the one before it, so that an
//! update may start the new one first; whoever would only get in the way is refused.

use std::path::Path;

use dataplane::disk::{self, Directory, Durability, Lock};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

/// The lock's name in the run directory.
const LOCK: &str = "daemon.lock";

fn directory(run_dir: &Path) -> Result<Directory, disk::Error> {
    let directory = Directory::new(run_dir, Durability::Volatile);
    directory.make().map(|()| directory)
}

/// Holds the lock, once no other daemon does.
pub async fn wait(run_dir: &Path) -> Result<Lock, disk::Error> {
    let directory = directory(run_dir)?;
    if let Some(lock) = directory.try_lock(LOCK)? {
        return Ok(lock);
    }
    let file = run_dir.join(LOCK);
    warn!(file = %file.display(), "another daemon runs on this node: waits until it has ended");
    match spawn_blocking(move || directory.lock(LOCK)).await {
        Ok(lock) => {
            info!("the other daemon has ended");
            lock
        }
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// Holds the lock, unless a daemon does.
pub fn at_once(run_dir: &Path) -> Result<Option<Lock>, disk::Error> {
    directory(run_dir)?.try_lock(LOCK)
}

//! Which sockets the daemon listens on, beside what it programs: health check ports, node ports on localhost.
//!
//! In: for each owner, a service or one of its ports, the places that are wanted and what for. Out: sockets that are open exactly
//! there, each served by a task of its own. A purpose that changes reaches the task, and its socket stays. What cannot be opened is
//! said once, with what to do about it, and tried again: after a pause, and at once when its owner or its place is spoken of
//! again. Everything else goes on meanwhile. Never decides what is wanted.
//!
//! ```text
//! want(owner, places) ─→ wanted ─ settle ─→ open ─────→ served until it is not wanted any more
//!                          ↑                  │ refused, or its task ended
//!                          └───── due ──── failed
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, future, io,
};

use futures_util::future::BoxFuture;
use nix::errno::Errno;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::watch,
    task::{AbortHandle, Id, JoinSet},
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use crate::{
    service_port::Protocol,
    sync::pace::{Outcome, Pace},
};

pub mod addresses;
pub mod latest;
pub mod socket;

#[cfg(test)]
mod tests;

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address, or all of its family where it is unspecified, and the port.
    pub address: std::net::SocketAddr,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.address, self.protocol)
    }
}

/// Whatever is done with sockets of one sort.
pub trait Serve {
    /// Who wants them.
    type Owner: Clone + Ord + fmt::Display;
    /// What for.
    type Purpose: Eq;

    /// What such a socket is called, as in "health check port".
    const NAME: &'static str;

    /// Opens a socket. The future serves it, and closes it and all its connections when it is dropped; it never ends.
    fn open(
        &self,
        owner: &Self::Owner,
        place: Place,
        purpose: watch::Receiver<Self::Purpose>,
    ) -> io::Result<BoxFuture<'static, ()>>;
}

/// Sockets of one sort.
pub struct Listeners<S: Serve> {
    serve: S,
    wanted: BTreeMap<S::Owner, BTreeMap<Place, Wanted<S::Purpose>>>,
    /// What is to be opened next.
    due: BTreeSet<(S::Owner, Place)>,
    /// What could not be opened, with the time of the next attempt.
    failed: BTreeMap<(S::Owner, Place), Instant>,
    tasks: JoinSet<()>,
    /// Whose tasks these are.
    running: HashMap<Id, (S::Owner, Place)>,
    /// Tasks that were told to end, and their places.
    closing: HashMap<Id, Place>,
    /// Whether it was said that there is no room for more sockets, wherever they are.
    is_short: bool,
    /// How many could not be opened.
    unopened: Gauge,
}

struct Wanted<P> {
    purpose: watch::Sender<P>,
    task: Option<AbortHandle>,
    pace: Pace,
    /// Why it is not open, as it was said.
    complaint: Option<String>,
}

impl<S: Serve> Listeners<S> {
    /// Begins without any.
    pub fn new(serve: S) -> Self {
        Self {
            serve,
            wanted: BTreeMap::new(),
            due: BTreeSet::new(),
            failed: BTreeMap::new(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            closing: HashMap::new(),
            is_short: false,
            unopened: Gauge::default(),
        }
    }

    /// Tells there how many sockets could not be opened.
    #[must_use]
    pub fn telling_unopened(self, unopened: Gauge) -> Self {
        Self { unopened, ..self }
    }

    /// Says where an owner wants sockets from now on, and what for. [`Listeners::settle`] opens and closes them.
    pub fn want(&mut self, owner: &S::Owner, places: impl IntoIterator<Item = (Place, S::Purpose)>) {
        let mut before = self.wanted.remove(owner).unwrap_or_default();
        let mut now = BTreeMap::new();
        for (place, purpose) in places {
            let wanted = match before.remove(&place) {
                Some(known) => {
                    known.purpose.send_if_modified(|old| *old != purpose && replace(old, purpose));
                    known
                }
                None => Wanted {
                    purpose: watch::Sender::new(purpose),
                    task: None,
                    pace: Pace::default(),
                    complaint: None,
                },
            };
            if wanted.task.is_none() {
                self.due.insert((owner.clone(), place));
            }
            now.insert(place, wanted);
        }
        for (place, wanted) in before {
            self.close(owner, place, wanted);
        }
        if !now.is_empty() {
            self.wanted.insert(owner.clone(), now);
        }
    }

    fn close(&mut self, owner: &S::Owner, place: Place, wanted: Wanted<S::Purpose>) {
        let key = (owner.clone(), place);
        self.due.remove(&key);
        self.failed.remove(&key);
        if let Some(task) = wanted.task {
            task.abort();
            self.running.remove(&task.id());
            self.closing.insert(task.id(), place);
            debug!(service = %owner, %place, "closed a {}", S::NAME);
        }
    }

    /// Closes what is not wanted any more, then opens what is.
    pub async fn settle(&mut self) {
        while !self.closing.is_empty()
            && let Some(ended) = self.tasks.join_next_with_id().await
        {
            self.ended(ended.map_or_else(|error| error.id(), |(id, ())| id));
        }
        for (owner, place) in std::mem::take(&mut self.due) {
            self.failed.remove(&(owner.clone(), place));
            self.open(owner, place);
        }
        self.is_short &= !self.failed.is_empty();
        self.unopened.set(self.failed.len().try_into().unwrap_or(i64::MAX));
    }

    fn open(&mut self, owner: S::Owner, place: Place) {
        let Some(wanted) = self.wanted.get_mut(&owner).and_then(|places| places.get_mut(&place)) else {
            return;
        };
        match self.serve.open(&owner, place, wanted.purpose.subscribe()) {
            Ok(served) => {
                let task = self.tasks.spawn(served);
                if wanted.complaint.take().is_some() {
                    info!(service = %owner, %place, "opened a {} that could not be opened before", S::NAME);
                } else {
                    debug!(service = %owner, %place, "opened a {}", S::NAME);
                }
                wanted.pace.after(Outcome::Done);
                self.running.insert(task.id(), (owner, place));
                wanted.task = Some(task);
            }
            Err(error) => {
                let complaint = error.to_string();
                let what_to_do = remedy(&error);
                if is_shortage(&error) {
                    if !std::mem::replace(&mut self.is_short, true) {
                        warn!(service = %owner, %place, error = complaint, "there is no room for this {}, nor perhaps for others: {what_to_do}; tries again", S::NAME);
                    }
                } else if wanted.complaint.as_ref() != Some(&complaint) {
                    warn!(service = %owner, %place, error = complaint, "a {} is not open: {what_to_do}; tries again", S::NAME);
                    wanted.complaint = Some(complaint);
                }
                if let Some(pause) = wanted.pace.after(Outcome::Failed) {
                    self.failed.insert((owner, place), Instant::now() + pause);
                }
            }
        }
    }

    /// Waits until [`Listeners::settle`] has something to do that nobody asked for. May be dropped while it waits.
    pub async fn unsettled(&mut self) {
        loop {
            let next = self.failed.values().min().copied();
            let again = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                () = again => {
                    let now = Instant::now();
                    let due = self.failed.extract_if(.., |_, at| *at <= now).map(|(key, _)| key);
                    self.due.extend(due);
                    return;
                }
                Some(ended) = self.tasks.join_next_with_id() => {
                    if self.ended(ended.map_or_else(|error| error.id(), |(id, ())| id)) {
                        return;
                    }
                }
            }
        }
    }

    /// Takes note of a task that has ended, and says whether something is due since.
    fn ended(&mut self, task: Id) -> bool {
        if let Some(place) = self.closing.remove(&task) {
            // Somebody else of ours may have waited for just that.
            let is_freed = |(_, other): &(S::Owner, Place)| {
                (other.protocol, other.address.port()) == (place.protocol, place.address.port())
            };
            let freed = self.failed.extract_if(.., |key, _| is_freed(key)).map(|(key, _)| key);
            self.due.extend(freed);
            return !self.due.is_empty();
        }
        let Some((owner, place)) = self.running.remove(&task) else { return false };
        let Some(wanted) = self.wanted.get_mut(&owner).and_then(|places| places.get_mut(&place)) else {
            return false;
        };
        warn!(service = %owner, %place, "a {} was closed by a fault of ours; opens it again", S::NAME);
        wanted.task = None;
        wanted.complaint = Some(String::new());
        if let Some(pause) = wanted.pace.after(Outcome::Failed) {
            self.failed.insert((owner, place), Instant::now() + pause);
        }
        true
    }
}

impl<S: Serve> fmt::Debug for Listeners<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, failed) = (self.running.len(), self.failed.len());
        f.debug_struct("Listeners").field("open", &open).field("failed", &failed).finish_non_exhaustive()
    }
}

fn replace<T>(old: &mut T, new: T) -> bool {
    *old = new;
    true
}

/// Says whether it is the process or the machine that lacks something: then one place's trouble is all places'.
fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM))
}

/// What a person can do about a socket that does not open.
fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => {
            "end the program that listens there (ss -lnp), or give the service another port"
        }
        Some(Errno::EACCES | Errno::EPERM) => "ports below 1024 need CAP_NET_BIND_SERVICE",
        Some(Errno::EMFILE | Errno::ENFILE) => "raise the limit of open files (ulimit -n, LimitNOFILE)",
        Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {
            "switch IPv6 on, or take its address from the service"
        }
        _ => "see what the system says",
    }
}

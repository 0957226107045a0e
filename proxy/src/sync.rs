//! The shell around the pure middle: coalesce → plan → commit → remember.
//!
//! In: events. Out: a kernel that serves what they say. One event is enough to begin; whatever else is waiting by then is taken
//! along, so that a burst costs one commit and a single change waits for nothing. Nothing is committed before all
//! has been listed once. Each commit goes in this order, and stops where a step fails:
//!
//! ```text
//! who is inside → add routes → one nftables transaction → tell followers → remove routes        reachable before chosen, unchosen before gone
//!                                            └─▶ flows, in their own time      what was begun by the old rules
//! ```

use std::{collections::BTreeSet, error::Error, future, mem, sync::Arc};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::{
    followers::Followers,
    pace::{Outcome, Pace},
};
use crate::{
    kept::keeper::Turns,
    metrics::SyncMetrics,
    objects::{Node, Note},
    service_port::{Family, ServicePort, ServicePortName},
    state::{State, Touched},
    surroundings::Surroundings,
    watch::{Change, Event},
};

pub mod flows;
pub mod followers;
pub mod nodes;
pub mod pace;
pub mod repair;
pub mod services;
pub mod sysctls;
pub mod without_local;

#[cfg(test)]
mod tests;

/// Events taken in before a commit, at most: a source that never pauses must not hold it up for ever.
const MOST_AT_ONCE: usize = 10_000;

/// Whatever makes the kernel serve service ports.
pub trait Services {
    /// Why it could not.
    type Error: Error + 'static;

    /// Says what the node's surroundings are from the next commit on. Comes before anything else.
    fn surround(&mut self, surroundings: &Surroundings);

    /// Gets ready to be told everything for the first time; later it does nothing.
    fn begin(&mut self) -> Result<(), Self::Error>;

    /// Says what a node is like from now on, or that it is gone. Comes between [`Services::begin`] and [`Services::admit_nodes`].
    fn set_node(&mut self, name: &str, node: Option<&Node>);

    /// Has the kernel know the nodes that were set, before anything leads to their pods. Where that fails, the next commit does it.
    fn admit_nodes(&mut self);

    /// Says how a service port is to be served from the next commit on; `None`: not at all.
    fn set(&mut self, name: &ServicePortName, family: Family, port: Option<ServicePort>);

    /// Makes the kernel serve what was set. After an error all of it is still to be committed.
    fn commit(&mut self) -> Result<Committed, Self::Error>;

    /// Waits until something may not be as it was committed. May be dropped while it waits.
    fn disturbed(&mut self) -> impl Future<Output = ()> + Send;

    /// Puts back what others changed. False: only a commit can tell.
    fn repair(&mut self) -> bool;
}

/// What a commit did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Committed {
    /// Elements added and removed.
    pub elements: usize,
    /// Whether all was planned or compared for it, rather than what had changed.
    pub is_full: bool,
    /// Whether something is left that may only go in a later commit, such as what packets in flight may still look up.
    pub is_unfinished: bool,
}

/// Whatever follows the nodes: routes to the pods of the others, files about our own.
pub trait Nodes {
    /// Adds what must be there before a pod may be chosen. These nodes are different, or gone; after a failure, or a
    /// disturbance, whatever else may be is looked at as well. False: some of it is missing, try again.
    fn prepare(&mut self, state: &State, names: &BTreeSet<Arc<str>>) -> impl Future<Output = bool> + Send;

    /// Removes what no packet needs any more. False: some of it is still there, try again.
    fn finish(&mut self) -> impl Future<Output = bool> + Send;

    /// Waits until something may not be as it was left. May be dropped while it waits.
    fn disturbed(&mut self) -> impl Future<Output = ()> + Send {
        future::pending()
    }
}

/// The loop and all that it owns.
#[derive(Debug)]
pub struct Sync<S, N> {
    state: State,
    services: S,
    nodes: N,
    followers: Followers,
    /// None: what is known is not kept for the next start.
    turns: Option<Turns>,
    /// What the next commit is about.
    touched: Touched,
    pace: Pace,
    /// When to try again what could not be done for nodes, and how often it could not. Changes of services do not wait for that.
    nodes_again_at: Option<Instant>,
    nodes_pace: Pace,
    last_error: Option<String>,
    has_committed: bool,
}

impl<S: Services, N: Nodes> Sync<S, N> {
    /// Begins with a state that knows nothing.
    pub fn new(own_node: impl Into<String>, services: S, nodes: N) -> Self {
        // The routes left by an earlier run are compared with the nodes even if there are none.
        let touched = Touched::at_start();
        Self {
            state: State::new(own_node),
            services,
            nodes,
            followers: Followers::default(),
            turns: None,
            touched,
            pace: Pace::default(),
            nodes_again_at: None,
            nodes_pace: Pace::default(),
            last_error: None,
            has_committed: false,
        }
    }

    /// The same, counted there.
    #[must_use]
    pub fn with_metrics(mut self, metrics: SyncMetrics) -> Self {
        self.followers.metrics = metrics;
        self
    }

    /// The same, but what is known is kept now and then.
    #[must_use]
    pub fn keeping(self, turns: Turns) -> Self {
        Self { turns: Some(turns), ..self }
    }

    /// Those who act on what has been committed.
    pub fn followers(&mut self) -> &mut Followers {
        &mut self.followers
    }

    /// Follows the events until cancelled, or until their source has ended. What the kernel holds by then stays.
    pub async fn run(mut self, events: mpsc::Receiver<Event>, cancelled: CancellationToken) {
        self.follow(events, cancelled).await;
        if let Some(turns) = self.turns {
            turns.keep_last(&self.state).await;
        }
    }

    async fn follow(&mut self, mut events: mpsc::Receiver<Event>, cancelled: CancellationToken) {
        let mut is_listed = false;
        let mut is_due = false;
        let mut again_at: Option<Instant> = None;
        loop {
            let first = tokio::select! {
                () = cancelled.cancelled() => return,
                event = events.recv() => match event {
                    None => return,
                    event => event,
                },
                () = at(again_at) => {
                    is_due = true;
                    None
                }
                () = at(self.nodes_again_at) => {
                    self.touched.nodes = true;
                    None
                }
                () = self.nodes.disturbed(), if is_listed => {
                    self.touched.nodes = true;
                    None
                }
                () = at(self.turns.as_ref().and_then(Turns::due)) => {
                    if let Some(turns) = &mut self.turns {
                        turns.keep(&self.state, Instant::now());
                    }
                    continue;
                }
                () = self.services.disturbed(), if is_listed => {
                    is_due |= !self.services.repair();
                    None
                }
            };
            let waiting = std::iter::from_fn(|| events.try_recv().ok());
            for event in first.into_iter().chain(waiting).take(MOST_AT_ONCE) {
                if event == Event::Listed {
                    (is_listed, is_due) = (true, true);
                }
                complain_of_oddities(&event);
                let (kind, is_confirmed) = (event.kind(), event == Event::Confirmed);
                let touched = self.state.apply(event);
                if !touched.is_empty() {
                    self.followers.changed(kind);
                }
                if let Some(turns) = &mut self.turns {
                    match (is_confirmed, touched.is_empty()) {
                        (true, _) => turns.confirmed(Instant::now()),
                        (false, false) => turns.changed(Instant::now()),
                        (false, true) => {}
                    }
                }
                self.touched.extend(touched);
            }
            if is_listed && (is_due || !self.touched.is_empty()) {
                self.followers.queued();
                let outcome = self.commit().await;
                again_at = self.pace.after(outcome).map(|pause| Instant::now() + pause);
                is_due = false;
            }
        }
    }

    async fn commit(&mut self) -> Outcome {
        let began = Instant::now();
        if self.touched.nodes {
            self.nodes_again_at = None;
        }
        let is_surrounded = mem::take(&mut self.touched.surroundings);
        if is_surrounded {
            self.services.surround(&self.state.surroundings());
        }
        let is_ready = self.services.begin();
        if is_ready.is_ok() && !self.touched.node_names.is_empty() {
            for name in &self.touched.node_names {
                self.services.set_node(name, self.state.node(name));
            }
            self.services.admit_nodes();
        }
        // Where it fails, what can be reached is served.
        let is_prepared =
            !self.touched.nodes || self.nodes.prepare(&self.state, &self.touched.node_names).await;
        if let Err(error) = is_ready {
            self.complain(&error);
            return Outcome::Failed;
        }
        let is_asked = !self.touched.is_empty() || is_surrounded;
        self.followers.note(&mut self.touched, self.has_committed);
        for (name, family) in self.touched.take_service_ports() {
            let port = self.state.service_port(&name, family);
            self.followers.set(&name, family, port.as_ref());
            self.services.set(&name, family, port);
        }
        let outcome = match self.services.commit() {
            Ok(committed @ Committed { elements, is_unfinished, is_full }) => {
                self.last_error = None;
                self.followers.tell(&self.state);
                self.followers.committed(committed, is_asked || is_full, began.elapsed());
                let is_first = !mem::replace(&mut self.has_committed, true);
                if elements > 0 || is_first {
                    let took_ms = began.elapsed().as_millis();
                    info!(services = self.state.service_count(), elements, took_ms, "committed");
                }
                if is_unfinished { Outcome::Unfinished } else { Outcome::Done }
            }
            Err(error) => {
                self.complain(&error);
                return Outcome::Failed; // what was to be removed may still be chosen
            }
        };

        if mem::take(&mut self.touched.nodes) {
            self.touched.node_names.clear();
            let is_done = self.nodes.finish().await && is_prepared;
            let pause = self.nodes_pace.after(if is_done { Outcome::Done } else { Outcome::Failed });
            self.nodes_again_at = pause.map(|pause| Instant::now() + pause);
        }
        outcome
    }

    /// Says once why nothing could be committed, however often it is tried.
    fn complain(&mut self, error: &(dyn Error + 'static)) {
        self.followers.failed();
        let causes = std::iter::successors(Some(error), |&error| error.source());
        let message = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        if self.last_error.as_ref() != Some(&message) {
            error!(error, "not committed; the rules stay as they are until it succeeds");
            self.last_error = Some(message);
        }
    }
}

/// Says what of an object is not honoured, whenever the object is different.
fn complain_of_oddities(event: &Event) {
    let Event::Service(Change::Set(service)) = event else { return };
    for Note { field, reason } in &service.notes {
        warn!(service = %service.name, field, reason, "served a service in part");
    }
}

/// Waits until then; for ever if there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => future::pending().await,
    }
}

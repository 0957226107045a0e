//! Ends tracked flows that lead astray, once the rules are committed that say so.
//!
//! In: a [`Backlog`], to which each commit adds the addresses that it was about. Out: no flow to any of them but to endpoints that may
//! answer. A look is one walk of the kernel over all it tracks, so it is taken on a thread of its own, and for all addresses that have
//! gathered since the last; no commit waits for it.
//!
//! ```text
//! commit ─▶ UDP, SCTP: first look, at once if none was taken of late
//!     ≥ 100 ms ─▶      second look: a packet that read the old rules just before the commit has begun its flow by now
//!     ≥ 400 ms ─▶ TCP: the only look: a client that waits for an answer sends again after a second.
//!                      Addresses that are new are looked at as those of UDP are
//! ```

use std::{
    collections::BTreeSet,
    error::Error,
    mem,
    panic::resume_unwind,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dataplane::{
    conntrack::{Conntrack, Flow},
    packet::Family,
    rtnl,
};
use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    at,
    pace::{Outcome, Pace, SETTLED},
};
use crate::{
    metrics::FlowMetrics,
    plan::flows::{OwnAddresses, Suspects},
};

#[cfg(test)]
mod tests;

/// How many times as long as a look took we rest before the next: it keeps a processor from its packets.
const REST: u32 = 10;

/// How long TCP addresses wait for others, so that there are few looks: all that wait are looked at before their clients send again.
const TCP_AFTER: Duration = Duration::from_millis(400);

/// Addresses that are yet to be looked at. Every clone is the same backlog.
#[derive(Debug, Clone, Default)]
pub struct Backlog(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    suspects: Mutex<Suspects>,
    is_news: Notify,
}

impl Backlog {
    /// Has addresses looked at soon. The rules that say who may answer there are committed.
    pub fn add(&self, suspects: Suspects) {
        if !suspects.is_empty() {
            self.lock().extend(suspects);
            self.0.is_news.notify_one();
        }
    }

    fn take(&self) -> Suspects {
        mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Suspects> {
        self.0.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be looked at when.
#[derive(Debug, Default)]
struct Round {
    /// At the next look: for the second time, or because the last failed.
    again: Suspects,
    /// TCP addresses, and when they are looked at.
    tcp: Suspects,
    tcp_at: Option<Instant>,
    /// TCP addresses that have come since, and are looked at after those.
    more_tcp: Suspects,
}

impl Round {
    /// Takes in what is new, and says what is to be looked at now. Every address is to be looked at after [`SETTLED`] again or for
    /// the first time.
    fn begin(&mut self, mut fresh: Suspects, now: Instant) -> Suspects {
        self.tcp.renew(&fresh);
        self.more_tcp.renew(&fresh);
        self.more_tcp.extend(fresh.split_off_tcp());
        let mut suspects = mem::replace(&mut self.again, fresh.clone());
        suspects.extend(fresh);
        if self.tcp_at.is_some_and(|at| at <= now) {
            suspects.extend(mem::take(&mut self.tcp));
            self.tcp_at = None;
        }
        if self.tcp_at.is_none() && !self.more_tcp.is_empty() {
            self.tcp = mem::take(&mut self.more_tcp);
            self.tcp_at = Some(now + TCP_AFTER);
        }
        suspects
    }

    /// When something is to be looked at, if nothing comes.
    fn next_at(&self) -> Option<Instant> {
        self.tcp_at
    }

    /// Says whether nothing is left to look at.
    fn is_over(&self) -> bool {
        self.again.is_empty() && self.tcp_at.is_none()
    }
}

/// Whoever knows the addresses of this machine.
pub trait Machine {
    /// Lists them.
    fn own_addresses(&self) -> impl Future<Output = Result<OwnAddresses, rtnl::Error>> + Send;
}

impl Machine for rtnl::Kernel {
    async fn own_addresses(&self) -> Result<OwnAddresses, rtnl::Error> {
        let addresses = self.addresses().await?;
        Ok(OwnAddresses(addresses.iter().map(|address| address.network.ip()).collect::<BTreeSet<_>>()))
    }
}

/// Follows a backlog.
#[derive(Debug)]
pub struct Flows<C, M> {
    backlog: Backlog,
    conntrack: Arc<Mutex<C>>,
    machine: M,
    /// Whether established TCP connections to endpoints that are not there any more are ended, too.
    reset: bool,
    pace: Pace,
    last_error: Option<String>,
    metrics: FlowMetrics,
}

impl<C: Conntrack + Send + 'static, M: Machine> Flows<C, M> {
    /// Begins to follow a backlog. With `reset`, established TCP connections to endpoints that are not there any more are ended, too: the
    /// next packet of either end is answered with a reset.
    pub fn new(backlog: Backlog, conntrack: C, machine: M, reset: bool) -> Self {
        let (conntrack, pace) = (Arc::new(Mutex::new(conntrack)), Pace::default());
        Self { backlog, conntrack, machine, reset, pace, last_error: None, metrics: FlowMetrics::default() }
    }

    /// The same, counted there.
    #[must_use]
    pub fn with_metrics(self, metrics: FlowMetrics) -> Self {
        Self { metrics, ..self }
    }

    /// Looks at what is in the backlog until cancelled.
    pub async fn run(mut self, cancelled: CancellationToken) {
        let stop = cancelled.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        let mut round = Round::default();
        loop {
            let suspects = Arc::new(round.begin(self.backlog.take(), Instant::now()));
            if suspects.is_empty() {
                tokio::select! {
                    () = self.backlog.0.is_news.notified() => {}
                    () = at(round.next_at()) => {}
                }
                continue;
            }
            let began = Instant::now();
            let looked = self.look(&suspects).await;
            let took = began.elapsed();
            self.metrics.looked(took);
            let rest = SETTLED.max(took.saturating_mul(REST));
            match looked {
                Ok(ended) => {
                    let again = !round.is_over();
                    debug!(
                        addresses = suspects.len(),
                        again,
                        took_ms = took.as_millis(),
                        "looked flows through"
                    );
                    if ended > 0 {
                        info!(flows = ended, "ended flows that led astray");
                    }
                    self.last_error = None;
                    self.pace.after(Outcome::Done);
                    sleep(rest).await;
                }
                Err(error) => {
                    self.complain(&*error);
                    round.again.extend(Arc::unwrap_or_clone(suspects));
                    let pause = self.pace.after(Outcome::Failed).unwrap_or(Duration::ZERO);
                    sleep(rest).await;
                    tokio::select! {
                        () = sleep(pause.saturating_sub(rest)) => {}
                        () = self.backlog.0.is_news.notified() => {} // must not wait for what cannot be mended
                    }
                }
            }
        }
    }

    /// Ends the flows that are wrong, and says how many they were.
    async fn look(&self, suspects: &Arc<Suspects>) -> Result<usize, Box<dyn Error + Send + Sync>> {
        let has_node_ports = suspects.has_node_ports();
        let own = if has_node_ports { self.machine.own_addresses().await? } else { OwnAddresses::default() };
        let (conntrack, suspects, backlog) =
            (Arc::clone(&self.conntrack), Arc::clone(suspects), self.backlog.clone());
        let (reset, metrics) = (self.reset, self.metrics.clone());
        let look = spawn_blocking(move || {
            let mut conntrack = conntrack.lock().unwrap_or_else(PoisonError::into_inner);
            let mut wrong: Vec<Flow> = Vec::new();
            for filter in suspects.filters(reset) {
                let mut is_wrong = |flow: &Flow| suspects.condemn(flow, &own, reset);
                wrong.extend(conntrack.flows(&filter, &mut is_wrong)?);
            }
            // Where there is news by now, what looked wrong may be right.
            wrong.retain(|flow| !backlog.lock().concern(flow, &own));
            let (wrong4, wrong6): (Vec<_>, Vec<_>) =
                wrong.into_iter().partition(|flow| flow.original.destination.is_ipv4());
            let mut ended = 0;
            for (family, wrong) in [(Family::Ip, wrong4), (Family::Ip6, wrong6)] {
                let of_family = conntrack.delete(&wrong)?;
                metrics.ended(family, of_family);
                ended += of_family;
            }
            Ok::<_, C::Error>(ended)
        });
        match look.await {
            Ok(ended) => Ok(ended?),
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(_) => Ok(0), // the runtime ends
        }
    }

    /// Says once why it does not work, however often it is tried.
    fn complain(&mut self, error: &(dyn Error + 'static)) {
        let causes = std::iter::successors(Some(error), |&error| error.source());
        let message = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        if self.last_error.as_ref() != Some(&message) {
            warn!(error, "flows to endpoints that are gone stay for now; tries again");
            self.last_error = Some(message);
        }
    }
}

//! What is wrong, said once in the log, and told to whoever asks.
//!
//! In: all that is wrong now, and the ways that there are. Out: a line in the log for each complaint that was not there before; a report and gauges
//! that are made anew only as far as they are different, since most changes of nodes have nothing to do with what is wrong.

use std::{
    collections::BTreeSet,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::warn;

use crate::{
    config::RouteMode,
    health::{Complaint, NAMED, RoutingReport, nodes_of},
    metrics::RoutingMetrics,
    plan::routes::{Unreachable, routing::Routing},
};

/// What has been said to be wrong, so that it is not said again.
#[derive(Debug)]
pub(super) struct Complaints {
    all: BTreeSet<Complaint>,
    unreachable: BTreeSet<Unreachable>,
    report: Arc<Mutex<RoutingReport>>,
    pub(super) metrics: RoutingMetrics,
}

impl Complaints {
    pub(super) fn new(mode: RouteMode) -> Self {
        let report = Arc::new(Mutex::new(RoutingReport::new(mode)));
        Self {
            all: BTreeSet::new(),
            unreachable: BTreeSet::new(),
            report,
            metrics: RoutingMetrics::default(),
        }
    }

    /// All that is wrong, in words.
    pub(super) fn words(&self) -> BTreeSet<String> {
        let unreachable = self.unreachable.iter().map(ToString::to_string);
        self.all.iter().map(|complaint| complaint.said.clone()).chain(unreachable).collect()
    }

    /// What is told to those who ask, now and later.
    pub(super) fn report(&self) -> Arc<Mutex<RoutingReport>> {
        Arc::clone(&self.report)
    }

    /// Changes what is told to those who ask.
    pub(super) fn change(&self, how: impl FnOnce(&mut RoutingReport)) {
        how(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Says what is new of these, which are all that there are.
    pub(super) fn say(&mut self, complaints: BTreeSet<Complaint>) {
        if complaints == self.all {
            return;
        }
        for Complaint { said, .. } in complaints.difference(&self.all) {
            warn!(reason = said, "not all is there that pods need");
        }
        self.metrics.say_complaints(&complaints);
        self.all.clone_from(&complaints);
        self.change(|report| report.complaints = complaints);
    }

    /// Says to whom there is no way any more; costs little where nothing is different.
    pub(super) fn say_ways(&mut self, routing: &mut Routing) {
        let ways = routing.ways();
        self.metrics.say_ways(ways);
        self.change(|report| report.ways = ways);
        if !routing.take_unreachable_changed() {
            return;
        }
        let unreachable = routing.unreachable();
        let mut new = unreachable.difference(&self.unreachable);
        for one in new.by_ref().take(NAMED) {
            warn!(reason = %one, "not all is there that pods need");
        }
        let more = new.count();
        if more > 0 {
            warn!(more, "nor is it for more nodes");
        }
        self.metrics.say_unreachable(nodes_of(&unreachable));
        self.unreachable.clone_from(&unreachable);
        self.change(|report| report.unreachable = unreachable);
    }
}

/// An error and its causes on one line.
pub(super) fn said<E: Error>(error: &E) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

//! Whether this proxy is healthy, and what load balancers are told of it: the servers on `healthCheckNodePort`.
//!
//! In: how far the sync has come, and how many endpoints each service has on this node. Out: for each such service an HTTP server
//! that says whether to send its traffic here. A load balancer that asks is told what has been committed, never what is only planned.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use tokio::time::Instant;

pub use self::{
    progress::Progress,
    report::Report,
    routing::{About, Complaint, NAMED, RoutingReport, nodes_of},
};
use crate::{listeners::latest::Latest, objects::ObjectName, state::health::HealthCheck};

mod answer;
pub mod ports;
mod progress;
mod report;
mod routing;
mod server;

#[cfg(test)]
mod tests;

/// How far the sync has come, and what is to be said about services, shared with all who are asked.
#[derive(Debug)]
pub struct Health {
    began: Instant,
    progress: Mutex<Progress>,
    is_node_eligible: AtomicBool,
    /// When all was served last.
    last_served: Mutex<SystemTime>,
    /// What is to be said about each service since the last commit; `None`: nothing any more.
    pub checks: Latest<ObjectName, Option<HealthCheck>>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            progress: Mutex::default(),
            is_node_eligible: AtomicBool::new(true),
            last_served: Mutex::new(now()),
            checks: Latest::default(),
        }
    }
}

impl Health {
    /// There is something that is not served yet.
    pub fn queued(&self) {
        let now = self.began.elapsed();
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).queued(now);
    }

    /// All that was queued is served.
    pub fn served(&self) {
        let now = self.began.elapsed();
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).served(now);
        *self.last_served.lock().unwrap_or_else(PoisonError::into_inner) = self::now();
    }

    /// Whether load balancers should send this node anything new.
    pub fn set_node_eligible(&self, is_eligible: bool) {
        self.is_node_eligible.store(is_eligible, Ordering::Relaxed);
    }

    /// What is said of the proxy as a whole.
    pub fn report(&self) -> Report {
        Report {
            last_updated: *self.last_served.lock().unwrap_or_else(PoisonError::into_inner),
            now: now(),
            is_healthy: self.is_healthy(),
            is_node_eligible: self.is_node_eligible.load(Ordering::Relaxed),
            has_served: self.progress.lock().unwrap_or_else(PoisonError::into_inner).last_served().is_some(),
        }
    }

    /// Says whether what was queued is served in time.
    pub fn is_healthy(&self) -> bool {
        let now = self.began.elapsed();
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).is_healthy(now)
    }
}

#[expect(clippy::disallowed_methods, reason = "whoever asks is told when, in the time of the wall")]
fn now() -> SystemTime {
    SystemTime::now()
}

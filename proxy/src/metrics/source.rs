//! What comes from the API server or from manifests, and what goes wrong on the way.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use super::OfKind;
use crate::objects::Kind;

/// As client-go counts requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    code: Arc<str>,
    method: &'static str,
    host: Arc<str>,
}

/// As client-go measures them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLatency {
    verb: &'static str,
    host: Arc<str>,
}

/// What comes from outside. Every clone counts the same.
#[derive(Debug, Clone)]
pub struct SourceMetrics {
    requests: Family<OfRequest, Counter>,
    latencies: Family<OfLatency, Histogram, fn() -> Histogram>,
    lists: Family<OfKind, Counter>,
    watches: Family<OfKind, Counter>,
    changes: Family<OfKind, Counter>,
    failures: Family<OfKind, Counter>,
    skipped: Family<OfKind, Counter>,
}

impl Default for SourceMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            latencies: Family::new_with_constructor(|| Histogram::new(LATENCIES)),
            lists: Family::default(),
            watches: Family::default(),
            changes: Family::default(),
            failures: Family::default(),
            skipped: Family::default(),
        }
    }
}

/// client-go's buckets (component-base/metrics/prometheus/restclient).
const LATENCIES: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// How a request to the API server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// With this status.
    Status(u16),
    /// Not at all.
    Error,
}

impl SourceMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let (requests, latencies) = (self.requests.clone(), self.latencies.clone());
        registry.register("rest_client_requests", "Requests to the API server", requests);
        let help = "How long a page of a list, or the beginning of a watch, took";
        registry.register("rest_client_request_duration_seconds", help, latencies);
        let own = registry.sub_registry_with_prefix("fairway");
        for (name, help, counter) in [
            ("source_lists", "Lists of all objects that were taken in to their end", &self.lists),
            (
                "source_watches",
                "Watches that were begun; each but the first goes on after one that ended",
                &self.watches,
            ),
            ("source_changes", "Changes of objects that watches told", &self.changes),
            (
                "source_failures",
                "How often the API server could not be followed, and a pause was made",
                &self.failures,
            ),
        ] {
            for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr] {
                drop(counter.get_or_create(&of(kind)));
            }
            own.register(name, help, counter.clone());
        }
        for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr] {
            drop(self.skipped.get_or_create(&of(kind)));
        }
        let help = "Objects, or with kind `file` files of manifests, that make no sense or may not count, each time that was said";
        own.register("skipped_objects", help, self.skipped.clone());
    }

    /// A request to the API server was answered, or was not, which took so long.
    pub(crate) fn requested(&self, host: &Arc<str>, answered: Answered, took: Duration) {
        let code = match answered {
            Answered::Status(status) => status.to_string().into(),
            Answered::Error => "<error>".into(), // client-go's word
        };
        let (method, verb) = ("GET", "GET");
        self.requests.get_or_create(&OfRequest { code, method, host: Arc::clone(host) }).inc();
        let latency = self.latencies.get_or_create(&OfLatency { verb, host: Arc::clone(host) });
        latency.observe(took.as_secs_f64());
    }

    /// All objects of a kind were listed.
    pub(crate) fn listed(&self, kind: Kind) {
        self.lists.get_or_create(&of(kind)).inc();
    }

    /// A watch was begun.
    pub(crate) fn watched(&self, kind: Kind) {
        self.watches.get_or_create(&of(kind)).inc();
    }

    /// A watch told a change.
    pub(crate) fn changed(&self, kind: Kind) {
        self.changes.get_or_create(&of(kind)).inc();
    }

    /// The API server could not be followed.
    pub(crate) fn failed(&self, kind: Kind) {
        self.failures.get_or_create(&of(kind)).inc();
    }

    /// An object was skipped; without a kind, a whole file of manifests, or what in it says no kind.
    pub(crate) fn skipped(&self, kind: Option<Kind>) {
        self.skipped.get_or_create(&kind.map_or(OfKind { kind: "file" }, of)).inc();
    }
}

fn of(kind: Kind) -> OfKind {
    OfKind { kind: kind.as_str() }
}

//! What is counted and measured while the daemon runs, for Prometheus.
//!
//! In: words from wherever something happens, each part of the daemon holding its own group. Out: the text that a scrape reads. Names, types,
//! labels and buckets are kube-proxy's where it has the same (`pkg/proxy/metrics/metrics.go`), and begin with `fairway_` where it has not.
//! A word costs an atomic or two, or a short lock; whatever takes reading is read when asked for and at no other time. There is no registry
//! but the one that is passed in.
//!
//! One commit serves both families, where kube-proxy has a proxy for each: what kube-proxy labels with `ip_family` is said of each family
//! that the node has.

use std::{collections::BTreeSet, fmt};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::info::Info,
    registry::Registry,
};

use self::process::Process;
pub(crate) use self::source::Answered;
pub use self::{
    flows::FlowMetrics, health::HealthMetrics, listeners::ListenerMetrics, repair::RepairMetrics,
    routing::RoutingMetrics, source::SourceMetrics, sync::SyncMetrics,
};
use crate::service_port::Family;

mod flows;
mod health;
mod listeners;
mod process;
mod repair;
mod routing;
mod source;
mod sync;

#[cfg(test)]
mod tests;

/// Everything that is counted, and how to write it down.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// What the sync does.
    pub sync: SyncMetrics,
    /// What comes from the API server or manifests.
    pub source: SourceMetrics,
    /// What others changed and was put back.
    pub repair: RepairMetrics,
    /// How pods on other nodes are reached.
    pub routing: RoutingMetrics,
    /// Flows that were ended.
    pub flows: FlowMetrics,
    /// Who asked for health, and what they heard.
    pub health: HealthMetrics,
    /// Sockets that cannot be opened.
    pub listeners: ListenerMetrics,
}

impl Metrics {
    /// Begins to count, on a node that has these families.
    pub fn new(families: &[Family]) -> Self {
        let mut registry = Registry::default();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("fairway_build", "Which build of Fairway this is", Info::new(version));
        let (sync, flows) = (SyncMetrics::new(families), FlowMetrics::new(families));
        let (source, repair) = (SourceMetrics::default(), RepairMetrics::default());
        let (health, listeners) = (HealthMetrics::default(), ListenerMetrics::default());
        let routing = RoutingMetrics::default();
        sync.register(&mut registry);
        source.register(&mut registry);
        repair.register(&mut registry);
        routing.register(&mut registry);
        flows.register(&mut registry);
        health.register(&mut registry);
        listeners.register(&mut registry);
        registry.register_collector(Box::new(Process::begin()));
        Self { registry, sync, source, repair, routing, flows, health, listeners }
    }

    /// What a scrape reads, in the text format of `OpenMetrics`.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The media type of [`Metrics::text`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A label of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct OfFamily {
    ip_family: &'static str,
}

impl OfFamily {
    fn of(family: Family) -> Self {
        Self { ip_family: if family == Family::Ip { "IPv4" } else { "IPv6" } }
    }

    fn all(families: &[Family]) -> Vec<Self> {
        families.iter().copied().map(Self::of).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// A label of one kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

/// Powers of two of a millisecond, as kube-proxy has them for all that a sync takes.
fn sync_buckets() -> impl Iterator<Item = f64> {
    prometheus_client::metrics::histogram::exponential_buckets(0.001, 2.0, 15)
}

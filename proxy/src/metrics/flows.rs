//! Flows that led astray and were ended.

use std::time::Duration;

use prometheus_client::{
    metrics::{counter::Counter, family, histogram::Histogram},
    registry::Registry,
};

use super::{OfFamily, sync_buckets};
use crate::service_port::Family;

/// Looks at flows. Every clone counts the same.
#[derive(Debug, Clone)]
pub struct FlowMetrics {
    families: Vec<OfFamily>,
    looks: family::Family<OfFamily, Histogram, fn() -> Histogram>,
    ended: family::Family<OfFamily, Counter>,
}

impl Default for FlowMetrics {
    fn default() -> Self {
        Self::new(&Family::ALL)
    }
}

impl FlowMetrics {
    /// On a node that has these families.
    pub fn new(families: &[Family]) -> Self {
        Self {
            families: OfFamily::all(families),
            looks: family::Family::new_with_constructor(|| Histogram::new(sync_buckets())),
            ended: family::Family::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        for family in &self.families {
            drop(self.looks.get_or_create(family));
            drop(self.ended.get_or_create(family));
        }
        let sub = registry.sub_registry_with_prefix("kubeproxy_conntrack_reconciler");
        sub.register("sync_duration_seconds", "How long a look at flows took", self.looks.clone());
        sub.register("deleted_entries", "Flows that led astray and were ended", self.ended.clone());
    }

    /// Flows were looked through, which took so long.
    pub(crate) fn looked(&self, took: Duration) {
        self.families.iter().for_each(|family| self.looks.get_or_create(family).observe(took.as_secs_f64()));
    }

    /// So many flows of a family were ended.
    pub(crate) fn ended(&self, family: Family, flows: usize) {
        self.ended.get_or_create(&OfFamily::of(family)).inc_by(flows.try_into().unwrap_or(u64::MAX));
    }
}

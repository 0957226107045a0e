//! Who asked for health, and what they heard.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCode {
    code: u16,
}

/// Answers to those who ask for health. Every clone counts the same.
#[derive(Debug, Clone, Default)]
pub struct HealthMetrics {
    healthz: Family<OfCode, Counter>,
    livez: Family<OfCode, Counter>,
}

impl HealthMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let sub = registry.sub_registry_with_prefix("kubeproxy_proxy");
        sub.register("healthz", "Answers at /healthz", self.healthz.clone());
        sub.register("livez", "Answers at /livez", self.livez.clone());
    }

    /// Somebody asked at a path, and was answered with a status.
    pub(crate) fn answered(&self, path: &str, code: u16) {
        match path {
            "/healthz" => self.healthz.get_or_create(&OfCode { code }).inc(),
            "/livez" => self.livez.get_or_create(&OfCode { code }).inc(),
            _ => return,
        };
    }
}

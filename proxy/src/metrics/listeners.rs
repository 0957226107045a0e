//! Sockets that the daemon wants and cannot open.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPurpose {
    purpose: &'static str,
}

/// Sockets that cannot be opened, by what they are for. Every clone counts the same.
#[derive(Debug, Clone, Default)]
pub struct ListenerMetrics(Family<OfPurpose, Gauge>);

impl ListenerMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        drop((self.health_checks(), self.localhost())); // there from the start on
        let help = "Sockets that are wanted and cannot be opened";
        registry.register("fairway_sockets_unopened", help, self.0.clone());
    }

    /// Those on health check node ports.
    pub fn health_checks(&self) -> Gauge {
        self.of("health-check")
    }

    /// Those for node ports on localhost.
    pub fn localhost(&self) -> Gauge {
        self.of("localhost-node-port")
    }

    fn of(&self, purpose: &'static str) -> Gauge {
        self.0.get_or_create(&OfPurpose { purpose }).clone()
    }
}

//! What others changed in our tables, and what was put back.

use prometheus_client::{metrics::counter::Counter, registry::Registry};

/// Repairs of tables. Every clone counts the same.
#[derive(Debug, Clone, Default)]
pub struct RepairMetrics {
    /// How often something of our tables was put back.
    pub(crate) repairs: Counter,
    /// How often the kernel had no room to tell what others did.
    pub(crate) missed: Counter,
    /// How often all was read and compared.
    pub(crate) audits: Counter,
    /// How often host ports were put back.
    pub(crate) host_ports: Counter,
    /// How often the kernel refused a transaction, and all of the tables was compared for it.
    pub(crate) refused: Counter,
}

impl RepairMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let own = registry.sub_registry_with_prefix("fairway");
        for (name, help, counter) in [
            ("repairs", "How often others changed our nftables tables and that was put back", &self.repairs),
            (
                "repair_notices_missed",
                "How often the kernel had no room to tell what others changed",
                &self.missed,
            ),
            ("audits", "How often all elements were read and compared", &self.audits),
            (
                "host_port_repairs",
                "How often others changed the tables of host ports and that was put back",
                &self.host_ports,
            ),
            (
                "transactions_refused",
                "How often the kernel refused a transaction, and the tables were compared as a whole",
                &self.refused,
            ),
        ] {
            own.register(name, help, counter.clone());
        }
    }
}

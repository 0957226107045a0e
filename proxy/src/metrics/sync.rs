//! What the sync does: how much came, how much waits, how long it took until packets followed.

use std::{
    num::NonZeroU64,
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{OfFamily, sync_buckets};
use crate::{
    objects::Kind,
    service_port::Family,
    state::State,
    sync::{Committed, without_local::WithoutLocal},
};

/// How long it takes, by family.
type Durations = family::Family<OfFamily, Histogram, fn() -> Histogram>;
/// When something was, in seconds since 1970, by family.
type Times = family::Family<OfFamily, Gauge<f64, AtomicU64>>;

/// A label of one family and traffic policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPolicy {
    ip_family: &'static str,
    traffic_policy: &'static str,
}

/// What the sync does. Every clone counts the same.
#[derive(Debug, Clone)]
pub struct SyncMetrics {
    families: Vec<OfFamily>,
    all: Durations,
    full: Durations,
    partial: Durations,
    until_programmed: Durations,
    last: Times,
    last_queued: Times,
    failures: family::Family<OfFamily, Counter>,
    services: Changes,
    slices: Changes,
    without_local: family::Family<OfPolicy, Gauge>,
    served: Gauge,
    endpoints: Gauge,
    nodes: Gauge,
    elements: Counter,
}

/// Changes that came, and those that wait to be committed.
#[derive(Debug, Clone, Default)]
struct Changes {
    total: Counter,
    pending: Gauge,
}

impl Default for SyncMetrics {
    fn default() -> Self {
        Self::new(&Family::ALL)
    }
}

impl SyncMetrics {
    /// On a node that has these families.
    pub fn new(families: &[Family]) -> Self {
        let durations = || Durations::new_with_constructor(|| Histogram::new(sync_buckets()));
        Self {
            families: OfFamily::all(families),
            all: durations(),
            full: durations(),
            partial: durations(),
            until_programmed: Durations::new_with_constructor(|| Histogram::new(programming_buckets())),
            last: Times::default(),
            last_queued: Times::default(),
            failures: family::Family::default(),
            services: Changes::default(),
            slices: Changes::default(),
            without_local: family::Family::default(),
            served: Gauge::default(),
            endpoints: Gauge::default(),
            nodes: Gauge::default(),
            elements: Counter::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let sub = registry.sub_registry_with_prefix("kubeproxy");
        let mut add = |name: &str, help: &str, durations: &Durations| {
            for family in &self.families {
                drop(durations.get_or_create(family));
            }
            sub.register(name, help, durations.clone());
        };
        add("sync_proxy_rules_duration_seconds", "How long a commit took", &self.all);
        add("sync_full_proxy_rules_duration_seconds", "How long a commit of everything took", &self.full);
        add("sync_partial_proxy_rules_duration_seconds", "How long a commit of changes took", &self.partial);
        let help = "From the change of a pod or service, by the clock of whoever wrote it, until its rules were there";
        add("network_programming_duration_seconds", help, &self.until_programmed);
        for family in &self.families {
            drop(self.last.get_or_create(family));
            drop(self.last_queued.get_or_create(family));
            drop(self.failures.get_or_create(family));
        }
        let (last, queued) = (self.last.clone(), self.last_queued.clone());
        sub.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "When all that was known was served last",
            last,
        );
        sub.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "When there was last something to serve",
            queued,
        );
        let help = "How often nothing could be committed";
        sub.register("sync_proxy_rules_nftables_sync_failures", help, self.failures.clone());
        for (what, said, changes) in
            [("service", "services", &self.services), ("endpoint", "endpoint slices", &self.slices)]
        {
            let (total, pending) = (changes.total.clone(), changes.pending.clone());
            sub.register(format!("sync_proxy_rules_{what}_changes"), format!("Changes of {said}"), total);
            let help = format!("Changes of {said} that are not served yet");
            sub.register(format!("sync_proxy_rules_{what}_changes_pending"), help, pending);
        }
        let help =
            "Service ports that have endpoints, but none on this node, where a traffic policy is Local";
        self.say_without_local(&WithoutLocal::default());
        sub.register("sync_proxy_rules_no_local_endpoints_total", help, self.without_local.clone());

        let own = registry.sub_registry_with_prefix("fairway");
        own.register("services", "Services that are served", self.served.clone());
        own.register("endpoints", "Endpoints in endpoint slices", self.endpoints.clone());
        own.register("nodes", "Nodes that are known", self.nodes.clone());
        own.register("elements_changed", "Elements added to and removed from maps", self.elements.clone());
    }

    /// Something came that makes a difference.
    pub(crate) fn changed(&self, kind: Kind) {
        let changes = match kind {
            Kind::Service => &self.services,
            Kind::EndpointSlice => &self.slices,
            Kind::Node | Kind::ServiceCidr => return,
        };
        changes.total.inc();
        changes.pending.inc();
    }

    /// Something is to be committed.
    pub(crate) fn queued(&self, now: SystemTime) {
        for family in &self.families {
            self.last_queued.get_or_create(family).set(seconds(now));
        }
    }

    /// Nothing could be committed.
    pub(crate) fn failed(&self) {
        for family in &self.families {
            self.failures.get_or_create(family).inc();
        }
    }

    /// All that was known is committed, which took so long. Where nothing was asked for, such as when classes are made in advance, it
    /// is not measured.
    pub(crate) fn committed(&self, committed: Committed, is_asked: bool, took: Duration, now: SystemTime) {
        self.services.pending.set(0);
        self.slices.pending.set(0);
        self.elements.inc_by(committed.elements.try_into().unwrap_or(u64::MAX));
        let of_kind = if committed.is_full { &self.full } else { &self.partial };
        for family in &self.families {
            self.last.get_or_create(family).set(seconds(now));
            if is_asked {
                self.all.get_or_create(family).observe(took.as_secs_f64());
                of_kind.get_or_create(family).observe(took.as_secs_f64());
            }
        }
    }

    /// What began to be so at that time is committed now. A clock that is ahead of ours measures as none.
    pub(crate) fn programmed(&self, triggered: NonZeroU64, now: SystemTime) {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let took = now.saturating_sub(Duration::from_micros(triggered.get()));
        for family in &self.families {
            self.until_programmed.get_or_create(family).observe(took.as_secs_f64());
        }
    }

    /// What is known of the cluster by now.
    pub(crate) fn say_known(&self, state: &State) {
        let number = |count: usize| count.try_into().unwrap_or(i64::MAX);
        self.served.set(number(state.service_count()));
        self.endpoints.set(number(state.endpoint_count()));
        self.nodes.set(number(state.node_count()));
    }

    /// What was said to be known last.
    pub(crate) fn known(&self) -> [(&'static str, i64); 3] {
        [("services", &self.served), ("endpoints", &self.endpoints), ("nodes", &self.nodes)]
            .map(|(what, gauge)| (what, gauge.get()))
    }

    /// Which service ports have no endpoint on this node by now.
    pub(crate) fn say_without_local(&self, without: &WithoutLocal) {
        for &OfFamily { ip_family } in &self.families {
            let family = if ip_family == "IPv4" { Family::Ip } else { Family::Ip6 };
            let (internal, external) = without.counts(family);
            for (traffic_policy, count) in [("internal", internal), ("external", external)] {
                let gauge = self.without_local.get_or_create(&OfPolicy { ip_family, traffic_policy });
                gauge.set(count.try_into().unwrap_or(i64::MAX));
            }
        }
    }
}

/// As kube-proxy has them.
fn programming_buckets() -> impl Iterator<Item = f64> {
    let by_1 = (1..60).map(f64::from);
    let by_5 = (60..=115).step_by(5).map(f64::from);
    let by_30 = (120..=300).step_by(30).map(f64::from);
    [0.25, 0.5].into_iter().chain(by_1).chain(by_5).chain(by_30)
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

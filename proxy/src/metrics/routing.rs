//! How pods on other nodes are reached, and what is in the way.

use std::collections::BTreeSet;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    health::{About, Complaint},
    plan::routes::Ways,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAbout {
    about: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWay {
    way: &'static str,
}

/// Ways to other nodes' pods, and what is wrong with them. Every clone counts the same.
#[derive(Debug, Clone, Default)]
pub struct RoutingMetrics {
    complaints: Family<OfAbout, Gauge>,
    ways: Family<OfWay, Gauge>,
    unreachable: Gauge,
    /// How often others changed ways, or what they stand on, and that was put back.
    pub(crate) repairs: Counter,
}

impl RoutingMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        self.say_ways(Ways::default()); // there from the start on
        self.say_complaints(&BTreeSet::new());
        let own = registry.sub_registry_with_prefix("fairway");
        own.register("ways", "Pod CIDRs of other nodes that a way leads to", self.ways.clone());
        let help = "Other nodes that have pods, or would, that cannot be reached";
        own.register("nodes_unreachable", help, self.unreachable.clone());
        own.register("routing_complaints", "Things that are not as pods need them", self.complaints.clone());
        let help = "How often others changed routes or tunnels of ours and that was put back";
        own.register("route_repairs", help, self.repairs.clone());
    }

    /// How many ways there are now.
    pub(crate) fn say_ways(&self, ways: Ways) {
        for (way, count) in [("direct", ways.direct), ("tunnel", ways.tunnel)] {
            self.ways.get_or_create(&OfWay { way }).set(number(count));
        }
    }

    /// How many nodes cannot be reached now.
    pub(crate) fn say_unreachable(&self, nodes: usize) {
        self.unreachable.set(number(nodes));
    }

    /// What is wrong now.
    pub(crate) fn say_complaints(&self, complaints: &BTreeSet<Complaint>) {
        for about in About::ALL {
            let count = complaints.iter().filter(|complaint| complaint.about == about).count();
            self.complaints.get_or_create(&OfAbout { about: about.word() }).set(number(count));
        }
    }
}

fn number(count: usize) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

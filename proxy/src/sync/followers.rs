//! Those who act on what has been committed, besides the kernel: health checks, node ports on localhost.
//!
//! In: what is touched and what is committed. Out: words to each of them, after the commit and never before, so that nobody is sent
//! to a service that does not answer yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::{oneshot, watch};

use super::{Committed, without_local::WithoutLocal};

use crate::{
    health::Health,
    localhost::{NodePorts, Relay},
    metrics::SyncMetrics,
    objects::{Kind, Node, ObjectName},
    service_port::{Family, ServicePort, ServicePortName},
    state::{State, Touched},
};

/// Changes whose time is kept while nothing can be committed, at most.
const MOST_TRIGGERS: usize = 10_000;

/// Everyone who is told.
#[derive(Debug)]
pub struct Followers {
    health: Arc<Health>,
    /// This node's addresses, as its Node object has them.
    node_ips: watch::Sender<Vec<IpAddr>>,
    /// Services whose health check may be different since the last commit.
    checks: BTreeSet<ObjectName>,
    /// Who waits for the first commit; nobody any more once it was made.
    first_commit: Vec<oneshot::Sender<()>>,
    /// None: nobody follows them.
    node_ports: Option<Arc<NodePorts>>,
    /// Those of IPv6 that may be different since the last commit.
    relays: BTreeMap<ServicePortName, Option<Relay>>,
    pub(super) metrics: SyncMetrics,
    without_local: WithoutLocal,
    /// When what is to be committed began to be so, as far as that is measured.
    triggers: Vec<NonZeroU64>,
    /// What began before this is not measured.
    started: SystemTime,
}

impl Default for Followers {
    fn default() -> Self {
        Self {
            health: Arc::default(),
            node_ips: watch::Sender::new(Vec::new()),
            checks: BTreeSet::new(),
            first_commit: Vec::new(),
            node_ports: None,
            relays: BTreeMap::new(),
            metrics: SyncMetrics::default(),
            without_local: WithoutLocal::default(),
            triggers: Vec::new(),
            started: now(),
        }
    }
}

impl Followers {
    /// What is known of the sync's health.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// The addresses of this node's Node object, from now on.
    pub fn node_ips(&self) -> watch::Receiver<Vec<IpAddr>> {
        self.node_ips.subscribe()
    }

    /// Hears of the first commit.
    pub fn first_commit(&mut self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.first_commit.push(sender);
        receiver
    }

    /// The node ports of IPv6, from now on.
    pub fn node_ports(&mut self) -> Arc<NodePorts> {
        Arc::clone(self.node_ports.get_or_insert_default())
    }

    /// An object has changed.
    pub(super) fn changed(&self, kind: Option<Kind>) {
        if let Some(kind) = kind {
            self.metrics.changed(kind);
        }
    }

    /// Something is to be committed.
    pub(super) fn queued(&self) {
        self.health.queued();
        self.metrics.queued(now());
    }

    /// Nothing could be committed.
    pub(super) fn failed(&self) {
        self.metrics.failed();
    }

    /// Takes note of what the next commit is about. What began before the first is not measured, nor what began before the daemon did: it was
    /// not there.
    pub(super) fn note(&mut self, touched: &mut Touched, has_committed: bool) {
        self.checks.append(&mut touched.health_checks());
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let is_measured =
            |triggered: &NonZeroU64| has_committed && Duration::from_micros(triggered.get()) >= started;
        let triggers = std::mem::take(&mut touched.triggers).into_iter().filter(is_measured);
        let room = MOST_TRIGGERS.saturating_sub(self.triggers.len());
        self.triggers.extend(triggers.take(room));
    }

    /// Takes note of a service port as it is to be served from the next commit on.
    pub(super) fn set(&mut self, name: &ServicePortName, family: Family, port: Option<&ServicePort>) {
        self.without_local.set(name, family, port);
        if self.node_ports.is_some() && family == Family::Ip6 {
            self.relays.insert(name.clone(), port.and_then(Relay::of));
        }
    }

    /// Counts what has been committed.
    pub(super) fn committed(&mut self, committed: Committed, is_asked: bool, took: Duration) {
        let now = now();
        self.metrics.committed(committed, is_asked, took, now);
        for triggered in self.triggers.drain(..) {
            self.metrics.programmed(triggered, now);
        }
    }

    /// Tells what has been committed.
    pub(super) fn tell(&mut self, state: &State) {
        self.health.served();
        self.health.set_node_eligible(state.is_node_eligible());
        for waiting in self.first_commit.drain(..) {
            let _ = waiting.send(()); // or nobody waits any more
        }
        self.node_ips.send_if_modified(|known| {
            let own = state.own().map(Node::ips).unwrap_or_default();
            let is_different = *known != own;
            *known = own;
            is_different
        });
        let checks = std::mem::take(&mut self.checks);
        self.health.checks.say(checks.into_iter().map(|service| {
            let check = state.health_check(&service);
            (service, check)
        }));
        if let Some(node_ports) = &self.node_ports {
            node_ports.say(std::mem::take(&mut self.relays));
        }
        self.metrics.say_known(state);
        self.metrics.say_without_local(&self.without_local);
    }
}

#[expect(clippy::disallowed_methods, reason = "others tell in the time of the wall when something began")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{objects::Object, watch::Event};

    /// As the rules have it: a node that has no internal address serves on its external one.
    #[test]
    fn all_addresses_of_the_node_object_are_told() {
        let mut followers = Followers::default();
        let node_ips = followers.node_ips();
        let addresses = json!([{"type": "ExternalIP", "address": "203.0.113.5"}]);
        let node = json!({"kind": "Node", "metadata": {"name": "m"}, "status": {"addresses": addresses}});
        let mut state = State::new("m");
        state.apply(Event::set(Object::parse(node).unwrap().unwrap()));

        followers.tell(&state);

        assert_eq!(*node_ips.borrow(), ["203.0.113.5".parse::<IpAddr>().unwrap()]);
    }
}

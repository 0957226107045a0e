//! Which health check ports are open: those of the services that were committed, on the addresses that serve node ports.
//!
//! In: what is said about services, and the node's addresses, followed live. Out: listeners.

use std::{
    collections::{BTreeMap, BTreeSet},
    future, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use dataplane::rtnl::{self, Kernel, Kinds, Monitor};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Health, server::Servers};
use crate::{
    config::NodePortAddresses,
    listeners::{Listeners, Place, addresses},
    objects::ObjectName,
    service_port::{Family, Protocol},
    state::health::HealthCheck,
    sync::pace::{Outcome, Pace},
};

/// The ports, and all that decides where they are open.
#[derive(Debug)]
pub struct Ports {
    health: Arc<Health>,
    listeners: Listeners<Servers>,
    checks: BTreeMap<ObjectName, HealthCheck>,
    node: NodeAddresses,
    /// The addresses to listen on, with port 0.
    addresses: BTreeSet<SocketAddr>,
}

/// The addresses of this node that are chosen, followed live.
#[derive(Debug)]
struct NodeAddresses {
    choice: NodePortAddresses,
    families: Vec<Family>,
    /// Those of the Node object.
    internal: watch::Receiver<Vec<IpAddr>>,
    kernel: Kernel,
    /// None: it makes no difference which there are.
    monitor: Option<Monitor>,
    pace: Pace,
    /// When to look again.
    due: Option<Instant>,
}

impl Ports {
    /// Begins without any. Call it inside a runtime.
    pub fn new(
        health: Arc<Health>,
        choice: &NodePortAddresses,
        families: &[Family],
        internal: watch::Receiver<Vec<IpAddr>>,
        kernel: Kernel,
    ) -> Result<Self, rtnl::Error> {
        let is_restricted = addresses::are_restricted(choice);
        let monitor = is_restricted.then(|| Monitor::open(Kinds::ADDRESSES)).transpose()?;
        let node = NodeAddresses {
            choice: choice.clone(),
            families: families.to_vec(),
            internal,
            kernel,
            monitor,
            pace: Pace::default(),
            due: Some(Instant::now()),
        };
        let listeners = Listeners::new(Servers::new(Arc::clone(&health)));
        Ok(Self { health, listeners, checks: BTreeMap::new(), node, addresses: BTreeSet::new() })
    }

    /// Tells there how many ports could not be opened.
    #[must_use]
    pub fn telling_unopened(self, unopened: Gauge) -> Self {
        Self { listeners: self.listeners.telling_unopened(unopened), ..self }
    }

    /// Opens and closes ports until cancelled, and then closes all.
    pub async fn run(mut self, cancelled: CancellationToken) {
        loop {
            tokio::select! {
                () = cancelled.cancelled() => return,
                () = self.node.changed() => {
                    if let Some(addresses) = self.node.list().await && addresses != self.addresses {
                        self.addresses = addresses;
                        for (service, check) in &self.checks {
                            self.listeners.want(service, places(&self.addresses, *check));
                        }
                    }
                }
                said = self.health.checks.heard() => {
                    for (service, check) in said {
                        self.follow(service, check);
                    }
                }
                () = self.listeners.unsettled() => {}
            }
            self.listeners.settle().await;
        }
    }

    fn follow(&mut self, service: ObjectName, check: Option<HealthCheck>) {
        let wanted = check.into_iter().flat_map(|check| places(&self.addresses, check));
        self.listeners.want(&service, wanted);
        match check {
            Some(check) => self.checks.insert(service, check),
            None => self.checks.remove(&service),
        };
    }
}

/// Where a service is asked about, and what the answer is about.
fn places(addresses: &BTreeSet<SocketAddr>, check: HealthCheck) -> impl Iterator<Item = (Place, usize)> {
    addresses.iter().map(move |&(mut address)| {
        address.set_port(check.port);
        (Place { protocol: Protocol::Tcp, address }, check.local_endpoints)
    })
}

impl NodeAddresses {
    /// Waits until the addresses may be others. May be dropped while it waits.
    async fn changed(&mut self) {
        let due = self.due;
        let again = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => future::pending().await,
            }
        };
        let told = async {
            match &mut self.monitor {
                Some(monitor) => monitor.changed().await,
                None => future::pending().await,
            }
        };
        let told: io::Result<()> = tokio::select! {
            () = again => Ok(()),
            changed = self.internal.changed() => match changed {
                Ok(()) => Ok(()),
                Err(_) => future::pending().await, // the sync has ended
            },
            kinds = told => kinds.map(drop),
        };
        if let Err(error) = told {
            warn!(%error, "cannot hear of addresses; lists them until it can");
            self.due = self.pace.after(Outcome::Failed).map(|pause| Instant::now() + pause);
            if let Some(due) = self.due {
                sleep_until(due).await;
            }
        }
    }

    /// The addresses to listen on, with port 0; none if that cannot be found out now.
    async fn list(&mut self) -> Option<BTreeSet<SocketAddr>> {
        let listed = match self.monitor {
            Some(_) => self.kernel.addresses().await,
            None => Ok(Vec::new()),
        };
        match listed {
            Ok(listed) => {
                self.due = None;
                self.pace.after(Outcome::Done);
                let internal = self.internal.borrow_and_update();
                Some(addresses::chosen(&self.choice, &self.families, &internal, &listed))
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "cannot list addresses; tries again");
                self.due = self.pace.after(Outcome::Failed).map(|pause| Instant::now() + pause);
                None
            }
        }
    }
}

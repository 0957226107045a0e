//! Services, endpoint slices, nodes and service CIDRs, from an API server.
//!
//! In: where the API server is, and who we are to it. Out: an event for every object that changed, and [`Event::Listed`] once
//! each kind has been listed, or told from [`memory`] where the API server does not answer; [`Event::Confirmed`] when it has answered for all. Only the fields that we use are read. Each kind has a [`feed`] of its own: whatever happens to one connection, the
//! others go on, and nothing is lost but time. An object that makes no sense is skipped with one warning.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use self::access::{Access, Error};
use self::{
    feed::{Feed, Selection},
    memory::Memory,
};
use crate::{kept::store::Store, metrics::SourceMetrics, objects::Kind, watch::Event};

mod access;
mod backoff;
mod feed;
mod memory;
mod wire;

/// What kube-proxy leaves out, too: services that nobody is to proxy, or another proxy is, and their endpoints.
const PROXIED: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// An API server, watched.
#[derive(Debug)]
pub struct Kubernetes {
    access: Arc<Access>,
    own_node: Option<String>,
    metrics: SourceMetrics,
    memory: Option<Arc<Memory>>,
}

impl Kubernetes {
    /// An API server that is asked for everything that this node needs.
    pub fn new(access: Access) -> Self {
        Self { access: Arc::new(access), own_node: None, metrics: SourceMetrics::default(), memory: None }
    }

    /// Asks for no other node than this one.
    #[must_use]
    pub fn with_own_node_only(mut self, name: &str) -> Self {
        self.own_node = Some(name.to_owned());
        self
    }

    /// The same, counted there.
    #[must_use]
    pub fn with_metrics(self, metrics: SourceMetrics) -> Self {
        Self { metrics, ..self }
    }

    /// Begins with what is kept there, where the API server does not answer within two seconds, or with an error.
    #[must_use]
    pub fn remembering(mut self, store: Store) -> Self {
        self.memory = Some(Arc::new(Memory::new(store)));
        self
    }

    /// Tells all that is there, then `Listed`, then every change, until cancelled or nobody listens. `Confirmed` follows `Listed` as soon
    /// as the API server has told all of it.
    pub async fn run(self, events: mpsc::Sender<Event>, cancelled: CancellationToken) {
        let (mut feeds, mut told, mut confirmed) = (JoinSet::new(), Vec::new(), Vec::new());
        for (kind, selection) in self.selections() {
            let (listed, is_listed) = oneshot::channel();
            let (confirm, is_confirmed) = oneshot::channel();
            told.push(is_listed);
            confirmed.push(is_confirmed);
            let feed = Feed::new(kind, selection, Arc::clone(&self.access), events.clone())
                .with_metrics(self.metrics.clone())
                .remembering(self.memory.clone());
            feeds.spawn(feed.run(listed, confirm));
        }
        // Whatever is not heard: its feed has ended, or nobody listens any more, and with it all of this ends.
        let all_listed = async {
            for is_told in told {
                is_told.await.ok()?;
            }
            events.send(Event::Listed).await.ok()?;
            for is_confirmed in confirmed {
                is_confirmed.await.ok()?;
            }
            info!("listed services, endpoint slices, nodes and service CIDRs");
            if let Some(memory) = &self.memory {
                memory.forget().await;
            }
            events.send(Event::Confirmed).await.ok()
        };
        tokio::select! {
            () = cancelled.cancelled() => {}
            () = events.closed() => {}
            _ = feeds.join_next() => {}
            () = async { all_listed.await; std::future::pending().await } => {}
        }
    }

    fn selections(&self) -> [(Kind, Selection); 4] {
        let proxied = || Selection { labels: Some(PROXIED.into()), fields: None };
        let nodes = self.own_node.as_ref().map(|name| format!("metadata.name={name}"));
        [
            (Kind::Service, proxied()),
            (Kind::EndpointSlice, proxied()),
            (Kind::Node, Selection { labels: None, fields: nodes }),
            (Kind::ServiceCidr, Selection::default()),
        ]
    }
}

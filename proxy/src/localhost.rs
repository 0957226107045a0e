//! Node ports on localhost, with `--localhost-node-ports`.
//!
//! In: the node ports that were committed. Out: for IPv4, a kernel that routes to 127.0.0.1 what rules then lead to endpoints; for
//! IPv6, which knows no such thing, sockets on `::1` that pass everything on to the cluster IP, so that the kernel chooses the endpoint.
//!
//! ```text
//! 127.0.0.1:30080 ─ nftables ─────────────────────────────→ endpoint
//! [::1]:30080 ───── socket of ours ─→ [cluster IP]:80 ─ nftables ─→ endpoint
//! ```
//!
//! IPv4 is switched on only after a commit: the rule that keeps strangers from 127.0.0.1 is there by then.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{relay::Relays, route_localnet::RouteLocalnet};
use crate::{
    listeners::{Listeners, Place, latest::Latest},
    service_port::{Protocol, ServicePort, ServicePortName},
};
use prometheus_client::metrics::gauge::Gauge;

mod relay;
pub mod route_localnet;
mod sessions;
mod tcp;
mod udp;

/// A node port that is to be served on `::1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Relay {
    /// The port.
    pub node_port: u16,
    /// The cluster IP and its port.
    pub to: SocketAddr,
}

impl Relay {
    /// What a service port of IPv6 needs; nothing without a node port.
    pub fn of(port: &ServicePort) -> Option<Self> {
        Some(Self { node_port: port.node_port?, to: SocketAddr::new(port.cluster_ip, port.port) })
    }
}

/// What has been said about node ports of IPv6 since it was heard last; `None`: not any more.
pub type NodePorts = Latest<ServicePortName, Option<Relay>>;

/// The kernel parameter, and the sockets on `::1`.
#[derive(Debug)]
pub struct Localhost {
    route_localnet: RouteLocalnet,
    committed: oneshot::Receiver<()>,
    node_ports: Arc<NodePorts>,
    listeners: Listeners<Relays>,
}

impl Localhost {
    /// Begins without any. `committed` hears of the first commit.
    pub fn new(
        route_localnet: RouteLocalnet,
        committed: oneshot::Receiver<()>,
        node_ports: Arc<NodePorts>,
    ) -> Self {
        Self { route_localnet, committed, node_ports, listeners: Listeners::new(Relays) }
    }

    /// Tells there how many sockets could not be opened.
    #[must_use]
    pub fn telling_unopened(self, unopened: Gauge) -> Self {
        Self { listeners: self.listeners.telling_unopened(unopened), ..self }
    }

    /// Sets the parameter once it is safe, which stays; opens and closes sockets until cancelled, and then closes all.
    pub async fn run(mut self, cancelled: CancellationToken) {
        let mut is_committed = false;
        loop {
            tokio::select! {
                () = cancelled.cancelled() => return,
                told = &mut self.committed, if !is_committed => {
                    is_committed = true;
                    if told.is_ok() {
                        self.set_route_localnet();
                    }
                }
                said = self.node_ports.heard() => {
                    for (name, relay) in said {
                        let wanted = relay.and_then(|relay| place(&name, relay));
                        self.listeners.want(&name, wanted);
                    }
                }
                () = self.listeners.unsettled() => {}
            }
            self.listeners.settle().await;
        }
    }

    /// What is refused now is refused later: it is said once, and a person can do it at any time.
    fn set_route_localnet(&self) {
        match self.route_localnet.set() {
            Ok(true) => info!("set route_localnet: node ports are served on 127.0.0.1"),
            Ok(false) => {}
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                warn!(error, "node ports are not served on 127.0.0.1");
            }
        }
    }
}

/// Where a node port is served, and where to. SCTP needs a kernel that speaks it, and who uses it binds to addresses of its own.
fn place(name: &ServicePortName, relay: Relay) -> Option<(Place, SocketAddr)> {
    let address = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, relay.node_port));
    match name.protocol {
        protocol @ (Protocol::Tcp | Protocol::Udp) => Some((Place { protocol, address }, relay.to)),
        Protocol::Sctp => None,
    }
}

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

use tokio_util::sync::CancellationToken;

use self::relay::Relays;
use crate::{
    listeners::{Listeners, Place, latest::Latest},
    service_port::{Protocol, ServicePort, ServicePortName},
};

mod relay;
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

/// The sockets on `::1`.
#[derive(Debug)]
pub struct Localhost {
    node_ports: Arc<NodePorts>,
    listeners: Listeners<Relays>,
}

impl Localhost {
    /// Begins without any.
    pub fn new(node_ports: Arc<NodePorts>) -> Self {
        Self { node_ports, listeners: Listeners::new(Relays) }
    }

    /// Opens and closes sockets until cancelled, and then closes all.
    pub async fn run(mut self, cancelled: CancellationToken) {
        loop {
            tokio::select! {
                () = cancelled.cancelled() => return,
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
}

/// Where a node port is served, and where to. SCTP needs a kernel that speaks it, and who uses it binds to addresses of its own.
fn place(name: &ServicePortName, relay: Relay) -> Option<(Place, SocketAddr)> {
    let address = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, relay.node_port));
    match name.protocol {
        protocol @ (Protocol::Tcp | Protocol::Udp) => Some((Place { protocol, address }, relay.to)),
        Protocol::Sctp => None,
    }
}

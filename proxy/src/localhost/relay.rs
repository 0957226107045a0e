//! A socket on `::1` for each node port.

use std::{io, net::SocketAddr};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::{tcp, udp};
use crate::{
    listeners::{Place, Serve, socket},
    service_port::{Protocol, ServicePortName},
};

/// Passes connections and datagrams on to a cluster IP.
#[derive(Debug)]
pub(super) struct Relays;

impl Serve for Relays {
    type Owner = ServicePortName;
    type Purpose = SocketAddr;

    const NAME: &'static str = "node port on localhost";

    fn open(
        &self,
        _: &ServicePortName,
        place: Place,
        to: watch::Receiver<SocketAddr>,
    ) -> io::Result<BoxFuture<'static, ()>> {
        match place.protocol {
            Protocol::Tcp => Ok(Box::pin(tcp::relay(socket::tcp(place.address)?, to))),
            Protocol::Udp => Ok(Box::pin(udp::relay(socket::udp(place.address)?, to))),
            Protocol::Sctp => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

//! Sockets that listen.
//!
//! In: a place. Out: a socket bound to it, of one family only. An address that is not the node's (yet) is no obstacle: an IPv6 address that
//! is still being looked for among the neighbours (RFC 4862 §5.4) would be one otherwise.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    time::sleep,
};
use tracing::debug;

/// Connections that the kernel keeps while we do not accept them.
const BACKLOG: i32 = 128;

/// How long to wait for files or memory to become free.
const SHORTAGE: Duration = Duration::from_millis(100);

/// Opens a TCP socket that listens.
pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bound(address, Type::STREAM, Protocol::TCP)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Opens a UDP socket.
pub fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::from_std(bound(address, Type::DGRAM, Protocol::UDP)?.into())
}

fn bound(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    if protocol == Protocol::TCP {
        // Connections of an earlier socket that are still ending are no obstacle. With UDP it would let two listen at once.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The next connection. Waits through whatever goes wrong with one, or for want of files.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                debug!(%error, "did not accept a connection");
                if super::is_shortage(&error) {
                    sleep(SHORTAGE).await;
                }
            }
        }
    }
}

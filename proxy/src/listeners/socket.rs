//! Sockets that listen.
//!
//! In: a place. Out: a socket bound to it, of one family only. An address that is not the node's (yet) is no obstacle: an IPv6 address that
//! is still being looked for among the neighbours (RFC 4862 §5.4) would be one otherwise.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

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

/// Opens a TCP socket that listens; at an address that stands for all, for those of both families, as far as the machine has them: who
/// probes a node may know it by either.
pub fn tcp_of_all(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return tcp(address);
    }
    let both = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
    let socket = opened(both, Type::STREAM, Protocol::TCP).and_then(|socket| {
        socket.set_only_v6(false)?;
        Ok(socket)
    });
    match socket {
        Ok(socket) => {
            socket.set_reuse_address(true)?;
            socket.bind(&both.into())?;
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into())
        }
        Err(_) => tcp(address), // there is no IPv6
    }
}

/// Opens a UDP socket.
pub fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::from_std(bound(address, Type::DGRAM, Protocol::UDP)?.into())
}

fn opened(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), Some(protocol))
}

fn bound(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = opened(address, kind, protocol)?;
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

//! TCP: what one side says, ends or breaks off, the other hears.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tracing::debug;

use crate::listeners::socket;

/// Connections through one port at a time.
const CONNECTIONS: usize = 256;

/// How long an endpoint may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection may be silent before the other side must show that it is still there.
const SILENCE: Duration = Duration::from_mins(5);

/// Passes connections on. All of them end with the future.
pub(super) async fn relay(listener: TcpListener, to: watch::Receiver<SocketAddr>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            (stream, client) = socket::accept(&listener) => {
                if connections.len() >= CONNECTIONS {
                    debug!(%client, "too many connections to a node port on localhost; resets another");
                    let _ = stream.set_zero_linger();
                    continue;
                }
                let to = *to.borrow();
                connections.spawn(async move {
                    if let Err(error) = pass(stream, to).await {
                        debug!(%error, %client, %to, "a connection through localhost broke off");
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Passes on one connection. Where it breaks off, the other side is reset, as it would be without us.
async fn pass(mut client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let connected = timeout(PATIENCE, TcpStream::connect(to)).await;
    let mut endpoint = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            client.set_zero_linger()?;
            return Err(error);
        }
    };
    for stream in [&client, &endpoint] {
        stream.set_nodelay(true)?;
        SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENCE))?;
    }
    let passed = copy_bidirectional(&mut client, &mut endpoint).await;
    if passed.is_err() {
        client.set_zero_linger()?;
        endpoint.set_zero_linger()?;
    }
    passed.map(drop)
}

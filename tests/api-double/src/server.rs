//! The double behind a socket.

use std::{convert::Infallible, io, net::SocketAddr};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{answer::Double, tls::Tls};

/// A server. It stops, and all its connections break, when this is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    is_secure: bool,
    task: JoinHandle<()>,
    stop: DropGuard,
}

impl Server {
    /// Serves on an address; port 0 for any port that is free. With `tls`, over HTTPS.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn start(double: &Double, address: SocketAddr, tls: Option<&Tls>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let acceptor = tls.map(|tls| tls.acceptor(address.ip())).transpose().map_err(io::Error::other)?;
        let (stop, double) = (CancellationToken::new(), double.clone());
        let (stopped, is_secure) = (stop.clone(), acceptor.is_some());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let stream = tokio::select! {
                    () = stopped.cancelled() => return, // and the connections with it
                    accepted = listener.accept() => accepted.map(|(stream, _)| stream),
                    Some(_) = connections.join_next() => continue,
                };
                let Ok(stream) = stream else { continue };
                let (double, acceptor) = (double.clone(), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(double, stream).await;
                            }
                        }
                        None => serve(double, stream).await,
                    }
                });
            }
        });
        Ok(Self { address, is_secure, task, stop: stop.drop_guard() })
    }

    /// Stops it, and returns when its address can be listened on again.
    pub async fn stop(self) {
        drop(self.stop);
        let _ = self.task.await; // whichever way it ended
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.is_secure { "https" } else { "http" }, self.address)
    }
}

async fn serve(double: Double, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(|request| {
        let double = double.clone();
        async move { Ok::<_, Infallible>(double.answer(request).await) }
    });
    // A connection that breaks is the client's to notice.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

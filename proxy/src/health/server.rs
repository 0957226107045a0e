//! The HTTP server on a health check port.
//!
//! In: connections. Out: the same answer to whatever is asked, until the port is closed. Nobody can hold it up: a connection that says
//! nothing, or too much, is closed, and where there are too many on all ports together the oldest goes.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::ready,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use hyper::{server::conn::http1::Builder, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, JoinSet},
};
use tracing::debug;

use super::{Health, answer::Answer};
use crate::{
    listeners::{Place, Serve, socket},
    objects::ObjectName,
};

/// Connections at a time.
const CONNECTIONS: usize = 128;

/// How long a client may take for the head of a request, or between two requests.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest head of a request, in bytes; hyper takes nothing less.
const HEAD: usize = 8192;

/// Servers that say how many endpoints their service has here.
#[derive(Debug)]
pub(super) struct Servers {
    health: Arc<Health>,
    connections: Arc<Connections>,
}

/// All connections of all ports, the oldest first.
#[derive(Debug, Default)]
struct Connections(Mutex<VecDeque<AbortHandle>>);

impl Servers {
    /// Servers that say so of a proxy's health.
    pub(super) fn new(health: Arc<Health>) -> Self {
        Self { health, connections: Arc::default() }
    }
}

impl Connections {
    /// Takes one in, and ends the oldest if there are too many.
    fn admit(&self, connection: AbortHandle) {
        let mut oldest_first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        oldest_first.retain(|connection| !connection.is_finished());
        if oldest_first.len() >= CONNECTIONS
            && let Some(oldest) = oldest_first.pop_front()
        {
            oldest.abort();
        }
        oldest_first.push_back(connection);
    }
}

impl Serve for Servers {
    type Owner = ObjectName;
    type Purpose = usize;

    const NAME: &'static str = "health check port";

    fn open(
        &self,
        service: &ObjectName,
        place: Place,
        local_endpoints: watch::Receiver<usize>,
    ) -> io::Result<BoxFuture<'static, ()>> {
        let listener = socket::tcp(place.address)?;
        let asked = Asked { service: service.clone(), local_endpoints, health: Arc::clone(&self.health) };
        Ok(Box::pin(serve(listener, Arc::new(asked), Arc::clone(&self.connections))))
    }
}

/// What the answers are made of.
pub(super) struct Asked {
    pub(super) service: ObjectName,
    pub(super) local_endpoints: watch::Receiver<usize>,
    pub(super) health: Arc<Health>,
}

async fn serve(listener: TcpListener, asked: Arc<Asked>, all: Arc<Connections>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            (stream, _) = socket::accept(&listener) => {
                all.admit(connections.spawn(answer(stream, Arc::clone(&asked))));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers whatever is asked over one connection.
pub(super) async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, asked: Arc<Asked>) {
    let service = service_fn(|_request| {
        let answer = Answer {
            service: &asked.service,
            local_endpoints: *asked.local_endpoints.borrow(),
            is_proxy_healthy: asked.health.is_healthy(),
        };
        ready(Ok::<_, Infallible>(answer.response()))
    });
    let served = Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(HEAD)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection to a health check port ended");
    }
}

//! The HTTP server on a health check port.
//!
//! In: connections. Out: the same answer to whatever is asked, until the port is closed. Nobody can hold it up: a connection that says nothing,
//! or too much, is closed, and where there are too many the oldest goes.

use std::{collections::VecDeque, convert::Infallible, future::ready, io, sync::Arc, time::Duration};

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

/// Connections to one port at a time.
const CONNECTIONS: usize = 32;

/// How long a client may take for the head of a request, or between two requests.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest head of a request, in bytes; hyper takes nothing less.
const HEAD: usize = 8192;

/// Servers that say how many endpoints their service has here.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) health: Arc<Health>,
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
        Ok(Box::pin(serve(listener, Arc::new(asked))))
    }
}

/// What the answers are made of.
pub(super) struct Asked {
    pub(super) service: ObjectName,
    pub(super) local_endpoints: watch::Receiver<usize>,
    pub(super) health: Arc<Health>,
}

async fn serve(listener: TcpListener, asked: Arc<Asked>) {
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            (stream, _) = socket::accept(&listener) => {
                oldest_first.retain(|connection| !connection.is_finished());
                if oldest_first.len() >= CONNECTIONS && let Some(oldest) = oldest_first.pop_front() {
                    oldest.abort();
                }
                oldest_first.push_back(connections.spawn(answer(stream, Arc::clone(&asked))));
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

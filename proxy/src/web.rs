//! What the daemon says of itself over HTTP: to load balancers and the kubelet on one address, to people and Prometheus on another.
//!
//! In: connections. Out: answers by path. Nobody is let in who could change anything. An address that cannot be listened on is tried again,
//! unless that is asked to be an error.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS},
    server::conn::http1::Builder,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    connections::{self, Connections},
    health::{Health, RoutingReport},
    listeners::socket,
    metrics::{MEDIA_TYPE, Metrics},
};

/// Connections at a time; more wait.
const CONNECTIONS: usize = 64;

/// How long a client may take for the head of a request, or between two requests.
const PATIENCE: Duration = Duration::from_secs(30);

/// When to try again to listen, as kube-proxy does.
const AGAIN: Duration = Duration::from_secs(5);

/// The media type of what is said of health and status.
const JSON: &str = "application/json";

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for {purpose}")]
pub struct Error {
    address: SocketAddr,
    purpose: &'static str,
    source: io::Error,
}

/// A server of some pages.
#[derive(Debug)]
pub struct Web {
    purpose: &'static str,
    address: SocketAddr,
    is_hard_fail: bool,
    pages: Pages,
}

/// What is answered, by path.
#[derive(Debug, Clone)]
pub enum Pages {
    /// Whether the proxy is healthy: `/healthz` and `/livez`.
    Health(Arc<Health>, Arc<Metrics>),
    /// What people and Prometheus ask for.
    Status(Arc<Health>, Arc<Metrics>, Arc<Connections>, Arc<Mutex<RoutingReport>>),
}

impl Web {
    /// For load balancers and the kubelet.
    pub fn health(address: SocketAddr, health: Arc<Health>, metrics: Arc<Metrics>) -> Self {
        Self { purpose: "health", address, is_hard_fail: false, pages: Pages::Health(health, metrics) }
    }

    /// For people and Prometheus.
    pub fn status(
        address: SocketAddr,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        connections: Connections,
        routing: Arc<Mutex<RoutingReport>>,
    ) -> Self {
        Self {
            purpose: "metrics and status",
            address,
            is_hard_fail: false,
            pages: Pages::Status(health, metrics, connections.into(), routing),
        }
    }

    /// Ends with an error where the address cannot be listened on.
    #[must_use]
    pub fn or_fail(self, is_hard_fail: bool) -> Self {
        Self { is_hard_fail, ..self }
    }

    /// Answers until cancelled.
    pub async fn run(self, cancelled: CancellationToken) -> Result<(), Error> {
        tokio::select! {
            () = cancelled.cancelled() => Ok(()),
            ended = self.serve() => ended,
        }
    }

    async fn serve(self) -> Result<(), Error> {
        let (purpose, address) = (self.purpose, self.address);
        let mut is_told = false;
        let listener = loop {
            match socket::tcp_of_all(address) {
                Ok(listener) => break listener,
                Err(source) if self.is_hard_fail => return Err(Error { address, purpose, source }),
                Err(error) if !is_told => {
                    warn!(%address, purpose, %error, "not listening: end the program that listens there (ss -lnp), or choose another address; tries again");
                    is_told = true;
                }
                Err(_) => {}
            }
            sleep(AGAIN).await;
        };
        if is_told {
            info!(%address, purpose, "listening");
        }
        let (pages, room) = (self.pages, Arc::new(Semaphore::new(CONNECTIONS)));
        let mut connections = JoinSet::new();
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
            tokio::select! {
                (stream, _) = socket::accept(&listener) => {
                    let pages = pages.clone();
                    connections.spawn(async move {
                        answer_all(TokioIo::new(stream), pages).await;
                        drop(place);
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn answer_all(stream: TokioIo<tokio::net::TcpStream>, pages: Pages) {
    let service = service_fn(move |request: Request<Incoming>| {
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(pages.answer(request.method(), request.uri().path()).await) }
    });
    let served = Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(stream, service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection ended");
    }
}

impl Pages {
    async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
        }
        let (Self::Health(health, metrics) | Self::Status(health, metrics, ..)) = self;
        let answer = match (self, path) {
            (_, "/healthz") => verdict(health.report().healthz()),
            (_, "/livez") => verdict(health.report().livez()),
            (_, "/readyz") => verdict(health.report().readyz()),
            (Self::Status(..), "/proxyMode") => text(StatusCode::OK, "nftables"),
            (Self::Status(.., routing), "/status") => {
                let routing = routing.lock().unwrap_or_else(PoisonError::into_inner).said();
                let status = health.report().status(&metrics.sync.known(), routing);
                answer(StatusCode::OK, HeaderValue::from_static(JSON), status.to_string())
            }
            (Self::Status(..), "/metrics") => match metrics.text() {
                Ok(metrics) => answer(StatusCode::OK, HeaderValue::from_static(MEDIA_TYPE), metrics),
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written down\n"),
            },
            (Self::Status(_, _, connections, _), "/metrics/services") => told(connections.text().await),
            _ => text(StatusCode::NOT_FOUND, "there is no such page\n"),
        };
        metrics.health.answered(path, answer.status().as_u16());
        answer
    }
}

fn told(connections: Result<String, connections::Error>) -> Response<Full<Bytes>> {
    let error = match connections {
        Ok(text) => return answer(StatusCode::OK, HeaderValue::from_static(MEDIA_TYPE), text),
        Err(error) => error,
    };
    let status = match error {
        connections::Error::Off => StatusCode::NOT_FOUND,
        connections::Error::Busy => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    let words: Vec<_> = causes.map(ToString::to_string).collect();
    answer(status, HeaderValue::from_static("text/plain; charset=utf-8"), words.join(": ") + "\n")
}

fn verdict((is_well, said): (bool, Value)) -> Response<Full<Bytes>> {
    let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(status, HeaderValue::from_static(JSON), said.to_string())
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    answer(status, HeaderValue::from_static("text/plain; charset=utf-8"), text.to_owned())
}

fn answer(status: StatusCode, kind: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let own: [(HeaderName, HeaderValue); 2] =
        [(CONTENT_TYPE, kind), (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))];
    response.headers_mut().extend(own);
    response
}

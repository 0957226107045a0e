//! Requests and answers.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Channel, Full, channel::Sender, combinators::BoxBody};
use serde_json::{Value, json};
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    faults::{Fault, Order},
    selector::Selector,
    store::{Happening, Kind, Name, Store},
};

/// An answer's body; an error breaks the connection.
pub type Body = BoxBody<Bytes, io::Error>;

/// How the double behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The token that requests must bear.
    pub token: Option<String>,
    /// How often a watch that asks for them gets bookmarks.
    pub bookmarks: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { token: None, bookmarks: Duration::from_mins(1) }
    }
}

#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    orders: Mutex<VecDeque<Order>>,
    options: Mutex<Options>,
    /// The revision, for watches to wait for.
    revision: watch::Sender<u64>,
    /// How often all watches were cut.
    cuts: watch::Sender<u64>,
    /// Requests so far, by method and path.
    requests: Mutex<BTreeMap<String, u64>>,
}

/// An API server's double; clones are the same one.
#[derive(Debug, Clone)]
pub struct Double(Arc<Shared>);

impl Default for Double {
    fn default() -> Self {
        Self::new(Options::default())
    }
}

/// What a request asks for.
struct Asked {
    kind: Kind,
    selector: Selector,
    version: String,
    limit: usize,
    rest: String,
    bookmarks: bool,
    seconds: u64,
}

impl Double {
    /// A double without any object.
    pub fn new(options: Options) -> Self {
        Self(Arc::new(Shared {
            store: Mutex::default(),
            orders: Mutex::default(),
            options: Mutex::new(options),
            revision: watch::Sender::new(0),
            cuts: watch::Sender::new(0),
            requests: Mutex::default(),
        }))
    }

    /// Creates or replaces an object, and returns its name; nothing if it is of none of the kinds.
    pub fn put(&self, object: &Value) -> Option<Name> {
        let mut store = self.store();
        let name = store.put(object);
        self.0.revision.send_replace(store.revision);
        name
    }

    /// Deletes an object, and says whether there was one.
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        let mut store = self.store();
        let is_deleted = store.delete(kind, &(namespace.to_owned(), name.to_owned()));
        self.0.revision.send_replace(store.revision);
        is_deleted
    }

    /// Every object of a kind.
    pub fn objects(&self, kind: Kind) -> Vec<Value> {
        self.store().all(kind)
    }

    /// Forgets what happened so far, as an API server does after five minutes: who comes with an older version is sent away with 410.
    pub fn compact(&self) {
        self.store().compact();
    }

    /// Orders a fault for the next request, or the next one about a kind.
    pub fn order(&self, fault: Fault, kind: Option<Kind>) {
        lock(&self.0.orders).push_back(Order { fault, kind });
    }

    /// Takes back all faults that have not happened yet.
    pub fn heal(&self) {
        lock(&self.0.orders).clear();
    }

    /// Breaks all watches.
    pub fn cut(&self) {
        self.0.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Asks for another token from now on.
    pub fn require(&self, token: &str) {
        lock(&self.0.options).token = Some(token.to_owned());
    }

    /// How often this was asked for, such as `list /api/v1/services`.
    pub fn requests(&self, what: &str) -> u64 {
        lock(&self.0.requests).get(what).copied().unwrap_or_default()
    }

    /// Answers a request.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<Body> {
        if !self.admits(&request) {
            return refusal(StatusCode::UNAUTHORIZED, "Unauthorized");
        }
        let Some(asked) = asked(&request) else {
            let is_ready = matches!(request.uri().path(), "/livez" | "/readyz" | "/healthz");
            return if is_ready {
                whole(StatusCode::OK, "ok".into())
            } else {
                refusal(StatusCode::NOT_FOUND, "not found")
            };
        };
        let verb = if asked.seconds > 0 { "watch" } else { "list" };
        *lock(&self.0.requests).entry(format!("{verb} {}", asked.kind.path())).or_default() += 1;
        let fault = self.next_fault(asked.kind);
        match fault {
            Some(Fault::Status(code)) => {
                let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                return refusal(code, "ordered");
            }
            Some(Fault::Hang) => std::future::pending().await,
            _ => {}
        }
        if asked.seconds > 0 { self.watch(asked, fault) } else { self.list(&asked, fault) }
    }

    fn admits<B>(&self, request: &Request<B>) -> bool {
        let Some(token) = lock(&self.0.options).token.clone() else { return true };
        let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        given == Some(&format!("Bearer {token}"))
    }

    fn next_fault(&self, kind: Kind) -> Option<Fault> {
        let mut orders = lock(&self.0.orders);
        let place = orders.iter().position(|order| order.kind.is_none_or(|wanted| wanted == kind))?;
        orders.remove(place).map(|order| order.fault)
    }

    fn list(&self, asked: &Asked, fault: Option<Fault>) -> Response<Body> {
        let mut store = self.store();
        let (revision, from) = match asked.rest.split_once(':') {
            Some((revision, from)) => (revision.parse().unwrap_or(0), from.parse().unwrap_or(0)),
            None => (store.revision, 0),
        };
        let all = if asked.rest.is_empty() {
            store.list(asked.kind, &asked.selector)
        } else if let Some(listed) = store.listed(revision, asked.kind, &asked.selector) {
            listed
        } else {
            return refusal(StatusCode::GONE, "The provided continue parameter is too old");
        };
        let page = all.iter().skip(from).take(asked.limit).map(|version| version.item.as_str());
        let items = page.collect::<Vec<_>>().join(",");
        let next = from.saturating_add(asked.limit);
        let rest = if next < all.len() { format!("{revision}:{next}") } else { String::new() };
        let (kind, group_version) = asked.kind.names();
        let metadata = json!({"resourceVersion": revision.to_string(), "continue": rest});
        let page = format!(
            r#"{{"kind":"{kind}List","apiVersion":"{group_version}","metadata":{metadata},"items":[{items}]}}"#
        );
        match fault {
            Some(Fault::CutAfter(bytes)) => cut(&page, bytes),
            Some(Fault::EndAfter(bytes)) => whole(StatusCode::OK, start(&page, bytes)),
            Some(Fault::Garbage) => whole(StatusCode::OK, "<html>no API server</html>".into()),
            _ => whole(StatusCode::OK, page),
        }
    }

    fn watch(&self, asked: Asked, fault: Option<Fault>) -> Response<Body> {
        let from = asked.version.parse().unwrap_or(0);
        if self.store().is_forgotten(from) || fault == Some(Fault::Gone) {
            return whole(StatusCode::OK, gone_line());
        }
        if fault == Some(Fault::Garbage) {
            return whole(StatusCode::OK, "<html>no API server</html>\n".into());
        }
        let (sender, body) = Channel::new(16);
        tokio::spawn(
            Watch { double: self.clone(), asked, position: from, left: budget(fault) }.run(sender, fault),
        );
        answer(StatusCode::OK, body.boxed())
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.0.store)
    }
}

/// A watch that runs.
struct Watch {
    double: Double,
    asked: Asked,
    /// The revision up to which all has been told.
    position: u64,
    /// How many bytes it may still tell.
    left: Option<usize>,
}

impl Watch {
    async fn run(mut self, mut sender: Sender<Bytes, io::Error>, fault: Option<Fault>) {
        let (mut revision, mut cuts) = (self.double.0.revision.subscribe(), self.double.0.cuts.subscribe());
        let end = Instant::now() + Duration::from_secs(self.asked.seconds);
        let period = lock(&self.double.0.options).bookmarks;
        let mut bookmark = Instant::now() + period;
        loop {
            let mut lines = String::new();
            revision.mark_unchanged(); // what comes from here on wakes us again
            if fault != Some(Fault::Silence) {
                let Some(happenings) = self.catch_up() else {
                    self.tell(&mut sender, gone_line()).await;
                    return;
                };
                lines.extend(happenings.iter().filter_map(|happening| line(happening, &self.asked.selector)));
                if self.asked.bookmarks && bookmark <= Instant::now() {
                    bookmark = Instant::now() + period;
                    lines.push_str(&bookmark_line(self.asked.kind, self.position));
                }
            }
            if !lines.is_empty() && !self.tell(&mut sender, lines).await {
                if matches!(fault, Some(Fault::CutAfter(_))) {
                    sender.abort(io::Error::other("cut"));
                }
                return;
            }
            select! {
                changed = revision.changed() => if changed.is_err() { return },
                _ = cuts.changed() => {
                    sender.abort(io::Error::other("cut"));
                    return;
                }
                () = sleep_until(bookmark), if fault != Some(Fault::Silence) => {}
                () = sleep_until(end), if fault != Some(Fault::Silence) => return,
            }
        }
    }

    /// What happened since; nothing if that is forgotten.
    fn catch_up(&mut self) -> Option<Vec<Happening>> {
        let store = self.double.store();
        if store.is_forgotten(self.position) {
            return None;
        }
        let happenings = store.since(self.position, self.asked.kind);
        self.position = store.revision.max(self.position);
        Some(happenings)
    }

    /// Tells some lines, or as much of them as it may, and says whether it goes on.
    async fn tell(&mut self, sender: &mut Sender<Bytes, io::Error>, lines: String) -> bool {
        let part = self.left.map_or(lines.clone(), |left| start(&lines, left));
        let is_all = part.len() == lines.len();
        self.left = self.left.map(|left| left - part.len());
        sender.send_data(part.into()).await.is_ok() && is_all
    }
}

fn budget(fault: Option<Fault>) -> Option<usize> {
    match fault {
        Some(Fault::CutAfter(bytes) | Fault::EndAfter(bytes)) => Some(bytes),
        _ => None,
    }
}

/// What happened, to somebody who sees only what a selector takes.
fn line(happening: &Happening, selector: &Selector) -> Option<String> {
    let seen = |version: &Option<Arc<crate::store::Version>>| {
        version.clone().filter(|version| selector.takes(version))
    };
    let (word, version) = match (seen(&happening.before), seen(&happening.after)) {
        (None, Some(after)) => ("ADDED", after),
        (Some(_), Some(after)) => ("MODIFIED", after),
        (Some(before), None) => ("DELETED", before),
        (None, None) => return None,
    };
    Some(format!("{{\"type\":\"{word}\",\"object\":{}}}\n", version.whole))
}

fn bookmark_line(kind: Kind, revision: u64) -> String {
    let (kind, group_version) = kind.names();
    let metadata = json!({"resourceVersion": revision.to_string()});
    let object = json!({"kind": kind, "apiVersion": group_version, "metadata": metadata});
    format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n")
}

fn gone_line() -> String {
    let object = status(StatusCode::GONE, "too old resource version");
    format!("{{\"type\":\"ERROR\",\"object\":{object}}}\n")
}

/// Reads a request; nothing if it is for nothing that there is.
fn asked<B>(request: &Request<B>) -> Option<Asked> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.path() == request.uri().path())?;
    if request.method() != Method::GET {
        return None;
    }
    let query: BTreeMap<String, String> = parameters(request.uri().query().unwrap_or_default());
    let text = |key: &str| query.get(key).cloned().unwrap_or_default();
    let is_watch = matches!(text("watch").as_str(), "true" | "1");
    Some(Asked {
        kind,
        selector: Selector { labels: text("labelSelector"), fields: text("fieldSelector") },
        version: text("resourceVersion"),
        limit: text("limit").parse().ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX),
        rest: text("continue"),
        bookmarks: text("allowWatchBookmarks") == "true",
        seconds: if is_watch { text("timeoutSeconds").parse().unwrap_or(1800) } else { 0 },
    })
}

/// Reads `a=b&c=d`, as browsers write it (WHATWG URL, application/x-www-form-urlencoded).
fn parameters(query: &str) -> BTreeMap<String, String> {
    let plain = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            match byte {
                b'+' => bytes.push(b' '),
                b'%' => {
                    let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                    let digits = str::from_utf8(&digits).unwrap_or("00");
                    bytes.push(u8::from_str_radix(digits, 16).unwrap_or(b'?'));
                }
                byte => bytes.push(byte),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (plain(key), plain(value))).collect()
}

fn status(code: StatusCode, message: &str) -> Value {
    let reason = match code {
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::GONE => "Expired",
        _ => "",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    })
}

fn refusal(code: StatusCode, message: &str) -> Response<Body> {
    whole(code, status(code, message).to_string())
}

fn whole(code: StatusCode, text: String) -> Response<Body> {
    answer(code, Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed())
}

/// The start of a text, and then the connection breaks.
fn cut(text: &str, bytes: usize) -> Response<Body> {
    let (mut sender, body) = Channel::new(2);
    let part = start(text, bytes);
    tokio::spawn(async move {
        if sender.send_data(part.into()).await.is_ok() {
            sender.abort(io::Error::other("cut"));
        }
    });
    answer(StatusCode::OK, body.boxed())
}

fn start(text: &str, bytes: usize) -> String {
    text.chars()
        .scan(0, |length, c| {
            *length += c.len_utf8();
            (*length <= bytes).then_some(c)
        })
        .collect()
}

fn answer(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! One kind of object, followed: listed page by page, then watched.
//!
//! ```text
//!          ┌────────────────────── too old (410) ──────────────────────┐
//!          ▼                                                           │
//!        list ── all pages, then what is gone since ──▶ watch from there ── ended, silent or broken ──▶ watch from the last line
//! ```
//!
//! What was listed before and is not in a later list is gone. Any failure is followed by a pause, and told once until something
//! succeeds again.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use futures_util::AsyncBufReadExt;
use kube::{
    Client,
    api::{ListParams, WatchParams},
    core::request::Request,
};
use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    access::{self, Access},
    backoff::Backoff,
    memory::Memory,
    wire::{Head, Line, Page, Status},
};
use crate::{
    metrics::{Answered, SourceMetrics},
    objects::{Invalid, Kind, Object, ObjectName, sharing::Shared},
    watch::Event,
};

/// Objects asked for at a time, as client-go does.
const PAGE: u32 = 500;

/// How long a page, or the beginning of a watch, may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a page of the first list may take before what was kept is told: most API servers that answer at all do within a tenth of it.
const SHORT_WHILE: Duration = Duration::from_secs(2);

/// How long a watch may say nothing. The API server sends a bookmark every minute (`defaultBookmarkFrequency` in
/// apiserver/pkg/storage/cacher/cacher.go); where it sends none, the watch is begun anew, which costs little.
const SILENCE: Duration = Duration::from_secs(150);

/// How long the API server is asked to keep a watch, at most; the kube crate takes no more.
const LONGEST_WATCH: u64 = 290;

/// A watch that ends sooner has failed.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// When to ask again for a kind that the API server does not have.
const UNKNOWN_KIND: Duration = Duration::from_mins(10);

/// Which objects of the kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Selection {
    pub(super) labels: Option<String>,
    pub(super) fields: Option<String>,
}

/// One kind of object.
#[derive(Debug)]
pub(super) struct Feed {
    kind: Kind,
    selection: Selection,
    access: Arc<Access>,
    events: mpsc::Sender<Event>,
    /// What is there, as far as it has been told.
    known: HashSet<ObjectName>,
    /// What is there and makes no sense, with what was said about it.
    senseless: BTreeMap<ObjectName, Invalid>,
    shared: Shared,
    /// As of when all is known; `None`: nothing is listed, or too long ago.
    version: Option<String>,
    metrics: SourceMetrics,
    /// The API server's host and port, as far as they are known.
    host: Arc<str>,
    /// Where there is something to tell as long as the API server does not answer.
    memory: Option<Arc<Memory>>,
    /// Told when all has been told once; `None`: it was.
    listed: Option<oneshot::Sender<()>>,
}

/// Why it does not go on.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{step}")]
    Request { step: &'static str, source: Box<kube::Error> },
    #[error("{step}: {}", .status.message)]
    Refused { step: &'static str, status: Status },
    #[error("{step}")]
    Unreached { step: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("log in at the API server: {reason}")]
    LogIn { reason: String },
    #[error("{step}: no answer for {} s", .patience.as_secs())]
    Silent { step: &'static str, patience: Duration },
    #[error("{step}: read the answer")]
    Answer { step: &'static str, source: serde_json::Error },
    #[error("watch: the connection broke")]
    Broken(#[source] std::io::Error),
    #[error("watch: it ended at once")]
    Short,
    #[error("list: the answer has no resourceVersion")]
    NoVersion,
    #[error(transparent)]
    Access(#[from] access::Error),
    #[error("nobody listens any more")]
    Unheard,
}

impl Error {
    /// An error of the kube crate without what an exec plugin has printed.
    fn of_request(step: &'static str, source: kube::Error) -> Self {
        // It may be asked again in the middle of it all, where what it said before has expired.
        if let Some(reason) = access::of_login(&source) {
            return Self::LogIn { reason };
        }
        match source {
            kube::Error::Api(status) => {
                let status = Status { code: status.code, message: status.message };
                Self::Refused { step, status }
            }
            kube::Error::Service(source) => Self::Unreached { step, source },
            source => Self::Request { step, source: Box::new(source) },
        }
    }

    fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(status.code),
            _ => None,
        }
    }

    /// Says whether what we know is too old to go on from.
    fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }
}

impl Feed {
    pub(super) fn new(
        kind: Kind,
        selection: Selection,
        access: Arc<Access>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let (known, senseless, shared) = (HashSet::new(), BTreeMap::new(), Shared::default());
        let (metrics, host) = (SourceMetrics::default(), Arc::default());
        let (version, memory, listed) = (None, None, None);
        Self {
            kind,
            selection,
            access,
            events,
            known,
            senseless,
            shared,
            version,
            metrics,
            host,
            memory,
            listed,
        }
    }

    /// The same, counted there.
    pub(super) fn with_metrics(self, metrics: SourceMetrics) -> Self {
        Self { metrics, ..self }
    }

    /// The same, but it begins with what was kept where the API server does not answer.
    pub(super) fn remembering(self, memory: Option<Arc<Memory>>) -> Self {
        Self { memory, ..self }
    }

    /// Follows the kind until nobody listens any more. `listed` is told when all has been told once, from whatever source, and
    /// `confirmed` when the API server has told it.
    pub(super) async fn run(mut self, listed: oneshot::Sender<()>, confirmed: oneshot::Sender<()>) {
        self.listed = Some(listed);
        let (mut confirmed, mut backoff) = (Some(confirmed), Backoff::default());
        let mut client = None;
        let mut told = String::new();
        loop {
            let error = match self.go_on(&mut client).await {
                Ok(()) => {
                    if !told.is_empty() {
                        info!(kind = %self.kind, "the API server answers again");
                        told.clear();
                    }
                    backoff.succeeded();
                    self.say_listed();
                    confirmed.take().map(|confirmed| confirmed.send(()));
                    continue;
                }
                Err(Error::Unheard) => return,
                Err(error) => error,
            };
            if error.is_expired() && self.version.take().is_some() {
                debug!(kind = %self.kind, "what is known is too old: listed anew");
                continue;
            }
            self.metrics.failed(self.kind);
            let mut pause = backoff.failed(RandomState::new().build_hasher().finish());
            self.complain(&error, &mut told);
            if self.is_unknown_kind(&error) {
                self.heard();
                self.say_listed();
                confirmed.take().map(|confirmed| confirmed.send(()));
                pause = UNKNOWN_KIND;
            } else if self.tell_kept().await.is_err() {
                return;
            }
            client = None; // certificates may have been exchanged
            tokio::select! {
                () = sleep(pause) => {}
                () = self.events.closed() => return,
            }
        }
    }

    fn say_listed(&mut self) {
        self.listed.take().map(|listed| listed.send(()));
    }

    /// Tells what was known last, unless all has been told already. What the API server has told so far is newer.
    async fn tell_kept(&mut self) -> Result<(), Error> {
        let Some(memory) = self.memory.as_ref().filter(|_| self.listed.is_some()) else { return Ok(()) };
        let Some(kept) = memory.take(self.kind).await else { return Ok(()) };
        for object in kept {
            if self.known.insert(object.name().clone()) {
                tell(&self.events, Event::set(object)).await?;
            }
        }
        self.say_listed();
        Ok(())
    }

    /// Waits for an answer, but tells what was known last if that takes more than a short while.
    async fn await_patiently<T>(&mut self, answer: impl Future<Output = T>) -> Result<T, Error> {
        let mut answer = std::pin::pin!(answer);
        if self.memory.is_some() && self.listed.is_some() {
            if let Ok(answer) = timeout(SHORT_WHILE, &mut answer).await {
                return Ok(answer);
            }
            self.tell_kept().await?;
        }
        Ok(answer.await)
    }

    /// Says once why it does not go on, however often it is tried.
    fn complain(&self, error: &(dyn std::error::Error + 'static), told: &mut String) {
        let causes = std::iter::successors(Some(error), |&error| error.source());
        let message = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        if *told != message {
            warn!(kind = %self.kind, error, "cannot follow the API server; what is known stays, and it is tried again");
            *told = message;
        }
    }

    /// Lists, or watches until that ends.
    async fn go_on(&mut self, client: &mut Option<Client>) -> Result<(), Error> {
        let client = if let Some(client) = client {
            client
        } else {
            let access = Arc::clone(&self.access);
            let (fresh, host) = self.await_patiently(access.client_and_host()).await??;
            self.host = host;
            client.insert(fresh)
        };
        match self.version.clone() {
            None => self.list(client).await,
            Some(version) => self.watch(client, version).await,
        }
    }

    /// Older API servers have no service CIDRs, and older roles do not let us see them. Then there are none.
    fn is_unknown_kind(&self, error: &Error) -> bool {
        self.kind == Kind::ServiceCidr && matches!(error.code(), Some(403 | 404))
    }

    fn path(&self) -> &'static str {
        match self.kind {
            Kind::Service => "/api/v1/services",
            Kind::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices",
            Kind::Node => "/api/v1/nodes",
            Kind::ServiceCidr => "/apis/networking.k8s.io/v1/servicecidrs",
        }
    }

    async fn list(&mut self, client: &Client) -> Result<(), Error> {
        const STEP: &str = "list";
        let mut seen = HashSet::with_capacity(self.known.len());
        let mut parameters = ListParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.selection.fields.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        loop {
            let request = Request::new(self.path()).list(&parameters).map_err(invalid_request(STEP))?;
            let began = Instant::now();
            let answer = in_time(STEP, PATIENCE, client.request_text(request));
            let text = self.await_patiently(answer).await?;
            self.count(&text, began);
            let text = text?;
            let text = match text {
                // The place to go on from is too old: all of it at once, then.
                Err(kube::Error::Api(status))
                    if status.code == 410 && parameters.continue_token.is_some() =>
                {
                    seen.clear();
                    (parameters.continue_token, parameters.limit) = (None, None);
                    continue;
                }
                text => text.map_err(|source| Error::of_request(STEP, source))?,
            };
            let page: Page =
                serde_json::from_str(&text).map_err(|source| Error::Answer { step: STEP, source })?;
            for item in page.items.into_iter().flatten() {
                let head = head(item).map_err(|source| Error::Answer { step: STEP, source })?;
                seen.insert(self.set(head.object_name(), item).await?);
            }
            parameters.continue_token = page.metadata.rest.filter(|rest| !rest.is_empty());
            if parameters.continue_token.is_none() {
                let version = page.metadata.resource_version.filter(|version| !version.is_empty());
                self.version = Some(version.ok_or(Error::NoVersion)?);
                break;
            }
        }
        for name in self.known.difference(&seen) {
            tell(&self.events, Event::gone(self.kind, name.clone())).await?;
        }
        self.metrics.listed(self.kind);
        self.heard();
        self.senseless.retain(|name, _| seen.contains(name));
        self.known = seen;
        Ok(())
    }

    async fn watch(&mut self, client: &Client, version: String) -> Result<(), Error> {
        const STEP: &str = "watch";
        let luck = RandomState::new().build_hasher().finish();
        let seconds = LONGEST_WATCH / 2 + luck % (LONGEST_WATCH / 2);
        let parameters = WatchParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.selection.fields.clone(),
            timeout: u32::try_from(seconds).ok(),
            bookmarks: true,
            send_initial_events: false,
        };
        let request =
            Request::new(self.path()).watch(&parameters, &version).map_err(invalid_request(STEP))?;
        let began = Instant::now();
        let stream = in_time(STEP, PATIENCE, client.request_stream(request)).await;
        self.count(&stream, began);
        let stream = stream?;
        let mut stream = std::pin::pin!(stream.map_err(|source| Error::of_request(STEP, source))?);
        self.metrics.watched(self.kind);
        self.heard();
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = in_time(STEP, SILENCE, stream.read_until(b'\n', &mut line)).await;
            // A connection that said nothing for so long may be dead, or the server sends no bookmarks: no reason to pause.
            let length = match length {
                Err(Error::Silent { .. }) => return Ok(()),
                length => length?.map_err(Error::Broken)?,
            };
            if length == 0 || !line.ends_with(b"\n") {
                return if began.elapsed() < SHORTEST_WATCH { Err(Error::Short) } else { Ok(()) };
            }
            self.take_in(&line).await?;
        }
    }

    /// What is known of the kind is what the API server says.
    fn heard(&self) {
        if let Some(memory) = &self.memory {
            memory.heard(self.kind);
        }
    }

    /// Counts a request by its answer.
    fn count<T>(&self, answer: &Result<kube::Result<T>, Error>, began: Instant) {
        let answered = match answer {
            Ok(Ok(_)) => Answered::Status(200),
            Ok(Err(kube::Error::Api(status))) => Answered::Status(status.code),
            Ok(Err(_)) | Err(_) => Answered::Error,
        };
        self.metrics.requested(&self.host, answered, began.elapsed());
    }

    /// Takes in a line of a watch.
    async fn take_in(&mut self, line: &[u8]) -> Result<(), Error> {
        let senseless = |source| Error::Answer { step: "watch", source };
        let Line { happened, object } = serde_json::from_slice(line).map_err(senseless)?;
        if happened == "ERROR" {
            let status = serde_json::from_str(object.get()).map_err(senseless)?;
            return Err(Error::Refused { step: "watch", status });
        }
        let head = head(object).map_err(senseless)?;
        let name = head.object_name();
        if matches!(&*happened, "ADDED" | "MODIFIED" | "DELETED") {
            self.metrics.changed(self.kind);
        }
        match &*happened {
            "ADDED" | "MODIFIED" => drop(self.set(name, object).await?),
            "DELETED" => {
                self.known.remove(&name);
                self.senseless.remove(&name);
                tell(&self.events, Event::gone(self.kind, name)).await?;
            }
            _ => {} // BOOKMARK, or what a later API server may say
        }
        if let Some(version) = head.metadata.resource_version {
            self.version = Some(version);
        }
        Ok(())
    }

    /// Tells an object, and returns its name. One that makes no sense is left as it was, and said so once.
    async fn set(&mut self, name: ObjectName, object: &RawValue) -> Result<ObjectName, Error> {
        match Object::of_kind(self.kind, object.get()) {
            Ok(mut object) => {
                self.senseless.remove(&name);
                self.shared.share(&mut object);
                let name = object.name().clone(); // its letters are shared with whoever keeps the object
                if !self.known.contains(&name) {
                    self.known.insert(name.clone());
                }
                tell(&self.events, Event::set(object)).await?;
                Ok(name)
            }
            Err(invalid) => {
                if self.senseless.get(&name) != Some(&invalid) {
                    self.metrics.skipped(Some(self.kind));
                    let Invalid { object, field, reason, .. } = &invalid;
                    warn!(object, field, reason, "skipped an object");
                    self.senseless.insert(name.clone(), invalid);
                }
                Ok(name)
            }
        }
    }
}

fn head(object: &RawValue) -> Result<Head, serde_json::Error> {
    serde_json::from_str(object.get())
}

async fn tell(events: &mpsc::Sender<Event>, event: Event) -> Result<(), Error> {
    events.send(event).await.map_err(|_| Error::Unheard)
}

async fn in_time<T>(
    step: &'static str,
    patience: Duration,
    answer: impl Future<Output = T>,
) -> Result<T, Error> {
    timeout(patience, answer).await.map_err(|_| Error::Silent { step, patience })
}

fn invalid_request(step: &'static str) -> impl Fn(kube::core::request::Error) -> Error {
    move |source| Error::Request { step, source: Box::new(kube::Error::BuildRequest(source)) }
}

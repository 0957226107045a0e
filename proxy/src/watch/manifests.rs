//! Manifests in a directory, watched by inotify: services, endpoint slices and nodes without an API server.
//!
//! In: files `*.yaml`, `*.yml` and `*.json`, written in place, renamed into place, or swapped as a whole by a `..data` link, as
//! `ConfigMap` volumes do. Out: an event for every object that changed; a warning, once, for whatever is not served.
//! A file that makes no sense as a whole keeps what it said before. Sub-directories, and what symbolic links to other places
//! lead to, are not watched.

use std::{
    collections::BTreeSet,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use futures_util::{FutureExt, StreamExt};
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchMask};
use tokio::{sync::mpsc, task};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{
    catalogue::Catalogue,
    parse::{Format, Manifest},
};
use crate::{metrics::SourceMetrics, watch::Event};

pub mod catalogue;
pub mod parse;

#[cfg(test)]
mod tests;

/// The largest file that is read. Ten thousand services with their endpoints fit.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Why a directory cannot be watched (any more).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system does not let us watch it.
    #[error("watch manifests in {dir}")]
    Watch {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system does not let us list it.
    #[error("list manifests in {dir}")]
    List {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was there, and was removed, renamed or unmounted.
    #[error("the directory of manifests {dir} is gone")]
    Gone {
        /// The directory.
        dir: PathBuf,
    },
}

/// A watched directory.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
    news: EventStream<Vec<u8>>,
    catalogue: Catalogue,
    skipped: u64,
    metrics: SourceMetrics,
}

/// What has to be read again.
#[derive(Debug, Default)]
struct Stale {
    files: BTreeSet<String>,
    /// Files that have just been made; whoever made them may be writing still.
    begun: BTreeSet<String>,
    everything: bool,
}

/// A file as it is now.
enum Found {
    Nothing,
    AsBefore,
    New { digest: u64, said: Result<Manifest, String> },
}

impl Found {
    /// Says whether something in the file is wrong.
    fn makes_no_sense(&self) -> bool {
        match self {
            Self::Nothing | Self::AsBefore => false,
            Self::New { said, .. } => said.as_ref().map_or(true, |manifest| !manifest.invalid.is_empty()),
        }
    }
}

impl Manifests {
    /// Starts to watch. What happens from here on is not missed, even if [`Manifests::run`] starts later.
    pub fn watch(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir = dir.into();
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::CREATE // links are never written to
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let news = Inotify::init().and_then(|inotify| {
            inotify.watches().add(&dir, mask)?;
            inotify.into_event_stream(vec![0; 16 * 1024])
        });
        match news {
            Ok(news) => {
                let (catalogue, metrics) = (Catalogue::default(), SourceMetrics::default());
                Ok(Self { dir, news, catalogue, skipped: 0, metrics })
            }
            Err(source) => Err(Error::Watch { dir, source }),
        }
    }

    /// The same, counted there.
    #[must_use]
    pub fn with_metrics(self, metrics: SourceMetrics) -> Self {
        Self { metrics, ..self }
    }

    /// Tells all that is there, then `Listed`, then every change, until cancelled or nobody listens.
    pub async fn run(
        mut self,
        events: mpsc::Sender<Event>,
        cancelled: CancellationToken,
    ) -> Result<(), Error> {
        let told = async {
            self.reread(Stale { everything: true, ..Stale::default() }, &events).await?;
            if events.send(Event::Listed).await.is_err() {
                return Ok(());
            }
            while let Some(stale) = self.next_stale().await? {
                self.reread(stale, &events).await?;
            }
            Ok(())
        };
        tokio::select! {
            () = cancelled.cancelled() => Ok(()),
            () = events.closed() => Ok(()),
            told = told => told,
        }
    }

    /// Waits for news, and takes all there is of it.
    async fn next_stale(&mut self) -> Result<Option<Stale>, Error> {
        let mut stale = Stale::default();
        let mut next = self.news.next().await;
        while let Some(event) = next {
            let event = event.map_err(|source| Error::Watch { dir: self.dir.clone(), source })?;
            if stale.add(&event).is_err() {
                return Err(Error::Gone { dir: self.dir.clone() });
            }
            match self.news.next().now_or_never() {
                Some(another) => next = another,
                None => return Ok(Some(stale)),
            }
        }
        Ok(None)
    }

    async fn reread(&mut self, mut stale: Stale, events: &mpsc::Sender<Event>) -> Result<(), Error> {
        if stale.everything {
            let there = list(&self.dir).map_err(|source| Error::List { dir: self.dir.clone(), source })?;
            stale.files.extend(there);
            stale.files.extend(self.catalogue.files().map(str::to_owned));
        }
        for file in stale.files.union(&stale.begun) {
            let Some(format) = Format::of(file) else { continue };
            let found = self.look_at(file, format).await;
            if !stale.files.contains(file) && found.makes_no_sense() && is_plain(&self.dir.join(file)) {
                continue; // once it is written, it is looked at again
            }
            let told = match found {
                Found::AsBefore => continue,
                Found::Nothing => self.catalogue.remove(file),
                Found::New { digest, said } => {
                    let (told, complaints) = self.catalogue.update(file, digest, said);
                    for complaint in complaints {
                        self.skipped += 1;
                        self.metrics.skipped(complaint.kind);
                        let (object, field) = (complaint.object.as_deref(), complaint.field.as_deref());
                        let reason = complaint.reason.as_str();
                        warn!(
                            file,
                            object,
                            field,
                            reason,
                            skipped_so_far = self.skipped,
                            "skipped a manifest"
                        );
                    }
                    told
                }
            };
            for event in told {
                if events.send(event).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Reads and parses on a thread of its own: a large file must not hold up the rest of the daemon.
    async fn look_at(&self, file: &str, format: Format) -> Found {
        let (path, known) = (self.dir.join(file), self.catalogue.digest(file));
        match task::spawn_blocking(move || look_at(&path, format, known)).await {
            Ok(found) => found,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

fn look_at(path: &Path, format: Format, known: Option<u64>) -> Found {
    let read = read(path);
    let digest = match &read {
        Ok(None) => return Found::Nothing,
        Ok(Some(text)) => digest(text),
        Err(error) => digest(&error.to_string()),
    };
    if known == Some(digest) {
        return Found::AsBefore;
    }
    let text = read.map(Option::unwrap_or_default).map_err(|error| error.to_string());
    Found::New { digest, said: text.and_then(|text| parse::parse(format, &text)) }
}

impl Stale {
    /// Takes one piece of news in; an error means that the directory itself is gone.
    fn add(&mut self, event: &EventOwned) -> Result<(), ()> {
        let end = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT | EventMask::IGNORED;
        if event.mask.intersects(end) {
            return Err(());
        }
        let name = event.name.as_deref().map(|name| name.to_string_lossy());
        match name {
            // The queue ran over: anything may have happened.
            _ if event.mask.contains(EventMask::Q_OVERFLOW) => self.everything = true,
            // A ConfigMap volume was swapped: all files have changed at once.
            Some(name) if name == "..data" => self.everything = true,
            Some(name) if event.mask.contains(EventMask::CREATE) => {
                self.begun.insert(name.into_owned());
            }
            Some(name) => drop(self.files.insert(name.into_owned())),
            None => {}
        }
        Ok(())
    }
}

fn list(dir: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

/// Says whether this is a file with no other name: a link is never written to, so there is nothing to wait for.
fn is_plain(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1)
}

/// Reads a file, if there is one.
fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => fs::File::open(path), // opening a pipe would wait for its writer
        Ok(_) => return Ok(None),
        Err(error) => Err(error),
    };
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    let size = file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(size).is_ok_and(|size| size > MAX_BYTES) {
        return Err(io::Error::other("larger than 16 MiB: split it"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(io::Error::other(error)),
    }
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

//! The configuration file, watched: whoever changes it wants another daemon.
//!
//! In: the file's path and what it said when it was read. Out: word that it says something else. It is looked at whenever something in its
//! directory has been written or moved, as `ConfigMap` volumes move their `..data` link; that it is gone, or empty, is no reason.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};

/// A file that is watched.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    text: String,
    news: EventStream<[u8; 4096]>,
}

impl Watched {
    /// Starts to watch a file that said this.
    pub fn new(path: &Path, text: String) -> io::Result<Self> {
        let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::CREATE | WatchMask::ONLYDIR;
        let inotify = Inotify::init()?;
        inotify.watches().add(directory_of(path), mask)?;
        // Where the path is a link to a file elsewhere, that is written to there.
        inotify.watches().add(directory_of(&fs::canonicalize(path)?), mask)?;
        let news = inotify.into_event_stream([0; 4096])?;
        Ok(Self { path: path.to_owned(), text, news })
    }

    /// Returns when the file says something else.
    pub async fn changed(mut self) -> io::Result<()> {
        while !self.is_different() {
            match self.news.next().await {
                Some(event) => drop(event?),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(())
    }

    fn is_different(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|text| !text.is_empty() && text != self.text)
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, time::Duration};

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[expect(clippy::disallowed_methods, reason = "plays the user")]
    fn write(path: impl AsRef<Path>, text: &str) {
        fs::write(path, text).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_written_or_replaced_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, draft) = (dir.path().join("config.conf"), dir.path().join("draft"));
        write(&file, "mode: nftables");
        let watched = Watched::new(&file, "mode: nftables".into()).unwrap();
        write(&file, "mode: iptables");
        timeout(SOON, watched.changed()).await.unwrap().unwrap();

        let watched = Watched::new(&file, "mode: iptables".into()).unwrap();
        write(&draft, "mode: nftables");
        fs::rename(draft, file).unwrap();
        timeout(SOON, watched.changed()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_volume_that_is_swapped_without_another_content_has_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (version, text) in [("..1", "a"), ("..2", "a"), ("..3", "b")] {
            fs::create_dir(at(version)).unwrap();
            write(at(version).join("config.conf"), text);
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/config.conf", at("config.conf")).unwrap();
        let swap_to = |version: &str| {
            symlink(version, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        };
        let mut changed = std::pin::pin!(Watched::new(&at("config.conf"), "a".into()).unwrap().changed());

        swap_to("..2");
        assert!(timeout(Duration::from_millis(50), &mut changed).await.is_err());
        swap_to("..3");

        timeout(SOON, changed).await.unwrap().unwrap();
    }
}

use std::{io::Write, os::unix::fs::symlink, time::Duration};

use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::watch::Change;

/// A directory that is being watched, and what was told about it.
struct Watched {
    dir: TempDir,
    events: mpsc::Receiver<Event>,
    cancelled: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Watched {
    fn start(dir: TempDir) -> Self {
        let (sender, events) = mpsc::channel(4);
        let cancelled = CancellationToken::new();
        let manifests = Manifests::watch(dir.path()).unwrap();
        let task = tokio::spawn(manifests.run(sender, cancelled.clone()));
        Self { dir, events, cancelled, task }
    }

    /// An empty directory, listed.
    async fn empty() -> Self {
        let mut watched = Self::start(TempDir::new().unwrap());
        assert_eq!(watched.told().await, "listed");
        watched
    }

    async fn told(&mut self) -> String {
        let event = timeout(Duration::from_secs(10), self.events.recv()).await;
        match event.expect("nothing was told in 10 s").expect("the watch ended") {
            Event::Node(Change::Set(node)) => format!("{} at {:?}", node.name, node.internal_ips),
            Event::Node(Change::Gone(name)) => format!("{name} is gone"),
            Event::Listed => "listed".into(),
            Event::Confirmed => "confirmed".into(),
            other => panic!("{other:?}"),
        }
    }

    fn write(&self, file: &str, text: &str) {
        write(self.dir.path(), file, text);
    }
}

#[expect(clippy::disallowed_methods, reason = "plays the user, who edits files in place")]
fn write(dir: &Path, file: &str, text: &str) {
    fs::write(dir.join(file), text).unwrap();
}

fn node(name: &str) -> String {
    format!("kind: Node\nmetadata: {{name: {name}}}\n")
}

fn node_at(name: &str, address: &str) -> String {
    format!("{}status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n", node(name))
}

#[tokio::test]
async fn what_is_there_is_told_before_listed() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "b.yaml", &node("b"));
    write(dir.path(), "a.json", r#"{"kind": "Node", "metadata": {"name": "a"}}"#);
    write(dir.path(), "notes.txt", &node("c"));

    let mut watched = Watched::start(dir);

    assert_eq!(watched.told().await, "a at []");
    assert_eq!(watched.told().await, "b at []");
    assert_eq!(watched.told().await, "listed");
}

#[tokio::test]
async fn a_file_written_in_place_is_told() {
    let mut watched = Watched::empty().await;

    watched.write("a.yaml", &node("a"));
    assert_eq!(watched.told().await, "a at []");
    watched.write("a.yaml", &node_at("a", "10.0.0.1"));
    assert_eq!(watched.told().await, "a at [10.0.0.1]");
}

#[tokio::test]
async fn a_file_renamed_into_place_is_told() {
    let mut watched = Watched::empty().await;

    watched.write(".a.tmp", &node("a"));
    fs::rename(watched.dir.path().join(".a.tmp"), watched.dir.path().join("a.yaml")).unwrap();

    assert_eq!(watched.told().await, "a at []");
}

#[tokio::test]
async fn removed_and_renamed_files_take_their_objects_along() {
    let mut watched = Watched::empty().await;
    watched.write("a.yaml", &node("a"));
    watched.write("b.yaml", &node("b"));
    assert_eq!(watched.told().await, "a at []");
    assert_eq!(watched.told().await, "b at []");

    fs::remove_file(watched.dir.path().join("a.yaml")).unwrap();
    assert_eq!(watched.told().await, "a is gone");
    fs::rename(watched.dir.path().join("b.yaml"), watched.dir.path().join("b.off")).unwrap();
    assert_eq!(watched.told().await, "b is gone");
}

#[tokio::test]
async fn a_config_map_volume_is_followed_through_its_data_link() {
    let dir = TempDir::new().unwrap();
    for (version, address) in [("..1", "10.0.0.1"), ("..2", "10.0.0.2")] {
        fs::create_dir(dir.path().join(version)).unwrap();
        write(&dir.path().join(version), "a.yaml", &node_at("a", address));
    }
    symlink("..1", dir.path().join("..data")).unwrap();
    symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
    let mut watched = Watched::start(dir);
    assert_eq!(watched.told().await, "a at [10.0.0.1]");
    assert_eq!(watched.told().await, "listed");

    symlink("..2", watched.dir.path().join("..data_tmp")).unwrap();
    fs::rename(watched.dir.path().join("..data_tmp"), watched.dir.path().join("..data")).unwrap();

    assert_eq!(watched.told().await, "a at [10.0.0.2]");
}

#[tokio::test]
async fn a_broken_file_changes_nothing_until_it_is_mended() {
    let mut watched = Watched::empty().await;
    watched.write("a.yaml", &node("a"));
    assert_eq!(watched.told().await, "a at []");

    watched.write("a.yaml", "kind: [");
    watched.write("b.yaml", &node("b")); // told after the broken file was read
    assert_eq!(watched.told().await, "b at []");
    watched.write("a.yaml", &node_at("a", "10.0.0.1"));
    assert_eq!(watched.told().await, "a at [10.0.0.1]");
}

#[tokio::test]
async fn a_directory_that_goes_away_ends_the_watch_with_an_error() {
    let watched = Watched::empty().await;

    watched.dir.close().unwrap();

    let ended = timeout(Duration::from_secs(10), watched.task).await.unwrap().unwrap();
    assert!(matches!(ended, Err(Error::Gone { .. })), "{ended:?}");
}

#[tokio::test]
async fn a_cancelled_watch_ends_even_if_nobody_takes_its_events() {
    let dir = TempDir::new().unwrap();
    for number in 0..10 {
        write(dir.path(), &format!("{number}.yaml"), &node(&format!("w{number}")));
    }
    let watched = Watched::start(dir);

    watched.cancelled.cancel();

    timeout(Duration::from_secs(10), watched.task).await.unwrap().unwrap().unwrap();
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let error = Manifests::watch("/nowhere/manifests").unwrap_err();

    assert_eq!(error.to_string(), "watch manifests in /nowhere/manifests");
}

#[test]
fn a_queue_that_ran_over_makes_everything_stale() {
    let overflow = EventOwned {
        wd: Inotify::init().unwrap().watches().add("/", WatchMask::CREATE).unwrap(),
        mask: EventMask::Q_OVERFLOW,
        cookie: 0,
        name: None,
    };
    let mut stale = Stale::default();

    stale.add(&overflow).unwrap();

    assert!(stale.everything);
}

#[tokio::test]
async fn a_new_file_is_not_complained_of_while_it_is_written() {
    let dir = TempDir::new().unwrap();
    let mut manifests = Manifests::watch(dir.path()).unwrap();
    let (events, mut told) = mpsc::channel(4);
    let path = dir.path().join("a.yaml");
    let mut file = fs::OpenOptions::new().create_new(true).append(true).open(&path).unwrap();
    let mut write_and_look = async |text: &str, closes: bool| {
        file.write_all(text.as_bytes()).unwrap();
        if closes {
            file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        }
        let stale = manifests.next_stale().await.unwrap().unwrap();
        manifests.reread(stale, &events).await.unwrap();
        manifests.skipped
    };

    assert_eq!(write_and_look("kind: Node\nmetadata: {name: a", false).await, 0);
    assert_eq!(write_and_look("}\n", true).await, 0);
    assert!(matches!(told.try_recv(), Ok(Event::Node(Change::Set(_)))));
    assert_eq!(write_and_look("kind: [", true).await, 1);
}

#[test]
fn a_pipe_or_a_file_too_large_is_not_read() {
    let dir = TempDir::new().unwrap();
    let large = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(dir.path().join("large"))
        .unwrap();
    large.set_len(MAX_BYTES + 1).unwrap();

    assert!(read(&dir.path().join("large")).unwrap_err().to_string().contains("split it"));
    assert_eq!(read(Path::new("/dev/null")).unwrap(), None);
}

#[test]
fn a_broken_file_is_not_complained_of_again_until_it_changes() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.yaml");
    let look = |known| match look_at(&path, Format::Yaml, known) {
        Found::New { digest, said } => Some((digest, said.unwrap_err())),
        Found::AsBefore | Found::Nothing => None,
    };

    write(dir.path(), "a.yaml", "kind: [");
    let (digest, _) = look(None).unwrap();
    assert_eq!(look(Some(digest)), None);
    write(dir.path(), "a.yaml", "kind: {");
    assert!(look(Some(digest)).is_some());
}

//! What must hold of leases, whatever the files in a run directory have become.
//!
//! Files are given as bytes:
//!
//! ```text
//! --- run/pods/owners/a@eth0
//! { "containerID": "a", … }
//! --- run/pods/leases/10.1.0.2 = run/pods/owners/a@eth0
//! --- host-local/pods/10.1.0.3
//! b
//! ```
//!
//! The second is the first by another name: a hard link. The last line break of a file is no part of it.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Component, Path},
    time::{Duration, SystemTime},
};

use cni_plugin::{
    commands,
    conf::resolv,
    ipam::{
        Ask, Bounds, Range, RangeSet,
        store::{Error, Record, Store},
    },
    node::Node,
    request::Attachment,
};
use dataplane::disk::{Directory, Durability};
use serde_json::Value;

/// The boot that everything happens in.
const BOOT: &str = "this-boot";

/// How each file begins.
const MARK: &str = "--- ";

/// Files of a directory, as far as the bytes name some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files<'a>(Vec<(&'a str, Content<'a>)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content<'a> {
    Bytes(&'a [u8]),
    SameAs(&'a str),
}

impl<'a> Files<'a> {
    /// Takes any bytes for files: those whose paths lead out of the directory are left out.
    pub fn parse(input: &'a [u8]) -> Self {
        let mut files: Vec<(&str, Content<'_>)> = Vec::new();
        let mut rest = input;
        while let Some((head, body)) = next(rest) {
            let end = next_mark(body);
            let content = body.get(..end).unwrap_or_default();
            let content = content.strip_suffix(b"\n").unwrap_or(content);
            rest = body.get(end..).unwrap_or_default();
            let Ok(head) = str::from_utf8(head) else { continue };
            let file = match head.split_once(" = ") {
                Some((path, other)) if stays_inside(other) => (path, Content::SameAs(other)),
                Some(_) => continue,
                None => (head, Content::Bytes(content)),
            };
            if stays_inside(file.0) {
                files.push(file);
            }
        }
        Self(files)
    }

    /// Makes the files; what cannot be made is left out.
    #[expect(clippy::disallowed_methods, reason = "whatever a crash or a stranger may leave")]
    pub fn make(&self, place: &Path) {
        for (path, content) in &self.0 {
            let path = place.join(path);
            let _ = path.parent().map(fs::create_dir_all);
            let _ = match content {
                Content::Bytes(bytes) => fs::write(&path, bytes),
                Content::SameAs(other) => fs::hard_link(place.join(other), &path),
            };
        }
    }
}

fn next(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let marked = input.get(next_mark(input)..)?.strip_prefix(MARK.as_bytes())?;
    let end = marked.iter().position(|byte| *byte == b'\n').unwrap_or(marked.len());
    let (head, body) = marked.split_at_checked(end)?;
    Some((head, body.strip_prefix(b"\n").unwrap_or(body)))
}

fn next_mark(input: &[u8]) -> usize {
    let mut lines = input.split_inclusive(|byte| *byte == b'\n');
    let before = lines.by_ref().take_while(|line| !line.starts_with(MARK.as_bytes()));
    before.map(<[u8]>::len).sum()
}

fn stays_inside(path: &str) -> bool {
    let is_name = |part| matches!(part, Component::Normal(_));
    !path.is_empty() && !path.contains('\0') && Path::new(path).components().all(is_name)
}

/// Tries a directory.
#[expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "the place to try it in is there")]
pub fn holds(input: &[u8]) {
    let _ = String::from_utf8(input.to_owned()).map(|text| resolv::dns_in(&text));
    let place = tempfile::tempdir().unwrap();
    let (path, outside) = (place.path().join("in"), place.path().join("out"));
    fs::create_dir(&path).unwrap();
    fs::write(&outside, "").unwrap();
    Files::parse(input).make(&path);

    leases_are_had_and_given_back(&path);
    people_are_told(&path.join("run"));

    let left: BTreeSet<_> =
        fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, BTreeSet::from(["in".into(), "out".into()]));
    assert_eq!(fs::read(outside).unwrap(), b"");
}

#[expect(clippy::unwrap_used, reason = "these are well-formed")]
fn leases_are_had_and_given_back(place: &Path) {
    let run_dir = Directory::new(place.join("run"), Durability::Volatile);
    let _ = Node::read(&run_dir);
    let store = Store::of(&run_dir, "pods").unwrap();
    let store = store.after_host_local(&place.join("host-local"), "pods").unwrap();
    let attachment = Attachment::new("a", "eth0").unwrap();
    let record = Record { boot_id: BOOT.to_owned(), ..Record::of(&attachment, at()) };
    let set = |subnet: &str| {
        RangeSet::new(vec![Range::new(subnet.parse().unwrap(), Bounds::default()).unwrap()]).unwrap()
    };
    let ask = Ask::new(vec![set("10.1.0.0/29"), set("fd00::/125")], &[]).unwrap();
    let leases = place.join("run/pods/leases");
    let of_others = held_by_others(&store, &leases, &attachment);

    match store.lease(&attachment, &record, &ask) {
        Ok(record) => {
            assert!(ask.is_met_by(&record.addresses), "{record:?}");
            assert_eq!(store.find(&attachment).unwrap().as_ref(), Some(&record));
            let inodes: BTreeSet<_> =
                record.addresses.iter().map(|address| inode(&leases, &address.to_string())).collect();
            assert_eq!(inodes.len(), 1, "{record:?}");
            for (name, there) in &of_others {
                assert!(!inodes.contains(&Some(*there)), "{name} is another's");
                assert_eq!(inode(&leases, name), Some(*there), "{name} was another's");
            }
        }
        // A directory in the place of a file, and so on: that is told, and nothing more can be asked.
        Err(Error::Disk(_)) => return,
        Err(Error::Exhausted { .. } | Error::Busy { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    if store.release(&attachment).is_ok() {
        assert_eq!(store.find(&attachment).unwrap(), None);
        assert!(!store.release(&attachment).unwrap());
        if store.sweep().is_empty() {
            assert_eq!(store.orphans().unwrap(), []);
        }
    }
}

/// Leases whose owner is another attachment, in this boot.
fn held_by_others(store: &Store, leases: &Path, attachment: &Attachment) -> Vec<(String, u64)> {
    let mut held = Vec::new();
    for other in store.attachments().unwrap_or_default() {
        let Ok(Some(record)) = store.find(&other) else { continue };
        let key = format!("{}@{}", other.container_id(), other.ifname());
        let owner = leases.parent().and_then(|network| inode(&network.join("owners"), &key));
        if other == *attachment || record.boot_id != BOOT {
            continue;
        }
        for address in record.addresses {
            let name = address.to_string();
            held.extend(
                owner.filter(|owner| inode(leases, &name) == Some(*owner)).map(|owner| (name, owner)),
            );
        }
    }
    // One file may have been given the names of two owners.
    let of_this = leases.parent().and_then(|network| {
        let key = format!("{}@{}", attachment.container_id(), attachment.ifname());
        inode(&network.join("owners"), &key)
    });
    held.retain(|(_, owner)| Some(*owner) != of_this);
    held
}

fn inode(directory: &Path, name: &str) -> Option<u64> {
    fs::symlink_metadata(directory.join(name)).map(|metadata| metadata.ino()).ok()
}

fn people_are_told(run_dir: &Path) {
    for command in ["list", "audit"] {
        let arguments = ["ipam", command, "--json", "--run-dir"].map(str::to_owned);
        let arguments: Vec<String> =
            arguments.into_iter().chain([run_dir.to_string_lossy().into_owned()]).collect();
        let outcome = commands::run(&arguments, at());
        if outcome.exit_code < 2 {
            let told: Value = serde_json::from_str(&outcome.stdout).unwrap_or_default();
            let leases = told.get("leases").and_then(Value::as_array);
            assert!(leases.is_some(), "{}", outcome.stdout);
            let addresses =
                leases.into_iter().flatten().filter_map(|lease| lease.get("addresses")?.as_array());
            let mut addresses = addresses.flatten().filter_map(Value::as_str);
            assert!(addresses.all(|address| address.parse::<IpAddr>().is_ok()), "{}", outcome.stdout);
        } else {
            assert!(outcome.stderr.starts_with("fairway: "), "{}", outcome.stderr);
        }
    }
}

fn at() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_631_723)
}

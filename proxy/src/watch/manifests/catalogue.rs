//! What every file said last, and what of it counts. Pure.
//!
//! In: what one file says now. Out: events for the objects that are different for it, and complaints for people.
//! The same object in two files: the first file by name counts. A file that makes no sense as a whole (half written,
//! say) keeps what it said before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use super::parse::Manifest;
use crate::{
    objects::{Kind, Object, ObjectName},
    watch::Event,
};

/// Something in a file that is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The file's name.
    pub file: String,
    /// The object, unless the whole file is meant.
    pub object: Option<String>,
    /// The object's kind, if it says one.
    pub kind: Option<Kind>,
    /// The field, where it is one field's fault.
    pub field: Option<String>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        for part in [&self.object, &self.field].into_iter().flatten() {
            write!(f, ": {part}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// What names an object; shared, because there may be very many.
type Key = Arc<(Kind, ObjectName)>;

/// What every file said last.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    files: BTreeMap<Arc<str>, File>,
    /// Which files hold an object, in order; the first one counts.
    holders: BTreeMap<Key, Vec<Arc<str>>>,
}

#[derive(Debug, Clone, Default)]
struct File {
    digest: u64,
    objects: BTreeMap<Key, Object>,
}

impl Catalogue {
    /// The digest with which a file was last seen. With the same one, reading it again would say nothing new.
    pub fn digest(&self, file: &str) -> Option<u64> {
        self.files.get(file).map(|known| known.digest)
    }

    /// The names of all files that were seen.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(AsRef::as_ref)
    }

    /// Takes in what a file says now.
    pub fn update(
        &mut self,
        file: &str,
        digest: u64,
        said: Result<Manifest, String>,
    ) -> (Vec<Event>, Vec<Complaint>) {
        let complaint = |object, kind, field, reason| {
            let file = file.to_owned();
            Complaint { file, object, kind, field, reason }
        };
        let manifest = match said {
            Ok(manifest) => manifest,
            Err(reason) => {
                self.files.entry(file.into()).or_default().digest = digest;
                return (Vec::new(), vec![complaint(None, None, None, reason)]);
            }
        };

        let invalid = manifest.invalid.into_iter();
        let mut complaints: Vec<_> =
            invalid.map(|it| complaint(Some(it.object), it.kind, Some(it.field), it.reason)).collect();
        let mut objects = BTreeMap::new();
        for object in manifest.objects {
            let key = Key::new((object.kind(), object.name().clone()));
            let name = format!("{} {}", key.0, key.1);
            if objects.contains_key(&key) {
                complaints.push(complaint(
                    Some(name),
                    Some(key.0),
                    None,
                    "stands twice in this file; the first counts".into(),
                ));
                continue;
            }
            let mut others = self.holders.get(&key).into_iter().flatten().filter(|other| ***other != *file);
            if let Some(other) = others.next() {
                let first = other.as_ref().min(file);
                let reason = format!("stands in {other} too; {first} counts, as the first by name");
                complaints.push(complaint(Some(name), Some(key.0), None, reason));
            }
            objects.insert(key, object);
        }
        (self.replace(file, Some(File { digest, objects })), complaints)
    }

    /// Forgets a file and what it said.
    pub fn remove(&mut self, file: &str) -> Vec<Event> {
        self.replace(file, None)
    }

    fn replace(&mut self, file: &str, new: Option<File>) -> Vec<Event> {
        let old_keys = self.files.get(file).into_iter().flat_map(|old| old.objects.keys());
        let new_keys = new.iter().flat_map(|new| new.objects.keys());
        let keys: BTreeSet<Key> = old_keys.chain(new_keys).cloned().collect();
        let before: Vec<_> = keys.iter().map(|key| self.counting(key).cloned()).collect();

        let file =
            self.files.get_key_value(file).map_or_else(|| Arc::from(file), |(known, _)| Arc::clone(known));
        for key in &keys {
            let holders = self.holders.entry(Arc::clone(key)).or_insert_with(|| Vec::with_capacity(1));
            let holds = new.as_ref().is_some_and(|new| new.objects.contains_key(key));
            match holders.binary_search(&file) {
                Ok(place) if !holds => drop(holders.remove(place)),
                Err(place) if holds => holders.insert(place, Arc::clone(&file)),
                Ok(_) | Err(_) => {}
            }
            if holders.is_empty() {
                self.holders.remove(key);
            }
        }
        match new {
            Some(new) => self.files.insert(file, new),
            None => self.files.remove(&file),
        };

        let changed = keys.into_iter().zip(before).filter_map(|(key, before)| {
            let now = self.counting(&key);
            if now == before.as_ref() {
                return None;
            }
            Some(match now {
                Some(object) => Event::set(object.clone()),
                None => Event::gone(key.0, key.1.clone()),
            })
        });
        changed.collect()
    }

    /// The object that counts under this name.
    fn counting(&self, key: &Key) -> Option<&Object> {
        self.files.get(self.holders.get(key)?.first()?)?.objects.get(key)
    }
}

#[cfg(test)]
mod tests;

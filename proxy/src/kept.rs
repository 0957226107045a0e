//! What the daemon knew last, as bytes: for a start while the API server cannot be reached. Pure.
//!
//! ```text
//! fairway-state 1                                 what it is, and the version of the format
//! 9c1d0b7e44a0f3d2                                hash of all other lines
//! {"node":"w1","server":"https://…","as_of":…}    whose it is
//! {"Service":{…}}                                 one object on each line
//! ```
//!
//! In: objects and whose they are. Out: the same, or why they are refused: what is damaged, of another node, of another API server or
//! too old is worse than nothing. There is nothing secret in it.

use std::{iter, sync::Arc, time::Duration};

use dataplane::hash::Stable;
use serde::{Deserialize, Serialize};

use crate::objects::{EndpointSlice, Node, Object, Service, ServiceCidr};

pub mod keeper;
pub mod store;

#[cfg(test)]
mod tests;

/// Begins the first line.
const MAGIC: &str = "fairway-state ";

/// The version of the format: another one whenever an older daemon would misread it.
const VERSION: u32 = 1;

/// How many letters the checksum has.
const SUM: usize = 16;

/// What is older is refused: too many pods have come and gone since.
const LONGEST: Duration = Duration::from_hours(7 * 24);

/// Whose state it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The node's name.
    pub node: String,
    /// The API server: its URL, and whom it has its certificate from.
    pub server: String,
}

/// What was known at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Whose it is.
    pub owner: Owner,
    /// When it was known: seconds since 1970.
    pub as_of: u64,
    /// All objects, in any order.
    pub objects: Vec<Object>,
}

/// Why it is not used.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is something else.
    #[error("it is not a state that was kept")]
    Other,
    /// Its format is of another version.
    #[error("its format is version {version}, and this daemon reads {VERSION}")]
    Version {
        /// The version.
        version: String,
    },
    /// Not all of it is as it was written.
    #[error("it is damaged")]
    Damaged,
    /// A line is not what the format says.
    #[error("it makes no sense in line {line}")]
    Senseless {
        /// Counted from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// It is about another node or cluster.
    #[error("it is of node {} at {}, and this is {} at {}", .found.node, .found.server, .own.node, .own.server)]
    Foreign {
        /// Whose it is.
        found: Owner,
        /// Whose it should be.
        own: Owner,
    },
    /// Too much has happened since.
    #[error("it is {} days old", .age.as_secs() / 86_400)]
    Stale {
        /// How old it is.
        age: Duration,
    },
}

#[derive(Serialize, Deserialize)]
struct Head<O> {
    #[serde(flatten)]
    owner: O,
    as_of: u64,
}

/// A line, as it is written.
#[derive(Serialize)]
enum Written<'a> {
    Service(&'a Service),
    EndpointSlice(&'a EndpointSlice),
    Node(&'a Node),
    ServiceCidr(&'a ServiceCidr),
}

/// A line, as it is read.
#[derive(Deserialize)]
enum Read {
    Service(Service),
    EndpointSlice(EndpointSlice),
    Node(Node),
    ServiceCidr(ServiceCidr),
}

/// Writes objects down, in pieces: all of it together would take as much memory as the objects. There is no error but that of the
/// encoder, which none of our objects gives reason to.
pub fn encode(
    owner: &Owner,
    as_of: u64,
    objects: &[Object],
) -> Result<impl Iterator<Item = Result<Vec<u8>, serde_json::Error>>, serde_json::Error> {
    let first = first_line();
    let sum = body(owner, as_of, objects)
        .try_fold(Stable::default().and(first.bytes()), |sum, piece| Ok(sum.and(piece?)))?;
    let head = format!("{first}{}", written(sum));
    Ok(iter::once(Ok(head.into_bytes())).chain(body(owner, as_of, objects)))
}

/// Everything after the checksum, line by line.
fn body(
    owner: &Owner,
    as_of: u64,
    objects: &[Object],
) -> impl Iterator<Item = Result<Vec<u8>, serde_json::Error>> {
    let line = |object: &Object| match object {
        Object::Service(service) => serde_json::to_vec(&Written::Service(service)),
        Object::EndpointSlice(slice) => serde_json::to_vec(&Written::EndpointSlice(slice)),
        Object::Node(node) => serde_json::to_vec(&Written::Node(node)),
        Object::ServiceCidr(cidr) => serde_json::to_vec(&Written::ServiceCidr(cidr)),
    };
    let lines =
        iter::once_with(move || serde_json::to_vec(&Head { owner, as_of })).chain(objects.iter().map(line));
    let ended = |line: Result<Vec<u8>, serde_json::Error>| {
        line.map(|mut line| {
            line.push(b'\n');
            line
        })
    };
    iter::once(Ok(b"\n".to_vec())).chain(lines.map(ended))
}

/// Reads what was written.
pub fn decode(bytes: &[u8]) -> Result<Kept, Refused> {
    let after_magic = bytes.strip_prefix(MAGIC.as_bytes()).ok_or(Refused::Other)?;
    let (version, rest) = split_line(after_magic).ok_or(Refused::Damaged)?;
    let own = VERSION.to_string();
    if version != own.as_bytes() {
        return Err(Refused::Version { version: String::from_utf8_lossy(version).into_owned() });
    }
    let (sum, body) = rest.split_at_checked(SUM).ok_or(Refused::Damaged)?;
    if checksum(&first_line(), body).as_bytes() != sum {
        return Err(Refused::Damaged);
    }
    let mut lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let senseless = |line| move |source| Refused::Senseless { line, source };
    let head: Head<Owner> =
        serde_json::from_slice(lines.next().unwrap_or_default()).map_err(senseless(FIRST_OF_BODY))?;
    let objects = lines.enumerate().map(|(number, line)| {
        let read = serde_json::from_slice(line).map_err(senseless(FIRST_OF_BODY + 1 + number))?;
        Ok(match read {
            Read::Service(service) => Object::Service(Arc::new(service)),
            Read::EndpointSlice(slice) => Object::EndpointSlice(Arc::new(slice)),
            Read::Node(node) => Object::Node(Arc::new(node)),
            Read::ServiceCidr(cidr) => Object::ServiceCidr(Arc::new(cidr)),
        })
    });
    Ok(Kept { owner: head.owner, as_of: head.as_of, objects: objects.collect::<Result<_, _>>()? })
}

/// The number of the line that says whose it is.
const FIRST_OF_BODY: usize = 3;

impl Kept {
    /// Says whether it may be used: by whom, and in which second since 1970. Returns how old it is; a clock that went back makes
    /// nothing older.
    pub fn age(&self, own: &Owner, now: u64) -> Result<Duration, Refused> {
        if self.owner != *own {
            return Err(Refused::Foreign { found: self.owner.clone(), own: own.clone() });
        }
        let age = Duration::from_secs(now.saturating_sub(self.as_of));
        if age > LONGEST { Err(Refused::Stale { age }) } else { Ok(age) }
    }
}

fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}

fn first_line() -> String {
    format!("{MAGIC}{VERSION}\n")
}

/// The second line. Any single byte that is different gives another one.
fn checksum(first: &str, after: &[u8]) -> String {
    written(Stable::default().and(first.bytes()).and(after.iter().copied()))
}

fn written(sum: Stable) -> String {
    format!("{:016x}", sum.value())
}

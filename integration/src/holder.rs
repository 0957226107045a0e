//! The holder: the process that keeps a cluster up between commands, and how the others find it and ask it.
//!
//! It is process 1 of a loose [`crate::sandbox`] and listens on a Unix socket in the sandbox's own `/run`. Nothing of it is
//! on the machine's disk: commands find it in `/proc`, reach the socket through `/proc/PID/root`, and enter a pod through
//! the namespaces that it has open.
//!
//! ```text
//! lab up ── starts ──> lab inside --stay      process 1; the cluster is in here
//! lab apply, status ── one JSON line, one back ──> its socket
//! lab exec, curl ── asks which namespaces, and enters them by /proc/PID/fd/N
//! ```

mod entry;
mod orphans;
mod search;

use std::{
    io::{self, BufRead, BufReader, Write},
    net::IpAddr,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use entry::Namespaces;
pub use search::Holder;

use crate::{
    cluster::{self, Cluster, Status},
    harness::report,
    manifest::{self, parse},
    wait::{self, TimedOut},
};

/// The socket, inside the sandbox.
const SOCKET: &str = "/run/lab/socket";

/// The first argument of a holder; what tells it from other programs of the lab.
pub const INSIDE: &str = "inside";

/// How long the holder may work on a request: a pod that does not get ready is given up before.
const PATIENCE: Duration = Duration::from_secs(100);

/// Why a command did not reach the cluster, or was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is up.
    #[error("no lab is up: start one with `cargo lab up`")]
    NotUp,
    /// There is one already.
    #[error(
        "a lab is up already (process {0}): look at it with `cargo lab status`, end it with `cargo lab down`"
    )]
    IsUp(i32),
    /// The list of processes cannot be read.
    #[error("look for the lab in /proc")]
    Search(#[source] io::Error),
    /// The holder does not talk.
    #[error("talk to the lab (process {pid})")]
    Talk {
        /// The holder.
        pid: i32,
        /// What the system said.
        source: io::Error,
    },
    /// A namespace cannot be entered.
    #[error("enter {what} of the lab")]
    Enter {
        /// Which.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The holder did not go.
    #[error("end the lab")]
    StillUp(#[source] TimedOut),
    /// The holder said no.
    #[error("{0}")]
    Refused(String),
}

/// What a command asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Applies the objects in a file's text.
    Apply {
        /// What errors call it.
        file: String,
        /// Its text.
        text: String,
    },
    /// Deletes the objects in a file's text.
    Delete {
        /// What errors call it.
        file: String,
        /// Its text.
        text: String,
    },
    /// Asks what is there.
    Status,
    /// Asks for the namespaces of a pod, a node, or the machine outside.
    Namespaces(String),
    /// Asks for the address that a name stands for.
    LookUp(String),
    /// Ends the lab.
    Down,
}

/// What the holder answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// What was done, one line each.
    Done(Vec<String>),
    /// What is there.
    Status(Status),
    /// Where to go in.
    Namespaces(Namespaces),
    /// What the name stands for.
    Address(IpAddr),
    /// Why not.
    Refused(String),
}

/// The holder's end of the socket.
#[derive(Debug)]
pub struct Desk(UnixListener);

impl Desk {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        UnixListener::bind(SOCKET).map(Self)
    }

    /// Does what is asked, one request after the other, until one asks for the end.
    pub fn serve(&self, cluster: &mut Cluster) {
        for stream in self.0.incoming().flatten() {
            orphans::bury(&cluster.processes());
            // A command that was interrupted is no reason to stop.
            if let Ok(Request::Down) = answer(&stream, cluster) {
                return;
            }
        }
    }
}

fn answer(stream: &UnixStream, cluster: &mut Cluster) -> io::Result<Request> {
    stream.set_read_timeout(Some(wait::PATIENCE))?;
    let request: Request = receive(stream)?;
    let reply = act(&request, cluster).unwrap_or_else(Reply::Refused);
    send(stream, &reply)?;
    Ok(request)
}

fn act(request: &Request, cluster: &mut Cluster) -> Result<Reply, String> {
    let said = |error: cluster::Error| report(&error);
    let objects = |file, text| parse(file, text).map_err(|error: manifest::Error| report(&error));
    match request {
        Request::Apply { file, text } => {
            let applied = cluster.apply(objects(file, text)?).map_err(said)?;
            Ok(Reply::Done(applied.iter().map(ToString::to_string).collect()))
        }
        Request::Delete { file, text } => {
            let names: Vec<_> = objects(file, text)?.into_iter().map(|object| object.name).collect();
            cluster.delete(&names).map_err(said)?;
            Ok(Reply::Done(names.iter().map(|name| format!("{name} deleted")).collect()))
        }
        Request::Status => Ok(Reply::Status(cluster.status())),
        Request::Namespaces(name) => {
            let place = cluster.place(name).map_err(said)?;
            Ok(Reply::Namespaces(Namespaces::of(place)))
        }
        Request::LookUp(name) => {
            let unknown = || said(cluster::Error::UnknownName(name.clone()));
            cluster.look_up(name).map(Reply::Address).ok_or_else(unknown)
        }
        Request::Down => Ok(Reply::Done(Vec::new())),
    }
}

fn send(mut stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn receive<T: serde::de::DeserializeOwned>(stream: &UnixStream) -> io::Result<T> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

impl Holder {
    /// Asks the holder. A refusal is an error.
    pub fn ask(self, request: &Request) -> Result<Reply, Error> {
        let asked = (|| {
            let stream = UnixStream::connect(self.inside(SOCKET))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            send(&stream, request)?;
            receive(&stream)
        })();
        match asked.map_err(|source| Error::Talk { pid: self.pid(), source })? {
            Reply::Refused(why) => Err(Error::Refused(why)),
            reply => Ok(reply),
        }
    }

    /// A path of the sandbox, as seen from outside.
    fn inside(self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.pid()).into()
    }
}

impl Namespaces {
    fn of(place: cluster::Place<'_>) -> Self {
        let (net, mnt, uts) = place.descriptors();
        Self { net, mnt, uts }
    }
}

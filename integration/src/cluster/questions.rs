//! Asks pods and services of a cluster, from anywhere in it, and waits until the answers are as they should be.

use std::{net::SocketAddr, time::Duration};

use dataplane::netns::Netns;

use super::{Cluster, Error};
use crate::{
    answer::{self, Answer},
    client::{self, Url},
    harness::report,
    wait::{self, TimedOut},
};

/// How long one of many tries may take while something is waited for.
const TRY: Duration = Duration::from_millis(300);

/// Asks one question from one place, independently of the cluster's handle: to go on while something is changed.
#[derive(Debug)]
pub struct Asker {
    netns: Netns,
    to: SocketAddr,
}

impl Asker {
    /// Asks over HTTP.
    pub fn ask(&self) -> Result<Answer, Error> {
        Ok(self.netns.run(|| client::http(self.to, client::PATIENCE))??)
    }
}

impl Cluster {
    /// Makes ready to ask the same thing again and again.
    pub fn asker(&self, from: &str, url: &str) -> Result<Asker, Error> {
        let netns = Netns::open(self.place(from)?.netns_path())?;
        Ok(Asker { netns, to: self.address(url)? })
    }

    /// Asks over HTTP, from a place: `ask("apache-pod", "http://10.105.77.228:8001/")`. The lab's names serve as hosts.
    pub fn ask(&self, from: &str, url: &str) -> Result<Answer, Error> {
        self.ask_within(client::PATIENCE, from, url)
    }

    /// Asks several times over HTTP, each over a connection of its own.
    pub fn ask_times(&self, count: usize, from: &str, url: &str) -> Result<Vec<Answer>, Error> {
        (0..count).map(|_| self.ask(from, url)).collect()
    }

    /// Asks with one datagram, from a place: `ask_udp("apache-pod", "10.105.77.228:53")`.
    pub fn ask_udp(&self, from: &str, to: &str) -> Result<Answer, Error> {
        let to = self.address(to)?;
        Ok(self.place(from)?.run(|| client::udp(to, client::PATIENCE))??)
    }

    /// Waits until somebody answers.
    pub fn await_answer(&self, from: &str, url: &str) -> Result<Answer, TimedOut> {
        wait::until(&format!("an answer at {url}"), || {
            self.ask_within(TRY, from, url).map_err(|error| report(&error))
        })
    }

    /// Waits until the daemons have followed: these pods, sorted by name, and no others answer one after the other.
    pub fn await_backends(&self, from: &str, url: &str, names: &[&str]) -> Result<(), TimedOut> {
        wait::until(&format!("{} to answer at {url}", names.join(", ")), || {
            let answers = (0..names.len()).map(|_| self.ask_within(TRY, from, url));
            let answers = answers.collect::<Result<Vec<_>, _>>().map_err(|error| report(&error))?;
            let mut seen = answer::names(&answers);
            seen.sort_unstable();
            if seen == names { Ok(()) } else { Err(seen.join(", ")) }
        })
    }

    /// Waits until connections are refused at once.
    pub fn await_refusal(&self, from: &str, url: &str) -> Result<(), TimedOut> {
        wait::until(&format!("a refusal at {url}"), || match self.ask_within(TRY, from, url) {
            Err(error) if error.is_refused() => Ok(()),
            Err(error) => Err(report(&error)),
            Ok(answer) => Err(answer.to_string()),
        })
    }

    fn ask_within(&self, patience: Duration, from: &str, url: &str) -> Result<Answer, Error> {
        let to = self.address(url)?;
        Ok(self.place(from)?.run(|| client::http(to, patience))??)
    }

    fn address(&self, url: &str) -> Result<SocketAddr, Error> {
        let url: Url = url.parse()?;
        url.address(|name| self.look_up(name)).ok_or(Error::UnknownName(url.host))
    }
}

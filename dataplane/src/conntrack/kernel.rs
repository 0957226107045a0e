//! The kernel's flows, over a ctnetlink socket.
//!
//! Needs `CAP_NET_ADMIN` in the namespace, and no more. A list walks the whole of the kernel's table, whatever it is asked for,
//! all namespaces in it; a filter saves the telling. Deleting costs what is deleted.

use std::io;

use super::{Conntrack, Filter, Flow, wire};
use crate::{
    netns::Netns,
    nfnetlink::{Channel, ERROR, errno, message::Messages},
};

/// How many flows are deleted by one message, so that the answers have room.
const TOGETHER: usize = 128;

/// Room for a message of these.
const SEND_BUFFER: usize = 64 << 10;

/// How often a list is read that is interrupted.
const LIST_TRIES: u32 = 16;

/// Why flows could not be listed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("open a ctnetlink socket")]
    Open(#[source] io::Error),
    /// No list.
    #[error("list tracked connections{}", needs(source))]
    List {
        /// What the system said.
        source: io::Error,
    },
    /// A flow is still there.
    #[error("delete tracked connection {flow}{}", needs(source))]
    Delete {
        /// The first of them.
        flow: Box<Flow>,
        /// What the system said.
        source: io::Error,
    },
}

/// What to do about the reasons that a person can do something about.
fn needs(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(nix::libc::EPERM) => ": run with CAP_NET_ADMIN",
        Some(nix::libc::EOPNOTSUPP | nix::libc::EINVAL) => {
            ": the kernel needs nf_conntrack_netlink (CONFIG_NF_CT_NETLINK)"
        }
        // Until 6.4, `ctnetlink_del_conntrack` asked whether it is offloaded.
        Some(nix::libc::EBUSY) => ": it is in a flowtable, and kernels before 6.4 delete none of those",
        _ => "",
    }
}

/// A socket to the tracked connections of one network namespace.
#[derive(Debug)]
pub struct Socket {
    channel: Channel,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Channel::open(SEND_BUFFER).map(|channel| Self { channel }).map_err(Error::Open)
    }

    /// Opens a socket inside a network namespace; it stays there wherever it is used.
    pub fn open_in(netns: &Netns) -> Result<Self, Error> {
        netns.run(Self::open).unwrap_or_else(|error| Err(Error::Open(io::Error::other(error))))
    }

    /// Reads one list to its end. An interrupted one may lack what was there all the time.
    fn list(
        &self,
        filter: &Filter,
        is_wanted: &mut dyn FnMut(&Flow) -> bool,
    ) -> io::Result<(Vec<Flow>, bool)> {
        self.channel.send(&wire::list(filter))?;
        let mut flows = Vec::new();
        let mut is_interrupted = false;
        while !self.channel.answer(&mut is_interrupted, |kind, attributes| {
            if kind == wire::NEW {
                let flow = wire::flow(attributes).filter(|flow| filter.lets_through(flow));
                flows.extend(flow.filter(|flow| is_wanted(flow)));
            }
        })? {}
        Ok((flows, is_interrupted))
    }

    /// Deletes as many flows as go into one message, and says how many were still there.
    fn delete_together(&self, flows: &[Flow]) -> Result<usize, Error> {
        let fail = |flow: Option<&Flow>, source| match flow.or(flows.first()) {
            Some(flow) => Error::Delete { flow: Box::new(flow.clone()), source },
            None => Error::List { source },
        };
        self.channel.send(&wire::delete(flows)).map_err(|source| fail(None, source))?;
        let (mut deleted, mut failed) = (0, None);
        while let Some(reply) = self.channel.receive_now().map_err(|source| fail(None, source))? {
            for message in Messages(&reply).filter(|message| message.kind == ERROR) {
                match errno(message.body) {
                    0 => deleted += 1,
                    nix::libc::ENOENT => {} // gone by itself
                    errno => {
                        let place = usize::try_from(message.sequence).ok().and_then(|at| at.checked_sub(1));
                        let flow = place.and_then(|place| flows.get(place));
                        failed = failed.or(Some(fail(flow, io::Error::from_raw_os_error(errno))));
                    }
                }
            }
        }
        failed.map_or(Ok(deleted), Err)
    }
}

impl Conntrack for Socket {
    type Error = Error;

    fn flows(
        &mut self,
        filter: &Filter,
        is_wanted: &mut dyn FnMut(&Flow) -> bool,
    ) -> Result<Vec<Flow>, Error> {
        let fail = |source| Error::List { source };
        for _ in 1..LIST_TRIES {
            let (flows, is_interrupted) = self.list(filter, is_wanted).map_err(fail)?;
            if !is_interrupted {
                return Ok(flows);
            }
        }
        // What is missing now is on the next list.
        self.list(filter, is_wanted).map(|(flows, _)| flows).map_err(fail)
    }

    fn delete(&mut self, flows: &[Flow]) -> Result<usize, Error> {
        let (mut deleted, mut failed) = (0, None);
        for flows in flows.chunks(TOGETHER) {
            match self.delete_together(flows) {
                Ok(some) => deleted += some,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(deleted), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_is_needed() {
        let check = |errno, expected: &str| {
            let error = Error::List { source: io::Error::from_raw_os_error(errno) };
            assert_eq!(error.to_string(), format!("list tracked connections{expected}"));
        };
        check(nix::libc::EPERM, ": run with CAP_NET_ADMIN");
        check(nix::libc::EINVAL, ": the kernel needs nf_conntrack_netlink (CONFIG_NF_CT_NETLINK)");
        check(nix::libc::ENOMEM, "");
    }
}

//! The kernel's own links, addresses, routes, rules and neighbours, over one route-netlink socket.
//!
//! In: a namespace to open the socket in, then requests from anywhere. Out: values, or an error that names what was asked.
//! This is the only module that names the netlink crates: they change their interface every few months.

mod addresses;
mod bridges;
mod links;
mod neighbours;
mod reports;
mod routes;
mod rules;
mod shaping;
mod tunnels;
mod ways_out;

use std::io;

use futures_util::StreamExt;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_MULTIPART, NLM_F_REPLACE,
    NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use tokio::runtime;

pub(super) use self::reports::report_of;

use super::{Error, Operation};
use crate::netns::Netns;

/// A route-netlink socket. It speaks of the namespace that it was opened in, wherever it is used.
#[derive(Debug, Clone)]
pub struct Kernel {
    handle: rtnetlink::Handle,
}

impl Kernel {
    /// Opens a socket in the calling thread's namespace. Call it inside a tokio runtime that drives I/O.
    pub fn open() -> Result<Self, Error> {
        let runtime = runtime::Handle::try_current().map_err(|e| Error::Open(io::Error::other(e)))?;
        // Strict checking makes the kernel filter lists by what the request names.
        let (mut connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(Error::Open)?;
        // So that an answer that ends well can be told from a socket that broke.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        runtime.spawn(connection); // ends with the last clone of the handle
        Ok(Self { handle })
    }

    /// Opens a socket inside `netns`. Call it inside a tokio runtime that drives I/O.
    pub fn open_in(netns: &Netns) -> Result<Self, Error> {
        Self::open_and_run_in(netns, || ()).map(|(kernel, ())| kernel)
    }

    /// Opens a socket inside `netns`, and runs `work` there while it is at it.
    pub fn open_and_run_in<T: Send>(
        netns: &Netns,
        work: impl FnOnce() -> T + Send,
    ) -> Result<(Self, T), Error> {
        let runtime = runtime::Handle::try_current().map_err(|e| Error::Open(io::Error::other(e)))?;
        let opened = netns.run(|| {
            let _inside = runtime.enter();
            Ok((Self::open()?, work()))
        });
        opened.map_err(Error::Enter)?
    }

    /// Sends a request that changes something and waits until the kernel has done it.
    async fn change(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
        operation: Operation,
        object: &str,
    ) -> Result<(), Error> {
        self.ask(request, NLM_F_ACK | flags, operation, object, |_| None::<()>).await.map(drop)
    }

    /// Sends a request and collects what `pick` takes of the answers.
    async fn ask<T>(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
        operation: Operation,
        object: &str,
        pick: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let incomplete = || Error::Incomplete { operation, object: object.to_string() };
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;

        let mut answers = self.handle.clone().request(message).map_err(|_| incomplete())?;
        let mut picked = Vec::new();
        let mut is_whole = false;
        let mut is_interrupted = false;
        while let Some(answer) = answers.next().await {
            is_whole = answer.header.flags & NLM_F_MULTIPART == 0;
            is_interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(inner) => picked.extend(pick(inner)),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    let errno = Errno::from_raw(error.raw_code().saturating_abs());
                    return Err(Error::refused(operation, object, errno));
                }
                NetlinkPayload::Done(done) if done.code < 0 => {
                    let errno = Errno::from_raw(done.code.saturating_abs());
                    return Err(Error::refused(operation, object, errno));
                }
                NetlinkPayload::Done(_) => is_whole = true,
                NetlinkPayload::Overrun(_) => return Err(incomplete()),
                _ => {}
            }
        }
        // The stream of a socket that broke just ends.
        if is_whole && !is_interrupted { Ok(picked) } else { Err(incomplete()) }
    }

    /// Asks for a list.
    async fn list<T>(
        &self,
        request: RouteNetlinkMessage,
        object: &str,
        pick: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        // A list that changes while it is read may lack what was there all the time: read it again.
        for _ in 1..LIST_TRIES {
            match self.ask(request.clone(), NLM_F_DUMP, Operation::List, object, &pick).await {
                Err(Error::Incomplete { .. }) => {}
                answered => return answered,
            }
        }
        self.ask(request, NLM_F_DUMP, Operation::List, object, pick).await
    }
}

/// How often a list is read that others keep changing.
const LIST_TRIES: u32 = 16;

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;
const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;

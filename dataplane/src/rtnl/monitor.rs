//! What happens to links, addresses and routes, as the kernel tells it (`RTNLGRP_…`).
//!
//! In: which kinds of thing to hear of, and a namespace. Out: which of them something has happened to since the last answer; however
//! much that was, it is one answer. What there was no room to tell counts as everything. Never says what is there now: list it with
//! [`super::Kernel`], after the answer, and nothing is missed.

use std::{
    fmt,
    future::poll_fn,
    io,
    task::{Context, Poll},
};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{AsyncSocket as _, TokioSocket, protocols::NETLINK_ROUTE};
use socket2::SockRef;
use tokio::runtime;

use super::Error;
use crate::netns::Netns;

// Multicast groups (include/uapi/linux/rtnetlink.h, enum rtnetlink_groups).
pub(super) const RTNLGRP_LINK: u32 = 1;
pub(super) const RTNLGRP_IPV4_IFADDR: u32 = 5;
pub(super) const RTNLGRP_IPV4_ROUTE: u32 = 7;
pub(super) const RTNLGRP_IPV6_IFADDR: u32 = 9;
pub(super) const RTNLGRP_IPV6_ROUTE: u32 = 11;

// Messages (the same file).
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

/// Room for what happens while we are busy. More is not needed: all that counts is which kinds.
const RECEIVE_BUFFER: usize = 64 << 10;

/// Longer than any notification, each of which is a datagram of its own.
pub(super) const LONGEST: usize = 32 << 10;

/// Kinds of thing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kinds {
    /// Links: they come, go, and are changed.
    pub links: bool,
    /// Addresses of links.
    pub addresses: bool,
    /// Routes.
    pub routes: bool,
}

impl Kinds {
    /// Addresses alone.
    pub const ADDRESSES: Self = Self { links: false, addresses: true, routes: false };

    /// Everything.
    pub const ALL: Self = Self { links: true, addresses: true, routes: true };

    /// Says whether there is none.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Those that are in both.
    fn and(self, other: Self) -> Self {
        Self {
            links: self.links && other.links,
            addresses: self.addresses && other.addresses,
            routes: self.routes && other.routes,
        }
    }

    /// Those that are in one or the other.
    fn or(self, other: Self) -> Self {
        Self {
            links: self.links || other.links,
            addresses: self.addresses || other.addresses,
            routes: self.routes || other.routes,
        }
    }

    /// The groups to join. A link that goes down takes its IPv4 routes with it, and nobody is told of them
    /// (`net/ipv4/fib_trie.c`, `fib_table_flush`): whoever follows routes hears of links too.
    fn groups(self) -> impl Iterator<Item = u32> {
        let groups = [
            (self.links || self.routes, RTNLGRP_LINK),
            (self.addresses, RTNLGRP_IPV4_IFADDR),
            (self.addresses, RTNLGRP_IPV6_IFADDR),
            (self.routes, RTNLGRP_IPV4_ROUTE),
            (self.routes, RTNLGRP_IPV6_ROUTE),
        ];
        groups.into_iter().filter_map(|(is_wanted, group)| is_wanted.then_some(group))
    }

    /// What a message says something of.
    fn of(message: u16) -> Self {
        match message {
            RTM_NEWLINK | RTM_DELLINK => Self { links: true, routes: true, addresses: false },
            RTM_NEWADDR | RTM_DELADDR => Self::ADDRESSES,
            RTM_NEWROUTE | RTM_DELROUTE => Self { routes: true, ..Self::default() },
            _ => Self::default(),
        }
    }
}

/// Listens to one network namespace.
pub struct Monitor {
    socket: TokioSocket,
    kinds: Kinds,
    heard: Kinds,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Listens in the calling thread's namespace. Call it inside a tokio runtime that drives I/O.
    pub fn open(kinds: Kinds) -> Result<Self, Error> {
        runtime::Handle::try_current().map_err(|e| Error::Open(io::Error::other(e)))?;
        let open = || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            SockRef::from(socket.socket_ref()).set_recv_buffer_size(RECEIVE_BUFFER)?;
            socket.socket_mut().bind_auto()?;
            kinds.groups().try_for_each(|group| socket.socket_mut().add_membership(group))?;
            Ok(socket)
        };
        let socket = open().map_err(Error::Open)?;
        Ok(Self { socket, kinds, heard: Kinds::default(), buffer: Vec::with_capacity(LONGEST) })
    }

    /// Listens inside `netns`. Call it inside a tokio runtime that drives I/O.
    pub fn open_in(netns: &Netns, kinds: Kinds) -> Result<Self, Error> {
        let runtime = runtime::Handle::try_current().map_err(|e| Error::Open(io::Error::other(e)))?;
        let opened = netns.run(|| {
            let _inside = runtime.enter();
            Self::open(kinds)
        });
        opened.map_err(Error::Enter)?
    }

    /// Waits until something has happened, and says to which of the kinds that were asked for. May be dropped while it waits.
    pub async fn changed(&mut self) -> io::Result<Kinds> {
        poll_fn(|context| self.poll_changed(context)).await
    }

    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Kinds>> {
        loop {
            self.buffer.clear();
            match self.socket.poll_recv(context, &mut self.buffer) {
                Poll::Ready(Ok(())) => self.hear(),
                Poll::Ready(Err(error)) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                    self.heard = self.kinds;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                // Only once there is nothing left to hear, so that a burst is one answer.
                Poll::Pending if self.heard.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(std::mem::take(&mut self.heard))),
            }
        }
    }

    fn hear(&mut self) {
        let mut rest = self.buffer.as_slice();
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            self.heard = self.heard.or(Kinds::of(message.message_type()).and(self.kinds));
            let length = usize::try_from(message.length()).unwrap_or(rest.len()).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").field("kinds", &self.kinds).finish_non_exhaustive()
    }
}

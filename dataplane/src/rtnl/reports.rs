//! What happens to links, addresses, routes, rules and neighbours, one by one, as the kernel tells it.
//!
//! In: a namespace. Out: each thing as it is now, or that it is gone, whoever did it; our own changes as well. Where the kernel had no
//! room to tell, that is a report of its own. For whoever must know whether what happened concerns him; whoever need not takes
//! [`super::Monitor`].

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    io,
    task::{Context, Poll},
};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{AsyncSocket as _, TokioSocket, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;
use tokio::runtime;

use super::{
    Address, Error, Forwarding, Link, Neighbour, Route, Rule, kernel,
    monitor::{
        LONGEST, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE,
        RTNLGRP_LINK,
    },
};

// Further multicast groups (include/uapi/linux/rtnetlink.h, enum rtnetlink_groups).
const RTNLGRP_NEIGH: u32 = 3;
const RTNLGRP_IPV4_RULE: u32 = 8;
const RTNLGRP_IPV6_RULE: u32 = 19;
const RTNLGRP_IPV4_NETCONF: u32 = 24;
const RTNLGRP_IPV6_NETCONF: u32 = 25;

const GROUPS: [u32; 10] = [
    RTNLGRP_LINK,
    RTNLGRP_NEIGH,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV4_RULE,
    RTNLGRP_IPV6_RULE,
    RTNLGRP_IPV4_NETCONF,
    RTNLGRP_IPV6_NETCONF,
];

/// Room for what happens while we are busy: ten thousand routes and more.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Report {
    /// A link is there, and is like this.
    Link(Box<Link>),
    /// The link of this index is gone.
    LinkGone(u32),
    /// A link has an address.
    Address(Address),
    /// A link has it no more.
    AddressGone(Address),
    /// A route of the main table or of ours is there.
    Route(Route),
    /// A route of the main table or of ours is gone.
    RouteGone(Route),
    /// A rule of ours is there.
    Rule(Rule),
    /// A rule of ours is gone.
    RuleGone(Rule),
    /// A neighbour is there, and is like this.
    Neighbour(Neighbour),
    /// A neighbour is gone.
    NeighbourGone(Neighbour),
    /// An entry of a forwarding table is there.
    Forwarding(Forwarding),
    /// An entry of a forwarding table is gone.
    ForwardingGone(Forwarding),
    /// A parameter of links is different: whether they forward, or what they think of packets' sources.
    Parameter,
    /// The kernel had no room to tell what happened.
    Lost,
}

impl Report {
    /// The link that it is about, if it is about one.
    pub fn link(&self) -> Option<u32> {
        match self {
            Self::Link(link) => Some(link.index),
            Self::LinkGone(link) => Some(*link),
            Self::Address(address) | Self::AddressGone(address) => Some(address.link),
            Self::Route(route) | Self::RouteGone(route) => Some(route.link),
            Self::Neighbour(entry) | Self::NeighbourGone(entry) => Some(entry.link),
            Self::Forwarding(entry) | Self::ForwardingGone(entry) => Some(entry.link),
            Self::Rule(_) | Self::RuleGone(_) | Self::Parameter | Self::Lost => None,
        }
    }
}

/// Listens to one network namespace.
pub struct Reports {
    socket: TokioSocket,
    waiting: VecDeque<Report>,
    buffer: Vec<u8>,
}

impl Reports {
    /// Listens in the calling thread's namespace. Call it inside a tokio runtime that drives I/O.
    pub fn open() -> Result<Self, Error> {
        runtime::Handle::try_current().map_err(|e| Error::Open(io::Error::other(e)))?;
        let open = || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            // More than the system lets everybody have (`rmem_max`), where we may.
            if setsockopt(socket.socket_ref(), sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
                SockRef::from(socket.socket_ref()).set_recv_buffer_size(RECEIVE_BUFFER)?;
            }
            socket.socket_mut().bind_auto()?;
            GROUPS.iter().try_for_each(|group| socket.socket_mut().add_membership(*group))?;
            Ok(socket)
        };
        let socket = open().map_err(Error::Open)?;
        Ok(Self { socket, waiting: VecDeque::new(), buffer: Vec::with_capacity(LONGEST) })
    }

    /// Takes all that has happened so far. Whoever lists everything anew can forget it.
    pub async fn so_far(&mut self) -> io::Result<Vec<Report>> {
        let mut all = Vec::new();
        poll_fn(|context| {
            while let Poll::Ready(report) = self.poll_next(context) {
                match report {
                    Ok(report) => all.push(report),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        Ok(all)
    }

    /// Waits for the next thing that happens. May be dropped while it waits.
    pub async fn next(&mut self) -> io::Result<Report> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Report>> {
        loop {
            if let Some(report) = self.waiting.pop_front() {
                return Poll::Ready(Ok(report));
            }
            self.buffer.clear();
            match self.socket.poll_recv(context, &mut self.buffer) {
                Poll::Ready(Ok(())) => self.hear(),
                Poll::Ready(Err(error)) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                    return Poll::Ready(Ok(Report::Lost));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn hear(&mut self) {
        let mut rest = self.buffer.as_slice();
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            let length = usize::try_from(message.length()).unwrap_or(rest.len());
            let one = rest.get(..length).unwrap_or(rest);
            self.waiting.extend(kernel::report_of(message.message_type(), one));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reports").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

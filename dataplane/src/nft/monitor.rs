//! What others do to our tables, as the kernel tells it (`NFNLGRP_NFTABLES`).
//!
//! In: the socket that commits our own transactions. Out: for each transaction of anybody else, what of our tables is in doubt
//! since, and which process did it. Our own are filtered out by the kernel, before they take room or wake anybody;
//! elements that rules add are told to nobody. Never blocks, and never says what is right: that is for whoever knows the plan.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    os::fd::{AsRawFd, RawFd},
};

use netlink_sys::{Socket as NetlinkSocket, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockFilter, SockRef};

use super::{
    doubt::Doubt,
    encode,
    message::{Attributes, Message, Messages},
    socket::{Error, Socket},
    transaction::Transaction,
};
use crate::{netns::Netns, owner, packet::Family};

/// The multicast group of all that happens in nftables (include/uapi/linux/netfilter/nfnetlink.h).
const NFNLGRP_NFTABLES: u32 = 7;

/// Room for what others do while we are busy. The kernel takes memory only for what waits.
const RECEIVE_BUFFER: usize = 32 << 20;

/// Longer than any notification: the kernel gathers them up to a page or two.
const LONGEST: usize = 64 << 10;

/// From so many elements and other changes on, a transaction of ours is large.
const LARGE: usize = 256;

const HINT: &str = "listening to nftables needs CAP_NET_ADMIN";

/// Listens to the nftables of one network namespace.
#[derive(Debug)]
pub struct Monitor {
    netlink: NetlinkSocket,
    buffer: Vec<u8>,
    /// What the transaction that is being told of has done so far.
    doubts: BTreeMap<Family, Doubt>,
    are_host_ports_touched: bool,
    notices: VecDeque<Notice>,
}

/// What there is to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Somebody else changed our tables.
    Changed(Intrusion),
    /// Something may have happened: there was no room to tell it.
    Missed,
}

/// A transaction of somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intrusion {
    /// What is in doubt since.
    pub doubts: BTreeMap<Family, Doubt>,
    /// Whether it is about the plugin's tables, of host ports or of masquerade: the plugin changes them too, rightly.
    pub are_host_ports_touched: bool,
    /// Who did it, where the kernel tells.
    pub by: Option<Process>,
}

/// A process, as the kernel saw it when it committed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// The name of the thread: the first 15 letters of the program's, unless it was given another.
    pub name: String,
    /// The id, as counted outside of any container.
    pub id: u32,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.name, self.id)
    }
}

impl Monitor {
    /// Listens in the calling thread's network namespace to all but what `own` commits.
    pub fn open(own: &Socket) -> Result<Self, Error> {
        let open = || {
            let mut netlink = NetlinkSocket::new(NETLINK_NETFILTER)?;
            let limits = SockRef::from(&netlink);
            if setsockopt(&netlink, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
                limits.set_recv_buffer_size(RECEIVE_BUFFER)?;
            }
            limits.attach_filter(&all_but(own.port()))?;
            netlink.bind_auto()?;
            netlink.set_non_blocking(true)?;
            Ok(netlink)
        };
        let netlink = open().map_err(|source| Error::Open { hint: HINT, source })?;
        let buffer = Vec::with_capacity(LONGEST);
        let (doubts, notices) = (BTreeMap::new(), VecDeque::new());
        let monitor = Self { netlink, buffer, doubts, are_host_ports_touched: false, notices };
        monitor.join()?;
        Ok(monitor)
    }

    /// Listens inside a network namespace.
    pub fn open_in(netns: &Netns, own: &Socket) -> Result<Self, Error> {
        netns.run(|| Self::open(own)).unwrap_or_else(|error| {
            Err(Error::Open { hint: "cannot enter the network namespace", source: io::Error::other(error) })
        })
    }

    /// The next notice, or an error of kind [`io::ErrorKind::WouldBlock`] if there is none yet.
    pub fn next_notice(&mut self) -> io::Result<Notice> {
        loop {
            if let Some(notice) = self.notices.pop_front() {
                return Ok(notice);
            }
            self.buffer.clear();
            match self.netlink.recv(&mut self.buffer, 0) {
                Ok(_) => self.take_in(),
                // No room; or the kernel had no memory to tell. What was begun may lack its end.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                    self.close(None);
                    self.notices.push_back(Notice::Missed);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Commits a transaction of `own`. A large one is committed while not listening, as the kernel builds notifications for whoever
    /// listens at all, and only then asks the filter: that would double the time, and take 4 kB for each element meanwhile.
    pub fn commit(&mut self, own: &Socket, transaction: &Transaction) -> Result<(), Error> {
        let (added, removed) = transaction.elements();
        if added + removed + transaction.changes().len() < LARGE {
            return own.commit(transaction);
        }
        let before = own.generation()?;
        let outcome = self.leave().and_then(|()| own.commit(transaction));
        self.join()?;
        // Ours was one, if it was committed at all. If there were others, nobody has told us of them.
        let ours = u32::from(outcome.is_ok());
        if own.generation()? != before.wrapping_add(ours) {
            self.notices.push_back(Notice::Missed);
        }
        outcome
    }

    fn join(&self) -> Result<(), Error> {
        let joined = self.netlink.add_membership(NFNLGRP_NFTABLES);
        joined.map_err(|source| Error::Open { hint: HINT, source })
    }

    fn leave(&self) -> Result<(), Error> {
        let left = self.netlink.drop_membership(NFNLGRP_NFTABLES);
        left.map_err(|source| Error::Open { hint: HINT, source })
    }

    /// Reads one datagram: some messages of a transaction, the last of which is `NFT_MSG_NEWGEN`.
    fn take_in(&mut self) {
        const NEW_GENERATION: u16 = encode::kind(15);
        let buffer = std::mem::take(&mut self.buffer);
        for message in Messages(&buffer) {
            if message.kind == NEW_GENERATION {
                self.close(process(&message));
                continue;
            }
            match message.attributes().name(1) {
                Some(owner::TABLE) => {
                    if let Some(family) = family(&message) {
                        doubt(self.doubts.entry(family).or_default(), &message);
                    }
                }
                Some(owner::HOST_PORTS_TABLE | owner::MASQUERADE_TABLE) => self.are_host_ports_touched = true,
                _ => {}
            }
        }
        self.buffer = buffer;
    }

    /// Ends a transaction.
    fn close(&mut self, by: Option<Process>) {
        let mut doubts = std::mem::take(&mut self.doubts);
        doubts.retain(|_, doubt| !doubt.is_empty());
        let are_host_ports_touched = std::mem::take(&mut self.are_host_ports_touched);
        if !doubts.is_empty() || are_host_ports_touched {
            self.notices.push_back(Notice::Changed(Intrusion { doubts, are_host_ports_touched, by }));
        }
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.netlink.as_raw_fd()
    }
}

/// A classic BPF program that drops what the socket with that port did. The kernel notes the sender's port in every message
/// (`nlmsg_pid`), and one datagram holds messages of one transaction only (`nf_tables_api.c`, `nft_commit_notify`).
fn all_but(port: u32) -> [SockFilter; 4] {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const PORT: u32 = 12; // in nlmsghdr
    let as_loaded = u32::from_be_bytes(port.to_ne_bytes()); // BPF loads in network order
    [
        SockFilter::new(LOAD_WORD, 0, 0, PORT),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, as_loaded),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

fn family(message: &Message<'_>) -> Option<Family> {
    let number = *message.body.first()?;
    Family::ALL.into_iter().find(|family| encode::family_number(*family) == number)
}

/// Who committed (`NFTA_GEN_PROC_PID`, `NFTA_GEN_PROC_NAME`).
fn process(message: &Message<'_>) -> Option<Process> {
    let attributes = message.attributes();
    Some(Process { id: attributes.u32(2)?, name: attributes.name(3)?.to_owned() })
}

/// Adds what a message about one of our tables casts doubt on.
fn doubt(doubt: &mut Doubt, message: &Message<'_>) {
    let attributes = message.attributes();
    match message.kind {
        encode::NEW_TABLE | encode::DELETE_TABLE => doubt.table = true,
        encode::NEW_CHAIN | encode::DELETE_CHAIN | encode::NEW_RULE | encode::DELETE_RULE => {
            doubt.outline = true;
        }
        encode::NEW_SET | encode::DELETE_SET => {
            doubt.outline = true;
            if let Some(map) = attributes.name(2) {
                doubt.add_map(map.to_owned().into());
            }
        }
        encode::NEW_ELEMENTS | encode::DELETE_ELEMENTS => {
            let elements = attributes.inside(3).into_iter().flatten();
            let keys = elements.filter_map(|(_, element)| Attributes(element).inside(1)?.find(1));
            if let Some(map) = attributes.name(2) {
                keys.for_each(|key| doubt.add_element(map, key));
            }
        }
        _ => {} // objects and flow tables: not ours, and nothing of ours refers to them
    }
}

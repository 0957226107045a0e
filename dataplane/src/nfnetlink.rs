//! Netfilter's netlink, as nftables and connection tracking share it: the socket, and messages as bytes.
//!
//! In: requests as bytes. Out: the messages of the answer. It knows no subsystem: what a message means is for
//! [`crate::nft`] and [`crate::conntrack`] to say. It waits for nothing but the kernel's work.

pub(crate) mod message;

use std::io;

use netlink_sys::{Socket as NetlinkSocket, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;

use self::message::{Attributes, Messages, u32_ne};

/// Message flag of a request (`NLM_F_REQUEST`).
pub(crate) const REQUEST: u16 = 0x1;
/// Message flag: answer also if all is well (`NLM_F_ACK`).
pub(crate) const ACK: u16 = 0x4;
/// Message flags: everything of that kind (`NLM_F_DUMP`).
pub(crate) const DUMP: u16 = 0x300;

/// Message type of an error, and of an acknowledgement (`NLMSG_ERROR`).
pub(crate) const ERROR: u16 = 2;
/// Message type of a list's end (`NLMSG_DONE`).
const DONE: u16 = 3;
/// Message flag: the list was interrupted by a change (`NLM_F_DUMP_INTR`).
const INTERRUPTED: u16 = 0x10;

/// Room for the answers of one request or page.
const RECEIVE_BUFFER: usize = 1 << 20;

/// A reply of a list: the kernel makes none longer than 32 kB.
const LONGEST_PAGE: usize = 64 << 10;

/// An answer to a change: an errno, a header, and a few words (`NETLINK_CAP_ACK` leaves out what was asked).
const LONGEST_ANSWER: usize = 4 << 10;

/// A socket to netfilter in one network namespace.
#[derive(Debug)]
pub(crate) struct Channel {
    netlink: NetlinkSocket,
    port: u32,
}

impl Channel {
    /// Opens a socket in the calling thread's network namespace, with room for requests of that size.
    pub(crate) fn open(send_buffer: usize) -> io::Result<Self> {
        Self::open_to(NETLINK_NETFILTER, send_buffer)
    }

    /// The same to another of netlink's protocols, whose messages have headers as long as netfilter's.
    pub(crate) fn open_to(protocol: isize, send_buffer: usize) -> io::Result<Self> {
        let mut netlink = NetlinkSocket::new(protocol)?;
        let port = netlink.bind_auto()?.port_number();
        netlink.set_ext_ack(true)?;
        netlink.set_cap_ack(true)?;
        // Beyond the system's limit with CAP_NET_ADMIN of the machine, else up to it.
        let limits = SockRef::from(&netlink);
        if setsockopt(&netlink, sockopt::SndBufForce, &send_buffer).is_err() {
            limits.set_send_buffer_size(send_buffer)?;
        }
        limits.set_recv_buffer_size(RECEIVE_BUFFER)?;
        Ok(Self { netlink, port })
    }

    /// What the kernel knows this socket by.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends a request. What an earlier one, whose answer was not read to its end, has left is forgotten first.
    pub(crate) fn send(&self, request: &[u8]) -> io::Result<()> {
        loop {
            match self.receive_now() {
                Ok(Some(_)) => {}
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {}
                Ok(None) => break,
                Err(error) => return Err(error),
            }
        }
        self.netlink.send(request, 0).map(drop)
    }

    /// Reads one datagram of an answer and says whether it was the last. The kernel writes the next page of a dump when this
    /// one is read, and not before.
    pub(crate) fn answer(
        &self,
        interrupted: &mut bool,
        mut take: impl FnMut(u16, Attributes<'_>),
    ) -> io::Result<bool> {
        let reply = loop {
            match self.receive(LONGEST_PAGE, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => break received?,
            }
        };
        for message in Messages(&reply) {
            *interrupted |= message.flags & INTERRUPTED != 0;
            match message.kind {
                DONE => return Ok(true),
                ERROR => match errno(message.body) {
                    0 => return Ok(true),
                    errno => return Err(io::Error::from_raw_os_error(errno)),
                },
                kind => take(kind, message.attributes()),
            }
        }
        Ok(false)
    }

    /// Takes one datagram of what the kernel has answered by now. To a change it has answered all before [`Channel::send`]
    /// returned (`nfnetlink_rcv` runs in the sender's context).
    pub(crate) fn receive_now(&self) -> io::Result<Option<Vec<u8>>> {
        loop {
            match self.receive(LONGEST_ANSWER, nix::libc::MSG_DONTWAIT) {
                Ok(reply) => return Ok(Some(reply)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Receives one datagram of at most that length.
    fn receive(&self, longest: usize, flags: i32) -> io::Result<Vec<u8>> {
        let mut reply = Vec::with_capacity(longest);
        self.netlink.recv(&mut reply, flags)?;
        Ok(reply)
    }
}

/// The errno of an error message; the kernel sends it negative.
pub(crate) fn errno(body: &[u8]) -> i32 {
    -u32_ne(body.get(..4).unwrap_or_default()).cast_signed()
}

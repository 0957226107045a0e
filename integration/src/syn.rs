//! The first packet of a TCP connection, as bytes: for floods of connections that nobody has to hold.
//!
//! In: where from and where to. Out: an IPv4 packet, and the socket that sends it as it is.

use std::{io, net::SocketAddrV4};

use dataplane::packet::Family;
use socket2::Socket;

use crate::wire::{self, SYN, Segment};

/// Opens a socket in the calling thread's network namespace that sends packets with a header of their own.
pub fn open() -> io::Result<Socket> {
    wire::open(Family::Ip)
}

/// An IPv4 packet with the first segment of a connection.
pub fn packet(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    Segment { from: from.into(), to: to.into(), sequence: 1, acknowledgement: 0, flags: SYN }.bytes()
}

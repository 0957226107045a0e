//! TCP packets and echo requests as they are on the wire, for what no ordinary socket sends.

use std::{
    io::{ErrorKind, Read},
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use dataplane::packet::Family;
use fairway_lab::wire::{self, Packet, Segment};
use socket2::{Domain, Protocol, Socket, Type};

/// Sends a segment from the calling thread's network namespace, whoever it says it is from.
pub(crate) fn send(segment: &Segment) {
    let socket = wire::open(Family::of(segment.to.ip())).unwrap();
    wire::send(&socket, &segment.bytes(), segment.to.ip()).unwrap();
}

/// Sees the TCP packets that come to the calling thread's network namespace.
pub(crate) struct Listener(Socket, Family);

impl Listener {
    pub(crate) fn open(family: Family) -> Self {
        let socket = Socket::new(domain(family), Type::RAW, Some(Protocol::TCP)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        Self(socket, family)
    }

    /// Waits for the next packet with these flags to a port, and returns its sequence number.
    pub(crate) fn sequence_to(&self, port: u16, flags: u8) -> u32 {
        loop {
            let (packet, start) = receive(&self.0, self.1).unwrap();
            let nobody = IpAddr::from([0; 4]);
            let read = wire::read_payload(self.1, 6, nobody, nobody, &packet[start..]);
            match read {
                Some(Packet::Segment(segment)) if segment.to.port() == port && segment.flags == flags => {
                    return segment.sequence;
                }
                _ => {}
            }
        }
    }
}

/// Each ping is a flow of its own, for which rules are asked.
static PINGS: AtomicU16 = AtomicU16::new(1);

/// Asks an address for an echo, from the calling thread's network namespace, and says what comes back from it within
/// `patience`: `echo`, `unreachable`, or `silent`.
pub(crate) fn ping(to: IpAddr, patience: Duration) -> &'static str {
    let family = Family::of(to);
    let (protocol, request, reply) = if family == Family::Ip { (1, 8, 0) } else { (58, 128, 129) }; // RFC 792, RFC 4443
    let socket = Socket::new(domain(family), Type::RAW, Some(Protocol::from(protocol))).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    // Connected, it hears of errors, and answers from there only.
    socket.connect(&SocketAddr::new(to, 0).into()).unwrap();
    let number = PINGS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut echo = [request, 0, 0, 0, number[0], number[1], 0, 1];
    if family == Family::Ip {
        let checksum = wire::checksum(&echo); // the kernel adds ICMPv6's own
        echo[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    if socket.send(&echo).is_err() {
        return "unreachable";
    }
    loop {
        match receive(&socket, family) {
            Ok((packet, at)) if packet[at] == reply && packet[at + 4..at + 6] == number => {
                return "echo";
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return "silent",
            Err(_) => return "unreachable",
        }
    }
}

/// The next packet, and where in it the transport's part begins: raw sockets of IPv6 leave the IP header out.
fn receive(mut socket: &Socket, family: Family) -> std::io::Result<([u8; 1500], usize)> {
    let mut packet = [0; 1500];
    let _ = socket.read(&mut packet)?;
    let start = if family == Family::Ip { usize::from(packet[0] & 0xf) * 4 } else { 0 };
    Ok((packet, start))
}

fn domain(family: Family) -> Domain {
    if family == Family::Ip { Domain::IPV4 } else { Domain::IPV6 }
}

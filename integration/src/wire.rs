//! Packets as they are on the wire, of either family: for what no ordinary socket sends, and for seeing what became of it.
//!
//! In: what a packet should say. Out: its bytes, and the socket that sends them as they are. And back: what bytes say.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use dataplane::packet::{Family, Protocol};
use socket2::{Domain, Socket, Type};

/// Flags of a TCP header: RFC 9293 §3.1.
pub const SYN: u8 = 2;
/// The connection is no more.
pub const RST: u8 = 4;
/// The acknowledgement number means something.
pub const ACK: u8 = 16;

/// A TCP packet without data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// Who is said to have sent it.
    pub from: SocketAddr,
    /// Where to, in the same family.
    pub to: SocketAddr,
    /// The sequence number.
    pub sequence: u32,
    /// The acknowledgement number.
    pub acknowledgement: u32,
    /// [`SYN`], [`ACK`] and so on.
    pub flags: u8,
}

/// A UDP packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Datagram {
    /// Who is said to have sent it.
    pub from: SocketAddr,
    /// Where to, in the same family.
    pub to: SocketAddr,
    /// What it carries.
    pub data: Vec<u8>,
}

/// A ping, or the answer to one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Echo {
    /// Who is said to have sent it; in place of a port, what the one who pings is told by.
    pub from: SocketAddr,
    /// Where to, in the same family.
    pub to: IpAddr,
    /// Whether it is the answer.
    pub is_reply: bool,
    /// What it carries.
    pub data: Vec<u8>,
}

/// What a packet says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packet {
    /// TCP; data is left out.
    Segment(Segment),
    /// UDP.
    Datagram(Datagram),
    /// ICMP: an echo is asked for, or sent back.
    Echo(Echo),
    /// An ICMP error: a destination is unreachable. Holds the packet that it is about.
    Unreachable(Box<Packet>),
}

/// Opens a socket in the calling thread's network namespace that sends packets with a header of their own.
pub fn open(family: Family) -> io::Result<Socket> {
    const RAW: i32 = 255; // IPPROTO_RAW
    let domain = if family == Family::Ip { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::RAW, Some(RAW.into()))
}

/// Sends a packet over such a socket.
pub fn send(socket: &Socket, packet: &[u8], to: IpAddr) -> io::Result<()> {
    socket.send_to(packet, &SocketAddr::new(to, 0).into()).map(|_| ())
}

impl Segment {
    /// The packet, IP header and all.
    pub fn bytes(&self) -> Vec<u8> {
        let mut segment = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledgement.to_be_bytes());
        segment.extend([0x50, self.flags, 0xff, 0xff]); // header of 20 bytes, window
        with_checksum(&mut segment, Protocol::Tcp.number(), 2, self.from.ip(), self.to.ip());
        segment.extend([0, 0]); // no urgent data
        packet(Protocol::Tcp.number(), self.from.ip(), self.to.ip(), &segment)
    }
}

impl Datagram {
    /// The packet, IP header and all.
    pub fn bytes(&self) -> Vec<u8> {
        let length = u16::try_from(8 + self.data.len()).unwrap_or(u16::MAX);
        let mut datagram = [self.from.port(), self.to.port(), length].map(u16::to_be_bytes).concat();
        let mut whole = [datagram.as_slice(), &self.data].concat();
        with_checksum(&mut whole, Protocol::Udp.number(), 0, self.from.ip(), self.to.ip());
        let checksum = whole.split_off(whole.len() - 2);
        datagram.extend(checksum);
        datagram.extend(&self.data);
        packet(Protocol::Udp.number(), self.from.ip(), self.to.ip(), &datagram)
    }
}

/// What ICMP calls itself, its errors, its pings and their answers: RFC 792, RFC 4443.
struct Icmp {
    number: u8,
    unreachable: u8,
    request: u8,
    reply: u8,
}

const ICMP: Icmp = Icmp { number: 1, unreachable: 3, request: 8, reply: 0 };
const ICMPV6: Icmp = Icmp { number: 58, unreachable: 1, request: 128, reply: 129 };

impl Echo {
    /// The packet, IP header and all.
    pub fn bytes(&self) -> Vec<u8> {
        let icmp = if self.to.is_ipv4() { ICMP } else { ICMPV6 };
        let kind = if self.is_reply { icmp.reply } else { icmp.request };
        let rest = [&self.from.port().to_be_bytes()[..], &[0, 1], &self.data].concat(); // the first of its kind
        let mut whole = [&[kind, 0][..], &rest].concat();
        let checksum = if self.to.is_ipv4() {
            checksum(&whole).to_be_bytes().to_vec()
        } else {
            with_checksum(&mut whole, icmp.number, 0, self.from.ip(), self.to);
            whole.split_off(whole.len() - 2)
        };
        let payload = [vec![kind, 0], checksum, rest].concat();
        packet(icmp.number, self.from.ip(), self.to, &payload)
    }
}

/// Puts an IP header before a transport's packet.
fn packet(protocol: u8, from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = match to {
        // The kernel adds length, identification and checksum: raw(7).
        IpAddr::V4(_) => vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0],
        IpAddr::V6(_) => [&[0x60, 0, 0, 0], &length[..], &[protocol, 64]].concat(),
    };
    packet.extend(octets(from));
    packet.extend(octets(to));
    packet.extend(payload);
    packet
}

/// Reads an IP packet of a family; nothing if it is of no kind that is known here.
pub fn read(family: Family, packet: &[u8]) -> Option<Packet> {
    let (number, header) = match family {
        Family::Ip => (*packet.get(9)?, usize::from(packet.first()? & 0xf) * 4),
        Family::Ip6 => (*packet.get(6)?, 40),
    };
    let (from, to) = match family {
        Family::Ip => (v4(packet.get(12..16)?)?, v4(packet.get(16..20)?)?),
        Family::Ip6 => (v6(packet.get(8..24)?)?, v6(packet.get(24..40)?)?),
    };
    read_payload(family, number, from, to, packet.get(header..)?)
}

/// Reads what follows an IP header with this protocol number and these addresses.
pub fn read_payload(family: Family, number: u8, from: IpAddr, to: IpAddr, bytes: &[u8]) -> Option<Packet> {
    if let Some(icmp) = [ICMP, ICMPV6].into_iter().find(|icmp| icmp.number == number) {
        let kind = *bytes.first()?;
        if kind == icmp.unreachable {
            return read(family, bytes.get(8..)?).map(|inner| Packet::Unreachable(inner.into()));
        }
        let is_reply = kind == icmp.reply;
        let echo = || {
            let from = SocketAddr::new(from, half(bytes, 4)?);
            Some(Packet::Echo(Echo { from, to, is_reply, data: bytes.get(8..)?.to_vec() }))
        };
        return if is_reply || kind == icmp.request { echo() } else { None };
    }
    let from = SocketAddr::new(from, half(bytes, 0)?);
    let to = SocketAddr::new(to, half(bytes, 2)?);
    match Protocol::from_number(number)? {
        Protocol::Tcp => Some(Packet::Segment(Segment {
            from,
            to,
            sequence: word(bytes, 4)?,
            acknowledgement: word(bytes, 8)?,
            flags: *bytes.get(13)?,
        })),
        Protocol::Udp => Some(Packet::Datagram(Datagram { from, to, data: bytes.get(8..)?.to_vec() })),
        Protocol::Sctp => None,
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn v4(bytes: &[u8]) -> Option<IpAddr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into())
}

fn v6(bytes: &[u8]) -> Option<IpAddr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Adds the checksum of a transport's packet and its pseudo header (RFC 9293 §3.1, RFC 768, RFC 8200 §8.1) at its end: a
/// sum does not care where its parts stand. So many `zeros` are still to follow.
fn with_checksum(payload: &mut Vec<u8>, protocol: u8, zeros: usize, from: IpAddr, to: IpAddr) {
    let length = u16::try_from(payload.len() + 2 + zeros).unwrap_or(u16::MAX);
    let pseudo = [octets(from), octets(to), vec![0, protocol], length.to_be_bytes().to_vec()].concat();
    let checksum = checksum(&[pseudo, payload.clone()].concat());
    payload.extend(checksum.to_be_bytes());
}

/// The Internet checksum: RFC 1071.
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let byte = |at: usize| pair.get(at).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([byte(0), byte(1)]))
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const PAIRS: [(Family, &str, &str); 2] = [
        (Family::Ip, "192.168.1.2:1024", "10.96.0.1:80"),
        (Family::Ip6, "[fd00:1::2]:1024", "[fd00:10:96::1]:80"),
    ];

    #[test]
    fn a_packet_reads_as_it_was_written() {
        for (family, from, to) in PAIRS {
            let (from, to) = (address(from), address(to));
            let segment = Segment { from, to, sequence: 0x1234_5678, acknowledgement: 9, flags: SYN | ACK };
            let datagram = Datagram { from, to, data: b"who are you?".to_vec() };
            let echo = Echo { from, to: to.ip(), is_reply: false, data: vec![1, 2, 3, 4] };

            assert_eq!(read(family, &echo.bytes()), Some(Packet::Echo(echo)));
            assert_eq!(read(family, &segment.bytes()), Some(Packet::Segment(segment)));
            assert_eq!(read(family, &datagram.bytes()), Some(Packet::Datagram(datagram)));
        }
    }

    #[test]
    fn an_error_tells_what_it_is_about() {
        for ((family, from, to), (icmp, kind)) in PAIRS.into_iter().zip([(1, 3), (58, 1)]) {
            let (from, to) = (address(from), address(to));
            let datagram = Datagram { from, to, data: vec![7; 9] };
            let error = [vec![kind, 3, 0, 0, 0, 0, 0, 0], datagram.bytes()].concat();

            let read = read_payload(family, icmp, to.ip(), from.ip(), &error);
            assert_eq!(read, Some(Packet::Unreachable(Packet::Datagram(datagram).into())));
        }
    }

    #[test]
    fn a_checksum_makes_the_whole_sum_to_nothing() {
        for (family, from, to) in PAIRS {
            let (from, to) = (address(from), address(to));
            let header = if family == Family::Ip { 20 } else { 40 };
            let segment = Segment { from, to, sequence: 1, acknowledgement: 0, flags: SYN }.bytes();
            let datagram = Datagram { from, to, data: vec![1, 2, 3] }.bytes();

            for (packet, protocol) in [(segment, 6), (datagram, 17)] {
                let payload = &packet[header..];
                let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
                let pseudo =
                    [octets(from.ip()), octets(to.ip()), vec![0, protocol], length.to_vec()].concat();
                assert_eq!(checksum(&[pseudo, payload.to_vec()].concat()), 0, "{family} {protocol}");
            }
        }
    }
}

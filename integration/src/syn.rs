//! The first packet of a TCP connection, as bytes: for floods of connections that nobody has to hold.
//!
//! In: where from and where to. Out: an IPv4 packet, and the socket that sends it as it is.

use std::{io, net::SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};

/// Opens a socket in the calling thread's network namespace that sends packets with a header of their own.
pub fn open() -> io::Result<Socket> {
    const RAW: i32 = 255; // IPPROTO_RAW
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))
}

/// An IPv4 packet with the first segment of a connection. The kernel adds the checksum of the IP header (`raw(7)`).
pub fn packet(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    const LENGTH: u8 = 40;
    let mut packet = vec![0x45, 0, 0, LENGTH, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    let mut segment = Vec::with_capacity(20);
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0]); // sequence and acknowledgement number
    segment.extend([0x50, 0x02, 0xff, 0xff]); // header of 20 bytes, SYN, window
    let checksum = checksum(packet.iter().skip(12).chain(&[0, 6, 0, 20]).chain(&segment));
    segment.extend(checksum.to_be_bytes());
    segment.extend([0, 0]); // no urgent data
    packet.extend(segment);
    packet
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
pub(crate) fn checksum<'a>(bytes: impl Iterator<Item = &'a u8>) -> u16 {
    let mut is_high = false;
    let sum = bytes.fold(0_u32, |sum, byte| {
        is_high = !is_high;
        sum + if is_high { u32::from(*byte) << 8 } else { u32::from(*byte) }
    });
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_makes_the_whole_sum_to_nothing() {
        let packet = packet("192.168.1.2:1024".parse().unwrap(), "10.96.0.1:80".parse().unwrap());

        assert_eq!(checksum(packet.iter().skip(12).chain(&[0, 6, 0, 20])), 0);
    }
}

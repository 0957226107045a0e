//! The first packet of an SCTP association, as bytes: for kernels that do not speak SCTP, which track and translate it all the same.
//!
//! In: where from and where to. Out: a packet without its IP header, which the kernel adds, and the socket that sends it.

use std::io;

use socket2::{Domain, Protocol, Socket, Type};

/// Opens a socket in the calling thread's network namespace that sends and receives SCTP packets as they are.
pub fn open() -> io::Result<Socket> {
    const IPPROTO_SCTP: i32 = 132;
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_SCTP)))
}

/// An INIT chunk in a packet (RFC 9260 §3.1, §3.3.2).
pub fn init(source_port: u16, destination_port: u16) -> Vec<u8> {
    let mut packet = Vec::with_capacity(32);
    packet.extend(source_port.to_be_bytes());
    packet.extend(destination_port.to_be_bytes());
    packet.extend([0; 4]); // verification tag: none yet
    packet.extend([0; 4]); // checksum
    packet.extend([1, 0, 0, 20]); // INIT, no flags, length
    packet.extend(0x1234_5678_u32.to_be_bytes()); // initiate tag
    packet.extend(65_536_u32.to_be_bytes()); // receiver window
    packet.extend([0, 10, 0, 10]); // streams out and in
    packet.extend(1_u32.to_be_bytes()); // first transmission sequence number
    let checksum = checksum(&packet);
    if let Some(place) = packet.get_mut(8..12) {
        place.copy_from_slice(&checksum);
    }
    packet
}

/// Says whether a packet, without its IP header, is as it was sent.
pub fn is_intact(packet: &[u8]) -> bool {
    packet.get(8..12) == Some(&checksum(packet))
}

/// The `CRC32c` of a packet whose checksum counts as zero (RFC 9260 §6.8, appendix A).
fn checksum(packet: &[u8]) -> [u8; 4] {
    let zeroed = packet.iter().enumerate().map(|(at, byte)| if (8..12).contains(&at) { 0 } else { *byte });
    let crc = zeroed.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    });
    (!crc).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_tells_a_packet_that_was_changed() {
        let mut packet = init(4_000, 3_868);
        assert!(is_intact(&packet));

        packet[3] ^= 1;
        assert!(!is_intact(&packet));
    }
}

//! A ping, so that none need be installed: one echo request from wherever the calling thread is, and its reply.

use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::wire::checksum;

/// Tells our request from those of others who ping from the same host: our process number.
fn identifier() -> [u8; 2] {
    let [.., high, low] = std::process::id().to_be_bytes();
    [high, low]
}

/// Sends an echo request to `to` and waits for the reply from there. An error of kind `WouldBlock`: none came in time.
pub fn ping(to: IpAddr, patience: Duration) -> io::Result<()> {
    // RFC 792 and RFC 4443 §4.1; a raw socket of IPv4 is given the IP header too.
    let (domain, protocol, request, reply, header) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0, 20),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129, 0),
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    let [high, low] = identifier();
    let mut message = [request, 0, 0, 0, high, low, 0, 1];
    if to.is_ipv4() {
        let [first, second] = checksum(&message).to_be_bytes();
        message = [request, 0, first, second, high, low, 0, 1]; // of ICMPv6 the kernel adds it
    }
    socket.send(&message)?;
    loop {
        let mut packet = [0; 128];
        let length = socket.read(&mut packet)?;
        let message = packet.get(header..length).unwrap_or_default();
        if matches!(message, [kind, 0, _, _, a, b, ..] if *kind == reply && [*a, *b] == [high, low]) {
            return Ok(());
        }
    }
}

//! What whoever asks is told.

use std::{
    collections::BTreeSet,
    error::Error as _,
    io,
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use dataplane::packet::{Family, Protocol};
use fairway_lab::{
    client::{self, PATIENCE},
    cluster::OUTSIDE,
};

use super::{Bed, NODES, SILENCE};

impl Bed {
    /// Asks in each family as often as it takes to hear everybody twice, and compares all that was heard.
    #[track_caller]
    pub(crate) fn check<const N: usize>(&self, from: &str, to: &str, expected: [&str; N]) {
        let is_silence = expected.as_slice() == ["silent"];
        let (times, patience) = if is_silence { (1, SILENCE) } else { (2 * N, PATIENCE) };
        let expected = BTreeSet::from(expected.map(str::to_owned));
        let heard: Vec<(Family, BTreeSet<String>)> = thread::scope(|scope| {
            let asked = self.families.iter().map(|family| {
                let ask = move || (0..times).map(|_| self.ask_within(patience, *family, from, to)).collect();
                (*family, scope.spawn(ask))
            });
            let asked: Vec<_> = asked.collect();
            asked.into_iter().map(|(family, asked)| (family, asked.join().unwrap())).collect()
        });
        for (family, heard) in heard {
            assert_eq!(heard, expected, "{family}: {from} asks {to}");
        }
        if is_silence {
            // It is not the network that is silent.
            let asker = if self.strangers.contains_key(from) || from == OUTSIDE { "w1" } else { from };
            self.marker_answers(asker, PATIENCE).unwrap();
        }
    }

    /// Asks once, in one family: `ask(Family::Ip, "client", "web:80")`, `"web:53/udp"`.
    pub(crate) fn ask(&self, family: Family, from: &str, to: &str) -> String {
        self.ask_within(PATIENCE, family, from, to)
    }

    fn ask_within(&self, patience: Duration, family: Family, from: &str, to: &str) -> String {
        let (protocol, to) = self.door(family, to);
        let asked = self.netns(from).run(|| match protocol {
            Protocol::Udp => client::udp(to, patience),
            _ => client::http(to, patience),
        });
        let answer = match asked.unwrap() {
            Ok(answer) => answer,
            Err(error) => return failure(&error),
        };
        let port = match answer.address.port() {
            80 => String::new(),
            port => format!(":{port}"),
        };
        format!("{}{port} sees {}", answer.name, self.name_of(answer.client.ip()))
    }

    /// Where a question goes: `NAME:PORT` or `NAME:PORT/udp`.
    pub(crate) fn door(&self, family: Family, to: &str) -> (Protocol, SocketAddr) {
        let (to, protocol) = match to.strip_suffix("/udp") {
            Some(to) => (to, Protocol::Udp),
            None => (to, Protocol::Tcp),
        };
        let (name, port) = to.rsplit_once(':').unwrap();
        (protocol, SocketAddr::new(self.address(name, family), port.parse().unwrap()))
    }

    /// What the bed calls an address; a node's own on a pod's link is the node.
    pub(crate) fn name_of(&self, address: IpAddr) -> String {
        let named = self.addresses.iter().find(|(_, addresses)| addresses.contains(&address));
        let gateway_of = |(name, n, _): &(&str, u8, &str)| {
            let gateways = [format!("10.244.{n}.1"), format!("fd00:10:244:{n}::1")];
            gateways.contains(&address.to_string()).then(|| (*name).to_owned())
        };
        let gateway = || NODES.iter().find_map(gateway_of);
        named.map(|(name, _)| name.clone()).or_else(gateway).unwrap_or_else(|| address.to_string())
    }
}

fn failure(error: &client::Error) -> String {
    let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match cause.map(io::Error::kind) {
        // Who sends a datagram on the very node that rejects it is told so by the call itself.
        Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::PermissionDenied) => "refused".into(),
        Some(io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => "silent".into(),
        Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => "unreachable".into(),
        _ => format!("{error}: {cause:?}"),
    }
}

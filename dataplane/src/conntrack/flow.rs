//! Flows, and what they are asked for by.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::packet::{Family, Protocol};

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Where its packets come from.
    pub source: SocketAddr,
    /// Where they go.
    pub destination: SocketAddr,
}

/// A flow: a connection, or datagrams that belong together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its packets as the one who began it sent them: to the address of a service, say.
    pub original: Tuple,
    /// The answers as they were sent, before any address was translated back: from a service's endpoint, say.
    pub reply: Tuple,
    /// Whether anything was ever answered (`IPS_SEEN_REPLY`).
    pub is_answered: bool,
    /// The zone that its answers are in; 0 unless somebody made zones.
    pub zone: u16,
    /// What the kernel tells it by from other flows with the same tuples, earlier or later.
    pub id: u32,
}

impl Flow {
    /// Who answers, or would.
    pub fn answerer(&self) -> SocketAddr {
        self.reply.source
    }

    /// Says whether somebody else answers than was asked.
    pub fn is_led_elsewhere(&self) -> bool {
        self.answerer() != self.original.destination
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, original, .. } = self;
        write!(f, "{protocol} {} → {}", original.source, original.destination)?;
        if self.is_led_elsewhere() { write!(f, " = {}", self.answerer()) } else { Ok(()) }
    }
}

/// Which flows are asked for: all that agree with every field that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Filter {
    /// Their family.
    pub family: Family,
    /// Their protocol.
    pub protocol: Protocol,
    /// The address that they were begun to.
    pub address: Option<IpAddr>,
    /// The port that they were begun to.
    pub port: Option<u16>,
    /// Only those that nobody has answered.
    pub unanswered: bool,
}

impl Filter {
    /// All flows of a protocol in a family.
    pub fn all(family: Family, protocol: Protocol) -> Self {
        Self { family, protocol, address: None, port: None, unanswered: false }
    }

    /// Says whether a flow is asked for.
    pub fn lets_through(&self, flow: &Flow) -> bool {
        let to = flow.original.destination;
        flow.protocol == self.protocol
            && Family::of(to.ip()) == self.family
            && self.address.is_none_or(|address| address == to.ip())
            && self.port.is_none_or(|port| port == to.port())
            && !(self.unanswered && flow.is_answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        let tuple = |source: &str, destination: &str| Tuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        Flow {
            protocol: Protocol::Udp,
            original: tuple("10.244.1.2:4000", "10.96.0.10:53"),
            reply: tuple("10.244.2.7:5353", "10.244.1.2:4000"),
            is_answered: true,
            zone: 0,
            id: 1,
        }
    }

    #[test]
    fn a_flow_says_who_answers_instead() {
        assert_eq!(flow().to_string(), "udp 10.244.1.2:4000 → 10.96.0.10:53 = 10.244.2.7:5353");
    }

    #[test]
    fn every_field_of_a_filter_counts() {
        let all = Filter::all(Family::Ip, Protocol::Udp);
        let check =
            |filter: Filter, expected: bool| assert_eq!(filter.lets_through(&flow()), expected, "{filter:?}");

        check(all, true);
        check(Filter { address: Some([10, 96, 0, 10].into()), port: Some(53), ..all }, true);
        check(Filter { family: Family::Ip6, ..all }, false);
        check(Filter { protocol: Protocol::Sctp, ..all }, false);
        check(Filter { address: Some([10, 244, 2, 7].into()), ..all }, false);
        check(Filter { port: Some(5353), ..all }, false);
        check(Filter { unanswered: true, ..all }, false);
    }
}

//! Flows that a change of host ports leads astray, ended: whoever sends next begins a new one, and the rules are asked again.
//!
//! In: ports that came or went, and whatever keeps flows. Out: those flows are gone. Connections of TCP end by themselves, with their pod
//! or with the one who had the port before.

use std::{collections::BTreeSet, net::IpAddr};

use super::HostPort;
use crate::{
    conntrack::{Conntrack, Filter, Flow},
    packet::Protocol,
};

/// Says whether there is anything to end: only what is sent on and on goes where its first packet went.
pub fn may_lead_astray(ports: &[HostPort]) -> bool {
    ports.iter().any(|port| is_sent_on(port.protocol))
}

fn is_sent_on(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Udp | Protocol::Sctp)
}

/// Ends flows that were begun to a host port before it led to the pod. `own` are the node's addresses: what passes through to the
/// port of another host is left alone.
pub fn end_those_from_before<C: Conntrack>(
    conntrack: &mut C,
    ports: &[HostPort],
    own: &BTreeSet<IpAddr>,
) -> Result<(), C::Error> {
    end(conntrack, ports, |port, flow| {
        let to = flow.original.destination;
        let is_meant = port.host_ip.is_none_or(|address| address == to.ip());
        let is_own = own.contains(&to.ip()) || to.ip().is_loopback();
        is_meant && is_own && to.port() == port.host_port && flow.answerer() != port.pod
    })
}

/// Ends flows that a host port led to its pod.
pub fn end_those_to_pods<C: Conntrack>(conntrack: &mut C, ports: &[HostPort]) -> Result<(), C::Error> {
    end(conntrack, ports, |port, flow| {
        flow.original.destination.port() == port.host_port
            && flow.answerer() == port.pod
            && flow.is_led_elsewhere()
    })
}

fn end<C: Conntrack>(
    conntrack: &mut C,
    ports: &[HostPort],
    is_meant: impl Fn(&HostPort, &Flow) -> bool,
) -> Result<(), C::Error> {
    let of = |port: &HostPort| (port.family(), port.protocol);
    let kinds: BTreeSet<_> = ports.iter().map(of).filter(|(_, protocol)| is_sent_on(*protocol)).collect();
    for kind in kinds {
        let numbers: BTreeSet<u16> =
            ports.iter().filter(|port| of(port) == kind).map(|port| port.host_port).collect();
        // One walk through all flows, whatever is asked for; the kernel can leave out what is not of one port.
        let port = numbers.first().copied().filter(|_| numbers.len() == 1);
        let filter = Filter { port, ..Filter::all(kind.0, kind.1) };
        let flows = conntrack
            .flows(&filter, &mut |flow| ports.iter().any(|port| of(port) == kind && is_meant(port, flow)))?;
        conntrack.delete(&flows)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::{Fake, Tuple};

    fn port(protocol: Protocol, host_ip: Option<IpAddr>) -> HostPort {
        HostPort { protocol, host_ip, host_port: 53, pod: ([10, 244, 1, 2], 5353).into() }
    }

    fn flow(id: u32, protocol: Protocol, to: &str, answerer: &str) -> Flow {
        let (source, destination) = ("198.51.100.7:4000".parse().unwrap(), to.parse().unwrap());
        Flow {
            protocol,
            original: Tuple { source, destination },
            reply: Tuple { source: answerer.parse().unwrap(), destination: source },
            is_answered: true,
            zone: 0,
            id,
        }
    }

    fn flows() -> Fake {
        use Protocol::{Sctp, Tcp, Udp};
        Fake {
            flows: vec![
                flow(1, Udp, "192.0.2.1:53", "192.0.2.1:53"), // the node's own answers
                flow(2, Udp, "192.0.2.1:53", "10.244.1.9:5353"), // an earlier pod does
                flow(3, Udp, "192.0.2.1:53", "10.244.1.2:5353"), // this pod does
                flow(4, Udp, "203.0.113.5:53", "203.0.113.5:53"), // passes through
                flow(5, Udp, "127.0.0.1:53", "127.0.0.1:53"),
                flow(6, Udp, "192.0.2.1:54", "192.0.2.1:54"),
                flow(7, Tcp, "192.0.2.1:53", "192.0.2.1:53"),
                flow(8, Sctp, "192.0.2.1:53", "192.0.2.1:53"),
                flow(9, Udp, "10.244.1.2:5353", "10.244.1.2:5353"), // to the pod itself
            ],
        }
    }

    fn left(fake: &Fake) -> Vec<u32> {
        fake.flows.iter().map(|flow| flow.id).collect()
    }

    #[test]
    fn what_was_begun_to_the_port_ends_unless_it_leads_to_the_pod_or_passes_through() {
        let own = BTreeSet::from([IpAddr::from([192, 0, 2, 1])]);
        let check = |port: HostPort, expected: &[u32]| {
            let mut fake = flows();
            let Ok(()) = end_those_from_before(&mut fake, &[port], &own);
            assert_eq!(left(&fake), expected);
        };

        check(port(Protocol::Udp, None), &[3, 4, 6, 7, 8, 9]);
        check(port(Protocol::Udp, Some([192, 0, 2, 1].into())), &[3, 4, 5, 6, 7, 8, 9]);
        check(port(Protocol::Udp, Some([203, 0, 113, 5].into())), &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        check(port(Protocol::Sctp, None), &[1, 2, 3, 4, 5, 6, 7, 9]);
        check(port(Protocol::Tcp, None), &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn what_was_led_to_the_pod_ends_with_the_port() {
        let mut fake = flows();
        let Ok(()) = end_those_to_pods(&mut fake, &[port(Protocol::Udp, None)]);
        assert_eq!(left(&fake), [1, 2, 4, 5, 6, 7, 8, 9]);
    }
}

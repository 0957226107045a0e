//! Flows that a change of host ports leads astray, ended: whoever sends next begins a new one, and the rules are asked again.
//!
//! In: claims that came or went, and whatever keeps flows. Out: those flows are gone. Connections of TCP end by themselves, with their pod
//! or with the one who had the port before.

use std::{collections::BTreeSet, net::IpAddr};

use super::claims::Claim;
use crate::{
    conntrack::{Conntrack, Filter, Flow},
    packet::Protocol,
};

/// Says whether there is anything to end: only what is sent on and on goes where its first packet went.
pub fn may_lead_astray(claims: &[Claim]) -> bool {
    claims.iter().any(|claim| is_sent_on(claim.host_port.protocol))
}

fn is_sent_on(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Udp | Protocol::Sctp)
}

/// Ends flows that were begun to a host port before it led to the pod. `own` are the node's addresses: what passes through to the
/// port of another host is left alone.
pub fn end_those_from_before<C: Conntrack>(
    conntrack: &mut C,
    claims: &[Claim],
    own: &BTreeSet<IpAddr>,
) -> Result<(), C::Error> {
    end(conntrack, claims, |claim, flow| {
        let (to, port) = (flow.original.destination, claim.host_port);
        let is_meant = port.host_ip.is_none_or(|address| address == to.ip());
        let is_own = own.contains(&to.ip()) || to.ip().is_loopback();
        is_meant && is_own && to.port() == port.host_port && flow.answerer() != port.pod
    })
}

/// Ends flows that a host port led to its pod.
pub fn end_those_to_pods<C: Conntrack>(conntrack: &mut C, claims: &[Claim]) -> Result<(), C::Error> {
    end(conntrack, claims, |claim, flow| {
        flow.original.destination.port() == claim.host_port.host_port
            && flow.answerer() == claim.host_port.pod
            && flow.is_led_elsewhere()
    })
}

fn end<C: Conntrack>(
    conntrack: &mut C,
    claims: &[Claim],
    is_meant: impl Fn(&Claim, &Flow) -> bool,
) -> Result<(), C::Error> {
    let of = |claim: &Claim| (claim.host_port.family(), claim.host_port.protocol);
    let kinds: BTreeSet<_> = claims.iter().map(of).filter(|(_, protocol)| is_sent_on(*protocol)).collect();
    for kind in kinds {
        let ports: BTreeSet<u16> =
            claims.iter().filter(|claim| of(claim) == kind).map(|claim| claim.host_port.host_port).collect();
        // One walk through all flows, whatever is asked for; the kernel can leave out what is not of one port.
        let port = ports.first().copied().filter(|_| ports.len() == 1);
        let filter = Filter { port, ..Filter::all(kind.0, kind.1) };
        let flows = conntrack.flows(&filter, &mut |flow| {
            claims.iter().any(|claim| of(claim) == kind && is_meant(claim, flow))
        })?;
        conntrack.delete(&flows)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conntrack::{Fake, Tuple},
        host_ports::{HostPort, claims::Owner},
    };

    fn claim(protocol: Protocol, host_ip: Option<IpAddr>) -> Claim {
        let owner = Owner { network: "pods".into(), container_id: "web".into(), ifname: "eth0".into() };
        let host_port = HostPort { protocol, host_ip, host_port: 53, pod: ([10, 244, 1, 2], 5353).into() };
        Claim { owner, pod: None, boot_id: "this".into(), host_port }
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
        let check = |claim: Claim, expected: &[u32]| {
            let mut fake = flows();
            let Ok(()) = end_those_from_before(&mut fake, &[claim], &own);
            assert_eq!(left(&fake), expected);
        };

        check(claim(Protocol::Udp, None), &[3, 4, 6, 7, 8, 9]);
        check(claim(Protocol::Udp, Some([192, 0, 2, 1].into())), &[3, 4, 5, 6, 7, 8, 9]);
        check(claim(Protocol::Udp, Some([203, 0, 113, 5].into())), &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        check(claim(Protocol::Sctp, None), &[1, 2, 3, 4, 5, 6, 7, 9]);
        check(claim(Protocol::Tcp, None), &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn what_was_led_to_the_pod_ends_with_the_port() {
        let mut fake = flows();
        let Ok(()) = end_those_to_pods(&mut fake, &[claim(Protocol::Udp, None)]);
        assert_eq!(left(&fake), [1, 2, 4, 5, 6, 7, 8, 9]);
    }
}

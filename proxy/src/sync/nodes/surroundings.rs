//! What of this node's kernel lets pods' packets through, or not, besides routes.
//!
//! In: the node's pod CIDRs and the names of its links. Out: the node forwards; what others have set that may keep packets from pods is said.

use std::{collections::BTreeSet, error::Error};

use dataplane::{forwarding, nft::Socket, sysctl};
use ipnetwork::IpNetwork;
use tracing::info;

use super::said;
use crate::{
    health::{About, Complaint},
    service_port::Family,
};

/// Makes the node forward the families of its pods, and says what is in the way.
pub(super) fn look<'a>(
    pod_cidrs: &[IpNetwork],
    links: impl IntoIterator<Item = &'a str>,
) -> BTreeSet<Complaint> {
    let mut complaints = parameters(pod_cidrs, links);
    complaints.extend(firewalls(Socket::open().and_then(|nft| nft.dropping_forward_chains())));
    complaints
}

/// Complains of chains of other programs that drop forwarded packets, or that nobody knows whether there are such.
fn firewalls<E: Error>(dropping: Result<Vec<String>, E>) -> Vec<Complaint> {
    let of_chain = |chain: &String| {
        About::Firewall.complaint(format!(
            "chain {chain} of another program drops forwarded packets that none of its rules accepts: \
             pods may not be reached from other nodes; accept their addresses in it, or set its policy to accept"
        ))
    };
    match dropping {
        Ok(chains) => chains.iter().map(of_chain).collect(),
        Err(error) => vec![About::Firewall.complaint(format!(
            "whether a chain of another program drops forwarded packets is not known: {}",
            said(&error)
        ))],
    }
}

/// The part of that which kernel parameters say: what [`is_of_parameters`] holds for.
pub(super) fn parameters<'a>(
    pod_cidrs: &[IpNetwork],
    links: impl IntoIterator<Item = &'a str>,
) -> BTreeSet<Complaint> {
    let mut complaints = keep_forwarding(pod_cidrs);
    complaints.extend(strict_filters(links));
    complaints
}

/// Says whether a complaint is of [`parameters`].
pub(super) fn is_of_parameters(complaint: &Complaint) -> bool {
    matches!(complaint.about, About::Forwarding | About::RpFilter)
}

fn keep_forwarding(pod_cidrs: &[IpNetwork]) -> BTreeSet<Complaint> {
    let families: BTreeSet<Family> = pod_cidrs.iter().map(|cidr| Family::of(cidr.ip())).collect();
    let mut complaints = BTreeSet::new();
    for family in families {
        match forwarding::allow(family) {
            Ok(false) => {}
            Ok(true) => info!(parameter = forwarding::parameter(family), "made this node forward"),
            Err(error) => drop(complaints.insert(About::Forwarding.complaint(said(&error)))),
        }
    }
    complaints
}

/// The reverse path filter of IPv4 drops what comes in by another link than the answer would leave by, where it is strict: 1. The greater
/// of a link's own value and that of all holds; our own devices are not looked at, as we set theirs. // kernel ip-sysctl.rst, `rp_filter`
fn strict_filters<'a>(links: impl IntoIterator<Item = &'a str>) -> Option<Complaint> {
    let value =
        |link: &str| sysctl::read(&format!("net/ipv4/conf/{link}/rp_filter")).ok()?.parse::<u32>().ok();
    let of_all = value("all").unwrap_or(0);
    let is_strict = |link: &&str| value(link).is_some_and(|own| own.max(of_all) == 1);
    let strict: Vec<&str> = links.into_iter().filter(is_strict).collect();
    (!strict.is_empty()).then(|| {
        let links = strict.join(", ");
        About::RpFilter.complaint(format!(
            "rp_filter is strict (1) on {links}: what comes in by another link than its answer leaves by is dropped; \
             where nodes have several links, or tunnels between them, set it to 2 (loose)"
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn that_nobody_knows_whether_a_chain_drops_is_said_and_not_taken_for_none() {
        assert_eq!(firewalls::<io::Error>(Ok(Vec::new())), []);

        let said = firewalls(Err(io::Error::from(io::ErrorKind::PermissionDenied)));

        assert_eq!(said.len(), 1);
        assert!(said[0].said.ends_with("is not known: permission denied"), "{said:?}");
    }
}

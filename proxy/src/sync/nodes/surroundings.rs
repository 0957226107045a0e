//! What of this node's kernel lets pods' packets through, or not, besides routes.
//!
//! In: the node's pod CIDRs and links. Out: the node forwards; what others have set that may keep packets from pods is said.

use std::collections::BTreeSet;

use dataplane::{forwarding, nft::Socket, rtnl::Link, sysctl};
use ipnetwork::IpNetwork;
use tracing::info;

use super::{is_tunnel, said};
use crate::service_port::Family;

/// Makes the node forward the families of its pods, and says what is in the way.
pub(super) fn look(pod_cidrs: &[IpNetwork], links: &[Link]) -> BTreeSet<String> {
    let mut complaints = keep_forwarding(pod_cidrs);
    complaints.extend(strict_filters(links));
    // Where there is no nftables, the daemon does not come as far as this.
    let dropping = Socket::open().and_then(|nft| nft.dropping_forward_chains()).unwrap_or_default();
    complaints.extend(dropping.iter().map(|chain| {
        format!(
            "chain {chain} of another program drops forwarded packets that none of its rules accepts: \
             pods may not be reached from other nodes; accept their addresses in it, or set its policy to accept"
        )
    }));
    complaints
}

/// Makes the node forward the families of its pods, and says where it does not.
pub(super) fn keep_forwarding<'a>(pod_cidrs: impl IntoIterator<Item = &'a IpNetwork>) -> BTreeSet<String> {
    let families: BTreeSet<Family> = pod_cidrs.into_iter().map(|cidr| Family::of(cidr.ip())).collect();
    let mut complaints = BTreeSet::new();
    for family in families {
        match forwarding::allow(family) {
            Ok(false) => {}
            Ok(true) => info!(parameter = forwarding::parameter(family), "made this node forward"),
            Err(error) => drop(complaints.insert(said(&error))),
        }
    }
    complaints
}

/// The reverse path filter of IPv4 drops what comes in by another link than the answer would leave by, where it is strict: 1. The greater
/// of a link's own value and that of all holds; our own devices are not looked at, as we set theirs. // kernel ip-sysctl.rst, `rp_filter`
fn strict_filters(links: &[Link]) -> Option<String> {
    let value =
        |link: &str| sysctl::read(&format!("net/ipv4/conf/{link}/rp_filter")).ok()?.parse::<u32>().ok();
    let of_all = value("all").unwrap_or(0);
    let is_strict = |link: &&Link| value(&link.name).is_some_and(|own| own.max(of_all) == 1);
    let ways_out = links.iter().filter(|link| link.index != dataplane::rtnl::LOOPBACK);
    let ways_out = ways_out.filter(|link| !is_tunnel(link) && !dataplane::owner::is_host_end(&link.name));
    let strict: Vec<&str> = ways_out.filter(is_strict).map(|link| link.name.as_str()).collect();
    (!strict.is_empty()).then(|| {
        let links = strict.join(", ");
        format!(
            "rp_filter is strict (1) on {links}: what comes in by another link than its answer leaves by is dropped; \
             where nodes have several links, or tunnels between them, set it to 2 (loose)"
        )
    })
}

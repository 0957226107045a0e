//! The ends of tunnels, and what leads to them. Pure.
//!
//! In: addresses of nodes. Out: what each node can work out of every other by itself, so that nobody has to announce anything: the
//! hardware address of its end and the gateways that its pods are behind; and our own device.

use std::net::{IpAddr, Ipv6Addr};

use dataplane::{
    hash, owner,
    rtnl::{Address, Mac, Tunnel, Vxlan},
};
use ipnetwork::IpNetwork;

use crate::{config::Overlay, service_port::Family};

/// The largest packet where nothing is known of the node's links.
pub const ETHERNET_MTU: u32 = 1500;

/// What a tunnel puts before a packet: Ethernet, VXLAN and UDP headers, and an IP header of its own family. // RFC 7348 §5
pub fn overhead(family: Family) -> u32 {
    let ip = match family {
        Family::Ip => 20,
        Family::Ip6 => 40,
    };
    14 + 8 + 8 + ip
}

/// The hardware address of the end of a tunnel: of an IPv4 address all of it, behind `02:46`; of an IPv6 address a hash.
pub fn mac(end: IpAddr) -> Mac {
    match end {
        IpAddr::V4(end) => {
            let [a, b, c, d] = end.octets();
            Mac([0x02, 0x46, a, b, c, d]) // 0x46 is 70, our mark
        }
        IpAddr::V6(end) => Mac::locally_administered(hash::stable(end.octets())),
    }
}

/// Whom a route to pods behind the end of a tunnel, or to a node's own address, goes through.
///
/// * IPv6: the address that the other end gives itself by its hardware address. The kernel takes no other gateway whose own route
///   leads elsewhere, and asks nothing of link-local ones. // kernel net/ipv6/route.c `ip6_validate_gw`
/// * IPv4: the address of the tunnel's other end, or, where that is an IPv6 one, the first of the pod CIDR, or the node's itself.
pub fn gateway(destination: IpNetwork, remote: IpAddr) -> IpAddr {
    match (destination, remote) {
        (IpNetwork::V6(_), _) => link_local(mac(remote)).into(),
        (IpNetwork::V4(_), IpAddr::V4(_)) => remote,
        (IpNetwork::V4(destination), IpAddr::V6(_)) => destination.network().into(),
    }
}

/// The link-local address that the kernel makes of a hardware address. // RFC 4291, appendix A
fn link_local(Mac([first, high @ .., low0, low1, low2]): Mac) -> Ipv6Addr {
    let [high0, high1] = high;
    let host = [first ^ 0b10, high0, high1, 0xff, 0xfe, low0, low1, low2];
    Ipv6Addr::from_bits((0xfe80 << 112) | u128::from(u64::from_be_bytes(host)))
}

/// The name of our device for tunnels of a family.
pub fn name(family: Family) -> &'static str {
    let [v4, v6] = owner::TUNNELS;
    match family {
        Family::Ip => v4,
        Family::Ip6 => v6,
    }
}

/// Our device for tunnels that begin at `end`, over links that take packets of `mtu`.
pub fn device(overlay: Overlay, end: IpAddr, mtu: u32) -> Vxlan {
    let family = Family::of(end);
    Vxlan {
        name: name(family).to_owned(),
        mac: mac(end),
        mtu: mtu.saturating_sub(overhead(family)),
        tunnel: Tunnel { vni: overlay.vni, port: overlay.port, local: end, is_learning: false },
    }
}

/// The addresses of our device: the first of each of our pod CIDRs, which no pod has. What this node itself sends over the device
/// comes from there, and so the answer comes back by the device.
pub fn addresses(pod_cidrs: &[IpNetwork], device: u32) -> Vec<Address> {
    let first = pod_cidrs.iter().map(|cidr| IpNetwork::from(cidr.network()));
    first.map(|address| Address::bare(device, address)).collect()
}

//! On which addresses of the node to listen, by `--nodeport-addresses`. Pure.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use dataplane::rtnl::Address;

use crate::{config::NodePortAddresses, service_port::Family};

/// The addresses to listen on, with port 0: one for all of a family that is not restricted, else those that the node has and that
/// are chosen. `internal` are the addresses of its Node object.
pub fn chosen(
    choice: &NodePortAddresses,
    families: &[Family],
    internal: &[IpAddr],
    addresses: &[Address],
) -> BTreeSet<SocketAddr> {
    let mut chosen = BTreeSet::new();
    for &family in families {
        match choice.networks(family, internal) {
            None => {
                chosen.insert(SocketAddr::new(unspecified(family), 0));
            }
            Some(networks) => {
                let of_node = addresses
                    .iter()
                    .filter(|address| networks.iter().any(|network| network.contains(address.network.ip())));
                chosen.extend(of_node.map(place));
            }
        }
    }
    chosen
}

/// Says whether the addresses that the node has make a difference.
pub fn are_restricted(choice: &NodePortAddresses) -> bool {
    *choice != NodePortAddresses::All
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::Ip => Ipv4Addr::UNSPECIFIED.into(),
        Family::Ip6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Many links may have the same link-local address: the link is part of it.
fn place(address: &Address) -> SocketAddr {
    match address.network.ip() {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, 0, 0, address.link).into(),
        ip => SocketAddr::new(ip, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(choice: &NodePortAddresses, expected: &[&str]) {
        let addresses =
            ["127.0.0.1/8", "192.168.14.50/24", "10.9.0.1/16", "::1/128", "fd00:14::50/64", "fe80::1/64"];
        let addresses = addresses.map(|address| Address::bare(7, address.parse().unwrap()));
        let internal = ["192.168.14.50".parse().unwrap(), "10.9.0.1".parse().unwrap()];
        let chosen = chosen(choice, &Family::ALL, &internal, &addresses);
        assert_eq!(chosen.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{choice:?}");
    }

    fn cidrs(cidrs: &[&str]) -> NodePortAddresses {
        NodePortAddresses::Cidrs(cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect())
    }

    #[test]
    fn without_a_choice_all_addresses_of_both_families_are_listened_on() {
        check(&NodePortAddresses::All, &["0.0.0.0:0", "[::]:0"]);
        check(&cidrs(&["0.0.0.0/0", "::/0"]), &["0.0.0.0:0", "[::]:0"]);
    }

    #[test]
    fn networks_choose_among_the_addresses_that_the_node_has() {
        check(&cidrs(&["192.168.0.0/16", "fd00::/16"]), &["192.168.14.50:0", "[fd00:14::50]:0"]);
        check(&cidrs(&["172.16.0.0/12", "::1/128"]), &["[::1]:0"]);
    }

    #[test]
    fn a_family_that_no_network_names_is_not_restricted() {
        check(&cidrs(&["10.0.0.0/8"]), &["10.9.0.1:0", "[::]:0"]);
    }

    #[test]
    fn primary_is_the_first_internal_address_of_each_family() {
        check(&NodePortAddresses::Primary, &["192.168.14.50:0"]);
    }

    #[test]
    fn a_link_local_address_is_listened_on_on_its_link() {
        check(&cidrs(&["10.0.0.0/8", "fe80::/10"]), &["10.9.0.1:0", "[fe80::1%7]:0"]);
    }
}

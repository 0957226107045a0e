//! Routes of the main table that lead out of this machine, whoever made them.

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags},
};

use super::{Kernel, routes::route_of};
use crate::rtnl::{Error, Route};

impl Kernel {
    /// Lists the unicast routes of the main table that others have made and packets can take now: where one goes over several links,
    /// one for each of them.
    pub async fn ways_out(&self) -> Result<Vec<Route>, Error> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            let request = RouteNetlinkMessage::GetRoute(message);
            match self.list(request, "routes of the main table", |message| Some(each(message))).await {
                Ok(found) => routes.extend(found.into_iter().flatten().filter(|route| !route.is_ours())),
                Err(error) if error.is_not_found() => {} // nobody has ever made a route in this namespace
                Err(error) => return Err(error),
            }
        }
        Ok(routes)
    }
}

/// What a message says of each link that its route goes over, but for those that it cannot go over now.
fn each(message: RouteNetlinkMessage) -> Vec<Route> {
    let RouteNetlinkMessage::NewRoute(mut message) = message else { return Vec::new() };
    if message.header.flags.contains(RouteFlags::Dead) {
        return Vec::new();
    }
    let mut hops: Vec<RouteNextHop> = Vec::new();
    message.attributes.retain_mut(|attribute| match attribute {
        RouteAttribute::MultiPath(several) => {
            hops.append(several);
            false
        }
        _ => true,
    });
    if hops.is_empty() {
        return route_of(RouteNetlinkMessage::NewRoute(message)).into_iter().collect();
    }
    let usable = hops.into_iter().filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead));
    let over = |hop: RouteNextHop| {
        let mut one = message.clone();
        one.attributes.extend(hop.attributes);
        one.attributes.push(RouteAttribute::Oif(hop.interface_index));
        route_of(RouteNetlinkMessage::NewRoute(one))
    };
    usable.filter_map(over).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use netlink_packet_route::route::{RouteAddress, RouteType};

    use super::*;

    fn hop(link: u32, flags: RouteNextHopFlags) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        (hop.interface_index, hop.flags) = (link, flags);
        let gateway = RouteAddress::Inet(Ipv4Addr::new(192, 168, 14, 1));
        hop.attributes.push(RouteAttribute::Gateway(gateway));
        hop
    }

    fn default_route(flags: RouteFlags, attribute: RouteAttribute) -> RouteNetlinkMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.flags = flags;
        message.attributes.push(attribute);
        RouteNetlinkMessage::NewRoute(message)
    }

    #[test]
    fn a_route_over_several_links_is_one_for_each_that_it_can_go_over() {
        let hops = vec![
            hop(2, RouteNextHopFlags::empty()),
            hop(3, RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown),
            hop(4, RouteNextHopFlags::empty()),
        ];

        let routes = each(default_route(RouteFlags::empty(), RouteAttribute::MultiPath(hops)));

        let lines: Vec<_> = routes.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            ["0.0.0.0/0 via 192.168.14.1 dev 2 proto 0", "0.0.0.0/0 via 192.168.14.1 dev 4 proto 0"]
        );
    }

    #[test]
    fn a_route_that_no_packet_takes_is_none() {
        let over = || RouteAttribute::Oif(2);

        assert_eq!(each(default_route(RouteFlags::empty(), over())).len(), 1);
        assert_eq!(each(default_route(RouteFlags::Dead, over())), []);
    }
}

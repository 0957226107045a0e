//! Routes of the main table and of ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
        RouteScope, RouteType,
    },
};
use nix::errno::Errno;

use super::{CREATE, Kernel, REPLACE};
use crate::rtnl::{Error, Operation, Route, Routes, Scope, Table, route::DEFAULT_METRIC_V6};

impl Routes for Kernel {
    async fn routes(&self, protocol: u8) -> Result<Vec<Route>, Error> {
        let mut routes = Vec::new();
        // Strict lists are per family.
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.protocol = RouteProtocol::from(protocol);
            let request = RouteNetlinkMessage::GetRoute(message);
            let object = format!("routes of protocol {protocol}");
            routes.extend(self.list(request, &object, route_of).await?);
        }
        routes.retain(|route| route.protocol == protocol);
        Ok(routes)
    }

    async fn add_route(&self, route: &Route) -> Result<(), Error> {
        self.change_route(RouteNetlinkMessage::NewRoute(message_of(route)), CREATE, Operation::Add, route)
            .await
    }

    async fn replace_route(&self, route: &Route) -> Result<(), Error> {
        let request = RouteNetlinkMessage::NewRoute(message_of(route));
        self.change_route(request, REPLACE, Operation::Replace, route).await
    }

    async fn delete_route(&self, route: &Route) -> Result<(), Error> {
        self.change_route(RouteNetlinkMessage::DelRoute(message_of(route)), 0, Operation::Delete, route).await
    }
}

impl Kernel {
    async fn change_route(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
        operation: Operation,
        route: &Route,
    ) -> Result<(), Error> {
        let object = format!("route {route}");
        if route.destination.ip() != route.destination.network() {
            // IPv4 says so itself; IPv6 would silently keep another route than the one asked for.
            return Err(Error::refused(operation, &object, Errno::EINVAL));
        }
        self.change(request, flags, operation, &object).await
    }
}

fn message_of(route: &Route) -> RouteMessage {
    let is_ipv4 = route.destination.is_ipv4();
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: if is_ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 },
        destination_prefix_length: route.destination.prefix(),
        // The field is too small for all of them.
        table: RouteHeader::RT_TABLE_UNSPEC,
        protocol: RouteProtocol::from(route.protocol),
        scope: match route.scope {
            Scope::Universe => RouteScope::Universe,
            Scope::Link => RouteScope::Link,
            Scope::Host => RouteScope::Host,
        },
        kind: RouteType::Unicast,
        flags: if route.onlink { RouteFlags::Onlink } else { RouteFlags::empty() },
        ..RouteHeader::default()
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table.number()));
    attributes.push(RouteAttribute::Oif(route.link));
    if route.destination.prefix() > 0 {
        attributes.push(RouteAttribute::Destination(route.destination.ip().into()));
    }
    attributes.extend(route.gateway.map(|ip| RouteAttribute::Gateway(ip.into())));
    attributes.extend(route.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
    // Without a metric, IPv6 would delete the route of any.
    let metric = if is_ipv4 { route.metric } else { route.metric.or(Some(DEFAULT_METRIC_V6)) };
    attributes.extend(metric.map(RouteAttribute::Priority));
    attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    message
}

pub(super) fn route_of(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(RouteMessage { header, attributes, .. }) = message else { return None };
    let (is_ipv4, any): (bool, IpAddr) = match header.address_family {
        AddressFamily::Inet => (true, Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => (false, Ipv6Addr::UNSPECIFIED.into()),
        _ => return None,
    };
    if header.kind != RouteType::Unicast {
        return None;
    }
    let mut destination = any;
    let (mut table, mut link) = (Table::of(header.table.into()), None);
    let (mut gateway, mut source, mut metric, mut mtu) = (None, None, None, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Table(number) => table = Table::of(number),
            RouteAttribute::Destination(address) => destination = ip_of(&address)?,
            RouteAttribute::Gateway(address) => gateway = ip_of(&address),
            RouteAttribute::PrefSource(address) => source = ip_of(&address),
            RouteAttribute::Oif(index) => link = Some(index),
            RouteAttribute::Priority(value) if is_ipv4 || value != DEFAULT_METRIC_V6 => metric = Some(value),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.into_iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(Route {
        table: table?,
        destination: IpNetwork::new(destination, header.destination_prefix_length).ok()?,
        metric,
        gateway,
        link: link?, // a route over several links is not one of ours
        onlink: header.flags.contains(RouteFlags::Onlink),
        source,
        mtu,
        scope: match header.scope {
            RouteScope::Link => Scope::Link,
            RouteScope::Host => Scope::Host,
            _ => Scope::Universe,
        },
        protocol: header.protocol.into(),
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

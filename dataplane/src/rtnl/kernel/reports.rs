//! Notifications, read.

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::{
    addresses::address_of, links::link_of, neighbours::neighbour_of, routes::route_of, rules::rule_of,
    tunnels::forwarding_of,
};
use crate::rtnl::Report;

/// Message of rtnetlink.h that the netlink crates do not know.
const RTM_NEWNETCONF: u16 = 80;

/// What a notification says; nothing where it concerns nobody here.
pub(in crate::rtnl) fn report_of(kind: u16, message: &[u8]) -> Option<Report> {
    if kind == RTM_NEWNETCONF {
        return Some(Report::Parameter);
    }
    let message = NetlinkMessage::<Message>::deserialize(message).ok()?;
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    match message {
        // A bridge tells of its ports with its own family.
        Message::NewLink(link) if link.header.interface_family == AddressFamily::Unspec => {
            link_of(Message::NewLink(link)).map(|link| Report::Link(Box::new(link)))
        }
        Message::DelLink(link) if link.header.interface_family == AddressFamily::Unspec => {
            Some(Report::LinkGone(link.header.index))
        }
        Message::NewAddress(address) => address_of(Message::NewAddress(address)).map(Report::Address),
        Message::DelAddress(address) => address_of(Message::NewAddress(address)).map(Report::AddressGone),
        Message::NewRoute(route) => route_of(Message::NewRoute(route)).map(Report::Route),
        Message::DelRoute(route) => route_of(Message::NewRoute(route)).map(Report::RouteGone),
        Message::NewRule(rule) => rule_of(Message::NewRule(rule)).map(Report::Rule),
        Message::DelRule(rule) => rule_of(Message::NewRule(rule)).map(Report::RuleGone),
        Message::NewNeighbour(entry) if entry.header.family == AddressFamily::Bridge => {
            forwarding_of(entry).map(Report::Forwarding)
        }
        Message::DelNeighbour(entry) if entry.header.family == AddressFamily::Bridge => {
            forwarding_of(entry).map(Report::ForwardingGone)
        }
        Message::NewNeighbour(entry) => neighbour_of(Message::NewNeighbour(entry)).map(Report::Neighbour),
        Message::DelNeighbour(entry) => neighbour_of(Message::NewNeighbour(entry)).map(Report::NeighbourGone),
        _ => None,
    }
}

//! Flows and filters as ctnetlink messages. Numbers are those of `uapi/linux/netfilter/nfnetlink_conntrack.h`.

use std::net::{IpAddr, SocketAddr};

use super::{Filter, Flow, Tuple};
use crate::{
    nfnetlink::{
        ACK, DUMP, REQUEST,
        message::{Attributes, Writer},
    },
    packet::{Family, Protocol},
};

/// `NFNL_SUBSYS_CTNETLINK` and the kinds of message in it.
const fn kind(number: u16) -> u16 {
    1 << 8 | number
}

/// A flow, as a list names it.
pub(super) const NEW: u16 = kind(0);
const GET: u16 = kind(1);
const DELETE: u16 = kind(2);

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const STATUS_MASK: u16 = 26;

/// Inside a tuple.
const ADDRESSES: u16 = 1;
const PROTOCOL: u16 = 2;
const TUPLE_ZONE: u16 = 3;

/// Inside a tuple's protocol.
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// Inside a filter: which fields of the original tuple count, by these bits (`nf_internals.h`).
const BY_ORIGINAL: u16 = 1;
const BY_DESTINATION: u32 = 1 << 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

/// Something was answered (`IPS_SEEN_REPLY`).
const SEEN_REPLY: u32 = 1 << 1;

/// The request for all flows that a filter lets through, and perhaps more: what the kernel does not (rightly) compare is left to
/// [`Filter::lets_through`]. Kernels before 5.8 know no filter and before 5.15 none by status, and list more.
pub(super) fn list(filter: &Filter) -> Vec<u8> {
    // Of IPv6 addresses the kernel drops the flows that agree instead of those that do not (`ctnetlink_filter_match_tuple`: `!` before
    // `ipv6_addr_cmp`), in 5.8 as in 6.18. Ports of SCTP it does not compare at all.
    let address = filter.address.filter(|address| address.is_ipv4() && filter.family == Family::Ip);
    let mut fields = BY_PROTOCOL;
    let mut writer = Writer::default();
    let message = writer.open_message(GET, REQUEST | DUMP, 1, number(filter.family), 0);
    let tuple = writer.open(ORIGINAL);
    if let Some(address) = address {
        fields |= BY_DESTINATION;
        let addresses = writer.open(ADDRESSES);
        put_address(&mut writer, false, address);
        writer.close(addresses);
    }
    let protocol = writer.open(PROTOCOL);
    writer.put(NUMBER, &[filter.protocol.number()]);
    if let Some(port) = filter.port {
        fields |= BY_DESTINATION_PORT;
        writer.put(DESTINATION_PORT, &port.to_be_bytes());
    }
    writer.close(protocol);
    writer.close(tuple);
    if filter.unanswered {
        writer.put_u32(STATUS, 0);
        writer.put_u32(STATUS_MASK, SEEN_REPLY);
    }
    let by = writer.open(FILTER);
    writer.put(BY_ORIGINAL, &fields.to_ne_bytes());
    writer.close(by);
    writer.close_message(message);
    writer.bytes().to_vec()
}

/// The request to delete these flows; the sequence number of each is its place, counted from one. Each is named by its reply tuple: a
/// flow that was begun anew meanwhile may lie where the old one lay, and then has its id (`nf_ct_get_id`), but somebody else answers.
pub(super) fn delete(flows: &[Flow]) -> Vec<u8> {
    let mut writer = Writer::default();
    for (flow, sequence) in flows.iter().zip(1..) {
        let family = number(Family::of(flow.reply.source.ip()));
        let message = writer.open_message(DELETE, REQUEST | ACK, sequence, family, 0);
        put_tuple(&mut writer, REPLY, flow.protocol, flow.reply);
        if flow.zone != 0 {
            writer.put(ZONE, &flow.zone.to_be_bytes());
        }
        writer.put_u32(ID, flow.id);
        writer.close_message(message);
    }
    writer.bytes().to_vec()
}

/// Reads a flow; `None` if it is of a protocol without ports.
pub(super) fn flow(attributes: Attributes<'_>) -> Option<Flow> {
    let (protocol, original) = tuple(attributes.inside(ORIGINAL)?)?;
    let (_, reply) = tuple(attributes.inside(REPLY)?)?;
    let zone = attributes.find(ZONE).or_else(|| attributes.inside(REPLY)?.find(TUPLE_ZONE));
    Some(Flow {
        protocol,
        original,
        reply,
        is_answered: attributes.u32(STATUS)? & SEEN_REPLY != 0,
        zone: zone.map_or(Some(0), u16_be)?,
        id: attributes.u32(ID)?,
    })
}

fn tuple(attributes: Attributes<'_>) -> Option<(Protocol, Tuple)> {
    let (addresses, protocol) = (attributes.inside(ADDRESSES)?, attributes.inside(PROTOCOL)?);
    let port = |number| u16_be(protocol.find(number)?);
    let end =
        |is_source, port_number| Some(SocketAddr::new(address(addresses, is_source)?, port(port_number)?));
    let number = *protocol.find(NUMBER)?.first()?;
    let tuple = Tuple { source: end(true, SOURCE_PORT)?, destination: end(false, DESTINATION_PORT)? };
    Some((Protocol::from_number(number)?, tuple))
}

fn put_tuple(writer: &mut Writer, direction: u16, protocol: Protocol, tuple: Tuple) {
    let open = writer.open(direction);
    let addresses = writer.open(ADDRESSES);
    put_address(writer, true, tuple.source.ip());
    put_address(writer, false, tuple.destination.ip());
    writer.close(addresses);
    let ports = writer.open(PROTOCOL);
    writer.put(NUMBER, &[protocol.number()]);
    writer.put(SOURCE_PORT, &tuple.source.port().to_be_bytes());
    writer.put(DESTINATION_PORT, &tuple.destination.port().to_be_bytes());
    writer.close(ports);
    writer.close(open);
}

/// Sources are numbered 1 (IPv4) and 3 (IPv6), destinations one higher.
const fn address_number(is_source: bool, is_ipv6: bool) -> u16 {
    1 + !is_source as u16 + 2 * is_ipv6 as u16
}

fn put_address(writer: &mut Writer, is_source: bool, address: IpAddr) {
    let number = address_number(is_source, address.is_ipv6());
    match address {
        IpAddr::V4(address) => writer.put(number, &address.octets()),
        IpAddr::V6(address) => writer.put(number, &address.octets()),
    }
}

fn address(addresses: Attributes<'_>, is_source: bool) -> Option<IpAddr> {
    if let Some(bytes) = addresses.find(address_number(is_source, false)) {
        return <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    }
    <[u8; 16]>::try_from(addresses.find(address_number(is_source, true))?).ok().map(IpAddr::from)
}

/// `AF_INET` and `AF_INET6`.
const fn number(family: Family) -> u8 {
    match family {
        Family::Ip => 2,
        Family::Ip6 => 10,
    }
}

fn u16_be(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_be_bytes)
}

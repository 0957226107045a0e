//! Maps and their elements as attributes.

use std::net::{IpAddr, SocketAddr};

use super::super::{
    message::Writer,
    table::{Data, DataType, Element, Key, KeyType, SetType, Verdict},
};
use crate::packet::{Family, Protocol};

/// Set flags.
pub(in super::super) const ANONYMOUS: u32 = 1;
pub(in super::super) const INTERVAL: u32 = 4;
const MAP: u32 = 8;
pub(in super::super) const TIMEOUT: u32 = 0x10;
const EVALUATED: u32 = 0x20;
const CONCATENATED: u32 = 0x80;

/// Data type of verdicts; the other type numbers are nft's own (libnftables, include/datatype.h).
const VERDICT_TYPE: u32 = 0xffff_ff00;
const PROTOCOL_TYPE: u32 = 12;
const PORT_TYPE: u32 = 13;
const CLASSID_TYPE: u32 = 23;

/// Type of the part of an element's userdata that holds its comment.
pub(in super::super) const COMMENT: u8 = 0;

/// nft's number for the type of a key, and the bytes of one.
pub(in super::super) fn key_type(family: Family, key: KeyType) -> (u32, u32) {
    let (address, length) = address_type(family);
    match key {
        KeyType::Service => (concatenated(&[address, PROTOCOL_TYPE, PORT_TYPE]), length + 8),
        KeyType::Port => (concatenated(&[PROTOCOL_TYPE, PORT_TYPE]), 8),
        KeyType::Number => (CLASSID_TYPE, 4),
        KeyType::Address => (address, length),
        KeyType::Addresses | KeyType::Towards => (concatenated(&[address, address]), 2 * length),
        KeyType::Client => (concatenated(&[address, CLASSID_TYPE]), length + 4),
    }
}

/// nft's number for the type of data, and the bytes of one; a set has none.
pub(in super::super) fn data_type(family: Family, data: DataType) -> Option<(u32, u32)> {
    let (address, length) = address_type(family);
    match data {
        DataType::None => None,
        DataType::Number => Some((CLASSID_TYPE, 4)),
        DataType::Endpoint => Some((concatenated(&[address, PORT_TYPE]), length + 4)),
        DataType::Verdict => Some((VERDICT_TYPE, 0)),
    }
}

fn address_type(family: Family) -> (u32, u32) {
    match family {
        Family::Ip => (7, 4),
        Family::Ip6 => (8, 16),
    }
}

fn concatenated(types: &[u32]) -> u32 {
    types.iter().fold(0, |all, kind| all << 6 | kind)
}

/// Writes what a map is made of.
pub(super) fn put_set(w: &mut Writer, family: Family, kind: SetType, id: u32) {
    let (key_type, key_length) = key_type(family, kind.key);
    let data = data_type(family, kind.data);
    let dynamic = if kind.dynamic.is_some() { TIMEOUT | EVALUATED } else { 0 };
    let intervals = if kind.key == KeyType::Towards { INTERVAL | CONCATENATED } else { 0 };
    w.put_u32(3, dynamic | intervals | if data.is_some() { MAP } else { 0 });
    w.put_u32(4, key_type);
    w.put_u32(5, key_length);
    if let Some((data_type, length)) = data {
        w.put_u32(6, data_type);
        w.put_u32(7, length);
    }
    if let Some(size) = kind.dynamic {
        let open = w.open(9);
        w.put_u32(1, size);
        w.close(open);
    }
    if kind.key == KeyType::Towards {
        put_fields(w, key_length / 2);
    }
    w.put_u32(10, id);
    // How nft shall print numbers: TLVs "key byte order" and "data byte order", both of the host (libnftnl udata.h).
    let host_order = 1_u32.to_ne_bytes();
    let mut userdata = Vec::new();
    if kind.key == KeyType::Number {
        userdata.extend_from_slice(&[0, 4]);
        userdata.extend_from_slice(&host_order);
    }
    if kind.data == DataType::Number {
        userdata.extend_from_slice(&[1, 4]);
        userdata.extend_from_slice(&host_order);
    }
    if !userdata.is_empty() {
        w.put(13, &userdata);
    }
    if kind.counter {
        put_counter(w, 17);
    }
}

/// Tells of what a key is made that stands for many: two fields of that length.
fn put_fields(w: &mut Writer, length: u32) {
    let description = w.open(9);
    let fields = w.open(2);
    for _ in 0..2 {
        let field = w.open(1);
        w.put_u32(1, length);
        w.close(field);
    }
    w.close(fields);
    w.close(description);
}

fn put_counter(w: &mut Writer, number: u16) {
    let open = w.open(number);
    w.put_name(1, "counter");
    w.close(open);
}

/// Writes one element: its key and, when it is added, what it holds.
pub(super) fn put_element(w: &mut Writer, kind: SetType, key: &Key, element: Option<&Element>) {
    let open = w.open(1);
    put_key(w, kind.key, &key_bytes(key));
    if let Some(element) = element {
        match &element.data {
            Data::None => {}
            Data::Verdict(verdict) => {
                let nest = w.open(2);
                put_verdict(w, verdict);
                w.close(nest);
            }
            Data::Number(number) => put_value(w, 2, &number.to_ne_bytes()),
            Data::Endpoint(endpoint) => put_value(w, 2, &endpoint_bytes(*endpoint)),
        }
        if let Some(comment) = &element.comment {
            put_comment(w, comment);
        }
        if kind.counter {
            put_counter(w, 7);
        }
    }
    w.close(open);
}

/// Writes a key from its bytes.
pub(in super::super) fn put_key(w: &mut Writer, kind: KeyType, bytes: &[u8]) {
    let (first, last) = match kind {
        KeyType::Towards => bytes.split_at(bytes.len() / 2),
        _ => (bytes, [].as_slice()),
    };
    put_value(w, 1, first);
    if !last.is_empty() {
        put_value(w, 10, last);
    }
}

/// `NFTA_DATA_VALUE` inside an attribute.
pub(super) fn put_value(w: &mut Writer, number: u16, value: &[u8]) {
    let nest = w.open(number);
    w.put(1, value);
    w.close(nest);
}

/// `NFTA_DATA_VERDICT`.
pub(super) fn put_verdict(w: &mut Writer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0_i32, None),
        Verdict::Return => (-5, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    let nest = w.open(2);
    w.put(1, &code.to_be_bytes());
    if let Some(chain) = chain {
        w.put_name(2, chain);
    }
    w.close(nest);
}

/// Writes a comment as TLV; [`Element::with_comment`] sees to its length.
fn put_comment(w: &mut Writer, comment: &str) {
    let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    w.put_parts(6, &[&[COMMENT, length], comment.as_bytes(), &[0]]);
}

/// A key as the kernel holds it; of one that stands for many, the first and then the last of them.
pub(in super::super) fn key_bytes(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    match key {
        Key::Service(address, protocol, port) => {
            push_address(&mut bytes, *address);
            push_protocol(&mut bytes, *protocol);
            push_port(&mut bytes, *port);
        }
        Key::Port(protocol, port) => {
            push_protocol(&mut bytes, *protocol);
            push_port(&mut bytes, *port);
        }
        Key::Number(number) => bytes.extend_from_slice(&number.to_ne_bytes()),
        Key::Address(address) => push_address(&mut bytes, *address),
        Key::Addresses(source, destination) => {
            push_address(&mut bytes, *source);
            push_address(&mut bytes, *destination);
        }
        Key::Towards(source, network) => {
            for end in [network.network(), network.broadcast()] {
                push_address(&mut bytes, *source);
                push_address(&mut bytes, end);
            }
        }
        Key::Client(address, number) => {
            push_address(&mut bytes, *address);
            bytes.extend_from_slice(&number.to_ne_bytes());
        }
    }
    bytes
}

fn endpoint_bytes(endpoint: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20);
    push_address(&mut bytes, endpoint.ip());
    push_port(&mut bytes, endpoint.port());
    bytes
}

fn push_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
    }
}

fn push_protocol(bytes: &mut Vec<u8>, protocol: Protocol) {
    bytes.extend_from_slice(&[protocol.number(), 0, 0, 0]);
}

fn push_port(bytes: &mut Vec<u8>, port: u16) {
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
}

//! Kernel messages as values: the other way round than [`super::encode`], for chains, rules, maps and elements.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnetwork::IpNetwork;

use super::{
    encode::{self, COMMENT, FINGERPRINT},
    held::{Fingerprint, Held, HeldChain},
    message::{Attributes, u32_ne},
    table::{Data, DataType, Element, Hook, Key, KeyType, Map, SetType, Verdict},
};
use crate::packet::{Family, Protocol};

/// Adds a chain that the kernel told of.
pub(super) fn chain(held: &mut Held, attributes: Attributes<'_>) -> Option<()> {
    let name = attributes.name(3)?.to_owned();
    let is_open = attributes.u32(5) == Some(encode::ACCEPT);
    let hook = attributes.inside(4).filter(|_| is_open).and_then(|hook| {
        let place = (attributes.name(7)?, hook.u32(1)?, hook.u32(2)?.cast_signed());
        Hook::ALL.into_iter().find(|hook| encode::place(*hook) == place)
    });
    held.chains.insert(name.into(), HeldChain { hook, rules: Vec::new() });
    Some(())
}

/// Adds a rule that the kernel told of, as the last of its chain.
pub(super) fn rule(held: &mut Held, attributes: Attributes<'_>) -> Option<()> {
    let chain = held.chains.get_mut(attributes.name(2)?)?;
    let own = attributes.find(7).and_then(|userdata| tlv(userdata, FINGERPRINT));
    let own = own.and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
    chain.rules.push(own.map_or(Fingerprint::FOREIGN, Fingerprint));
    Some(())
}

/// Adds a map that the kernel told of. A set without a name of its own belongs to somebody's rule, and goes with it.
pub(super) fn map(held: &mut Held, attributes: Attributes<'_>) -> Option<()> {
    if attributes.u32(3).unwrap_or(0) & encode::ANONYMOUS != 0 {
        return None;
    }
    let name = attributes.name(2)?.to_owned();
    match set_type(held.family, attributes) {
        Some(kind) => drop(held.maps.insert(name.into(), Map::new(kind))),
        None => drop(held.foreign_maps.insert(name.into())),
    }
    Some(())
}

fn set_type(family: Family, attributes: Attributes<'_>) -> Option<SetType> {
    let (key_number, data_number) = (attributes.u32(4)?, attributes.u32(6));
    let flags = attributes.u32(3).unwrap_or(0);
    let is_key = |key: &KeyType| {
        let has_intervals = *key == KeyType::Towards;
        encode::key_type(family, *key).0 == key_number && (flags & encode::INTERVAL != 0) == has_intervals
    };
    let key = KeyType::ALL.into_iter().find(is_key)?;
    let is_data = |data: &DataType| encode::data_type(family, *data).map(|(number, _)| number) == data_number;
    let data = DataType::ALL.into_iter().find(is_data)?;
    let is_dynamic = flags & encode::TIMEOUT != 0;
    let size = attributes.inside(9).and_then(|description| description.u32(1));
    Some(SetType {
        key,
        data,
        counter: attributes.inside(17).is_some() || attributes.inside(18).is_some(),
        dynamic: is_dynamic.then(|| size.unwrap_or(0)),
    })
}

/// Adds the elements of one message to a map. False: one of them is of no kind of ours, so somebody else's.
pub(super) fn elements(family: Family, map: &mut Map, attributes: Attributes<'_>) -> bool {
    let mut are_ours = true;
    for (_, attributes) in attributes.inside(3).into_iter().flatten() {
        match element(family, map.kind, Attributes(attributes)) {
            Some((key, element)) => drop(map.elements.insert(key, element)),
            None => are_ours = false,
        }
    }
    are_ours
}

/// One element that the kernel told of, if it is of that kind.
pub(super) fn element(family: Family, kind: SetType, attributes: Attributes<'_>) -> Option<(Key, Element)> {
    let first = attributes.inside(1)?.find(1)?;
    let key = match attributes.inside(10) {
        Some(last) => key(family, kind.key, &[first, last.find(1)?].concat())?,
        None => key(family, kind.key, first)?,
    };
    let data = match kind.data {
        DataType::None => Data::None,
        DataType::Verdict => Data::Verdict(verdict(attributes.inside(2)?.inside(2)?)?),
        DataType::Number => Data::Number(u32_ne(attributes.inside(2)?.find(1)?)),
        DataType::Endpoint => Data::Endpoint(endpoint(family, attributes.inside(2)?.find(1)?)?),
    };
    let comment = attributes.find(6).and_then(|userdata| tlv(userdata, COMMENT));
    let comment = comment.and_then(|bytes| std::str::from_utf8(bytes).ok());
    let comment = comment.map(|text| text.trim_end_matches('\0').into());
    Some((key, Element { data, comment }))
}

fn verdict(attributes: Attributes<'_>) -> Option<Verdict> {
    let chain = || attributes.name(2).map(|name| name.to_owned().into());
    match attributes.u32(1)?.cast_signed() {
        0 => Some(Verdict::Drop),
        -5 => Some(Verdict::Return),
        -3 => chain().map(Verdict::Jump),
        -4 => chain().map(Verdict::Goto),
        _ => None,
    }
}

/// A key from its bytes.
pub(super) fn key(family: Family, kind: KeyType, bytes: &[u8]) -> Option<Key> {
    let width = if family == Family::Ip { 4 } else { 16 };
    let first = || address(bytes.get(..width)?);
    Some(match kind {
        KeyType::Service => {
            Key::Service(first()?, protocol(bytes.get(width..)?)?, port(bytes.get(width + 4..)?)?)
        }
        KeyType::Port => Key::Port(protocol(bytes)?, port(bytes.get(4..)?)?),
        KeyType::Number => Key::Number(u32_ne(bytes)),
        KeyType::Address => Key::Address(first()?),
        KeyType::Addresses => Key::Addresses(first()?, address(bytes.get(width..)?)?),
        KeyType::Towards => {
            let [source, from, last_source, to] =
                [0, 1, 2, 3].map(|place| bytes.get(place * width..(place + 1) * width).and_then(address));
            Key::Towards(source.filter(|source| Some(*source) == last_source)?, network(from?, to?)?)
        }
        KeyType::Client => Key::Client(first()?, u32_ne(bytes.get(width..)?)),
    })
}

fn endpoint(family: Family, bytes: &[u8]) -> Option<SocketAddr> {
    let width = if family == Family::Ip { 4 } else { 16 };
    Some(SocketAddr::new(address(bytes.get(..width)?)?, port(bytes.get(width..)?)?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)));
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)))).ok()
}

/// The network that begins and ends there, if one does.
fn network(first: IpAddr, last: IpAddr) -> Option<IpNetwork> {
    let prefix = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        _ => return None,
    };
    let network = IpNetwork::new(first, u8::try_from(prefix).ok()?).ok()?;
    (network.network() == first && network.broadcast() == last).then_some(network)
}

fn protocol(bytes: &[u8]) -> Option<Protocol> {
    Protocol::from_number(*bytes.first()?)
}

fn port(bytes: &[u8]) -> Option<u16> {
    bytes.get(..2)?.try_into().ok().map(u16::from_be_bytes)
}

/// The value of that type in userdata: type, length, value, and again.
fn tlv(mut userdata: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [kind, length, rest @ ..] = userdata {
        let (value, next) = rest.split_at_checked(usize::from(*length))?;
        if *kind == wanted {
            return Some(value);
        }
        userdata = next;
    }
    None
}

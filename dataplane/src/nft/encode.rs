//! A transaction as nfnetlink bytes: one batch, which the kernel commits whole or not at all.
//!
//! Attribute numbers are those of `include/uapi/linux/netfilter/nf_tables.h`. A value occupies whole 4-byte registers, itself
//! first and zeros after; numbers that rules compute (priority, mark, numgen) are in the machine's own order.

use std::net::{IpAddr, SocketAddr};

use super::{
    held::Fingerprint,
    message::{Open, Writer},
    table::{Data, DataType, Element, Hook, Key, KeyType, Rule, SetType, Verdict},
    transaction::{Change, Transaction},
};
use crate::{
    owner,
    packet::{Family, Protocol},
};

mod rule;

/// `NFNL_SUBSYS_NFTABLES` and the kinds of message in it.
pub(super) const fn kind(number: u16) -> u16 {
    10 << 8 | number
}
pub(super) const NEW_TABLE: u16 = kind(0);
pub(super) const DELETE_TABLE: u16 = kind(2);
pub(super) const NEW_CHAIN: u16 = kind(3);
pub(super) const GET_CHAIN: u16 = kind(4);
pub(super) const DELETE_CHAIN: u16 = kind(5);
pub(super) const NEW_RULE: u16 = kind(6);
pub(super) const GET_RULE: u16 = kind(7);
pub(super) const DELETE_RULE: u16 = kind(8);
pub(super) const NEW_SET: u16 = kind(9);
pub(super) const GET_SET: u16 = kind(10);
pub(super) const DELETE_SET: u16 = kind(11);
pub(super) const NEW_ELEMENTS: u16 = kind(12);
pub(super) const GET_ELEMENTS: u16 = kind(13);
pub(super) const DELETE_ELEMENTS: u16 = kind(14);

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// A nest of elements must stay below 65,535 bytes.
const ELEMENTS_PER_MESSAGE: usize = 60_000;

/// The policy of every base chain of ours.
pub(super) const ACCEPT: u32 = 1;

/// Table flag: the table is there, and the kernel does not look into it.
pub(super) const DORMANT: u32 = 1;

/// Set flags.
pub(super) const ANONYMOUS: u32 = 1;
const MAP: u32 = 8;
pub(super) const TIMEOUT: u32 = 0x10;
const EVALUATED: u32 = 0x20;

/// Data type of verdicts; the other type numbers are nft's own (libnftables, include/datatype.h).
const VERDICT_TYPE: u32 = 0xffff_ff00;
const PROTOCOL_TYPE: u32 = 12;
const PORT_TYPE: u32 = 13;
const CLASSID_TYPE: u32 = 23;

/// Types of the parts of an element's or rule's userdata; nft skips those that it does not know.
pub(super) const COMMENT: u8 = 0;
pub(super) const FINGERPRINT: u8 = 0xf7;

/// A batch, ready to send.
#[derive(Debug)]
pub(super) struct Batch {
    writer: Writer,
    /// Which change each message came from; the first has sequence number 1.
    origins: Vec<Origin>,
    /// The sequence number of the end, whose acknowledgement says that all is committed.
    pub(super) end: u32,
}

/// Where a message came from: a change, and in it the first of the elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) change: usize,
    pub(super) first_element: usize,
    /// Where the message starts.
    start: usize,
}

impl Batch {
    pub(super) fn bytes(&self) -> &[u8] {
        self.writer.bytes()
    }

    /// Where the message of that sequence number came from.
    pub(super) fn origin(&self, sequence: u32) -> Option<Origin> {
        let place = usize::try_from(sequence.checked_sub(1)?).ok()?;
        self.origins.get(place).copied()
    }

    /// Which element, counted from the first of the change, lies `offset` bytes into the message.
    pub(super) fn element_at(&self, origin: Origin, offset: u32) -> Option<usize> {
        const LIST: u16 = 3;
        let message = self.writer.bytes().get(origin.start..)?;
        let offset = usize::try_from(offset).ok()?;
        let mut place = 20; // nlmsghdr and nfgenmsg
        loop {
            let length = usize::from(u16::from_ne_bytes(message.get(place..place + 2)?.try_into().ok()?));
            let number = u16::from_ne_bytes(message.get(place + 2..place + 4)?.try_into().ok()?) & 0x3fff;
            if number == LIST {
                break;
            }
            place += length.next_multiple_of(4);
        }
        place += 4;
        let mut element = origin.first_element;
        loop {
            let length = usize::from(u16::from_ne_bytes(message.get(place..place + 2)?.try_into().ok()?));
            if offset < place + length {
                return (offset >= place).then_some(element);
            }
            place += length.next_multiple_of(4);
            element += 1;
        }
    }
}

/// Encodes a transaction as one batch.
pub(super) fn batch(transaction: &Transaction) -> Batch {
    let mut batch = Batch { writer: Writer::default(), origins: Vec::new(), end: 0 };
    batch.bracket(BATCH_BEGIN, REQUEST, 0);
    for (change, (family, what)) in transaction.changes().iter().enumerate() {
        batch.change(change, *family, what);
    }
    batch.end = batch.next_sequence();
    // Asking for the acknowledgement on the end alone works since Linux 6.10; before, the end answers nothing, and
    // silence after a refusal-free batch means the same (nfnetlink.c, nfnetlink_rcv_batch).
    batch.bracket(BATCH_END, REQUEST | ACK, batch.end);
    batch
}

pub(super) fn family_number(family: Family) -> u8 {
    match family {
        Family::Ip => 2,
        Family::Ip6 => 10,
    }
}

impl Batch {
    fn next_sequence(&self) -> u32 {
        u32::try_from(self.origins.len() + 1).unwrap_or(u32::MAX)
    }

    fn bracket(&mut self, kind: u16, flags: u16, sequence: u32) {
        let open = self.writer.open_message(kind, flags, sequence, 0, 10);
        self.writer.close_message(open);
    }

    /// Opens a message that starts with the table's name.
    fn open(&mut self, change: usize, family: Family, kind: u16, flags: u16) -> Open {
        let sequence = self.next_sequence();
        self.origins.push(Origin { change, first_element: 0, start: self.writer.len() });
        let open = self.writer.open_message(kind, REQUEST | flags, sequence, family_number(family), 0);
        self.writer.put_name(1, owner::TABLE);
        open
    }

    fn change(&mut self, place: usize, family: Family, change: &Change) {
        let open = match change {
            Change::AddElements(map, kind, elements) => {
                return self.elements(
                    place,
                    family,
                    (NEW_ELEMENTS, CREATE),
                    map,
                    elements,
                    |w, (key, element)| {
                        put_element(w, *kind, key, Some(element));
                    },
                );
            }
            Change::DeleteElements(map, kind, keys) => {
                return self.elements(place, family, (DELETE_ELEMENTS, 0), map, keys, |w, key| {
                    put_element(w, *kind, key, None);
                });
            }
            Change::AddTable => {
                let open = self.open(place, family, NEW_TABLE, CREATE);
                self.writer.put_u32(2, 0);
                open
            }
            Change::DeleteTable => self.open(place, family, DELETE_TABLE, 0),
            Change::AddChain(name, hook) => {
                let open = self.open(place, family, NEW_CHAIN, CREATE);
                self.writer.put_name(3, name);
                if let Some(hook) = hook {
                    put_hook(&mut self.writer, *hook);
                }
                open
            }
            Change::FlushChain(name) => {
                let open = self.open(place, family, DELETE_RULE, 0);
                self.writer.put_name(2, name);
                open
            }
            Change::DeleteChain(name) => {
                let open = self.open(place, family, DELETE_CHAIN, 0);
                self.writer.put_name(3, name);
                open
            }
            Change::AddRule(chain, rule) => {
                let open = self.open(place, family, NEW_RULE, CREATE | APPEND);
                self.writer.put_name(2, chain);
                put_rule(&mut self.writer, family, rule);
                open
            }
            Change::AddMap(name, kind) => {
                let id = self.next_sequence();
                let open = self.open(place, family, NEW_SET, CREATE);
                self.writer.put_name(2, name);
                put_set(&mut self.writer, family, *kind, id);
                open
            }
            Change::DeleteMap(name) => {
                let open = self.open(place, family, DELETE_SET, 0);
                self.writer.put_name(2, name);
                open
            }
        };
        self.writer.close_message(open);
    }

    /// Writes elements into as many messages as they need.
    fn elements<T>(
        &mut self,
        place: usize,
        family: Family,
        (kind, flags): (u16, u16),
        map: &str,
        elements: &[T],
        put: impl Fn(&mut Writer, &T),
    ) {
        let mut rest = elements.iter().enumerate().peekable();
        while let Some((first_element, _)) = rest.peek().copied() {
            let message = self.open(place, family, kind, flags);
            if let Some(origin) = self.origins.last_mut() {
                origin.first_element = first_element;
            }
            self.writer.put_name(2, map);
            let list = self.writer.open(3);
            let full = self.writer.len() + ELEMENTS_PER_MESSAGE;
            while self.writer.len() < full
                && let Some((_, element)) = rest.next()
            {
                put(&mut self.writer, element);
            }
            self.writer.close(list);
            self.writer.close_message(message);
        }
    }
}

fn put_hook(w: &mut Writer, hook: Hook) {
    let (number, priority) = match hook {
        Hook::Prerouting => (0, -100_i32),
        Hook::Output => (3, -100),
        Hook::Postrouting => (4, 100),
    };
    let open = w.open(4);
    w.put_u32(1, number);
    w.put(2, &priority.to_be_bytes());
    w.close(open);
    w.put_u32(5, ACCEPT);
    w.put_name(7, "nat");
}

fn put_rule(w: &mut Writer, family: Family, rule: &Rule) {
    let start = w.len();
    rule::put_expressions(w, family, rule);
    let expressions = w.bytes().get(start..).unwrap_or_default();
    let fingerprint = Fingerprint::of_bytes(expressions).0.to_ne_bytes();
    let mut userdata = vec![FINGERPRINT, 8];
    userdata.extend_from_slice(&fingerprint);
    w.put(7, &userdata);
}

/// The fingerprint that a rule of ours carries in the kernel.
pub(super) fn fingerprint(family: Family, rule: &Rule) -> Fingerprint {
    let mut writer = Writer::default();
    rule::put_expressions(&mut writer, family, rule);
    Fingerprint::of_bytes(writer.bytes())
}

/// nft's number for the type of a key, and the bytes of one.
pub(super) fn key_type(family: Family, key: KeyType) -> (u32, u32) {
    let (address, length) = address_type(family);
    match key {
        KeyType::Service => (concatenated(&[address, PROTOCOL_TYPE, PORT_TYPE]), length + 8),
        KeyType::Port => (concatenated(&[PROTOCOL_TYPE, PORT_TYPE]), 8),
        KeyType::Number => (CLASSID_TYPE, 4),
        KeyType::Addresses => (concatenated(&[address, address]), 2 * length),
        KeyType::Client => (concatenated(&[address, CLASSID_TYPE]), length + 4),
    }
}

/// nft's number for the type of data, and the bytes of one; a set has none.
pub(super) fn data_type(family: Family, data: DataType) -> Option<(u32, u32)> {
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

fn put_set(w: &mut Writer, family: Family, kind: SetType, id: u32) {
    let (key_type, key_length) = key_type(family, kind.key);
    let data = data_type(family, kind.data);
    let dynamic = if kind.dynamic.is_some() { TIMEOUT | EVALUATED } else { 0 };
    w.put_u32(3, dynamic | if data.is_some() { MAP } else { 0 });
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

fn put_counter(w: &mut Writer, number: u16) {
    let open = w.open(number);
    w.put_name(1, "counter");
    w.close(open);
}

fn concatenated(types: &[u32]) -> u32 {
    types.iter().fold(0, |all, kind| all << 6 | kind)
}

/// Writes one element: its key and, when it is added, what it holds.
pub(super) fn put_element(w: &mut Writer, kind: SetType, key: &Key, element: Option<&Element>) {
    let open = w.open(1);
    let nest = w.open(1);
    w.put(1, &key_bytes(key));
    w.close(nest);
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

/// `NFTA_DATA_VALUE` inside an attribute.
fn put_value(w: &mut Writer, number: u16, value: &[u8]) {
    let nest = w.open(number);
    w.put(1, value);
    w.close(nest);
}

/// `NFTA_DATA_VERDICT`.
fn put_verdict(w: &mut Writer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Jump(chain) => (-3_i32, Some(chain)),
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

pub(super) fn key_bytes(key: &Key) -> Vec<u8> {
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
        Key::Addresses(source, destination) => {
            push_address(&mut bytes, *source);
            push_address(&mut bytes, *destination);
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

//! A transaction as nfnetlink bytes: one batch, which the kernel commits whole or not at all.
//!
//! Attribute numbers are those of `include/uapi/linux/netfilter/nf_tables.h`. A value occupies whole 4-byte registers, itself
//! first and zeros after; numbers that rules compute (priority, mark, numgen) are in the machine's own order.

use super::{
    held::Fingerprint,
    message::{Open, Writer},
    table::{Hook, Rule},
    transaction::{Change, Transaction},
};
use crate::{
    nfnetlink::{ACK, REQUEST},
    packet::Family,
};

mod map;
mod rule;

pub(super) use map::{ANONYMOUS, COMMENT, INTERVAL, TIMEOUT, data_type, key_bytes, key_type, put_key};

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

pub(super) const BATCH_BEGIN: u16 = 0x10;
pub(super) const BATCH_END: u16 = 0x11;

const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// A nest of elements must stay below 65,535 bytes.
const ELEMENTS_PER_MESSAGE: usize = 60_000;

/// The policy of every base chain of ours.
pub(super) const ACCEPT: u32 = 1;

/// Table flag: the table is there, and the kernel does not look into it.
pub(super) const DORMANT: u32 = 1;

/// Type of the part of a rule's userdata that is ours; nft skips what it does not know.
pub(super) const FINGERPRINT: u8 = 0xf7;

/// A batch, ready to send.
#[derive(Debug)]
pub(super) struct Batch {
    writer: Writer,
    /// The name of the tables that it changes.
    table: &'static str,
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

/// Encodes a transaction on tables of that name as one batch.
pub(super) fn batch(table: &'static str, transaction: &Transaction) -> Batch {
    let mut batch = Batch { writer: Writer::default(), table, origins: Vec::new(), end: 0 };
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

/// The beginning or the end of a batch for nftables.
pub(super) fn put_bracket(writer: &mut Writer, kind: u16, flags: u16, sequence: u32) {
    const SUBSYSTEM: u16 = 10;
    let open = writer.open_message(kind, flags, sequence, 0, SUBSYSTEM);
    writer.close_message(open);
}

impl Batch {
    fn next_sequence(&self) -> u32 {
        u32::try_from(self.origins.len() + 1).unwrap_or(u32::MAX)
    }

    fn bracket(&mut self, kind: u16, flags: u16, sequence: u32) {
        put_bracket(&mut self.writer, kind, flags, sequence);
    }

    /// Opens a message that starts with the table's name.
    fn open(&mut self, change: usize, family: Family, kind: u16, flags: u16) -> Open {
        let sequence = self.next_sequence();
        self.origins.push(Origin { change, first_element: 0, start: self.writer.len() });
        let open = self.writer.open_message(kind, REQUEST | flags, sequence, family_number(family), 0);
        self.writer.put_name(1, self.table);
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
                        map::put_element(w, *kind, key, Some(element));
                    },
                );
            }
            Change::DeleteElements(map, kind, keys) => {
                return self.elements(place, family, (DELETE_ELEMENTS, 0), map, keys, |w, key| {
                    map::put_element(w, *kind, key, None);
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
                map::put_set(&mut self.writer, family, *kind, id);
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

/// The type, hook number and priority of a base chain (`include/uapi/linux/netfilter.h`, `netfilter_ipv4.h`).
pub(super) fn place(hook: Hook) -> (&'static str, u32, i32) {
    match hook {
        Hook::Prerouting => ("nat", 0, -100),
        Hook::Output => ("nat", 3, -100),
        Hook::LatePrerouting => ("nat", 0, -99),
        Hook::LateOutput => ("nat", 3, -99),
        Hook::Postrouting => ("nat", 4, 100),
        Hook::RawPrerouting => ("filter", 0, -300),
        Hook::FilterInput => ("filter", 1, 0),
        Hook::FilterForward => ("filter", 2, 0),
        Hook::FilterOutput => ("filter", 3, 0),
    }
}

fn put_hook(w: &mut Writer, hook: Hook) {
    let (kind, number, priority) = place(hook);
    let open = w.open(4);
    w.put_u32(1, number);
    w.put(2, &priority.to_be_bytes());
    w.close(open);
    w.put_u32(5, ACCEPT);
    w.put_name(7, kind);
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

//! The nfnetlink socket: one transaction is one message to the kernel, answered before it returns.
//!
//! In: a transaction. Out: committed whole, or refused with the object and the kernel's reason, and nothing changed.
//! Every call blocks for as long as the kernel works; it never waits for anything else.

use std::io;

use super::{
    decode,
    encode::{self, Batch},
    held::Held,
    message::{Attributes, Messages, Writer, u32_ne},
    table::{Map, Table},
    text::Named,
    transaction::{Change, Transaction},
};
use crate::{
    netns::Netns,
    nfnetlink::{ACK, Channel, DUMP, ERROR, REQUEST, errno},
    owner,
    packet::Family,
};

/// Room for one transaction; the kernel takes memory only for what is sent.
const SEND_BUFFER: usize = 512 << 20;

/// How often a list is read that others keep changing.
const LIST_TRIES: u32 = 16;

/// Message flag: attributes follow the error (`NLM_F_ACK_TLVS`).
const EXPLAINED: u16 = 0x200;

/// Why nftables could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("open an nfnetlink socket: {hint}")]
    Open {
        /// What to do about it.
        hint: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The transaction did not reach the kernel.
    #[error("send a transaction of {bytes} bytes{hint}")]
    Send {
        /// Its size.
        bytes: usize,
        /// What to do about it.
        hint: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused a change, and with it the transaction.
    #[error("kernel refuses `{change}`{}{}", because(.reason.as_deref()), needs(source))]
    Refused {
        /// The change, as nft text; of many elements only the one at fault.
        change: String,
        /// The kernel's own words, where it has some.
        reason: Option<String>,
        /// The errno.
        source: io::Error,
    },
    /// The answer was lost: the transaction may be committed or not.
    #[error("outcome of a transaction is unknown")]
    OutcomeUnknown(#[source] io::Error),
    /// Our tables could not be listed.
    #[error("list {what} of table {family} {table}{}", needs(source))]
    List {
        /// What was listed.
        what: &'static str,
        /// The table's name.
        table: &'static str,
        /// The table's family.
        family: Family,
        /// What the system said.
        source: io::Error,
    },
}

/// What to do about the one reason that a person can do something about.
fn needs(source: &io::Error) -> &'static str {
    if source.raw_os_error() == Some(nix::libc::EPERM) { ": run with CAP_NET_ADMIN" } else { "" }
}

fn because(reason: Option<&str>) -> String {
    reason.map(|reason| format!(" ({reason})")).unwrap_or_default()
}

impl Error {
    /// Says whether what was to be changed is not there.
    pub fn is_not_found(&self) -> bool {
        self.errno() == Some(nix::libc::ENOENT)
    }

    /// Says whether what was to be added is there already, and is something else.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(nix::libc::EEXIST)
    }

    /// The kernel's number for the reason.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open { source, .. }
            | Self::Send { source, .. }
            | Self::Refused { source, .. }
            | Self::OutcomeUnknown(source)
            | Self::List { source, .. } => source.raw_os_error(),
        }
    }
}

/// A socket to our tables of one name in the nftables of one network namespace.
#[derive(Debug)]
pub struct Socket {
    channel: Channel,
    table: &'static str,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace, to the daemon's tables.
    pub fn open() -> Result<Self, Error> {
        let hint = "the kernel needs nf_tables (CONFIG_NF_TABLES)";
        let channel = Channel::open(SEND_BUFFER).map_err(|source| Error::Open { hint, source })?;
        Ok(Self { channel, table: owner::TABLE })
    }

    /// The same socket, but to other tables of ours, of that name.
    #[must_use]
    pub fn to(self, table: &'static str) -> Self {
        Self { table, ..self }
    }

    /// The name of its tables.
    pub fn table(&self) -> &'static str {
        self.table
    }

    /// Opens a socket inside a network namespace; it stays there wherever it is used.
    pub fn open_in(netns: &Netns) -> Result<Self, Error> {
        netns.run(Self::open).unwrap_or_else(|error| {
            Err(Error::Open { hint: "cannot enter the network namespace", source: io::Error::other(error) })
        })
    }

    /// What the kernel knows this socket by.
    pub(super) fn port(&self) -> u32 {
        self.channel.port()
    }

    /// Commits a transaction: all of it, or nothing and an error that names the change at fault.
    pub fn commit(&self, transaction: &Transaction) -> Result<(), Error> {
        if transaction.is_empty() {
            return Ok(());
        }
        let batch = encode::batch(self.table, transaction);
        self.channel.send(batch.bytes()).map_err(|source| {
            let too_large = source.raw_os_error() == Some(nix::libc::EMSGSIZE);
            let hint = if too_large {
                ": more than net.core.wmem_max allows here; run with CAP_NET_ADMIN or raise it"
            } else {
                ""
            };
            Error::Send { bytes: batch.bytes().len(), hint, source }
        })?;
        let (mut refused, mut lost) = (None, None);
        loop {
            let reply = match self.channel.receive_now() {
                Ok(Some(reply)) => reply,
                Ok(None) => break,
                // More answers than there is room for: the first of them, which say why, are still there.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                    lost = Some(error);
                    continue;
                }
                Err(error) => return Err(Error::OutcomeUnknown(error)),
            };
            for message in Messages(&reply).filter(|message| message.kind == ERROR) {
                let errno = errno(message.body);
                if errno != 0 && refused.is_none() {
                    let explained = message.flags & EXPLAINED != 0;
                    let words = explained.then(|| Attributes(message.body.get(20..).unwrap_or_default()));
                    refused = Some(self.refusal((transaction, &batch), message.sequence, errno, words));
                }
            }
        }
        refused.or(lost.map(Error::OutcomeUnknown)).map_or(Ok(()), Err)
    }

    /// Names the change, and among many elements the one, that the kernel refused.
    fn refusal(
        &self,
        (transaction, batch): (&Transaction, &Batch),
        sequence: u32,
        errno: i32,
        words: Option<Attributes<'_>>,
    ) -> Error {
        const REASON: u16 = 1;
        const OFFSET: u16 = 2;
        let origin = batch.origin(sequence);
        let element = origin.and_then(|origin| {
            let offset = words?.find(OFFSET).map(u32_ne)?;
            batch.element_at(origin, offset)
        });
        let change = origin.and_then(|origin| transaction.changes().get(origin.change));
        let change = change.map_or_else(
            || "the transaction as a whole".to_owned(),
            |(family, change)| {
                let one = match (change, element) {
                    (Change::AddElements(map, kind, elements), Some(at)) => {
                        let one = elements.iter().skip(at).take(1).cloned().collect();
                        Change::AddElements(map.clone(), *kind, one)
                    }
                    (Change::DeleteElements(map, kind, keys), Some(at)) => {
                        let one = keys.iter().skip(at).take(1).copied().collect();
                        Change::DeleteElements(map.clone(), *kind, one)
                    }
                    _ => change.clone(),
                };
                Named(self.table, &(*family, one)).to_string()
            },
        );
        let reason = words.and_then(|words| words.name(REASON)).map(str::to_owned);
        Error::Refused { change, reason, source: io::Error::from_raw_os_error(errno) }
    }

    /// Lists what the kernel holds of our table of that family; `None` if there is no such table. Elements that rules
    /// added are left out: they may be a million, and are nobody's to compare.
    pub fn held(&self, family: Family) -> Result<Option<Held>, Error> {
        uninterrupted(|| {
            let Some((mut held, _)) = self.list_outline(family, None)? else { return Ok(None) };
            for (name, map) in held.maps.iter_mut().filter(|(_, map)| map.kind.dynamic.is_none()) {
                if !self.read_elements(family, name, map)? {
                    held.foreign_maps.insert(name.clone());
                }
            }
            held.maps.retain(|name, _| !held.foreign_maps.contains(name));
            Ok(Some(held))
        })
    }

    /// Says whether the kernel holds all chains, rules and maps of a table, whatever their elements, and no others.
    pub fn is_outline_of(&self, table: &Table) -> Result<bool, Error> {
        let found = uninterrupted(|| self.list_outline(table.family, Some(table)))?;
        let empty = |map: &Map| Map::new(map.kind);
        let maps = table.maps.iter().map(|(name, map)| (name.clone(), empty(map))).collect();
        Ok(found == Some((Held { maps, ..Held::from(table) }, 0)))
    }

    /// Lists all but the elements of maps.
    pub(super) fn outline(&self, family: Family) -> Result<Option<Held>, Error> {
        Ok(uninterrupted(|| self.list_outline(family, None))?.map(|(held, _)| held))
    }

    /// The kernel lists the chains of all tables or one by its name, and others may have thousands. So where it is known what to
    /// expect, only that is asked for; how many other chains there are is told by how much the table holds in all.
    fn list_outline(&self, family: Family, expected: Option<&Table>) -> Result<Option<(Held, usize)>, Error> {
        const GET_TABLE: u16 = encode::kind(1);
        let table = self.table;
        let fail = |what| move |source| Error::List { what, table, family, source };
        let mut held = Held::new(family);
        let by_table = |_: &mut Writer| {};
        let mut holds = 0;
        let flags = |_: u16, attributes: Attributes<'_>| {
            held.is_dormant = attributes.u32(2).unwrap_or(0) & encode::DORMANT != 0;
            holds = attributes.u32(3).unwrap_or(0);
        };
        match self.request(family, GET_TABLE, ACK, by_table, flags) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => return Ok(None),
            Err(error) => return Err(fail("the name")(error)),
        }
        let mut take_chain = |kind, attributes: Attributes<'_>| {
            if kind == encode::NEW_CHAIN && attributes.name(1) == Some(table) {
                decode::chain(&mut held, attributes);
            }
        };
        match expected {
            None => self.request(family, encode::GET_CHAIN, DUMP, by_table, take_chain),
            Some(expected) => expected.chains.keys().try_for_each(|name| {
                let by_name = |writer: &mut Writer| writer.put_name(3, name);
                match self.request(family, encode::GET_CHAIN, ACK, by_name, &mut take_chain) {
                    Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(()),
                    done => done,
                }
            }),
        }
        .map_err(fail("chains"))?;
        self.request(family, encode::GET_RULE, DUMP, by_table, |kind, attributes| {
            if kind == encode::NEW_RULE && attributes.name(1) == Some(table) {
                decode::rule(&mut held, attributes);
            }
        })
        .map_err(fail("rules"))?;
        let mut sets = 0;
        self.request(family, encode::GET_SET, DUMP, by_table, |kind, attributes| {
            if kind == encode::NEW_SET && attributes.name(1) == Some(table) {
                sets += 1;
                decode::map(&mut held, attributes);
            }
        })
        .map_err(fail("maps"))?;
        let chains = usize::try_from(holds).unwrap_or(usize::MAX).saturating_sub(sets);
        let others = chains.saturating_sub(held.chains.len());
        Ok(Some((held, others)))
    }

    /// Adds the elements that a map holds. False: one of them is of no kind of ours.
    pub(super) fn read_elements(&self, family: Family, name: &str, map: &mut Map) -> Result<bool, Error> {
        let by_map = |w: &mut Writer| w.put_name(2, name);
        let mut are_ours = true;
        self.request(family, encode::GET_ELEMENTS, DUMP, by_map, |kind, attributes| {
            if kind == encode::NEW_ELEMENTS {
                are_ours &= decode::elements(family, map, attributes);
            }
        })
        .map_err(|source| self.unlisted("elements", family, source))?;
        Ok(are_ours)
    }

    /// Why something of our table could not be listed.
    pub(super) fn unlisted(&self, what: &'static str, family: Family, source: io::Error) -> Error {
        Error::List { what, table: self.table, family, source }
    }

    /// Names the chains of others on the way of forwarded packets that drop whatever none of their rules accepts.
    pub fn dropping_forward_chains(&self) -> Result<Vec<String>, Error> {
        uninterrupted(|| {
            let mut found = Vec::new();
            for (number, name) in FORWARDING_FAMILIES {
                let mut writer = Writer::default();
                let open = writer.open_message(encode::GET_CHAIN, REQUEST | DUMP, 1, number, 0);
                writer.close_message(open);
                let mut interrupted = false;
                let mut take = |kind: u16, attributes: Attributes<'_>| {
                    if kind == encode::NEW_CHAIN {
                        found.extend(
                            dropping_forward_chain(attributes).map(|chain| format!("{name} {chain}")),
                        );
                    }
                };
                let mut list = || {
                    self.channel.send(writer.bytes())?;
                    while !self.answer(&mut interrupted, &mut take)? {}
                    if interrupted { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
                };
                list().map_err(|source| self.unlisted("chains of others", Family::Ip, source))?;
            }
            Ok(found)
        })
    }

    /// Says whether what the kernel told of, a chain or rule say, is in our table.
    pub(super) fn is_of_table(&self, attributes: Attributes<'_>) -> bool {
        attributes.name(1) == Some(self.table)
    }

    /// The number of the last transaction that anybody committed in this namespace.
    pub(super) fn generation(&self) -> Result<u32, Error> {
        const GET_GENERATION: u16 = encode::kind(16);
        let mut generation = 0;
        let family = Family::Ip; // any will do
        self.request(
            family,
            GET_GENERATION,
            ACK,
            |_| {},
            |_, attributes| {
                generation = attributes.u32(1).unwrap_or(0);
            },
        )
        .map_err(|source| self.unlisted("the generation", family, source))?;
        Ok(generation)
    }

    /// Asks for something of our table and hands each message of the answer to `take`.
    pub(super) fn request(
        &self,
        family: Family,
        kind: u16,
        flags: u16,
        name: impl Fn(&mut Writer),
        mut take: impl FnMut(u16, Attributes<'_>),
    ) -> io::Result<()> {
        self.ask(family, kind, flags, name)?;
        let mut interrupted = false;
        while !self.answer(&mut interrupted, &mut take)? {}
        if interrupted { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }

    /// Asks for something of our table.
    pub(super) fn ask(
        &self,
        family: Family,
        kind: u16,
        flags: u16,
        name: impl Fn(&mut Writer),
    ) -> io::Result<()> {
        const SEQUENCE: u32 = 1;
        let mut writer = Writer::default();
        let open = writer.open_message(kind, REQUEST | flags, SEQUENCE, encode::family_number(family), 0);
        writer.put_name(1, self.table);
        name(&mut writer);
        writer.close_message(open);
        self.channel.send(writer.bytes())
    }

    /// Reads one datagram of an answer and says whether it was the last. The kernel writes the next page of a dump when this
    /// one is read, and not before.
    pub(super) fn answer(
        &self,
        interrupted: &mut bool,
        take: impl FnMut(u16, Attributes<'_>),
    ) -> io::Result<bool> {
        self.channel.answer(interrupted, take)
    }
}

/// Families of tables that forwarded packets of IP pass, by number and name. // `NFPROTO_*`, include/uapi/linux/netfilter.h
const FORWARDING_FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];

/// The table and name of a chain that is hooked to forwarding and whose policy is to drop.
fn dropping_forward_chain(attributes: Attributes<'_>) -> Option<String> {
    const FORWARD: u32 = 2; // `NF_INET_FORWARD`
    const DROP: u32 = 0; // `NF_DROP`
    let hook = attributes.inside(4)?.u32(1)?; // `NFTA_CHAIN_HOOK`, `NFTA_HOOK_HOOKNUM`
    let is_dropping = hook == FORWARD && attributes.u32(5)? == DROP; // `NFTA_CHAIN_POLICY`
    let names = || Some(format!("{} {}", attributes.name(1)?, attributes.name(3)?));
    is_dropping.then(names)?
}

/// Lists anew when it was interrupted: whoever changes any table in this namespace interrupts the lists of all.
pub(super) fn uninterrupted<T>(mut list: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    for _ in 1..LIST_TRIES {
        match list() {
            Err(Error::List { source, .. }) if source.kind() == io::ErrorKind::Interrupted => {}
            listed => return listed,
        }
    }
    list()
}

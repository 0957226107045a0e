//! Tables of others: listed, and taken away piece by piece where the caller names the piece.
//!
//! In: the name of a table. Out: its chains, and of their rules the handle and the chain that they jump to; what else a rule says is
//! nobody's business here. It knows nobody by name: who may be taken what away from is for the caller to say.

use std::{collections::BTreeMap, io};

use super::{
    encode,
    message::{Attributes, Messages, Writer},
};
use crate::{
    nfnetlink::{ACK, Channel, DUMP, ERROR, REQUEST, errno},
    packet::Family,
};

/// Room for one batch of removals.
const SEND_BUFFER: usize = 64 << 20;

/// How often a list is read that others keep changing.
const LIST_TRIES: u32 = 16;

/// Why a foreign table could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("open an nfnetlink socket")]
    Open(#[source] io::Error),
    /// The table could not be listed.
    #[error("list table {family} {table}")]
    List {
        /// The table's family.
        family: Family,
        /// The table's name.
        table: String,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused, and nothing was removed.
    #[error("remove {what}")]
    Remove {
        /// The piece at fault.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Says whether something was not as it had been listed a moment ago.
    pub fn is_outdated(&self) -> bool {
        use nix::libc::{EBUSY, ENOENT};
        match self {
            Self::Remove { source, .. } => matches!(source.raw_os_error(), Some(ENOENT | EBUSY)),
            _ => false,
        }
    }
}

/// A table of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignTable {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Its chains, by name.
    pub chains: BTreeMap<String, ForeignChain>,
}

/// A chain of somebody else's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForeignChain {
    /// Whether packets come in here from the kernel, rather than from another chain.
    pub is_base: bool,
    /// Its rules, in order.
    pub rules: Vec<ForeignRule>,
}

/// A rule of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignRule {
    /// What the kernel knows it by, in its table.
    pub handle: u64,
    /// The chain that it leads to.
    pub target: Option<String>,
}

/// A piece to take away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Removal {
    /// A table with all that is in it.
    Table,
    /// A rule of a chain.
    Rule(String, u64),
    /// All rules of a chain.
    Rules(String),
    /// A chain, which must be empty, and nobody must jump to it.
    Chain(String),
}

/// A socket to all tables in the nftables of one network namespace.
#[derive(Debug)]
pub struct Foreign {
    channel: Channel,
}

impl Foreign {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Channel::open(SEND_BUFFER).map(|channel| Self { channel }).map_err(Error::Open)
    }

    /// Says whether there is a table of that name.
    pub fn has_table(&self, family: Family, table: &str) -> Result<bool, Error> {
        const GET_TABLE: u16 = encode::kind(1);
        match self.request(family, GET_TABLE, ACK, table, |_, _| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(false),
            Err(source) => Err(Error::List { family, table: table.to_owned(), source }),
        }
    }

    /// Lists a table; `None` if there is none of that name.
    pub fn table(&self, family: Family, name: &str) -> Result<Option<ForeignTable>, Error> {
        if !self.has_table(family, name)? {
            return Ok(None);
        }
        let mut tries = 1;
        loop {
            match self.chains(family, name) {
                Ok(chains) => return Ok(Some(ForeignTable { family, name: name.to_owned(), chains })),
                Err(error) if error.kind() == io::ErrorKind::Interrupted && tries < LIST_TRIES => tries += 1,
                Err(source) => return Err(Error::List { family, table: name.to_owned(), source }),
            }
        }
    }

    fn chains(&self, family: Family, table: &str) -> io::Result<BTreeMap<String, ForeignChain>> {
        let mut chains: BTreeMap<String, ForeignChain> = BTreeMap::new();
        self.request(family, encode::GET_CHAIN, DUMP, table, |kind, attributes| {
            let is_of_table = kind == encode::NEW_CHAIN && attributes.name(1) == Some(table);
            if let (true, Some(name)) = (is_of_table, attributes.name(3)) {
                let is_base = attributes.find(4).is_some();
                chains.insert(name.to_owned(), ForeignChain { is_base, rules: Vec::new() });
            }
        })?;
        self.request(family, encode::GET_RULE, DUMP, table, |kind, attributes| {
            if kind == encode::NEW_RULE && attributes.name(1) == Some(table) {
                let chain = attributes.name(2).and_then(|name| chains.get_mut(name));
                if let (Some(chain), Some(rule)) = (chain, rule(attributes)) {
                    chain.rules.push(rule);
                }
            }
        })?;
        Ok(chains)
    }

    /// Takes pieces of one table away: all of them, or none and an error.
    pub fn remove(&self, family: Family, table: &str, removals: &[Removal]) -> Result<(), Error> {
        let failed = |place: Option<usize>, source| {
            let piece = place.and_then(|place| removals.get(place));
            let what = match piece {
                Some(Removal::Rule(chain, handle)) => format!("rule {handle} of chain {chain} of "),
                Some(Removal::Rules(chain)) => format!("the rules of chain {chain} of "),
                Some(Removal::Chain(chain)) => format!("chain {chain} of "),
                Some(Removal::Table) | None => String::new(),
            };
            Error::Remove { what: format!("{what}table {family} {table}"), source }
        };
        self.channel.send(batch(family, table, removals).bytes()).map_err(|source| failed(None, source))?;
        let mut refused = None;
        while let Some(reply) = self.channel.receive_now().map_err(|source| failed(None, source))? {
            for message in Messages(&reply).filter(|message| message.kind == ERROR) {
                let errno = errno(message.body);
                if errno != 0 && refused.is_none() {
                    let place = message.sequence.checked_sub(1).and_then(|place| usize::try_from(place).ok());
                    refused = Some(failed(place, io::Error::from_raw_os_error(errno)));
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    fn request(
        &self,
        family: Family,
        kind: u16,
        flags: u16,
        table: &str,
        mut take: impl FnMut(u16, Attributes<'_>),
    ) -> io::Result<()> {
        let mut writer = Writer::default();
        let open = writer.open_message(kind, REQUEST | flags, 1, encode::family_number(family), 0);
        writer.put_name(1, table);
        writer.close_message(open);
        self.channel.send(writer.bytes())?;
        let mut interrupted = false;
        while !self.channel.answer(&mut interrupted, &mut take)? {}
        if interrupted { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}

/// Removals as a batch; the first has sequence number 1.
fn batch(family: Family, table: &str, removals: &[Removal]) -> Writer {
    let mut writer = Writer::default();
    encode::put_bracket(&mut writer, encode::BATCH_BEGIN, REQUEST, 0);
    let mut sequence = 0;
    for removal in removals {
        sequence += 1;
        let kind = match removal {
            Removal::Table => encode::DELETE_TABLE,
            Removal::Rule(..) | Removal::Rules(_) => encode::DELETE_RULE,
            Removal::Chain(_) => encode::DELETE_CHAIN,
        };
        let open = writer.open_message(kind, REQUEST, sequence, encode::family_number(family), 0);
        writer.put_name(1, table);
        match removal {
            Removal::Table => {}
            Removal::Rule(chain, handle) => {
                writer.put_name(2, chain);
                writer.put(3, &handle.to_be_bytes());
            }
            Removal::Rules(chain) => writer.put_name(2, chain),
            Removal::Chain(chain) => writer.put_name(3, chain),
        }
        writer.close_message(open);
    }
    encode::put_bracket(&mut writer, encode::BATCH_END, REQUEST | ACK, sequence + 1);
    writer
}

fn rule(attributes: Attributes<'_>) -> Option<ForeignRule> {
    let handle = attributes.find(3)?.try_into().ok().map(u64::from_be_bytes)?;
    let mut expressions = attributes.inside(4).into_iter().flatten();
    let target = expressions.find_map(|(_, expression)| target(Attributes(expression)));
    Some(ForeignRule { handle, target })
}

/// The chain that an expression leads to: a verdict of jump or goto, as `nft_immediate` has it.
fn target(expression: Attributes<'_>) -> Option<String> {
    const JUMP: i32 = -3;
    const GOTO: i32 = -4;
    if expression.name(1) != Some("immediate") {
        return None;
    }
    let verdict = expression.inside(2)?.inside(2)?.inside(2)?;
    let code = verdict.u32(1)?.cast_signed();
    if matches!(code, JUMP | GOTO) { verdict.name(2).map(str::to_owned) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_read_in_network_order_and_a_rule_without_one_is_none() {
        let mut writer = Writer::default();
        writer.put(3, &7_u64.to_be_bytes());

        assert_eq!(rule(Attributes(writer.bytes())), Some(ForeignRule { handle: 7, target: None }));
        assert_eq!(rule(Attributes(&[])), None);
    }
}

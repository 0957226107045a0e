//! How often elements and rules were met, as the kernel has counted: read page by page, when somebody asks.
//!
//! In: which map, or which chain. Out: what is there, with the packets that met it. In a chain for address translation that is one packet
//! for each new connection. Nothing is kept, and nothing is compared.

use std::io;

use super::{
    decode, encode,
    message::{Attributes, Writer},
    socket::{Error, Socket},
    table::{ChainName, Element, Key, MapName, SetType},
};
use crate::{nfnetlink::DUMP, packet::Family};

/// A reader of counters, on a socket of its own.
#[derive(Debug)]
pub struct Counters {
    socket: Socket,
    reading: Option<(Family, SetType)>,
}

/// An element, and how often it was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// What it is found by.
    pub key: Key,
    /// What it holds.
    pub element: Element,
    /// The packets that met it.
    pub packets: u64,
}

impl Counters {
    /// Reads on this socket, on which nobody else must read.
    pub fn new(socket: Socket) -> Self {
        Self { socket, reading: None }
    }

    /// Begins to read a map of that kind, in the place of whatever was being read.
    pub fn begin(&mut self, family: Family, map: &MapName, kind: SetType) -> Result<(), Error> {
        let by_map = |w: &mut Writer| w.put_name(2, map);
        let asked = self.socket.ask(family, encode::GET_ELEMENTS, DUMP, by_map);
        asked.map_err(|source| self.failed(family, source))?;
        self.reading = Some((family, kind));
        Ok(())
    }

    /// Reads a page, hands over each element that counts, and says whether there are more pages. What is added or removed meanwhile may be
    /// missing, or come twice.
    pub fn step(&mut self, mut take: impl FnMut(Counted)) -> Result<bool, Error> {
        let Some((family, kind)) = self.reading.take() else { return Ok(false) };
        let mut interrupted = false;
        let answer = self.socket.answer(&mut interrupted, |message, attributes| {
            if message == encode::NEW_ELEMENTS {
                let elements = attributes.inside(3).into_iter().flatten();
                elements
                    .filter_map(|(_, element)| counted(family, kind, Attributes(element)))
                    .for_each(&mut take);
            }
        });
        let is_last = answer.map_err(|source| self.failed(family, source))?;
        if !is_last {
            self.reading = Some((family, kind));
        }
        Ok(!is_last)
    }

    /// What the rules of a chain have counted, first to last; `None` for rules that do not count. No rule at all, if there is no such chain.
    pub fn of_rules(&self, family: Family, chain: &ChainName) -> Result<Vec<Option<u64>>, Error> {
        let mut counted = Vec::new();
        let by_chain = |w: &mut Writer| w.put_name(2, chain);
        let answer = self.socket.request(family, encode::GET_RULE, DUMP, by_chain, |kind, attributes| {
            let is_of_chain = attributes.name(2) == Some(&**chain); // kernels that do not sort them out tell all
            if kind == encode::NEW_RULE && is_of_chain && self.socket.is_of_table(attributes) {
                let mut expressions = attributes.inside(4).into_iter().flatten();
                counted.push(expressions.find_map(|(_, expression)| packets(Attributes(expression))));
            }
        });
        match answer {
            Err(error) if error.raw_os_error() != Some(nix::libc::ENOENT) => {
                Err(self.socket.unlisted("counters of rules", family, error))
            }
            _ => Ok(counted),
        }
    }

    fn failed(&self, family: Family, source: io::Error) -> Error {
        self.socket.unlisted("counters", family, source)
    }
}

fn counted(family: Family, kind: SetType, attributes: Attributes<'_>) -> Option<Counted> {
    // One expression stands by itself (`NFTA_SET_ELEM_EXPR`), several in a list.
    let packets = packets(attributes.inside(7)?)?;
    let (key, element) = decode::element(family, kind, attributes)?;
    Some(Counted { key, element, packets })
}

/// What a `counter` expression has counted.
fn packets(expression: Attributes<'_>) -> Option<u64> {
    const PACKETS: u16 = 2;
    let counter = (expression.name(1)? == "counter").then_some(expression)?;
    counter.inside(2)?.find(PACKETS)?.try_into().ok().map(u64::from_be_bytes)
}

//! Elements that rules added and that lead nowhere any more: found page by page, so that nobody waits while a million are read.

use std::{collections::BTreeSet, io};

use super::{
    decode, encode,
    message::Writer,
    socket::{Error, Socket},
    table::{Data, Key, Map, MapName, SetType},
    transaction::{Change, Transaction},
};
use crate::{nfnetlink::DUMP, packet::Family};

/// Elements deleted together; one that has gone by itself meanwhile makes the kernel refuse all of them.
const TOGETHER: usize = 256;

/// A reading of one map, on a socket of its own.
#[derive(Debug)]
pub struct Prune {
    socket: Socket,
    reading: Option<Reading>,
}

/// What is looked for, and what was found.
#[derive(Debug)]
pub struct Reading {
    family: Family,
    map: MapName,
    kind: SetType,
    gone: BTreeSet<u32>,
    found: Vec<Key>,
}

impl Prune {
    /// Reads on this socket, on which nobody else must read.
    pub fn new(socket: Socket) -> Self {
        Self { socket, reading: None }
    }

    /// Says whether a map is being read.
    pub fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Begins to look in a map that rules fill for elements whose number is one of those that are gone.
    pub fn begin(
        &mut self,
        family: Family,
        map: MapName,
        kind: SetType,
        gone: BTreeSet<u32>,
    ) -> Result<(), Error> {
        let by_map = |w: &mut Writer| w.put_name(2, &map);
        let asked = self.socket.ask(family, encode::GET_ELEMENTS, DUMP, by_map);
        asked.map_err(|source| self.failed(family, source))?;
        self.reading = Some(Reading { family, map, kind, gone, found: Vec::new() });
        Ok(())
    }

    /// Reads so many pages; after the last page of the map, returns what was found.
    pub fn step(&mut self, pages: usize) -> Result<Option<Reading>, Error> {
        for _ in 0..pages {
            let Some(mut reading) = self.reading.take() else { return Ok(None) };
            let mut page = Map::new(reading.kind);
            let mut interrupted = false; // what moved meanwhile is found another time, or goes by itself
            let family = reading.family;
            let answer = self.socket.answer(&mut interrupted, |kind, attributes| {
                if kind == encode::NEW_ELEMENTS {
                    decode::elements(family, &mut page, attributes);
                }
            });
            let is_last = answer.map_err(|source| self.failed(family, source))?;
            let gone = page.elements.into_iter().filter(|(_, element)| match element.data {
                Data::Number(number) => reading.gone.contains(&number),
                _ => false,
            });
            reading.found.extend(gone.map(|(key, _)| key));
            if is_last {
                return Ok(Some(reading));
            }
            self.reading = Some(reading);
        }
        Ok(None)
    }

    fn failed(&self, family: Family, source: io::Error) -> Error {
        self.socket.unlisted("remembered clients", family, source)
    }
}

impl Reading {
    /// Deletes what was found, and says how many elements that were.
    pub fn delete(self, mut commit: impl FnMut(&Transaction) -> Result<(), Error>) -> Result<usize, Error> {
        let Self { family, map, kind, found, .. } = self;
        let mut delete = |keys: &[Key]| {
            let mut transaction = Transaction::default();
            transaction.push(family, Change::DeleteElements(map.clone(), kind, keys.to_vec()));
            match commit(&transaction) {
                Err(error) if error.is_not_found() => Ok(false),
                done => done.map(|()| true),
            }
        };
        for keys in found.chunks(TOGETHER) {
            if !delete(keys)? {
                for key in keys {
                    delete(std::slice::from_ref(key))?;
                }
            }
        }
        Ok(found.len())
    }
}

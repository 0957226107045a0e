//! An audit: maps read a page at a time and compared with the tables as they should be.
//!
//! In: a socket of its own, because a dump that is under way occupies one. Out: doubts, not findings: between two pages anything may
//! change, so what looks different is looked up once more by whoever repairs it ([`Socket::amends`]). Chains and rules
//! are few and are doubted without being read here.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
};

use super::{
    decode,
    doubt::Doubt,
    encode,
    message::Writer,
    socket::{Error, Socket},
    table::{Element, Key, Map, MapName, SetType, Table},
};
use crate::{nfnetlink::DUMP, packet::Family};

/// An audit that can be taken step by step.
#[derive(Debug)]
pub struct Audit {
    socket: Socket,
    /// The maps that are still to be read, last first.
    ahead: Vec<Plan>,
    reading: Option<Reading>,
}

/// What a map should hold: enough of it to see that something differs.
#[derive(Debug)]
struct Plan {
    family: Family,
    name: MapName,
    kind: SetType,
    /// Hashes of the elements, sorted.
    elements: Vec<u64>,
}

/// A map that is being read.
#[derive(Debug)]
struct Reading {
    plan: Plan,
    /// Hashes of the elements that were there.
    seen: Vec<u64>,
}

impl Audit {
    /// An audit that is yet to begin.
    pub fn new(socket: Socket) -> Self {
        Self { socket, ahead: Vec::new(), reading: None }
    }

    /// Says whether nothing is left to read.
    pub fn is_over(&self) -> bool {
        self.ahead.is_empty() && self.reading.is_none()
    }

    /// Begins with these tables, after whatever is being read now.
    pub fn begin(&mut self, tables: &[Table]) {
        self.ahead.clear();
        for table in tables {
            for (name, map) in table.maps.iter().filter(|(_, map)| map.kind.dynamic.is_none()) {
                let mut elements: Vec<_> = map.elements.iter().map(hash).collect();
                elements.sort_unstable();
                let (family, name, kind) = (table.family, name.clone(), map.kind);
                self.ahead.push(Plan { family, name, kind, elements });
            }
        }
    }

    /// Reads one page, and says what looks different from the tables at the beginning. Asks for the tables as they should be now
    /// if something seems to be missing.
    pub fn step<'a>(
        &mut self,
        tables: impl FnOnce() -> &'a [Table],
    ) -> Result<Option<(Family, Doubt)>, Error> {
        let reading = match self.reading.take() {
            Some(reading) => reading,
            None => match self.ahead.pop() {
                Some(plan) => self.open(plan)?,
                None => return Ok(None),
            },
        };
        let family = reading.plan.family;
        match self.read_page(reading, tables) {
            Ok(doubt) => Ok(Some((family, doubt)).filter(|(_, doubt)| !doubt.is_empty())),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {
                Ok(Some((family, Doubt::about_outline())))
            }
            Err(source) => Err(self.socket.unlisted("a page of elements", family, source)),
        }
    }

    fn open(&self, plan: Plan) -> Result<Reading, Error> {
        let family = plan.family;
        let by_map = |w: &mut Writer| w.put_name(2, &plan.name);
        let asked = self.socket.ask(family, encode::GET_ELEMENTS, DUMP, by_map);
        asked.map_err(|source| self.socket.unlisted("elements", family, source))?;
        Ok(Reading { plan, seen: Vec::new() })
    }

    /// Compares one page with the plan, and after the last one looks for what was on none.
    fn read_page<'a>(
        &mut self,
        mut reading: Reading,
        tables: impl FnOnce() -> &'a [Table],
    ) -> io::Result<Doubt> {
        let mut doubt = Doubt::default();
        let Plan { family, ref name, kind, ref elements } = reading.plan;
        let mut page = Map::new(kind);
        let mut interrupted = false; // elements that moved meanwhile are doubted, and looked up
        let mut are_ours = true;
        let is_last = self.socket.answer(&mut interrupted, |kind, attributes| {
            if kind == encode::NEW_ELEMENTS {
                are_ours &= decode::elements(family, &mut page, attributes);
            }
        })?;
        if !are_ours {
            doubt.add_map(name.clone());
        }
        for (key, element) in &page.elements {
            let hash = hash((key, element));
            if elements.binary_search(&hash).is_err() {
                doubt.add_element(name, &encode::key_bytes(key));
            }
            reading.seen.push(hash);
        }
        if !is_last {
            self.reading = Some(reading);
            return Ok(doubt);
        }
        reading.seen.sort_unstable();
        let is_seen = |hash: &u64| reading.seen.binary_search(hash).is_ok();
        if !elements.iter().all(is_seen) {
            let table = tables().iter().find(|table| table.family == family);
            let wanted =
                table.and_then(|table| table.maps.get(name)).into_iter().flat_map(|map| &map.elements);
            for (key, _) in wanted.filter(|element| !is_seen(&hash(*element))) {
                doubt.add_element(name, &encode::key_bytes(key));
            }
        }
        Ok(doubt)
    }
}

fn hash(element: (&Key, &Element)) -> u64 {
    let mut hasher = DefaultHasher::new();
    element.hash(&mut hasher);
    hasher.finish()
}

//! Rotations: how the endpoints of a service port take turns.
//!
//! One endpoint needs no turns: its slot is the number. For N there is a *class*: a rule of its own that counts `numgen inc
//! mod N` over a range of N slots, exact over all CPUs and all addresses of the service. Classes are made in lots of
//! eight, a chain each, and stay: a service that needs one takes a spare of its N and gives it back. An endpoint that is
//! replaced takes over the slot, so the rotation goes on; when N changes, the service moves to a class of the new N.

use std::{collections::BTreeMap, net::SocketAddr};

use dataplane::nft::{Chain, ChainName, Data, Element, Key, Match, Source, Statement, Verdict};

use super::{
    affinity,
    inheritance::Inheritance,
    journal::Journal,
    layout::{CLASS, CLASSES, CLASSES_PER_CHAIN, PICK, SLOTS, goto, rule},
};

/// Where a class's rule leads once it has chosen: decides which services may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// The number is the slot of an endpoint.
    Pick,
    /// The number is a turn of a sticky service that remembers its clients for so many seconds.
    Turn(u32),
}

/// Eight classes of the same length and ending: one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lot {
    ending: Ending,
    /// How many members take turns.
    length: u32,
    /// The first slot of the first class; the others follow.
    base: u32,
}

impl Lot {
    /// The chain's name, which says all that the lot is: `rr-1-of-3-at-2`, `sticky-4-of-2-at-26-for-10800`.
    fn chain_name(self, number: u32) -> ChainName {
        let Self { length, base, ending } = self;
        match ending {
            Ending::Pick => format!("rr-{number}-of-{length}-at-{base}"),
            Ending::Turn(seconds) => format!("sticky-{number}-of-{length}-at-{base}-for-{seconds}"),
        }
        .into()
    }

    /// The lot, and its number, of a chain of that name.
    fn parse(chain_name: &str) -> Option<(u32, Self)> {
        let words: Vec<_> = chain_name.split('-').collect();
        let (number, length, base, ending) = match words.as_slice() {
            ["rr", number, "of", length, "at", base] => (number, length, base, Ending::Pick),
            ["sticky", number, "of", length, "at", base, "for", seconds] => {
                (number, length, base, Ending::Turn(seconds.parse().ok()?))
            }
            _ => return None,
        };
        Some((number.parse().ok()?, Self { ending, length: length.parse().ok()?, base: base.parse().ok()? }))
    }

    fn classes(self, number: u32) -> impl DoubleEndedIterator<Item = Class> + ExactSizeIterator {
        let first = first_class(number);
        let places = 0..usize::try_from(CLASSES_PER_CHAIN).unwrap_or(0);
        places.map(move |place| {
            let place = u32::try_from(place).unwrap_or(0);
            Class { number: first + place, base: self.base + place * self.length }
        })
    }

    fn chain(self, number: u32) -> Chain {
        let rules = self.classes(number).map(|class| {
            // meta priority 8000:9 meta priority set numgen inc mod 3 offset 7 goto pick
            rule([
                Statement::Match(Match::Priority(class.number)),
                Statement::SetPriority(Source::Rotation { modulus: self.length, offset: class.base }),
                match self.ending {
                    Ending::Pick => goto(PICK),
                    Ending::Turn(seconds) => goto(affinity::turn_chain(seconds)),
                },
            ])
        });
        Chain { hook: None, rules: rules.collect() }
    }

    /// The element of `classes` that leads to the chain.
    fn element(self, number: u32) -> (Key, Element) {
        let verdict = Data::Verdict(Verdict::Goto(self.chain_name(number)));
        (Key::Number(first_class(number)), verdict.into())
    }

    fn end(self) -> u32 {
        self.base.saturating_add(self.length.saturating_mul(CLASSES_PER_CHAIN))
    }
}

fn first_class(lot: u32) -> u32 {
    CLASS | (lot * CLASSES_PER_CHAIN)
}

/// The lot that a class is of.
fn lot_of(class: u32) -> u32 {
    (class & !CLASS) / CLASSES_PER_CHAIN
}

/// A class: the number that stands for it, and the first slot of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Class {
    number: u32,
    base: u32,
}

/// Members in the order of their turns, and the number that leads to the next.
#[derive(Debug)]
pub(super) struct Turns<T> {
    ending: Ending,
    members: Box<[T]>,
    seat: Seat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seat {
    /// The only member's slot.
    Slot(u32),
    /// A class of as many slots as there are members.
    Class(Class),
}

impl<T: Member> Turns<T> {
    /// The number that leads to whoever's turn it is.
    pub(super) fn number(&self) -> u32 {
        match self.seat {
            Seat::Slot(slot) => slot,
            Seat::Class(class) => class.number,
        }
    }

    /// The members, each with its slot.
    fn slots(&self) -> impl Iterator<Item = (u32, T)> {
        let first = match self.seat {
            Seat::Slot(slot) => slot,
            Seat::Class(class) => class.base,
        };
        (first..).zip(self.members.iter().copied())
    }

    /// Every slot, as the map that it is in holds it.
    pub(super) fn elements(&self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        self.slots().map(|(slot, member)| (T::MAP, Key::Number(slot), member.element()))
    }
}

/// What can take turns: where its slots are kept, and what they hold.
pub(super) trait Member: Copy + Ord {
    /// The map of its slots.
    const MAP: &'static str;
    /// What its slot holds.
    fn element(self) -> Element;
}

impl Member for SocketAddr {
    const MAP: &'static str = SLOTS;

    fn element(self) -> Element {
        Data::Endpoint(self).into()
    }
}

/// How many lots are made at once, at most.
const MOST_LOTS: usize = 64;

/// All slots and classes of one table.
#[derive(Debug)]
pub(super) struct Rotations {
    next_slot: u32,
    lots: BTreeMap<u32, Lot>,
    /// How many lots there are of a kind.
    made: BTreeMap<(Ending, u32), usize>,
    spare_slots: Vec<u32>,
    spare_classes: BTreeMap<(Ending, u32), Vec<Class>>,
    /// Classes whose slots an earlier run has filled, by number.
    unclaimed: BTreeMap<u32, Class>,
    /// Moves on with every class taken, so that not every rotation begins with the first endpoint.
    beginning: usize,
}

impl Default for Rotations {
    fn default() -> Self {
        // Slot 0 is the priority of packets that nobody gave one.
        Self {
            next_slot: 1,
            lots: BTreeMap::new(),
            made: BTreeMap::new(),
            spare_slots: Vec::new(),
            spare_classes: BTreeMap::new(),
            unclaimed: BTreeMap::new(),
            beginning: 0,
        }
    }
}

impl Rotations {
    /// Starts the turns of members, at least one, in slots of their own.
    pub(super) fn start<T: Member>(
        &mut self,
        journal: &mut Journal,
        ending: Ending,
        mut members: Vec<T>,
    ) -> Turns<T> {
        let seat = if members.len() == 1 {
            Seat::Slot(self.take_slot())
        } else {
            self.beginning = self.beginning.wrapping_add(1);
            let beginning = self.beginning.checked_rem(members.len()).unwrap_or(0);
            members.rotate_left(beginning);
            Seat::Class(self.take_class(journal, ending, members.len()))
        };
        let turns = Turns { ending, members: members.into(), seat };
        for (map, key, element) in turns.elements() {
            journal.put(map, key, false, element);
        }
        turns
    }

    /// Exchanges members: those that stay keep their turn. Returns the turns that are to be removed, if it takes new ones.
    /// `wanted` is sorted.
    pub(super) fn change<T: Member>(
        &mut self,
        journal: &mut Journal,
        mut turns: Turns<T>,
        wanted: Vec<T>,
    ) -> (Turns<T>, Option<Turns<T>>) {
        if wanted.len() != turns.members.len() {
            let started = self.start(journal, turns.ending, wanted);
            return (started, Some(turns));
        }
        let mut known: Vec<_> = turns.members.to_vec();
        known.sort_unstable();
        let mut added = wanted.iter().filter(|member| known.binary_search(member).is_err());
        let first = turns.slots().next().map_or(0, |(slot, _)| slot);
        for (slot, member) in (first..).zip(&mut turns.members) {
            if wanted.binary_search(member).is_err()
                && let Some(new) = added.next()
            {
                *member = *new;
                journal.put(T::MAP, Key::Number(slot), true, new.element());
            }
        }
        (turns, None)
    }

    /// Goes on with the turns that an earlier run led to, if all of them are there.
    pub(super) fn inherit<T: Member>(
        &mut self,
        from: &mut BTreeMap<u32, T>,
        ending: Ending,
        number: u32,
    ) -> Option<Turns<T>> {
        if number & CLASS == 0 {
            let member = from.remove(&number)?;
            return Some(Turns { ending, members: [member].into(), seat: Seat::Slot(number) });
        }
        let lot = self.lots.get(&lot_of(number)).filter(|lot| lot.ending == ending)?;
        let class = *self.unclaimed.get(&number)?;
        let members = Inheritance::take_range(from, class.base, usize::try_from(lot.length).ok()?)?;
        self.unclaimed.remove(&number);
        Some(Turns { ending, members: members.into(), seat: Seat::Class(class) })
    }

    /// Removes turns to which nothing leads, and frees their numbers.
    #[expect(clippy::needless_pass_by_value, reason = "these turns end here")]
    pub(super) fn remove<T: Member>(&mut self, journal: &mut Journal, turns: Turns<T>) {
        for (slot, _) in turns.slots() {
            journal.remove(T::MAP, Key::Number(slot));
        }
        match turns.seat {
            Seat::Slot(slot) => self.spare_slots.push(slot),
            Seat::Class(class) => {
                let length = u32::try_from(turns.members.len()).unwrap_or(u32::MAX);
                self.spare_classes.entry((turns.ending, length)).or_default().push(class);
            }
        }
    }

    /// Takes stock of the lots that an earlier run made, from the names of its chains, and of what it put into their slots.
    pub(super) fn adopt<'a>(
        &mut self,
        chains: impl Iterator<Item = &'a ChainName>,
        inheritance: &Inheritance,
    ) {
        for (number, lot) in chains.filter_map(|name| Lot::parse(name)) {
            self.next_slot = self.next_slot.max(lot.end());
            self.lots.insert(number, lot);
            *self.made.entry((lot.ending, lot.length)).or_default() += 1;
            for class in lot.classes(number).rev() {
                if inheritance.is_in(&(class.base..class.base.saturating_add(lot.length))) {
                    self.unclaimed.insert(class.number, class);
                } else {
                    self.spare_classes.entry((lot.ending, lot.length)).or_default().push(class);
                }
            }
        }
        let last = inheritance.slots.range(..CLASS).next_back().map(|(slot, _)| *slot);
        self.next_slot = self.next_slot.max(last.map_or(0, |last| last + 1));
    }

    /// Frees the numbers of what an earlier run left and nobody claimed.
    pub(super) fn free_unclaimed(&mut self, inheritance: &Inheritance) {
        for (number, class) in std::mem::take(&mut self.unclaimed) {
            if let Some(lot) = self.lots.get(&lot_of(number)) {
                self.spare_classes.entry((lot.ending, lot.length)).or_default().push(class);
            }
        }
        let ranges: BTreeMap<_, _> = self.lots.values().map(|lot| (lot.base, lot.end())).collect();
        let is_single = |slot: &u32| ranges.range(..=slot).next_back().is_none_or(|(_, end)| slot >= end);
        self.spare_slots.extend(inheritance.slots.range(..CLASS).map(|(slot, _)| *slot).filter(is_single));
    }

    /// Makes lots where fewer classes are spare than a burst may ask for. Says whether there was anything to make.
    pub(super) fn replenish(&mut self, journal: &mut Journal) -> bool {
        // Of a kind's classes an eighth, but at least four, is kept spare.
        let short = self.made.iter().filter_map(|(kind, lots)| {
            let spare = self.spare_classes.get(kind).map_or(0, Vec::len);
            (spare < (*lots).clamp(4, 8 * MOST_LOTS)).then_some((*kind, lots.div_ceil(4).min(MOST_LOTS)))
        });
        let short: Vec<_> = short.collect();
        for ((ending, length), lots) in &short {
            for _ in 0..*lots {
                self.make_lot(journal, *ending, *length);
            }
        }
        !short.is_empty()
    }

    /// Every chain of classes, and the element of `classes` that leads to it.
    pub(super) fn chains(&self) -> impl Iterator<Item = (ChainName, Chain, (Key, Element))> {
        self.lots
            .iter()
            .map(|(&number, lot)| (lot.chain_name(number), lot.chain(number), lot.element(number)))
    }

    fn take_slot(&mut self) -> u32 {
        self.spare_slots.pop().unwrap_or_else(|| {
            self.next_slot += 1;
            self.next_slot - 1
        })
    }

    fn take_class(&mut self, journal: &mut Journal, ending: Ending, length: usize) -> Class {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        loop {
            if let Some(class) = self.spare_classes.entry((ending, length)).or_default().pop() {
                return class;
            }
            // A change that has to wait for a class is dear, whether one lot is made or many: make them ever rarer.
            let made = self.made.get(&(ending, length)).copied().unwrap_or(0);
            for _ in 0..made.clamp(1, MOST_LOTS) {
                self.make_lot(journal, ending, length);
            }
        }
    }

    /// Makes a lot; its classes are spare.
    fn make_lot(&mut self, journal: &mut Journal, ending: Ending, length: u32) {
        let number = self.lots.last_key_value().map_or(1, |(last, _)| last + 1); // 0 would hold the rejection
        let lot = Lot { ending, length, base: self.next_slot };
        self.next_slot = lot.end();
        self.lots.insert(number, lot);
        *self.made.entry((ending, length)).or_default() += 1;
        self.spare_classes.entry((ending, length)).or_default().extend(lot.classes(number).rev());
        journal.add_chain(lot.chain_name(number), lot.chain(number));
        let (key, element) = lot.element(number);
        journal.put(CLASSES, key, false, element);
    }
}

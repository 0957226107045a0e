//! Rotations: how the endpoints of a service port take turns.
//!
//! One endpoint needs no turns: its slot is the number. For more there is a *class*: a rule of its own that chooses one of a range
//! of slots, by counting `numgen inc mod N` round it, exact over all CPUs and all addresses of the service; or by drawing
//! lots; or by the client's hash. Classes are made in lots of eight, a chain each, and stay: a service that needs one takes a
//! spare of its kind and gives it back. An endpoint that is replaced takes over the slots, so the rotation goes on; when their
//! number changes, the service moves to a class of that number.

use std::{collections::BTreeMap, net::SocketAddr};

use dataplane::nft::{Chain, ChainName, Data, Element, Key, Match, Source, Statement, Verdict};

use super::{
    affinity,
    inheritance::Inheritance,
    journal::Journal,
    layout::{CLASS, CLASSES, CLASSES_PER_CHAIN, PICK, SLOTS, goto, rule},
    order::Order,
};
use crate::service_port::Balancing;

/// Goes into the hash of every client: the same on every node, so that they choose alike.
const SEED: u32 = 0x6661_6972;

/// Where a class's rule leads once it has chosen: decides which services may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// The number is the slot of an endpoint.
    Pick,
    /// The number is a turn of a sticky service that remembers its clients for so many seconds.
    Turn(u32),
}

/// What a class is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    balancing: Balancing,
    /// How many slots it chooses from.
    length: u32,
    ending: Ending,
}

/// Eight classes of one kind: one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lot {
    kind: Kind,
    /// The first slot of the first class; the others follow.
    base: u32,
}

impl Lot {
    /// The chain's name, which says all that the lot is: `rr-1-of-3-at-2`, `hash-4-of-1024-at-26-for-10800`. The next start knows the
    /// lot by it, be it of another version: a name that was given once keeps its meaning.
    fn chain_name(self, number: u32) -> ChainName {
        let Self { kind: Kind { balancing, length, ending }, base } = self;
        let word = word(balancing, ending);
        match ending {
            Ending::Pick => format!("{word}-{number}-of-{length}-at-{base}"),
            Ending::Turn(seconds) => format!("{word}-{number}-of-{length}-at-{base}-for-{seconds}"),
        }
        .into()
    }

    /// The lot, and its number, of a chain of that name.
    fn parse(chain_name: &str) -> Option<(u32, Self)> {
        let words: Vec<_> = chain_name.split('-').collect();
        let [first, number, "of", length, "at", base, rest @ ..] = words.as_slice() else { return None };
        let ending = match rest {
            [] => Ending::Pick,
            ["for", seconds] => Ending::Turn(seconds.parse().ok()?),
            _ => return None,
        };
        let balancing = BALANCINGS.into_iter().find(|balancing| word(*balancing, ending) == *first)?;
        let kind = Kind { balancing, length: length.parse().ok()?, ending };
        let (number, lot) = (number.parse().ok()?, Self { kind, base: base.parse().ok()? });
        // Others may have made a chain of any name.
        (number < LOTS && lot.end() <= SLOTS_END).then_some((number, lot))
    }

    fn classes(self, number: u32) -> impl DoubleEndedIterator<Item = Class> + ExactSizeIterator {
        let first = first_class(number);
        let places = 0..usize::try_from(CLASSES_PER_CHAIN).unwrap_or(0);
        places.map(move |place| {
            let place = u32::try_from(place).unwrap_or(0);
            Class { number: first + place, base: self.base + place * self.kind.length }
        })
    }

    fn chain(self, number: u32) -> Chain {
        let rules = self.classes(number).map(|class| {
            // meta priority 8000:9 meta priority set numgen inc mod 3 offset 7 goto pick
            rule([
                Statement::Match(Match::Priority(class.number)),
                Statement::SetPriority(self.kind.source(class.base)),
                match self.kind.ending {
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
        self.base.saturating_add(self.kind.length.saturating_mul(CLASSES_PER_CHAIN))
    }
}

impl Kind {
    fn of<T>(order: &Order<T>, ending: Ending) -> Self {
        let length = u32::try_from(order.slots.len()).unwrap_or(u32::MAX);
        Self { balancing: order.balancing, length, ending }
    }

    /// Where a class gets the next slot from.
    fn source(self, offset: u32) -> Source {
        let modulus = self.length;
        match self.balancing {
            Balancing::RoundRobin => Source::Rotation { modulus, offset },
            Balancing::Random => Source::Random { modulus, offset },
            Balancing::SourceHash => Source::ByHash { modulus, seed: SEED, offset },
        }
    }
}

const BALANCINGS: [Balancing; 3] = [Balancing::RoundRobin, Balancing::Random, Balancing::SourceHash];

/// No slot is this number or a higher one.
const SLOTS_END: u32 = 1 << 30;

/// How many lots there are numbers for: up to the first guard.
const LOTS: u32 = 0x1000_0000 / CLASSES_PER_CHAIN;

/// The first word of a chain's name.
fn word(balancing: Balancing, ending: Ending) -> &'static str {
    match (balancing, ending) {
        (Balancing::RoundRobin, Ending::Pick) => "rr",
        (Balancing::RoundRobin, Ending::Turn(_)) => "sticky",
        (Balancing::Random, _) => "random",
        (Balancing::SourceHash, _) => "hash",
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
    /// A class of that kind, of as many slots as there are members.
    Class(Kind, Class),
}

impl<T: Member> Turns<T> {
    /// The number that leads to whoever's turn it is.
    pub(super) fn number(&self) -> u32 {
        match self.seat {
            Seat::Slot(slot) => slot,
            Seat::Class(_, class) => class.number,
        }
    }

    /// The members, each with its slot.
    fn slots(&self) -> impl Iterator<Item = (u32, T)> {
        let first = match self.seat {
            Seat::Slot(slot) => slot,
            Seat::Class(_, class) => class.base,
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
    made: BTreeMap<Kind, usize>,
    spare_slots: Vec<u32>,
    spare_classes: BTreeMap<Kind, Vec<Class>>,
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
        mut order: Order<T>,
    ) -> Turns<T> {
        let seat = if order.slots.len() == 1 {
            Seat::Slot(self.take_slot())
        } else {
            self.beginning = self.beginning.wrapping_add(1);
            order = order.beginning_at(self.beginning);
            let kind = Kind::of(&order, ending);
            Seat::Class(kind, self.take_class(journal, kind))
        };
        let turns = Turns { ending, members: order.slots.into(), seat };
        for (map, key, element) in turns.elements() {
            journal.put(map, key, false, element);
        }
        turns
    }

    /// Exchanges members: those that stay keep their turn. Returns the turns that are to be removed, if it takes new ones.
    pub(super) fn change<T: Member>(
        &mut self,
        journal: &mut Journal,
        mut turns: Turns<T>,
        order: Order<T>,
    ) -> (Turns<T>, Option<Turns<T>>) {
        let is_fit = match turns.seat {
            Seat::Slot(_) => order.slots.len() == 1,
            Seat::Class(kind, _) => kind == Kind::of(&order, turns.ending),
        };
        if !is_fit {
            let started = self.start(journal, turns.ending, order);
            return (started, Some(turns));
        }
        let order = order.in_places_of(&turns.members);
        let first = turns.slots().next().map_or(0, |(slot, _)| slot);
        for (slot, (member, new)) in (first..).zip(turns.members.iter_mut().zip(order.slots)) {
            if *member != new {
                *member = new;
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
        let kind = self.lots.get(&lot_of(number)).map(|lot| lot.kind).filter(|kind| kind.ending == ending)?;
        let class = *self.unclaimed.get(&number)?;
        let members = Inheritance::take_range(from, class.base, usize::try_from(kind.length).ok()?)?;
        self.unclaimed.remove(&number);
        Some(Turns { ending, members: members.into(), seat: Seat::Class(kind, class) })
    }

    /// Removes turns to which nothing leads, and frees their numbers.
    #[expect(clippy::needless_pass_by_value, reason = "these turns end here")]
    pub(super) fn remove<T: Member>(&mut self, journal: &mut Journal, turns: Turns<T>) {
        for (slot, _) in turns.slots() {
            journal.remove(T::MAP, Key::Number(slot));
        }
        match turns.seat {
            Seat::Slot(slot) => self.spare_slots.push(slot),
            Seat::Class(kind, class) => self.spare_classes.entry(kind).or_default().push(class),
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
            *self.made.entry(lot.kind).or_default() += 1;
            for class in lot.classes(number).rev() {
                if inheritance.is_in(&(class.base..class.base.saturating_add(lot.kind.length))) {
                    self.unclaimed.insert(class.number, class);
                } else {
                    self.spare_classes.entry(lot.kind).or_default().push(class);
                }
            }
        }
        let last = inheritance.slots.range(..SLOTS_END).next_back().map(|(slot, _)| *slot);
        self.next_slot = self.next_slot.max(last.map_or(0, |last| last + 1));
    }

    /// Frees the numbers of what an earlier run left and nobody claimed.
    pub(super) fn free_unclaimed(&mut self, inheritance: &Inheritance) {
        for (number, class) in std::mem::take(&mut self.unclaimed) {
            if let Some(lot) = self.lots.get(&lot_of(number)) {
                self.spare_classes.entry(lot.kind).or_default().push(class);
            }
        }
        let ranges: BTreeMap<_, _> = self.lots.values().map(|lot| (lot.base, lot.end())).collect();
        let is_single = |slot: &u32| ranges.range(..=slot).next_back().is_none_or(|(_, end)| slot >= end);
        self.spare_slots
            .extend(inheritance.slots.range(..SLOTS_END).map(|(slot, _)| *slot).filter(is_single));
    }

    /// Makes lots where fewer classes are spare than a burst may ask for. Says whether there was anything to make.
    pub(super) fn replenish(&mut self, journal: &mut Journal) -> bool {
        // Of a kind's classes an eighth, but at least four, is kept spare.
        let short = self.made.iter().filter_map(|(kind, lots)| {
            let spare = self.spare_classes.get(kind).map_or(0, Vec::len);
            (spare < (*lots).clamp(4, 8 * MOST_LOTS)).then_some((*kind, lots.div_ceil(4).min(MOST_LOTS)))
        });
        let short: Vec<_> = short.collect();
        for (kind, lots) in &short {
            for _ in 0..*lots {
                self.make_lot(journal, *kind);
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

    fn take_class(&mut self, journal: &mut Journal, kind: Kind) -> Class {
        loop {
            if let Some(class) = self.spare_classes.entry(kind).or_default().pop() {
                return class;
            }
            // A change that has to wait for a class is dear, whether one lot is made or many: make them ever rarer.
            let made = self.made.get(&kind).copied().unwrap_or(0);
            for _ in 0..made.clamp(1, MOST_LOTS) {
                self.make_lot(journal, kind);
            }
        }
    }

    /// Makes a lot; its classes are spare.
    fn make_lot(&mut self, journal: &mut Journal, kind: Kind) {
        let number = self.lots.last_key_value().map_or(1, |(last, _)| last + 1); // 0 would hold the rejection
        let lot = Lot { kind, base: self.next_slot };
        self.next_slot = lot.end();
        self.lots.insert(number, lot);
        *self.made.entry(kind).or_default() += 1;
        self.spare_classes.entry(kind).or_default().extend(lot.classes(number).rev());
        journal.add_chain(lot.chain_name(number), lot.chain(number));
        let (key, element) = lot.element(number);
        journal.put(CLASSES, key, false, element);
    }
}

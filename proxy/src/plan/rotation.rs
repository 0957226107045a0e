//! Rotations: how the endpoints of a service port take turns.
//!
//! One endpoint needs no turns: its slot is the number. For N there is a *class*: a rule of its own that counts `numgen inc
//! mod N` over a range of N slots, exact over all CPUs and all addresses of the service. Classes are made in lots of
//! eight, a chain each, and stay: a service that needs one takes a spare of its N and gives it back. An endpoint that is
//! replaced takes over the slot, so the rotation goes on; when N changes, the service moves to a class of the new N.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::nft::{Chain, Data, Element, Key, Match, Source, Statement, Verdict};

use super::{
    affinity,
    layout::{CLASS, CLASSES, CLASSES_PER_CHAIN, PICK, SLOTS, goto, rule},
    table::Journal,
};
use crate::service_port::Endpoint;

/// Where a class's rule leads once it has chosen: decides which services may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// The number is the slot of an endpoint.
    Pick,
    /// The number is a turn of a sticky service that remembers its clients for so many seconds.
    Turn(u32),
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
    members: Vec<T>,
    seat: Seat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seat {
    /// The only member's slot.
    Slot(u32),
    /// A class of as many slots as there are members.
    Class(Class),
}

impl<T> Turns<T> {
    /// The number that leads to whoever's turn it is.
    pub(super) fn number(&self) -> u32 {
        match self.seat {
            Seat::Slot(slot) => slot,
            Seat::Class(class) => class.number,
        }
    }

    /// The members, in turn.
    pub(super) fn members(&self) -> &[T] {
        &self.members
    }

    /// The members, each with its slot.
    fn slots(&self) -> impl Iterator<Item = (u32, &T)> {
        let first = match self.seat {
            Seat::Slot(slot) => slot,
            Seat::Class(class) => class.base,
        };
        (first..).zip(&self.members)
    }
}

/// What can take turns: where its slots are kept, and what they hold.
pub(super) trait Member: Copy + Ord {
    /// The map of its slots.
    const MAP: &'static str;
    /// What its slot holds.
    fn element(self) -> Element;
}

impl Member for Endpoint {
    const MAP: &'static str = SLOTS;

    fn element(self) -> Element {
        Data::Endpoint(self.address).into()
    }
}

/// All slots and classes of one table.
#[derive(Debug)]
pub(super) struct Rotations {
    next_slot: u32,
    next_chain: u32,
    spare_slots: Vec<u32>,
    spare_classes: BTreeMap<(Ending, usize), Vec<Class>>,
    /// Moves on with every class taken, so that not every rotation begins with the first endpoint.
    beginning: usize,
}

impl Default for Rotations {
    fn default() -> Self {
        // Slot 0 is the priority of packets that nobody gave one; chain 0 would hold the rejection's class.
        Self {
            next_slot: 1,
            next_chain: 1,
            spare_slots: Vec::new(),
            spare_classes: BTreeMap::new(),
            beginning: 0,
        }
    }
}

impl Rotations {
    /// Starts the turns of endpoints, at least one, in slots of their own.
    pub(super) fn start(&mut self, journal: &mut Journal, endpoints: &[Endpoint]) -> Turns<Endpoint> {
        self.start_with(journal, Ending::Pick, endpoints.to_vec())
    }

    /// Starts the turns of members, at least one.
    pub(super) fn start_with<T: Member>(
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
        let turns = Turns { ending, members, seat };
        for (slot, member) in turns.slots() {
            journal.set(T::MAP, Key::Number(slot), Some(member.element()));
        }
        turns
    }

    /// Exchanges members: those that stay keep their turn. Returns the turns that are to be removed, if it takes new ones.
    pub(super) fn change<T: Member>(
        &mut self,
        journal: &mut Journal,
        mut turns: Turns<T>,
        wanted: &[T],
    ) -> (Turns<T>, Option<Turns<T>>) {
        if wanted.len() != turns.members.len() {
            let started = self.start_with(journal, turns.ending, wanted.to_vec());
            return (started, Some(turns));
        }
        let (before, after) =
            (turns.members.iter().collect::<BTreeSet<_>>(), wanted.iter().collect::<BTreeSet<_>>());
        let mut added = wanted.iter().filter(|member| !before.contains(member));
        let gone = turns.slots().filter(|(_, member)| !after.contains(member));
        let replaced: Vec<_> = gone.map(|(slot, _)| slot).zip(&mut added).map(|(s, m)| (s, *m)).collect();
        let first = turns.slots().next().map_or(0, |(slot, _)| slot);
        for (slot, member) in replaced {
            journal.set(T::MAP, Key::Number(slot), Some(member.element()));
            let place = usize::try_from(slot - first).unwrap_or(usize::MAX);
            if let Some(seat) = turns.members.get_mut(place) {
                *seat = member;
            }
        }
        (turns, None)
    }

    /// Removes turns to which nothing leads, and frees their numbers.
    #[expect(clippy::needless_pass_by_value, reason = "these turns end here")]
    pub(super) fn remove<T: Member>(&mut self, journal: &mut Journal, turns: Turns<T>) {
        for (slot, _) in turns.slots() {
            journal.set(T::MAP, Key::Number(slot), None);
        }
        match turns.seat {
            Seat::Slot(slot) => self.spare_slots.push(slot),
            Seat::Class(class) => {
                self.spare_classes.entry((turns.ending, turns.members.len())).or_default().push(class);
            }
        }
    }

    fn take_slot(&mut self) -> u32 {
        self.spare_slots.pop().unwrap_or_else(|| self.take_range(1))
    }

    fn take_range(&mut self, length: u32) -> u32 {
        let first = self.next_slot;
        self.next_slot += length;
        first
    }

    fn take_class(&mut self, journal: &mut Journal, ending: Ending, length: usize) -> Class {
        let spare = self.spare_classes.entry((ending, length)).or_default().pop();
        spare.unwrap_or_else(|| self.make_lot(journal, ending, length))
    }

    /// Makes a chain of classes with their ranges, keeps all but the first as spares, and returns that.
    fn make_lot(&mut self, journal: &mut Journal, ending: Ending, length: usize) -> Class {
        let modulus = u32::try_from(length).unwrap_or(u32::MAX);
        let chain = self.next_chain;
        self.next_chain += 1;
        let name = match ending {
            Ending::Pick => format!("rr-{chain}"),
            Ending::Turn(_) => format!("sticky-rr-{chain}"),
        };
        let first = CLASS | (chain * CLASSES_PER_CHAIN);
        let classes: Vec<_> = (first..first + CLASSES_PER_CHAIN)
            .map(|number| Class { number, base: self.take_range(modulus) })
            .collect();
        // meta priority 8000:9 meta priority set numgen inc mod 3 offset 7 goto pick
        let rules = classes.iter().map(|class| {
            rule([
                Statement::Match(Match::Priority(class.number)),
                Statement::SetPriority(Source::Rotation { modulus, offset: class.base }),
                match ending {
                    Ending::Pick => goto(PICK),
                    Ending::Turn(seconds) => goto(affinity::turn_chain(seconds)),
                },
            ])
        });
        journal.add_chain(name.clone().into(), Chain { hook: None, rules: rules.collect() });
        journal.set(CLASSES, Key::Number(first), Some(Data::Verdict(Verdict::Goto(name.into())).into()));
        let taken = Class { number: first, base: classes.first().map_or(0, |class| class.base) };
        let spare = self.spare_classes.entry((ending, length)).or_default();
        spare.extend(classes.into_iter().skip(1).rev());
        taken
    }
}

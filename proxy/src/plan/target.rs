//! Where a service port's addresses lead, and how it gets from one such place to the next.
//!
//! In: endpoints to choose from. Out: a number, and the elements behind it. What nothing leads to any more is kept for
//! two retirements: packets on their way may still carry its number.

use std::net::SocketAddr;

use dataplane::nft::{Element, Key};

use super::{
    affinity::{self, Identities, Sticky},
    external::{Split, Splits},
    inheritance::Inheritance,
    journal::Journal,
    layout,
    order::Order,
    rotation::{Ending, Rotations, Turns},
    source_ranges::{Guard, Guards},
};
use crate::service_port::{Balancing, Endpoint};

/// Where some addresses of a service port lead.
#[derive(Debug)]
pub(super) enum Target {
    /// To nobody.
    Nobody(Nobody),
    /// To each endpoint in turn.
    InTurn(Turns<SocketAddr>),
    /// To each client's own endpoint.
    Sticky(Box<Sticky>),
}

/// What clients get that are led to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nobody {
    /// A refusal: there is no endpoint anywhere.
    Rejection,
    /// Silence: there are endpoints, on other nodes.
    Silence,
}

impl Target {
    /// The number that leads there.
    pub(super) fn number(&self) -> u32 {
        match self {
            Self::Nobody(Nobody::Rejection) => layout::REJECTION,
            Self::Nobody(Nobody::Silence) => layout::DROP,
            Self::InTurn(turns) => turns.number(),
            Self::Sticky(sticky) => sticky.identity(),
        }
    }

    /// Everything of it, as the maps hold it.
    pub(super) fn elements(&self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        let (turns, sticky) = match self {
            Self::Nobody(_) => (None, None),
            Self::InTurn(turns) => (Some(turns), None),
            Self::Sticky(sticky) => (None, Some(&**sticky)),
        };
        turns.into_iter().flat_map(Turns::elements).chain(sticky.into_iter().flat_map(Sticky::elements))
    }
}

/// Who is to be chosen from, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<'a> {
    /// The endpoints; perhaps none.
    pub(super) endpoints: &'a [Endpoint],
    /// What clients get where there is none.
    pub(super) nobody: Nobody,
    /// How long clients stay with their endpoint.
    pub(super) affinity_seconds: Option<u32>,
    /// How one of them is chosen.
    pub(super) balancing: Balancing,
}

/// What is removed once nothing leads to it.
#[derive(Debug)]
pub(super) enum Retired {
    /// Turns of endpoints.
    Turns(Turns<SocketAddr>),
    /// What is left of a sticky service port, or of a change to it.
    Sticky(affinity::Retired),
    /// One number for two.
    Split(Split),
    /// One number for source ranges and whom they guard.
    Guard(Guard),
    /// What an earlier run left and nobody claimed.
    Unclaimed(Inheritance),
}

/// All targets of one table.
#[derive(Debug, Default)]
pub(super) struct Targets {
    pub(super) rotations: Rotations,
    pub(super) identities: Identities,
    pub(super) splits: Splits,
    pub(super) guards: Guards,
    /// What nothing leads to since the last retirement, and what nothing led to already then.
    leaving: Vec<Retired>,
    left: Vec<Retired>,
}

impl Targets {
    /// Leads to these endpoints, from wherever it led before.
    pub(super) fn lead(&mut self, journal: &mut Journal, old: Option<Target>, choice: &Choice) -> Target {
        let order = Order::of(choice.endpoints, choice.balancing);
        match (old, choice.affinity_seconds) {
            (old, _) if order.slots.is_empty() => {
                self.abandon(old);
                Target::Nobody(choice.nobody)
            }
            (Some(Target::InTurn(turns)), None) => {
                let (turns, gone) = self.rotations.change(journal, turns, order);
                self.leaving.extend(gone.map(Retired::Turns));
                Target::InTurn(turns)
            }
            (Some(Target::Sticky(sticky)), Some(seconds))
                if sticky.seconds() == seconds && self.identities.have_room(&sticky, &order) =>
            {
                let (sticky, gone) = self.identities.change(journal, &mut self.rotations, *sticky, order);
                if !gone.is_empty() {
                    self.leaving.push(Retired::Sticky(gone));
                }
                Target::Sticky(sticky.into())
            }
            (old, affinity) => {
                self.abandon(old);
                let rotations = &mut self.rotations;
                let sticky = affinity
                    .and_then(|seconds| self.identities.start(journal, rotations, seconds, order.clone()));
                match sticky {
                    Some(sticky) => Target::Sticky(sticky.into()),
                    // None wanted, or none left: better served without than not at all.
                    None => Target::InTurn(rotations.start(journal, Ending::Pick, order)),
                }
            }
        }
    }

    /// Leaves what a service port led to for removal.
    pub(super) fn abandon(&mut self, target: Option<Target>) {
        match target {
            None | Some(Target::Nobody(_)) => {}
            Some(Target::InTurn(turns)) => self.leaving.push(Retired::Turns(turns)),
            Some(Target::Sticky(sticky)) => self.leaving.push(Retired::Sticky((*sticky).into())),
        }
    }

    /// Leaves a split for removal.
    pub(super) fn abandon_split(&mut self, split: Option<Split>) {
        self.leaving.extend(split.map(Retired::Split));
    }

    /// Leaves a guard for removal, unless it must go at once.
    pub(super) fn abandon_guard(&mut self, journal: &mut Journal, guard: Option<Guard>) {
        match guard {
            Some(guard) if self.guards.is_known(guard) => self.leaving.push(Retired::Guard(guard)),
            Some(guard) => self.guards.remove_at_once(journal, guard),
            None => {}
        }
    }

    /// Removes what nothing led to already at the last call.
    pub(super) fn retire(&mut self, journal: &mut Journal) {
        let leaving = std::mem::take(&mut self.leaving);
        for retired in std::mem::replace(&mut self.left, leaving) {
            match retired {
                Retired::Turns(turns) => self.rotations.remove(journal, turns),
                Retired::Sticky(gone) => self.identities.remove(journal, &mut self.rotations, gone),
                Retired::Split(split) => self.splits.remove(journal, split),
                Retired::Guard(guard) => self.guards.remove(journal, guard),
                Retired::Unclaimed(inheritance) => {
                    for (map, key, _) in inheritance.elements() {
                        journal.remove(map, key);
                    }
                    self.rotations.free_unclaimed(&inheritance);
                    self.identities.free_unclaimed();
                    self.splits.free_unclaimed(&inheritance);
                }
            }
        }
    }

    /// Says whether nothing waits to be removed.
    pub(super) fn is_settled(&self) -> bool {
        self.leaving.is_empty() && self.left.is_empty()
    }

    /// Goes on with what an earlier run led to under a number.
    pub(super) fn inherit(&mut self, inheritance: &mut Inheritance, number: u32) -> Option<Target> {
        match number {
            layout::REJECTION => return Some(Target::Nobody(Nobody::Rejection)),
            layout::DROP => return Some(Target::Nobody(Nobody::Silence)),
            _ => {}
        }
        let turns = self.rotations.inherit(&mut inheritance.slots, Ending::Pick, number);
        turns.map(Target::InTurn).or_else(|| {
            let sticky = self.identities.inherit(inheritance, &mut self.rotations, number);
            sticky.map(|sticky| Target::Sticky(sticky.into()))
        })
    }

    /// Leaves for removal what an earlier run left and nobody claimed.
    pub(super) fn disclaim(&mut self, journal: &mut Journal, mut inheritance: Inheritance) {
        self.guards.disclaim(journal, &mut inheritance);
        if inheritance.elements().next().is_some() {
            self.leaving.push(Retired::Unclaimed(inheritance));
        }
    }

    /// What is still to be removed, as the maps hold it.
    pub(super) fn leftovers(&self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        self.leaving.iter().chain(&self.left).flat_map(|retired| -> Vec<_> {
            match retired {
                Retired::Turns(turns) => turns.elements().collect(),
                Retired::Sticky(gone) => gone.elements().collect(),
                Retired::Split(split) => split.elements().collect(),
                Retired::Guard(guard) => guard.elements().collect(),
                Retired::Unclaimed(inheritance) => inheritance.elements().collect(),
            }
        })
    }
}

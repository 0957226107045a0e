//! Which endpoint stands in which slot. Pure.
//!
//! In: endpoints with their weights, and how the service balances. Out: as many slots as a round has turns, or as its hash has
//! values, each with its endpoint. A class then chooses among slots and need know nothing else.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use super::rendezvous;
use crate::{
    objects::annotations::{MOST_TURNS, greatest_common_divisor, turns},
    service_port::{Balancing, Endpoint, ServicePort},
};

/// What stands in the slots of a class, and how one of them is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order<T> {
    pub(super) balancing: Balancing,
    pub(super) slots: Vec<T>,
}

/// How many turns a service port's weights would take, if that is too many: then they do not count.
pub fn excess_turns(port: &ServicePort) -> Option<u32> {
    let all = too_many_turns(&port.endpoints, port.balancing);
    all.or_else(|| too_many_turns(&port.local_endpoints, port.balancing))
}

fn too_many_turns(endpoints: &[Endpoint], balancing: Balancing) -> Option<u32> {
    let weights = endpoints.iter().map(|endpoint| endpoint.weight);
    let are_equal = weights.clone().is_sorted_by(|a, b| a == b);
    let turns = turns(weights);
    (turns > MOST_TURNS && !are_equal && balancing != Balancing::SourceHash).then_some(turns)
}

impl Order<SocketAddr> {
    /// Gives each endpoint as many slots as it weighs. Weights that would take too many turns do not count.
    pub(super) fn of(endpoints: &[Endpoint], balancing: Balancing) -> Self {
        let counts = too_many_turns(endpoints, balancing).is_none();
        let weigh = |endpoint: &Endpoint| (endpoint.address, if counts { endpoint.weight.max(1) } else { 1 });
        let mut members: Vec<_> = endpoints.iter().map(weigh).collect();
        members.sort_unstable();
        let slots = match members.as_slice() {
            [] => Vec::new(),
            [(only, _)] => vec![*only],
            members if balancing == Balancing::SourceHash => rendezvous::table(members),
            members if members.is_sorted_by(|(_, a), (_, b)| a == b) => {
                members.iter().map(|(address, _)| *address).collect()
            }
            members => interleaved(members),
        };
        Self { balancing, slots }
    }
}

impl<T: Copy + Ord> Order<T> {
    /// The same with something else in each place; places for which there is nothing are left out.
    pub(super) fn map<U>(self, with: impl Fn(T) -> Option<U>) -> Order<U> {
        Order { balancing: self.balancing, slots: self.slots.into_iter().filter_map(with).collect() }
    }

    /// Begins the turns at another place. A hash has no beginning.
    pub(super) fn beginning_at(mut self, place: usize) -> Self {
        if self.balancing != Balancing::SourceHash && !self.slots.is_empty() {
            let place = place % self.slots.len();
            self.slots.rotate_left(place);
        }
        self
    }

    /// The same turns in places that are held already, as many as there are here: who stays keeps his places, and who comes
    /// takes over those of somebody who leaves. Where weights change more than that, and for a hash, the places are as they are.
    pub(super) fn in_places_of(self, held: &[T]) -> Self {
        if self.balancing == Balancing::SourceHash {
            return self;
        }
        let (before, after) = (counted(held), counted(&self.slots));
        let mut leaving = difference(&before, &after);
        let mut coming = BTreeMap::<usize, VecDeque<T>>::new();
        for (member, count) in difference(&after, &before) {
            coming.entry(count).or_default().push_back(member);
        }
        let mut heirs = BTreeMap::new();
        for member in held {
            if let Some(count) = leaving.remove(member) {
                match coming.get_mut(&count).and_then(VecDeque::pop_front) {
                    Some(heir) => heirs.insert(*member, heir),
                    None => return self,
                };
            }
        }
        let slots = held.iter().map(|member| *heirs.get(member).unwrap_or(member)).collect();
        Self { slots, ..self }
    }
}

/// How many places each has.
fn counted<T: Copy + Ord>(places: &[T]) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for member in places {
        *counts.entry(*member).or_default() += 1;
    }
    counts
}

/// Those that do not have as many places in the other one.
fn difference<T: Copy + Ord>(these: &BTreeMap<T, usize>, others: &BTreeMap<T, usize>) -> BTreeMap<T, usize> {
    these.iter().filter(|(member, count)| others.get(member) != Some(count)).map(|(m, c)| (*m, *c)).collect()
}

/// Smooth weighted round robin, as nginx has it (`ngx_http_upstream_round_robin.c`): everyone gains its weight each turn, and
/// whoever has most by then has the turn and pays for all. Heavy members come often, and never all at once.
fn interleaved(members: &[(SocketAddr, u32)]) -> Vec<SocketAddr> {
    let weights = || members.iter().map(|(_, weight)| *weight);
    let divisor = i64::from(weights().fold(0, greatest_common_divisor).max(1));
    let total = i64::from(turns(weights()));
    let mut standing = vec![0_i64; members.len()];
    let mut order = Vec::new();
    for _ in 0..total {
        for (gained, weight) in standing.iter_mut().zip(weights()) {
            *gained += i64::from(weight) / divisor;
        }
        // Of those who have as much, the first has the turn.
        let most = standing.iter_mut().zip(members).rev().max_by_key(|(gained, _)| **gained);
        if let Some((gained, (address, _))) = most {
            *gained -= total;
            order.push(*address);
        }
    }
    order
}

#[cfg(test)]
mod tests;

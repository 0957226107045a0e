//! Who may use a load balancer's addresses (`loadBalancerSourceRanges`).
//!
//! The addresses of a service port that has ranges hold a *guard*: a number that stands for a chain, which returns what comes
//! from within the ranges and drops the rest, and for the number that the packet is led to then. Equal lists share a
//! chain, whose name says which list it is.

use std::collections::BTreeMap;

use dataplane::{
    hash,
    nft::{
        Chain, ChainName, Data, DataType, Element, Key, KeyType, Match, Rule, SetType, Source, Statement,
        Verdict,
    },
};
use ipnetwork::IpNetwork;

use super::{
    inheritance::Inheritance,
    journal::Journal,
    layout::{kind, rule},
    numbers::Numbers,
};

/// Guard -> the chain of its ranges.
pub(super) const GUARDS: &str = "guards";
/// Guard -> the number of whom it guards.
pub(super) const GUARDED: &str = "guarded";
/// The chain of packets to an address with a guard.
pub(super) const GUARD: &str = "guarded";

/// The maps of guards.
pub(super) const MAPS: [(&str, SetType); 2] =
    [(GUARDS, kind(KeyType::Number, DataType::Verdict)), (GUARDED, kind(KeyType::Number, DataType::Number))];

/// Set in every guard, and with these bits in no other number.
const FIRST: u32 = 0x9000_0000;
/// The bits that tell guards from other numbers.
const BITS: u32 = 0xf000_0000;

/// Says whether a number is a guard.
pub(super) fn is_guard(number: u32) -> bool {
    number & BITS == FIRST
}

/// The condition that the address holds a guard.
pub(super) fn has_guard() -> Statement {
    Statement::Match(Match::PriorityBits { mask: BITS, number: FIRST })
}

/// Lets those pass who may, and says whom they are led to.
pub(super) fn guard() -> Vec<Rule> {
    let by_number = |map: &'static str| Source::ByPriority { mask: u32::MAX, map: map.into() };
    vec![
        // meta priority vmap @guards
        rule([Statement::VerdictMap(by_number(GUARDS))]),
        // meta priority set meta priority map @guarded
        rule([Statement::SetPriority(by_number(GUARDED))]),
    ]
}

/// Stands for a list of ranges: a hash of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ListId(u64);

impl ListId {
    fn of(ranges: &[IpNetwork]) -> Self {
        let bytes = ranges.iter().flat_map(|range| range.to_string().into_bytes().into_iter().chain([b' ']));
        Self(hash::stable(bytes))
    }

    fn chain_name(self) -> ChainName {
        format!("ranges-{:016x}", self.0).into()
    }

    fn parse(chain_name: &str) -> Option<Self> {
        u64::from_str_radix(chain_name.strip_prefix("ranges-")?, 16).ok().map(Self)
    }
}

fn chain(ranges: &[IpNetwork]) -> Chain {
    let returned = |range: &IpNetwork| {
        rule([Statement::Match(Match::SourceInside(*range)), Statement::Verdict(Verdict::Return)])
    };
    let dropped = rule([Statement::Counter, Statement::Verdict(Verdict::Drop)]);
    Chain { hook: None, rules: ranges.iter().map(returned).chain([dropped]).collect() }
}

/// One number for ranges and for whom they guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guard {
    number: u32,
    list: ListId,
    guarded: u32,
}

impl Guard {
    /// The number that addresses hold.
    pub(super) fn number(self) -> u32 {
        self.number
    }

    /// Both meanings, as the maps hold them.
    pub(super) fn elements(self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        let key = Key::Number(self.number);
        let jump = Data::Verdict(Verdict::Jump(self.list.chain_name()));
        [(GUARDS, key, jump.into()), (GUARDED, key, Data::Number(self.guarded).into())].into_iter()
    }
}

/// All guards of one table, and their lists.
#[derive(Debug)]
pub(super) struct Guards {
    numbers: Numbers,
    lists: BTreeMap<ListId, List>,
    /// Guards that an earlier run has made.
    unclaimed: BTreeMap<u32, Guard>,
}

#[derive(Debug, Default)]
struct List {
    /// Empty, for not known, while only guards of an earlier run have it.
    ranges: Box<[IpNetwork]>,
    /// How many guards have it.
    users: usize,
}

impl Default for Guards {
    fn default() -> Self {
        Self { numbers: Numbers::from(FIRST), lists: BTreeMap::new(), unclaimed: BTreeMap::new() }
    }
}

impl Guards {
    /// Makes a guard let these ranges, at least one, to a number; a new one if there was none.
    pub(super) fn lead(
        &mut self,
        journal: &mut Journal,
        old: Option<Guard>,
        ranges: &[IpNetwork],
        guarded: u32,
    ) -> Guard {
        let list = self.take_list(journal, ranges);
        let number = old.map_or_else(|| self.numbers.take(), Guard::number);
        let guard = Guard { number, list, guarded };
        journal.exchange(old.map(Guard::elements), guard.elements());
        if let Some(old) = old {
            self.give_back(journal, old.list);
        }
        guard
    }

    /// Says whether it is known what the guard's list holds. If not, it cannot be planned for, and goes at once.
    pub(super) fn is_known(&self, guard: Guard) -> bool {
        self.lists.get(&guard.list).is_some_and(|list| !list.ranges.is_empty())
    }

    /// Removes a guard that no address holds, and frees its number.
    pub(super) fn remove(&mut self, journal: &mut Journal, guard: Guard) {
        self.remove_at_once(journal, guard);
        self.numbers.give_back(guard.number);
    }

    /// Removes a guard that an address held until now. A packet that has just read it is dropped; it must not meet another service port's
    /// guard, so nobody has the number until the next start.
    pub(super) fn remove_at_once(&mut self, journal: &mut Journal, guard: Guard) {
        for (map, key, _) in guard.elements() {
            journal.remove(map, key);
        }
        self.give_back(journal, guard.list);
    }

    fn take_list(&mut self, journal: &mut Journal, ranges: &[IpNetwork]) -> ListId {
        let id = ListId::of(ranges);
        let list = self.lists.entry(id).or_insert_with(|| {
            journal.add_chain(id.chain_name(), chain(ranges));
            List::default()
        });
        list.ranges = ranges.into();
        list.users += 1;
        id
    }

    fn give_back(&mut self, journal: &mut Journal, id: ListId) {
        let Some(list) = self.lists.get_mut(&id) else { return };
        list.users = list.users.saturating_sub(1);
        if list.users == 0 {
            self.lists.remove(&id);
            journal.remove_chain(id.chain_name());
        }
    }

    /// Takes stock of a chain that an earlier run made. Says whether it is one of a list.
    pub(super) fn adopt_chain(&mut self, name: &str) -> bool {
        let list = ListId::parse(name);
        self.lists.extend(list.map(|id| (id, List::default())));
        list.is_some()
    }

    /// Takes stock of the guards that an earlier run made, once its chains are known.
    pub(super) fn adopt(&mut self, inheritance: &Inheritance) {
        for (&number, chain) in &inheritance.guards {
            if let (Some(list), Some(&guarded)) = (ListId::parse(chain), inheritance.guarded.get(&number)) {
                self.lists.entry(list).or_default().users += 1;
                self.unclaimed.insert(number, Guard { number, list, guarded });
            }
        }
        let keys = inheritance.guards.keys().chain(inheritance.guarded.keys());
        self.numbers.adopt(&keys.copied().filter(|number| is_guard(*number)).collect());
    }

    /// Goes on with a guard that an earlier run made.
    pub(super) fn inherit(&mut self, inheritance: &mut Inheritance, number: u32) -> Option<Guard> {
        let guard = self.unclaimed.remove(&number)?;
        inheritance.guards.remove(&number);
        inheritance.guarded.remove(&number);
        Some(guard)
    }

    /// Removes what an earlier run left and nobody claimed, at once, as [`Guards::remove_at_once`] does.
    pub(super) fn disclaim(&mut self, journal: &mut Journal, inheritance: &mut Inheritance) {
        let guards = std::mem::take(&mut inheritance.guards).into_keys();
        let guarded = std::mem::take(&mut inheritance.guarded).into_keys();
        let left = guards.map(|guard| (GUARDS, guard)).chain(guarded.map(|guard| (GUARDED, guard)));
        for (map, number) in left {
            journal.remove(map, Key::Number(number));
        }
        for guard in std::mem::take(&mut self.unclaimed).into_values() {
            self.give_back(journal, guard.list);
        }
        self.lists.retain(|id, list| {
            if list.users == 0 {
                journal.remove_chain(id.chain_name());
            }
            list.users > 0
        });
    }

    /// Every chain of a list, as far as it is known what the list holds.
    pub(super) fn chains(&self) -> impl Iterator<Item = (ChainName, Chain)> {
        let known = self.lists.iter().filter(|(_, list)| !list.ranges.is_empty());
        known.map(|(id, list)| (id.chain_name(), chain(&list.ranges)))
    }
}

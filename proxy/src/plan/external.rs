//! Addresses that are reached from outside: external IPs, a load balancer's, node ports; and who goes where.
//!
//! | external policy | a pod of this node | this node itself | a stranger |
//! |---|---|---|---|
//! | Cluster | all endpoints, masqueraded | all endpoints, masqueraded | all endpoints, masqueraded |
//! | Local | all endpoints | all endpoints, masqueraded | local endpoints; without any, dropped |
//!
//! With policy Local the addresses of a service port hold a *split*: one number that stands for two.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::nft::{
    Chain, Data, DataType, Element, Key, KeyType, Match, Rule, SetType, Source, Statement, Verdict,
};

use super::{
    Settings, Surroundings,
    inheritance::Inheritance,
    journal::Journal,
    layout::{DISPATCH, goto, kind, mark_for_masquerade, rule},
    numbers::Numbers,
    settings, source_ranges,
};
use crate::service_port::Family;

/// External IP . protocol . port -> number; the load balancer's, too.
pub(super) const EXTERNAL_VIPS: &str = "external-vips";
/// Split -> number of all endpoints.
pub(super) const NEAR: &str = "splits-near";
/// Split -> number of local endpoints.
pub(super) const LOCAL: &str = "splits-local";

/// The chain of packets to an external IP.
pub(super) const EXTERNAL_IP: &str = "external-ip";
/// The chain of packets to any address that is reached from outside.
pub(super) const EXTERNAL: &str = "external";
/// The chain that says which of a split's numbers is meant.
const SPLIT_UP: &str = "split";
/// The chain of clients on this node, for which the policy does not count.
const NEARBY: &str = "near";

/// The maps of splits.
pub(super) const MAPS: [(&str, SetType); 2] =
    [(NEAR, kind(KeyType::Number, DataType::Number)), (LOCAL, kind(KeyType::Number, DataType::Number))];

/// Set in every split, and with these bits in no other number.
const SPLIT: u32 = 0xa000_0000;
/// The bits that tell splits from other numbers.
const SPLIT_BITS: u32 = 0xe000_0000;

/// Finds packets to an external IP.
pub(super) fn find() -> Rule {
    // meta priority set ip daddr . meta l4proto . th dport map @external-vips goto external-ip
    rule([Statement::SetPriority(Source::ByService(EXTERNAL_VIPS.into())), goto(EXTERNAL_IP)])
}

/// The chains, with their names. The ones for guards and splits are passed by a jump and come back: all that leads to `dispatch` is
/// walked by the kernel at every commit that adds a verdict (`nft_chain_validate`), so few rules do.
pub(super) fn chains(
    family: Family,
    settings: &Settings,
    surroundings: &Surroundings,
) -> [(&'static str, Chain); 5] {
    let number_in =
        |map: &'static str| Statement::SetPriority(Source::ByPriority { mask: u32::MAX, map: map.into() });
    let jump = |chain: &'static str| Statement::Verdict(Verdict::Jump(chain.into()));
    let is_split = Statement::Match(Match::PriorityBits { mask: SPLIT_BITS, number: SPLIT });
    let is_one = Statement::Match(Match::OtherPriorityBits { mask: SPLIT_BITS, number: SPLIT });
    let from_local_pods = settings::from_local_pods(family, settings, surroundings);
    let mut split: Vec<_> = from_local_pods
        .into_iter()
        .map(|condition| rule([Statement::Match(condition), goto(NEARBY)]))
        .collect();
    split.push(rule([Statement::Match(Match::FromThisHost), mark_for_masquerade(), goto(NEARBY)]));
    split.push(rule([number_in(LOCAL)]));
    [
        (
            EXTERNAL_IP,
            vec![rule([source_ranges::has_guard(), jump(source_ranges::GUARD)]), rule([goto(EXTERNAL)])],
        ),
        (source_ranges::GUARD, source_ranges::guard()),
        // A number that is none of dispatch's, because a split or a guard was removed too early, is dropped by `pick`.
        (
            EXTERNAL,
            vec![
                rule([is_one, mark_for_masquerade()]),
                rule([is_split, jump(SPLIT_UP)]),
                rule([goto(DISPATCH)]),
            ],
        ),
        (SPLIT_UP, split),
        (NEARBY, vec![rule([number_in(NEAR)])]),
    ]
    .map(|(name, rules)| (name, Chain { hook: None, rules }))
}

/// One number for two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Split {
    number: u32,
    near: u32,
    local: u32,
}

impl Split {
    /// The number that addresses hold.
    pub(super) fn number(self) -> u32 {
        self.number
    }

    /// Both, as the maps hold them.
    pub(super) fn elements(self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        let element = |map, number| (map, Key::Number(self.number), Data::Number(number).into());
        [element(NEAR, self.near), element(LOCAL, self.local)].into_iter()
    }
}

/// All splits of one table.
#[derive(Debug)]
pub(super) struct Splits {
    numbers: Numbers,
    /// Splits that an earlier run has filled.
    unclaimed: BTreeMap<u32, Split>,
}

impl Default for Splits {
    fn default() -> Self {
        Self { numbers: Numbers::from(SPLIT), unclaimed: BTreeMap::new() }
    }
}

impl Splits {
    /// Makes a split mean these numbers; a new one if there was none.
    pub(super) fn lead(&mut self, journal: &mut Journal, old: Option<Split>, near: u32, local: u32) -> Split {
        let number = old.map_or_else(|| self.numbers.take(), Split::number);
        let split = Split { number, near, local };
        journal.exchange(old.map(Split::elements), split.elements());
        split
    }

    /// Removes a split to which nothing leads, and frees its number.
    pub(super) fn remove(&mut self, journal: &mut Journal, split: Split) {
        for (map, key, _) in split.elements() {
            journal.remove(map, key);
        }
        self.numbers.give_back(split.number);
    }

    /// Takes stock of what an earlier run left. A half of a split is of no use.
    pub(super) fn adopt(&mut self, inheritance: &Inheritance) {
        let splits = inheritance.near.iter().filter_map(|(&number, &near)| {
            let local = *inheritance.local.get(&number)?;
            Some((number, Split { number, near, local }))
        });
        self.unclaimed = splits.collect();
        self.numbers.adopt(&used(inheritance));
    }

    /// Goes on with a split that an earlier run filled.
    pub(super) fn inherit(&mut self, inheritance: &mut Inheritance, number: u32) -> Option<Split> {
        let split = self.unclaimed.remove(&number)?;
        inheritance.near.remove(&number);
        inheritance.local.remove(&number);
        Some(split)
    }

    /// Frees the numbers of what an earlier run left and nobody claimed.
    pub(super) fn free_unclaimed(&mut self, inheritance: &Inheritance) {
        self.unclaimed.clear();
        for number in used(inheritance) {
            self.numbers.give_back(number);
        }
    }
}

/// The splits that an earlier run gave out. Others may have added anything.
fn used(inheritance: &Inheritance) -> BTreeSet<u32> {
    let keys = inheritance.near.keys().chain(inheritance.local.keys());
    keys.copied().filter(|number| is_split(*number)).collect()
}

/// Says what a number means where it is a split.
pub(super) fn is_split(number: u32) -> bool {
    number & SPLIT_BITS == SPLIT
}

//! Session affinity by client address: a client stays with its endpoint, whichever address of the service it uses.
//!
//! ```text
//!  dispatch ─▶ affinity-10800 ─ client known ─▶ recall-10800 ─ endpoint still there ─▶ DNAT, remembered for longer
//!                    │                             │ departed, or gone
//!                    ▼                             ▼
//!               choose-10800 ─▶ sticky-… ─▶ turn-10800 ─▶ remember-10800 ─▶ pick
//!                    └────────── one endpoint ────────────────▲
//! ```
//!
//! A sticky service has an *identity*, and its endpoints have ids that begin with it. Clients are remembered by
//! address and identity with an endpoint id. Ids stay when other endpoints come and go, so no client moves that need not.
//! An endpoint that leaves keeps its slot for a while, for packets that are on their way by its turn; so that clients who remember it
//! do not go there meanwhile, its id is among the departed from the same commit on.
//! Timeouts stand in rules; services with the same timeout share them, and identities of one timeout lie in blocks of 256.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use dataplane::nft::{
    Affinity, Chain, ChainName, Data, DataType, Element, Held, Key, KeyType, SetType, Source, Statement,
    Verdict,
};

use super::{
    inheritance::Inheritance,
    journal::Journal,
    layout::{PICK, SLOTS, by_class, goto, kind, rule},
    order::Order,
    rotation::{Ending, Member, Rotations, Turns},
};

/// The map client . identity -> endpoint id, which rules write.
pub const CLIENTS: &str = "clients";
/// First of 256 identities -> the chain of their timeout.
const STICKIES: &str = "stickies";
/// Identity -> class, or id of the only endpoint.
pub(super) const CHOICES: &str = "choices";
/// Turn -> endpoint id.
pub(super) const TURNS: &str = "turns";

/// Id of an endpoint that has left and still has its slot -> return.
pub(super) const DEPARTED: &str = "departed";

/// The maps of affinity.
pub(super) const MAPS: [(&str, SetType); 5] = [
    (CLIENTS, SetType { dynamic: Some(MOST_CLIENTS), ..kind(KeyType::Client, DataType::Number) }),
    (STICKIES, kind(KeyType::Number, DataType::Verdict)),
    (CHOICES, kind(KeyType::Number, DataType::Number)),
    (TURNS, kind(KeyType::Number, DataType::Number)),
    (DEPARTED, kind(KeyType::Number, DataType::Verdict)),
];

/// How many clients are remembered at a time; beyond that, new ones take turns and are forgotten at once.
const MOST_CLIENTS: u32 = 1 << 20;

/// Set in every identity and endpoint id.
const STICKY: u32 = 0xc000_0000;
/// The bits of an endpoint id that are its service's identity.
const IDENTITY: u32 = 0xffff_f000;
/// How many ids an identity has, one of which is itself.
const IDS: u32 = !IDENTITY + 1;
/// How many identities share a timeout's block.
const IDENTITIES_PER_BLOCK: u32 = 256;
/// How many numbers a block has.
const BLOCK: u32 = IDENTITIES_PER_BLOCK * IDS;

/// The block's part of the priority that `stickies` is asked for.
pub(super) fn by_block() -> Source {
    Source::ByPriority { mask: !(BLOCK - 1), map: STICKIES.into() }
}

/// The chain that a sticky service's rotation leads to.
pub(super) fn turn_chain(seconds: u32) -> String {
    format!("turn-{seconds}")
}

fn affinity_chain(seconds: u32) -> String {
    format!("affinity-{seconds}")
}

/// An endpoint id, which takes turns in place of the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndpointId(u32);

impl From<u32> for EndpointId {
    fn from(number: u32) -> Self {
        Self(number)
    }
}

impl From<EndpointId> for u32 {
    fn from(id: EndpointId) -> Self {
        id.0
    }
}

impl Member for EndpointId {
    const MAP: &'static str = TURNS;

    fn element(self) -> Element {
        Data::Number(self.0).into()
    }
}

/// A sticky service port.
#[derive(Debug)]
pub(super) struct Sticky {
    seconds: u32,
    identity: u32,
    /// The id that was given out last.
    last: u32,
    ids: BTreeMap<SocketAddr, EndpointId>,
    /// Only with several endpoints are there turns.
    turns: Option<Turns<EndpointId>>,
    /// What its identity leads to, once it does.
    choice: Option<u32>,
}

impl Sticky {
    pub(super) fn identity(&self) -> u32 {
        self.identity
    }

    pub(super) fn seconds(&self) -> u32 {
        self.seconds
    }

    /// Everything of it, as the maps hold it.
    pub(super) fn elements(&self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        let choice =
            self.choice.map(|choice| (CHOICES, Key::Number(self.identity), Data::Number(choice).into()));
        let turns = self.turns.iter().flat_map(Turns::elements);
        choice.into_iter().chain(turns).chain(id_elements(&self.ids))
    }

    /// The next id that no endpoint has or had of late, if there is one left; after the last comes the first, when the clients of old
    /// are long forgotten.
    fn next_id(&mut self, retiring: &BTreeSet<u32>) -> Option<EndpointId> {
        let after = |last: u32| last % (IDS - 1) + 1;
        let ids = std::iter::successors(Some(after(self.last)), |last| Some(after(*last)));
        let mut ids = ids.take(id_limit()).map(|last| EndpointId(self.identity | last));
        let is_taken =
            |id: &EndpointId| retiring.contains(&id.0) || self.ids.values().any(|taken| taken == id);
        let id = ids.find(|id| !is_taken(id))?;
        self.last = id.0 & !IDENTITY;
        Some(id)
    }
}

fn id_elements(ids: &BTreeMap<SocketAddr, EndpointId>) -> impl Iterator<Item = (&'static str, Key, Element)> {
    ids.iter().map(|(endpoint, id)| (SLOTS, Key::Number(id.0), Data::Endpoint(*endpoint).into()))
}

/// What says that an endpoint has left.
pub(super) fn departure(id: u32) -> (&'static str, Key, Element) {
    (DEPARTED, Key::Number(id), Data::Verdict(Verdict::Return).into())
}

/// What is left of a sticky service port, or of a change to it.
#[derive(Debug, Default)]
pub(super) struct Retired {
    whole: Option<Sticky>,
    ids: BTreeMap<SocketAddr, EndpointId>,
    turns: Option<Turns<EndpointId>>,
}

impl From<Sticky> for Retired {
    fn from(sticky: Sticky) -> Self {
        Self { whole: Some(sticky), ..Self::default() }
    }
}

impl Retired {
    /// Says whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.whole.is_none() && self.ids.is_empty() && self.turns.is_none()
    }

    /// Everything of it, as the maps still hold it.
    pub(super) fn elements(&self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        let turns = self.turns.iter().flat_map(Turns::elements);
        let departures = self.ids.values().map(|id| departure(id.0));
        self.whole
            .iter()
            .flat_map(Sticky::elements)
            .chain(turns)
            .chain(id_elements(&self.ids))
            .chain(departures)
    }
}

/// All identities of one table.
#[derive(Debug, Default)]
pub(super) struct Identities {
    /// The timeout of each block, by the block's first identity.
    blocks: BTreeMap<u32, u32>,
    /// Unused identities of each timeout, each with the id of it that was given out last.
    spare: BTreeMap<u32, Vec<(u32, u32)>>,
    /// Identities that an earlier run has used, with their timeout.
    unclaimed: BTreeMap<u32, u32>,
    /// Ids of endpoints that have left, whose slots are still there.
    retiring: BTreeSet<u32>,
    /// Ids whose removal was planned, and that clients may still be remembered with.
    gone: BTreeSet<u32>,
}

impl Identities {
    /// Starts affinity for endpoints, at least one. `None`: the identities are used up, by a quarter of a million service ports
    /// or a thousand timeouts.
    pub(super) fn start(
        &mut self,
        journal: &mut Journal,
        rotations: &mut Rotations,
        seconds: u32,
        order: Order<SocketAddr>,
    ) -> Option<Sticky> {
        let (identity, last) = self.take_identity(journal, seconds)?;
        let (ids, turns, choice) = (BTreeMap::new(), None, None);
        let sticky = Sticky { seconds, identity, last, ids, turns, choice };
        Some(self.change(journal, rotations, sticky, order).0)
    }

    /// Says whether a sticky service port has ids for other endpoints. If not, its clients must be forgotten.
    pub(super) fn have_room(&self, sticky: &Sticky, order: &Order<SocketAddr>) -> bool {
        let limit = id_limit();
        let taken =
            self.retiring.range(sticky.identity..=sticky.identity | (IDS - 1)).count() + sticky.ids.len();
        if taken + order.slots.len() <= limit {
            return true;
        }
        let wanted: BTreeSet<_> = order.slots.iter().collect();
        let staying = wanted.iter().filter(|endpoint| sticky.ids.contains_key(**endpoint)).count();
        taken + (wanted.len() - staying).min(limit - staying.min(limit)) <= limit
    }

    /// Exchanges endpoints; those that stay keep their id, and with it their clients.
    pub(super) fn change(
        &mut self,
        journal: &mut Journal,
        rotations: &mut Rotations,
        mut sticky: Sticky,
        order: Order<SocketAddr>,
    ) -> (Sticky, Retired) {
        let mut retired = Retired::default();
        let (known, wanted) = (std::mem::take(&mut sticky.ids), order.slots.iter().collect::<BTreeSet<_>>());
        (sticky.ids, retired.ids) = known.into_iter().partition(|(known, _)| wanted.contains(known));
        for id in retired.ids.values() {
            self.retiring.insert(id.0);
            let (map, key, element) = departure(id.0);
            journal.put(map, key, false, element);
        }
        for endpoint in wanted {
            if !sticky.ids.contains_key(endpoint) {
                let Some(id) = sticky.next_id(&self.retiring) else { break };
                sticky.ids.insert(*endpoint, id);
                journal.put(SLOTS, Key::Number(id.0), false, Data::Endpoint(*endpoint).into());
            }
        }
        let ids = order.map(|endpoint| sticky.ids.get(&endpoint).copied());
        let only = ids.slots.first().map_or(0, |id| id.0);
        (sticky.turns, retired.turns) = match (sticky.turns.take(), ids.slots.len()) {
            (turns, 1) => (None, turns),
            (Some(turns), _) => {
                let (turns, gone) = rotations.change(journal, turns, ids);
                (Some(turns), gone)
            }
            (None, _) => (Some(rotations.start(journal, Ending::Turn(sticky.seconds), ids)), None),
        };
        let choice = sticky.turns.as_ref().map_or(only, Turns::number);
        if sticky.choice != Some(choice) {
            let key = Key::Number(sticky.identity);
            journal.put(CHOICES, key, sticky.choice.is_some(), Data::Number(choice).into());
            sticky.choice = Some(choice);
        }
        (sticky, retired)
    }

    /// Goes on with what an earlier run led to under that identity, if all of it is there.
    pub(super) fn inherit(
        &mut self,
        inheritance: &mut Inheritance,
        rotations: &mut Rotations,
        identity: u32,
    ) -> Option<Sticky> {
        let seconds = *self.unclaimed.get(&identity)?;
        let choice = *inheritance.choices.get(&identity)?;
        let known = || inheritance.slots.range(identity..=identity | (IDS - 1));
        let last = known().next_back().map_or(0, |(id, _)| id & !IDENTITY);
        let stay = known().filter(|(id, _)| !inheritance.departed.contains(id));
        let ids: BTreeMap<_, _> = stay.map(|(id, endpoint)| (*endpoint, EndpointId(*id))).collect();
        let turns = if choice & STICKY == STICKY {
            None
        } else {
            Some(rotations.inherit(&mut inheritance.turns, Ending::Turn(seconds), choice)?)
        };
        self.unclaimed.remove(&identity);
        inheritance.choices.remove(&identity);
        for id in ids.values() {
            inheritance.slots.remove(&id.0);
        }
        Some(Sticky { seconds, identity, last, ids, turns, choice: Some(choice) })
    }

    /// Removes what nothing leads to, and frees its numbers.
    pub(super) fn remove(&mut self, journal: &mut Journal, rotations: &mut Rotations, gone: Retired) {
        for id in gone.ids.values() {
            self.retiring.remove(&id.0);
            journal.remove(DEPARTED, Key::Number(id.0));
        }
        let (mut ids, mut turns) = (gone.ids, gone.turns.into_iter().collect::<Vec<_>>());
        if let Some(sticky) = gone.whole {
            ids.extend(sticky.ids);
            turns.extend(sticky.turns);
            journal.remove(CHOICES, Key::Number(sticky.identity));
            self.spare.entry(sticky.seconds).or_default().push((sticky.identity, sticky.last));
        }
        for id in ids.into_values() {
            journal.remove(SLOTS, Key::Number(id.0));
            self.gone.insert(id.0);
        }
        for turns in turns {
            rotations.remove(journal, turns);
        }
    }

    /// Takes stock of the blocks of identities that an earlier run made, and of those that it used.
    pub(super) fn adopt(&mut self, held: &Held, inheritance: &Inheritance) {
        let elements = held.maps.get(STICKIES).into_iter().flat_map(|map| &map.elements);
        for (key, element) in elements {
            if let (Key::Number(block), Data::Verdict(Verdict::Goto(chain))) = (key, &element.data)
                && let Some(seconds) = chain.strip_prefix("affinity-").and_then(|word| word.parse().ok())
            {
                self.keep(*block, seconds);
            }
        }
        let used: BTreeSet<_> =
            inheritance.choices.keys().chain(inheritance.slots.keys()).map(|n| n & IDENTITY).collect();
        for (seconds, spare) in &mut self.spare {
            let (unclaimed, rest) = spare.iter().partition(|(identity, _)| used.contains(identity));
            *spare = rest;
            let unclaimed: Vec<(u32, u32)> = unclaimed;
            self.unclaimed.extend(unclaimed.into_iter().map(|(identity, _)| (identity, *seconds)));
        }
    }

    /// Frees the identities that an earlier run used and nobody claimed.
    pub(super) fn free_unclaimed(&mut self) {
        for (identity, seconds) in std::mem::take(&mut self.unclaimed) {
            self.spare.entry(seconds).or_default().push((identity, 0));
        }
    }

    /// Takes out the ids that no endpoint has any more.
    pub(super) fn take_gone(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.gone)
    }

    /// Every chain of every timeout.
    pub(super) fn chains(&self) -> impl Iterator<Item = (ChainName, Chain)> {
        let timeouts: BTreeSet<u32> = self.blocks.values().copied().collect();
        timeouts.into_iter().flat_map(chains)
    }

    /// The element that leads to each block's chain.
    pub(super) fn elements(&self) -> impl Iterator<Item = (&'static str, Key, Element)> {
        self.blocks.iter().map(|(block, seconds)| (STICKIES, Key::Number(*block), block_element(*seconds)))
    }

    fn take_identity(&mut self, journal: &mut Journal, seconds: u32) -> Option<(u32, u32)> {
        loop {
            if let Some(spare) = self.spare.get_mut(&seconds).and_then(Vec::pop) {
                return Some(spare);
            }
            let last = self.blocks.last_key_value().map(|(last, _)| *last);
            let block = last.map_or(Some(STICKY), |last| last.checked_add(BLOCK))?;
            if self.blocks.values().all(|known| *known != seconds) {
                for (name, chain) in chains(seconds) {
                    journal.add_chain(name, chain);
                }
            }
            journal.put(STICKIES, Key::Number(block), false, block_element(seconds));
            self.keep(block, seconds);
        }
    }

    fn keep(&mut self, block: u32, seconds: u32) {
        self.blocks.insert(block, seconds);
        let identities = (0..IDENTITIES_PER_BLOCK).rev().map(|place| (block | (place * IDS), 0));
        self.spare.entry(seconds).or_default().extend(identities);
    }
}

fn block_element(seconds: u32) -> Element {
    Data::Verdict(Verdict::Goto(affinity_chain(seconds).into())).into()
}

/// How many endpoints a sticky service port may have; more are not served.
fn id_limit() -> usize {
    usize::try_from(IDS - 1).unwrap_or(usize::MAX)
}

/// The chains of a timeout. Each ends in `pick`, which drops what a number removed too early would let slip through.
fn chains(seconds: u32) -> [(ChainName, Chain); 5] {
    let [recall, choose, remember] = ["recall", "choose", "remember"].map(|word| format!("{word}-{seconds}"));
    let by_priority = |mask, map: &'static str| Source::ByPriority { mask, map: map.into() };
    let clients = || Affinity { map: CLIENTS.into(), mask: IDENTITY, seconds };
    let known = Source::ByClient { mask: IDENTITY, map: CLIENTS.into() };
    let affinity = vec![
        // meta priority set ip saddr . meta priority & ffff:f000 map @clients jump recall-10800
        rule([Statement::SetPriority(known), Statement::Verdict(Verdict::Jump(recall.clone().into()))]),
        // meta priority set meta priority & ffff:f000 map @choices goto choose-10800
        rule([Statement::SetPriority(by_priority(IDENTITY, CHOICES)), goto(choose.clone())]),
        rule([goto(PICK)]),
    ];
    // meta priority vmap @departed
    let departed = Statement::VerdictMap(by_priority(u32::MAX, DEPARTED));
    let recalled = Statement::DnatAsRemembered { slots: SLOTS.into(), affinity: clients() };
    let turn = Statement::SetPriority(by_priority(u32::MAX, TURNS));
    [
        (affinity_chain(seconds), affinity),
        (recall, vec![rule([departed]), rule([recalled])]),
        (choose, vec![rule([Statement::VerdictMap(by_class())]), rule([goto(remember.clone())])]),
        (turn_chain(seconds), vec![rule([turn, goto(remember.clone())]), rule([goto(PICK)])]),
        // A rule ends where the map is full: the second one serves whoever cannot be remembered.
        (remember, vec![rule([Statement::Remember(clients()), goto(PICK)]), rule([goto(PICK)])]),
    ]
    .map(|(name, rules)| (name.into(), Chain { hook: None, rules }))
}

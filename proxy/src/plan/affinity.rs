//! Session affinity by client address: a client stays with its endpoint, whichever address of the service it uses.
//!
//! ```text
//!  dispatch ─▶ affinity-10800 ─ client known ─▶ recall-10800 ─ endpoint still there ─▶ DNAT, remembered for longer
//!                    │                             │ gone
//!                    ▼                             ▼
//!               choose-10800 ─▶ sticky-rr-… ─▶ turn-10800 ─▶ remember-10800 ─▶ pick
//!                    └───────────── one endpoint ────────────────▲
//! ```
//!
//! A sticky service has an *identity*, and its endpoints have ids that begin with it. Clients are remembered by
//! address and identity with an endpoint id. Ids stay when other endpoints come and go, so no client moves that need not.
//! Timeouts stand in rules; services with the same timeout share them, and identities of one timeout lie in blocks of 256.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::nft::{
    Affinity, Chain, Data, DataType, Element, Key, KeyType, SetType, Source, Statement, Verdict,
};

use super::{
    layout::{PICK, SLOTS, by_class, goto, kind, rule},
    rotation::{Ending, Member, Rotations, Turns},
    table::Journal,
};
use crate::service_port::Endpoint;

/// Client . identity -> endpoint id; written by rules.
const CLIENTS: &str = "clients";
/// First of 256 identities -> the chain of their timeout.
const STICKIES: &str = "stickies";
/// Identity -> class, or id of the only endpoint.
const CHOICES: &str = "choices";
/// Turn -> endpoint id.
const TURNS: &str = "turns";

/// The maps of affinity.
pub(super) const MAPS: [(&str, SetType); 4] = [
    (CLIENTS, SetType { dynamic: Some(MOST_CLIENTS), ..kind(KeyType::Client, DataType::Number) }),
    (STICKIES, kind(KeyType::Number, DataType::Verdict)),
    (CHOICES, kind(KeyType::Number, DataType::Number)),
    (TURNS, kind(KeyType::Number, DataType::Number)),
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

/// The block's part of the priority that `stickies` is asked for.
pub(super) fn by_block() -> Source {
    Source::ByPriority { mask: !(IDENTITIES_PER_BLOCK * IDS - 1), map: STICKIES.into() }
}

/// The chain that a sticky service's rotation leads to.
pub(super) fn turn_chain(seconds: u32) -> String {
    format!("turn-{seconds}")
}

/// An endpoint id, which takes turns in place of the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndpointId(u32);

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
    ids: BTreeMap<Endpoint, EndpointId>,
    /// Only with several endpoints are there turns.
    turns: Option<Turns<EndpointId>>,
}

impl Sticky {
    pub(super) fn identity(&self) -> u32 {
        self.identity
    }

    pub(super) fn seconds(&self) -> u32 {
        self.seconds
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        self.ids.keys().copied()
    }

    /// The next id that no endpoint has; after the last comes the first, when the clients of old are long forgotten.
    fn next_id(&mut self) -> EndpointId {
        loop {
            self.last = self.last % (IDS - 1) + 1;
            let id = EndpointId(self.identity | self.last);
            if self.ids.values().all(|taken| *taken != id) {
                return id;
            }
        }
    }
}

/// What is left of a sticky service port, or of a change to it.
#[derive(Debug, Default)]
pub(super) struct Retired {
    identity: Option<(u32, u32)>,
    ids: Vec<EndpointId>,
    turns: Option<Turns<EndpointId>>,
}

impl From<Sticky> for Retired {
    fn from(sticky: Sticky) -> Self {
        Self {
            identity: Some((sticky.seconds, sticky.identity)),
            ids: sticky.ids.into_values().collect(),
            turns: sticky.turns,
        }
    }
}

/// All identities of one table.
#[derive(Debug, Default)]
pub(super) struct Identities {
    blocks: u32,
    spare: BTreeMap<u32, Vec<u32>>,
}

impl Identities {
    /// Starts affinity for endpoints, at least one.
    pub(super) fn start(
        &mut self,
        journal: &mut Journal,
        rotations: &mut Rotations,
        seconds: u32,
        endpoints: &[Endpoint],
    ) -> Sticky {
        let identity = self.take_identity(journal, seconds);
        let sticky = Sticky { seconds, identity, last: 0, ids: BTreeMap::new(), turns: None };
        self.change(journal, rotations, sticky, endpoints).0
    }

    /// Exchanges endpoints; those that stay keep their id, and with it their clients.
    #[expect(clippy::unused_self, reason = "the counterpart of start and remove")]
    pub(super) fn change(
        &mut self,
        journal: &mut Journal,
        rotations: &mut Rotations,
        mut sticky: Sticky,
        endpoints: &[Endpoint],
    ) -> (Sticky, Retired) {
        let mut retired = Retired::default();
        let wanted: BTreeSet<_> = endpoints.iter().copied().collect();
        let gone = sticky.ids.extract_if(.., |endpoint, _| !wanted.contains(endpoint));
        retired.ids = gone.map(|(_, id)| id).collect();
        for endpoint in endpoints.iter().take(id_limit()) {
            if !sticky.ids.contains_key(endpoint) {
                let id = sticky.next_id();
                sticky.ids.insert(*endpoint, id);
                journal.set(SLOTS, Key::Number(id.0), Some(Data::Endpoint(endpoint.address).into()));
            }
        }
        let ids: Vec<_> = sticky.ids.values().copied().collect();
        let turns = sticky.turns.take();
        (sticky.turns, retired.turns) = match (turns, ids.as_slice()) {
            (turns, [_]) => (None, turns),
            (Some(turns), ids) => {
                let (turns, gone) = rotations.change(journal, turns, ids);
                (Some(turns), gone)
            }
            (None, _) => {
                (Some(rotations.start_with(journal, Ending::Turn(sticky.seconds), ids.clone())), None)
            }
        };
        let only = ids.first().map_or(0, |id| id.0);
        let choice = sticky.turns.as_ref().map_or(only, Turns::number);
        journal.set(CHOICES, Key::Number(sticky.identity), Some(Data::Number(choice).into()));
        (sticky, retired)
    }

    /// Removes what nothing leads to, and frees its numbers.
    pub(super) fn remove(&mut self, journal: &mut Journal, rotations: &mut Rotations, gone: Retired) {
        for id in gone.ids {
            journal.set(SLOTS, Key::Number(id.0), None);
        }
        if let Some(turns) = gone.turns {
            rotations.remove(journal, turns);
        }
        if let Some((seconds, identity)) = gone.identity {
            journal.set(CHOICES, Key::Number(identity), None);
            self.spare.entry(seconds).or_default().push(identity);
        }
    }

    fn take_identity(&mut self, journal: &mut Journal, seconds: u32) -> u32 {
        if let Some(identity) = self.spare.get_mut(&seconds).and_then(Vec::pop) {
            return identity;
        }
        let chain = format!("affinity-{seconds}");
        if !journal.has_chain(&chain) {
            add_chains(journal, seconds);
        }
        let block = STICKY | (self.blocks * IDENTITIES_PER_BLOCK * IDS);
        self.blocks += 1;
        journal.set(STICKIES, Key::Number(block), Some(Data::Verdict(Verdict::Goto(chain.into())).into()));
        let identities = (1..IDENTITIES_PER_BLOCK).rev().map(|place| block | (place * IDS));
        self.spare.entry(seconds).or_default().extend(identities);
        block
    }
}

fn id_limit() -> usize {
    usize::try_from(IDS - 1).unwrap_or(usize::MAX)
}

/// Adds the chains of a timeout. Each ends in `pick`, which drops what a number removed too early would let slip through.
fn add_chains(journal: &mut Journal, seconds: u32) {
    let [affinity, recall, choose, remember] =
        ["affinity", "recall", "choose", "remember"].map(|word| format!("{word}-{seconds}"));
    let by_priority = |mask, map: &'static str| Source::ByPriority { mask, map: map.into() };
    let clients = || Affinity { map: CLIENTS.into(), mask: IDENTITY, seconds };
    let known = Source::ByClient { mask: IDENTITY, map: CLIENTS.into() };
    let mut add = |name: String, rules: Vec<_>| journal.add_chain(name.into(), Chain { hook: None, rules });
    add(
        affinity,
        vec![
            // meta priority set ip saddr . meta priority & ffff:f000 map @clients jump recall-10800
            rule([Statement::SetPriority(known), Statement::Verdict(Verdict::Jump(recall.clone().into()))]),
            // meta priority set meta priority & ffff:f000 map @choices goto choose-10800
            rule([Statement::SetPriority(by_priority(IDENTITY, CHOICES)), goto(choose.clone())]),
            rule([goto(PICK)]),
        ],
    );
    let recalled = Statement::DnatAsRemembered { slots: SLOTS.into(), affinity: clients() };
    add(recall, vec![rule([recalled])]);
    add(choose, vec![rule([Statement::VerdictMap(by_class())]), rule([goto(remember.clone())])]);
    let turn = Statement::SetPriority(by_priority(u32::MAX, TURNS));
    add(turn_chain(seconds), vec![rule([turn, goto(remember.clone())]), rule([goto(PICK)])]);
    // A rule ends where the map is full: the second one serves whoever cannot be remembered.
    add(remember, vec![rule([Statement::Remember(clients()), goto(PICK)]), rule([goto(PICK)])]);
}

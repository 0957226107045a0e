//! The layout: which maps and chains there are, what the numbers mean, and the table without any service.
//!
//! | number | is | found in |
//! |---|---|---|
//! | `0000:0001` … `3fff:ffff` | a slot: an endpoint, or a sticky service's turn | `slots`, `turns` |
//! | `8000:0000`, `8000:0001` | nobody: rejected, or dropped | `classes` |
//! | `8000:0008` … | a class: one rule of a round-robin chain; eight share a chain | `classes`, under the first of the eight |
//! | `9000:0000` … | a guard: source ranges, and whom they guard | `guards`, `guarded` |
//! | `a000:0000` … | a split: one number for clients on this node, another for strangers | `splits-near`, `splits-local` |
//! | `c000:0000` … | a sticky service's identity (lowest 12 bits zero) or one of its endpoint ids | `stickies`, under the first of 256 identities |

use std::collections::{BTreeMap, BTreeSet};

use dataplane::nft::{
    Chain, ChainName, DataType, Hook, KeyType, Map, Match, Rule, SetType, Source, Statement, Table, Verdict,
};

use super::{
    Settings, Surroundings, affinity, external, masquerade, members, node_ports, overlay, rejection,
    services, source_ranges, unserved,
};
use crate::service_port::Family;

/// Cluster IP . protocol . port -> number.
pub(super) const CLUSTER_VIPS: &str = "cluster-vips";
/// Protocol . node port -> number.
pub(super) const NODE_PORTS: &str = "node-ports";
/// Slot or endpoint id -> endpoint.
pub(super) const SLOTS: &str = "slots";
/// First of eight classes -> their chain.
pub(super) const CLASSES: &str = "classes";

/// The chain that every new connection passes.
pub(super) const SERVICES: &str = "services";
/// The chain that tells classes, sticky services and slots apart.
pub(super) const DISPATCH: &str = "dispatch";
/// The chain that rewrites the destination to the slot's endpoint.
pub(super) const PICK: &str = "pick";

/// Set in every class, and in no slot.
pub(super) const CLASS: u32 = 0x8000_0000;
/// How many classes share a chain. The kernel visits every chain at each commit, so fewer chains are cheaper.
pub(super) const CLASSES_PER_CHAIN: u32 = 8;
/// The class that rejects.
pub(super) const REJECTION: u32 = CLASS;
/// The class that drops; the rest of its eight is never used.
pub(super) const DROP: u32 = CLASS + 1;

/// Every map, with its kind.
pub(super) fn maps(settings: &Settings) -> BTreeMap<&'static str, SetType> {
    let counter = settings.counters;
    let own = [
        (CLUSTER_VIPS, SetType { counter, ..kind(KeyType::Service, DataType::Number) }),
        (external::EXTERNAL_VIPS, SetType { counter, ..kind(KeyType::Service, DataType::Number) }),
        (NODE_PORTS, SetType { counter, ..kind(KeyType::Port, DataType::Number) }),
        (SLOTS, SetType { counter, ..kind(KeyType::Number, DataType::Endpoint) }),
        (CLASSES, kind(KeyType::Number, DataType::Verdict)),
    ];
    let others = source_ranges::MAPS.into_iter().chain(external::MAPS).chain(members::SETS);
    own.into_iter().chain(affinity::MAPS).chain(others).collect()
}

/// A map whose elements only we add.
pub(super) const fn kind(key: KeyType, data: DataType) -> SetType {
    SetType { key, data, counter: false, dynamic: None }
}

/// A rule of these statements.
pub(super) fn rule<const N: usize>(statements: [Statement; N]) -> Rule {
    Rule(statements.into())
}

/// The statement that goes on in another chain for good.
pub(super) fn goto(chain: impl Into<ChainName>) -> Statement {
    Statement::Verdict(Verdict::Goto(chain.into()))
}

/// The class's part of the priority that `classes` is asked for.
pub(super) fn by_class() -> Source {
    Source::ByPriority { mask: !(CLASSES_PER_CHAIN - 1), map: CLASSES.into() }
}

/// The table with no service in it.
///
/// `pod_prefixes`: how long the pod CIDRs of nodes are, in bits.
pub(super) fn skeleton(
    family: Family,
    settings: &Settings,
    surroundings: &Surroundings,
    pod_prefixes: &BTreeSet<u8>,
) -> Table {
    let mut table = Table::new(family);
    for (name, kind) in maps(settings) {
        table.maps.insert(name.into(), Map::new(kind));
    }
    rejection::add_classes(&mut table);
    let chains = [
        ("prerouting", entrance(Hook::Prerouting)),
        ("output", entrance(Hook::Output)),
        (SERVICES, find_service(settings)),
        (services::CLUSTER_IP, services::cluster_ip(family, settings, surroundings)),
        (node_ports::NODE_ADDRESS, node_ports::node_address(family, settings, surroundings)),
        (node_ports::NODE_PORT, node_ports::node_port()),
        (DISPATCH, dispatch()),
        (PICK, pick()),
        (rejection::NOBODY, rejection::nobody()),
        (rejection::REJECT, rejection::reject()),
    ];
    let is_guarded = node_ports::is_guarded(family, settings);
    let guard = is_guarded.then(|| ("guard", node_ports::guard(family)));
    let chains = chains.into_iter().chain(masquerade::chains(family, settings, surroundings, pod_prefixes));
    let chains = chains.chain(external::chains(family, settings, surroundings));
    let chains = chains.chain(overlay::chains(settings));
    for (name, chain) in chains.chain(unserved::chains(family, settings, surroundings)).chain(guard) {
        table.chains.insert(name.into(), chain);
    }
    table
}

/// Looks for the packet's destination among all addresses.
fn find_service(settings: &Settings) -> Chain {
    let mut rules = vec![services::find(), external::find(), node_ports::find()];
    rules.extend(settings.ping_cluster_ips.then(unserved::pong));
    Chain { hook: None, rules }
}

/// Both entrances lead to the same chain, so that each map is bound by one rule however many hooks there are.
fn entrance(hook: Hook) -> Chain {
    Chain { hook: Some(hook), rules: vec![rule([Statement::Verdict(Verdict::Jump(SERVICES.into()))])] }
}

fn dispatch() -> Chain {
    let rules = vec![
        // meta priority & ffff:fff8 vmap @classes
        rule([Statement::VerdictMap(by_class())]),
        // meta priority & fff0:0000 vmap @stickies
        rule([Statement::VerdictMap(affinity::by_block())]),
        rule([goto(PICK)]),
    ];
    Chain { hook: None, rules }
}

/// The second rule catches what a slot removed too early would let slip through untranslated; its counter stays 0.
fn pick() -> Chain {
    let rules = vec![
        // meta priority set none dnat ip to meta priority map @slots
        rule([Statement::DnatByPriority(SLOTS.into())]),
        rule([Statement::Counter, Statement::Verdict(Verdict::Drop)]),
    ];
    Chain { hook: None, rules }
}

/// Bit 14, as kube-proxy's `masqueradeBit` has it: the packet's source is rewritten when it leaves.
pub(super) const MASQUERADE_MARK: u32 = 0x4000;

/// The statement that has the packet masqueraded when it leaves.
pub(super) const fn mark_for_masquerade() -> Statement {
    Statement::AddMark(MASQUERADE_MARK)
}

/// The condition that [`mark_for_masquerade`] was passed.
pub(super) const fn is_marked() -> Statement {
    Statement::Match(Match::Mark(MASQUERADE_MARK))
}

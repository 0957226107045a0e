//! Where would this packet go? The table, read as the kernel reads it, in memory.
//!
//! In: a table and the first packet of a connection. Out: every way that it may take, in the order of the turns. Pure;
//! the namespace tests ask the kernel the same questions.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnetwork::IpNetwork;

use super::{
    jhash,
    table::{Affinity, ChainName, Data, Hook, Key, MapName, Match, Source, State, Statement, Table, Verdict},
};
use crate::packet::Protocol;

/// The first packet of a connection, as it comes to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The link that it comes in by; none, if a process of the host sends it.
    pub link: Option<Cow<'static, str>>,
    /// What it carries.
    pub payload: Payload,
    /// Who sent it.
    pub source: IpAddr,
    /// Where to. An echo request has no port: whatever is written here is not looked at.
    pub destination: SocketAddr,
    /// The addresses of the host, besides loopback.
    pub host: BTreeSet<IpAddr>,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Payload {
    /// A transport protocol's first packet.
    Transport(Protocol),
    /// A ping.
    EchoRequest,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It goes where it was sent.
    Untouched,
    /// It goes to this endpoint instead.
    Endpoint(SocketAddr),
    /// This host answers it.
    Redirected,
    /// Its sender is told that nobody answers.
    Rejected,
    /// It vanishes.
    Dropped,
}

/// One way that a packet may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// What becomes of it.
    pub fate: Fate,
    /// Whether it leaves with another source address.
    pub is_masqueraded: bool,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fate {
            Fate::Untouched => write!(f, "untouched"),
            Fate::Endpoint(endpoint) => write!(f, "{endpoint}"),
            Fate::Redirected => write!(f, "redirected"),
            Fate::Rejected => write!(f, "rejected"),
            Fate::Dropped => write!(f, "dropped"),
        }?;
        if self.is_masqueraded { write!(f, " masqueraded") } else { Ok(()) }
    }
}

/// Every way that the packet may take: one for each turn of the rotation that it meets, or a single one.
pub fn trace(table: &Table, packet: &Packet) -> Vec<Route> {
    let mut ways = Vec::new();
    let mut turns = 1;
    while let Ok(turn) = u32::try_from(ways.len())
        && turn < turns
    {
        let mut walk = Walk::new(table, packet, turn);
        ways.push(walk.route());
        turns = walk.turns;
    }
    ways
}

/// The hooks that a packet from a link meets.
const ARRIVING: [Hook; 6] = [
    Hook::RawPrerouting,
    Hook::Prerouting,
    Hook::LatePrerouting,
    Hook::FilterInput,
    Hook::FilterForward,
    Hook::Postrouting,
];

/// The hooks that a packet of a process meets.
const SENT: [Hook; 5] =
    [Hook::Output, Hook::LateOutput, Hook::FilterOutput, Hook::Postrouting, Hook::FilterInput];

/// A packet on its way.
struct Walk<'a> {
    table: &'a Table,
    packet: &'a Packet,
    /// The hook at which it is.
    hook: Hook,
    /// Which turn every rotation gives, and how many turns the last one had.
    turn: u32,
    turns: u32,
    priority: u32,
    mark: u32,
    destination: SocketAddr,
    is_rewritten: bool,
}

/// How a chain ended for the packet.
enum End {
    /// It came out at the end.
    Out,
    /// It was decided.
    Decided(Fate),
}

/// How a rule ended for the packet.
enum Step {
    /// The next rule follows.
    Next,
    /// The chain is left.
    Leave(End),
}

impl<'a> Walk<'a> {
    fn new(table: &'a Table, packet: &'a Packet, turn: u32) -> Self {
        Self {
            table,
            packet,
            hook: Hook::RawPrerouting,
            turn,
            turns: 1,
            priority: 0,
            mark: 0,
            destination: packet.destination,
            is_rewritten: false,
        }
    }

    /// Meets the hooks in the kernel's order. A packet that stays here meets other ones after prerouting than one that goes on.
    fn route(&mut self) -> Route {
        let mut route = Route { fate: Fate::Untouched, is_masqueraded: false };
        let hooks = match self.packet.link {
            Some(_) => ARRIVING.as_slice(),
            None => &SENT,
        };
        for hook in hooks {
            let is_past_routing = matches!(hook, Hook::FilterForward | Hook::Postrouting);
            if is_past_routing && self.packet.link.is_some() && self.is_of_host(self.destination.ip()) {
                break;
            }
            if *hook == Hook::FilterInput && !self.is_of_host(self.destination.ip()) {
                continue;
            }
            if self.is_rewritten && matches!(hook, Hook::LatePrerouting | Hook::LateOutput) {
                continue; // the kernel rewrites once
            }
            match self.base_chains(*hook) {
                End::Out => {}
                End::Decided(_) if *hook == Hook::Postrouting => route.is_masqueraded = true,
                End::Decided(fate) => route.fate = fate,
            }
            if matches!(route.fate, Fate::Redirected | Fate::Rejected | Fate::Dropped) {
                break;
            }
        }
        route
    }

    fn base_chains(&mut self, hook: Hook) -> End {
        self.hook = hook;
        let table = self.table;
        let chains = table.chains.iter().filter(|(_, chain)| chain.hook == Some(hook));
        for (name, _) in chains {
            if let End::Decided(fate) = self.chain(name) {
                return End::Decided(fate);
            }
        }
        End::Out
    }

    fn is_of_host(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.packet.host.contains(&address)
    }

    fn chain(&mut self, name: &ChainName) -> End {
        let table = self.table;
        let rules = table.chains.get(name).map(|chain| chain.rules.as_slice()).unwrap_or_default();
        for rule in rules {
            if let Step::Leave(end) = self.rule(&rule.0) {
                return end;
            }
        }
        End::Out
    }

    fn rule(&mut self, statements: &[Statement]) -> Step {
        for statement in statements {
            let goes_on = match statement {
                Statement::Match(condition) => self.matches(condition),
                Statement::SetPriority(source) => self.number(source).map(|n| self.priority = n).is_some(),
                Statement::AddMark(bits) => {
                    self.mark |= bits;
                    true
                }
                Statement::ClearMark(bits) => {
                    self.mark &= !bits;
                    true
                }
                Statement::Counter => true,
                Statement::Remember(Affinity { map, .. }) => self.has_room(map),
                Statement::VerdictMap(source) => match self.data(source) {
                    Some(Data::Verdict(verdict)) => return self.verdict(&verdict.clone()),
                    _ => false,
                },
                Statement::DnatByPriority(map) | Statement::DnatAsRemembered { slots: map, .. } => {
                    let key = Key::Number(self.priority);
                    if matches!(statement, Statement::DnatByPriority(_)) {
                        self.priority = 0;
                    }
                    match self.element(map, key) {
                        Some(Data::Endpoint(endpoint)) => {
                            (self.destination, self.is_rewritten) = (*endpoint, true);
                            return Step::Leave(End::Decided(Fate::Endpoint(*endpoint)));
                        }
                        _ => false,
                    }
                }
                Statement::Dnat(source) => match self.data(source) {
                    Some(Data::Endpoint(endpoint)) => {
                        (self.destination, self.is_rewritten) = (*endpoint, true);
                        return Step::Leave(End::Decided(Fate::Endpoint(*endpoint)));
                    }
                    _ => false,
                },
                Statement::Masquerade => return Step::Leave(End::Decided(Fate::Untouched)),
                Statement::Redirect => return Step::Leave(End::Decided(Fate::Redirected)),
                Statement::RejectWithReset | Statement::Reject => {
                    return Step::Leave(End::Decided(Fate::Rejected));
                }
                Statement::Verdict(verdict) => return self.verdict(verdict),
            };
            if !goes_on {
                return Step::Next;
            }
        }
        Step::Next
    }

    fn verdict(&mut self, verdict: &Verdict) -> Step {
        match verdict {
            Verdict::Return => Step::Leave(End::Out),
            Verdict::Drop => Step::Leave(End::Decided(Fate::Dropped)),
            Verdict::Goto(chain) => Step::Leave(self.chain(chain)),
            Verdict::Jump(chain) => match self.chain(chain) {
                End::Out => Step::Next,
                decided @ End::Decided(_) => Step::Leave(decided),
            },
        }
    }

    fn matches(&self, condition: &Match) -> bool {
        match condition {
            Match::Protocol(protocol) => self.packet.payload == Payload::Transport(*protocol),
            Match::EchoRequest => self.packet.payload == Payload::EchoRequest,
            Match::Port(protocol, port) => self.port() == Some((*protocol, *port)),
            Match::ToThisHost => self.is_of_host(self.destination.ip()),
            Match::FromThisHost => self.is_of_host(self.packet.source),
            Match::SourceInside(network) => network.contains(self.packet.source),
            Match::DestinationInside(network) => network.contains(self.destination.ip()),
            Match::Link(name) => name.matches(self.link()),
            Match::NotLink(name) => !name.matches(self.link()),
            Match::State(state) => *state == State::New && self.hook != Hook::RawPrerouting,
            Match::SourceOutside(network) => !network.contains(self.packet.source),
            Match::DestinationOutside(network) => !network.contains(self.destination.ip()),
            Match::Mark(bits) => self.mark & bits == *bits,
            Match::Priority(number) => self.priority == *number,
            Match::PriorityBits { mask, number } => self.priority & mask == *number,
            Match::OtherPriorityBits { mask, number } => self.priority & mask != *number,
            Match::BetweenBridges => false, // which links are bridges, a packet does not tell
            Match::ServiceIn(set) => self.port().is_some_and(|(protocol, port)| {
                self.element(set, Key::Service(self.destination.ip(), protocol, port)).is_some()
            }),
            Match::SourceIn(set) => self.element(set, Key::Address(self.packet.source)).is_some(),
            Match::DestinationIn(set) => self.element(set, Key::Address(self.destination.ip())).is_some(),
            Match::DestinationNetworkIn { prefix, set } => {
                let destination = self.destination.ip();
                let network = IpNetwork::new(destination, *prefix).ok().and_then(Key::network);
                self.element(set, network.unwrap_or(Key::Address(destination))).is_some()
            }
            Match::DestinationRewritten => self.is_rewritten,
            Match::AddressesIn(set) => {
                let (from, to) = (self.packet.source, self.destination.ip());
                self.element(set, Key::Addresses(from, to)).is_some() || self.is_towards(set, from, to)
            }
        }
    }

    fn is_towards(&self, set: &MapName, from: IpAddr, to: IpAddr) -> bool {
        let is_meant = |key: &Key| match key {
            Key::Towards(source, network) => *source == from && network.contains(to),
            _ => false,
        };
        self.table.maps.get(set).is_some_and(|map| map.elements.keys().any(is_meant))
    }

    /// The name that rules see: empty for what a process sends.
    fn link(&self) -> &str {
        self.packet.link.as_deref().unwrap_or_default()
    }

    fn number(&mut self, source: &Source) -> Option<u32> {
        match source {
            Source::Rotation { modulus, offset } | Source::Random { modulus, offset } => {
                self.turns = *modulus;
                Some(offset + self.turn)
            }
            Source::ByHash { modulus, seed, offset } => {
                Some(offset + jhash::choice(self.packet.source, *modulus, *seed))
            }
            source => match self.data(source)? {
                Data::Number(number) => Some(*number),
                _ => None,
            },
        }
    }

    fn data(&self, source: &Source) -> Option<&'a Data> {
        match source {
            Source::ByService(map) => {
                let (protocol, port) = self.port()?;
                self.element(map, Key::Service(self.destination.ip(), protocol, port))
            }
            Source::ByPort(map) => {
                let (protocol, port) = self.port()?;
                self.element(map, Key::Port(protocol, port))
            }
            Source::ByPriority { mask, map } => self.element(map, Key::Number(self.priority & mask)),
            Source::ByClient { mask, map } => {
                self.element(map, Key::Client(self.packet.source, self.priority & mask))
            }
            Source::Rotation { .. } | Source::Random { .. } | Source::ByHash { .. } => None,
        }
    }

    /// The protocol and port that it is for, if it has any.
    fn port(&self) -> Option<(Protocol, u16)> {
        match self.packet.payload {
            Payload::Transport(protocol) => Some((protocol, self.destination.port())),
            Payload::EchoRequest => None,
        }
    }

    /// Whether rules may add an element.
    fn has_room(&self, map: &MapName) -> bool {
        let map = self.table.maps.get(map);
        map.is_some_and(|map| {
            map.kind
                .dynamic
                .is_some_and(|most| map.elements.len() < usize::try_from(most).unwrap_or(usize::MAX))
        })
    }

    fn element(&self, map: &MapName, key: Key) -> Option<&'a Data> {
        self.table.maps.get(map)?.elements.get(&key).map(|element| &element.data)
    }
}

#[cfg(test)]
mod tests;

//! A table as a value: chains of rules, and maps.
//!
//! The vocabulary is as small as the layout it serves: every statement here is one that some rule of ours uses, and each
//! has one text, one encoding and one meaning in [`super::trace`].

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnetwork::IpNetwork;

use crate::packet::{Family, Protocol};

/// The name of a chain.
pub type ChainName = Cow<'static, str>;

/// The name of a map or set.
pub type MapName = Cow<'static, str>;

/// One of our tables: `ip fairway` or `ip6 fairway`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The address family that it serves.
    pub family: Family,
    /// Its chains, by name.
    pub chains: BTreeMap<ChainName, Chain>,
    /// Its maps and sets, by name.
    pub maps: BTreeMap<MapName, Map>,
}

impl Table {
    /// An empty table.
    pub fn new(family: Family) -> Self {
        Self { family, chains: BTreeMap::new(), maps: BTreeMap::new() }
    }
}

/// Rules in order; a base chain if packets enter it at a hook.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// Where packets enter, if not from another chain.
    pub hook: Option<Hook>,
    /// The rules, first to last.
    pub rules: Vec<Rule>,
}

/// Where the kernel calls a base chain. All of ours are of type nat: they see the first packet of a connection only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Packets that arrive, before routing.
    Prerouting,
    /// Packets of local processes.
    Output,
    /// Packets that leave, after routing.
    Postrouting,
}

/// Statements in order; a match that does not hold ends the rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule(pub Vec<Statement>);

/// One statement of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Goes on only if the packet is such.
    Match(Match),
    /// `meta priority set …`: the register that carries a slot or class from rule to rule. A lookup that misses ends the rule.
    SetPriority(Source),
    /// `meta mark set meta mark | bits`.
    AddMark(u32),
    /// `meta mark set meta mark & ~bits`.
    ClearMark(u32),
    /// `<key> vmap @map`: the verdict found under the key; without one the rule ends.
    VerdictMap(Source),
    /// Resets the priority and rewrites the destination to the endpoint that the map holds for what the priority was.
    DnatByPriority(MapName),
    /// Rewrites the source to the address of the leaving link, with a random port.
    Masquerade,
    /// Answers with a TCP reset.
    RejectWithReset,
    /// Answers with ICMP port unreachable.
    Reject,
    /// Counts packets and bytes.
    Counter,
    /// Remembers anew that the client's connections to this service go to the endpoint id in the priority.
    Remember(Affinity),
    /// As [`Statement::DnatByPriority`], and keeps what is remembered for another while. Without such an endpoint: nothing.
    DnatAsRemembered {
        /// The map of endpoints.
        slots: MapName,
        /// What is remembered.
        affinity: Affinity,
    },
    /// Ends the rule, and perhaps more.
    Verdict(Verdict),
}

/// How clients are remembered: `map` holds `saddr . (priority & mask)` -> endpoint id for `seconds`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affinity {
    /// The map of clients.
    pub map: MapName,
    /// The bits of an endpoint id that name the service.
    pub mask: u32,
    /// How long after the client's last new connection.
    pub seconds: u32,
}

/// A condition on the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// `meta l4proto tcp`.
    Protocol(Protocol),
    /// `fib daddr type local`.
    ToThisHost,
    /// `ip saddr != 10.244.0.0/16`.
    SourceOutside(IpNetwork),
    /// `ip daddr != 127.0.0.0/8`.
    DestinationOutside(IpNetwork),
    /// `meta mark & bits == bits`.
    Mark(u32),
    /// `meta priority == number`.
    Priority(u32),
    /// `ct status dnat`.
    DestinationRewritten,
    /// `ip saddr . ip daddr @set`.
    AddressesIn(MapName),
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `ip daddr . meta l4proto . th dport map @map`.
    ByService(MapName),
    /// `meta l4proto . th dport map @map`.
    ByPort(MapName),
    /// `meta priority & mask map @map`.
    ByPriority {
        /// The bits of the priority that count.
        mask: u32,
        /// The map.
        map: MapName,
    },
    /// `ip saddr . (meta priority & mask) map @map`.
    ByClient {
        /// The bits of the priority that name the service.
        mask: u32,
        /// The map.
        map: MapName,
    },
    /// `numgen inc mod modulus offset offset`: the next number of a rotation that belongs to this one rule.
    Rotation {
        /// How many numbers there are.
        modulus: u32,
        /// The first of them.
        offset: u32,
    },
}

/// What becomes of the packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Goes on in another chain and comes back.
    Jump(ChainName),
    /// Goes on in another chain for good.
    Goto(ChainName),
    /// Is thrown away.
    Drop,
}

/// What a map is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetType {
    /// The key of each element.
    pub key: KeyType,
    /// What each element holds under its key.
    pub data: DataType,
    /// Whether each element counts the packets that looked it up.
    pub counter: bool,
    /// Whether rules add elements, which go away by themselves; then at most this many at a time.
    pub dynamic: Option<u32>,
}

/// The shapes that keys have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyType {
    /// Address . protocol . port.
    Service,
    /// Protocol . port.
    Port,
    /// A number that travels in the priority.
    Number,
    /// Source address . destination address.
    Addresses,
    /// Source address . number.
    Client,
}

impl KeyType {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Service, Self::Port, Self::Number, Self::Addresses, Self::Client];
}

/// The shapes that data has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataType {
    /// None: a set.
    None,
    /// A number that travels in the priority.
    Number,
    /// Address . port.
    Endpoint,
    /// A verdict.
    Verdict,
}

impl DataType {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::None, Self::Number, Self::Endpoint, Self::Verdict];
}

/// A map or set, with its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// What it is made of.
    pub kind: SetType,
    /// What it holds.
    pub elements: BTreeMap<Key, Element>,
}

impl Map {
    /// An empty map.
    pub fn new(kind: SetType) -> Self {
        Self { kind, elements: BTreeMap::new() }
    }
}

/// What a map holds under a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The data.
    pub data: Data,
    /// A word for people, shown by `nft list`.
    pub comment: Option<Box<str>>,
}

impl Element {
    /// The longest comment, in bytes: what the kernel and every nft surely take.
    const LONGEST_COMMENT: usize = 126;

    /// An element without a comment.
    pub fn new(data: Data) -> Self {
        Self { data, comment: None }
    }

    /// The same with a comment, which is cut where it is too long.
    #[must_use]
    pub fn with_comment(self, comment: &str) -> Self {
        let end = comment.floor_char_boundary(Self::LONGEST_COMMENT);
        Self { comment: comment.get(..end).map(Into::into), ..self }
    }
}

impl From<Data> for Element {
    fn from(data: Data) -> Self {
        Self::new(data)
    }
}

/// A key. Its addresses are of the table's family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Of a [`KeyType::Service`].
    Service(IpAddr, Protocol, u16),
    /// Of a [`KeyType::Port`].
    Port(Protocol, u16),
    /// Of a [`KeyType::Number`].
    Number(u32),
    /// Of a [`KeyType::Addresses`].
    Addresses(IpAddr, IpAddr),
    /// Of a [`KeyType::Client`].
    Client(IpAddr, u32),
}

impl Key {
    /// The shape that this key has.
    pub fn key_type(&self) -> KeyType {
        match self {
            Self::Service(..) => KeyType::Service,
            Self::Port(..) => KeyType::Port,
            Self::Number(_) => KeyType::Number,
            Self::Addresses(..) => KeyType::Addresses,
            Self::Client(..) => KeyType::Client,
        }
    }
}

/// The data of an element.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Data {
    /// Of a set.
    None,
    /// A number that travels in the priority.
    Number(u32),
    /// Where a backend listens.
    Endpoint(SocketAddr),
    /// What becomes of the packet.
    Verdict(Verdict),
}

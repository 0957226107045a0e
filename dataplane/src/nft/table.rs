//! A table as a value: chains of rules, and maps.
//!
//! The vocabulary is as small as the layout it serves: every statement here is one that some rule of ours uses, and each
//! has one text, one encoding and one meaning in [`super::trace`].

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnetwork::IpNetwork;

use crate::packet::{Family, Protocol};

/// The name of a chain.
pub type ChainName = Cow<'static, str>;

/// The name of a map or set.
pub type MapName = Cow<'static, str>;

/// One of our tables, `ip fairway` or `ip6 fairway`, say: what is in it. Its name is the socket's to know.
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

/// Where the kernel calls a base chain. Those of type nat see the first packet of a connection only, those of type filter every
/// packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Type nat: packets that arrive, before routing.
    Prerouting,
    /// Type nat: packets of local processes.
    Output,
    /// Type nat: packets that arrive, once those of [`Hook::Prerouting`] have not rewritten them.
    LatePrerouting,
    /// Type nat: packets of local processes, once those of [`Hook::Output`] have not rewritten them.
    LateOutput,
    /// Type nat: packets that leave, after routing.
    Postrouting,
    /// Type filter: packets that arrive, before connection tracking has seen them.
    RawPrerouting,
    /// Type filter: packets for this host, rewritten.
    FilterInput,
    /// Type filter: packets on their way from one link to another, routed and rewritten.
    FilterForward,
    /// Type filter: packets of local processes, rewritten.
    FilterOutput,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Prerouting,
        Self::Output,
        Self::LatePrerouting,
        Self::LateOutput,
        Self::Postrouting,
        Self::RawPrerouting,
        Self::FilterInput,
        Self::FilterForward,
        Self::FilterOutput,
    ];
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
    /// `dnat to <key> map @map`: rewrites the destination to the endpoint that is found under the key; without one the rule ends.
    Dnat(Source),
    /// Rewrites the source to the address of the leaving link, with a random port.
    Masquerade,
    /// Rewrites the destination to an address of this host: one of the link that the packet came in by, or loopback. The port stays.
    Redirect,
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
    /// `udp dport 8472`.
    Port(Protocol, u16),
    /// `fib daddr type local`.
    ToThisHost,
    /// `fib saddr type local`.
    FromThisHost,
    /// `ip saddr 10.244.0.0/16`.
    SourceInside(IpNetwork),
    /// `ip saddr != 10.244.0.0/16`.
    SourceOutside(IpNetwork),
    /// `ip daddr 127.0.0.0/8`.
    DestinationInside(IpNetwork),
    /// `ip daddr != 127.0.0.0/8`.
    DestinationOutside(IpNetwork),
    /// `iifname "fw*"`. What a process of this host sends came in by no link.
    Link(LinkName),
    /// `iifname != "lo"`.
    NotLink(LinkName),
    /// `ct state new`.
    State(State),
    /// `icmp type echo-request`, or `icmpv6 type echo-request`.
    EchoRequest,
    /// `meta mark & bits == bits`.
    Mark(u32),
    /// `meta priority == number`.
    Priority(u32),
    /// `meta priority & mask == number`.
    PriorityBits {
        /// The bits that count.
        mask: u32,
        /// What they must be.
        number: u32,
    },
    /// `meta priority & mask != number`.
    OtherPriorityBits {
        /// The bits that count.
        mask: u32,
        /// What they must not be.
        number: u32,
    },
    /// `ct status dnat`.
    DestinationRewritten,
    /// `meta iifkind "bridge" meta oifkind "bridge"`: from one bridge to another, or back into the same one. // kernel 5.7
    BetweenBridges,
    /// `ip saddr @set`.
    SourceIn(MapName),
    /// `ip daddr @set`.
    DestinationIn(MapName),
    /// `ip daddr & 255.255.255.128 | 0.0.0.128 == @set`: the set has the network of that length which the destination is in. See
    /// [`Key::network`].
    DestinationNetworkIn {
        /// The length of the networks, in bits; less than that of an address.
        prefix: u8,
        /// Networks, perhaps of several lengths.
        set: MapName,
    },
    /// `ip daddr . meta l4proto . th dport @set`.
    ServiceIn(MapName),
    /// `ip saddr . ip daddr @set`, of [`KeyType::Addresses`] or [`KeyType::Towards`].
    AddressesIn(MapName),
}

/// Names of links: one, or all with the same beginning.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkName {
    /// This one.
    Exact(Cow<'static, str>),
    /// Those that begin so. The kernel refuses an empty beginning.
    Prefix(Cow<'static, str>),
}

impl LinkName {
    /// Says whether a link of that name is meant.
    pub fn matches(&self, link: &str) -> bool {
        match self {
            Self::Exact(name) => link == name,
            Self::Prefix(beginning) => link.starts_with(&**beginning),
        }
    }
}

/// What connection tracking makes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Nothing: it belongs to no connection, and cannot begin one.
    Invalid,
    /// The first packet of a connection.
    New,
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
    /// `numgen random mod modulus offset offset`: any number, each as likely.
    Random {
        /// How many numbers there are.
        modulus: u32,
        /// The first of them.
        offset: u32,
    },
    /// `jhash ip saddr mod modulus seed seed offset offset`: for one client always the same number.
    ByHash {
        /// How many numbers there are.
        modulus: u32,
        /// What else goes into the hash.
        seed: u32,
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
    /// Goes back to the chain that it came from by a jump.
    Return,
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
    /// Address.
    Address,
    /// Source address . destination address.
    Addresses,
    /// Source address . network of the destination address. (`nft_set_pipapo`, kernel 5.6)
    Towards,
    /// Source address . number.
    Client,
}

impl KeyType {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Service,
        Self::Port,
        Self::Number,
        Self::Address,
        Self::Addresses,
        Self::Towards,
        Self::Client,
    ];
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
    /// Of a [`KeyType::Address`].
    Address(IpAddr),
    /// Of a [`KeyType::Addresses`].
    Addresses(IpAddr, IpAddr),
    /// Of a [`KeyType::Towards`]. Networks of one source must not overlap: the kernel notices it where one begins or ends in one
    /// that is there, and where it does not, keeps both.
    Towards(IpAddr, IpNetwork),
    /// Of a [`KeyType::Client`].
    Client(IpAddr, u32),
}

impl Key {
    /// The key of a network among others of any length: its first address, with the bit set that comes after the prefix. Where the last
    /// set bit is tells the length, so that no two networks share a key. None for a single address.
    pub fn network(network: IpNetwork) -> Option<Self> {
        let (mask, end) = network_bits(network.is_ipv4(), network.prefix())?;
        let bits = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        let key = bits(network.ip()) & bits(mask) | bits(end);
        Some(Self::Address(match network {
            IpNetwork::V4(_) => Ipv4Addr::from_bits(u32::try_from(key).ok()?).into(),
            IpNetwork::V6(_) => Ipv6Addr::from_bits(key).into(),
        }))
    }

    /// The shape that this key has.
    pub fn key_type(&self) -> KeyType {
        match self {
            Self::Service(..) => KeyType::Service,
            Self::Port(..) => KeyType::Port,
            Self::Number(_) => KeyType::Number,
            Self::Address(_) => KeyType::Address,
            Self::Addresses(..) => KeyType::Addresses,
            Self::Towards(..) => KeyType::Towards,
            Self::Client(..) => KeyType::Client,
        }
    }
}

/// The bits of an address that make the network of that length, and the one that follows them. None where none does.
pub(super) fn network_bits(is_ipv4: bool, prefix: u8) -> Option<(IpAddr, IpAddr)> {
    Some(if is_ipv4 {
        let end = 1_u32.rotate_right(1).checked_shr(prefix.into())?;
        let mask = !(end | end.wrapping_sub(1));
        (Ipv4Addr::from_bits(mask).into(), Ipv4Addr::from_bits(end).into())
    } else {
        let end = 1_u128.rotate_right(1).checked_shr(prefix.into())?;
        let mask = !(end | end.wrapping_sub(1));
        (Ipv6Addr::from_bits(mask).into(), Ipv6Addr::from_bits(end).into())
    })
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

//! Values as nft text: what goes into logs and goldens, in the words that `nft list table` uses.

use std::fmt::{self, Display, Formatter};

use ipnetwork::IpNetwork;

use super::{
    table::{
        Affinity, Chain, Data, DataType, Element, Hook, Key, KeyType, LinkName, Map, Match, Rule, SetType,
        Source, State, Statement, Table, Verdict, network_bits,
    },
    transaction::{Change, Transaction},
};
use crate::{owner, packet::Family};

/// A value together with the family that says how its addresses are called.
struct In<'a, T>(Family, &'a T);

/// A table or a change to one, together with the table's name.
#[derive(Debug)]
pub(super) struct Named<'a, T>(pub(super) &'static str, pub(super) &'a T);

/// A priority as `tc` and nft print it: major and minor half, hexadecimal.
struct ClassId(u32);

impl Display for ClassId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("none"),
            id => write!(f, "{:x}:{:x}", id >> 16, id & 0xffff),
        }
    }
}

impl Table {
    /// The table as text, under that name.
    pub fn named(&self, name: &'static str) -> impl Display {
        Named(name, self)
    }
}

/// As it is called where nothing else is said: the daemon's.
impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Named(owner::TABLE, self).fmt(f)
    }
}

impl Display for Named<'_, Table> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(name, table) = self;
        writeln!(f, "table {} {name} {{", table.family)?;
        for (name, map) in &table.maps {
            let word = set_word(map.kind);
            writeln!(f, "\t{word} {name} {{")?;
            write!(f, "{}", In(table.family, map))?;
            writeln!(f, "\t}}")?;
        }
        for (name, chain) in &table.chains {
            writeln!(f, "\tchain {name} {{")?;
            write!(f, "{}", In(table.family, chain))?;
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

fn set_word(kind: SetType) -> &'static str {
    if kind.data == DataType::None { "set" } else { "map" }
}

impl Display for In<'_, Map> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(family, map) = self;
        writeln!(f, "\t\ttype {}", In(*family, &map.kind))?;
        if map.kind.counter {
            writeln!(f, "\t\tcounter")?;
        }
        if let Some(size) = map.kind.dynamic {
            writeln!(f, "\t\tsize {size}\n\t\tflags dynamic,timeout")?;
        }
        if map.kind.key == KeyType::Towards {
            writeln!(f, "\t\tflags interval")?;
        }
        for element in &map.elements {
            writeln!(f, "\t\t{}", In(*family, &element))?;
        }
        Ok(())
    }
}

impl Display for In<'_, SetType> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(family, kind) = self;
        let address = match family {
            Family::Ip => "ipv4_addr",
            Family::Ip6 => "ipv6_addr",
        };
        match kind.key {
            KeyType::Service => write!(f, "{address} . inet_proto . inet_service"),
            KeyType::Port => write!(f, "inet_proto . inet_service"),
            KeyType::Number => write!(f, "classid"),
            KeyType::Address => f.write_str(address),
            KeyType::Addresses | KeyType::Towards => write!(f, "{address} . {address}"),
            KeyType::Client => write!(f, "{address} . classid"),
        }?;
        match kind.data {
            DataType::None => Ok(()),
            DataType::Number => write!(f, " : classid"),
            DataType::Endpoint => write!(f, " : {address} . inet_service"),
            DataType::Verdict => write!(f, " : verdict"),
        }
    }
}

impl Display for In<'_, (&Key, &Element)> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (key, element) = self.1;
        write!(f, "{key}")?;
        if let Some(comment) = &element.comment {
            write!(f, " comment \"{comment}\"")?;
        }
        match &element.data {
            Data::None => Ok(()),
            data => write!(f, " : {data}"),
        }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(address, protocol, port) => write!(f, "{address} . {protocol} . {port}"),
            Self::Port(protocol, port) => write!(f, "{protocol} . {port}"),
            Self::Number(number) => write!(f, "{}", ClassId(*number)),
            Self::Address(address) => write!(f, "{address}"),
            Self::Addresses(source, destination) => write!(f, "{source} . {destination}"),
            Self::Towards(source, network) => write!(f, "{source} . {}", network_text(*network)),
            Self::Client(address, number) => write!(f, "{address} . {}", ClassId(*number)),
        }
    }
}

impl Display for Data {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Number(number) => write!(f, "{}", ClassId(*number)),
            Self::Endpoint(endpoint) => write!(f, "{} . {}", endpoint.ip(), endpoint.port()),
            Self::Verdict(verdict) => write!(f, "{verdict}"),
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Return => write!(f, "return"),
            Self::Drop => write!(f, "drop"),
        }
    }
}

impl Display for Hook {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "type nat hook prerouting priority dstnat; policy accept;",
            Self::Output => "type nat hook output priority -100; policy accept;",
            Self::LatePrerouting => "type nat hook prerouting priority dstnat + 1; policy accept;",
            Self::LateOutput => "type nat hook output priority -99; policy accept;",
            Self::Postrouting => "type nat hook postrouting priority srcnat; policy accept;",
            Self::RawPrerouting => "type filter hook prerouting priority raw; policy accept;",
            Self::FilterInput => "type filter hook input priority filter; policy accept;",
            Self::FilterForward => "type filter hook forward priority filter; policy accept;",
            Self::FilterOutput => "type filter hook output priority filter; policy accept;",
        })
    }
}

impl Display for In<'_, Chain> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(family, chain) = self;
        if let Some(hook) = chain.hook {
            writeln!(f, "\t\t{hook}")?;
        }
        for rule in &chain.rules {
            writeln!(f, "\t\t{}", In(*family, rule))?;
        }
        Ok(())
    }
}

impl Display for In<'_, Rule> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (place, statement) in self.1.0.iter().enumerate() {
            let gap = if place == 0 { "" } else { " " };
            write!(f, "{gap}{}", In(self.0, statement))?;
        }
        Ok(())
    }
}

impl Display for In<'_, Statement> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(family, statement) = self;
        match statement {
            Statement::Match(condition) => write!(f, "{}", In(*family, condition)),
            Statement::SetPriority(source) => {
                write!(f, "meta priority set {}", source_text(*family, source, "map"))
            }
            Statement::AddMark(bits) => write!(f, "meta mark set meta mark | {bits:#010x}"),
            Statement::ClearMark(bits) => write!(f, "meta mark set meta mark & {:#010x}", !bits),
            Statement::VerdictMap(source) => f.write_str(&source_text(*family, source, "vmap")),
            Statement::DnatByPriority(map) => {
                write!(f, "meta priority set none dnat {family} to meta priority map @{map}")
            }
            Statement::Dnat(source) => write!(f, "dnat {family} to {}", source_text(*family, source, "map")),
            Statement::Masquerade => f.write_str("masquerade fully-random"),
            Statement::Redirect => f.write_str("redirect"),
            Statement::RejectWithReset => f.write_str("reject with tcp reset"),
            Statement::Reject => f.write_str("reject"),
            Statement::Counter => f.write_str("counter"),
            Statement::Remember(affinity) => {
                let Affinity { map, mask, .. } = affinity;
                let entry = affinity_text(*family, affinity);
                let mask = ClassId(*mask);
                write!(f, "delete @{map} {{ {family} saddr . meta priority & {mask} : meta priority }} ")?;
                write!(f, "add @{map} {{ {entry} }}")
            }
            Statement::DnatAsRemembered { slots, affinity } => write!(
                f,
                "update @{} {{ {} }} meta priority set none dnat {family} to meta priority map @{slots}",
                affinity.map,
                affinity_text(*family, affinity)
            ),
            Statement::Verdict(verdict) => write!(f, "{verdict}"),
        }
    }
}

fn affinity_text(family: Family, Affinity { mask, seconds, .. }: &Affinity) -> String {
    format!("{family} saddr . meta priority & {} timeout {seconds}s : meta priority", ClassId(*mask))
}

fn source_text(family: Family, source: &Source, word: &str) -> String {
    match source {
        Source::ByService(map) => format!("{family} daddr . meta l4proto . th dport {word} @{map}"),
        Source::ByPort(map) => format!("meta l4proto . th dport {word} @{map}"),
        Source::ByPriority { mask: u32::MAX, map } => format!("meta priority {word} @{map}"),
        Source::ByPriority { mask, map } => format!("meta priority & {} {word} @{map}", ClassId(*mask)),
        Source::ByClient { mask, map } => {
            format!("{family} saddr . meta priority & {} {word} @{map}", ClassId(*mask))
        }
        Source::Rotation { modulus, offset } => format!("numgen inc mod {modulus}{}", Offset(*offset)),
        Source::Random { modulus, offset } => format!("numgen random mod {modulus}{}", Offset(*offset)),
        Source::ByHash { modulus, seed, offset } => {
            format!("jhash {family} saddr mod {modulus} seed {seed:#x}{}", Offset(*offset))
        }
    }
}

/// What is added to a number that was drawn.
struct Offset(u32);

impl Display for Offset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            offset => write!(f, " offset {offset}"),
        }
    }
}

impl Display for LinkName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "\"{name}\""),
            Self::Prefix(beginning) => write!(f, "\"{beginning}*\""),
        }
    }
}

impl Display for State {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "invalid",
            Self::New => "new",
        })
    }
}

/// A network as nft prints it: the address alone where it is all of it.
fn network_text(network: IpNetwork) -> String {
    let whole = if network.is_ipv4() { 32 } else { 128 };
    match network.prefix() {
        prefix if prefix == whole => network.network().to_string(),
        prefix => format!("{}/{prefix}", network.network()),
    }
}

impl Display for In<'_, Match> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(family, condition) = self;
        match condition {
            Match::Protocol(protocol) => write!(f, "meta l4proto {protocol}"),
            Match::Port(protocol, port) => write!(f, "{protocol} dport {port}"),
            Match::ToThisHost => write!(f, "fib daddr type local"),
            Match::FromThisHost => write!(f, "fib saddr type local"),
            Match::SourceInside(network) => write!(f, "{family} saddr {}", network_text(*network)),
            Match::SourceOutside(network) => write!(f, "{family} saddr != {}", network_text(*network)),
            Match::DestinationInside(network) => write!(f, "{family} daddr {}", network_text(*network)),
            Match::DestinationOutside(network) => write!(f, "{family} daddr != {}", network_text(*network)),
            Match::Link(name) => write!(f, "iifname {name}"),
            Match::NotLink(name) => write!(f, "iifname != {name}"),
            Match::State(state) => write!(f, "ct state {state}"),
            Match::EchoRequest => f.write_str(match family {
                Family::Ip => "icmp type echo-request",
                Family::Ip6 => "icmpv6 type echo-request",
            }),
            Match::Mark(bits) => write!(f, "meta mark & {bits:#010x} == {bits:#010x}"),
            Match::Priority(number) => write!(f, "meta priority {}", ClassId(*number)),
            Match::PriorityBits { mask, number } => {
                write!(f, "meta priority & {} == {}", ClassId(*mask), ClassId(*number))
            }
            Match::OtherPriorityBits { mask, number } => {
                write!(f, "meta priority & {} != {}", ClassId(*mask), ClassId(*number))
            }
            Match::BetweenBridges => write!(f, "meta iifkind \"bridge\" meta oifkind \"bridge\""),
            Match::ServiceIn(set) => write!(f, "{family} daddr . meta l4proto . th dport @{set}"),
            Match::SourceIn(set) => write!(f, "{family} saddr @{set}"),
            Match::DestinationIn(set) => write!(f, "{family} daddr @{set}"),
            // As nft writes what the kernel holds: `& network | end` in the one form that it has for both.
            Match::DestinationNetworkIn { prefix, set } => match network_bits(*family == Family::Ip, *prefix)
            {
                Some((_, end)) => {
                    let mask = IpNetwork::new(end, prefix + 1).map_or(end, |both| both.mask());
                    write!(f, "{family} daddr & {mask} | {end} == @{set}")
                }
                None => write!(f, "{family} daddr @{set}"),
            },
            Match::DestinationRewritten => write!(f, "ct status dnat"),
            Match::AddressesIn(set) => write!(f, "{family} saddr . {family} daddr @{set}"),
        }
    }
}

impl Display for Named<'_, (Family, Change)> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(name, (family, change)) = self;
        let table = format!("{family} {name}");
        match change {
            Change::AddTable => write!(f, "add table {table}"),
            Change::DeleteTable => write!(f, "delete table {table}"),
            Change::AddChain(name, None) => write!(f, "add chain {table} {name}"),
            Change::AddChain(name, Some(hook)) => write!(f, "add chain {table} {name} {{ {hook} }}"),
            Change::FlushChain(name) => write!(f, "flush chain {table} {name}"),
            Change::DeleteChain(name) => write!(f, "delete chain {table} {name}"),
            Change::AddRule(chain, rule) => write!(f, "add rule {table} {chain} {}", In(*family, rule)),
            Change::AddMap(name, kind) => {
                let counter = if kind.counter { "; counter" } else { "" };
                let dynamic = kind
                    .dynamic
                    .map(|size| format!("; size {size}; flags dynamic,timeout"))
                    .unwrap_or_default();
                let intervals = if kind.key == KeyType::Towards { "; flags interval" } else { "" };
                write!(
                    f,
                    "add {} {table} {name} {{ type {}{counter}{dynamic}{intervals}; }}",
                    set_word(*kind),
                    In(*family, kind)
                )
            }
            Change::DeleteMap(name) => write!(f, "delete map {table} {name}"),
            Change::AddElements(map, _, elements) => {
                write!(f, "add element {table} {map} {{ ")?;
                for (place, (key, element)) in elements.iter().enumerate() {
                    let gap = if place == 0 { "" } else { ", " };
                    write!(f, "{gap}{}", In(*family, &(key, element)))?;
                }
                write!(f, " }}")
            }
            Change::DeleteElements(map, _, keys) => {
                write!(f, "delete element {table} {map} {{ ")?;
                for (place, key) in keys.iter().enumerate() {
                    let gap = if place == 0 { "" } else { ", " };
                    write!(f, "{gap}{key}")?;
                }
                write!(f, " }}")
            }
        }
    }
}

/// As changes of the daemon's tables.
impl Display for Transaction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.changes().iter().try_for_each(|change| writeln!(f, "{}", Named(owner::TABLE, change)))
    }
}

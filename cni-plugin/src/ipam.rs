//! Which addresses there are, and which comes next. Pure: no file, no clock.
//!
//! In: ranges, and what is known of earlier leases. Out: all addresses in the order of their turn, so that one that was
//! just freed is not given away before all others had theirs: somebody may still be talking to it.

pub mod standing;
pub mod store;

use std::{collections::BTreeSet, fmt, iter, net::IpAddr};

use ipnetwork::IpNetwork;

use crate::failure::{Code, Coded};

/// Why a range is no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No room for a gateway and a pod.
    #[error("subnet {0} is too small: /30, or /126 in IPv6, at least")]
    TooSmall(IpNetwork),
    /// Bits are set beyond the prefix.
    #[error("subnet {subnet} has bits set beyond its prefix: {network} is meant?")]
    HostBits {
        /// As it stands there.
        subnet: IpNetwork,
        /// What is probably meant.
        network: IpNetwork,
    },
    /// A bound is elsewhere.
    #[error("{what} {address} is not in subnet {subnet}")]
    Outside {
        /// Which one.
        what: &'static str,
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: IpNetwork,
    },
    /// Nothing lies between the bounds.
    #[error("range {start}-{end} ends before it starts")]
    Backwards {
        /// First address.
        start: IpAddr,
        /// Last address.
        end: IpAddr,
    },
    /// A set of ranges without any.
    #[error("a set of ranges is empty")]
    Empty,
    /// One address is chosen from each set, so a set has one family.
    #[error("a set of ranges mixes IPv4 and IPv6: make two sets, one of each")]
    Mixed,
    /// One address would be in two ranges.
    #[error("ranges {0} and {1} overlap")]
    Overlap(IpNetwork, IpNetwork),
    /// An address is asked for that no pod can have.
    #[error("address {address} is asked for, and is the gateway's or of no range: {ranges}")]
    NotOurs {
        /// The address.
        address: IpAddr,
        /// All ranges there are.
        ranges: String,
    },
    /// One address is given of each set.
    #[error("addresses {0} and {1} are asked for, and are of one set of ranges: a pod gets one of each")]
    TwoOfOne(IpAddr, IpAddr),
}

impl Coded for Error {
    fn code(&self) -> Code {
        Code::InvalidConfiguration
    }
}

/// Addresses of one subnet, from the first to the last, and the gateway they all use.
///
/// Both ends are in the subnet and in order; the gateway is of the subnet's family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    subnet: IpNetwork,
    start: IpAddr,
    end: IpAddr,
    gateway: IpAddr,
}

/// The parts of a range that a configuration may leave out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// First address; otherwise the subnet's first.
    pub start: Option<IpAddr>,
    /// Last address; otherwise the subnet's last.
    pub end: Option<IpAddr>,
    /// The gateway; otherwise the subnet's first address.
    pub gateway: Option<IpAddr>,
}

impl Range {
    /// Takes a subnet with what the configuration says of it.
    pub fn new(subnet: IpNetwork, bounds: Bounds) -> Result<Self, Error> {
        let host_bits = if subnet.is_ipv4() { 32 } else { 128 } - subnet.prefix();
        if host_bits < 2 {
            return Err(Error::TooSmall(subnet));
        }
        if subnet.ip() != subnet.network() {
            let network = IpNetwork::new(subnet.network(), subnet.prefix()).unwrap_or(subnet);
            return Err(Error::HostBits { subnet, network });
        }
        let first = address(number(subnet.network()) + 1, &subnet);
        let last = if subnet.is_ipv4() { number(subnet.broadcast()) - 1 } else { number(subnet.broadcast()) };
        let start = inside("rangeStart", bounds.start.unwrap_or(first), &subnet)?;
        let end = inside("rangeEnd", bounds.end.unwrap_or_else(|| address(last, &subnet)), &subnet)?;
        if number(end) < number(start) {
            return Err(Error::Backwards { start, end });
        }
        // The gateway is an address of each host end, so it need not be in the subnet.
        let gateway = bounds.gateway.unwrap_or(first);
        if gateway.is_ipv4() != subnet.is_ipv4() {
            return Err(Error::Outside { what: "gateway", address: gateway, subnet });
        }
        Ok(Self { subnet, start, end, gateway })
    }

    /// The subnet.
    pub fn subnet(&self) -> IpNetwork {
        self.subnet
    }

    /// The gateway.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// Says whether a pod may have this address: not the gateway's, the network's own, or the broadcast one.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.subnet.is_ipv4()
            && (number(self.start)..=number(self.end)).contains(&number(ip))
            && ip != self.gateway
            && ip != self.subnet.network()
            && (ip.is_ipv6() || ip != self.subnet.broadcast())
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.subnet.is_ipv4() == other.subnet.is_ipv4()
            && number(self.start) <= number(other.end)
            && number(other.start) <= number(self.end)
    }

    /// The pods' addresses from one number to another, both included. Those that are reserved are passed over network by network:
    /// there may be more of them than anybody could count.
    fn addresses(
        self,
        from: u128,
        to: u128,
        reserved: &[IpNetwork],
    ) -> impl Iterator<Item = IpAddr> + use<'_> {
        let mut next = Some(from);
        let step = move || {
            let n = next.filter(|n| *n <= to)?;
            let ip = address(n, &self.subnet);
            let network = reserved.iter().find(|network| network.contains(ip));
            next = network.map_or(n, |network| number(network.broadcast())).checked_add(1);
            Some(network.is_none().then_some(ip))
        };
        iter::from_fn(step).flatten().filter(move |ip| self.contains(*ip))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.subnet)
    }
}

/// What is known of earlier leases of a set. None of it needs to be true: it says whose turn it is, and no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// The address that was leased last.
    pub last: Option<IpAddr>,
    /// When it was leased, no address was free but those that had been freed of late.
    pub is_bare: bool,
    /// Addresses that were freed of late and have not been leased again: each once, in the order in which they were freed.
    pub waiting: Vec<IpAddr>,
}

/// Ranges of one family, that do not overlap, of which a pod gets one address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RangeSet {
    ranges: Vec<Range>,
    /// Given to nobody who does not ask for them.
    reserved: Vec<IpNetwork>,
}

impl RangeSet {
    /// Takes ranges that fit together.
    pub fn new(ranges: Vec<Range>) -> Result<Self, Error> {
        let Some(first) = ranges.first() else { return Err(Error::Empty) };
        if ranges.iter().any(|range| range.subnet.is_ipv4() != first.subnet.is_ipv4()) {
            return Err(Error::Mixed);
        }
        disjoint(&ranges)?;
        Ok(Self { ranges, reserved: Vec::new() })
    }

    /// Keeps addresses back: those get them who ask for them, and nobody else.
    #[must_use]
    pub fn reserving(mut self, reserved: &[IpNetwork]) -> Self {
        let is_ipv4 = self.ranges.iter().any(|range| range.subnet.is_ipv4());
        self.reserved = reserved.iter().filter(|network| network.is_ipv4() == is_ipv4).copied().collect();
        self
    }

    /// Finds the range that a pod's address is of.
    pub fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.ranges.iter().find(|range| range.contains(ip))
    }

    /// The ranges.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// All addresses that can be given to anybody, in the order of their turn: first those that were not freed of late, in a
    /// circle from the one leased last; then those that were, the one freed first before the others. Once the circle has been
    /// found bare, that is not looked at again before those that wait: all that became free since is among them.
    pub fn in_turn<'a>(&'a self, past: &'a Past) -> impl Iterator<Item = IpAddr> + use<'a> {
        let waiting: BTreeSet<IpAddr> = past.waiting.iter().copied().collect();
        let queue = || past.waiting.iter().copied().filter(|ip| self.gives(*ip));
        let first = past.is_bare.then(queue).into_iter().flatten();
        let last = (!past.is_bare).then(queue).into_iter().flatten();
        first.chain(self.circle(past.last).filter(move |ip| !waiting.contains(ip))).chain(last)
    }

    fn circle(&self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> + use<'_> {
        let place = last.and_then(|last| {
            let index = self.ranges.iter().position(|range| range.contains(last))?;
            Some((index, number(last)))
        });
        let (index, last) = place.unwrap_or((0, 0));
        let (before, from) = self.ranges.split_at_checked(index).unwrap_or_default();
        let (after_last, up_to_last) = from.first().map_or((None, None), |range| {
            let (start, end) = (number(range.start), number(range.end));
            let next = last.checked_add(1).map(|next| range.addresses(start.max(next), end, &self.reserved));
            (next, Some(range.addresses(start, last, &self.reserved)))
        });
        let others = from.iter().skip(1).chain(before);
        let others =
            others.flat_map(|range| range.addresses(number(range.start), number(range.end), &self.reserved));
        after_last.into_iter().flatten().chain(others).chain(up_to_last.into_iter().flatten())
    }

    /// Says whether a pod may get this address without having asked for it.
    fn gives(&self, ip: IpAddr) -> bool {
        self.range_of(ip).is_some() && !self.reserved.iter().any(|network| network.contains(ip))
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<String> = self.ranges.iter().map(ToString::to_string).collect();
        f.write_str(&ranges.join(", "))?;
        if self.reserved.is_empty() {
            return Ok(());
        }
        let reserved: Vec<String> = self.reserved.iter().map(ToString::to_string).collect();
        write!(f, " without {}", reserved.join(", "))
    }
}

/// What a pod asks for: an address of each set, and certain ones of some.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ask {
    wishes: Vec<(RangeSet, Option<IpAddr>)>,
}

impl Ask {
    /// Takes the sets, and the addresses that are asked for: one of a set at most.
    pub fn new(sets: Vec<RangeSet>, requested: &[IpAddr]) -> Result<Self, Error> {
        let mut wishes: Vec<(RangeSet, Option<IpAddr>)> = sets.into_iter().map(|set| (set, None)).collect();
        for address in requested {
            let of_set = wishes.iter_mut().find(|(set, _)| set.range_of(*address).is_some());
            match of_set.map(|(_, wish)| wish) {
                Some(wish @ None) => *wish = Some(*address),
                Some(Some(same)) if same == address => {} // the runtime may say it in two ways
                Some(Some(other)) => return Err(Error::TwoOfOne(*other, *address)),
                None => {
                    let ranges: Vec<String> = wishes.iter().map(|(set, _)| set.to_string()).collect();
                    return Err(Error::NotOurs { address: *address, ranges: ranges.join(", ") });
                }
            }
        }
        Ok(Self { wishes })
    }

    /// Each set with the address of it that must be the one.
    pub fn wishes(&self) -> &[(RangeSet, Option<IpAddr>)] {
        &self.wishes
    }

    /// Says whether these addresses, one of each set, are what is asked for.
    pub fn is_met_by(&self, addresses: &[IpAddr]) -> bool {
        addresses.len() == self.wishes.len()
            && addresses.iter().zip(&self.wishes).all(|(address, (set, wish))| {
                set.range_of(*address).is_some() && wish.is_none_or(|wish| wish == *address)
            })
    }

    /// Finds the range that one of the addresses is of.
    pub fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.wishes.iter().find_map(|(set, _)| set.range_of(address))
    }
}

/// Says which two ranges share an address, if any do. Of ranges in order, neighbours do, or none.
pub fn disjoint<'a>(ranges: impl IntoIterator<Item = &'a Range>) -> Result<(), Error> {
    let mut in_order: Vec<&Range> = ranges.into_iter().collect();
    in_order.sort_by_key(|range| (range.subnet.is_ipv6(), number(range.start)));
    for (one, next) in in_order.iter().zip(in_order.iter().skip(1)) {
        if one.overlaps(next) {
            return Err(Error::Overlap(one.subnet, next.subnet));
        }
    }
    Ok(())
}

/// Reads an address as runtimes pass it: with or without the length of a prefix.
pub fn address_in(text: &str) -> Option<IpAddr> {
    text.parse::<IpNetwork>().ok().map(|network| network.ip())
}

fn inside(what: &'static str, ip: IpAddr, subnet: &IpNetwork) -> Result<IpAddr, Error> {
    if subnet.contains(ip) { Ok(ip) } else { Err(Error::Outside { what, address: ip, subnet: *subnet }) }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The address of that number, in the subnet's family.
fn address(number: u128, subnet: &IpNetwork) -> IpAddr {
    match subnet {
        IpNetwork::V4(_) => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        IpNetwork::V6(_) => IpAddr::V6(number.into()),
    }
}

#[cfg(test)]
mod tests;

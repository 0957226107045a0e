//! Rendezvous hashing: which endpoint each value of a client's hash belongs to. Pure.
//!
//! For each slot, every endpoint draws a number from its address and the slot's, and the highest has it (Thaler and Ravishankar,
//! 1998). So the table follows from the endpoints alone, on every node and whatever was before; and where an endpoint comes or goes, only
//! the slots that it wins or leaves change hands. With weights, numbers are drawn so that chances are as the
//! weights (Schindelhauer and Schomaker, 2005).

use std::net::{IpAddr, SocketAddr};

/// How many slots a table has: the fewest that give the smallest share [`SLOTS_PER_SHARE`], if any.
const SIZES: [u32; 3] = [1 << 10, 1 << 12, 1 << 14];

/// With so many slots in its share, an endpoint's part is good to a quarter (one standard deviation).
const SLOTS_PER_SHARE: u32 = 16;

/// Bits after the point of a logarithm.
const PRECISION: u32 = 24;

/// The endpoint of each slot, for endpoints, at least one, with their weights. The order in which they are given means nothing.
pub(super) fn table(endpoints: &[(SocketAddr, u32)]) -> Vec<SocketAddr> {
    let are_equal = endpoints.is_sorted_by(|(_, a), (_, b)| a == b);
    let seeded: Vec<_> =
        endpoints.iter().map(|(address, weight)| (seed(*address), *weight, *address)).collect();
    let slots = (0..size(endpoints)).map(|slot| {
        let slot = mix(u64::from(slot));
        let draws = seeded.iter().map(|(seed, weight, address)| {
            let score = mix(seed ^ slot);
            // Among equals the cheapest is the highest, so its cost need not be known.
            (if are_equal { 0 } else { cost(score, *weight) }, !score, *address)
        });
        draws.min().map(|(.., address)| address)
    });
    slots.flatten().collect()
}

fn size(endpoints: &[(SocketAddr, u32)]) -> u32 {
    let weights = || endpoints.iter().map(|(_, weight)| *weight);
    let all = weights().fold(0, u32::saturating_add);
    let shares = all.div_ceil(weights().min().unwrap_or(1).max(1));
    let wanted = shares.saturating_mul(SLOTS_PER_SHARE);
    let [.., largest] = SIZES;
    SIZES.into_iter().find(|size| *size >= wanted).unwrap_or(largest)
}

/// What a slot costs an endpoint that drew this score: an exponential variable whose rate is the weight. The cheapest has it.
/// In whole numbers, because a logarithm of floating point is not the same on every machine.
fn cost(score: u64, weight: u32) -> u64 {
    let bits = u64::from(u64::BITS) << PRECISION;
    ((bits - logarithm(score | 1)) << 30) / u64::from(weight.max(1))
}

/// The binary logarithm of a number that is not 0, [`PRECISION`] bits of it after the point.
fn logarithm(number: u64) -> u64 {
    let leading = number.leading_zeros();
    let mut logarithm = u64::from(u64::BITS - 1 - leading);
    let mut mantissa = number << leading; // 1 ≤ mantissa < 2, the point after the first bit
    for _ in 0..PRECISION {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let is_two = square >> 127; // the square's own logarithm is twice as large: its next bit
        logarithm = logarithm << 1 | u64::try_from(is_two).unwrap_or(0);
        mantissa = u64::try_from(square >> (63 + is_two)).unwrap_or(u64::MAX);
    }
    logarithm
}

/// A number of the endpoint's own.
fn seed(endpoint: SocketAddr) -> u64 {
    let address = match endpoint.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let (words, _) = address.as_chunks::<8>();
    let address = words.iter().fold(0, |seed, word| mix(seed ^ u64::from_be_bytes(*word)));
    mix(address ^ u64::from(endpoint.port()))
}

/// The last step of `SplitMix64` (Steele, Lea and Flood, 2014), which spreads every bit over all.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests;

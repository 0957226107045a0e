//! Fairway's own annotations of services: how connections are spread, where the API has no field for it.
//!
//! In: the text of an annotation. Out: what it means, or what is wrong with it, in words for people.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{SliceEndpoint, letters};
use crate::service_port::Balancing;

/// The annotation that says how an endpoint is chosen.
pub const BALANCING: &str = "fairway.dev/balancing";
/// The annotation that says how many turns each endpoint has.
pub const WEIGHTS: &str = "fairway.dev/weights";

/// The values of [`BALANCING`].
const BALANCINGS: [(&str, Balancing); 3] = [
    ("round-robin", Balancing::RoundRobin),
    ("random", Balancing::Random),
    ("source-hash", Balancing::SourceHash),
];

/// The heaviest weight.
const HEAVIEST: u32 = 1_000;

/// The most turns that a round may have.
pub const MOST_TURNS: u32 = 1_024;

/// Reads the value of [`BALANCING`].
pub(super) fn balancing(text: &str) -> Result<Balancing, String> {
    let known = BALANCINGS.iter().find(|(name, _)| *name == text.trim());
    known.map(|(_, balancing)| *balancing).ok_or_else(|| {
        let names = BALANCINGS.map(|(name, _)| name).join(", ");
        format!("{text:?} is none of {names}; round-robin is used")
    })
}

/// How many turns endpoints have where others have one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weights(#[serde(with = "letters::keys")] BTreeMap<Arc<str>, u32>);

impl Weights {
    /// Reads the value of [`WEIGHTS`]: `web-0=3, 10.244.1.2=2`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut weights = BTreeMap::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (endpoint, weight) = entry.split_once('=').unwrap_or((entry, ""));
            let weight = weight.trim().parse().ok().filter(|weight| *weight <= HEAVIEST);
            let endpoint = canonical(endpoint.trim());
            let Some(weight) = weight.filter(|_| !endpoint.is_empty()) else {
                let shape = format!("of the form ENDPOINT=WEIGHT with a weight between 0 and {HEAVIEST}");
                return Err(format!("{entry:?} is not {shape}; all endpoints weigh the same"));
            };
            if weights.insert(endpoint, weight).is_some() {
                return Err(format!("{entry:?} is not the first weight of it; all endpoints weigh the same"));
            }
        }
        match turns(weights.values().copied()) {
            turns if turns > MOST_TURNS => Err(format!(
                "{text:?} takes {turns} turns, more than {MOST_TURNS}; all endpoints weigh the same"
            )),
            _ => Ok(Self(weights)),
        }
    }

    /// What an endpoint weighs: by its address, or the name of what it is, or its host name.
    pub fn of(&self, endpoint: &SliceEndpoint) -> u32 {
        if self.0.is_empty() {
            return 1;
        }
        let address = endpoint.address.to_string();
        let names = [Some(&*address), endpoint.target.as_deref(), endpoint.hostname.as_deref()];
        names.into_iter().flatten().find_map(|name| self.0.get(name)).copied().unwrap_or(1)
    }
}

/// How many turns a round has in which each has as many as it weighs, as few as that is possible with.
pub fn turns(weights: impl Iterator<Item = u32> + Clone) -> u32 {
    let divisor = weights.clone().fold(0, greatest_common_divisor).max(1);
    weights.fold(0, |sum: u32, weight| sum.saturating_add(weight / divisor))
}

/// The largest number by which both can be divided; the other one, if one of them is 0.
pub fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// An address as we write it, anything else as it is.
fn canonical(endpoint: &str) -> Arc<str> {
    match endpoint.parse::<IpAddr>() {
        Ok(address) => address.to_string().into(),
        Err(_) => endpoint.into(),
    }
}

#[cfg(test)]
mod tests;

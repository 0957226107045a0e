//! How fast a pod may receive and send: the keys of the reference plugin bandwidth, and what token buckets they make.
//!
//! In: the configuration. Out: a limit for each direction that has one, and the bucket that keeps it on a link. Nothing is set here.
//!
//! Kubelet's runtimes know a rate from the pod's annotations and no burst, and fill in the largest number that they can say:
//! 2^31-1 bits (kubelet itself, before 1.24), 2^32-1 (containerd), about 2^35 (CRI-O). Taken at their word, a pod of 10 Mbit/s would have no
//! limit for its first 512 MiB.

use dataplane::rtnl::TokenBucket;
use serde::Deserialize;
use serde_json::Value;

use crate::failure::{Code, Coded};

/// A burst of the runtime's from here on stands for none: the least of those that runtimes fill in.
const NO_BURST_BITS: u64 = 0x7fff_ffff;

/// A burst that nobody has said lasts so long, at the rate of the limit.
const BURST_MILLISECONDS: u64 = 50;

/// It is no less than the largest packet that a link is given to cut up: smaller ones cost more work.
const LEAST_BURST: u64 = 64 << 10;

/// How long packets wait at most, as with the reference plugin.
const BACKLOG_MILLISECONDS: u64 = 25;

/// What a frame has beside the packet: Ethernet's header, and a VLAN's tag.
const FRAME: u32 = 18;

/// What is wrong with a limit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not numbers, or below zero.
    #[error("decode {key} of the network configuration")]
    Decode {
        /// Where.
        key: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// One without the other.
    #[error("{there} is set and {missing} is not: set both, or neither")]
    Half {
        /// The key that is there.
        there: &'static str,
        /// The key that is not.
        missing: &'static str,
    },
    /// Less than a byte in a second.
    #[error("{key}={bits}: 8 bits a second at least")]
    TooSlow {
        /// The key.
        key: &'static str,
        /// Its value.
        bits: u64,
    },
    /// More than the kernel can count.
    #[error("{key}={bits}: less than 34359738368 bits (4 GiB)")]
    TooLong {
        /// The key.
        key: &'static str,
        /// Its value.
        bits: u64,
    },
}

impl Coded for Error {
    fn code(&self) -> Code {
        match self {
            Self::Decode { .. } => Code::Decode,
            Self::Half { .. } | Self::TooSlow { .. } | Self::TooLong { .. } => Code::InvalidConfiguration,
        }
    }
}

/// How fast a pod may receive and send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bandwidth {
    /// Towards the pod.
    pub ingress: Option<Limit>,
    /// From the pod.
    pub egress: Option<Limit>,
}

/// How fast bytes may pass in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Limit {
    /// Bytes in a second, one at least.
    rate: u64,
    /// Bytes at once after a silence, where somebody said how many.
    burst: Option<u32>,
}

/// The keys, in bits; also as containerd writes them. // go-cni `types.go`
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    #[serde(alias = "IngressRate")]
    ingress_rate: Option<u64>,
    #[serde(alias = "IngressBurst")]
    ingress_burst: Option<u64>,
    #[serde(alias = "EgressRate")]
    egress_rate: Option<u64>,
    #[serde(alias = "EgressBurst")]
    egress_burst: Option<u64>,
}

/// One direction of them.
#[derive(Debug, Clone, Copy)]
struct Said {
    rate: Option<u64>,
    burst: Option<u64>,
    /// What the keys are called.
    names: (&'static str, &'static str),
    by_runtime: bool,
}

impl Bandwidth {
    /// Reads the limits: for each direction what the runtime says, or else the configuration. 0 says nothing: containerd fills it in
    /// for a direction that the pod has no annotation for.
    pub fn parse(whole: &Value) -> Result<Self, Error> {
        const RUNTIME: &str = "runtimeConfig.bandwidth";
        const CONFIGURATION: &str = "ingressRate, ingressBurst, egressRate or egressBurst";
        let runtime = whole.pointer("/runtimeConfig/bandwidth").unwrap_or(&Value::Null);
        let (runtime, own) = (keys(runtime, RUNTIME)?, keys(whole, CONFIGURATION)?);
        let direction = |of: fn(Keys, bool) -> Said| {
            let said = [of(runtime, true), of(own, false)];
            said.into_iter().find(Said::is_said).map_or(Ok(None), Said::limit)
        };
        Ok(Self { ingress: direction(ingress)?, egress: direction(egress)? })
    }
}

/// The bucket of a link that took packets of one size and takes another: where the burst was no longer than the largest frame, it
/// still is, and no frame is longer than the burst.
pub fn resized(bucket: TokenBucket, from: u32, to: u32) -> TokenBucket {
    let (before, frame) = (from.saturating_add(FRAME), to.saturating_add(FRAME));
    let is_of_a_frame = TokenBucket { burst: before, ..bucket }.is_held_as(&bucket);
    let burst = if is_of_a_frame || bucket.burst < frame { frame } else { bucket.burst };
    let old = if is_of_a_frame { before } else { bucket.burst };
    if (TokenBucket { burst, ..bucket }).is_held_as(&bucket) {
        bucket // as long as that, but for what the kernel rounds
    } else {
        TokenBucket { burst, backlog: bucket.backlog - old.min(bucket.backlog) + burst, ..bucket }
    }
}

fn keys(object: &Value, key: &'static str) -> Result<Keys, Error> {
    let keys = Option::<Keys>::deserialize(object).map_err(|source| Error::Decode { key, source })?;
    Ok(keys.unwrap_or_default())
}

fn ingress(keys: Keys, by_runtime: bool) -> Said {
    let names = ("ingressRate", "ingressBurst");
    Said { rate: keys.ingress_rate, burst: keys.ingress_burst, names, by_runtime }
}

fn egress(keys: Keys, by_runtime: bool) -> Said {
    let names = ("egressRate", "egressBurst");
    Said { rate: keys.egress_rate, burst: keys.egress_burst, names, by_runtime }
}

impl Said {
    fn is_said(&self) -> bool {
        self.rate.unwrap_or(0) > 0 || self.known_burst() > 0
    }

    /// 0: none.
    fn known_burst(&self) -> u64 {
        self.burst.filter(|bits| !self.by_runtime || *bits < NO_BURST_BITS).unwrap_or(0)
    }

    /// Both or neither, as with the reference plugin; only that a runtime need not know of a burst.
    fn limit(self) -> Result<Option<Limit>, Error> {
        let (rate_key, burst_key) = self.names;
        match (self.rate.unwrap_or(0), self.known_burst()) {
            (0, 0) => Ok(None),
            (0, _) => Err(Error::Half { there: burst_key, missing: rate_key }),
            (_, 0) if !self.by_runtime => Err(Error::Half { there: rate_key, missing: burst_key }),
            (bits @ 1..8, _) => Err(Error::TooSlow { key: rate_key, bits }),
            (rate, 0) => Ok(Some(Limit { rate: rate / 8, burst: None })),
            (rate, bits) => {
                let burst = u32::try_from(bits / 8).map_err(|_| Error::TooLong { key: burst_key, bits })?;
                Ok(Some(Limit { rate: rate / 8, burst: Some(burst) }))
            }
        }
    }
}

impl Limit {
    /// The bucket that keeps to the limit on a link that takes packets of that size, all of which must fit in a burst.
    pub fn bucket(&self, mtu: u32) -> TokenBucket {
        let in_time = |milliseconds| u128::from(self.rate) * u128::from(milliseconds) / 1000;
        let bytes = |bytes: u128| u32::try_from(bytes).unwrap_or(u32::MAX);
        let unsaid = bytes(in_time(BURST_MILLISECONDS).max(LEAST_BURST.into()));
        let frame = mtu.saturating_add(FRAME);
        let burst = self.burst.unwrap_or(unsaid).min(TokenBucket::longest_burst(self.rate)).max(frame);
        let backlog = bytes(u128::from(burst) + in_time(BACKLOG_MILLISECONDS));
        TokenBucket { rate: self.rate, burst, backlog }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::failure::Failure;

    fn limit(bits: u64, burst_bits: u32) -> Limit {
        Limit { rate: bits / 8, burst: Some(burst_bits / 8) }
    }

    #[test]
    fn the_runtime_comes_first_in_each_direction_that_it_speaks_of() {
        let own =
            json!({ "ingressRate": 8000, "ingressBurst": 800, "egressRate": 16000, "egressBurst": 1600 });
        let with = |bandwidth: Value| {
            let mut whole = own.clone();
            whole["runtimeConfig"] = json!({ "bandwidth": bandwidth });
            Bandwidth::parse(&whole).unwrap()
        };
        let all_own = Bandwidth { ingress: Some(limit(8000, 800)), egress: Some(limit(16000, 1600)) };

        assert_eq!(Bandwidth::parse(&own).unwrap(), all_own);
        for nothing in [json!(null), json!({}), json!({ "ingressRate": null })] {
            assert_eq!(with(nothing), all_own);
        }
        let ingress = with(json!({ "ingressRate": 9000, "ingressBurst": 900 }));
        assert_eq!(ingress, Bandwidth { ingress: Some(limit(9000, 900)), ..all_own });
        // Where a pod has one annotation, containerd says 0 of the other direction.
        let egress =
            json!({ "IngressRate": 0, "IngressBurst": 0, "EgressRate": 9000, "EgressBurst": u32::MAX });
        let unsaid = Limit { rate: 9000 / 8, burst: None };
        assert_eq!(with(egress), Bandwidth { egress: Some(unsaid), ..all_own });
    }

    #[test]
    fn a_burst_that_the_runtime_does_not_know_is_chosen_by_the_rate() {
        let unsaid = [
            json!({ "ingressRate": 8_000_000 }),
            json!({ "ingressRate": 8_000_000, "ingressBurst": 0 }),
            json!({ "ingressRate": 8_000_000, "ingressBurst": i32::MAX }),
            json!({ "ingressRate": 8_000_000, "ingressBurst": u32::MAX }),
            json!({ "ingressRate": 8_000_000, "ingressBurst": u64::from(u32::MAX) * 8 }),
        ];
        for bandwidth in unsaid {
            let whole = json!({ "runtimeConfig": { "bandwidth": bandwidth } });
            let limit = Bandwidth::parse(&whole).unwrap().ingress.unwrap();
            assert_eq!(limit, Limit { rate: 1_000_000, burst: None }, "{whole}");
            assert_eq!(limit.bucket(1500).burst, 64 << 10);
        }
        let fast = Limit { rate: 125_000_000, burst: None };
        assert_eq!(fast.bucket(1500).burst, 6_250_000);
        assert_eq!(fast.bucket(1500).backlog, 6_250_000 + 3_125_000);
    }

    #[test]
    fn every_packet_fits_in_a_burst_and_the_kernel_can_tell_it() {
        let small = Limit { rate: 125_000, burst: Some(100) };
        assert_eq!(small.bucket(1500), TokenBucket { rate: 125_000, burst: 1518, backlog: 1518 + 3125 });
        let large = Limit { rate: 125_000, burst: Some(u32::MAX) };
        assert_eq!(large.bucket(1500).burst, TokenBucket::longest_burst(125_000));
        let fastest = Limit { rate: u64::MAX / 8, burst: None };
        assert_eq!(fastest.bucket(1500).burst, u32::MAX);
    }

    #[test]
    fn a_bucket_of_a_link_that_takes_another_size_is_as_if_made_for_it() {
        for (limit, from, to) in [
            (Limit { rate: 125_000, burst: Some(100) }, 1450, 1500),
            (Limit { rate: 125_000, burst: Some(100) }, 1500, 1400),
            (Limit { rate: 125_000, burst: Some(1480) }, 1450, 1500),
            (Limit { rate: 125_000, burst: Some(10_000) }, 1450, 1500),
            (Limit { rate: 125_000_000, burst: None }, 1500, 9000),
        ] {
            let resized = resized(limit.bucket(from), from, to);
            assert_eq!(resized, limit.bucket(to), "{limit:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (whole, told) in [
            (
                json!({ "ingressRate": 8000 }),
                "7 ingressRate is set and ingressBurst is not: set both, or neither",
            ),
            (
                json!({ "egressRate": 0, "egressBurst": 8 }),
                "7 egressBurst is set and egressRate is not: set both, or neither",
            ),
            (
                json!({ "runtimeConfig": { "bandwidth": { "ingressBurst": 8 } } }),
                "7 ingressBurst is set and ingressRate is not: set both, or neither",
            ),
            (json!({ "egressRate": 7, "egressBurst": 8 }), "7 egressRate=7: 8 bits a second at least"),
            (
                json!({ "egressRate": 8, "egressBurst": 34_359_738_368_u64 }),
                "7 egressBurst=34359738368: less than 34359738368 bits (4 GiB)",
            ),
            (
                json!({ "runtimeConfig": { "bandwidth": { "ingressRate": -1 } } }),
                "6 decode runtimeConfig.bandwidth of the network configuration: invalid value: integer `-1`, expected u64",
            ),
        ] {
            let failure = Failure::from(Bandwidth::parse(&whole).unwrap_err());
            assert_eq!(format!("{} {}", failure.code.number(), failure.on_one_line()), told);
        }
    }
}

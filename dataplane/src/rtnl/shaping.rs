//! How fast a link sends: a token bucket, as the kernel keeps it.

/// What a link may send: bytes come in at a rate, wait where there are too many, and are dropped where too many wait.
///
/// The kernel counts what goes over the wire: packets with the header of their link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenBucket {
    /// Bytes in a second.
    pub rate: u64,
    /// Bytes that are sent at once after a silence. No packet may be longer.
    pub burst: u32,
    /// Bytes that may wait.
    pub backlog: u32,
}

/// The kernel tells times of buckets in units of 64 ns, in 32 bits. // `PSCHED_SHIFT` of `include/net/pkt_sched.h`
pub(super) const NANOSECONDS_OF_A_TICK: u64 = 64;

const NANOSECONDS: u128 = 1_000_000_000;

impl TokenBucket {
    /// The longest burst that the kernel can tell of at a rate: of 4.5 minutes.
    pub fn longest_burst(rate: u64) -> u32 {
        Self::burst_of(rate, u32::MAX)
    }

    /// The burst that fills a time, as the kernel tells it.
    pub(super) fn burst_of(rate: u64, ticks: u32) -> u32 {
        let nanoseconds = u128::from(ticks) * u128::from(NANOSECONDS_OF_A_TICK);
        u32::try_from(nanoseconds * u128::from(rate) / NANOSECONDS).unwrap_or(u32::MAX)
    }

    /// Says whether the kernel's bucket is this one. It keeps a burst as a time, so it tells it with a rounding.
    pub fn is_held_as(&self, held: &Self) -> bool {
        let rounding = Self::burst_of(self.rate, 2).saturating_add(self.burst / 10_000).saturating_add(1);
        self.rate == held.rate && self.backlog == held.backlog && self.burst.abs_diff(held.burst) <= rounding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_told_as_a_time_and_known_by_it() {
        let bucket = TokenBucket { rate: 125_000_000, burst: 1_000_000, backlog: 4_000_000 };

        let ticks = 8_000_000 / 64; // 8 ms
        let held = TokenBucket { burst: TokenBucket::burst_of(bucket.rate, ticks), ..bucket };
        assert_eq!(held, bucket);
        assert!(bucket.is_held_as(&TokenBucket { burst: 999_990, ..bucket }));
        for other in [
            TokenBucket { rate: 125_000_001, ..bucket },
            TokenBucket { burst: 990_000, ..bucket },
            TokenBucket { backlog: 4_000_001, ..bucket },
        ] {
            assert!(!bucket.is_held_as(&other), "{other:?}");
        }
        assert_eq!(TokenBucket::longest_burst(125_000), 34_359_738);
        assert_eq!(TokenBucket::longest_burst(u64::MAX), u32::MAX);
    }
}

//! Another MTU for a link that is there: which ends get it, in which order, and what depends on it.
//!
//! In: what the ends have, and what they may have by our doing. Out: the ends to be set. An end drops what is larger than it takes,
//! silently; only the host's own routing tells a sender of it. So the host end, in front of which packets are routed, is the one that is
//! smaller for a moment as seldom as can be helped: it grows first and shrinks last.

use std::{collections::BTreeSet, net::IpAddr};

use super::{LEAST_MTU, LEAST_MTU_V6, MOST_MTU};

/// An end of a pod's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// On the host.
    Host,
    /// In the pod.
    Pod,
}

/// The MTU that the ends of a link have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ends {
    /// On the host.
    pub host: u32,
    /// In the pod.
    pub pod: u32,
}

impl Ends {
    /// Says whether nobody but us has set them: they are the same, or the pod's is one of those that we give, as when a call
    /// was killed between them. Who has given a pod a size of its own knows why.
    pub fn are_ours(self, given: &BTreeSet<u32>) -> bool {
        self.pod == self.host || given.contains(&self.pod)
    }

    /// Lists the ends that are to be set for both to have `mtu`, in order.
    pub fn steps_to(self, mtu: u32) -> Vec<End> {
        let order = if mtu > self.host { [End::Host, End::Pod] } else { [End::Pod, End::Host] };
        let differs = |end: &End| match end {
            End::Host => self.host != mtu,
            End::Pod => self.pod != mtu,
        };
        order.into_iter().filter(differs).collect()
    }
}

/// Says whether a link can have this MTU and keep these addresses.
pub fn is_possible(mtu: u32, addresses: &[IpAddr]) -> bool {
    let least = if addresses.iter().any(IpAddr::is_ipv6) { LEAST_MTU_V6 } else { LEAST_MTU };
    (least..=MOST_MTU).contains(&mtu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(host: u32, pod: u32) -> Ends {
        Ends { host, pod }
    }

    #[test]
    fn the_host_end_grows_first_and_shrinks_last() {
        assert_eq!(ends(1450, 1450).steps_to(1500), [End::Host, End::Pod]);
        assert_eq!(ends(1450, 1450).steps_to(1400), [End::Pod, End::Host]);
        assert_eq!(ends(1450, 1450).steps_to(1450), []);
    }

    #[test]
    fn what_was_begun_is_finished() {
        assert_eq!(ends(1500, 1450).steps_to(1500), [End::Pod]);
        assert_eq!(ends(1450, 1400).steps_to(1400), [End::Host]);
        assert_eq!(ends(1500, 1450).steps_to(1400), [End::Pod, End::Host]);
    }

    #[test]
    fn a_size_that_nobody_of_us_gives_is_the_pod_s_own() {
        let given = BTreeSet::from([1450, 1500]);
        assert!(ends(1400, 1400).are_ours(&given), "the ends are the same");
        assert!(ends(1500, 1450).are_ours(&given), "the host end came first");
        assert!(!ends(1450, 1280).are_ours(&given));
        assert!(!ends(1450, 1280).are_ours(&BTreeSet::new()));
    }

    #[test]
    fn addresses_of_ipv6_need_1280_bytes() {
        let of_both: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert!(is_possible(1280, &of_both) && !is_possible(1279, &of_both));
        assert!(is_possible(68, &of_both[..1]) && !is_possible(67, &of_both[..1]));
        assert!(!is_possible(65_536, &of_both));
    }
}

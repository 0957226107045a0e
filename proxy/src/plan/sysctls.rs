//! Kernel parameters of connection tracking. Pure.
//!
//! In: flags, and how many processors there are. Out: what each parameter should be, as kube-proxy has it
//! (`cmd/kube-proxy/app/server_linux.go`). What is a limit is never lowered.

use std::time::Duration;

use crate::config::Conntrack;

/// As many connections are tracked at most, whatever the machine has: each takes some 400 bytes.
const MOST: u32 = 1_048_576;

/// So many connections may share a bucket of the hash table before it is too small.
const PER_BUCKET: u32 = 4;

/// What a parameter should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sysctl {
    /// Which, as [`dataplane::sysctl`] names it.
    pub key: &'static str,
    /// What.
    pub value: u64,
    /// Whether more is as good.
    pub at_least: bool,
}

/// What the parameters should be; those that are to be left are not among them.
pub fn plan(flags: &Conntrack, processors: u32) -> Vec<Sysctl> {
    let mut sysctls = Vec::new();
    if flags.max_per_core > 0 {
        let most = flags.max_per_core.saturating_mul(processors).max(flags.min).min(MOST);
        let mut at_least =
            |key, value: u32| sysctls.push(Sysctl { key, value: value.into(), at_least: true });
        at_least("net/netfilter/nf_conntrack_max", most);
        at_least("module/nf_conntrack/parameters/hashsize", most / PER_BUCKET);
    }
    let mut exactly = |key, value| {
        if value > 0 {
            sysctls.push(Sysctl { key, value, at_least: false });
        }
    };
    exactly("net/netfilter/nf_conntrack_tcp_be_liberal", flags.tcp_be_liberal.into());
    for (key, timeout) in [
        ("net/netfilter/nf_conntrack_tcp_timeout_established", flags.tcp_timeout_established),
        ("net/netfilter/nf_conntrack_tcp_timeout_close_wait", flags.tcp_timeout_close_wait),
        ("net/netfilter/nf_conntrack_udp_timeout", flags.udp_timeout),
        ("net/netfilter/nf_conntrack_udp_timeout_stream", flags.udp_timeout_stream),
    ] {
        exactly(key, seconds(timeout));
    }
    sysctls
}

/// Whole seconds, as the kernel counts them: less than one is one, as 0 would be "leave it".
fn seconds(timeout: Duration) -> u64 {
    timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::Config;

    /// What is planned for a machine of so many processors, as `sysctl` would write it; `≥` where more is as good.
    fn planned(flags: &[&str], processors: u32) -> String {
        let config = Config::parse_from(["fairway-proxy"].iter().chain(flags));
        let lines = plan(&config.conntrack, processors).into_iter().map(|sysctl| {
            let key = sysctl.key.rsplit('/').next().unwrap_or_default();
            format!("{key} {} {}\n", if sysctl.at_least { "≥" } else { "=" }, sysctl.value)
        });
        lines.collect()
    }

    #[test]
    fn defaults_are_kube_proxy_s() {
        insta::assert_snapshot!(planned(&[], 8), @r"
        nf_conntrack_max ≥ 262144
        hashsize ≥ 65536
        nf_conntrack_tcp_timeout_established = 86400
        nf_conntrack_tcp_timeout_close_wait = 3600
        ");
    }

    #[test]
    fn everything_can_be_said() {
        let flags = [
            "--conntrack-max-per-core=1000",
            "--conntrack-min=2000",
            "--conntrack-tcp-timeout-established=1h30m",
            "--conntrack-tcp-timeout-close-wait=1500ms",
            "--conntrack-tcp-be-liberal",
            "--conntrack-udp-timeout=40s",
            "--conntrack-udp-timeout-stream=3m",
        ];
        insta::assert_snapshot!(planned(&flags, 3), @r"
        nf_conntrack_max ≥ 3000
        hashsize ≥ 750
        nf_conntrack_tcp_be_liberal = 1
        nf_conntrack_tcp_timeout_established = 5400
        nf_conntrack_tcp_timeout_close_wait = 2
        nf_conntrack_udp_timeout = 40
        nf_conntrack_udp_timeout_stream = 180
        ");
    }

    #[test]
    fn nought_leaves_what_the_kernel_has() {
        let flags = [
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0s",
        ];
        assert_eq!(planned(&flags, 8), "");
    }

    #[test]
    fn small_machines_track_the_least_and_large_ones_no_more_than_a_million() {
        let max = |processors| plan(&Config::parse_from(["fairway-proxy"]).conntrack, processors)[0].value;
        assert_eq!(
            [1, 4, 5, 32, 33, 200_000].map(max),
            [131_072, 131_072, 163_840, 1_048_576, 1_048_576, 1_048_576]
        );
    }
}

//! The flags about connection tracking. Those without `reset` in their name are kube-proxy's, and what they are by default is, too.

use std::time::Duration;

use clap::{ArgAction, Args};

use super::duration;

/// How connections are tracked.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Conntrack {
    /// How many connections to track for each processor, where that is more than --conntrack-min; 0 to leave the kernel's limit
    #[arg(long = "conntrack-max-per-core", value_name = "N", default_value_t = 32_768)]
    pub max_per_core: u32,

    /// How many connections to track at least
    #[arg(long = "conntrack-min", value_name = "N", default_value_t = 131_072)]
    pub min: u32,

    /// How long an idle TCP connection is tracked; 0 to leave what the kernel has
    #[arg(long = "conntrack-tcp-timeout-established", value_name = "DURATION")]
    #[arg(default_value = "24h", value_parser = duration)]
    pub tcp_timeout_established: Duration,

    /// How long a TCP connection is tracked that one end has closed; 0 to leave what the kernel has
    #[arg(long = "conntrack-tcp-timeout-close-wait", value_name = "DURATION")]
    #[arg(default_value = "1h", value_parser = duration)]
    pub tcp_timeout_close_wait: Duration,

    /// Tracks TCP packets outside of their window as if they were inside, rather than as invalid
    #[arg(long = "conntrack-tcp-be-liberal")]
    #[arg(value_name = "BOOL", default_value = "false", default_missing_value = "true")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    pub tcp_be_liberal: bool,

    /// How long datagrams are tracked that are not answered; 0 to leave what the kernel has
    #[arg(long = "conntrack-udp-timeout", value_name = "DURATION")]
    #[arg(default_value = "0", value_parser = duration)]
    pub udp_timeout: Duration,

    /// How long datagrams are tracked that go both ways; 0 to leave what the kernel has
    #[arg(long = "conntrack-udp-timeout-stream", value_name = "DURATION")]
    #[arg(default_value = "0", value_parser = duration)]
    pub udp_timeout_stream: Duration,

    /// Ends TCP connections to endpoints that are gone: the next packet of either end is answered with a reset
    #[arg(long = "conntrack-tcp-reset-vanished")]
    #[arg(value_name = "BOOL", default_value = "false", default_missing_value = "true")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    pub tcp_reset_vanished: bool,
}

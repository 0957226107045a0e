//! Flags of kube-proxy's that mean nothing here, so that a command line with them works unchanged.

use clap::Args;

/// Flags that are accepted and have no effect, each with what kube-proxy uses it for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct Unused {
    /// The address that kube-proxy's own services listen on by default
    #[arg(long, hide = true, default_value = "", hide_default_value = true)]
    bind_address: String,
    /// How often to read the configuration anew: it is watched
    #[arg(long, hide = true, default_value = "")]
    config_sync_period: String,
    /// Switches of features: there are none
    #[arg(long, hide = true, default_value = "")]
    feature_gates: String,
    /// How long changes wait at least: they do not
    #[arg(long, hide = true, default_value = "")]
    iptables_min_sync_period: String,
    /// How often everything is written anew: what differs is
    #[arg(long, hide = true, default_value = "")]
    iptables_sync_period: String,
    /// The bit that marks for masquerading: 14
    #[arg(long, hide = true, default_value = "")]
    iptables_masquerade_bit: String,
    /// Requests to the API server at a time: there are four watches
    #[arg(long, hide = true, default_value = "")]
    kube_api_burst: String,
    /// The format of answers: JSON
    #[arg(long, hide = true, default_value = "")]
    kube_api_content_type: String,
    /// Requests to the API server in a second
    #[arg(long, hide = true, default_value = "")]
    kube_api_qps: String,
    /// Where logs go: to standard error
    #[arg(long, hide = true, default_value = "", num_args = 0..=1, require_equals = true)]
    logtostderr: String,
}

//! kube-proxy's configuration file (`KubeProxyConfiguration`, kubeproxy.config.k8s.io/v1alpha1), said in flags.
//!
//! In: YAML or JSON, as kubeadm keeps it in the `ConfigMap` kube-system/kube-proxy. Out: flags that mean the same, for the one
//! parser that there is, and what of the file means nothing here. A field that is not there has kube-proxy's default, whatever the
//! command line says: there, too, a file makes flags void.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// What is wrong with a file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No YAML, or a field that holds something else than it should.
    #[error("{0}")]
    Syntax(String),
    /// Something else than a configuration of kube-proxy.
    #[error("it is a {kind} of {version}, not a KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1")]
    Kind {
        /// Its `apiVersion`.
        version: String,
        /// Its `kind`.
        kind: String,
    },
}

/// A file, as flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Translation {
    /// `--flag=value`, each flag that the file can speak of once.
    pub flags: Vec<String>,
    /// Fields that no version of the format has: they are ignored.
    pub unknown: Vec<String>,
    /// Fields that have a meaning, but none here, with the reason.
    pub idle: Vec<(&'static str, &'static str)>,
}

/// Flags that a file makes void.
pub const FLAGS: [&str; 20] = [
    "bind_address_hard_fail",
    "cluster_cidr",
    "detect_local_mode",
    "healthz_bind_address",
    "kubeconfig",
    "localhost_node_ports",
    "masquerade_all",
    "max_per_core",
    "metrics_bind_address",
    "min",
    "nodeport_addresses",
    "oom_score_adj",
    "pod_bridge_interface",
    "pod_interface_name_prefix",
    "proxy_mode",
    "tcp_be_liberal",
    "tcp_timeout_close_wait",
    "tcp_timeout_established",
    "udp_timeout",
    "udp_timeout_stream",
];

/// Reads a file. JSON is YAML, too.
pub fn translate(text: &str) -> Result<Translation, Error> {
    let syntax = |error: &dyn fmt::Display| Error::Syntax(error.to_string());
    let options = serde_saphyr::options! { with_snippet: false };
    let value: Value = serde_saphyr::from_str_with_options(text, options).map_err(|error| syntax(&error))?;
    let mut unknown = Vec::new();
    let file: File = serde_ignored::deserialize(&value, |path| {
        unknown.push(path.to_string().replace("?.", "")); // how it says that something may be absent
    })
    .map_err(|error| syntax(&error))?;
    if file.kind != "KubeProxyConfiguration" || file.api_version != "kubeproxy.config.k8s.io/v1alpha1" {
        return Err(Error::Kind { version: file.api_version, kind: file.kind });
    }
    Ok(Translation { flags: file.flags(), unknown, idle: file.idle() })
}

/// What we read, and what we know to be there and ignore.
#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
struct File {
    api_version: String,
    kind: String,
    #[serde(deserialize_with = "or_default")]
    bind_address_hard_fail: bool,
    #[serde(deserialize_with = "or_default")]
    client_connection: ClientConnection,
    #[serde(rename = "clusterCIDR", deserialize_with = "or_default")]
    cluster_cidr: String,
    #[serde(deserialize_with = "or_default")]
    conntrack: Conntrack,
    #[serde(deserialize_with = "or_default")]
    detect_local: DetectLocal,
    #[serde(deserialize_with = "or_default")]
    detect_local_mode: String,
    healthz_bind_address: Option<String>,
    metrics_bind_address: Option<String>,
    #[serde(deserialize_with = "or_default")]
    hostname_override: String,
    #[serde(deserialize_with = "or_default")]
    iptables: Iptables,
    #[serde(deserialize_with = "or_default")]
    nftables: Nftables,
    #[serde(deserialize_with = "or_default")]
    mode: String,
    #[serde(deserialize_with = "or_default")]
    node_port_addresses: Vec<String>,
    oom_score_adj: Option<i32>,
    #[serde(deserialize_with = "or_default")]
    feature_gates: serde_json::Map<String, Value>,
    // What has no meaning here. `Value` is anything.
    bind_address: Value,
    config_sync_period: Value,
    config_hard_fail: Value,
    enable_profiling: Value,
    ipvs: Value,
    linux: Value,
    logging: Value,
    port_range: Value,
    show_hidden_metrics_for_version: Value,
    sync_period: Value,
    min_sync_period: Value,
    udp_idle_timeout: Value,
    winkernel: Value,
    windows: Value,
    windows_run_as_service: Value,
}

#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
struct ClientConnection {
    #[serde(deserialize_with = "or_default")]
    kubeconfig: String,
    accept_content_types: Value,
    burst: Value,
    content_type: Value,
    qps: Value,
}

#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
struct Conntrack {
    max_per_core: Option<u32>,
    min: Option<u32>,
    tcp_be_liberal: Option<bool>,
    tcp_close_wait_timeout: Option<String>,
    tcp_established_timeout: Option<String>,
    udp_timeout: Option<String>,
    udp_stream_timeout: Option<String>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
struct DetectLocal {
    #[serde(deserialize_with = "or_default")]
    bridge_interface: String,
    #[serde(deserialize_with = "or_default")]
    interface_name_prefix: String,
}

#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
struct Iptables {
    localhost_node_ports: Option<bool>,
    #[serde(deserialize_with = "or_default")]
    masquerade_all: bool,
    masquerade_bit: Option<i32>,
    min_sync_period: Value,
    sync_period: Value,
}

#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
struct Nftables {
    #[serde(deserialize_with = "or_default")]
    masquerade_all: bool,
    masquerade_bit: Option<i32>,
    min_sync_period: Value,
    sync_period: Value,
}

/// Go prints what is not there as null.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// An address with a port, as kube-proxy completes it: an empty one is the default.
fn with_port(address: Option<&str>, default: &str, port: u16) -> String {
    match address {
        None | Some("") => format!("{default}:{port}"),
        Some(address) => match address.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, port).to_string(),
            Err(_) => address.to_owned(),
        },
    }
}

impl File {
    /// Whether the mode that the file asks for is the one of iptables, which is kube-proxy's default.
    fn is_iptables(&self) -> bool {
        matches!(self.mode.as_str(), "" | "iptables")
    }

    fn flags(&self) -> Vec<String> {
        let Self { conntrack, detect_local, .. } = self;
        let mode = Some(self.detect_local_mode.as_str()).filter(|mode| !mode.is_empty());
        // In iptables mode, node ports are on localhost unless the file says otherwise.
        let localhost = self.is_iptables() && self.iptables.localhost_node_ports.unwrap_or(true);
        let masquerade_all =
            if self.mode == "nftables" { self.nftables.masquerade_all } else { self.iptables.masquerade_all };
        let is_ipv6 = self.bind_address.as_str().is_some_and(|address| address.contains(':'));
        let (everywhere, localhost_of_family) =
            if is_ipv6 { ("[::]", "[::1]") } else { ("0.0.0.0", "127.0.0.1") };
        let healthz = with_port(self.healthz_bind_address.as_deref(), everywhere, 10256);
        let metrics = with_port(self.metrics_bind_address.as_deref(), localhost_of_family, 10249);
        let timeout =
            |timeout: &Option<String>, default: &str| timeout.as_deref().unwrap_or(default).to_owned();
        let mut flags = vec![
            format!("--bind-address-hard-fail={}", self.bind_address_hard_fail),
            format!("--kubeconfig={}", self.client_connection.kubeconfig),
            format!("--conntrack-max-per-core={}", conntrack.max_per_core.unwrap_or(32_768)),
            format!("--conntrack-min={}", conntrack.min.unwrap_or(131_072)),
            format!("--conntrack-tcp-be-liberal={}", conntrack.tcp_be_liberal.unwrap_or(false)),
            format!(
                "--conntrack-tcp-timeout-close-wait={}",
                timeout(&conntrack.tcp_close_wait_timeout, "1h")
            ),
            format!(
                "--conntrack-tcp-timeout-established={}",
                timeout(&conntrack.tcp_established_timeout, "24h")
            ),
            format!("--conntrack-udp-timeout={}", timeout(&conntrack.udp_timeout, "0")),
            format!("--conntrack-udp-timeout-stream={}", timeout(&conntrack.udp_stream_timeout, "0")),
            format!("--detect-local-mode={}", mode.unwrap_or("ClusterCIDR")),
            format!("--healthz-bind-address={healthz}"),
            format!("--metrics-bind-address={metrics}"),
            format!("--localhost-node-ports={localhost}"),
            format!("--masquerade-all={masquerade_all}"),
            format!("--nodeport-addresses={}", self.node_port_addresses.join(",")),
            format!("--oom-score-adj={}", self.oom_score_adj.unwrap_or(-999)),
            format!("--proxy-mode={}", self.mode),
            format!("--cluster-cidr={}", self.cluster_cidr),
        ];
        let named = [
            ("--pod-bridge-interface", &detect_local.bridge_interface),
            ("--pod-interface-name-prefix", &detect_local.interface_name_prefix),
            // The command line's comes later, and has the last word.
            ("--hostname-override", &self.hostname_override),
        ];
        let named = named.iter().filter(|(_, value)| !value.is_empty());
        flags.extend(named.map(|(flag, value)| format!("{flag}={value}")));
        flags
    }

    fn idle(&self) -> Vec<(&'static str, &'static str)> {
        let bit = [self.iptables.masquerade_bit, self.nftables.masquerade_bit];
        let has_other_bit = bit.iter().flatten().any(|bit| *bit != 14);
        let rules = [
            (has_other_bit, "masqueradeBit", "bit 14 is used: rules of others that look at it must, too"),
            (!self.feature_gates.is_empty(), "featureGates", "there are none"),
            (self.enable_profiling == Value::Bool(true), "enableProfiling", "there is no profile to ask for"),
            (self.mode == "ipvs", "mode", "services are in nftables; addresses on kube-ipvs0 are not needed"),
        ];
        rules.into_iter().filter(|(is_so, ..)| *is_so).map(|(_, field, reason)| (field, reason)).collect()
    }
}

#[cfg(test)]
mod tests;

//! The command line. In: arguments. Out: [`Config`], or clap's message about what is wrong with them.
//!
//! Flags that kube-proxy has too mean the same here, and are written the same way (`--masquerade-all=true`, `--v=2`).

use std::{
    ffi::OsString,
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, parser::ValueSource};
use ipnetwork::IpNetwork;
use tracing::Level;

use crate::{service_port::Family, watch::kubernetes::Access};

pub mod changed;
mod conntrack;
pub mod file;
mod overlay;
mod unused;
pub mod written;

#[cfg(test)]
mod tests;

pub use conntrack::Conntrack;
pub use overlay::{ChecksumOffload, Overlay};
pub use unused::Unused;

/// Programs nftables for Kubernetes services, and routes pods between nodes.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "fairway-proxy", version, args_override_self = true)]
#[expect(clippy::struct_excessive_bools, reason = "switches on a command line are independent of each other")]
pub struct Config {
    /// kube-proxy's configuration file: what it does not say has kube-proxy's default, whatever other flags of kube-proxy's say
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Reads services, endpoint slices and nodes from the YAML and JSON files in this directory, and watches it
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// A kubeconfig file that says where the API server is and who we are to it; in a pod it is not needed
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,

    /// The API server's URL, in the place of the one in the kubeconfig file
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,

    /// Name of this node, where it is not the host's
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,

    /// How packets find pods on other nodes: direct (by the nodes' own addresses), vxlan (inside packets to them), auto (direct where
    /// the other node is on a link of this one, vxlan elsewhere) or none
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = route_mode)]
    pub routes: RouteMode,

    /// The overlay
    #[command(flatten)]
    pub overlay: Overlay,

    /// Addresses of all pods, one CIDR for each family; connections from elsewhere to cluster IPs are masqueraded
    #[arg(long, value_name = "CIDR", default_value = "", hide_default_value = true, value_parser = cidrs)]
    pub cluster_cidr: Cidrs,

    /// Networks beside pods and nodes where pods show their own addresses; elsewhere they have this node's
    #[arg(
        help = "Networks beside pods and nodes where pods show their own addresses; elsewhere they have this node's. 0.0.0.0/0,::/0 for everywhere"
    )]
    #[arg(long, value_name = "CIDR", default_value = "", hide_default_value = true, value_parser = cidrs)]
    pub non_masquerade_cidrs: Cidrs,

    /// How connections of this node's pods are told from others
    #[arg(
        help = "How connections of this node's pods are told from others: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix"
    )]
    #[arg(long, value_name = "MODE", default_value = "ClusterCIDR", value_parser = detect_local_mode)]
    pub detect_local_mode: DetectLocalMode,

    /// The bridge that pods are on, for --detect-local-mode=BridgeInterface
    #[arg(long, value_name = "LINK", value_parser = link_name)]
    #[arg(required_if_eq("detect_local_mode", "BridgeInterface"))]
    pub pod_bridge_interface: Option<String>,

    /// How the names of the pods' links begin, for --detect-local-mode=InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX", value_parser = link_name)]
    #[arg(required_if_eq("detect_local_mode", "InterfaceNamePrefix"))]
    pub pod_interface_name_prefix: Option<String>,

    /// Addresses of this node that serve node ports: all, primary (those of its Node object), or CIDRs
    #[arg(long, value_name = "CIDR", default_value = "all", value_parser = node_port_addresses)]
    pub nodeport_addresses: NodePortAddresses,

    /// Serves node ports on localhost, too
    #[arg(long, value_name = "BOOL", default_value = "false", default_missing_value = "true")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    pub localhost_node_ports: bool,

    /// Networks that externalIPs of services must be in to be served; none for no external IPs at all
    #[arg(long, value_name = "CIDR", default_value = "all", value_parser = external_ips)]
    pub external_ips: ExternalIps,

    /// Answers ping to the cluster IP of a service while it has endpoints
    #[arg(long, value_name = "BOOL", default_value = "false", default_missing_value = "true")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    pub ping_cluster_ips: bool,

    /// Masquerades all connections to cluster IPs
    #[arg(long, value_name = "BOOL", default_value = "false", default_missing_value = "true")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    pub masquerade_all: bool,

    /// How connections are tracked
    #[command(flatten)]
    pub conntrack: Conntrack,

    /// Counts new connections for each address and each backend of a service
    #[arg(long, value_name = "BOOL", default_value = "true", default_missing_value = "true")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    pub counters: bool,

    /// Writes the CNI configuration that makes the container runtime use Fairway
    #[arg(long, value_name = "BOOL", default_value = "false", default_missing_value = "true")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    pub install_cni: bool,

    /// Installs the CNI plugin into this directory, such as /opt/cni/bin
    #[arg(long, value_name = "DIR")]
    pub cni_bin_dir: Option<PathBuf>,

    /// The plugin to install, where it is not the program fairway beside this one
    #[arg(long, value_name = "FILE", requires = "cni_bin_dir")]
    pub cni_plugin: Option<PathBuf>,

    /// How often to read and compare all rules, for what others changed and the kernel did not tell, such as 10m; 0 for never
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub audit_period: Duration,

    /// Where the CNI plugin finds what it must know of this node
    #[arg(long, value_name = "DIR", default_value = "/run/fairway")]
    pub run_dir: PathBuf,

    /// Where the last known state is kept, for a start while the API server cannot be reached; empty for nowhere
    #[arg(long, value_name = "DIR", default_value = "/var/lib/fairway")]
    pub state_dir: String,

    /// Where the container runtime looks for CNI configuration
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,

    /// Where to say whether this proxy is healthy; empty for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:10256", value_parser = socket_address)]
    pub healthz_bind_address: ListenAddress,

    /// Where metrics and status are read; empty for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10249", value_parser = socket_address)]
    pub metrics_bind_address: ListenAddress,

    /// Ends where one of these addresses cannot be listened on, rather than trying again
    #[arg(long, value_name = "BOOL", default_value = "false", default_missing_value = "true")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    pub bind_address_hard_fail: bool,

    /// How willingly the kernel ends this process where memory is short: -1000 (never) to 1000
    #[arg(long, value_name = "N", default_value_t = -999, allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    pub oom_score_adj: i32,

    /// kube-proxy's modes, all of which come to nftables here: iptables, ipvs or nftables
    #[arg(long, value_name = "MODE", default_value = "", hide_default_value = true)]
    #[arg(value_parser = ["", "iptables", "ipvs", "nftables"])]
    pub proxy_mode: String,

    /// Sets the parameters of the kernel, which needs more rights than the rest, and exits
    #[arg(long, value_name = "BOOL", default_value = "false", default_missing_value = "true")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    pub init_only: bool,

    /// Writes the configuration that is in force to this file, as kube-proxy's configuration file has it, and exits
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,

    /// Removes all that Fairway made on this node but its pods, and exits
    #[arg(long, value_name = "BOOL", default_value = "false", default_missing_value = "true")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    pub cleanup: bool,

    /// What has no meaning here
    #[command(flatten)]
    pub unused: Unused,

    /// How much to log: 4 for debugging, 6 for everything
    #[arg(short = 'v', long = "v", value_name = "N", default_value_t = 0)]
    pub verbosity: u8,
}

/// How packets find pods on other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteMode {
    /// By routes where the other node is on a link of ours, and by VXLAN elsewhere.
    Auto,
    /// By VXLAN.
    Vxlan,
    /// By routes through the other nodes' own addresses. All nodes must be on one network.
    Direct,
    /// By somebody else's doing.
    None,
}

impl RouteMode {
    /// Says whether packets may come inside of others.
    pub fn has_tunnels(self) -> bool {
        matches!(self, Self::Auto | Self::Vxlan)
    }
}

impl fmt::Display for RouteMode {
    /// As it is asked for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Vxlan => "vxlan",
            Self::Direct => "direct",
            Self::None => "none",
        })
    }
}

/// How connections of this node's pods are told from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DetectLocalMode {
    /// By source address in the pods' network.
    ClusterCidr,
    /// By source address in this node's part of it.
    NodeCidr,
    /// By the bridge that they come in by.
    BridgeInterface,
    /// By the name of the link that they come in by.
    InterfaceNamePrefix,
}

fn detect_local_mode(text: &str) -> Result<DetectLocalMode, String> {
    match text {
        "ClusterCIDR" => Ok(DetectLocalMode::ClusterCidr),
        "NodeCIDR" => Ok(DetectLocalMode::NodeCidr),
        "BridgeInterface" => Ok(DetectLocalMode::BridgeInterface),
        "InterfaceNamePrefix" => Ok(DetectLocalMode::InterfaceNamePrefix),
        _ => Err("must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix".into()),
    }
}

/// Linux keeps 15 bytes of a link's name.
fn link_name(text: &str) -> Result<String, String> {
    let is_name = (1..16).contains(&text.len()) && !text.contains(|c: char| c == '/' || c.is_whitespace());
    if is_name {
        Ok(text.into())
    } else {
        Err("must be 1 to 15 characters, without / and white space".into())
    }
}

/// Addresses of this node that serve node ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All but loopback.
    All,
    /// The node's internal addresses, as its Node object has them; the first of each family.
    Primary,
    /// Those in these networks. A family without one serves on all, as with kube-proxy.
    Cidrs(Vec<IpNetwork>),
}

impl NodePortAddresses {
    /// The networks of a family whose addresses serve node ports; `None`: on all addresses. `node_ips` are those of the Node object, the
    /// primary one of each family first.
    pub fn networks(&self, family: Family, node_ips: &[IpAddr]) -> Option<Vec<IpNetwork>> {
        match self {
            Self::All => None,
            Self::Primary => {
                let first = node_ips.iter().copied().find(|&ip| Family::of(ip) == family);
                Some(first.map(IpNetwork::from).into_iter().collect())
            }
            Self::Cidrs(all) => {
                let of_family = all.iter().copied().filter(|network| Family::of(network.ip()) == family);
                let networks: Vec<_> = of_family.collect();
                let is_all = networks.is_empty() || networks.iter().any(|network| network.prefix() == 0);
                (!is_all).then_some(networks)
            }
        }
    }
}

fn node_port_addresses(text: &str) -> Result<NodePortAddresses, String> {
    match text.trim() {
        "" | "all" => Ok(NodePortAddresses::All),
        "primary" => Ok(NodePortAddresses::Primary),
        list => match list.split(',').map(cidr).collect() {
            Ok(cidrs) => Ok(NodePortAddresses::Cidrs(cidrs)),
            Err(_) => Err("must be all, primary, or CIDRs such as 192.168.14.0/24,fd00:14::/64".into()),
        },
    }
}

/// External IPs that are served: whoever may set them on a service may draw traffic to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternalIps {
    /// All.
    All,
    /// Those in these networks; perhaps none.
    Within(Vec<IpNetwork>),
}

fn external_ips(text: &str) -> Result<ExternalIps, String> {
    match text.trim() {
        "all" => Ok(ExternalIps::All),
        "none" => Ok(ExternalIps::Within(Vec::new())),
        list => match list.split(',').map(cidr).collect() {
            Ok(cidrs) => Ok(ExternalIps::Within(cidrs)),
            Err(_) => Err("must be all, none, or CIDRs such as 203.0.113.0/24".into()),
        },
    }
}

fn route_mode(text: &str) -> Result<RouteMode, String> {
    match text {
        "auto" => Ok(RouteMode::Auto),
        "direct" => Ok(RouteMode::Direct),
        "none" => Ok(RouteMode::None),
        "vxlan" => Ok(RouteMode::Vxlan),
        _ => Err("must be auto, vxlan, direct or none".into()),
    }
}

/// A duration as Kubernetes writes it: `1h30m`, `10m`, `200ms`, `0`.
fn duration(text: &str) -> Result<Duration, String> {
    let malformed = || "must be a duration such as 10m or 1h30m".to_owned();
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(malformed)?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(malformed()),
        };
        let number: u64 = number.parse().map_err(|_| malformed())?;
        let part = number.checked_mul(milliseconds).map(Duration::from_millis);
        sum = part.and_then(|part| sum.checked_add(part)).ok_or_else(malformed)?;
        rest = after;
    }
    if text.trim().is_empty() { Err(malformed()) } else { Ok(sum) }
}

/// Networks, as a list with commas; perhaps none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidrs(pub Vec<IpNetwork>);

fn cidrs(text: &str) -> Result<Cidrs, String> {
    let parts = text.split(',').filter(|_| !text.trim().is_empty());
    parts.map(cidr).collect::<Result<_, _>>().map(Cidrs)
}

fn cidr(text: &str) -> Result<IpNetwork, String> {
    match text.trim().parse::<IpNetwork>() {
        Ok(network) if text.contains('/') => {
            IpNetwork::new(network.network(), network.prefix()).map_err(|error| error.to_string())
        }
        _ => Err("must be a CIDR such as 10.244.0.0/16".into()),
    }
}

/// An address to listen on, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenAddress(pub Option<SocketAddr>);

fn socket_address(text: &str) -> Result<ListenAddress, String> {
    match text.trim() {
        "" => Ok(ListenAddress(None)),
        text => match text.parse() {
            Ok(address) => Ok(ListenAddress(Some(address))),
            Err(_) => Err("must be an address and a port such as 0.0.0.0:10256 or [::]:10256".into()),
        },
    }
}

/// What is to be said about the command line and the configuration file once there is a log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// The flag or field.
    pub subject: String,
    /// What is done about it.
    pub reason: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is wrong, or asks for help; clap says it.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// The configuration file cannot be read.
    #[error("read configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration file makes no sense.
    #[error("configuration file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: file::Error,
    },
    /// A field of the configuration file makes no sense.
    #[error("configuration file {path}: {}", first_line(source))]
    Field {
        /// The file.
        path: PathBuf,
        /// What is wrong, in terms of flags.
        source: clap::Error,
    },
}

/// What clap says, without advice on how to call the program.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

impl Config {
    /// Reads a command line, and the configuration file that it names. The file is read by `read`.
    pub fn of(
        arguments: impl IntoIterator<Item = OsString>,
        read: impl FnOnce(&Path) -> std::io::Result<String>,
    ) -> Result<(Self, Vec<Notice>), Error> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        let matches = Self::command().try_get_matches_from(&arguments)?;
        let config = Self::from_arg_matches(&matches)?;
        let Some(path) = config.config.clone() else { return Ok((config, Vec::new())) };
        let text = read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let translation =
            file::translate(&text).map_err(|source| Error::File { path: path.clone(), source })?;
        let notice = |subject: &str, reason: &str| Notice { subject: subject.into(), reason: reason.into() };
        let void = file::FLAGS.iter().filter(|id| matches.value_source(id) == Some(ValueSource::CommandLine));
        let mut notices: Vec<Notice> =
            void.map(|id| notice(&id.replace('_', "-"), "ignored: the configuration file decides")).collect();
        notices
            .extend(translation.unknown.iter().map(|field| notice(field, "ignored: there is no such field")));
        notices.extend(translation.idle.iter().map(|(field, reason)| notice(field, reason)));

        let (before, after): (Vec<_>, Vec<_>) =
            translation.flags.iter().partition(|flag| flag.starts_with("--hostname-override"));
        let (program, rest) = arguments.split_at(arguments.len().min(1));
        let all = program.iter().cloned().chain(before.into_iter().map(OsString::from));
        let all = all.chain(rest.iter().cloned()).chain(after.into_iter().map(OsString::from));
        let config = Self::try_parse_from(all).map_err(|source| Error::Field { path, source })?;
        Ok((config, notices))
    }

    /// The name of the Node object that is this machine: as given, or the host's where none is or an empty one.
    pub fn node_name(&self, host_name: &str) -> String {
        let given = self.hostname_override.as_deref().map(str::trim).filter(|name| !name.is_empty());
        given.unwrap_or(host_name.trim()).to_lowercase()
    }

    /// The way to the API server. Empty paths and URLs are none, as kube-proxy has it.
    pub fn access(&self) -> Access {
        let kubeconfig = self.kubeconfig.clone().filter(|path| !path.is_empty());
        Access::new(kubeconfig.map(PathBuf::from), self.master.clone().filter(|url| !url.is_empty()))
    }

    /// The log level that kube-proxy's verbosity comes to.
    pub fn log_level(&self) -> Level {
        match self.verbosity {
            0..=3 => Level::INFO,
            4..=5 => Level::DEBUG,
            _ => Level::TRACE,
        }
    }
}

//! What marks a kernel object as ours.
//!
//! Nothing without one of these marks is ever listed for deletion, changed or flushed.

/// Name of the daemon's nftables tables, one per family: `ip fairway` and `ip6 fairway`.
pub const TABLE: &str = "fairway";

/// Name of the nftables tables of host ports, one per family. The plugin fills them, whether there is a daemon or not; a daemon
/// puts back what others take out of them.
pub const HOST_PORTS_TABLE: &str = "fairway-host-ports";

/// Protocol number of the routes we own (`ip route show proto 70`).
pub const ROUTE_PROTOCOL: u8 = 70;

/// First letters of the name of every veth host end that we make.
pub const LINK_PREFIX: &str = "fw";

/// First letters of the name of every link that what pods send is limited on.
pub const IFB_PREFIX: &str = "fi";

/// Number of the token buckets we own (`tc qdisc show` prints it in hexadecimal, as `70:`).
pub const QDISC_HANDLE: u16 = 0x70;

/// Preference of the filters we own (`tc filter show dev … ingress`).
pub const FILTER_PREFERENCE: u16 = 70;

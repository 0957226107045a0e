//! What marks a kernel object as ours.
//!
//! Nothing without one of these marks is ever listed for deletion, changed or flushed.

/// Name of the nftables tables, one per family: `ip fairway` and `ip6 fairway`.
pub const TABLE: &str = "fairway";

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

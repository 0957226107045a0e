//! What marks a kernel object as ours.
//!
//! Nothing without one of these marks is ever listed for deletion, changed or flushed.

/// Name of the nftables tables, one per family: `ip fairway` and `ip6 fairway`.
pub const TABLE: &str = "fairway";

/// Protocol number of the routes we own (`ip route show proto 70`).
pub const ROUTE_PROTOCOL: u8 = 70;

/// First letters of the name of every veth host end that we make.
pub const LINK_PREFIX: &str = "fw";

//! What marks a kernel object as ours.
//!
//! Nothing without one of these marks is ever listed for deletion, changed or flushed.

/// Name of the daemon's nftables tables, one per family: `ip fairway` and `ip6 fairway`.
pub const TABLE: &str = "fairway";

/// Name of the nftables tables of host ports, one per family. The plugin fills them, whether there is a daemon or not; a daemon
/// puts back what others take out of them.
pub const HOST_PORTS_TABLE: &str = "fairway-host-ports";

/// Name of the nftables tables of pods whose network is to be masqueraded, one per family: the plugin's likewise.
pub const MASQUERADE_TABLE: &str = "fairway-masquerade";

/// Protocol number of the routes we own (`ip route show proto 70`).
pub const ROUTE_PROTOCOL: u8 = 70;

/// Number of our own table of routes (`ip route show table 18007`): `FW` in ASCII. Those that others take are smaller, or look like
/// ports and marks.
pub const ROUTE_TABLE: u32 = 0x4657;

/// Priority of the rules that lead to it, which bear the protocol number of our routes: behind the kernel's own for VRFs (1000), and
/// before those by which VPNs take all that leaves a machine (Tailscale's 5270, wg-quick's just before the main table's 32766).
pub const RULE_PRIORITY: u32 = 1070;

/// First letters of the name of every veth host end that we make.
pub const LINK_PREFIX: &str = "fw";

/// First letters of the name of every link that what pods send is limited on.
pub const IFB_PREFIX: &str = "fi";

/// Number of the token buckets we own (`tc qdisc show` prints it in hexadecimal, as `70:`).
pub const QDISC_HANDLE: u16 = 0x70;

/// Preference of the filters we own (`tc filter show dev … ingress`).
pub const FILTER_PREFERENCE: u16 = 70;

/// Names of our VXLAN devices: the one whose packets are IPv4, and the one whose packets are IPv6.
pub const TUNNELS: [&str; 2] = ["fairway.1", "fairway6.1"];

/// Says whether a link is one of our devices for tunnels.
pub fn is_tunnel(link: &str) -> bool {
    TUNNELS.contains(&link)
}

/// Says whether a link has the name of a host end: the prefix, and 13 letters and digits of base 32.
pub fn is_host_end(link: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte);
    let digits = link.strip_prefix(LINK_PREFIX);
    digits.is_some_and(|digits| digits.len() == 13 && digits.bytes().all(is_digit))
}

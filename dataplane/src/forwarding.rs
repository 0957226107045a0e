//! Makes this host forward packets, of which a router of pods is made.
//!
//! In: a family. Out: the host forwards its packets, and has kept the routes that others advertised to it. Belongs to the calling
//! thread's network namespace.

use crate::{
    owner,
    packet::Family,
    sysctl::{self, Error},
};

/// The parameter that says whether packets of a family are forwarded.
pub fn parameter(family: Family) -> &'static str {
    match family {
        Family::Ip => "net/ipv4/ip_forward",
        Family::Ip6 => "net/ipv6/conf/all/forwarding",
    }
}

/// Makes this host forward packets of a family, and says whether it did not.
pub fn allow(family: Family) -> Result<bool, Error> {
    let key = parameter(family);
    if sysctl::read(key)? == "1" {
        return Ok(false);
    }
    if family == Family::Ip6 {
        keep_advertised_routes()?;
    }
    sysctl::set(key, "1").map(|()| true)
}

/// A host that forwards forgets the routes that routers advertised to it, and hears of no others, unless `accept_ra` is 2 rather
/// than 1: a node that has its default route from a router would lose it. // kernel ip-sysctl.rst
fn keep_advertised_routes() -> Result<(), Error> {
    for link in sysctl::names("net/ipv6/conf")? {
        // `all` has no effect, and `default` is for links to come, whose owners then know that the host forwards.
        // A pod's host end is about to refuse advertisements, by an ADD that runs at the same time; and so do our tunnels.
        let is_ours = owner::is_host_end(&link) || owner::is_tunnel(&link);
        if ["all", "default", "lo"].contains(&link.as_str()) || is_ours {
            continue;
        }
        let key = format!("net/ipv6/conf/{link}/accept_ra");
        if sysctl::read(&key).is_ok_and(|accepts| accepts == "1") {
            match sysctl::set_if_different(&key, "2") {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

//! Sets kernel parameters, once, when the daemon starts.
//!
//! In: what they should be. Out: they are, where they may be set. What may not is said in one line and left: a limit belongs to the
//! machine and can be set in its first namespace only, and in a container `/proc/sys` is often read-only.

use dataplane::sysctl::{self, Error};
use tracing::{info, warn};

use crate::plan::sysctls::Sysctl;

/// Sets what is not as it should be.
pub fn set(sysctls: &[Sysctl]) {
    let (mut changed, mut kept) = (Vec::new(), Vec::new());
    for Sysctl { key, value, at_least } in sysctls {
        match set_one(key, *value, *at_least) {
            Ok(true) => changed.push(format!("{key}={value}")),
            Ok(false) => {}
            Err(error) if error.is_read_only() => kept.push(format!("{key}={value}")),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "left a kernel parameter as it is"),
        }
    }
    if !changed.is_empty() {
        info!(changed = changed.join(" "), "set kernel parameters");
    }
    if !kept.is_empty() {
        info!(wanted = kept.join(" "), "kernel parameters are read-only here and stay as they are");
    }
}

/// Sets one parameter, and says whether it had to.
fn set_one(key: &str, value: u64, at_least: bool) -> Result<bool, Error> {
    let is_enough = sysctl::read(key)?.parse().is_ok_and(|now: u64| now == value || at_least && now > value);
    if is_enough {
        return Ok(false);
    }
    sysctl::set(key, &value.to_string()).map(|()| true)
}

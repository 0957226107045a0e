//! A call of the plugin as bytes: variables, an empty line, and what comes on standard input.
//!
//! ```text
//! CNI_COMMAND=DEL
//! CNI_CONTAINERID=a
//! CNI_IFNAME=eth0
//!
//! { "cniVersion": "1.1.0", "name": "pods", "type": "fairway" }
//! ```

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    time::{Duration, SystemTime},
};

use cni_plugin::Environment;

/// A call of the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The variables.
    pub environment: Environment,
    /// What comes on standard input.
    pub stdin: Vec<u8>,
}

impl Call {
    /// Takes any bytes for a call.
    pub fn parse(input: &[u8]) -> Self {
        let (head, stdin) = split(input);
        let lines = head.split(|byte| *byte == b'\n');
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_owned());
        let variables = lines.filter_map(|line| {
            let place = line.iter().position(|byte| *byte == b'=')?;
            let (name, value) = line.split_at_checked(place)?;
            Some((text(name), text(value.strip_prefix(b"=")?)))
        });
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_631_723);
        Self { environment: Environment::from_vars(variables, now), stdin: stdin.to_owned() }
    }
}

/// Parts the variables from what comes on standard input.
pub fn split(input: &[u8]) -> (&[u8], &[u8]) {
    let end = input.windows(2).position(|two| two == b"\n\n");
    let parts = end.and_then(|end| input.split_at_checked(end));
    parts.map_or((input, &[]), |(head, rest)| (head, rest.strip_prefix(b"\n\n").unwrap_or(rest)))
}

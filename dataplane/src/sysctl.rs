//! Kernel parameters: `/proc/sys`, and `/sys/module` for those of modules, read and set.
//!
//! In: a key with slashes, as `net/ipv4/ip_forward` (a link's name may hold a dot), and a value. Out: the value, or an error
//! that says what a person can do. Those below `net` belong to the calling thread's namespace: run it in the right one.
//! A value that is as it should be is never written again, so a read-only `/proc/sys` is no obstacle.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

const ROOT: &str = "/proc/sys";

/// Where keys lead that begin so: `module/nf_conntrack/parameters/hashsize`. There is no such directory in `/proc/sys`.
const MODULES: (&str, &str) = ("module/", "/sys/module");

/// Why a parameter could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not there, or not for us to see.
    #[error("read sysctl {key}")]
    Read {
        /// The parameter.
        key: String,
        /// What the system said.
        source: io::Error,
    },
    /// There, but not for us to change.
    #[error("set sysctl {key} to {value}: it is read-only here: {}", instead(key, value))]
    ReadOnly {
        /// The parameter.
        key: String,
        /// The value that it should have.
        value: String,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else: no such parameter, or the kernel does not take the value.
    #[error("set sysctl {key} to {value}")]
    Set {
        /// The parameter.
        key: String,
        /// The value that it should have.
        value: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What a person can do where we cannot.
fn instead(key: &str, value: &str) -> String {
    if key.starts_with(MODULES.0) {
        return format!(
            "set it on the node (echo {value} > {}), or mount /sys writable",
            path_of(key).display()
        );
    }
    format!("set it on the node (sysctl -w {key}={value}), or mount {ROOT} writable")
}

impl Error {
    /// Says whether the parameter is there, but not for us to change.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::ReadOnly { .. })
    }

    /// Says whether there is no such parameter: a link that is gone, or a kernel without IPv6.
    pub fn is_not_found(&self) -> bool {
        let (Self::Read { source, .. } | Self::ReadOnly { source, .. } | Self::Set { source, .. }) = self;
        source.kind() == io::ErrorKind::NotFound
    }
}

/// Reads a parameter, without the newline at its end.
pub fn read(key: &str) -> Result<String, Error> {
    match fs::read_to_string(path_of(key)) {
        Ok(value) => Ok(value.trim_end().to_owned()),
        Err(source) => Err(Error::Read { key: key.to_owned(), source }),
    }
}

/// Sets a parameter.
pub fn set(key: &str, value: &str) -> Result<(), Error> {
    let line = format!("{value}\n"); // an empty value is written, too
    let file = OpenOptions::new().write(true).open(path_of(key));
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.map_err(|source| {
        let (key, value) = (key.to_owned(), value.to_owned());
        match source.kind() {
            // Some parameters of the machine cannot be set from other namespaces than its first.
            io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::Unsupported => Error::ReadOnly { key, value, source },
            _ => Error::Set { key, value, source },
        }
    })
}

/// Sets a parameter unless it has that value, and says whether it had to.
pub fn set_if_different(key: &str, value: &str) -> Result<bool, Error> {
    if read(key)? == value {
        return Ok(false);
    }
    set(key, value).map(|()| true)
}

/// Lists the names below a key, such as the links of `net/ipv6/conf`.
pub fn names(key: &str) -> Result<Vec<String>, Error> {
    let list = || -> io::Result<Vec<String>> {
        let entries = fs::read_dir(path_of(key))?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    list().map_err(|source| Error::Read { key: key.to_owned(), source })
}

fn path_of(key: &str) -> PathBuf {
    match key.strip_prefix(MODULES.0) {
        Some(rest) => Path::new(MODULES.1).join(rest),
        None => Path::new(ROOT).join(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_read_without_its_newline() {
        let release = read("kernel/ostype").unwrap();
        assert_eq!(release, "Linux");
    }

    #[test]
    fn what_is_not_there_is_named_and_known_as_such() {
        let error = read("net/ipv4/no_such_thing").unwrap_err();
        assert!(error.is_not_found());
        assert_eq!(error.to_string(), "read sysctl net/ipv4/no_such_thing");
        assert!(set_if_different("net/ipv4/no_such_thing", "1").unwrap_err().is_not_found());
    }

    #[test]
    fn a_value_that_is_right_is_not_written() {
        // /proc/sys/kernel/ostype cannot be written by anyone, so this would fail if it tried.
        assert!(!set_if_different("kernel/ostype", "Linux").unwrap());
    }

    #[test]
    fn a_module_s_parameter_says_what_to_do_too() {
        let (key, value) = ("module/nf_conntrack/parameters/hashsize".to_owned(), "65536".to_owned());
        let error = Error::ReadOnly { key, value, source: io::ErrorKind::ReadOnlyFilesystem.into() };

        assert!(error.is_read_only());
        let words = error.to_string();
        assert!(words.contains("echo 65536 > /sys/module/nf_conntrack/parameters/hashsize"), "{words}");
    }

    #[test]
    fn a_read_only_parameter_says_what_to_do() {
        let error = set("kernel/ostype", "Other").unwrap_err();
        assert!(error.to_string().contains("sysctl -w kernel/ostype=Other"), "{error}");
    }
}

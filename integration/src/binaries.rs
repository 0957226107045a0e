//! The project's two programs, built: what tests outside their packages, and the lab, run.
//!
//! In: nothing. Out: the paths of `fairway` and `fairway-proxy` as they are in the source tree now, in the profile of the
//! running program. Built once per process, by cargo, which does nothing where they are up to date.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Where the programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The CNI plugin.
    pub fairway: PathBuf,
    /// The daemon.
    pub fairway_proxy: PathBuf,
}

/// Why there are no programs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No cargo to build them with.
    #[error("start {cargo} to build fairway and fairway-proxy")]
    Start {
        /// What was started.
        cargo: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// They do not compile.
    #[error("build fairway and fairway-proxy:\n{0}")]
    Build(String),
    /// Cargo built them, but did not say where.
    #[error("find {0} among what cargo built")]
    Missing(&'static str),
}

/// Builds the programs, or returns what an earlier call in this process returned.
pub fn built() -> Result<&'static Binaries, &'static Error> {
    static BUILT: OnceLock<Result<Binaries, Error>> = OnceLock::new();
    BUILT.get_or_init(build).as_ref()
}

#[expect(clippy::disallowed_methods, reason = "the lab builds what it runs, with the cargo that runs it")]
fn build() -> Result<Binaries, Error> {
    let cargo = PathBuf::from(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let mut command = Command::new(&cargo);
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        // What is running was built from the same lock file, so all that is needed has been fetched.
        .args(["build", "--offline", "--message-format=json-render-diagnostics"])
        .args(["-p", "cni-plugin", "-p", "proxy", "--bin", "fairway", "--bin", "fairway-proxy"])
        .stdin(Stdio::null());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.output().map_err(|source| Error::Start { cargo, source })?;
    if !output.status.success() {
        return Err(Error::Build(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    Ok(Binaries {
        fairway: executable(&messages, "fairway")?,
        fairway_proxy: executable(&messages, "fairway-proxy")?,
    })
}

/// Finds where cargo put a program: one JSON object a line, of which those with an `executable` name one.
fn executable(messages: &str, name: &'static str) -> Result<PathBuf, Error> {
    let objects = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs =
        objects.filter(|object| object.pointer("/target/name").and_then(|name| name.as_str()) == Some(name));
    let path = programs.find_map(|object| object.get("executable")?.as_str().map(PathBuf::from));
    path.ok_or(Error::Missing(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = r#"{"reason":"compiler-artifact","target":{"name":"fairway-proxy"},"executable":"/t/fairway-proxy"}
{"reason":"compiler-artifact","target":{"name":"cni_plugin"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"fairway"},"executable":"/t/fairway"}
{"reason":"build-finished","success":true}"#;

    #[test]
    fn a_program_is_found_by_its_own_name() {
        assert_eq!(executable(MESSAGES, "fairway").unwrap(), Path::new("/t/fairway"));
        assert_eq!(executable(MESSAGES, "fairway-proxy").unwrap(), Path::new("/t/fairway-proxy"));
    }

    #[test]
    fn a_program_that_was_not_built_is_missing() {
        let error = executable(MESSAGES, "cni_plugin").unwrap_err();
        assert_eq!(error.to_string(), "find cni_plugin among what cargo built");
    }
}

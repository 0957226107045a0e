//! The project's two programs, built: what tests outside their packages, and the lab, run.
//!
//! In: nothing. Out: the paths of `fairway` and `fairway-proxy`. A program that cargo runs gets them as they are in the source
//! tree now, in its own profile: built once per process, by cargo, which does nothing where they are up to date.
//! A program that was started by itself takes those that lie beside it.

use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use crate::{process::program, sandbox};

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
    /// This program does not know where it is.
    #[error("find this program's file")]
    Own(#[source] io::Error),
    /// They were not built, and there is no cargo to do it.
    #[error("no {name} in {directory}: build it there, or run this program by cargo")]
    NotBeside {
        /// The program.
        name: &'static str,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// What is to be built anew needs cargo.
    #[error("build the programs: this program must be run by cargo")]
    NoCargo,
    /// Cargo built them, but did not say where.
    #[error("find {0} among what cargo built")]
    Missing(&'static str),
}

/// Finds the programs, building them where cargo runs this one, or returns what an earlier call in this process returned.
pub fn built() -> Result<&'static Binaries, &'static Error> {
    static BUILT: OnceLock<Result<Binaries, Error>> = OnceLock::new();
    BUILT.get_or_init(find).as_ref()
}

#[expect(clippy::disallowed_methods, reason = "cargo says in the environment that it runs this program")]
fn find() -> Result<Binaries, Error> {
    match env::var_os("CARGO") {
        Some(cargo) => build(cargo.into()),
        None => beside(&env::current_exe().map_err(Error::Own)?),
    }
}

/// Nothing to link when a program starts.
const STATIC: &str = "-Ctarget-feature=+crt-static";

/// Nothing to relocate when the plugin starts. docs/decisions/0015
const AT_A_FIXED_PLACE: &str = "-Crelocation-model=static";

/// Builds the plugin as users install it, small and static; nothing where cargo does not run this program, or runs a build for tests.
#[expect(clippy::disallowed_methods, reason = "cargo says in the environment that it runs this program")]
pub fn as_installed() -> Result<Option<PathBuf>, Error> {
    let Some(cargo) = env::var_os("CARGO").filter(|_| !cfg!(debug_assertions)) else { return Ok(None) };
    let cargo = PathBuf::from(cargo);
    let mut command = cargo_build(&cargo);
    let flags = format!("{STATIC} {AT_A_FIXED_PLACE}");
    command.env("RUSTFLAGS", flags).args(["--profile", "plugin", "--target", &this_machine()]);
    command.args(["--package", "cni-plugin", "--bin", "fairway"]);
    executable(&output_of(cargo, &mut command)?, "fairway").map(Some)
}

/// Builds both programs as users install them, small, static and the same wherever the source tree and cargo's home lie: by the same compiler and
/// C library, the same bytes. It has a target directory of its own, so that other builds do not begin anew after it.
#[expect(clippy::disallowed_methods, reason = "cargo says in the environment that it runs this program")]
pub fn for_an_image() -> Result<Binaries, Error> {
    let cargo = PathBuf::from(env::var_os("CARGO").ok_or(Error::NoCargo)?);
    let cargo_home =
        env::var_os("CARGO_HOME").map(PathBuf::from).or(env::home_dir().map(|home| home.join(".cargo")));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("image");

    let build = |package, name, profile, more: &[&str]| {
        let mut command = cargo_build(&cargo);
        command
            .args(["--locked", "--profile", profile, "--target", &this_machine(), "--target-dir"])
            .arg(&target);
        // By package: without the features that the lab and the tests want of dependencies.
        command.args(["--package", package, "--bin", name]);
        let flags = image_flags(more, root, cargo_home.as_deref());
        command.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags);
        executable(&output_of(cargo.clone(), &mut command)?, name)
    };
    Ok(Binaries {
        fairway: build("cni-plugin", "fairway", "plugin", &[AT_A_FIXED_PLACE])?,
        fairway_proxy: build("proxy", "fairway-proxy", "dist", &[])?,
    })
}

/// Flags for the compiler, as cargo takes them where they may have spaces in them.
fn image_flags(more: &[&str], root: &Path, cargo_home: Option<&Path>) -> OsString {
    let mut flags = OsString::from(STATIC);
    for flag in more {
        flags.push("\x1f");
        flags.push(flag);
    }
    let places = [(Some(root), "/fairway"), (cargo_home, "/cargo")];
    for (place, name) in places.into_iter().filter_map(|(place, name)| Some((place?, name))) {
        flags.push("\x1f--remap-path-prefix=");
        flags.push(place);
        flags.push("=");
        flags.push(name);
    }
    flags
}

/// This machine as cargo names it. Naming it keeps flags off what runs while things are built.
fn this_machine() -> String {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!("{}-unknown-linux-{libc}", env::consts::ARCH)
}

fn build(cargo: PathBuf) -> Result<Binaries, Error> {
    let mut command = cargo_build(&cargo);
    // Of the whole workspace, not of packages: then dependencies have the features that `cargo lab` built them with.
    command.args(["--bin", "fairway", "--bin", "fairway-proxy"]);
    if cfg!(debug_assertions) {
        // There are no examples; asked for, they make cargo choose the features that it builds tests with, and so build nothing twice.
        command.args(["--workspace", "--examples"]);
    } else {
        command.arg("--release");
    }
    let messages = output_of(cargo, &mut command)?;
    Ok(Binaries {
        fairway: executable(&messages, "fairway")?,
        fairway_proxy: executable(&messages, "fairway-proxy")?,
    })
}

fn cargo_build(cargo: &Path) -> Command {
    let mut command = program(cargo);
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["build", "--message-format=json-render-diagnostics"])
        .stdin(Stdio::null());
    // What cargo said of the package that we are of: build scripts that read such would run anew, as for another package.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO_CRATE_NAME"
        {
            command.env_remove(name);
        }
    }
    if sandbox::is_inside() {
        // There is no network inside. What is running was built from the same lock file, as the rest of the workspace.
        command.arg("--offline");
    } else {
        command.stderr(Stdio::inherit()); // it can take a while: let it tell
    }
    command
}

/// Runs cargo, and returns its messages.
fn output_of(cargo: PathBuf, command: &mut Command) -> Result<String, Error> {
    let output = command.output().map_err(|source| Error::Start { cargo, source })?;
    if !output.status.success() {
        return Err(Error::Build(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Takes the programs in the directory of `own`; cargo keeps test programs one below it.
fn beside(own: &Path) -> Result<Binaries, Error> {
    let directory = own.parent().unwrap_or(Path::new("/"));
    let directory =
        if directory.ends_with("deps") { directory.parent().unwrap_or(directory) } else { directory };
    let taken = |name| {
        let path = directory.join(name);
        if path.is_file() {
            Ok(path)
        } else {
            Err(Error::NotBeside { name, directory: directory.to_owned() })
        }
    };
    Ok(Binaries { fairway: taken("fairway")?, fairway_proxy: taken("fairway-proxy")? })
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
    fn a_program_that_is_not_beside_this_one_is_named() {
        let place = tempfile::tempdir().unwrap();

        let error = beside(&place.path().join("deps/services-1")).unwrap_err().to_string();

        assert!(error.starts_with(&format!("no fairway in {}", place.path().display())), "{error}");
    }

    #[test]
    fn an_image_does_not_tell_where_it_was_built() {
        let flags =
            image_flags(&["-Cx"], Path::new("/home/a b/fairway"), Some(Path::new("/home/a b/.cargo")));

        let flags: Vec<_> = flags.to_str().unwrap().split('\x1f').collect();
        assert_eq!(
            flags,
            [
                "-Ctarget-feature=+crt-static",
                "-Cx",
                "--remap-path-prefix=/home/a b/fairway=/fairway",
                "--remap-path-prefix=/home/a b/.cargo=/cargo"
            ]
        );
    }

    #[test]
    fn a_program_that_was_not_built_is_missing() {
        let error = executable(MESSAGES, "cni_plugin").unwrap_err();
        assert_eq!(error.to_string(), "find cni_plugin among what cargo built");
    }
}

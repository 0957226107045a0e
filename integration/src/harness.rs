//! The test harness of everything that needs the kernel: the tests of one program run inside one [`crate::sandbox`].
//!
//! A test file is `harness = false`, and its `main` calls [`run`]. Where no sandbox can be had, one line says why, each test
//! is listed as ignored, and the run passes, unless `FAIRWAY_REQUIRE_SANDBOX` is set (as `.ci/run` does): then it fails.
//!
//! ```no_run
//! fairway_lab::sandbox_tests! {
//!     fn a_sandbox_has_its_own_loopback() {
//!         assert!(std::path::Path::new("/run/fairway").is_dir());
//!     }
//! }
//! fn main() -> std::process::ExitCode {
//!     fairway_lab::harness::run(&[TESTS])
//! }
//! ```

use std::{env, process::ExitCode};

use libtest_mimic::{Arguments, Trial};

use crate::{binaries, sandbox, server};

/// One test: where it stands, what it claims, and how it is shown.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// The module that it stands in.
    pub module: &'static str,
    /// The claim, as a function name.
    pub name: &'static str,
    /// Panics if the claim does not hold.
    pub body: fn(),
}

/// Declares tests that run inside the sandbox, and `TESTS`, the list of them.
#[macro_export]
macro_rules! sandbox_tests {
    ($($(#[$attribute:meta])* fn $name:ident() $body:block)*) => {
        $($(#[$attribute])* fn $name() $body)*

        /// The tests of this module.
        pub(crate) const TESTS: &[$crate::harness::Test] = &[
            $($crate::harness::Test { module: module_path!(), name: stringify!($name), body: $name },)*
        ];
    };
}

/// Runs the tests inside a sandbox, as `cargo test` does with its own.
#[expect(clippy::disallowed_methods, reason = "the harness is the main of a test program")]
pub fn run(tests: &[&[Test]]) -> ExitCode {
    if let Some(ended) = server::run_if_asked(env::args_os()) {
        return ended; // this program is a container of the lab
    }
    let arguments = Arguments::from_args();
    if arguments.list {
        return conclude(&arguments, tests, false);
    }
    if sandbox::is_inside() {
        if let Err(error) = sandbox::furnish() {
            eprintln!("{}", report(&error));
            return ExitCode::FAILURE;
        }
        return conclude(&arguments, tests, false);
    }
    // Inside there is no network to fetch crates over. Where this fails, the tests that need the programs tell why.
    let _ = binaries::built();
    match sandbox::run_inside() {
        Ok(status) => ExitCode::from(sandbox::exit_code(status)),
        Err(error) => {
            eprintln!("tests that need namespaces are skipped: {}", report(&error));
            let required = env::var_os("FAIRWAY_REQUIRE_SANDBOX").is_some();
            let skipped = conclude(&arguments, tests, true);
            if required { ExitCode::FAILURE } else { skipped }
        }
    }
}

fn conclude(arguments: &Arguments, tests: &[&[Test]], skipped: bool) -> ExitCode {
    let trials = tests.iter().copied().flatten().map(|test| {
        let body = test.body;
        let module = test.module.split_once("::").map_or("", |(_, rest)| rest);
        let name = if module.is_empty() { test.name.to_owned() } else { format!("{module}::{}", test.name) };
        Trial::test(name, move || {
            body();
            Ok(())
        })
        .with_ignored_flag(skipped)
    });
    libtest_mimic::run(arguments, trials.collect()).exit_code()
}

/// An error and its causes on one line.
pub fn report(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

//! `cargo lab`: see [`fairway_lab`].

use std::{env, process::ExitCode};

use clap::Parser as _;
use fairway_lab::{cli::Cli, server};

#[expect(clippy::disallowed_methods, reason = "main reads the environment")]
fn main() -> ExitCode {
    if let Some(ended) = server::run_if_asked(env::args_os()) {
        return ended;
    }
    let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    match Cli::parse().run(no_colour) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

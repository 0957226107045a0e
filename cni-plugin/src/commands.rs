//! What a person can ask: `fairway ipam list`, `audit`, `release`.
//!
//! In: the arguments of the command line. Out: what to print and how to end. Runtimes never pass arguments, so they never come
//! here. The plugin itself does, with one word more ([`errand`]).

mod ipam;
mod report;

use std::{path::PathBuf, time::SystemTime};

use crate::{Outcome, conf::RUN_DIR, wiring::kernel::errand};

const USAGE: &str = "\
Looks after the addresses that fairway has leased to pods of this node.

fairway ipam list                 who has which address
fairway ipam audit                which leases nobody uses; ends with 1 if there are any
fairway ipam release WHOSE...     take a pod's link and lease away; WHOSE is an address or a container id
fairway ipam release --stale      give back all leases that nobody uses

  --network NAME    of this network only
  --run-dir DIR     where leases are kept, if not in /run/fairway
  --json            for programs
  --force           release: even if the pod is there
";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Command {
    Help,
    List,
    Audit,
    Release { whose: Vec<String>, stale: bool, force: bool },
}

/// How it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Options {
    network: Option<String>,
    run_dir: PathBuf,
    json: bool,
}

/// Does what the arguments say, and says how it went.
pub fn run(arguments: &[String], now: SystemTime) -> Outcome {
    if let Some((errand::WORD, rest)) = arguments.split_first().map(|(word, rest)| (word.as_str(), rest)) {
        return errand::run(rest);
    }
    match parse(arguments) {
        Ok((Command::Help, _)) => Outcome { stdout: USAGE.to_owned(), ..Outcome::default() },
        Ok((command, options)) => match ipam::run(&command, &options, now) {
            Ok(outcome) => outcome,
            Err(failure) => {
                let told = format!("fairway: {}\n", failure.on_one_line());
                Outcome { stderr: told, exit_code: 2, ..Outcome::default() }
            }
        },
        Err(told) => {
            let told = format!("fairway: {told}; see fairway --help\n");
            Outcome { stderr: told, exit_code: 2, ..Outcome::default() }
        }
    }
}

fn parse(arguments: &[String]) -> Result<(Command, Options), String> {
    let mut options = Options { network: None, run_dir: RUN_DIR.into(), json: false };
    let (mut words, mut force, mut stale) = (Vec::new(), false, false);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--help" | "-h" => return Ok((Command::Help, options)),
            "--json" => options.json = true,
            "--force" => force = true,
            "--stale" => stale = true,
            "--network" => options.network = Some(rest.next().ok_or("--network needs a name")?.clone()),
            "--run-dir" => options.run_dir = rest.next().ok_or("--run-dir needs a directory")?.into(),
            flag if flag.starts_with('-') => return Err(format!("unknown flag {flag}")),
            word => words.push(word.to_owned()),
        }
    }
    let mut words = words.into_iter();
    let command = match (words.next().as_deref(), words.next().as_deref()) {
        (Some("ipam"), Some("list")) => Command::List,
        (Some("ipam"), Some("audit")) => Command::Audit,
        (Some("ipam"), Some("release")) => Command::Release { whose: words.by_ref().collect(), stale, force },
        (Some("help"), None) => Command::Help,
        _ => return Err("unknown command".to_owned()),
    };
    if let Some(word) = words.next() {
        return Err(format!("{word:?} is one word too many"));
    }
    match &command {
        Command::Release { whose, stale, .. } if whose.is_empty() != *stale => {
            Err("release needs addresses or container ids, or --stale".to_owned())
        }
        Command::List | Command::Audit if force || stale => {
            Err("--force and --stale are for release".to_owned())
        }
        _ => Ok((command, options)),
    }
}

#[cfg(test)]
mod tests;

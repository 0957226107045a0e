//! The CNI plugin: one process per call.
//!
//! In: the environment and the configuration on standard input. Out: what to print and how to end, as a value, so that the
//! whole protocol is tested without a process; and, on the way, a pod's link, its leases and its routes.
//! It never talks to the daemon or to an API server: what the daemon knows, it reads from `node.json` in the run directory.
//!
//! ```text
//! environment ─→ request ─┐                      ┌─→ ipam ─→ ipam/store   leases in /run/fairway/<network>/
//! stdin ───────→ conf ────┴─→ ops/{add,del,…} ───┼─→ delegate   or another plugin's leases, where the configuration says so
//!                                                ├─→ wiring ─→ wiring/kernel   the veth pair, addresses, routes
//!                                                └─→ result ─→ Outcome   stdout, stderr, exit code
//! ```
//!
//! Arguments are for people, who look after leases with them: [`commands`].
//!
//! `request`, `conf`, `result`, `bandwidth`, `tuning`, `ipam` and `wiring` are pure: values in, values out.

pub mod bandwidth;
pub mod commands;
pub mod conf;
pub mod delegate;
pub mod failure;
pub mod ipam;
pub mod node;
mod ops;
pub mod request;
pub mod result;
pub mod spec;
pub mod tuning;
pub mod wiring;

use delegate::Call;
use failure::Failure;
pub use request::Environment;
use request::Request;

/// What a call printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The result, or the error, as JSON; nothing where the verb has no result.
    pub stdout: String,
    /// For people.
    pub stderr: String,
    /// 0 if all went well.
    pub exit_code: u8,
}

/// Does what the environment asks for, in the network namespace of the calling thread.
pub fn run(environment: &Environment, stdin: &[u8]) -> Outcome {
    let done = Request::parse(environment).map_err(Failure::from);
    match done.and_then(|request| answer(&request, environment, stdin)) {
        Ok(outcome) => outcome,
        Err(failure) => Outcome {
            stdout: failure.to_json(&spec::version_to_answer_in(stdin)),
            exit_code: 1,
            ..Outcome::default()
        },
    }
}

fn answer(request: &Request, environment: &Environment, stdin: &[u8]) -> Result<Outcome, Failure> {
    match request {
        Request::About => Ok(Outcome { stderr: ops::version::about(), ..Outcome::default() }),
        Request::Version => Ok(Outcome { stdout: ops::version::answer(stdin), ..Outcome::default() }),
        Request::Verb(verb) => {
            let stdout = ops::run(verb, Call { environment, stdin })?;
            Ok(Outcome { stdout: stdout.unwrap_or_default(), ..Outcome::default() })
        }
    }
}

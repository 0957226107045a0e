//! `fairway`: reads the environment and standard input, or what a person asks for, runs, prints.

use std::{
    env,
    io::{self, Read, Write},
    process::ExitCode,
    time::SystemTime,
};

use cni_plugin::{Environment, conf::MOST_BYTES};

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment and the clock")]
fn main() -> ExitCode {
    let now = SystemTime::now();
    let environment =
        Environment { program: Some("/proc/self/exe".into()), ..Environment::from_vars(env::vars_os(), now) };
    let arguments: Vec<String> =
        env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let mut stdin = Vec::new();
    let most = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX).saturating_add(1); // one more tells that it is too long
    if environment.expects_configuration() && io::stdin().take(most).read_to_end(&mut stdin).is_err() {
        stdin.clear(); // what cannot be read cannot be decoded: the plugin says so
    }

    let outcome = if environment.expects_configuration() || arguments.is_empty() {
        cni_plugin::run(&environment, &stdin)
    } else {
        cni_plugin::commands::run(&arguments, now)
    };

    // Where nobody reads, there is nobody to tell.
    let _ = io::stderr().write_all(outcome.stderr.as_bytes());
    let printed = io::stdout().write_all(outcome.stdout.as_bytes());
    if printed.is_err() { ExitCode::FAILURE } else { ExitCode::from(outcome.exit_code) }
}

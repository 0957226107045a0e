//! An IPAM plugin of the tests: it writes down how it was called, and answers what the test has put there.
//!
//! In: the environment and the configuration, whose `ipam.dir` is a directory. Out: a line in `calls` there, the configuration in
//! `stdin-<verb>`; and on standard output what is in `error-<verb>`, then with exit code 1, or in `answer-<verb>`.

#![expect(clippy::disallowed_methods, reason = "plays another plugin")]

use std::{
    env,
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
    process::ExitCode,
};

fn main() -> io::Result<ExitCode> {
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let verb = variable("CNI_COMMAND");
    let mut conf = String::new();
    io::stdin().read_to_string(&mut conf)?;
    let parsed: serde_json::Value = serde_json::from_str(&conf)?;
    let dir = parsed.pointer("/ipam/dir").and_then(serde_json::Value::as_str).unwrap_or_default();
    let dir = Path::new(dir);

    let mut calls = File::options().create(true).append(true).open(dir.join("calls"))?;
    let call =
        ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"].map(variable).join(" ");
    calls.write_all(format!("{}\n", call.trim_end()).as_bytes())?;
    fs::write(dir.join(format!("stdin-{verb}")), &conf)?;

    if let Ok(error) = fs::read(dir.join(format!("error-{verb}"))) {
        io::stdout().write_all(&error)?;
        return Ok(ExitCode::FAILURE);
    }
    if let Ok(answer) = fs::read(dir.join(format!("answer-{verb}"))) {
        io::stdout().write_all(&answer)?;
    }
    Ok(ExitCode::SUCCESS)
}

//! Another plugin that leases the addresses: `ipam.type`.
//!
//! In: its name, the call's environment and configuration. Out: what it answered, or the error that it told, word for word. It is
//! looked for in `CNI_PATH` and run with the environment and the standard input of this call. // SPEC "Section 4"

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
};

use serde::Deserialize;

use crate::{
    failure::{Code, Coded},
    request::{Attachment, Environment},
    result::AddResult,
};

/// Why another plugin did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the name of a program.
    #[error("ipam.type={0:?}: a name is wanted, of a program in CNI_PATH")]
    Name(String),
    /// Nowhere to look.
    #[error("ipam.type={0}: CNI_PATH is not set, so there is nowhere to look for it")]
    NoPath(String),
    /// Nothing there.
    #[error("ipam.type={name}: no such program in {path} (CNI_PATH): install it there")]
    NotFound {
        /// Its name.
        name: String,
        /// Where it was looked for.
        path: String,
    },
    /// It cannot be run.
    #[error("run {}", .program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It told an error.
    #[error("{msg}")]
    Told {
        /// Its code.
        code: u32,
        /// Its message.
        msg: String,
        /// What lies beneath.
        source: Option<Details>,
    },
    /// It ended badly and told nothing.
    #[error("{} ended with {status} and told no error", .program.display())]
    Silent {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// What it printed is no result.
    #[error("decode what {} printed", .program.display())]
    Result {
        /// The program.
        program: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// It leased nothing.
    #[error("ipam.type={0}: it leased no address")]
    NoAddress(String),
}

/// The details of an error that another plugin told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Details(String);

impl Coded for Error {
    fn code(&self) -> Code {
        match self {
            Self::Name(_) | Self::NotFound { .. } | Self::NoAddress(_) => Code::InvalidConfiguration,
            Self::NoPath(_) => Code::InvalidEnvironment,
            Self::Run { .. } | Self::Silent { .. } => Code::InputOutput,
            Self::Result { .. } => Code::Decode,
            Self::Told { code, .. } => Code::Passed(*code),
        }
    }
}

/// A call as it came from the runtime.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The variables.
    pub environment: &'a Environment,
    /// The configuration.
    pub stdin: &'a [u8],
}

/// Another plugin, ready to be called.
#[derive(Debug, Clone)]
pub struct Delegate<'a> {
    name: String,
    call: Call<'a>,
}

impl<'a> Delegate<'a> {
    /// The one of the reference plugins that needs a link to lease an address. By nothing but its name can that be told.
    pub const OVER_THE_LINK: &'static str = "dhcp";

    /// Takes the name of a plugin.
    pub fn new(name: &str, call: Call<'a>) -> Result<Self, Error> {
        // A path would lead out of CNI_PATH.
        if Path::new(name).file_name().is_none_or(|file| file != name) {
            return Err(Error::Name(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), call })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says whether it asks over the pod's link, which so has to be there before an address is leased and until it is given back.
    pub fn asks_over_the_link(&self) -> bool {
        self.name == Self::OVER_THE_LINK
    }

    /// Has it lease addresses.
    pub fn add(&self) -> Result<AddResult, Error> {
        let (program, printed) = self.run(self.call.environment)?;
        let result = serde_json::from_slice(&printed).and_then(AddResult::parse);
        let result = result.map_err(|source| Error::Result { program, source })?;
        if result.ips.is_empty() { Err(Error::NoAddress(self.name.clone())) } else { Ok(result) }
    }

    /// Passes on the verb of the call, one that has no result.
    pub fn pass_on(&self) -> Result<(), Error> {
        self.run(self.call.environment).map(|_| ())
    }

    /// Has it give back what an attachment has, whatever the verb of the call is.
    pub fn release(&self, attachment: &Attachment) -> Result<(), Error> {
        let same = self.call.environment;
        let is_its_own = same.container_id.as_deref() == Some(attachment.container_id())
            && same.ifname.as_deref() == Some(attachment.ifname());
        self.run(&Environment {
            command: Some("DEL".to_owned()),
            container_id: Some(attachment.container_id().to_owned()),
            ifname: Some(attachment.ifname().to_owned()),
            netns: same.netns.clone().filter(|_| is_its_own),
            args: same.args.clone().filter(|_| is_its_own),
            ..same.clone()
        })
        .map(|_| ())
    }

    fn find(&self) -> Result<PathBuf, Error> {
        let Some(path) = &self.call.environment.path else { return Err(Error::NoPath(self.name.clone())) };
        let mut programs =
            path.split(':').filter(|dir| !dir.is_empty()).map(|dir| Path::new(dir).join(&self.name));
        programs
            .find(|program| program.is_file())
            .ok_or_else(|| Error::NotFound { name: self.name.clone(), path: path.clone() })
    }

    fn run(&self, environment: &Environment) -> Result<(PathBuf, Vec<u8>), Error> {
        let program = self.find()?;
        let output = execute(&program, environment, self.call.stdin)
            .map_err(|source| Error::Run { program: program.clone(), source })?;
        if output.status.success() {
            return Ok((program, output.stdout));
        }
        match serde_json::from_slice::<Told>(&output.stdout) {
            Ok(Told { code, msg, details }) => {
                let source = details.filter(|details| !details.is_empty()).map(Details);
                Err(Error::Told { code, msg, source })
            }
            Err(_) => Err(Error::Silent { program, status: output.status }),
        }
    }
}

/// An error as plugins tell it. // SPEC "Error"
#[derive(Debug, Deserialize)]
struct Told {
    code: u32,
    msg: String,
    details: Option<String>,
}

#[expect(clippy::disallowed_methods, reason = "delegation is running another program: SPEC section 4")]
fn execute(program: &Path, environment: &Environment, stdin: &[u8]) -> io::Result<std::process::Output> {
    let mut command = Command::new(program);
    for (name, value) in environment.vars() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    // What it writes to stderr is for people, as what this plugin writes there.
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let pipe = child.stdin.take();
    thread::scope(|scope| {
        scope.spawn(move || {
            // One that does not read its configuration says itself what it thinks of it.
            let _ = pipe.map(|mut pipe| pipe.write_all(stdin));
        });
        child.wait_with_output()
    })
}

//! The error that a runtime reads: a code of the specification, a message, and what lies beneath it.

use std::error::Error;

use serde_json::json;

/// Error codes: up to 99 those of the specification, from 100 our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// The configuration is of a version that we do not speak.
    IncompatibleVersion,
    /// A key that we know and cannot honour; the message has key and value.
    UnsupportedField,
    /// A variable of the environment is missing or wrong.
    InvalidEnvironment,
    /// A file could not be read or written.
    InputOutput,
    /// What should be JSON of a certain shape is not.
    Decode,
    /// The configuration is well-formed and makes no sense.
    InvalidConfiguration,
    /// The sandbox is gone, is no network namespace, or is the plugin's own. (Not in the specification; the reference
    /// implementation's `ErrInvalidNetNS`.)
    InvalidNetns,
    /// Something that others are to provide is not there yet.
    TryAgainLater,
    /// STATUS: an ADD would fail now.
    NotAvailable,
    /// STATUS: an ADD would fail now, and pods that are there are cut off.
    Limited,
    /// All addresses are leased.
    Exhausted,
    /// The kernel did not do what the wiring asks for.
    Wiring,
    /// CHECK: the attachment is not as it should be.
    Altered,
    /// DEL or GC did what it could, and not all.
    Incomplete,
    /// A port of the node is another pod's.
    HostPortTaken,
    /// What another plugin told, that leases the addresses.
    Passed(u32),
}

impl Code {
    /// As it is told to the runtime.
    pub fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::InvalidEnvironment => 4,
            Self::InputOutput => 5,
            Self::Decode => 6,
            Self::InvalidConfiguration => 7,
            Self::InvalidNetns => 8,
            Self::TryAgainLater => 11,
            Self::NotAvailable => 50,
            Self::Limited => 51,
            Self::Exhausted => 100,
            Self::Wiring => 101,
            Self::Altered => 102,
            Self::Incomplete => 103,
            Self::HostPortTaken => 104,
            Self::Passed(code) => code,
        }
    }
}

/// An error of a module that knows which code it is told under.
pub trait Coded: Error {
    /// The code.
    fn code(&self) -> Code;
}

/// What goes wrong, as it is told to the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of error it is.
    pub code: Code,
    /// What, on what, and what to do.
    pub msg: String,
    /// The causes beneath, outermost first.
    pub details: String,
}

impl<E: Coded> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: error.code(), msg: error.to_string(), details: causes_of(&error) }
    }
}

impl Failure {
    /// Puts in front whom it concerns.
    #[must_use]
    pub fn of(self, subject: &str) -> Self {
        Self { msg: format!("{subject}: {}", self.msg), ..self }
    }

    /// Tells the same under another code.
    #[must_use]
    pub fn under(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// Makes one of several: the first, with the others among its details. Nothing of none.
    pub fn first_of(failures: Vec<Self>) -> Option<Self> {
        let mut failures = failures.into_iter();
        let first = failures.next()?;
        let rest = failures.map(|other| other.on_one_line());
        let details: Vec<String> =
            (!first.details.is_empty()).then(|| first.details.clone()).into_iter().chain(rest).collect();
        Some(Self { details: details.join("; "), ..first })
    }

    /// The message with its causes.
    pub fn on_one_line(&self) -> String {
        if self.details.is_empty() { self.msg.clone() } else { format!("{}: {}", self.msg, self.details) }
    }

    /// As the specification has it: SPEC "Error".
    pub fn to_json(&self, cni_version: &str) -> String {
        let code = self.code.number();
        let mut error = json!({ "cniVersion": cni_version, "code": code, "msg": self.msg });
        if let (Some(object), false) = (error.as_object_mut(), self.details.is_empty()) {
            object.insert("details".to_owned(), self.details.clone().into());
        }
        format!("{error:#}\n")
    }
}

fn causes_of(error: &dyn Error) -> String {
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    causes.join(": ")
}

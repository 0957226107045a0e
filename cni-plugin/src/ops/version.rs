//! VERSION, and what a person sees who just tries the program.

use serde_json::json;

use crate::spec::{SpecVersion, version_to_answer_in};

/// Answers VERSION, in whatever version it was asked. // SPEC "VERSION"
pub(crate) fn answer(stdin: &[u8]) -> String {
    let supported = SpecVersion::ALL.map(SpecVersion::as_str);
    let answer = json!({ "cniVersion": version_to_answer_in(stdin), "supportedVersions": supported });
    format!("{answer:#}\n")
}

/// What the program is, for who starts it without `CNI_COMMAND`.
pub(crate) fn about() -> String {
    format!(
        "fairway {}: CNI plugin that wires pods by routes, or over a bridge\n\
         for people: fairway ipam list, audit, release (fairway --help)\n\
         CNI protocol versions supported: {}\n",
        env!("CARGO_PKG_VERSION"),
        SpecVersion::ALL.map(SpecVersion::as_str).join(", ")
    )
}

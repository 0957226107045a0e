//! The versions of the CNI specification that the plugin speaks.

use std::{fmt, str::FromStr};

use serde_json::Value;

/// A version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum SpecVersion {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl SpecVersion {
    /// All of them, oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// As it stands in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Says whether a result has one address of each family, and no links.
    pub fn is_of_addresses_only(self) -> bool {
        self < Self::V0_3_0
    }

    /// The newest.
    pub fn newest() -> Self {
        Self::V1_1_0
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A version that the plugin does not speak.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("incompatible CNI versions: the configuration is {0:?}, the plugin speaks {all}", all = Self::spoken())]
pub struct Incompatible(pub String);

impl Incompatible {
    fn spoken() -> String {
        SpecVersion::ALL.map(SpecVersion::as_str).join(", ")
    }
}

impl FromStr for SpecVersion {
    type Err = Incompatible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|version| version.as_str() == text).ok_or_else(|| Incompatible(text.to_owned()))
    }
}

/// Reads the `cniVersion` of a configuration that may be anything: errors are told in the version that was asked for.
pub fn version_to_answer_in(stdin: &[u8]) -> String {
    let conf: Option<Value> = serde_json::from_slice(stdin).ok();
    let version = conf.as_ref().and_then(|conf| conf.get("cniVersion")).and_then(Value::as_str);
    version.unwrap_or(SpecVersion::newest().as_str()).to_owned()
}

//! What became of an object that was applied.

use std::fmt;

use crate::manifest::ObjectName;

/// What became of an object, in the words of `kubectl apply`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Applied {
    /// It is new.
    Created(ObjectName),
    /// It was there and says something else now.
    Configured(ObjectName),
    /// It was there and said the same.
    Unchanged(ObjectName),
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created(name) => write!(f, "{name} created"),
            Self::Configured(name) => write!(f, "{name} configured"),
            Self::Unchanged(name) => write!(f, "{name} unchanged"),
        }
    }
}

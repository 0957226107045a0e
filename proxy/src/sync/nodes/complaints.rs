//! What is wrong, said once.
//!
//! In: all that is wrong now. Out: a line in the log for each that was not so before.

use std::{collections::BTreeSet, error::Error};

use tracing::warn;

/// What has been said to be wrong, so that it is not said again.
#[derive(Debug, Default)]
pub(super) struct Complaints(BTreeSet<String>);

impl Complaints {
    /// All that is wrong.
    pub(super) fn all(&self) -> &BTreeSet<String> {
        &self.0
    }

    /// Says what is new of these.
    pub(super) fn say(&mut self, complaints: BTreeSet<String>) {
        for reason in complaints.difference(&self.0) {
            warn!(reason, "not all is there that pods need");
        }
        self.0 = complaints;
    }
}

/// An error and its causes on one line.
pub(super) fn said<E: Error>(error: &E) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

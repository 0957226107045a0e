//! What can go wrong between an API server and its clients.

use crate::store::Kind;

/// A fault of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Refused with this HTTP status: 401, 403, 410, 429, 500, 503 …
    Status(u16),
    /// Never answered.
    Hang,
    /// The connection breaks after so many bytes of the answer.
    CutAfter(usize),
    /// What comes is no JSON.
    Garbage,
    /// The answer ends in the middle, as if all was well.
    EndAfter(usize),
    /// A watch says that its version is too old, though it is not.
    Gone,
    /// A watch that says nothing more, and does not end.
    Silence,
}

/// A fault, and which requests it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) fault: Fault,
    pub(crate) kind: Option<Kind>,
}

//! Hostile input: what must hold whatever comes in.
//!
//! In: bytes. Out: nothing; a law that is broken panics. libFuzzer looks for bytes that break one (`tests/fuzz`); those that once did,
//! and those it begins with, are kept there, and `tests/tests/hostile.rs` tries them all each time.
//!
//! | law | what the bytes are | what is tried |
//! |---|---|---|
//! | [`request`] | a [call](call::Call) | all that is pure: request, configuration, addresses, wiring, result |
//! | [`kept`] | [files](kept::Files) of a run directory | leases had and given back among them |
//! | [`whole`] | a [call](call::Call) | the plugin on a host of its own: what it answers, writes and leaves |

pub mod call;
pub mod kept;
pub mod mutation;
pub mod request;
pub mod whole;

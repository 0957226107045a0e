//! What must hold whatever comes in, for the fuzzer of `tests/fuzz` and for the tests beside it. All else of this crate is tests.

pub mod hostile;

//! Nothing is exported: this crate is its tests.

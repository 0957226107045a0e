//! Looks for files of a run directory that break a law of leases.

#![no_main]

use fairway_tests::hostile::kept;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| kept::holds(input));

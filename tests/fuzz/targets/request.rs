//! Looks for a call that breaks a law of what is pure.

#![no_main]

use fairway_tests::hostile::{mutation, request};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|input: &[u8]| request::holds(input));

fuzz_mutator!(|buffer: &mut [u8], size: usize, most: usize, seed: u32| {
    let changed = mutation::mutate_within(&mut buffer[..most], size, seed);
    changed.unwrap_or_else(|| fuzzer_mutate(buffer, size, most))
});

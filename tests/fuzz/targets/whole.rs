//! Looks for a call that breaks a law of the whole plugin, inside the lab's sandbox.

#![no_main]

use std::{cell::OnceCell, process::exit};

use fairway_lab::sandbox;
use fairway_tests::hostile::{mutation, whole::Place};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

thread_local! {
    static PLACE: OnceCell<Place> = const { OnceCell::new() };
}

fuzz_target!(
    init: {
        if !sandbox::is_inside() {
            exit(sandbox::run_inside().map_or(1, sandbox::exit_code).into());
        }
        sandbox::furnish().unwrap();
    },
    |input: &[u8]| PLACE.with(|place| place.get_or_init(Place::make).holds(input))
);

fuzz_mutator!(|buffer: &mut [u8], size: usize, most: usize, seed: u32| {
    let changed = mutation::mutate_within(&mut buffer[..most], size, seed);
    changed.unwrap_or_else(|| fuzzer_mutate(buffer, size, most))
});

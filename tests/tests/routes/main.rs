//! The daemon's routes on the real kernel: what it adds, what it removes, and what it leaves alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bed;
mod surroundings;
mod tunnels;
mod ways;

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[ways::TESTS, tunnels::TESTS, surroundings::TESTS])
}

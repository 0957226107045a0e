//! What Kubernetes promises of services, each promise asked with packets in both families: docs/services.md names the
//! tests one by one.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod addresses;
mod affinity;
mod bed;
mod changes;
mod endpoints;
mod errors;
mod masquerade;
mod policies;
mod raw;
mod services;

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[
        services::TESTS,
        addresses::TESTS,
        endpoints::TESTS,
        affinity::TESTS,
        masquerade::TESTS,
        policies::TESTS,
        errors::TESTS,
        changes::TESTS,
    ])
}

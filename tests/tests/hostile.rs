//! All input that the fuzzer begins with, and all that once broke a law: none does any more.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and plays another plugin"
)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use cni_plugin::Environment;
use dataplane::rtnl::{Kernel, Mac, VethEnd};
use fairway_tests::hostile::{
    call::{Call, split},
    kept, mutation, request,
    whole::{PLUGINS, Place},
};

/// Seeds, and what once broke a law. Without root, `.ci/run` puts them beside the test program.
fn inputs(kind: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let program = std::env::current_exe().unwrap();
    let places = [Path::new(env!("CARGO_MANIFEST_DIR")), program.parent().unwrap()];
    let fuzz = places.map(|place| place.join("fuzz")).into_iter().find(|fuzz| fuzz.is_dir()).unwrap();
    let folders = ["seeds", "found"].map(|folder| fuzz.join(folder).join(kind));
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 5, "{paths:?}");
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Tries inputs, and says which one it was where a law is broken.
fn all_hold(inputs: &[(PathBuf, Vec<u8>)], holds: impl Fn(&[u8])) {
    for (path, input) in inputs {
        println!("{}", path.display());
        holds(input);
    }
}

fairway_lab::sandbox_tests! {
    fn no_call_that_is_kept_breaks_a_law_of_what_is_pure() {
        all_hold(&inputs("calls"), request::holds);
    }

    fn no_files_that_are_kept_break_a_law_of_leases() {
        all_hold(&inputs("files"), kept::holds);
    }

    fn no_call_that_is_kept_breaks_a_law_of_the_whole_plugin() {
        let place = Place::make();
        all_hold(&inputs("calls"), |input| place.holds(input));
    }

    fn calls_changed_at_random_break_no_law() {
        let place = Place::make();
        let mut tried = 0;
        for (path, input) in inputs("calls") {
            for seed in 0..20 {
                let Some(changed) = mutation::mutate(&input, seed) else { continue };
                println!("{} changed by {seed}", path.display());
                request::holds(&changed);
                place.holds(&changed);
                tried += 1;
            }
        }
        assert!(tried > 100, "{tried}");
    }

    fn what_is_tried_is_what_the_file_says() {
        let call = Call::parse(b"CNI_COMMAND=ADD\nCNI_ARGS=A=1;B=2\n\n{\n\n}");

        let Environment { command, args, .. } = call.environment;
        assert_eq!((command.as_deref(), args.as_deref()), (Some("ADD"), Some("A=1;B=2")));
        assert_eq!(call.stdin, b"{\n\n}");
        assert_eq!(split(b"CNI_COMMAND=GC"), (&b"CNI_COMMAND=GC"[..], &b""[..]));
    }

    fn a_plugin_that_writes_elsewhere_or_leaves_a_link_is_noticed() {
        let is_noticed = |place: &Place, ipam: &str| {
            let call = format!("CNI_COMMAND=ADD\nCNI_CONTAINERID=a\nCNI_NETNS=/run/netns/pod\nCNI_IFNAME=eth0\nCNI_PATH=x\n\n\
                {{\"cniVersion\":\"1.1.0\",\"name\":\"pods\",\"type\":\"fairway\",\"ipam\":{ipam}}}");
            catch_unwind(AssertUnwindSafe(|| place.holds(call.as_bytes()))).is_err()
        };
        let place = Place::make();
        assert!(!is_noticed(&place, r#"{"subnet":"10.1.0.0/24"}"#));

        place.host.run(|| {
            let scribe = Path::new(PLUGINS).join("scribe");
            fs::write(&scribe, "#!/bin/sh\ntouch /run/lab/x\n").unwrap();
            fs::set_permissions(&scribe, fs::Permissions::from_mode(0o755)).unwrap();
        }).unwrap();
        assert!(is_noticed(&place, r#"{"type":"scribe"}"#));

        let place = Place::make();
        let end = |name: &str, mac| VethEnd { name: name.to_owned(), mac: Mac([2, 0, 0, 0, 0, mac]), mtu: 1500 };
        place.host.run(|| {
            place.runtime.block_on(async {
                Kernel::open().unwrap().add_veth(&end("one", 1), &end("other", 2), None).await.unwrap();
            });
        }).unwrap();
        assert!(is_noticed(&place, r#"{"subnet":"10.1.0.0/24"}"#));

        let place = Place::make();
        let made = place.host.run(|| {
            place.runtime.block_on(async {
                Kernel::open().unwrap().add_ifb("three", Mac([2, 0, 0, 0, 0, 3]), 1500).await
            })
        });
        match made.unwrap() {
            Ok(()) => assert!(is_noticed(&place, r#"{"subnet":"10.1.0.0/24"}"#)),
            Err(error) => println!("not tried with a limit's link: {error}"),
        }
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

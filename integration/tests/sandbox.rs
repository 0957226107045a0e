//! What the sandbox promises to everything that runs in it.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on fails")]

use std::{fs, path::Path};

use fairway_lab::host::Host;

fairway_lab::sandbox_tests! {
    fn it_has_a_network_of_its_own() {
        let links = fs::read_to_string("/proc/net/dev").unwrap();

        assert_eq!(links.lines().skip(2).count(), 1, "{links}");
        assert!(links.contains("lo:"), "{links}");
    }

    fn it_has_its_own_places_and_still_sees_the_machine_s() {
        assert_eq!(fs::read_dir("/run/fairway").unwrap().count(), 0);
        assert_eq!(fs::read_dir("/etc/cni/net.d").unwrap().count(), 0);
        assert!(fs::read_to_string("/etc/passwd").unwrap().contains("root"));
    }

    fn each_host_keeps_its_places_and_name_for_itself() {
        let (a, b) = (Host::make("a").unwrap(), Host::make("b").unwrap());

        a.run(|| fs::write("/run/fairway/mine", "a")).unwrap().unwrap();

        assert!(a.run(|| Path::new("/run/fairway/mine").exists()).unwrap());
        assert!(!b.run(|| Path::new("/run/fairway/mine").exists()).unwrap());
        assert!(!Path::new("/run/fairway/mine").exists());
        assert_eq!(b.run(|| fs::read_to_string("/proc/sys/kernel/hostname")).unwrap().unwrap(), "b\n");
    }

    fn a_pod_s_namespace_is_bound_on_its_host_alone() {
        let host = Host::make("a").unwrap();

        let path = host.make_netns("pod").unwrap();

        assert!(host.run(|| dataplane::netns::Netns::open(&path).is_ok()).unwrap());
        assert!(dataplane::netns::Netns::open(&path).unwrap_err().is_not_found());
        host.remove_netns("pod").unwrap();
        assert!(host.run(|| !path.exists()).unwrap());
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

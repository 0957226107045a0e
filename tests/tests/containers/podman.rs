//! podman with its CNI backend (before 5.0): no daemon; it calls ADD when a container starts, and DEL when one has ended, by a
//! process that outlives the container, or else when it is removed.

use std::process::Command;

use fairway_lab::wait;
use serde_json::Value;

use super::{Machine, program};

/// What must be installed for it.
pub(crate) const PROGRAMS: [&str; 4] = ["podman", "conmon", "crun", "busybox"];

const CONFIG: &str = r#"
[containers]
cgroups = "disabled"
log_driver = "k8s-file"

[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
default_network = "pods"

[engine]
runtime = "crun"
cgroup_manager = "cgroupfs"
events_logger = "none"
"#;

const STORAGE: &str = r#"
[storage]
driver = "vfs"
runroot = "/run/lab/podman/run"
graphroot = "/run/lab/podman/graph"
"#;

/// A podman that keeps everything on one machine.
pub(crate) struct Podman<'m> {
    machine: &'m Machine,
}

impl<'m> Podman<'m> {
    /// Configures it, if it still has a CNI backend.
    pub(crate) fn configure(machine: &'m Machine) -> Option<Self> {
        let podman = Self { machine };
        machine.write("/run/lab/containers.conf", CONFIG);
        machine.write("/run/lab/storage.conf", STORAGE);
        let version = machine.run(program("podman").arg("--version"));
        let major: u32 = version.rsplit(' ').next().unwrap().split('.').next().unwrap().parse().unwrap();
        if major >= 5 {
            eprintln!("{version} has no CNI backend: containers are not run by it");
            return None;
        }
        Some(podman)
    }

    /// Runs podman to a good end, and returns what it printed.
    pub(crate) fn call(&self, arguments: &[&str]) -> String {
        self.machine.run(&command(arguments))
    }

    /// Runs a container that serves its name, and returns its id.
    pub(crate) fn run(&self, name: &str, options: &[&str]) -> String {
        let root = self.machine.root_file_system(name);
        let server = ["--rootfs", root.to_str().unwrap(), "/bin/busybox", "httpd", "-f", "-h", "/www"];
        self.call(&[&["run", "--detach", "--name", name], options, &server].concat())
    }

    /// Ends and removes containers. podman may find that what it was about to end has ended, and then wants to be asked again.
    pub(crate) fn remove(&self, names: &[&str]) {
        let arguments = [&["rm", "--force", "--time", "0"], names].concat();
        wait::until("podman to remove containers", || {
            let output = self.machine.try_run(&command(&arguments));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() { Ok(()) } else { Err(said) }
        })
        .unwrap();
    }

    /// What podman says of a container.
    pub(crate) fn inspect(&self, name: &str) -> Value {
        serde_json::from_str::<Value>(&self.call(&["container", "inspect", name])).unwrap()[0].clone()
    }

    /// One of a container's processes: its first, `Pid`, or the one that waits for its end, `ConmonPid`.
    pub(crate) fn process_of(&self, name: &str, which: &str) -> u32 {
        u32::try_from(self.inspect(name)["State"][which].as_u64().unwrap()).unwrap()
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut podman = program("podman");
    podman.env("CONTAINERS_CONF", "/run/lab/containers.conf");
    podman.env("CONTAINERS_STORAGE_CONF", "/run/lab/storage.conf");
    podman.args(["--tmpdir", "/run/lab/podman/tmp"]).args(arguments);
    podman
}

/// Prepares that a container fetches a page.
pub(crate) fn fetch(name: &str, url: &str) -> Command {
    command(&["exec", name, "/bin/busybox", "wget", "-O-", url])
}

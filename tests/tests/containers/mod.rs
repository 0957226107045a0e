//! A machine for real container runtimes: what Debian packages of them, the plugin where they look for it, and programs
//! to run in containers.
//!
//! In: a network configuration. Out: the runtimes' own records of their containers, answers of one container to another,
//! and all that is left when they are gone. Nothing outside the machine's own mounts is written to:
//!
//! * `/run/containerd`, `/run/crun`, `/var/lib/cni` and `/dev/shm` (podman's locks) are the machine's own, as are
//!   `/run/lab`, where the runtimes are told to keep all else, and what every [`Host`](fairway_lab::host::Host) has.
//! * Nothing is mounted at `/sys/fs/cgroup`, and containers are made by crun, which can do without cgroups; runc cannot.
//!   The machine that the tests run on keeps its cgroups to itself.

#![allow(dead_code, reason = "each runtime uses its part of it")]

pub(crate) mod containerd;
pub(crate) mod podman;

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
};

use fairway_lab::{binaries, wait};
use nix::{
    mount::{MsFlags, mount},
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::runtime::{
    Runtime, success,
    traces::{Traces, traces},
};

/// Where programs are.
const PATH: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// What runtimes have for themselves beside what every host has.
const OWN_PLACES: [&str; 5] = ["/run/containerd", "/run/crun", "/var/lib/cni", "/dev/shm", "/sys/fs/cgroup"];

/// Where libcni writes down what each ADD returned.
const RECORDS: &str = "/var/lib/cni/results";

/// A machine with a network configuration, on which containers can be run.
pub(crate) struct Machine {
    pub(crate) runtime: Runtime,
    list: Value,
}

impl Machine {
    /// Makes one if these programs are installed and may do their work, or says what is not shown for want of what.
    pub(crate) fn with(programs: &[&str], list: Value) -> Option<Self> {
        let required = std::env::var_os("FAIRWAY_REQUIRE_SANDBOX").is_some();
        for program in programs {
            let missing = match find(program) {
                None => "not installed",
                // In a container's file system there is nothing else.
                Some(path) if *program == "busybox" && !is_static(&path) => "not static",
                Some(_) => continue,
            };
            assert!(!required, "{program} is {missing}");
            eprintln!("{program} is {missing}: containers are not run by {}", programs[0]);
            return None;
        }
        // Containers have users and terminals of more ids than the one that a user namespace of nobody's has.
        if fs::read_to_string("/proc/self/uid_map").unwrap().split_whitespace().last() == Some("1") {
            eprintln!("not root: containers are not run by {}", programs[0]);
            return None;
        }
        let mut conf = list["plugins"][0].clone();
        conf["name"] = list["name"].clone();
        conf["cniVersion"] = list["cniVersion"].clone();
        let machine = Self { runtime: Runtime::new(conf), list };
        machine.runtime.host.run(Self::furnish).unwrap().unwrap();
        machine.configure("10-fairway", &machine.list);
        Some(machine)
    }

    fn furnish() -> io::Result<()> {
        for place in OWN_PLACES {
            fs::create_dir_all(place)?;
            mount(Some("fairway"), place, Some("tmpfs"), MsFlags::MS_NOSUID, None::<&str>)?;
        }
        match symlink(&binaries::built().unwrap().fairway, "/opt/cni/bin/fairway") {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Adds a network.
    pub(crate) fn configure(&self, file: &str, list: &Value) {
        self.write(&format!("/etc/cni/net.d/{file}.conflist"), &list.to_string());
    }

    /// Writes a file on this machine.
    pub(crate) fn write(&self, path: &str, text: &str) {
        self.runtime.host.run(|| fs::write(path, text)).unwrap().unwrap();
    }

    /// Runs a program to its end, which must be a good one, and returns what it printed.
    pub(crate) fn run(&self, command: &Command) -> String {
        let output = self.try_run(command);
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Runs a program to its end. One that hangs, as podman and ctr may when a container does, is ended: nobody else would.
    fn try_run(&self, command: &Command) -> Output {
        let mut timely = program("timeout");
        timely.args(["--signal=KILL", "60"]).arg(command.get_program()).args(command.get_args());
        timely.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.runtime.host.run(|| timely.output()).unwrap().unwrap()
    }

    /// Makes a container's file system, with a program that has a server and a client in it, and a page with its name.
    pub(crate) fn root_file_system(&self, name: &str) -> PathBuf {
        let root = Path::new("/run/lab/roots").join(name);
        self.runtime
            .host
            .run(|| {
                for dir in ["bin", "dev", "proc", "sys", "www"] {
                    fs::create_dir_all(root.join(dir))?;
                }
                fs::copy(find("busybox").unwrap(), root.join("bin/busybox"))?;
                fs::write(root.join("www/who"), name)
            })
            .unwrap()
            .unwrap();
        root
    }

    /// Asks the server at an address by a container's client, until it answers, who it is.
    pub(crate) fn ask(&self, client: impl Fn(&str) -> Command, address: &str) -> String {
        let url = if address.contains(':') {
            format!("http://[{address}]/who")
        } else {
            format!("http://{address}/who")
        };
        let asked = wait::until(&url, || {
            let output = self.try_run(&client(&url));
            let heard = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() {
                Ok(heard)
            } else {
                Err(String::from_utf8_lossy(&output.stderr).into_owned())
            }
        });
        asked.unwrap()
    }

    /// What the plugin returned to the runtime for a container, once the runtime has written it down.
    pub(crate) fn result(&self, container: &str) -> Value {
        let name = format!("{RECORDS}/{}-{container}-eth0", self.list["name"].as_str().unwrap());
        let record = wait::until(&name, || {
            let read = self.runtime.host.run(|| fs::read_to_string(&name)).unwrap();
            read.map_err(|e| e.to_string())
                .and_then(|text| serde_json::from_str(&text).map_err(|e| e.to_string()))
        });
        let record: Value = record.unwrap();
        assert_eq!(record["containerId"], container);
        record["result"].clone()
    }

    /// Calls CHECK as a runtime that does so would, with what this one has written down.
    pub(crate) fn check(&self, container: &str) {
        let result = self.result(container);
        let netns = result["interfaces"][1]["sandbox"].as_str().unwrap().to_owned();
        let conf = self.runtime.conf_with(&json!({ "prevResult": result }));
        success(&self.runtime.call_in("CHECK", container, &netns, &conf));
    }

    /// Waits until these containers, by id and link, have addresses, and no others.
    pub(crate) fn await_owners(&self, containers: &[(&str, &str)]) {
        let mut expected: Vec<String> =
            containers.iter().map(|(id, ifname)| format!("{id}@{ifname}")).collect();
        expected.sort();
        wait::until("containers to come and go", || {
            let files = self.runtime.files("/run/fairway");
            let owners = files.iter().filter(|file| file.contains("/owners/"));
            let mut owners: Vec<_> = owners.map(|file| file.rsplit('/').next().unwrap()).collect();
            owners.sort_unstable();
            if owners == expected { Ok(()) } else { Err(format!("{owners:?}")) }
        })
        .unwrap();
    }

    /// Waits until nothing is left of containers: links, addresses, routes, neighbours, files of the plugin's and of libcni's.
    pub(crate) fn await_nothing_left(&self) {
        let is_kept = |file: &str| {
            // which address comes next, what the daemon knows of the node and pods follow, and what is waited for
            let kept = ["/boot", "/freed/", "/last/", "/node.json", "/mtu", "/lock"];
            kept.iter().any(|kept| file.contains(kept))
        };
        wait::until("nothing to be left", || {
            let places = ["/run/fairway", RECORDS, "/run/netns"];
            let mut files: Vec<_> = places.iter().flat_map(|place| self.runtime.files(place)).collect();
            files.retain(|file| !is_kept(file));
            let traces = traces(&self.runtime);
            if files.is_empty() && traces == Traces::default() {
                Ok(())
            } else {
                Err(format!("{files:?} {traces:?}"))
            }
        })
        .unwrap();
    }
}

/// Prepares the start of a program, to be started on a machine.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(find(name).unwrap());
    command.env_clear().env("PATH", PATH.join(":")).env("HOME", "/run/lab").env("TMPDIR", "/run/lab");
    command
}

/// Waits for the end of a program.
pub(crate) fn await_end(program: &mut Child) {
    wait::until("a program to end", || program.try_wait().unwrap().ok_or_else(String::new)).unwrap();
}

/// Ends a process at once, as the kernel does that is out of memory.
pub(crate) fn kill(process: u32) {
    signal::kill(Pid::from_raw(i32::try_from(process).unwrap()), Signal::SIGKILL).unwrap();
}

fn find(program: &str) -> Option<PathBuf> {
    PATH.iter().map(|place| Path::new(place).join(program)).find(|path| path.exists())
}

/// Says whether a program needs no loader.
fn is_static(program: &Path) -> bool {
    let loader = b"/ld-linux";
    !fs::read(program).unwrap().windows(loader.len()).any(|bytes| bytes == loader)
}

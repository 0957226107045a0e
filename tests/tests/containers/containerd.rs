//! containerd, and its `ctr`, which runs a container in the foreground: it calls ADD with the namespace of a container that is
//! made and not started, and DEL, without a namespace, when the container has ended.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
};

use fairway_lab::wait;

use super::{Machine, program};

/// What must be installed for it.
pub(crate) const PROGRAMS: [&str; 4] = ["containerd", "ctr", "crun", "busybox"];

const SOCKET: &str = "/run/lab/containerd.sock";
const CONFIG_FILE: &str = "/run/lab/containerd.toml";
const CONFIG: &str = r#"
version = 2
root = "/run/lab/containerd/root"
state = "/run/lab/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]

[grpc]
address = "/run/lab/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
path = "/run/lab/containerd/opt"
"#;

/// Makes containers without cgroups.
const CRUN: &str = "/run/lab/crun-without-cgroups";

/// A containerd that runs, until this is dropped.
pub(crate) struct Containerd<'m> {
    machine: &'m Machine,
    process: Child,
}

impl<'m> Containerd<'m> {
    /// Starts it and returns when it answers.
    pub(crate) fn start(machine: &'m Machine) -> Self {
        machine.write(CRUN, "#!/bin/sh\nexec crun --cgroup-manager=disabled \"$@\"\n");
        machine.write(CONFIG_FILE, CONFIG);
        let mut command = program("containerd");
        let process = machine.runtime.host.run(|| {
            fs::set_permissions(CRUN, PermissionsExt::from_mode(0o755))?;
            let log = File::create("/run/lab/containerd.log")?;
            command.args(["--config", CONFIG_FILE]).stdout(Stdio::null()).stderr(log).spawn()
        });
        let containerd = Self { machine, process: process.unwrap().unwrap() };
        wait::until("containerd to answer", || {
            let output = machine.try_run(ctr().arg("version"));
            if output.status.success() { Ok(()) } else { Err(containerd.log()) }
        })
        .unwrap();
        containerd
    }

    /// Runs a container that serves its name, and returns the `ctr` that attends it.
    pub(crate) fn run(&self, name: &str) -> Child {
        let root = self.machine.root_file_system(name);
        let mut run = ctr();
        run.args(["run", "--rm", "--cni", "--runc-binary", CRUN, "--rootfs"]).arg(root);
        run.args([name, "/bin/busybox", "httpd", "-f", "-h", "/www"])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let spawned = self.machine.runtime.host.run(|| {
            let log = File::create(format!("/run/lab/{name}.log"))?;
            run.stderr(log).spawn()
        });
        spawned.unwrap().unwrap()
    }

    /// Takes images from an archive, layer by layer, and names all that it has by then.
    pub(crate) fn import(&self, archive: &str) -> String {
        self.machine.run(ctr().args(["image", "import", "--snapshotter", "native", archive]));
        self.machine.run(ctr().args(["image", "list", "--quiet"]))
    }

    /// The id that the plugin hears of a container.
    pub(crate) fn id(name: &str) -> String {
        format!("default-{name}")
    }

    /// The first process of a container.
    pub(crate) fn process_of(&self, name: &str) -> u32 {
        let result = self.machine.result(&Self::id(name));
        let netns = result["interfaces"][1]["sandbox"].as_str().unwrap();
        netns.split('/').nth(2).unwrap().parse().unwrap()
    }

    /// Ends and removes a container that nobody attends any more. (`--force` would not end it: crun finds all processes of a
    /// container by its cgroup.)
    pub(crate) fn remove(&self, name: &str) {
        self.machine.run(ctr().args(["task", "kill", "--signal", "KILL", name]));
        wait::until("the container to have ended", || {
            let output = self.machine.try_run(ctr().args(["task", "delete", name]));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if said.contains("must be stopped") { Err(said) } else { Ok(()) }
        })
        .unwrap();
        self.machine.run(ctr().args(["container", "delete", name]));
    }

    fn log(&self) -> String {
        self.machine.runtime.host.run(|| fs::read_to_string("/run/lab/containerd.log")).unwrap().unwrap()
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill(); // gone already is as good
        let _ = self.process.wait();
    }
}

fn ctr() -> Command {
    let mut ctr = program("ctr");
    ctr.args(["--address", SOCKET]);
    ctr
}

/// Prepares that a container fetches a page.
pub(crate) fn fetch(name: &str, url: &str) -> Command {
    let mut exec = ctr();
    exec.args(["task", "exec", "--exec-id", "fetch", name, "/bin/busybox", "wget", "-q", "-O-", url]);
    exec
}

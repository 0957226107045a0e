//! One node with its daemon, which follows manifests written by hand, and a machine outside on the same network.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use fairway_lab::{binaries, host::Host, network::Switch};

const MANIFESTS: &str = "/var/lib/fairway/manifests";

/// The addresses of the node.
pub(crate) const NODE: [&str; 2] = ["192.168.14.51", "fd00:192:168:14::51"];

/// The addresses of the machine outside.
pub(crate) const OUTSIDE: [&str; 2] = ["192.168.14.1", "fd00:192:168:14::1"];

/// A node with its daemon, and a machine outside that asks it.
pub(crate) struct LoneNode {
    pub(crate) node: Host,
    pub(crate) outside: Host,
    daemon: Option<Child>,
    lines: mpsc::Receiver<String>,
    _switch: Switch,
}

impl LoneNode {
    /// Starts with these objects, each in a file of its own, and returns when they are served.
    pub(crate) fn start(flags: &[&str], objects: &[(&str, &str)]) -> Self {
        let mut node = Self::boot();
        for (file, text) in objects {
            node.write(file, text);
        }
        node.start_daemon(flags);
        node
    }

    /// Makes the machines. The daemon does not run yet.
    pub(crate) fn boot() -> Self {
        let (switch, node, outside) =
            (Switch::make().unwrap(), Host::make("w1").unwrap(), Host::make("outside").unwrap());
        switch.connect(&node, &NODE.map(|ip| ip.parse().unwrap())).unwrap();
        switch.connect(&outside, &OUTSIDE.map(|ip| ip.parse().unwrap())).unwrap();
        node.run(|| fs::create_dir(MANIFESTS).unwrap()).unwrap();
        Self { node, outside, daemon: None, lines: mpsc::channel().1, _switch: switch }
    }

    /// Starts the daemon, in the place of one that runs, and returns when it serves, with all it said until then.
    pub(crate) fn start_daemon(&mut self, flags: &[&str]) -> String {
        self.kill_daemon();
        let mut command = Command::new(&binaries::built().unwrap().fairway_proxy);
        command.args(["--manifests", MANIFESTS, "--hostname-override", "w1"]).args(flags);
        let mut daemon = self.node.run(|| command.stderr(Stdio::piped()).spawn().unwrap()).unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(daemon.stderr.take().unwrap());
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        (self.daemon, self.lines) = (Some(daemon), lines);
        self.says("committed")
    }

    pub(crate) fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// Gives a file of manifests this text, in one step.
    pub(crate) fn write(&self, file: &str, text: &str) {
        self.node.run(|| write(file, text)).unwrap();
    }

    /// Removes a file of manifests.
    pub(crate) fn remove(&self, file: &str) {
        self.node.run(|| fs::remove_file(Path::new(MANIFESTS).join(file)).unwrap()).unwrap();
    }

    /// Waits until the daemon says something with `words` in it, and returns all it said until then.
    pub(crate) fn says(&self, words: &str) -> String {
        let mut said = String::new();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(20)) {
            said += &line;
            said.push('\n');
            if line.contains(words) {
                return said;
            }
        }
        panic!("it does not say {words:?}, but:\n{said}");
    }
}

impl Drop for LoneNode {
    fn drop(&mut self) {
        self.kill_daemon();
    }
}

fn write(file: &str, text: &str) {
    let (draft, file) = (Path::new(MANIFESTS).join("draft"), Path::new(MANIFESTS).join(file));
    fs::write(&draft, text).unwrap();
    fs::rename(draft, file).unwrap();
}

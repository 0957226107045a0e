//! A node: a host on the network, with the daemon on it, which follows a directory of manifests there, or an API server.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::Arc,
};

use dataplane::disk::{self, Directory, Durability};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    api_server::{self, ApiServer},
    binaries::Binaries,
    host::{self, Host},
    manifest::Node,
    network::{self, Switch, network_of},
    process::{Process, program},
    runtime,
    wait::{self, TimedOut},
};

/// Where the daemon of each node looks for Services, `EndpointSlices` and Nodes.
pub const MANIFESTS: &str = "/var/lib/fairway/manifests";

/// Where each node's daemon logs to.
const LOG: &str = "/run/lab/daemon.log";

/// What the daemon leaves for the plugin.
const NODE_FACTS: &str = "/run/fairway/node.json";

/// How much of a log an error shows.
const LOG_LINES: usize = 15;

/// Why a node is not up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused.
    #[error("node {node}")]
    Host {
        /// The node.
        node: String,
        /// Why.
        source: host::Error,
    },
    /// It is not on the network.
    #[error("node {node}")]
    Network {
        /// The node.
        node: String,
        /// Why.
        source: network::Error,
    },
    /// The daemon does not start, or not end.
    #[error("node {node}: {step} the daemon")]
    Daemon {
        /// The node.
        node: String,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The manifests could not be written.
    #[error("node {node}")]
    Manifests {
        /// The node.
        node: String,
        /// Why.
        source: disk::Error,
    },
    /// The daemon cannot be told of the API server.
    #[error("node {node}")]
    ApiServer {
        /// The node.
        node: String,
        /// Why.
        source: api_server::Error,
    },
    /// The daemon started, but is of no use.
    #[error("node {node}: {reason}; the daemon's log:\n{log}")]
    NotReady {
        /// The node.
        node: String,
        /// What was waited for.
        reason: TimedOut,
        /// The last lines of its log.
        log: String,
    },
}

/// A node that runs.
#[derive(Debug)]
pub struct RunningNode {
    manifest: Node,
    host: Arc<Host>,
    daemon: Option<Process>,
    program: PathBuf,
    /// What it follows, as a flag and its value.
    source: [&'static str; 2],
    flags: Vec<String>,
    published: BTreeMap<String, String>,
}

impl RunningNode {
    /// Makes the machine and connects it. The daemon does not run yet.
    pub fn boot(manifest: Node, switch: &Switch, binaries: &Binaries) -> Result<Self, Error> {
        let node = manifest.metadata.name.clone();
        let host = Host::make(&node).map_err(|source| Error::Host { node: node.clone(), source })?;
        let addresses: Vec<_> = manifest.internal_ips().collect();
        switch.connect(&host, &addresses).map_err(|source| Error::Network { node: node.clone(), source })?;
        let running = Self {
            manifest,
            host: Arc::new(host),
            daemon: None,
            program: binaries.fairway_proxy.clone(),
            source: ["--manifests", MANIFESTS],
            flags: Vec::new(),
            published: BTreeMap::new(),
        };
        running.run(|| directory().make())?.map_err(|source| Error::Manifests { node, source })?;
        Ok(running)
    }

    /// Sets the flags that the daemon is started with from now on, besides those that the lab needs.
    pub fn set_flags(&mut self, flags: &[impl AsRef<str>]) {
        self.flags = flags.iter().map(|flag| flag.as_ref().to_owned()).collect();
    }

    /// Has the daemon follow an API server, from its next start on.
    pub(crate) fn follow(&mut self, server: &ApiServer) -> Result<(), Error> {
        let introduced = server.introduce(&self.host);
        introduced.map_err(|source| Error::ApiServer { node: self.name().to_owned(), source })?;
        self.source = ["--kubeconfig", api_server::KUBECONFIG];
        Ok(())
    }

    /// Takes other labels, and other addresses on its network. False, and nothing is changed, if it would take more.
    pub(crate) fn change(&mut self, manifest: &Node, switch: &Switch) -> Result<bool, Error> {
        let (old, new): (Vec<_>, Vec<_>) =
            (self.manifest.internal_ips().collect(), manifest.internal_ips().collect());
        let networks = |ips: &[IpAddr]| ips.iter().map(|ip| network_of(*ip).network()).collect::<Vec<_>>();
        if manifest.spec != self.manifest.spec || networks(&old) != networks(&new) {
            return Ok(false);
        }
        if old != new {
            let moved = switch.readdress(&self.host, &old, &new);
            moved.map_err(|source| Error::Network { node: self.name().to_owned(), source })?;
        }
        self.manifest.clone_from(manifest);
        Ok(true)
    }

    /// Starts the daemon. A second one does no harm: the first is ended before.
    pub fn start_daemon(&mut self) -> Result<(), Error> {
        self.kill_daemon()?;
        let name = self.name().to_owned();
        let (program_file, source, flags) = (&self.program, self.source, &self.flags);
        let started = self.run(|| {
            let log = OpenOptions::new().create(true).append(true).open(LOG)?;
            Process::start(
                program(program_file)
                    .args(source)
                    .args(["--hostname-override", &name, "--install-cni"])
                    .args(flags)
                    .stdin(Stdio::null())
                    .stdout(log.try_clone()?)
                    .stderr(log),
            )
        })?;
        self.daemon = Some(started.map_err(|source| self.daemon_error("start", source))?);
        Ok(())
    }

    /// Kills the daemon (SIGKILL), as a crash would.
    pub fn kill_daemon(&mut self) -> Result<(), Error> {
        match self.daemon.take() {
            Some(mut daemon) => daemon.kill().map_err(|source| self.daemon_error("kill", source)),
            None => Ok(()),
        }
    }

    /// Ends the daemon as an update would (SIGTERM), and waits until it is gone.
    pub fn stop_daemon(&mut self) -> Result<(), Error> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        let pid = i32::try_from(daemon.id()).map_err(|e| self.daemon_error("stop", io::Error::other(e)))?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|e| self.daemon_error("stop", e.into()))?;
        let ended = wait::until("the daemon to end", || {
            daemon.ended().map(|_| ()).ok_or_else(|| "it still runs".to_owned())
        });
        ended.map_err(|reason| self.not_ready(reason))
    }

    /// Runs the daemon's program once with other arguments, such as `--cleanup`.
    pub fn run_daemon(&self, arguments: &[&str]) -> Result<Output, Error> {
        let output = self.run(|| program(&self.program).args(arguments).stdin(Stdio::null()).output())?;
        output.map_err(|source| self.daemon_error("run", source))
    }

    /// Waits until the daemon has told the runtime and the plugin how to give pods a network.
    pub fn await_network(&mut self) -> Result<(), Error> {
        let ready = wait::until("the daemon to configure the pod network", || {
            if let Some(ended) = self.daemon.as_mut().and_then(Process::ended) {
                return Ok(Err(ended.to_string()));
            }
            runtime::network_of(&self.host).map_err(|error| error.to_string())?;
            let has_facts = self.host.run(|| Path::new(NODE_FACTS).exists()).map_err(|e| e.to_string())?;
            if has_facts { Ok(Ok(())) } else { Err(format!("no {NODE_FACTS}")) }
        });
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(ended)) => {
                let source = io::Error::other(format!("it ended: {ended}\n{}", self.log()));
                Err(self.daemon_error("start", source))
            }
            Err(reason) => Err(self.not_ready(reason)),
        }
    }

    /// Brings the directory of manifests to these files, each by its name: writes what differs, in order of names, then
    /// removes what is too much, in the opposite order, so that a service never stands there without its slices.
    pub fn publish(&mut self, files: &BTreeMap<String, String>) -> Result<(), Error> {
        let published = &self.published;
        let done = self.run(|| {
            let directory = directory();
            for (name, text) in files.iter().filter(|(name, text)| published.get(*name) != Some(text)) {
                directory.replace(name, text.as_bytes())?;
            }
            for name in published.keys().rev().filter(|name| !files.contains_key(*name)) {
                directory.remove(name)?;
            }
            Ok(())
        })?;
        done.map_err(|source| Error::Manifests { node: self.name().to_owned(), source })?;
        self.published.clone_from(files);
        Ok(())
    }

    /// Runs `work` on a new thread of this node.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        self.host.run(work).map_err(|source| Error::Host { node: self.name().to_owned(), source })
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.manifest.metadata.name
    }

    /// What it was made from.
    pub fn manifest(&self) -> &Node {
        &self.manifest
    }

    /// The machine.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// The daemon's process, while it runs.
    pub fn daemon_id(&mut self) -> Option<u32> {
        let daemon = self.daemon.as_mut()?;
        daemon.ended().is_none().then(|| daemon.id())
    }

    /// The daemon's process, whether it runs or has ended.
    pub fn process(&self) -> Option<u32> {
        self.daemon.as_ref().map(Process::id)
    }

    /// The last lines that the daemon logged.
    pub fn log(&self) -> String {
        let text = self.run(|| fs::read_to_string(LOG).unwrap_or_default()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n")
    }

    fn daemon_error(&self, step: &'static str, source: io::Error) -> Error {
        Error::Daemon { node: self.name().to_owned(), step, source }
    }

    fn not_ready(&self, reason: TimedOut) -> Error {
        Error::NotReady { node: self.name().to_owned(), reason, log: self.log() }
    }
}

fn directory() -> Directory {
    Directory::new(MANIFESTS, Durability::Volatile)
}

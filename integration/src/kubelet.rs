//! The kubelet's part: runs a pod on a host.
//!
//! In: a pod's manifest and a host with a network. Out: a pod that is ready, with addresses from the plugin and a process
//! for each container, all in one network namespace.

use std::{
    fs::{self, OpenOptions},
    io::{self, BufRead, BufReader},
    net::IpAddr,
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use dataplane::netns::{self, Netns};
use serde_json::Value;

use crate::{
    host::{self, Host},
    manifest::{Container, Pod, Protocol},
    process::{Process, program},
    runtime::{self, Attachment, NetworkList},
    server,
};

/// Where each node keeps what its containers say.
const LOGS: &str = "/run/lab";

/// Why a pod does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused.
    #[error("pod {pod}")]
    Host {
        /// The pod.
        pod: String,
        /// Why.
        source: host::Error,
    },
    /// The pod's network namespace refused.
    #[error("pod {pod}")]
    Netns {
        /// The pod.
        pod: String,
        /// Why.
        source: netns::Error,
    },
    /// The plugin refused.
    #[error("pod {pod}")]
    Network {
        /// The pod.
        pod: String,
        /// Why.
        source: runtime::Error,
    },
    /// A container's program did not start.
    #[error("pod {pod}: start container {container}")]
    Start {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
        /// What the system said.
        source: io::Error,
    },
    /// A container's program started and went.
    #[error("pod {pod}: container {container} ended before it was ready: {said}")]
    Ended {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
        /// Its log.
        said: String,
    },
}

/// A pod that runs.
#[derive(Debug)]
pub struct RunningPod {
    manifest: Pod,
    host: Arc<Host>,
    netns: Netns,
    netns_name: String,
    network: NetworkList,
    attachment: Attachment,
    result: Value,
    addresses: Vec<IpAddr>,
    containers: Vec<(String, Process)>,
}

/// Starts `pod` on `host` and returns when every container is ready. What it did before an error is undone.
pub fn start(host: &Arc<Host>, pod: Pod) -> Result<RunningPod, Error> {
    let key = pod.key();
    let of_host = |source| Error::Host { pod: key.clone(), source };
    let of_netns = |source| Error::Netns { pod: key.clone(), source };
    let of_network = |source| Error::Network { pod: key.clone(), source };

    let network = runtime::network_of(host).map_err(of_network)?;
    let netns_name = new_container_id(&pod);
    let path = host.make_netns(&netns_name).map_err(of_host)?;
    let opened = host.run(|| Netns::open(&path)).map_err(of_host)?.map_err(of_netns)?;
    let attachment = Attachment {
        container_id: netns_name.clone(),
        netns: path,
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
    };
    let mut running = RunningPod {
        manifest: pod,
        host: Arc::clone(host),
        netns: opened,
        netns_name,
        network,
        attachment,
        result: Value::Null,
        addresses: Vec::new(),
        containers: Vec::new(),
    };
    match running.bring_up() {
        Ok(()) => Ok(running),
        Err(error) => {
            let _ = running.stop(); // the first error is the one that tells
            Err(error)
        }
    }
}

/// Container ids are never used twice: the plugin would take the new pod for the old one.
fn new_container_id(pod: &Pod) -> String {
    static STARTED: AtomicU64 = AtomicU64::new(1);
    let serial = STARTED.fetch_add(1, Ordering::Relaxed);
    format!("{}-{}-{serial}", pod.metadata.namespace, pod.metadata.name)
}

impl RunningPod {
    fn bring_up(&mut self) -> Result<(), Error> {
        let pod = self.key();
        let added = self.network.add(&self.host, &self.attachment);
        self.result = added.map_err(|source| Error::Network { pod: pod.clone(), source })?;
        self.addresses = runtime::addresses(&self.result);
        for container in self.manifest.spec.containers.clone() {
            let process = self.start_container(&container)?;
            self.containers.push((container.name, process));
        }
        Ok(())
    }

    fn start_container(&self, container: &Container) -> Result<Process, Error> {
        let refused = |source| Error::Start { pod: self.key(), container: container.name.clone(), source };
        let mut command = self.command_of(container).map_err(refused)?;
        let log = format!("{LOGS}/{}-{}.log", self.netns_name, container.name);
        let started = self.run(|| {
            // Nothing of the lab's own: whoever reads the output of `lab up` waits for its end.
            let log = OpenOptions::new().create(true).append(true).open(&log)?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            if container.command.is_empty() {
                command.stdout(Stdio::piped());
            }
            Process::start(&mut command)
        })?;
        let mut process = started.map_err(refused)?;
        if let Some(stdout) = process.child().stdout.take() {
            let first = BufReader::new(stdout).lines().next();
            if !first.is_some_and(|line| line.is_ok_and(|line| line == server::READY)) {
                let said = self.run(|| fs::read_to_string(&log).unwrap_or_default())?.trim_end().to_owned();
                return Err(Error::Ended { pod: self.key(), container: container.name.clone(), said });
            }
        }
        Ok(process)
    }

    /// The container's own command, or this very program as a server on the container's ports.
    fn command_of(&self, container: &Container) -> io::Result<Command> {
        if let Some((file, arguments)) = container.command.split_first() {
            let mut command = program(file);
            command.args(arguments);
            return Ok(command);
        }
        let name = match self.manifest.spec.containers.len() {
            1 => self.manifest.metadata.name.clone(),
            _ => format!("{}/{}", self.manifest.metadata.name, container.name),
        };
        let mut command = program(std::env::current_exe()?);
        command.args([server::SERVE, "--name", &name]);
        for port in &container.ports {
            let kind = if port.protocol == Protocol::Udp { "--udp" } else { "--http" };
            command.args([kind, &port.container_port.to_string()]);
        }
        Ok(command)
    }

    /// Runs `work` on a new thread in the pod: its network, its host's files.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let ran = self.host.run(|| self.netns.run(work));
        let ran = ran.map_err(|source| Error::Host { pod: self.key(), source })?;
        ran.map_err(|source| Error::Netns { pod: self.key(), source })
    }

    /// Kills the containers and takes the network away: does all it can, then reports the first error.
    pub fn stop(mut self) -> Result<(), Error> {
        let key = self.key();
        self.containers.clear();
        let detached = self.network.del(&self.host, &self.attachment, &self.result);
        let removed = self.host.remove_netns(&self.netns_name);
        detached.map_err(|source| Error::Network { pod: key.clone(), source })?;
        removed.map_err(|source| Error::Host { pod: key, source })
    }

    /// Asks the plugins whether the pod's network is as they made it (CNI CHECK).
    pub fn check(&self) -> Result<(), Error> {
        let checked = self.network.check(&self.host, &self.attachment, &self.result);
        checked.map_err(|source| Error::Network { pod: self.key(), source })
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        self.manifest.key()
    }

    /// What it was started from.
    pub fn manifest(&self) -> &Pod {
        &self.manifest
    }

    /// Where it runs.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// What the plugin gave it, in the plugin's order.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The result of ADD.
    pub fn result(&self) -> &Value {
        &self.result
    }

    /// Its network namespace, open for as long as it runs.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The processes of its containers, whether they run or have ended.
    pub fn processes(&self) -> impl Iterator<Item = u32> {
        self.containers.iter().map(|(_, process)| process.id())
    }

    /// Its containers: name, process, and how it ended if it did.
    pub fn containers(&mut self) -> impl Iterator<Item = (&str, u32, Option<ExitStatus>)> {
        self.containers.iter_mut().map(|(name, process)| (name.as_str(), process.id(), process.ended()))
    }
}

//! The container runtime's part: speaks CNI to the plugins of a host.
//!
//! In: a host with a conflist in `/etc/cni/net.d`, a pod's network namespace and names. Out: the plugins' result.
//! The environment and the configuration are those that containerd and CRI-O give (CNI SPEC 1.1.0).

use std::{
    fs, io,
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    host::{self, Host},
    process::program,
};

/// Where each host looks for its network configuration.
pub const CONF_DIR: &str = "/etc/cni/net.d";

/// Where the plugins are.
pub const BIN_DIR: &str = "/opt/cni/bin";

/// The last version of CNI that this runtime knows.
const NEWEST: &str = "1.1.0";

/// The interface that each pod gets.
pub const INTERFACE: &str = "eth0";

/// Why a pod has no network, or still has one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host's namespaces could not be entered.
    #[error("run a plugin")]
    Host(#[from] host::Error),
    /// No network is configured (yet).
    #[error("no conflist in {CONF_DIR} of {host}")]
    NotConfigured {
        /// The host.
        host: String,
    },
    /// The network configuration cannot be read.
    #[error("network configuration {path}: {reason}")]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The plugin cannot be started.
    #[error("start plugin {path}")]
    Start {
        /// The program.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The plugin says no.
    #[error("plugin {plugin} {verb}: {said}")]
    Plugin {
        /// Its type.
        plugin: String,
        /// What it was asked.
        verb: &'static str,
        /// Its error result, or what it wrote to stderr.
        said: String,
    },
}

/// A pod on a host, as the runtime names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The container id of the pod's sandbox.
    pub container_id: String,
    /// The pod's network namespace, as the host sees it.
    pub netns: PathBuf,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
}

/// The list of plugins that a host's pods go through.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkList {
    cni_version: String,
    #[serde(default)]
    cni_versions: Vec<String>,
    name: String,
    plugins: Vec<Map<String, Value>>,
}

/// Reads the conflist that a host's runtime goes by: the first by name.
pub fn network_of(host: &Host) -> Result<NetworkList, Error> {
    let read = || {
        let mut files: Vec<PathBuf> =
            fs::read_dir(CONF_DIR).ok()?.flatten().map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "conflist"));
        files.sort();
        let path = files.into_iter().next()?;
        Some((fs::read_to_string(&path), path))
    };
    let (text, path) =
        host.run(read)?.ok_or_else(|| Error::NotConfigured { host: host.name().to_owned() })?;
    let parsed = text.map_err(|error| error.to_string()).and_then(|text| parse(&text));
    parsed.map_err(|reason| Error::Configuration { path, reason })
}

/// Parses a conflist. Of the versions it names, the last that this runtime knows is spoken (CNI SPEC 1.1.0 "cniVersions").
pub fn parse(text: &str) -> Result<NetworkList, String> {
    let mut list: NetworkList = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let known = list.cni_versions.iter().filter(|version| numbers(version) <= numbers(NEWEST));
    if let Some(last) = known.chain([&list.cni_version]).max_by_key(|version| numbers(version)).cloned() {
        list.cni_version = last;
    }
    Ok(list)
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

impl NetworkList {
    /// Attaches a pod: ADD through all plugins, each hearing what the one before said. Returns the last one's result.
    pub fn add(&self, host: &Host, attachment: &Attachment) -> Result<Value, Error> {
        let mut result = Value::Null;
        for plugin in &self.plugins {
            let said = self.call(host, plugin, "ADD", attachment, &result)?;
            result = serde_json::from_slice(&said).map_err(|error| Error::Plugin {
                plugin: type_of(plugin).to_owned(),
                verb: "ADD",
                said: format!("no result: {error}"),
            })?;
        }
        Ok(result)
    }

    /// Compares a pod with the result that its ADD gave: CHECK through all plugins.
    pub fn check(&self, host: &Host, attachment: &Attachment, result: &Value) -> Result<(), Error> {
        self.plugins
            .iter()
            .try_for_each(|plugin| self.call(host, plugin, "CHECK", attachment, result).map(|_| ()))
    }

    /// Detaches a pod: DEL through all plugins, the last one first, and on over errors. Returns the first error.
    pub fn del(&self, host: &Host, attachment: &Attachment, result: &Value) -> Result<(), Error> {
        let said = self.plugins.iter().rev().map(|plugin| self.call(host, plugin, "DEL", attachment, result));
        said.collect::<Vec<_>>().into_iter().try_for_each(|said| said.map(|_| ()))
    }

    fn call(
        &self,
        host: &Host,
        plugin: &Map<String, Value>,
        verb: &'static str,
        attachment: &Attachment,
        previous: &Value,
    ) -> Result<Vec<u8>, Error> {
        let mut configuration = plugin.clone();
        configuration.insert("cniVersion".into(), json!(self.cni_version));
        configuration.insert("name".into(), json!(self.name));
        if !previous.is_null() {
            configuration.insert("prevResult".into(), previous.clone());
        }
        let path = Path::new(BIN_DIR).join(type_of(plugin));
        let output = host.run(|| run(&path, verb, attachment, &Value::from(configuration)))?;
        let output = output.map_err(|source| Error::Start { path, source })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(Error::Plugin { plugin: type_of(plugin).to_owned(), verb, said: complaint(&output) })
    }
}

fn type_of(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or("?")
}

/// Runs a plugin on the calling thread's host, and returns what it said.
pub(crate) fn run(path: &Path, verb: &str, of: &Attachment, configuration: &Value) -> io::Result<Output> {
    let names = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={}",
        of.namespace, of.name, of.container_id
    );
    let mut plugin = program(path)
        .env_clear()
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &of.container_id)
        .env("CNI_NETNS", &of.netns)
        .env("CNI_IFNAME", INTERFACE)
        .env("CNI_ARGS", names)
        .env("CNI_PATH", BIN_DIR)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = plugin.stdin.take() {
        // A plugin that fails before it reads says why in its result.
        let _ = stdin.write_all(configuration.to_string().as_bytes());
    }
    plugin.wait_with_output()
}

/// The error result's message and details, or whatever else the plugin left.
pub(crate) fn complaint(output: &Output) -> String {
    let result: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let part = |name| result.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    match (part("msg"), part("details")) {
        (Some(message), Some(details)) => format!("{message}: {details}"),
        (Some(message), None) => message.to_owned(),
        (None, _) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            format!("{} {}", output.status, stderr.trim_end())
        }
    }
}

/// The addresses in a result of ADD.
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    ips.filter_map(|ip| ip.get("address")?.as_str()?.parse::<IpNetwork>().ok()).map(|net| net.ip()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conflist_for_nodes_without_the_daemon_names_our_plugin() {
        let list = parse(include_str!("../../conf/10-fairway.conflist")).unwrap();

        assert_eq!(list.cni_version, "1.1.0");
        assert_eq!(list.plugins.iter().map(type_of).collect::<Vec<_>>(), ["fairway"]);
    }

    #[test]
    fn of_the_versions_that_a_conflist_names_the_last_known_one_is_spoken() {
        let speaks = |versions: Value| {
            let list = json!({"cniVersion": "0.4.0", "cniVersions": versions, "name": "pods", "plugins": []});
            parse(&list.to_string()).unwrap().cni_version
        };

        assert_eq!(speaks(json!([])), "0.4.0");
        assert_eq!(speaks(json!(["1.1.0", "1.0.0"])), "1.1.0");
        assert_eq!(speaks(json!(["0.3.1", "1.0.0", "1.10.0"])), "1.0.0");
    }

    #[test]
    fn a_result_gives_its_addresses() {
        let result = json!({"ips": [{"address": "10.244.1.2/32"}, {"address": "fd00::2/128"}]});

        let expected: [IpAddr; 2] = ["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(addresses(&result), expected);
    }
}

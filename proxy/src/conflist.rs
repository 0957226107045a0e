//! What the container runtime and the CNI plugin must know of this node.
//!
//! In: our own node and the network it is on. Out: files, written whole, only if they differ, and in this order:
//!
//! ```text
//! /run/fairway/node.json               {"mtu": 1500, "podCIDRs": ["10.244.1.0/24"]}     for the plugin
//! /opt/cni/bin/fairway                 the plugin, where it is to be installed
//! /etc/cni/net.d/10-fairway.conflist   makes the container runtime use the plugin: once pods can be wired and services are served
//! ```
//!
//! Files of others are never touched.

use std::{fs, io, path::PathBuf};

use dataplane::disk::{self, Directory, Durability};
use serde_json::{Value, json};

use crate::objects::Node;

/// The plugin's file, in the run directory.
pub const NODE_FILE: &str = "node.json";

/// The runtime's file, in its CNI directory.
pub const CONFLIST: &str = "10-fairway.conflist";

/// The plugin, in the directory where runtimes look for plugins.
pub const PLUGIN: &str = "fairway";

/// The endings of files that runtimes look at (`loadFromConfDir` in containerd/go-cni, `loadNetworks` in cri-o/ocicni).
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// What it says.
const CONFLIST_TEXT: &str = include_str!("../../conf/10-fairway.conflist");

/// Where the files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    run: Directory,
    cni: Directory,
    is_installed: bool,
    program: Option<Program>,
}

/// The plugin's program, and where it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Program {
    source: PathBuf,
    bin: Directory,
}

/// Which files were written for the runtime.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// The plugin.
    pub plugin: bool,
    /// Its configuration.
    pub conflist: bool,
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read or written.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// There is no plugin to install.
    #[error("read the plugin {path}, to install it: --cni-plugin says where it is")]
    NoPlugin {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Files {
    /// Names the directories; whether the runtime's file is to be written is `is_installed`.
    pub fn new(run_dir: impl Into<PathBuf>, cni_conf_dir: impl Into<PathBuf>, is_installed: bool) -> Self {
        let run = Directory::new(run_dir, Durability::Volatile);
        Self { run, cni: Directory::new(cni_conf_dir, Durability::Durable), is_installed, program: None }
    }

    /// Has the plugin at `source` installed into `bin_dir`, too.
    #[must_use]
    pub fn with_plugin(self, source: impl Into<PathBuf>, bin_dir: impl Into<PathBuf>) -> Self {
        let bin = Directory::new(bin_dir, Durability::Durable);
        Self { program: Some(Program { source: source.into(), bin }), ..self }
    }

    /// Tells the plugin of the node, and says whether that is news.
    pub fn write_facts(&self, node: &Node, mtu: u32) -> Result<bool, disk::Error> {
        self.run.make()?;
        replace(&self.run, NODE_FILE, &format!("{:#}\n", facts(node, mtu)))
    }

    /// Makes the runtime use the plugin: comes after [`Self::write_facts`], when pods can be wired.
    pub fn install(&self) -> Result<Written, Error> {
        let plugin = self.program.as_ref().map_or(Ok(false), Program::install)?;
        // Without the directory there is no container runtime here that would read it.
        let is_read = self.is_installed && self.cni.path().is_dir();
        let conflist = is_read && replace(&self.cni, CONFLIST, CONFLIST_TEXT)?;
        Ok(Written { plugin, conflist })
    }

    /// Names the files of others that runtimes take before ours: they take the first by name.
    pub fn rivals(&self) -> Result<Vec<PathBuf>, disk::Error> {
        if !self.is_installed {
            return Ok(Vec::new());
        }
        let names = self.cni.names()?.into_iter().take_while(|name| **name < *CONFLIST);
        let paths = names.map(|name| self.cni.path().join(name));
        Ok(paths.filter(|path| path.extension().is_some_and(|e| ENDINGS.iter().any(|it| e == *it))).collect())
    }

    /// Removes both files, the runtime's first. The plugin stays: pods that are there need it for their DEL.
    pub fn remove(&self) -> Result<(), disk::Error> {
        self.cni.remove(CONFLIST)?;
        self.run.remove(NODE_FILE)?;
        Ok(())
    }
}

impl Program {
    /// Puts the program where it is to be, and says whether another one was there, or none.
    fn install(&self) -> Result<bool, Error> {
        let path = &self.source;
        let program = fs::read(path).map_err(|source| Error::NoPlugin { path: path.clone(), source })?;
        self.bin.make()?;
        let differs = self.bin.read(PLUGIN)?.is_none_or(|known| known != program);
        if differs {
            self.bin.sweep()?;
            self.bin.replace_program(PLUGIN, &program)?;
        }
        Ok(differs)
    }
}

fn replace(directory: &Directory, name: &str, content: &str) -> Result<bool, disk::Error> {
    let differs = directory.read(name)?.is_none_or(|known| known != content.as_bytes());
    if differs {
        directory.replace(name, content.as_bytes())?;
    }
    Ok(differs)
}

fn facts(node: &Node, mtu: u32) -> Value {
    json!({"podCIDRs": node.pod_cidrs, "mtu": mtu})
}

#[cfg(test)]
mod tests;

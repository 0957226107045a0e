//! Plays the container runtime for a list of plugins: ADD in order, each with the result of the one before; DEL in reverse.

use std::path::PathBuf;

use cni_plugin::Outcome;
use fairway_lab::binaries;
use serde_json::{Value, json};

use crate::runtime::{Runtime, success};

/// Where Debian puts the plugins, and where others do.
const PLACES: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

fn find(plugin: &str) -> Option<PathBuf> {
    PLACES.iter().map(|place| PathBuf::from(place).join(plugin)).find(|path| path.exists())
}

/// Says whether a plugin of Debian's `containernetworking-plugins` is there, and if not, that nothing is shown about it.
#[expect(clippy::disallowed_methods, reason = "the gate requires what it has installed")]
pub(crate) fn is_installed(plugin: &str) -> bool {
    let there = find(plugin).is_some();
    if !there {
        assert!(
            std::env::var_os("FAIRWAY_REQUIRE_SANDBOX").is_none(),
            "{plugin} is not installed, and must be here"
        );
        eprintln!("{plugin} is not installed (containernetworking-plugins): not chained with it");
    }
    there
}

/// Plugins of one network, in the order of ADD.
pub(crate) struct Chain {
    plugins: Vec<Value>,
    ifnames: Vec<&'static str>,
}

impl Chain {
    pub(crate) fn of(plugins: impl IntoIterator<Item = Value>) -> Self {
        let plugins: Vec<Value> = plugins.into_iter().collect();
        Self { ifnames: vec!["eth0"; plugins.len()], plugins }
    }

    /// Two plugins that both make a link are two attachments, with a name for each.
    pub(crate) fn with_ifname_of_last(mut self, ifname: &'static str) -> Self {
        *self.ifnames.last_mut().unwrap() = ifname;
        self
    }

    fn call(
        &self,
        runtime: &Runtime,
        place: usize,
        verb: &str,
        container: &str,
        prev: Option<&Value>,
    ) -> Outcome {
        let mut conf = self.plugins[place].clone();
        conf["cniVersion"] = runtime.conf["cniVersion"].clone();
        conf["name"] = runtime.conf["name"].clone();
        if let Some(prev) = prev {
            conf["prevResult"] = prev.clone();
        }
        let program = match conf["type"].as_str().unwrap() {
            "fairway" => binaries::built().unwrap().fairway.clone(),
            other => find(other).unwrap(),
        };
        runtime.exec_as(&program, verb, container, self.ifnames[place], &conf)
    }

    /// Adds a container and returns the last result.
    pub(crate) fn add(&self, runtime: &Runtime, container: &str) -> Value {
        let mut result = None;
        for place in 0..self.plugins.len() {
            result = Some(success(&self.call(runtime, place, "ADD", container, result.as_ref())));
        }
        result.unwrap_or(json!(null))
    }

    pub(crate) fn check(&self, runtime: &Runtime, container: &str, result: &Value) {
        for place in 0..self.plugins.len() {
            self.check_at(place, runtime, container, result);
        }
    }

    /// Checks only what one of the plugins made.
    pub(crate) fn check_at(&self, place: usize, runtime: &Runtime, container: &str, result: &Value) {
        success(&self.call(runtime, place, "CHECK", container, Some(result)));
    }

    pub(crate) fn del(&self, runtime: &Runtime, container: &str, result: &Value) {
        for place in (0..self.plugins.len()).rev() {
            success(&self.call(runtime, place, "DEL", container, Some(result)));
        }
    }
}

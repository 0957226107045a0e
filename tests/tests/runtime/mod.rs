//! Plays the container runtime: calls the plugin for containers of a host, as a value or as a process.

#![allow(dead_code, reason = "each test program uses its part of it")]

pub(crate) mod traces;

use std::{
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use cni_plugin::{Environment, Outcome};
use dataplane::{netns::Netns, rtnl::Kernel};
use fairway_lab::{binaries, host::Host};
use serde_json::{Value, json};

/// A host with a network configuration.
pub(crate) struct Runtime {
    pub(crate) host: Host,
    pub(crate) conf: Value,
    /// Where other plugins are.
    pub(crate) path: String,
}

/// Two families, inline.
pub(crate) fn dual_stack() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "name": "pods",
        "type": "fairway",
        "mtu": 1450,
        "ipam": { "ranges": [[{ "subnet": "10.244.1.0/24" }], [{ "subnet": "fd00:10:244:1::/64" }]] },
    })
}

impl Runtime {
    pub(crate) fn new(conf: Value) -> Self {
        Self { host: Host::make("node").unwrap(), conf, path: "/opt/cni/bin".to_owned() }
    }

    /// The same configuration with other values for some keys; `null` takes one away.
    pub(crate) fn conf_with(&self, more: &Value) -> Value {
        let mut conf = self.conf.clone();
        let keys = conf.as_object_mut().unwrap();
        for (key, value) in more.as_object().unwrap() {
            match value {
                Value::Null => keys.remove(key),
                value => keys.insert(key.clone(), value.clone()),
            };
        }
        conf
    }

    /// Makes a namespace for a container, with its loopback link down as runtimes leave it.
    pub(crate) fn sandbox(&self, container: &str) -> PathBuf {
        self.host.make_netns(container).unwrap()
    }

    /// Calls the plugin for a container whose namespace is called like it.
    pub(crate) fn call(&self, verb: &str, container: &str) -> Outcome {
        self.call_with(verb, container, &self.conf)
    }

    /// Calls the plugin for a container of the pod `namespace/name`.
    pub(crate) fn call_as(&self, verb: &str, container: &str, pod: &str) -> Outcome {
        let (namespace, name) = pod.split_once('/').unwrap();
        let args = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
        self.call_with_args(verb, container, &args, &self.conf)
    }

    /// Calls the plugin with arguments of the runtime's, `KEY=VALUE;KEY=VALUE`.
    pub(crate) fn call_with_args(&self, verb: &str, container: &str, args: &str, conf: &Value) -> Outcome {
        let mut variables = variables(verb, container, &format!("/run/netns/{container}"));
        variables.push(("CNI_ARGS".into(), args.into())); // the last one counts
        self.run(variables, conf)
    }

    /// Calls the plugin with this for `CNI_ARGS`.
    pub(crate) fn call_given(&self, verb: &str, container: &str, args: &str) -> Outcome {
        let mut variables = variables(verb, container, &format!("/run/netns/{container}"));
        variables.push(("CNI_ARGS".into(), args.into())); // the last one counts
        self.run(variables, &self.conf)
    }

    pub(crate) fn call_with(&self, verb: &str, container: &str, conf: &Value) -> Outcome {
        self.call_in(verb, container, &format!("/run/netns/{container}"), conf)
    }

    pub(crate) fn call_in(&self, verb: &str, container: &str, netns: &str, conf: &Value) -> Outcome {
        self.run(variables(verb, container, netns), conf)
    }

    /// What the plugin is told in a call for a container.
    pub(crate) fn environment(&self, verb: &str, container: &str) -> Environment {
        self.environment_of(variables(verb, container, &format!("/run/netns/{container}")))
    }

    fn environment_of(&self, mut variables: Vec<(OsString, OsString)>) -> Environment {
        variables.push(("CNI_PATH".into(), self.path.as_str().into()));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_631_723);
        Environment::from_vars(variables, now)
    }

    fn run(&self, variables: Vec<(OsString, OsString)>, conf: &Value) -> Outcome {
        let environment = self.environment_of(variables);
        let stdin = conf.to_string();
        self.host.run(|| cni_plugin::run(&environment, stdin.as_bytes())).unwrap()
    }

    /// Runs the real program, and returns what it printed.
    pub(crate) fn exec(&self, verb: &str, container: &str) -> Outcome {
        self.exec_as(&binaries::built().unwrap().fairway, verb, container, "eth0", &self.conf)
    }

    /// Runs some plugin for a link of that name.
    pub(crate) fn exec_as(
        &self,
        program: &Path,
        verb: &str,
        container: &str,
        ifname: &str,
        conf: &Value,
    ) -> Outcome {
        self.host
            .run(|| {
                let mut child = Command::new(program)
                    .env_clear()
                    .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin") // others run iptables
                    .envs(variables(verb, container, &format!("/run/netns/{container}")))
                    .env("CNI_IFNAME", ifname)
                    .env("CNI_PATH", &self.path)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap();
                child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
                let output = child.wait_with_output().unwrap();
                Outcome {
                    stdout: String::from_utf8(output.stdout).unwrap(),
                    stderr: String::from_utf8(output.stderr).unwrap(),
                    exit_code: u8::try_from(output.status.code().unwrap()).unwrap(),
                }
            })
            .unwrap()
    }

    /// Adds a container and returns the result.
    pub(crate) fn add(&self, container: &str) -> Value {
        self.sandbox(container);
        success(&self.call("ADD", container))
    }

    /// Asks the host's kernel.
    pub(crate) fn on_host<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce(Kernel) -> F + Send) -> T {
        self.host.run(|| ask(work)).unwrap()
    }

    /// Asks the kernel inside a container's namespace.
    pub(crate) fn in_pod<T: Send, F: Future<Output = T>>(
        &self,
        container: &str,
        work: impl FnOnce(Kernel) -> F + Send,
    ) -> T {
        self.inside(container, || ask(work))
    }

    /// Runs something inside a container's namespace.
    pub(crate) fn inside<T: Send>(&self, container: &str, work: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(container);
        self.host.run(|| Netns::open(path).unwrap().run(work).unwrap()).unwrap()
    }

    /// The files below a directory of the host.
    pub(crate) fn files(&self, dir: &str) -> Vec<String> {
        fn walk(dir: &Path, files: &mut Vec<String>) {
            for entry in dir.read_dir().into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() { walk(&path, files) } else { files.push(path.display().to_string()) }
            }
        }
        let mut files = Vec::new();
        self.host.run(|| walk(Path::new(dir), &mut files)).unwrap();
        files.sort();
        files
    }

    /// The addresses that are leased.
    pub(crate) fn leases(&self) -> Vec<String> {
        let files = self.files("/run/fairway/pods/leases");
        files.iter().map(|file| file.rsplit('/').next().unwrap().to_owned()).collect()
    }
}

fn ask<T, F: Future<Output = T>>(work: impl FnOnce(Kernel) -> F) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async { work(Kernel::open().unwrap()).await })
}

pub(crate) fn variables(verb: &str, container: &str, netns: &str) -> Vec<(OsString, OsString)> {
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container}");
    let all = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", container),
        ("CNI_NETNS", netns),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", args.as_str()),
    ];
    all.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// The result of a call that must succeed; `null` if it prints none.
pub(crate) fn success(outcome: &Outcome) -> Value {
    assert_eq!(outcome.exit_code, 0, "{}", outcome.stdout);
    if outcome.stdout.is_empty() { Value::Null } else { serde_json::from_str(&outcome.stdout).unwrap() }
}

/// The code and the message, with details, of a call that must fail.
pub(crate) fn failure(outcome: &Outcome) -> (u64, String) {
    assert_ne!(outcome.exit_code, 0, "{}", outcome.stdout);
    let error: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let details = error["details"].as_str().map(|details| format!(": {details}")).unwrap_or_default();
    (error["code"].as_u64().unwrap(), format!("{}{details}", error["msg"].as_str().unwrap()))
}

/// The addresses of a result, without their prefixes.
pub(crate) fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap().iter();
    ips.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned()).collect()
}

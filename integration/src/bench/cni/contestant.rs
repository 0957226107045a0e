//! A node whose pods one plugin wires, called as a container runtime calls it.
//!
//! In: a network configuration and where its plugins are. Out: what ADD and DEL took, each from the start of the process to the
//! end of its answer. Every node is a host of its own, so that no plugin meets another's links.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Barrier,
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Map, Value, json};

use crate::{
    bench::figures::{Samples, Spent, measure, measure_children, median, rounded},
    host::Host,
    runtime::{Attachment, BIN_DIR, complaint, run},
};

/// A node with its plugin.
#[derive(Debug)]
pub(super) struct Contestant {
    pub(super) host: Host,
    plugin: PathBuf,
    configuration: Map<String, Value>,
    /// How many pods there ever were.
    pods: u32,
    prepared: Vec<Attachment>,
    wired: Vec<(Attachment, Value)>,
    samples: Timed,
}

/// What was measured so far.
#[derive(Debug, Default)]
struct Timed {
    adds: Samples,
    add_cpus: Samples,
    dels: Samples,
    adds_per_s: Vec<f64>,
}

/// What came out.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Took {
    pub(super) add_median_us: f64,
    pub(super) add_p99_us: f64,
    pub(super) add_cpu_us: f64,
    pub(super) del_median_us: f64,
    pub(super) del_p99_us: f64,
    pub(super) parallel_adds_per_s: f64,
}

impl Took {
    /// By key.
    pub(super) fn entries(&self) -> [(&'static str, f64); 6] {
        [
            ("add_median_us", self.add_median_us),
            ("add_p99_us", self.add_p99_us),
            ("add_cpu_us", self.add_cpu_us),
            ("del_median_us", self.del_median_us),
            ("del_p99_us", self.del_p99_us),
            ("parallel_adds_per_s", self.parallel_adds_per_s),
        ]
    }
}

/// Puts a link to a plugin where runtimes look for plugins.
pub(super) fn install(name: &str, plugin: &Path) -> Result<()> {
    symlink(plugin, Path::new(BIN_DIR).join(name)).with_context(|| format!("link to {}", plugin.display()))
}

impl Contestant {
    /// Makes a node, and has one pod come and go: it makes what all others share. The configuration names one of the
    /// plugins that are installed, which may call others.
    pub(super) fn new(name: &str, mut configuration: Value) -> Result<Self> {
        let plugin = configuration.get("type").and_then(Value::as_str).unwrap_or_default();
        let plugin = Path::new(BIN_DIR).join(plugin);
        let mut configuration = std::mem::take(configuration.as_object_mut().context("no configuration")?);
        configuration.insert("name".to_owned(), json!(name));
        let mut node = Self {
            host: Host::make(name)?,
            plugin,
            configuration,
            pods: 0,
            prepared: Vec::new(),
            wired: Vec::new(),
            samples: Timed::default(),
        };
        node.prepare(1)?;
        node.add()?;
        node.del()?;
        node.samples = Timed::default();
        Ok(node)
    }

    /// Makes the namespaces of so many more pods, which is the runtime's part and not measured.
    pub(super) fn prepare(&mut self, pods: u32) -> Result<()> {
        for _ in 0..pods {
            let container_id = format!("pod-{}", self.pods);
            let netns = self.host.make_netns(&container_id)?;
            let (namespace, name) = ("default".to_owned(), container_id.clone());
            self.prepared.push(Attachment { container_id, netns, namespace, name });
            self.pods += 1;
        }
        Ok(())
    }

    /// Wires a pod that is prepared.
    pub(super) fn add(&mut self) -> Result<()> {
        let pod = self.prepared.pop().context("no pod is prepared")?;
        let (result, spent) = self.host.run(|| self.call("ADD", &pod, None))?;
        self.wired.push((pod, result?));
        self.samples.adds.add(spent.wall);
        self.samples.add_cpus.add(spent.cpu);
        Ok(())
    }

    /// Takes the pod away that was wired last.
    pub(super) fn del(&mut self) -> Result<()> {
        let (pod, result) = self.wired.pop().context("no pod is wired")?;
        let (said, spent) = self.host.run(|| self.call("DEL", &pod, Some(&result)))?;
        said?;
        self.samples.dels.add(spent.wall);
        Ok(())
    }

    /// Wires all pods that are prepared at the same time.
    pub(super) fn add_at_once(&mut self) -> Result<()> {
        let pods = std::mem::take(&mut self.prepared);
        let (results, spent) = self.host.run(|| self.call_at_once(&pods))?;
        let count = u32::try_from(pods.len())?;
        self.samples.adds_per_s.push(f64::from(count) / spent.wall.as_secs_f64());
        for (pod, result) in pods.into_iter().zip(results) {
            self.wired.push((pod, result?));
        }
        Ok(())
    }

    /// Leases so many addresses to pods that are then forgotten, `parallel` of them at the same time.
    pub(super) fn fill(&mut self, leases: u32, parallel: u32) -> Result<()> {
        let mut left = leases;
        while left > 0 {
            let now = left.min(parallel);
            self.prepare(now)?;
            self.add_at_once()?;
            for (pod, _) in self.wired.drain(..) {
                self.host.remove_netns(&pod.container_id)?;
            }
            left -= now;
        }
        Ok(())
    }

    /// The namespaces of the pods that are wired, in the order in which they were.
    pub(super) fn wired(&self) -> impl Iterator<Item = &Path> {
        self.wired.iter().map(|(pod, _)| pod.netns.as_path())
    }

    /// What was measured.
    pub(super) fn took(mut self) -> Took {
        let of = &mut self.samples;
        Took {
            add_median_us: of.adds.percentile_us(50),
            add_p99_us: of.adds.percentile_us(99),
            add_cpu_us: of.add_cpus.percentile_us(50),
            del_median_us: of.dels.percentile_us(50),
            del_p99_us: of.dels.percentile_us(99),
            parallel_adds_per_s: rounded(median(std::mem::take(&mut of.adds_per_s)), 10.0),
        }
    }

    fn call_at_once(&self, pods: &[Attachment]) -> (Vec<Result<Value>>, Spent) {
        let start = Barrier::new(pods.len() + 1);
        thread::scope(|scope| {
            let calls: Vec<_> = pods
                .iter()
                .map(|pod| {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        self.call("ADD", pod, None).0
                    })
                })
                .collect();
            start.wait();
            measure(|| {
                let ended = calls.into_iter().map(thread::ScopedJoinHandle::join);
                ended.map(|call| call.unwrap_or_else(|_| Err(anyhow!("a call panicked")))).collect()
            })
        })
    }

    /// Calls the plugin in the calling thread's namespaces, and says what it took. DEL has no result.
    fn call(&self, verb: &str, pod: &Attachment, previous: Option<&Value>) -> (Result<Value>, Spent) {
        let mut configuration = self.configuration.clone();
        configuration.extend(previous.map(|result| ("prevResult".to_owned(), result.clone())));
        let configuration = Value::from(configuration);
        let (output, spent) = measure_children(|| run(&self.plugin, verb, pod, &configuration));
        let said = output.with_context(|| format!("start {}", self.plugin.display())).and_then(|output| {
            if !output.status.success() {
                bail!("{} {verb}: {}", self.plugin.display(), complaint(&output));
            }
            if output.stdout.is_empty() {
                Ok(Value::Null)
            } else {
                Ok(serde_json::from_slice(&output.stdout)?)
            }
        });
        (said, spent)
    }
}

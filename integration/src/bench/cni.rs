//! `bench cni`: what it takes to wire a pod and to take it away again, by the real plugin and by others.
//!
//! Ours routed and over a bridge; bridge and ptp of the reference plugins with host-local, where they are installed; and the
//! floor: the same objects in the kernel, made by one process that has its sockets open. Each has a node of its own, and they take
//! turns pod by pod, since other things happen on the machine. Pods have one address, of IPv4. Their namespaces are made before and
//! go with the sandbox, so that no measure pays for them.

mod contestant;
mod figures;
mod floor;
mod objects;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use self::{
    contestant::{Contestant, install},
    figures::{CniFigures, WithLeases},
    floor::Floor,
    objects::Objects,
};

/// How much is measured.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(super) struct Extent {
    /// How many pods come and go, one after the other
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pods: u32,
    /// How many pods come at the same time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=256))]
    parallel: u32,
    /// How many leases are many; a hundredth of them are few
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(100..=10_000))]
    leases: u32,
    /// A build of the plugin; otherwise that of this source tree as users install it, small and static
    #[arg(long, value_name = "FILE")]
    pub(super) plugin: Option<PathBuf>,
}

/// How often all come at the same time.
const ROUNDS: u32 = 5;

/// No measure is begun after this.
const LONGEST: Duration = Duration::from_mins(10);

/// Where the reference plugins are: in Debian, in Fedora.
const PEERS: [&str; 2] = ["/usr/lib/cni", "/usr/libexec/cni"];

const MISSING: &str = "the reference plugins are not installed: apt-get install containernetworking-plugins";

/// Where pods have their addresses from, on every node.
const SUBNET: &str = "10.1.0.0/16";

/// Measures the plugin that was `built`, unless the extent names another.
pub(super) fn measure(extent: &Extent, built: &Path) -> Result<CniFigures> {
    let plugin = extent.plugin.as_deref().unwrap_or(built);
    let plugin = fs::canonicalize(plugin).with_context(|| format!("find {}", plugin.display()))?;
    let binary_bytes = fs::metadata(&plugin).context("look at the plugin's file")?.len();
    let limit = Limit::new();
    install("fairway", &plugin)?;
    let mut nodes = vec![routed("routed")?, bridged()?];
    let peer_skipped = peers().map(|peers| nodes.extend(peers)).err().map(|why| format!("{why:#}"));
    let mut floor = Floor::new("floor")?;

    nodes.iter_mut().try_for_each(|node| node.prepare(extent.pods))?;
    floor.prepare(extent.pods)?;
    for turn in 0..extent.pods {
        limit.check()?;
        nodes.iter_mut().try_for_each(Contestant::add)?;
        floor.add()?;
        // Later on, the kernel forgets neighbours that nobody has talked to for a minute.
        if let (0, Some(ours)) = (turn, nodes.first()) {
            let made = Objects::of(&ours.host, ours.wired())?;
            let floors = Objects::of(&floor.host, floor.wired())?;
            ensure!(
                made == floors,
                "the plugin makes {made:?}, the floor {floors:?}: they cannot be compared"
            );
        }
    }
    for _ in 0..extent.pods {
        limit.check()?;
        nodes.iter_mut().try_for_each(Contestant::del)?;
        floor.del()?;
    }
    for _ in 0..ROUNDS {
        for node in &mut nodes {
            limit.check()?;
            node.prepare(extent.parallel)?;
            node.add_at_once()?;
        }
    }

    let with_leases = with_leases(extent, &limit)?;
    let mut took = nodes.into_iter().map(Contestant::took);
    let (routed, bridged) = took.next().zip(took.next()).context("nothing was measured")?;
    Ok(CniFigures {
        pods: extent.pods,
        parallel: extent.parallel,
        binary_bytes,
        routed,
        bridged,
        peers: took.next().zip(took.next()),
        peer_skipped,
        floor: floor.medians_us(),
        with_leases,
    })
}

/// Measures ADD in turn with few leases and with many.
fn with_leases(extent: &Extent, limit: &Limit) -> Result<WithLeases> {
    let (few, many) = (extent.leases / 100, extent.leases);
    let (mut with_few, mut with_many) = (routed("few")?, routed("many")?);
    for (node, leases) in [(&mut with_few, few), (&mut with_many, many)] {
        limit.check()?;
        node.fill(leases, extent.parallel)?;
        node.prepare(extent.pods)?;
    }
    for _ in 0..extent.pods {
        limit.check()?;
        for node in [&mut with_few, &mut with_many] {
            node.add()?;
            node.del()?; // the next one finds as many
        }
    }
    let [few_add_median_us, many_add_median_us] = [with_few, with_many].map(|node| node.took().add_median_us);
    Ok(WithLeases { few, few_add_median_us, many, many_add_median_us })
}

fn routed(name: &str) -> Result<Contestant> {
    let configuration = json!({ "cniVersion": "1.1.0", "type": "fairway", "ipam": { "subnet": SUBNET } });
    Contestant::new(name, configuration)
}

fn bridged() -> Result<Contestant> {
    let configuration = json!({
        "cniVersion": "1.1.0",
        "type": "fairway",
        "mode": "bridge",
        "isDefaultGateway": true,
        "ipam": { "subnet": SUBNET },
    });
    Contestant::new("bridged", configuration)
}

/// The nodes of the reference plugins bridge and ptp, with host-local.
fn peers() -> Result<[Contestant; 2]> {
    let plugins = ["host-local", "bridge", "ptp"];
    let are_all_in = |place: &&Path| plugins.iter().all(|plugin| place.join(plugin).is_file());
    let place = PEERS.iter().map(Path::new).find(are_all_in).context(MISSING)?;
    for plugin in plugins {
        install(plugin, &place.join(plugin))?;
    }
    let node = |kind: &str| {
        let configuration = json!({
            "cniVersion": "1.0.0",
            "type": kind,
            "isDefaultGateway": true, // as ptp is anyhow
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/lab/host-local", // in memory, as our leases are
                "ranges": [[{ "subnet": SUBNET }]],
                "routes": if kind == "ptp" { json!([{ "dst": "0.0.0.0/0" }]) } else { Value::Null },
            },
        });
        Contestant::new(&format!("peer-{kind}"), configuration)
    };
    Ok([node("bridge")?, node("ptp")?])
}

/// How long it may take in all.
#[derive(Debug)]
struct Limit(Instant);

impl Limit {
    #[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
    fn new() -> Self {
        Self(Instant::now())
    }

    fn check(&self) -> Result<()> {
        let minutes = LONGEST.as_secs() / 60;
        ensure!(self.0.elapsed() < LONGEST, "it takes longer than {minutes} minutes: ask for fewer pods");
        Ok(())
    }
}

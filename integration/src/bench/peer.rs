//! The same services in the layout that kube-proxy's nftables mode began with, loaded by `nft`, where that is installed.
//!
//! A verdict map leads from an address to a chain for each service, whose anonymous verdict map leads to a chain for each
//! endpoint. The kernel's work grows with the square of their number, so nothing is started that would take too long.

use std::{
    fmt::{self, Write as _},
    fs,
    io::Read as _,
    net::Ipv4Addr,
    path::Path,
    process::Stdio,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::{
    figures::{Spent, measure_children, median, millis, rounded},
    workload::{Backends, ENDPOINT_PORT, SERVICE_PORT, Size, service_name},
};
use crate::{
    host::Host,
    process::{Process, program},
};

/// What would take longer is not started.
const LONGEST_EXPECTED: Duration = Duration::from_mins(1);

/// What takes longer is ended.
const LONGEST: Duration = Duration::from_secs(90);

/// Chains of the load that is tried first, to know how long the whole takes.
const TRIAL_CHAINS: u32 = 3_000;

/// How often an endpoint is replaced.
const REPLACEMENTS: u32 = 5;

/// What is measured of the peer; nothing where it was left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[expect(clippy::struct_field_names, reason = "the keys that are printed")]
pub(super) struct PeerFigures {
    pub(super) peer_full_sync_cpu_ms: Option<f64>,
    pub(super) peer_full_sync_wall_ms: Option<f64>,
    pub(super) peer_replace_ms: Option<f64>,
    /// Why it was left out.
    peer_skipped: Option<String>,
}

/// Loads the services, and replaces a few endpoints.
pub(super) fn measure(size: Size) -> Result<PeerFigures> {
    let skipped = |why: String| Ok(PeerFigures { peer_skipped: Some(why), ..PeerFigures::default() });
    if program("nft").arg("--version").output().is_err() {
        return skipped("nft is not installed".to_owned());
    }
    let trial = Size { services: size.services.min(TRIAL_CHAINS / (size.endpoints + 1)).max(1), ..size };
    if trial != size {
        let took = match load(&Host::make("trial")?, trial) {
            Ok(Some(took)) => took,
            Ok(None) => return skipped(format!("{trial} take longer than {} s", LONGEST.as_secs())),
            Err(refused) => return skipped(format!("{refused:#}")),
        };
        let times = size.services.div_ceil(trial.services);
        let expected = took.cpu * times.saturating_mul(times);
        if expected > LONGEST_EXPECTED {
            return skipped(format!("it would take some {} s", expected.as_secs()));
        }
    }

    let host = Host::make("peer")?;
    let full_sync = match load(&host, size) {
        Ok(Some(took)) => took,
        Ok(None) => return skipped(format!("it takes longer than {} s", LONGEST.as_secs())),
        Err(refused) => return skipped(format!("{refused:#}")), // such as too large a transaction for anybody but root
    };
    let mut replacements = Vec::new();
    for turn in 0..REPLACEMENTS {
        let number = (turn + 1) * size.services / (REPLACEMENTS + 1);
        let text = replacement(size, number);
        let (ended, spent) = host.run(|| measure_children(|| nft(&text)))?;
        if ended?.is_none() {
            bail!("a replaced endpoint takes longer than {} s", LONGEST.as_secs());
        }
        replacements.push(spent.wall.as_secs_f64() * 1e3);
    }
    Ok(PeerFigures {
        peer_full_sync_cpu_ms: Some(millis(full_sync.cpu)),
        peer_full_sync_wall_ms: Some(millis(full_sync.wall)),
        peer_replace_ms: Some(rounded(median(replacements), 100.0)),
        peer_skipped: None,
    })
}

/// Loads everything. Returns nothing if it took too long.
fn load(host: &Host, size: Size) -> Result<Option<Spent>> {
    let text = ruleset(size);
    let (ended, spent) = host.run(|| measure_children(|| nft(&text)))?;
    Ok(ended?.map(|()| spent))
}

/// Runs `nft` on a text, in the calling thread's network namespace. Returns nothing if it took too long.
#[expect(clippy::disallowed_methods, reason = "plays kube-proxy")]
fn nft(text: &str) -> Result<Option<()>> {
    let (file, complaint) = (Path::new("/run/lab/rules.nft"), Path::new("/run/lab/nft.log"));
    fs::write(file, text).context("write rules for nft")?;
    let log = fs::File::create(complaint).context("make a file for what nft says")?;
    let mut command = program("nft");
    command.arg("-f").arg(file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut nft = Process::start(&mut command).context("start nft")?;
    let mut stdout = nft.child().stdout.take().context("read what nft says")?;
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || {
        let _ = stdout.read_to_end(&mut Vec::new()); // it says nothing: this returns when it ends
        sender.send(())
    });
    if ended.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
        return Ok(None); // and dropped, so killed
    }
    let status = nft.child().wait().context("wait for nft")?;
    if !status.success() {
        let said = fs::read_to_string(complaint).unwrap_or_default();
        bail!("nft ended with {status}: {}", said.lines().next().unwrap_or_default());
    }
    Ok(Some(()))
}

/// The table with all services.
fn ruleset(size: Size) -> String {
    let mut chains = String::new();
    let mut elements = String::new();
    for number in 0..size.services {
        let backends = Backends { count: size.endpoints, is_replaced: false };
        let endpoints: Vec<_> = size.endpoint_ips(number, backends).collect();
        for endpoint in &endpoints {
            let _ = write!(
                chains,
                "chain {} {{\n{} }}\n",
                endpoint_chain(number, *endpoint),
                endpoint_rules(*endpoint)
            );
        }
        let _ =
            write!(chains, "chain {} {{\n{} }}\n", service_chain(number), service_rules(number, &endpoints));
        let address = Size::service_ip(number);
        let _ = writeln!(elements, "{address} . tcp . {SERVICE_PORT} : goto {},", service_chain(number));
    }
    format!(
        "table ip kube-proxy {{
{chains}
chain mark-for-masquerade {{ meta mark set meta mark | 0x4000
}}
map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict
elements = {{ {elements} }}
}}
chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips
}}
chain nat-prerouting {{ type nat hook prerouting priority dstnat
jump services
}}
chain nat-output {{ type nat hook output priority -100
jump services
}}
chain nat-postrouting {{ type nat hook postrouting priority srcnat
meta mark & 0x4000 != 0 masquerade
}}
}}
"
    )
}

/// What is written when the first endpoint of a service is replaced.
fn replacement(size: Size, number: u32) -> String {
    let backends = |is_replaced| Backends { count: size.endpoints, is_replaced };
    let old = size.endpoint_ips(number, backends(false)).next();
    let endpoints: Vec<_> = size.endpoint_ips(number, backends(true)).collect();
    let (Some(old), Some(new)) = (old, endpoints.first()) else { return String::new() };
    let mut text = String::new();
    let mut chain = |name: &str, rules: &str| {
        let _ = writeln!(text, "add chain ip kube-proxy {name}\nflush chain ip kube-proxy {name}");
        for rule in rules.lines() {
            let _ = writeln!(text, "add rule ip kube-proxy {name} {rule}");
        }
    };
    chain(&endpoint_chain(number, *new), &endpoint_rules(*new));
    chain(&service_chain(number), &service_rules(number, &endpoints));
    let old = endpoint_chain(number, old);
    let _ = writeln!(text, "flush chain ip kube-proxy {old}\ndelete chain ip kube-proxy {old}");
    text
}

fn service_chain(number: u32) -> String {
    let name = service_name(number);
    format!("service-{number:08X}-{}/{}/tcp/http", name.namespace, name.name)
}

fn endpoint_chain(number: u32, endpoint: Ipv4Addr) -> String {
    let name = service_name(number);
    format!("endpoint-{number:08X}-{}/{}/tcp/http__{endpoint}/{ENDPOINT_PORT}", name.namespace, name.name)
}

fn service_rules(number: u32, endpoints: &[Ipv4Addr]) -> String {
    let address = Size::service_ip(number);
    let turns = endpoints.iter().enumerate();
    let turns = turns.map(|(turn, endpoint)| format!("{turn} : goto {}", endpoint_chain(number, *endpoint)));
    format!(
        "ip daddr {address} tcp dport {SERVICE_PORT} ip saddr != 10.128.0.0/9 jump mark-for-masquerade
numgen random mod {} vmap {{ {} }}
",
        endpoints.len(),
        turns.collect::<Vec<_>>().join(", ")
    )
}

fn endpoint_rules(endpoint: Ipv4Addr) -> String {
    format!(
        "ip saddr {endpoint} jump mark-for-masquerade\nmeta l4proto tcp dnat to {endpoint}:{ENDPOINT_PORT}\n"
    )
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} services × {} endpoints", self.services, self.endpoints)
    }
}

impl fmt::Display for PeerFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kube-proxy's layout through nft:")?;
        if let Some(why) = &self.peer_skipped {
            return write!(f, " left out, {why}");
        }
        if let (Some(cpu), Some(wall)) = (self.peer_full_sync_cpu_ms, self.peer_full_sync_wall_ms) {
            write!(f, "\n  {:<28}{cpu:>10} ms CPU {wall:>10} ms", "full sync")?;
        }
        if let Some(replace) = self.peer_replace_ms {
            write!(f, "\n  {:<28}{replace:>10} ms", "endpoint replaced")?;
        }
        Ok(())
    }
}

//! `fairway-proxy`: parse → build → run → drain.

use std::{
    env,
    error::Error,
    fs,
    io::IsTerminal,
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use dataplane::{
    claims,
    conntrack::{self, Conntrack as _, Filter},
    disk::{Directory, Durability},
    nft::{self, LinkName},
    packet::{Family, Protocol},
    process, rtnl, sysctl,
};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Pid,
};
use proxy::{
    config::{self, Config, DetectLocalMode, RouteMode, changed::Watched},
    conflist::{self, Files},
    connections::Connections,
    health::{Health, RoutingReport, ports::Ports},
    kept::{
        Owner,
        keeper::{Keeper, keep_in},
        store::{self, Store},
    },
    localhost::{Localhost, route_localnet::RouteLocalnet},
    metrics::Metrics,
    plan::{self, LocalPods, Settings},
    predecessor, sole,
    sync::{
        Sync,
        flows::{Backlog, Flows},
        followers::Followers,
        nodes::{self, NodeRoutes},
        repair::{Repair, host_ports::HostPorts},
        services::Nftables,
        sysctls,
    },
    watch::{Event, kubernetes::Kubernetes, manifests::Manifests},
    web::Web,
};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use tracing_subscriber::{Layer, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt};

/// How long the daemon waits for its disk when it ends.
const LAST_SAVE: Duration = Duration::from_secs(5);

/// Events on their way from a watch to the sync. Beyond that, the watch waits.
const EVENTS: usize = 1024;

fn main() -> ExitCode {
    let mut file = None;
    let read = |path: &Path| fs::read_to_string(path).inspect(|text| file = Some(text.clone()));
    let (config, notices) = match Config::of(env::args_os(), read) {
        Ok(read) => read,
        Err(config::Error::CommandLine(error)) => error.exit(),
        Err(error) => {
            eprintln!("fairway-proxy: {:#}", anyhow::Error::from(error));
            return ExitCode::FAILURE;
        }
    };
    log_to_stderr(&config);
    for config::Notice { subject, reason } in notices {
        warn!(subject, reason, "configuration");
    }
    allow_open_files();
    if let Err(error) = process::set_oom_score_adj(config.oom_score_adj) {
        debug!(%error, score = config.oom_score_adj, "the kernel does not let us set how willingly it ends this process");
    }
    let done = runtime::Builder::new_multi_thread()
        .worker_threads(2) // the watch and the sync
        .enable_all()
        .build()
        .context("start the runtime")
        .and_then(|runtime| {
            let done = runtime.block_on(do_what_is_asked(&config, file));
            runtime.shutdown_background(); // a long file or a long list of flows that is being read holds up nobody
            done
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fairway-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `file` is what the configuration file says, where one is named.
async fn do_what_is_asked(config: &Config, file: Option<String>) -> anyhow::Result<()> {
    if let Some(path) = &config.write_config_to {
        write_config(config, path)
    } else if config.cleanup {
        clean_up(config).await
    } else if config.init_only {
        track(config).map(drop)
    } else {
        run(config, file).await
    }
}

/// Serves until a signal comes or something essential ends. Rules and routes stay.
async fn run(config: &Config, file: Option<String>) -> anyhow::Result<()> {
    let host_name = nix::unistd::gethostname().context("ask for the host's name")?;
    let node_name = config.node_name(&host_name.to_string_lossy());

    // First of all: as the first process of a container, we are ended by a signal only if we listen for it.
    let mut signals = Signals::listen()?;
    let families = families();
    let metrics = Arc::new(Metrics::new(&families));
    let file = config.config.as_ref().zip(file).map(|(path, text)| Watched::new(path, text));
    let file = file.transpose().context("watch the configuration file")?;
    let ready = async {
        let store = store(config, &node_name).await?;
        let source = Source::of(config, &node_name, &metrics, store.clone()).await?;
        anyhow::Ok((store, source, sole::wait(&config.run_dir).await?))
    };
    let (store, source, _sole) = tokio::select! {
        () = signals.heard() => return Ok(()),
        ready = ready => ready?,
    };
    let tracked = track(config)?;
    let socket = nft::Socket::open()?;
    let monitor = nft::Monitor::open(&socket)?;
    let repair = Repair::new(Some(monitor), nft::Socket::open()?, &families, config.audit_period)?;
    let touched = Arc::default();
    let repair = repair.telling_of_host_ports(Arc::clone(&touched)).with_metrics(metrics.repair.clone());
    let host_ports =
        HostPorts::new(&config.run_dir, claims::kernel::Tables::open()?, touched, config.audit_period)?
            .with_metrics(metrics.repair.clone());
    let backlog = Backlog::default();
    // Before the first commit takes away the rule that keeps strangers from 127.0.0.1.
    let guard_localhost = !config.localhost_node_ports && !is_route_localnet_put_back(config);
    let services = Nftables::new(socket, &families, &Settings { guard_localhost, ..settings(config) })
        .with_repair(repair)
        .with_pruning(nft::Socket::open()?)
        .with_flows(backlog.clone());
    let flows = Flows::new(backlog, tracked, rtnl::Kernel::open()?, config.conntrack.tcp_reset_vanished)
        .with_metrics(metrics.flows.clone());
    let nodes = routes(config)?.with_metrics(metrics.routing.clone());
    let routing = nodes.report();
    let mut sync = Sync::new(&node_name, services, nodes).with_metrics(metrics.sync.clone());
    let keeper: Option<Keeper>;
    (sync, keeper) = match store.map(keep_in) {
        Some((turns, keeper)) => (sync.keeping(turns), Some(keeper)),
        None => (sync, None),
    };
    let (health, node_ips) = (sync.followers().health(), sync.followers().node_ips());
    let kernel = rtnl::Kernel::open()?;
    let health_checks = Ports::new(health, &config.nodeport_addresses, &families, node_ips, kernel)
        .context("follow the node's addresses")?
        .telling_unopened(metrics.listeners.health_checks());
    let webs = webs(config, &sync.followers().health(), &metrics, &families, routing);
    let localhost = localhost(config, sync.followers());
    let localhost = localhost.map(|it| it.telling_unopened(metrics.listeners.localhost()));
    let (start, first_commit) = (predecessor::start(&config.run_dir)?, sync.followers().first_commit());
    let (sender, events) = mpsc::channel(EVENTS);
    info!(node = node_name, version = env!("CARGO_PKG_VERSION"), "started");

    let mut tasks = Tasks::default();
    tasks.spawn(|stop| source.run(sender, stop));
    tasks.spawn_unfailing(|stop| sync.run(events, stop));
    tasks.spawn_unfailing(|stop| health_checks.run(stop));
    for web in webs {
        tasks.spawn(|stop| async { Ok(web.run(stop).await?) });
    }
    if let Some(keeper) = keeper {
        tasks.spawn_unfailing(|stop| keep(keeper, stop));
    }
    if let Some(localhost) = localhost {
        tasks.spawn_unfailing(|stop| localhost.run(stop));
    }
    let run_dir = config.run_dir.clone();
    tasks.spawn_unfailing(|stop| predecessor::take_over(start, run_dir, first_commit, stop));
    if let Some(file) = file {
        tasks.spawn(|stop| await_change(file, stop));
    }
    tasks.spawn_unfailing(|stop| flows.run(stop));
    tasks.spawn_unfailing(|stop| host_ports.run(stop));
    tasks.spawn_unfailing(|stop| async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = signals.heard() => {}
        }
    });
    tasks.drain().await
}

/// Keeps what is known until the sync has ended, and a moment more: a disk that hangs must not hold up whoever comes after us.
async fn keep(keeper: Keeper, stop: CancellationToken) {
    tokio::select! {
        () = keeper.run() => {}
        () = async { stop.cancelled().await; sleep(LAST_SAVE).await } => {
            warn!(after_s = LAST_SAVE.as_secs(), "ended before what is known was kept: the disk is too slow");
        }
    }
}

/// What the daemon does, all at the same time.
#[derive(Default)]
struct Tasks {
    running: JoinSet<anyhow::Result<()>>,
    cancelled: CancellationToken,
}

impl Tasks {
    /// Starts a task that ends when it is told to.
    fn spawn<F>(&mut self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.running.spawn(task(self.cancelled.clone()));
    }

    /// The same, with one that has nothing to complain of.
    fn spawn_unfailing<F>(&mut self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = task(self.cancelled.clone());
        self.running.spawn(async {
            task.await;
            Ok(())
        });
    }

    /// Whichever ends first, for whatever reason, ends the others. The first error is the reason to tell.
    async fn drain(mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        while let Some(ended) = self.running.join_next().await {
            self.cancelled.cancel();
            let ended = ended.context("a task of the daemon").flatten();
            result = result.and(ended);
        }
        result
    }
}

/// The ways in which the system, or somebody, asks us to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
        })
    }

    /// Returns when we are asked to end.
    async fn heard(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => info!(signal = "SIGTERM", "stopped; rules and routes stay"),
            _ = self.interrupt.recv() => info!(signal = "SIGINT", "stopped; rules and routes stay"),
        }
    }
}

/// Ends with an error when the configuration file says something else, as kube-proxy does: whoever started the daemon starts it again.
async fn await_change(file: Watched, stop: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        changed = file.changed() => {
            changed.context("watch the configuration file")?;
            bail!("the configuration file has changed: start again to follow it; rules and routes stay")
        }
    }
}

/// Where services, endpoints and nodes come from.
enum Source {
    Kubernetes(Kubernetes),
    Manifests(Manifests),
}

impl Source {
    /// Begins to watch manifests, or looks whether the way to the API server makes sense.
    async fn of(
        config: &Config,
        node_name: &str,
        metrics: &Metrics,
        store: Option<Store>,
    ) -> anyhow::Result<Self> {
        if let Some(manifests) = &config.manifests {
            let manifests = Manifests::watch(manifests)?.with_metrics(metrics.source.clone());
            return Ok(Self::Manifests(manifests));
        }
        let access = config.access();
        access.check().await?;
        let all = Kubernetes::new(access).with_metrics(metrics.source.clone());
        let all = match store {
            Some(store) => all.remembering(store),
            None => all,
        };
        Ok(Self::Kubernetes(match config.routes {
            RouteMode::None => all.with_own_node_only(node_name),
            RouteMode::Auto | RouteMode::Vxlan | RouteMode::Direct => all,
        }))
    }

    async fn run(self, events: mpsc::Sender<Event>, cancelled: CancellationToken) -> anyhow::Result<()> {
        match self {
            Self::Kubernetes(kubernetes) => kubernetes.run(events, cancelled).await,
            Self::Manifests(manifests) => manifests.run(events, cancelled).await?,
        }
        Ok(())
    }
}

/// Where the last known state is kept. Manifests are on disk themselves.
async fn store(config: &Config, node_name: &str) -> anyhow::Result<Option<Store>> {
    if config.manifests.is_some() || config.state_dir.is_empty() {
        return Ok(None);
    }
    let owner = Owner { node: node_name.to_owned(), server: config.access().server().await? };
    Ok(Some(Store::new(&config.state_dir, owner)))
}

/// Sets how the kernel tracks connections.
fn track(config: &Config) -> anyhow::Result<conntrack::Socket> {
    let mut socket = conntrack::Socket::open()?;
    if sysctl::read("net/netfilter/nf_conntrack_max").is_err() {
        // A module that nobody has needed yet: whoever asks for something loads it. If that fails, so will what follows, and says why.
        let _ = socket.flows(&Filter::all(Family::Ip, Protocol::Sctp), &mut |_| false);
    }
    // Those that we may run on, as kube-proxy counts them, whatever share of their time is ours.
    let ours = sched_getaffinity(Pid::from_raw(0)).context("ask for the processors")?;
    let processors = (0..CpuSet::count()).filter(|cpu| ours.is_set(*cpu).unwrap_or(false)).count();
    sysctls::set(&plan::sysctls::plan(&config.conntrack, processors.try_into()?));
    Ok(socket)
}

/// What the daemon says of itself, where it is to.
fn webs(
    config: &Config,
    health: &Arc<Health>,
    metrics: &Arc<Metrics>,
    families: &[Family],
    routing: Arc<Mutex<RoutingReport>>,
) -> Vec<Web> {
    let shared = || (Arc::clone(health), Arc::clone(metrics));
    let (for_health, for_status) = (config.healthz_bind_address.0, config.metrics_bind_address.0);
    let for_health = for_health.map(|address| {
        let (health, metrics) = shared();
        Web::health(address, health, metrics)
    });
    let for_status = for_status.map(|address| {
        let (health, metrics) = shared();
        Web::status(address, health, metrics, Connections::new(families, &settings(config)), routing)
    });
    for_health.into_iter().chain(for_status).map(|web| web.or_fail(config.bind_address_hard_fail)).collect()
}

/// What serves node ports on localhost, if that is wanted.
fn localhost(config: &Config, followers: &mut Followers) -> Option<Localhost> {
    config.localhost_node_ports.then(|| {
        let route_localnet = RouteLocalnet::new(&config.run_dir);
        Localhost::new(route_localnet, followers.first_commit(), followers.node_ports())
    })
}

/// Puts `route_localnet` back where an earlier run has set it, and says whether nothing of that is left.
fn is_route_localnet_put_back(config: &Config) -> bool {
    let put_back = RouteLocalnet::new(&config.run_dir).put_back();
    if let Err(error) = &put_back {
        let error: &(dyn Error + 'static) = error;
        warn!(
            error,
            "route_localnet stays as an earlier run had it, and so does the rule that guards 127.0.0.1"
        );
    }
    put_back.is_ok()
}

/// Writes what is in force as a configuration file.
fn write_config(config: &Config, path: &Path) -> anyhow::Result<()> {
    let (yaml, notices) = config::written::write(config)?;
    for config::Notice { subject, reason } in notices {
        warn!(subject, reason, "configuration");
    }
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("{} names no file", path.display()))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Directory::new(directory, Durability::Volatile).replace(name, yaml.as_bytes())?;
    info!(file = %path.display(), "wrote the configuration");
    Ok(())
}

/// Removes what the daemon made on this node, as much of it as it can: first what leads packets and pods to it.
async fn clean_up(config: &Config) -> anyhow::Result<()> {
    let Some(_sole) = sole::at_once(&config.run_dir)? else {
        bail!("a daemon runs on this node, and would make all of it again: stop it first");
    };
    let localhost = RouteLocalnet::new(&config.run_dir).put_back().context("put route_localnet back");
    let files = files(config)?.remove().context("remove the files for the CNI plugin");
    let tables = match &localhost {
        Ok(_) => remove_tables().context("remove the nftables tables"),
        Err(_) => Err(anyhow!("the nftables tables stay until then: they keep the network from 127.0.0.1")),
    };
    let routes = async { nodes::remove_routes(&rtnl::Kernel::open()?).await };
    let routes = routes.await.context("remove the routes to other nodes");
    // Nobody else of ours runs, so whoever answers there is kube-proxy, come back already.
    let is_back = config.metrics_bind_address.0.is_some_and(predecessor::answers_at);
    let predecessor = if is_back {
        warn!("kube-proxy runs here: its rules stay");
        Ok(())
    } else {
        predecessor::remove_and_tell().context("remove what kube-proxy left")
    };
    let predecessor = predecessor.and(predecessor::forget(&config.run_dir).context("forget the first start"));
    let state = if config.state_dir.is_empty() { Ok(()) } else { store::remove(&config.state_dir) };
    let state = state.context("remove what was kept for a start without the API server");
    let failed: Vec<String> = [localhost.map(drop), files, tables, routes.map(drop), state, predecessor]
        .into_iter()
        .filter_map(|step| step.err().map(|error| format!("{error:#}")))
        .collect();
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    info!("removed rules, routes and files");
    Ok(())
}

fn remove_tables() -> Result<(), nft::Error> {
    let mut transaction = nft::Transaction::default();
    for family in families() {
        transaction.delete(family);
    }
    nft::Socket::open()?.commit(&transaction)
}

/// The families that this machine has: IPv6 may be off.
fn families() -> Vec<Family> {
    let has_ipv6 = Path::new("/proc/net/if_inet6").exists();
    Family::ALL.into_iter().filter(|family| has_ipv6 || *family == Family::Ip).collect()
}

fn settings(config: &Config) -> Settings {
    let link = |name: Option<&String>| name.cloned().unwrap_or_default().into();
    let local_pods = match config.detect_local_mode {
        DetectLocalMode::ClusterCidr => LocalPods::ClusterCidr(config.cluster_cidr.0.clone()),
        DetectLocalMode::NodeCidr => LocalPods::NodeCidr,
        DetectLocalMode::BridgeInterface => {
            LocalPods::Link(LinkName::Exact(link(config.pod_bridge_interface.as_ref())))
        }
        DetectLocalMode::InterfaceNamePrefix => {
            LocalPods::Link(LinkName::Prefix(link(config.pod_interface_name_prefix.as_ref())))
        }
    };
    // Whoever else leads to pods knows what is outside.
    let leads_to_pods = config.routes != RouteMode::None;
    let excepted = || config.cluster_cidr.0.iter().chain(&config.non_masquerade_cidrs.0).copied().collect();
    Settings {
        local_pods,
        masquerade_all: config.masquerade_all,
        overlay_port: config.routes.has_tunnels().then_some(config.overlay.port),
        unmasqueraded_by_pods: leads_to_pods.then(excepted),
        node_port_addresses: config.nodeport_addresses.clone(),
        localhost_node_ports: config.localhost_node_ports,
        guard_localhost: false,
        external_ips: config.external_ips.clone(),
        ping_cluster_ips: config.ping_cluster_ips,
        drop_invalid: !config.conntrack.tcp_be_liberal,
        counters: config.counters,
    }
}

/// What leads packets to pods on other nodes.
fn routes(config: &Config) -> anyhow::Result<NodeRoutes> {
    let (mode, overlay, sweep_period) = (config.routes, config.overlay, config.audit_period);
    let wish = nodes::Wish { mode, overlay, sweep_period };
    Ok(NodeRoutes::new(rtnl::Kernel::open()?, Some(rtnl::Reports::open()?), wish, files(config)?))
}

fn files(config: &Config) -> anyhow::Result<Files> {
    let files = Files::new(&config.run_dir, &config.cni_conf_dir, config.install_cni);
    let Some(bin_dir) = &config.cni_bin_dir else { return Ok(files) };
    let plugin = match &config.cni_plugin {
        Some(plugin) => plugin.clone(),
        None => env::current_exe().context("find this program's file")?.with_file_name(conflist::PLUGIN),
    };
    Ok(files.with_plugin(plugin, bin_dir))
}

/// Allows as many open files as the system lets us have: each port that we listen on is one. What it starts with is for programs that
/// cannot count beyond 1024 (`select`).
fn allow_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard); // where it is refused, fewer will do or be missed, and said so
    }
}

fn log_to_stderr(config: &Config) {
    // What the way to the API server has to say, its user says, once: see `watch::kubernetes`.
    let level = config.log_level();
    let ours = filter_fn(move |of| *of.level() <= level && !of.target().starts_with("kube_client"));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_filter(ours);
    tracing_subscriber::registry().with(lines).init();
}

//! `bench routes`: from decoded nodes to ways to all their pods in the kernel, and to what tells them from the outside, by the daemon's
//! own parts for that.
//!
//! Half of the nodes are on the network of this one and are reached directly, the other half through a tunnel. All in a namespace that
//! leads nowhere: nothing is sent.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use dataplane::{
    nft::Socket,
    owner::ROUTE_PROTOCOL,
    rtnl::{Address, AddressFlags, Kernel, Mac, Reports, Route, Routes as _, VethEnd},
};
use ipnetwork::IpNetwork;
use proxy::{
    config::{ChecksumOffload, Overlay, RouteMode},
    conflist::Files,
    objects::{Kind, Object, ObjectName},
    plan::Settings,
    service_port::Family,
    state::State,
    sync::{
        Nodes as _, Services as _,
        nodes::{NodeRoutes, Wish},
        services::Nftables,
    },
    watch::Event,
};
use serde::Serialize;
use serde_json::json;
use tokio::runtime;

use super::figures::{Samples, measure as timed, memory_kb, millis};
use crate::host::Host;

/// How often each change is made.
const CHANGES: u32 = 500;

const UPLINK: &str = "eth0";
const OWN: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);

/// What `bench routes` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct RouteFigures {
    nodes: u32,
    objects: usize,
    start_ms: f64,
    start_cpu_ms: f64,
    restart_ms: f64,
    restart_cpu_ms: f64,
    join_p50_us: f64,
    join_p99_us: f64,
    move_p50_us: f64,
    move_p99_us: f64,
    leave_p50_us: f64,
    leave_p99_us: f64,
    mend_p50_us: f64,
    flap_ms: f64,
    rss_kb: u64,
}

/// The most that there are addresses for.
const MOST: u32 = 60_000;

/// A number of nodes that there are addresses for.
pub(super) fn nodes() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(2..=i64::from(MOST))
}

/// Measures with so many other nodes.
pub(super) fn measure(nodes: u32) -> Result<RouteFigures> {
    Host::make("m")?.run(|| {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let _inside = runtime.enter();
        let mut course = runtime.block_on(Course::begin())?;
        course.measure(&runtime, nodes)
    })?
}

/// The daemon's part, driven by hand.
struct Course {
    kernel: Kernel,
    uplink: u32,
    state: State,
    routes: NodeRoutes,
    services: Nftables,
}

impl Course {
    async fn begin() -> Result<Self> {
        let kernel = Kernel::open()?;
        let end = |name: &str, seed| VethEnd {
            name: name.to_owned(),
            mac: Mac::locally_administered(seed),
            mtu: 1500,
        };
        kernel.add_veth(&end(UPLINK, 1), &end("switch", 2), None).await?;
        for name in ["lo", UPLINK, "switch"] {
            kernel.set_up(kernel.link(name).await?.index, true).await?;
        }
        let uplink = kernel.link(UPLINK).await?.index;
        let (network, flags) = (IpNetwork::new(OWN.into(), 16)?, AddressFlags::default());
        kernel.add_address(&Address { link: uplink, network, flags }).await?;
        let mut state = State::new("m");
        state.apply(node("m", OWN, Ipv4Addr::new(10, 255, 255, 0))?);
        let routes = daemon(&kernel)?;
        let services = masquerade()?;
        Ok(Self { kernel, uplink, state, routes, services })
    }

    fn measure(&mut self, runtime: &runtime::Runtime, nodes: u32) -> Result<RouteFigures> {
        let events: Vec<Event> = (0..nodes).map(|number| nth(number, 0)).collect::<Result<_>>()?;
        for event in events {
            self.state.apply(event);
        }
        let (done, start) = timed(|| runtime.block_on(self.sync(&BTreeSet::new())));
        done?;
        let objects = self.routes.objects().len();
        (self.routes, self.services) = (daemon(&self.kernel)?, masquerade()?);
        let (done, restart) = timed(|| runtime.block_on(self.sync(&BTreeSet::new())));
        done?;
        let rss_kb = memory_kb(std::process::id(), "VmHWM")?;

        let mut join = self.each(runtime, |turn| nth(nodes + turn, 0))?;
        let mut moved = self.each(runtime, |turn| nth(nodes + turn, 1))?;
        let mut leave = self.each(runtime, |turn| {
            let name = ObjectName { namespace: "".into(), name: name_of(nodes + turn).into() };
            Ok(Event::gone(Kind::Node, name))
        })?;
        let mut mend = Samples::default();
        for turn in 0..CHANGES / 50 {
            mend.add(runtime.block_on(self.mend(turn))?);
        }
        let flap = runtime.block_on(self.flap())?;
        Ok(RouteFigures {
            nodes,
            objects,
            start_ms: millis(start.wall),
            start_cpu_ms: millis(start.cpu),
            restart_ms: millis(restart.wall),
            restart_cpu_ms: millis(restart.cpu),
            join_p50_us: join.percentile_us(50),
            join_p99_us: join.percentile_us(99),
            move_p50_us: moved.percentile_us(50),
            move_p99_us: moved.percentile_us(99),
            leave_p50_us: leave.percentile_us(50),
            leave_p99_us: leave.percentile_us(99),
            mend_p50_us: mend.percentile_us(50),
            flap_ms: millis(flap),
            rss_kb,
        })
    }

    /// As the daemon's loop does it, for nodes alone. No names: all of them are new.
    async fn sync(&mut self, names: &BTreeSet<Arc<str>>) -> Result<()> {
        self.services.surround(&self.state.surroundings());
        self.services.begin()?;
        if names.is_empty() {
            for node in self.state.nodes() {
                self.services.set_node(&node.name.name, Some(node));
            }
        }
        for name in names {
            self.services.set_node(name, self.state.node(name));
        }
        self.services.admit_nodes();
        let is_prepared = self.routes.prepare(&self.state, names).await;
        self.services.commit()?;
        ensure!(self.routes.finish().await && is_prepared, "not everything could be made");
        Ok(())
    }

    /// Takes events in, one by one, and says how long each took until it was in the kernel.
    fn each(&mut self, runtime: &runtime::Runtime, event: impl Fn(u32) -> Result<Event>) -> Result<Samples> {
        let mut samples = Samples::default();
        for turn in 0..CHANGES {
            let event = event(turn)?;
            let (done, spent) = timed(|| {
                let touched = self.state.apply(event);
                runtime.block_on(self.sync(&touched.node_names))
            });
            done?;
            samples.add(spent.wall);
        }
        Ok(samples)
    }

    /// Deletes a route by another's hand, and says how long it was before it was there again.
    async fn mend(&mut self, turn: u32) -> Result<Duration> {
        let routes = self.kernel.routes(ROUTE_PROTOCOL).await?;
        let route = routes.get(usize::try_from(turn)?).context("no such route")?;
        self.kernel.delete_route(route).await?;
        self.put_back(&BTreeSet::from([*route])).await
    }

    /// Takes the uplink away and gives it back, and says how long it was before all routes over it were there again.
    async fn flap(&mut self) -> Result<Duration> {
        let routes = self.kernel.routes(ROUTE_PROTOCOL).await?;
        self.kernel.set_up(self.uplink, false).await?;
        self.kernel.set_up(self.uplink, true).await?;
        self.put_back(&routes.into_iter().collect()).await
    }

    #[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
    async fn put_back(&mut self, routes: &BTreeSet<Route>) -> Result<Duration> {
        let began = std::time::Instant::now();
        self.routes.disturbed().await;
        self.sync(&BTreeSet::new()).await?;
        let took = began.elapsed();
        let there = self.kernel.routes(ROUTE_PROTOCOL).await?.into_iter().collect();
        ensure!(routes.is_subset(&there), "not all routes are back");
        Ok(took)
    }
}

fn daemon(kernel: &Kernel) -> Result<NodeRoutes> {
    let wish = Wish {
        mode: RouteMode::Auto,
        overlay: Overlay { vni: 1, port: 8472, checksum_offload: ChecksumOffload::Auto },
        sweep_period: Duration::ZERO,
    };
    let files = Files::new("/run/fairway", "/etc/cni/net.d", false);
    Ok(NodeRoutes::new(kernel.clone(), Some(Reports::open()?), wish, files))
}

/// What tells the cluster's nodes and pods from the outside.
fn masquerade() -> Result<Nftables> {
    let settings = Settings { unmasqueraded_by_pods: Some(Vec::new()), ..Settings::default() };
    Ok(Nftables::new(Socket::open()?, &[Family::Ip], &settings))
}

fn name_of(number: u32) -> String {
    format!("node{number}")
}

/// Every other one is on the network of this node. The second of its addresses is for when it moves.
fn nth(number: u32, place: u32) -> Result<Event> {
    let network = if number.is_multiple_of(2) { [172, 16, 0, 0] } else { [172, 20, 0, 0] };
    let near = Ipv4Addr::from_bits(Ipv4Addr::from(network).to_bits() | (number / 2 + 2 + place * 0x8000));
    let pods = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() | number << 8);
    node(&name_of(number), near, pods)
}

fn node(name: &str, address: Ipv4Addr, pods: Ipv4Addr) -> Result<Event> {
    let object = json!({
        "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": [format!("{pods}/24")]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    });
    Ok(Event::set(Object::parse(object)?.context("a node is of interest")?))
}

impl fmt::Display for RouteFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, objects, .. } = self;
        writeln!(f, "{nodes} other nodes, half of them behind tunnels: {objects} objects in the kernel\n")?;
        writeln!(f, "start                {:>10} ms   {} ms of CPU time", self.start_ms, self.start_cpu_ms)?;
        writeln!(
            f,
            "start, all there     {:>10} ms   {} ms of CPU time",
            self.restart_ms, self.restart_cpu_ms
        )?;
        for (what, p50, p99) in [
            ("a node comes", self.join_p50_us, self.join_p99_us),
            ("a node moves", self.move_p50_us, self.move_p99_us),
            ("a node goes", self.leave_p50_us, self.leave_p99_us),
        ] {
            writeln!(f, "{what:<20} {p50:>10} µs   99 of 100 within {p99} µs")?;
        }
        writeln!(f, "a deleted route      {:>10} µs   until it is back", self.mend_p50_us)?;
        writeln!(f, "a link down and up   {:>10} ms   until all routes are back", self.flap_ms)?;
        write!(f, "memory               {:>10} kB", self.rss_kb)
    }
}

//! The nodes' side of a sync, on a real kernel: the ways to the others' pods, and the files about our own node.
//!
//! In: the state, and what the kernel tells of links, addresses, routes and rules. Out: routes with our mark and a gateway (those without
//! one are the plugin's and are never touched), rules, our VXLAN devices with all on them, and files for the plugin. A node that changes costs
//! what that node needs. Everything is listed and compared at the start, when others have changed something of ours or the links that
//! it stands on, and now and then. Whatever cannot be done is said once, and again only after it had gone away.
//!
//! ```text
//! prepare   devices → who has a hardware address → who is behind it → routes → rules → files for the plugin
//! finish    rules → routes → who is behind … → who has … → devices that nothing goes through any more
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    future, mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use dataplane::rtnl::{self, Kernel, Report, Reports, Tunnels as _, Vxlan};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::{
    complaints::{Complaints, said},
    outlook::Outlook,
    patience::Patience,
    told::Told,
};
use super::Nodes;
use crate::{
    config::{Overlay, RouteMode},
    conflist::Files,
    health::{About, Complaint, RoutingReport},
    metrics::RoutingMetrics,
    plan::routes::{
        objects::{Object, Put},
        routing::Routing,
        tunnel,
    },
    service_port::Family,
    state::State,
};

mod commit;
mod complaints;
mod devices;
mod offload;
mod outlook;
mod patience;
mod surroundings;
mod told;
mod whole;

pub use commit::remove_routes;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Which kinds of way there may be.
    pub mode: RouteMode,
    /// How VXLAN is spoken.
    pub overlay: Overlay,
    /// How often everything is listed and compared without a reason; never where it is zero.
    pub sweep_period: Duration,
}

/// Routes and files of this node.
#[derive(Debug)]
pub struct NodeRoutes {
    kernel: Kernel,
    /// None: nobody tells of disturbances.
    reports: Option<Reports>,
    wish: Wish,
    told: Told,
    /// What the kernel was made to hold.
    routing: Option<Routing>,
    outlook: Outlook,
    /// Whether everything is to be listed and compared.
    is_whole_due: bool,
    /// Whether the kernel was not made to hold all of that yet, as it takes a look at everything.
    is_ahead: bool,
    /// When to list and compare everything at the latest, as a device or a file could not be made.
    retry_at: Option<Instant>,
    next_sweep: Option<Instant>,
    /// When somebody last interfered, when to answer him, and how many did.
    disturbed_at: Option<Instant>,
    mend_at: Option<Instant>,
    patience: Patience,
    /// What to remove once nothing is sent along it.
    obsolete: Vec<Object>,
    obsolete_devices: Vec<u32>,
    /// What the kernel did not take, though everything had just been listed: it is tried again by itself.
    refused: Vec<Put>,
    /// What the links take that lead to other nodes, as it was known last.
    link_mtu: Option<u32>,
    /// Our devices as they were last meant to be.
    vxlans: BTreeMap<Family, Vxlan>,
    /// Whether somebody has changed a kernel parameter that matters.
    are_parameters_due: bool,
    /// What everything that was listed is complained of: it stands until everything is listed again.
    standing: BTreeSet<Complaint>,
    /// What could not be done since.
    failed: BTreeSet<Complaint>,
    complaints: Complaints,
}

impl NodeRoutes {
    /// Begins with whatever an earlier run has left.
    pub fn new(kernel: Kernel, reports: Option<Reports>, wish: Wish, files: Files) -> Self {
        Self {
            kernel,
            reports,
            wish,
            told: Told::new(files),
            routing: None,
            outlook: Outlook::default(),
            is_whole_due: true,
            is_ahead: false,
            retry_at: None,
            next_sweep: None,
            disturbed_at: None,
            mend_at: None,
            patience: Patience::default(),
            obsolete: Vec::new(),
            obsolete_devices: Vec::new(),
            refused: Vec::new(),
            link_mtu: None,
            vxlans: BTreeMap::new(),
            are_parameters_due: false,
            standing: BTreeSet::new(),
            failed: BTreeSet::new(),
            complaints: Complaints::new(wish.mode),
        }
    }

    /// The same, counted there.
    #[must_use]
    pub fn with_metrics(mut self, metrics: RoutingMetrics) -> Self {
        self.complaints.metrics = metrics;
        self
    }

    /// How pods on other nodes are reached, now and whenever it is looked at later.
    pub fn report(&self) -> Arc<Mutex<RoutingReport>> {
        self.complaints.report()
    }

    /// What the kernel was made to hold, as far as it could.
    pub fn objects(&self) -> BTreeSet<Object> {
        self.routing.as_ref().map(Routing::objects).unwrap_or_default()
    }

    /// What is not as pods need it, in words.
    pub fn complaints(&self) -> BTreeSet<String> {
        self.complaints.words()
    }

    /// Follows these nodes alone. Nothing, if that will not do.
    async fn follow(&mut self, state: &State, names: &BTreeSet<Arc<str>>) -> Option<BTreeSet<Complaint>> {
        // Asked for no node, it is to try again what failed.
        let is_retry = self.retry_at.is_some_and(|at| names.is_empty() || at <= Instant::now());
        let is_possible = !self.is_whole_due && !is_retry && !names.contains(state.own_node());
        let routing = self.routing.as_mut().filter(|_| is_possible)?;
        if self.wish.mode == RouteMode::None {
            return Some(BTreeSet::new());
        }
        let shape = |routing: &Routing| (routing.families(), routing.inbound(), routing.link_mtu());
        let before = shape(routing);
        let steps = routing.follow(names.iter().map(|name| (&**name, state.node(name))));
        self.is_ahead = true;
        if before != shape(routing) {
            return None; // a device comes or goes, or the MTU of pods is another
        }
        let is_wanted = |put: &Put| routing.object(&put.object.key()) == Some(&put.object);
        if self.refused.iter().any(|put| put.is_rival_there && !is_wanted(put)) {
            return None; // something of ours is in its place, and only the kernel knows what
        }
        self.is_ahead = false;
        // What an earlier commit has left over may be wanted again.
        let left = self.obsolete.iter().map(Object::key).collect();
        let refused = self.refused.iter().filter(|put| !put.is_rival_there).map(|put| put.object.key());
        let steps = steps.knowing(&left, &refused.collect());
        self.obsolete.retain(|object| routing.object(&object.key()).is_none());
        self.obsolete.extend(steps.gone);
        let mut again = mem::take(&mut self.refused);
        again.retain(is_wanted);

        let mut complaints = self.put(steps.put).await;
        self.is_whole_due |= !self.refused.is_empty(); // the kernel may hold something else than it was made to
        complaints.extend(self.put(again).await);
        Some(complaints)
    }

    /// Puts all of these, and says what could not be.
    async fn put(&mut self, all: Vec<Put>) -> BTreeSet<Complaint> {
        let mut complaints = BTreeSet::new();
        let mut routes = 0;
        for put in all {
            match commit::put(&self.kernel, &put).await {
                Ok(()) => {
                    routes += usize::from(put.route().is_some());
                    debug!(?put, "put");
                }
                Err(error) => {
                    complaints.insert(About::Route.complaint(said(&error)));
                    self.refused.push(put);
                }
            }
        }
        if routes > 0 {
            info!(routes, "put routes");
        }
        complaints
    }

    /// Makes our devices take again what others have forbidden. What fails is tried, and told, when everything is listed.
    async fn keep_loose(&self) {
        for (family, index) in self.routing.iter().flat_map(Routing::devices) {
            let device = tunnel::name(*family);
            if let Ok(true) = commit::loosen(&self.kernel, device, *index).await {
                info!(device, "made a VXLAN device take packets whose answers leave by another link");
            }
        }
    }

    /// Looks at what kernel parameters say, once somebody has changed one.
    async fn look_at_parameters(&mut self) {
        self.keep_loose().await;
        self.are_parameters_due = false;
        let Some(routing) = &self.routing else { return };
        let now = surroundings::parameters(&routing.site().pod_cidrs, self.outlook.link_names());
        self.standing.retain(|complaint| !surroundings::is_of_parameters(complaint));
        self.standing.extend(now);
        self.say();
    }

    /// Says what is wrong, as far as it is new, and how it stands.
    fn say(&mut self) {
        let all = [&self.standing, &self.failed, self.told.complaints()];
        self.complaints.say(all.into_iter().flatten().cloned().collect());
        if let Some(routing) = &mut self.routing {
            self.complaints.say_ways(routing);
        }
    }

    /// What the kernel has told so far.
    async fn reports_so_far(&mut self) -> Vec<Report> {
        let Some(reports) = &mut self.reports else { return Vec::new() };
        reports.so_far().await.unwrap_or_else(|error| {
            self.stop_listening(&error);
            Vec::new()
        })
    }

    fn stop_listening(&mut self, error: &dyn Error) {
        warn!(%error, "the kernel tells no more of routes; they are compared now and then");
        self.reports = None;
    }

    /// Waits for the next thing that happens.
    async fn next_report(&mut self) -> Report {
        let Some(reports) = &mut self.reports else { return future::pending().await };
        match reports.next().await {
            Ok(report) => report,
            Err(error) => {
                self.stop_listening(&error);
                Report::Lost
            }
        }
    }
}

impl Nodes for NodeRoutes {
    async fn prepare(&mut self, state: &State, names: &BTreeSet<Arc<str>>) -> bool {
        self.failed = if let Some(complaints) = self.follow(state, names).await {
            complaints
        } else {
            self.is_whole_due = false;
            let period = self.wish.sweep_period;
            self.next_sweep = (!period.is_zero()).then(|| Instant::now() + period);
            self.make_whole(state).await.unwrap_or_else(|error| {
                self.is_whole_due = true;
                BTreeSet::from([About::Kernel.complaint(said(&error))])
            })
        };
        self.say();
        !self.is_whole_due && self.retry_at.is_none() && self.refused.is_empty()
    }

    async fn finish(&mut self) -> bool {
        let mut removed = 0;
        let mut is_complete = true;
        let mut left = |error: &rtnl::Error| {
            let error: &(dyn Error + 'static) = error;
            warn!(error, "left what is obsolete");
            is_complete = false;
        };
        for object in mem::take(&mut self.obsolete) {
            match commit::delete(&self.kernel, &object).await {
                Ok(()) => removed += usize::from(matches!(object, Object::Route(_))),
                Err(error) => left(&error),
            }
        }
        for device in mem::take(&mut self.obsolete_devices) {
            match self.kernel.delete_device(device).await {
                Err(error) if !error.is_not_found() => left(&error),
                _ => info!("removed a VXLAN device"),
            }
        }
        if removed > 0 {
            info!(routes = removed, "removed routes");
        }
        // Not before: pods that start now find services.
        is_complete &= self.told.install();
        self.say();
        self.is_whole_due |= !is_complete;
        is_complete
    }

    async fn disturbed(&mut self) {
        if self.mend_at.is_some() {
            super::at(self.mend_at).await;
            self.mend_at = None;
            return;
        }
        loop {
            let sweep = self.next_sweep;
            let are_parameters_due = self.are_parameters_due;
            let report = tokio::select! {
                biased; // many parameters often change at once
                report = self.next_report() => report,
                () = future::ready(()), if are_parameters_due => {
                    self.look_at_parameters().await;
                    continue;
                }
                () = super::at(sweep) => Report::Lost,
            };
            if report == Report::Parameter {
                self.are_parameters_due = true;
            } else if self.outlook.is_news(&report, self.routing.as_ref()) {
                debug!(?report, "routes, or what they stand on, have changed");
                self.is_whole_due = true;
                let now = Instant::now();
                let since = self.disturbed_at.replace(now).map_or(Duration::MAX, |last| now - last);
                self.mend_at = Some(now + self.patience.pause(since));
                super::at(self.mend_at).await;
                self.mend_at = None;
                return;
            }
        }
    }
}

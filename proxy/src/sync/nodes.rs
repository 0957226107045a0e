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
    sync::Arc,
    time::Duration,
};

use dataplane::{
    owner,
    rtnl::{self, Kernel, Link, Report, Reports, Tunnels as _, Vxlan},
};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::{
    complaints::{Complaints, said},
    devices::Devices,
    outlook::Outlook,
    patience::Patience,
    told::Told,
};
use super::Nodes;
use crate::{
    config::{Overlay, RouteMode},
    conflist::Files,
    objects::Node,
    plan::routes::{
        Site,
        objects::{self, Key, Object, Put},
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
    next_sweep: Option<Instant>,
    /// When somebody last interfered, when to answer him, and how many did.
    disturbed_at: Option<Instant>,
    mend_at: Option<Instant>,
    patience: Patience,
    /// This node as it was known last: that its object is gone for a moment is no reason to cut off its pods.
    own: Option<Node>,
    /// What to remove once nothing is sent along it.
    obsolete: Vec<Object>,
    obsolete_devices: Vec<u32>,
    /// What the kernel did not take, though everything had just been listed: it is tried again by itself.
    refused: Vec<Put>,
    /// What the links take that lead to other nodes, as it was known last.
    link_mtu: Option<u32>,
    /// What everything that was listed is complained of: it stands until everything is listed again.
    standing: BTreeSet<String>,
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
            next_sweep: None,
            disturbed_at: None,
            mend_at: None,
            patience: Patience::default(),
            own: None,
            obsolete: Vec::new(),
            obsolete_devices: Vec::new(),
            refused: Vec::new(),
            link_mtu: None,
            standing: BTreeSet::new(),
            complaints: Complaints::default(),
        }
    }

    /// What the kernel was made to hold, as far as it could.
    pub fn objects(&self) -> BTreeSet<Object> {
        self.routing.as_ref().map(Routing::objects).unwrap_or_default()
    }

    /// What is not as pods need it, in words.
    pub fn complaints(&self) -> &BTreeSet<String> {
        self.complaints.all()
    }

    /// Follows these nodes alone. Nothing, if that will not do.
    async fn follow(&mut self, state: &State, names: &BTreeSet<Arc<str>>) -> Option<BTreeSet<String>> {
        let is_possible = !self.is_whole_due && !names.contains(state.own_node());
        let routing = self.routing.as_mut().filter(|_| is_possible)?;
        if self.wish.mode == RouteMode::None {
            return Some(BTreeSet::new());
        }
        let families = (routing.families(), routing.inbound());
        let steps = routing.follow(names.iter().map(|name| (&**name, state.node(name))));
        if families != (routing.families(), routing.inbound()) {
            return None; // a device comes or goes, or the MTU of pods is another
        }
        let is_wanted = |put: &Put| routing.object(&put.object.key()) == Some(&put.object);
        if self.refused.iter().any(|put| put.is_rival_there && !is_wanted(put)) {
            return None; // something of ours is in its place, and only the kernel knows what
        }
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

    /// Lists everything, and makes it what it should be.
    async fn make_whole(&mut self, state: &State) -> Result<BTreeSet<String>, rtnl::Error> {
        self.obsolete.clear(); // it may be wanted again, even if that cannot be found out now
        self.obsolete_devices.clear();
        self.skip_reports().await;
        let links = self.kernel.links().await?;
        self.outlook = Outlook::new(&links, self.kernel.addresses().await?);
        self.own = state.own_as_known().cloned();
        let before = self.routing.as_ref().map(|routing| routing.site().ends.clone()).unwrap_or_default();
        let site = Site::new(self.wish.mode, self.own.as_ref(), self.outlook.addresses(), &before);
        let others = state.nodes().filter(|node| *node.name.name != *state.own_node());
        let others = others.filter(|_| self.wish.mode != RouteMode::None);
        let mut routing = Routing::new(site, others);

        let site = routing.site();
        let mut complaints = surroundings::look(&site.pod_cidrs, &links);
        complaints.extend(site.adrift().map(|end| {
            format!(
                "{end}, where this node's tunnels begin, is on none of its links: nothing can leave by them"
            )
        }));
        // What the link takes is not known while it has no address.
        let mtu = self.link_mtu.filter(|_| site.adrift().next().is_some());
        let mtu = mtu.unwrap_or_else(|| tunnel::link_mtu(site, &links));
        self.link_mtu = Some(mtu);
        let vxlans = routing.vxlans(self.wish.overlay, mtu);
        let devices = Devices::settle(&self.kernel, &vxlans, &site.pod_cidrs).await?;
        self.is_whole_due |= !devices.complaints.is_empty();
        complaints.extend(devices.complaints);
        complaints.extend(self.offload_checksums(&vxlans, &devices.there));

        let tunnels = routing.families();
        let is_tunnelled = tunnels.iter().all(|family| devices.there.contains_key(family));
        let pod_mtu = tunnels.iter().map(|family| mtu.saturating_sub(tunnel::overhead(*family))).min();
        routing.bind(devices.there);
        let held = commit::held(&self.kernel, routing.devices().values().copied()).await?;
        let mut steps = objects::steps(&held, &routing.objects());
        if devices.is_one_missing {
            steps =
                steps.sparing(&links.iter().filter(|link| is_tunnel(link)).map(|link| link.index).collect());
        }
        self.obsolete = steps.gone;
        let can_begin = self.own.is_none() || !routing.lacks_end();
        self.routing = Some(routing);
        self.refused.clear();
        let failed = self.put(steps.put).await;
        // Not before what takes their place.
        if !devices.is_one_missing {
            let refused: BTreeSet<Key> = self.refused.iter().map(|put| put.object.key()).collect();
            let stands =
                held.iter().filter(|object| refused.contains(&object.key())).filter_map(Object::link);
            let stands: BTreeSet<u32> = stands.collect();
            self.obsolete_devices =
                devices.obsolete.into_iter().filter(|device| !stands.contains(device)).collect();
        }

        if !can_begin {
            let reason = "none of this node's internal addresses is on a link of its own: \
                          no tunnel can begin, and no pod can start";
            complaints.insert(reason.to_owned());
        } else if is_tunnelled
            && let Err(error) = self.told.tell(state.own_as_known(), pod_mtu.unwrap_or(mtu))
        {
            self.is_whole_due |= error.may_pass();
            complaints.insert(said(&error));
        }
        self.told.look_again();
        self.standing = complaints;
        Ok(failed)
    }

    /// Has the checksums in these devices' packets made by whoever can.
    fn offload_checksums(
        &self,
        vxlans: &BTreeMap<Family, Vxlan>,
        there: &BTreeMap<Family, u32>,
    ) -> BTreeSet<String> {
        let settle = |(family, index): (&Family, &u32)| {
            let uplink = self.outlook.link_with(vxlans.get(family)?.tunnel.local);
            let settled = offload::settle(self.wish.overlay.checksum_offload, uplink, *index);
            settled.err().map(|error| said(&error))
        };
        there.iter().filter_map(settle).collect()
    }

    /// Puts all of these, and says what could not be.
    async fn put(&mut self, all: Vec<Put>) -> BTreeSet<String> {
        let mut complaints = BTreeSet::new();
        let mut routes = 0;
        for put in all {
            match commit::put(&self.kernel, &put).await {
                Ok(()) => {
                    routes += usize::from(put.route().is_some());
                    debug!(?put, "put");
                }
                Err(error) => {
                    complaints.insert(said(&error));
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

    fn unreachable(&self) -> impl Iterator<Item = String> {
        let unreachable = self.routing.iter().flat_map(Routing::unreachable);
        unreachable.map(|unreachable| unreachable.to_string())
    }

    async fn skip_reports(&mut self) {
        if let Some(reports) = &mut self.reports
            && let Err(error) = reports.skip().await
        {
            self.stop_listening(&error);
        }
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
        let mut complaints = if let Some(complaints) = self.follow(state, names).await {
            complaints
        } else {
            self.is_whole_due = false;
            let period = self.wish.sweep_period;
            self.next_sweep = (!period.is_zero()).then(|| Instant::now() + period);
            self.make_whole(state).await.unwrap_or_else(|error| {
                self.is_whole_due = true;
                BTreeSet::from([said(&error)])
            })
        };
        complaints.extend(self.standing.iter().cloned());
        complaints.extend(self.unreachable());
        self.complaints.say(complaints);
        !self.is_whole_due && self.refused.is_empty()
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
            let report = tokio::select! {
                report = self.next_report() => report,
                () = super::at(sweep) => Report::Lost,
            };
            if report == Report::Parameter {
                surroundings::keep_forwarding(self.routing.iter().flat_map(|all| &all.site().pod_cidrs));
                self.keep_loose().await;
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

/// Says whether a link is one of our devices for tunnels.
fn is_tunnel(link: &Link) -> bool {
    owner::TUNNELS.contains(&link.name.as_str())
}

//! Everything listed, compared, and made what it should be.
//!
//! In: the state, and what the kernel lists. Out: the kernel holds what is planned, as far as it takes it, and the files are written. The fallback
//! that is always right: at the start, after a disturbance, after what could not be followed, and now and then.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    time::Duration,
};

use dataplane::{
    owner,
    rtnl::{self, Device, Link, Report, Vxlan},
};
use tokio::time::Instant;

use super::{
    NodeRoutes, commit, complaints::said, devices::Devices, offload, outlook::Outlook, surroundings,
};
use crate::{
    config::RouteMode,
    health::{About, Complaint},
    plan::routes::{
        Site,
        objects::{self, Key, Object, Put, Steps},
        routing::Routing,
        tunnel,
        uplinks::Uplinks,
    },
    service_port::Family,
    state::State,
};

/// How long what failed may wait for another try while nodes come and go: each costs the same then as if nothing had failed.
const RETRY: Duration = Duration::from_secs(10);

impl NodeRoutes {
    /// Lists everything, and makes it what it should be.
    pub(super) async fn make_whole(&mut self, state: &State) -> Result<BTreeSet<Complaint>, rtnl::Error> {
        self.obsolete.clear(); // it may be wanted again, even if that cannot be found out now
        self.obsolete_devices.clear();
        self.reports_so_far().await; // all of it is listed now
        let links = self.kernel.links().await?;
        let ways_out = self.kernel.ways_out().await?;
        self.outlook = Outlook::new(&links, self.kernel.addresses().await?, &ways_out);
        let own = state.own_as_known();
        let before = match &self.routing {
            Some(routing) => routing.site().ends.clone(),
            None => self.adopt(&links),
        };
        let site = Site::new(self.wish.mode, own, self.outlook.addresses(), &before);
        let site = site.over(Uplinks::new(&links, &ways_out));
        let others = state.nodes().filter(|node| *node.name.name != *state.own_node());
        let others = others.filter(|_| self.wish.mode != RouteMode::None);
        let mut routing = Routing::new(site, others);

        let site = routing.site();
        self.are_parameters_due = false;
        let mut complaints = surroundings::look(&site.pod_cidrs, self.outlook.link_names());
        complaints.extend(site.adrift().map(|end| {
            About::Address.complaint(format!(
                "{end}, where this node's tunnels begin, is on none of its links: nothing can leave by them"
            ))
        }));
        // What the link takes is not known while it has no address.
        let mtu = self.link_mtu.filter(|_| site.adrift().next().is_some());
        let mtu = mtu.unwrap_or_else(|| routing.link_mtu());
        self.link_mtu = Some(mtu);
        let vxlans = routing.vxlans(self.wish.overlay, mtu);
        let mut devices = Devices::settle(&self.kernel, &vxlans, &site.pod_cidrs).await?;
        if devices.is_one_changed {
            self.learn_of(&devices, &routing).await?;
        }
        let mut is_retry_due = !devices.complaints.is_empty();
        complaints.extend(mem::take(&mut devices.complaints));
        complaints.extend(self.offload_checksums(&links, &routing, &vxlans, &devices.there));
        let of_ours = |family: &&Family| self.vxlans.get(family) == vxlans.get(family);
        let mut is_repair = devices.mended.iter().any(|family| of_ours(&family));
        self.vxlans = vxlans;
        self.vxlans.retain(|family, _| devices.there.contains_key(family));
        let shown = self.vxlans.values().cloned().collect();
        self.complaints.change(|report| report.devices = shown);

        let tunnels = routing.families();
        let is_tunnelled = tunnels.iter().all(|family| devices.there.contains_key(family));
        let pod_mtu = tunnels.iter().map(|family| mtu.saturating_sub(tunnel::overhead(*family))).min();
        routing.bind(devices.there);
        let held = commit::held(&self.kernel, routing.devices().values().copied()).await?;
        let mut steps = objects::steps(&held, &routing.objects());
        if devices.is_one_missing {
            steps = steps.sparing(
                &links.iter().filter(|link| owner::is_tunnel(&link.name)).map(|link| link.index).collect(),
            );
        }
        if own.is_none() && self.wish.mode != RouteMode::None {
            complaints.extend(is_nowhere(state, &mut steps, &mut devices.obsolete));
        }
        self.obsolete = steps.gone;
        is_repair |= !self.is_ahead && self.has_lost(&steps.put);
        self.is_ahead = false;
        if is_repair {
            self.complaints.metrics.repairs.inc();
        }
        let can_begin = own.is_none() || !routing.lacks_end();
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
            complaints.insert(About::Address.complaint(reason));
        } else if is_tunnelled && let Err(error) = self.told.tell(own, pod_mtu.unwrap_or(mtu)) {
            is_retry_due |= error.may_pass();
            complaints.insert(About::Plugin.complaint(said(&error)));
        }
        self.retry_at = is_retry_due.then(|| Instant::now() + RETRY);
        self.told.look_again();
        self.standing = complaints;
        Ok(failed)
    }

    /// Takes in what was made of our devices, so that what the kernel tells of that is no news. What others have done since everything was
    /// listed is: the plan knows nothing of it.
    async fn learn_of(&mut self, devices: &Devices, routing: &Routing) -> Result<(), rtnl::Error> {
        let reports = self.reports_so_far().await;
        let (links, addresses) = (self.kernel.links().await?, self.kernel.addresses().await?);
        let now = Outlook::new(&links, addresses, &self.kernel.ways_out().await?);
        let mut planned_for = mem::replace(&mut self.outlook, now);
        self.are_parameters_due |= reports.contains(&Report::Parameter);
        let replaced = self.routing.iter().flat_map(|routing| routing.devices().values());
        let ours: BTreeSet<u32> = devices.there.values().chain(replaced).copied().collect();
        let is_of_ours = |report: &&Report| match report {
            // What there should be is compared with what there is later on.
            Report::Route(route) | Report::RouteGone(route) if route.is_ours() => true,
            Report::Rule(_)
            | Report::RuleGone(_)
            | Report::Neighbour(_)
            | Report::NeighbourGone(_)
            | Report::Forwarding(_)
            | Report::ForwardingGone(_) => true,
            report => report.link().is_some_and(|link| ours.contains(&link)),
        };
        for report in reports.iter().filter(|report| !is_of_ours(report)) {
            self.is_whole_due |= planned_for.is_news(report, Some(routing));
        }
        Ok(())
    }

    /// Where an earlier run's tunnels begin: its devices tell. And what the links took that led to other nodes, for as long as none leads there.
    fn adopt(&mut self, links: &[Link]) -> BTreeMap<Family, IpAddr> {
        let devices = links.iter().filter(|link| owner::is_tunnel(&link.name)).filter_map(Link::vxlan);
        let mut ends = BTreeMap::new();
        for Device { vxlan: Vxlan { tunnel: device, mtu, .. }, .. } in devices {
            let family = Family::of(device.local);
            ends.insert(family, device.local);
            let link = mtu.saturating_add(tunnel::overhead(family));
            self.link_mtu = Some(self.link_mtu.map_or(link, |other| other.min(link)));
        }
        ends
    }

    /// Has the checksums in these devices' packets made by whoever can.
    fn offload_checksums(
        &self,
        links: &[Link],
        routing: &Routing,
        vxlans: &BTreeMap<Family, Vxlan>,
        there: &BTreeMap<Family, u32>,
    ) -> BTreeSet<Complaint> {
        let settle = |(family, index): (&Family, &u32)| {
            let mut uplinks = routing.exits();
            uplinks.extend(self.outlook.link_with(vxlans.get(family)?.tunnel.local));
            let settled = offload::settle(self.wish.overlay.checksum_offload, links, &uplinks, *index);
            settled.err().map(|error| About::Device.complaint(said(&error)))
        };
        there.iter().filter_map(settle).collect()
    }

    /// Says whether something is among these that the kernel had taken before: somebody has taken it away.
    fn has_lost(&self, put: &[Put]) -> bool {
        let never: BTreeSet<Object> = self.refused.iter().map(|put| put.object).collect();
        let Some(routing) = &self.routing else { return false };
        let was_there = |object: &Object| routing.object(&object.key()) == Some(object);
        put.iter().any(|put| was_there(&put.object) && !never.contains(&put.object))
    }
}

/// Who does not know where this node is cannot say what is not needed: all that an earlier run has made stays.
fn is_nowhere(state: &State, steps: &mut Steps, obsolete_devices: &mut Vec<u32>) -> Option<Complaint> {
    let is_alone = state.nodes().next().is_none();
    if is_alone && steps.gone.is_empty() && obsolete_devices.is_empty() {
        return None;
    }
    steps.gone.clear();
    obsolete_devices.clear();
    let node = state.own_node();
    Some(About::Node.complaint(format!(
        "there is no node {node}: until there is, no tunnel can be made from here, and what an earlier run has made stays; \
         if this node has another name, say so by --hostname-override"
    )))
}

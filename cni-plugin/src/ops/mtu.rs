//! Pods that are there follow the MTU that the daemon leaves in `node.json`.
//!
//! The daemon is not allowed into their namespaces, and the plugin is called every few seconds: by runtimes that ask STATUS, and for
//! every new pod. In the usual case that costs one read and one comparison. Else every pod of the network is looked at, and given
//! what it lacks:
//!
//! ```text
//! marker: old → old, new → each pod: host end, pod end, its routes, its limits → marker: new
//! ```
//!
//! What cannot be done is left for the next call, and is nobody's failure: it is not what that call is about.
//!
//! A pod that is being made while others are brought along may be missed, since its link comes after the list of links. So an ADD reads
//! `node.json` once more when all is made, and where that is another than it went by, has all pods looked at again.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::{
    netns::Netns,
    owner,
    rtnl::{self, Kernel, Link, Route, Routes},
};

use super::{Error, Plan, kernel, leased::Leased, run_dir, store};
use crate::{
    conf::{Conf, Network, PodRoute},
    failure::Failure,
    ipam::store::{Record, Store},
    node::Node,
    request::Attachment,
    wiring::{
        host_end_for, host_end_of, ifb_of,
        mtu::{End, Ends, is_possible},
    },
};

/// Brings pods along, unless they are there already, or somebody does it at this moment.
pub(super) async fn follow(conf: &Conf, plan: &Plan) {
    let Some(mtu) = plan.followed else { return };
    let follow = async {
        let store = store(&conf.network)?;
        if store.sizes()? == BTreeSet::from([mtu]) {
            return Ok(());
        }
        let Some(lock) = store.try_lock_sizes()? else { return Ok(()) };
        let done = bring_all(conf, &store, BTreeSet::new()).await;
        drop(lock);
        done
    };
    let _: Result<(), Failure> = follow.await;
}

/// The same for a call that has no configuration of its own to go by.
pub(super) async fn follow_if_known(network: &Network) {
    if let Ok(conf) = Conf::parse(network.clone())
        && let Ok(plan) = Plan::of(&conf, None)
    {
        follow(&conf, &plan).await;
    }
}

/// Brings a pod along that was made for an MTU that is not the node's any more. Call it when nobody holds its namespace.
pub(super) async fn catch_up(conf: &Conf, plan: &Plan) {
    let Some(made_for) = plan.followed else { return };
    if told(conf).is_none_or(|mtu| mtu == made_for) {
        return;
    }
    let catch_up = async {
        let store = store(&conf.network)?;
        let _lock = store.lock_sizes()?;
        bring_all(conf, &store, BTreeSet::from([made_for])).await
    };
    let _: Result<(), Failure> = catch_up.await;
}

/// What the daemon says now.
fn told(conf: &Conf) -> Option<u32> {
    Node::read(&run_dir(&conf.network)).ok()?.mtu
}

/// Brings all pods to what the daemon says; some may have one of these sizes. Call it while nobody else does.
async fn bring_all(conf: &Conf, store: &Store, made_for: BTreeSet<u32>) -> Result<(), Failure> {
    // Read when no other can bring pods anywhere else: what was read before may be of the past.
    let Some(mtu) = told(conf) else { return Ok(()) };
    let mut given: BTreeSet<u32> = store.sizes()?.into_iter().chain(made_for).collect();
    if given == BTreeSet::from([mtu]) {
        return Ok(());
    }
    given.insert(mtu);
    store.keep_sizes(&given)?;

    let attachments = store.attachments()?;
    let host = kernel()?;
    let links = host.links().await.map_err(Error::Kernel)?;
    let links: BTreeMap<String, Link> = links.into_iter().map(|link| (link.name.clone(), link)).collect();
    let move_to = Move { conf, mtu, given, host, links };
    let mut all_are_there = true;
    for attachment in &attachments {
        if let Some(record) = store.find(attachment)? {
            all_are_there &= move_to.bring(attachment, &record).await.unwrap_or(false);
        }
    }
    if all_are_there {
        store.keep_sizes(&BTreeSet::from([mtu]))?;
    }
    Ok(())
}

/// From where to where pods are brought, and what there is of them on the host.
struct Move<'a> {
    conf: &'a Conf,
    mtu: u32,
    given: BTreeSet<u32>,
    host: Kernel,
    links: BTreeMap<String, Link>,
}

impl Move<'_> {
    /// Brings a pod along, and says whether nothing is left to do; so it is where there is no pod, or its link is not ours to change.
    async fn bring(&self, attachment: &Attachment, record: &Record) -> Result<bool, Failure> {
        let name = host_end_of(&self.conf.network.name, attachment);
        let Some(host_end) = self.links.get(&name) else { return Ok(true) };
        let is_ours = host_end_for(host_end, &self.conf.network.run_dir).is_some();
        if !is_ours || !is_possible(self.mtu, &record.addresses) {
            return Ok(true);
        }
        let netns = match Netns::open(&record.netns) {
            Ok(netns) => netns,
            Err(error) if error.is_not_found() => return Ok(true),
            Err(error) => return Err(Error::Netns(error).into()),
        };
        if !record.is_of(netns.inode().map_err(Error::Inode)?) {
            return Ok(true); // another container's by now
        }
        if !netns.try_hold().map_err(Error::Hold)? {
            return Ok(false); // it is being made, or taken away
        }
        let pod = Kernel::open_in(&netns).map_err(Error::Kernel)?;
        let done = self.set(&pod, host_end, record).await;
        match done {
            Err(error) if !error.is_not_found() => Err(Error::Kernel(error).into()),
            _ => Ok(true), // what went away meanwhile needs nothing
        }
    }

    async fn set(&self, pod: &Kernel, host_end: &Link, record: &Record) -> Result<(), rtnl::Error> {
        let pod_end = pod.link(&record.ifname).await?;
        let ends = Ends { host: host_end.mtu, pod: pod_end.mtu };
        let is_its_end = pod_end.is_veth() && pod_end.peer == Some(host_end.index);
        if !is_its_end || !ends.are_ours(&self.given) {
            return Ok(());
        }
        let steps = ends.steps_to(self.mtu);
        for end in &steps {
            match end {
                End::Host => self.set_host_side(host_end).await?,
                End::Pod => pod.set_mtu(pod_end.index, self.mtu).await?,
            }
        }
        if !steps.contains(&End::Host) {
            self.set_host_side(host_end).await?; // a call may have been killed after the link and before the rest
        }
        self.fit_routes(pod, pod_end.index, record).await
    }

    /// Sets what is on the host, in whose bursts the largest packet must fit at any time.
    async fn set_host_side(&self, host_end: &Link) -> Result<(), rtnl::Error> {
        let ifb = self.links.get(&ifb_of(&host_end.name)).filter(|link| link.is_ifb());
        let grows = self.mtu > host_end.mtu;
        if !grows {
            self.host.set_mtu(host_end.index, self.mtu).await?;
        }
        for link in [Some(host_end), ifb].into_iter().flatten() {
            if let Some(bucket) = self.host.bucket(link.index).await? {
                let sizes = self.given.iter().copied().chain([host_end.mtu]);
                let fitting =
                    sizes.fold(bucket, |bucket, from| crate::bandwidth::resized(bucket, from, self.mtu));
                if fitting != bucket {
                    self.host.set_bucket(link.index, &fitting).await?;
                }
            }
        }
        if let Some(ifb) = ifb {
            self.host.set_mtu(ifb.index, self.mtu).await?;
        }
        if grows { self.host.set_mtu(host_end.index, self.mtu).await } else { Ok(()) }
    }

    /// Gives routes that have an MTU of their own the one that was wished for, as far as the link takes it. IPv6 does so itself when a
    /// link shrinks, and raises a route with it when the link grows that had the link's; IPv4 does neither.
    async fn fit_routes(&self, pod: &Kernel, link: u32, record: &Record) -> Result<(), rtnl::Error> {
        let wished = self.wished_routes(record);
        let there = pod.routes(owner::ROUTE_PROTOCOL).await?;
        for route in there.iter().filter(|route| route.link == link) {
            let Some(mtu) = route.mtu else { continue };
            let is_it = |wish: &&PodRoute| {
                let like = Route { destination: wish.dst, ..*route }.with_metric(wish.priority);
                wish.dst == route.destination && like.metric == route.metric
            };
            let wish = wished.iter().find(is_it).and_then(|wish| wish.mtu).unwrap_or(mtu);
            let fitting = Some(wish.min(self.mtu));
            if route.mtu != fitting {
                pod.replace_route(&Route { mtu: fitting, ..*route }).await?;
            }
        }
        Ok(())
    }

    fn wished_routes(&self, record: &Record) -> Vec<PodRoute> {
        let routes = match &record.delegated {
            Some(by) => Leased::by_another(&by.name, &by.result, self.conf.bridging.is_some())
                .ok()
                .and_then(|leased| leased.routes),
            None => self.conf.routes.clone(),
        };
        routes.unwrap_or_default()
    }
}

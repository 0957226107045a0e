//! The nodes' side of a sync, on a real kernel: routes to the others' pods, and the files about our own node.
//!
//! In: the state. Out: routes with our mark and a gateway; those without one are the plugin's and are never touched.
//! Whatever cannot be done is said once, and again only after it had gone away.

use std::{collections::BTreeSet, error::Error};

use dataplane::{
    owner,
    rtnl::{self, Address, Change, Kernel, Route, Routes, diff},
};
use tracing::{debug, info, warn};

use super::Nodes;
use crate::{
    config::RouteMode,
    conflist::{self, Files, Written},
    plan::routes::{self, Plan, Reason},
    state::State,
};

/// Routes and files of this node.
#[derive(Debug)]
pub struct NodeRoutes {
    kernel: Kernel,
    mode: RouteMode,
    files: Files,
    /// Routes to remove once nothing is sent along them.
    obsolete: Vec<Change>,
    /// Whether the plugin has been told all that it needs to wire a pod.
    can_wire: bool,
    complaints: Complaints,
    complaints_of_install: Complaints,
}

/// What has been said to be wrong, so that it is not said again.
#[derive(Debug, Default)]
struct Complaints(BTreeSet<String>);

impl Complaints {
    /// Says what is new of these.
    fn say(&mut self, complaints: BTreeSet<String>) {
        for reason in complaints.difference(&self.0) {
            warn!(reason, "not all is there that pods need");
        }
        self.0 = complaints;
    }
}

impl NodeRoutes {
    /// Begins with whatever routes an earlier run has left.
    pub fn new(kernel: Kernel, mode: RouteMode, files: Files) -> Self {
        Self {
            kernel,
            mode,
            files,
            obsolete: Vec::new(),
            can_wire: false,
            complaints: Complaints::default(),
            complaints_of_install: Complaints::default(),
        }
    }

    /// Tells the plugin of our own node; false if there is nothing to tell yet.
    async fn write_facts(&self, state: &State, addresses: &[Address]) -> Result<bool, String> {
        let Some(node) = state.nodes().find(|node| *node.name.name == *state.own_node()) else {
            return Ok(false);
        };
        if node.pod_cidrs.is_empty() {
            return Err(format!("this node, {}, has no pod CIDR: no pod can start here", node.name));
        }
        let links = self.kernel.links().await.map_err(|error| said(&error))?;
        let mtu = conflist::mtu(node, addresses, &links);
        if self.files.write_facts(node, mtu).map_err(|error| said(&error))? {
            info!(mtu, "told the CNI plugin of this node");
        }
        Ok(true)
    }

    /// Makes the container runtime use the plugin. False: it does not yet, try again.
    fn install(&mut self) -> bool {
        let mut complaints = BTreeSet::new();
        let installed = self.files.install();
        match &installed {
            Ok(Written { plugin: false, conflist: false }) => {}
            Ok(Written { plugin, conflist }) => {
                info!(plugin, conflist, "installed for the container runtime");
            }
            Err(error) => drop(complaints.insert(said(error))),
        }
        match self.files.rivals() {
            Ok(rivals) => complaints.extend(rivals.iter().map(|rival| {
                let ours = conflist::CONFLIST;
                format!(
                    "container runtimes take {} before {ours}: remove it, or pods get another network",
                    rival.display()
                )
            })),
            Err(error) => drop(complaints.insert(said(&error))),
        }
        self.complaints_of_install.say(complaints);
        installed.is_ok()
    }

    fn plan(&self, state: &State, addresses: &[Address]) -> Plan {
        match self.mode {
            RouteMode::Auto | RouteMode::Direct => routes::plan(state.nodes(), state.own_node(), addresses),
            RouteMode::None => Plan::default(),
        }
    }
}

impl Nodes for NodeRoutes {
    async fn prepare(&mut self, state: &State) -> bool {
        self.obsolete.clear(); // it may be wanted again, even if that cannot be found out now
        let mut complaints = BTreeSet::new();
        let mut is_complete = true;
        let mut fail = |complaint| {
            complaints.insert(complaint);
            is_complete = false;
        };

        let there = async { Ok((self.kernel.addresses().await?, held(&self.kernel).await?)) };
        let (addresses, held) = match there.await {
            Ok(there) => there,
            Err(error) => {
                fail(said::<rtnl::Error>(&error));
                self.complaints.say(complaints);
                return false;
            }
        };
        match self.write_facts(state, &addresses).await {
            Ok(is_told) => self.can_wire = is_told,
            Err(complaint) => {
                self.can_wire = false;
                fail(complaint);
            }
        }
        let plan = self.plan(state, &addresses);
        let (obsolete, wanted): (Vec<_>, Vec<_>) =
            diff(&held, &plan.routes).into_iter().partition(|change| matches!(change, Change::Delete(_)));
        let mut added = 0;
        for change in wanted {
            match self.kernel.apply(&change).await {
                Ok(()) => {
                    added += 1;
                    debug!(?change, "put a route");
                }
                Err(error) => fail(said(&error)),
            }
        }
        for unreachable in plan.unreachable {
            // The rest only a Node object can mend, and that is an event of its own.
            is_complete &= !matches!(unreachable.reason, Reason::NotOnLink(_));
            complaints.insert(unreachable.to_string());
        }
        if added > 0 {
            info!(added, nodes = state.nodes().count(), "added routes");
        }
        self.obsolete = obsolete;
        self.complaints.say(complaints);
        is_complete
    }

    async fn finish(&mut self) -> bool {
        let mut removed = 0;
        let mut is_complete = true;
        for change in std::mem::take(&mut self.obsolete) {
            match self.kernel.apply(&change).await {
                Ok(()) => removed += 1,
                Err(error) => {
                    is_complete = false;
                    let error: &(dyn Error + 'static) = &error;
                    warn!(error, "left an obsolete route");
                }
            }
        }
        if removed > 0 {
            info!(removed, "removed routes");
        }
        // Not before: pods that start now find services.
        is_complete & (!self.can_wire || self.install())
    }
}

/// Removes every route that a daemon has made here; of all that fails, the first is told.
pub async fn remove_routes(kernel: &Kernel) -> Result<usize, rtnl::Error> {
    let mut removed = 0;
    let mut failed = None;
    for route in held(kernel).await? {
        match kernel.apply(&Change::Delete(route)).await {
            Ok(()) => removed += 1,
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(removed), Err)
}

/// The routes that a daemon has made. A pod's own route bears the same mark, but has no gateway.
async fn held(kernel: &Kernel) -> Result<Vec<Route>, rtnl::Error> {
    let mut routes = kernel.routes(owner::ROUTE_PROTOCOL).await?;
    routes.retain(|route| route.gateway.is_some());
    Ok(routes)
}

/// An error and its causes on one line.
fn said<E: Error>(error: &E) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

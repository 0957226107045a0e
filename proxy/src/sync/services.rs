//! The services' side of a sync: the plan, and the kernel's nftables.
//!
//! In: service ports. Out: tables `ip fairway` and `ip6 fairway`. What the kernel holds is listed at the first commit (an
//! earlier run may have left all of it in place) and after a failure; otherwise only changes are sent, and nothing is read.

use std::{collections::BTreeMap, mem, time::Instant};

use dataplane::nft::{self, Socket, Transaction, diff};
use tracing::{trace, warn};

use super::{Committed, Services, pace::SETTLED};
use crate::{
    plan::{Planner, Settings, Shadowed},
    service_port::{Family, ServicePort, ServicePortName},
};

/// Services in nftables.
#[derive(Debug)]
pub struct Nftables {
    planner: Planner,
    socket: Socket,
    /// Whether the kernel holds what was planned at the last commit.
    is_in_step: bool,
    /// When the kernel took the last commit that a retirement went with, or that brought it back in step.
    retired_at: Option<Instant>,
    /// The service ports that want an address which another one has.
    shadowed: BTreeMap<(ServicePortName, Family), Vec<Shadowed>>,
}

impl Nftables {
    /// Begins with whatever tables of these families an earlier run has left.
    pub fn new(socket: Socket, families: &[Family], settings: &Settings) -> Self {
        Self {
            planner: Planner::new(families, settings),
            socket,
            is_in_step: false,
            retired_at: None,
            shadowed: BTreeMap::new(),
        }
    }

    /// The changes to whatever the kernel holds now.
    fn changes_from_held(&mut self) -> Result<Transaction, nft::Error> {
        self.planner.take(); // the tables say it all
        let mut changes = Transaction::default();
        for table in self.planner.tables() {
            changes.append(diff(self.socket.held(table.family)?.as_ref(), table));
        }
        Ok(changes)
    }
}

impl Services for Nftables {
    type Error = nft::Error;

    fn set(&mut self, name: &ServicePortName, family: Family, port: Option<ServicePort>) {
        let shadowed = self.planner.set(name, family, port.as_ref());
        let key = (name.clone(), family);
        if shadowed.is_empty() {
            self.shadowed.remove(&key);
        } else if self.shadowed.get(&key) != Some(&shadowed) {
            for address in &shadowed {
                warn!("{address}");
            }
            self.shadowed.insert(key, shadowed);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the shell reads the clock")]
    fn commit(&mut self) -> Result<Committed, nft::Error> {
        let was_in_step = mem::replace(&mut self.is_in_step, false); // unless all goes well
        // What was refused led nobody away yet: what it was to lead away from must outlive the next attempt.
        let retires = was_in_step && self.retired_at.is_none_or(|at| at.elapsed() >= SETTLED);
        if retires {
            self.planner.retire();
        }
        let changes = if was_in_step { self.planner.take() } else { self.changes_from_held()? };
        trace!(transaction = %changes, "commits");
        self.socket.commit(&changes)?;
        self.is_in_step = true;
        if retires || !was_in_step {
            self.retired_at = Some(Instant::now());
        }
        let (added, removed) = changes.elements();
        Ok(Committed { elements: added + removed, is_unfinished: !self.planner.is_settled() })
    }
}

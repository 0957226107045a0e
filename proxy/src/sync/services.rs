//! The services' side of a sync: the plan, and the kernel's nftables.
//!
//! In: service ports. Out: tables `ip fairway` and `ip6 fairway`. What the kernel holds is listed at the first commit (an
//! earlier run may have left all of it in place) and after a failure; otherwise only changes are sent, and nothing is read.

use std::{collections::BTreeMap, mem};

use dataplane::nft::{self, Socket, Transaction, diff};
use tracing::{trace, warn};

use super::Services;
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
    /// The service ports that want an address which another one has.
    shadowed: BTreeMap<(ServicePortName, Family), Vec<Shadowed>>,
}

impl Nftables {
    /// Begins with whatever tables an earlier run has left.
    pub fn new(socket: Socket, settings: &Settings) -> Self {
        Self { planner: Planner::new(settings), socket, is_in_step: false, shadowed: BTreeMap::new() }
    }

    /// The changes to whatever the kernel holds now.
    fn changes_from_held(&mut self) -> Result<Transaction, nft::Error> {
        self.planner.switch(); // the tables say it all
        let mut changes = Transaction::default();
        for table in self.planner.tables() {
            changes.append(diff(self.socket.held(table.family)?.as_ref(), table));
        }
        Ok(changes)
    }

    fn send(&self, transaction: &Transaction) -> Result<usize, nft::Error> {
        trace!(%transaction, "commits");
        self.socket.commit(transaction)?;
        let (added, removed) = transaction.elements();
        Ok(added + removed)
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

    fn commit(&mut self) -> Result<usize, nft::Error> {
        let was_in_step = mem::replace(&mut self.is_in_step, false); // unless all goes well
        let changes = if was_in_step { self.planner.switch() } else { self.changes_from_held()? };
        let switched = self.send(&changes)?;
        // Only now: a packet that is being looked up may still be led to what was in use before.
        let leftovers = self.planner.retire();
        let retired = self.send(&leftovers)?;
        self.is_in_step = true;
        Ok(switched + retired)
    }
}

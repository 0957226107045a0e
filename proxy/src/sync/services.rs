//! The services' side of a sync: the plan, and the kernel's nftables.
//!
//! In: service ports. Out: tables `ip fairway` and `ip6 fairway`. What an earlier run left in the kernel is adopted at the
//! beginning; from then on only changes are sent, and nothing is read.
//!
//! ```text
//! begin     nothing there: maps and chains without hooks       ours: take stock, mend what is always there
//! set …     planned; committed whenever a batch is full
//! commit    the rest, and the hooks where they are missing
//! later     what nothing leads to any more; classes in advance
//! ```
//!
//! Whatever goes wrong, the next commit lists what the kernel holds and makes it what is planned.

use std::{
    collections::{BTreeMap, BTreeSet},
    future, mem,
    time::Instant,
};

use dataplane::nft::{self, Held, Prune, Socket, Table, Transaction, diff};
use tracing::{debug, trace, warn};

use super::{
    Committed, Services,
    flows::Backlog,
    pace::SETTLED,
    repair::{Repair, Repairs},
};
use crate::{
    objects::Node,
    plan::{CLIENTS, Planner, Settings, Shadowed, excess_turns},
    service_port::{Family, ServicePort, ServicePortName},
    surroundings::Surroundings,
};

/// How many elements go into one transaction, about: the kernel does some 100,000 a second, and nobody else can change
/// nftables meanwhile.
const BATCH: usize = 4_000;

/// How many pages of remembered clients are read at a time, each of at most 32 kB.
const PAGES: usize = 16;

/// Services in nftables.
#[derive(Debug)]
pub struct Nftables {
    families: Vec<Family>,
    settings: Settings,
    surroundings: Surroundings,
    planner: Planner,
    socket: Socket,
    /// None: what others do is found out only when a commit fails.
    repair: Option<Repair>,
    stage: Stage,
    /// Families whose tables packets do not enter yet.
    unhooked: BTreeSet<Family>,
    /// Whether something was set since the last commit.
    is_touched: bool,
    /// When the kernel took the last commit that a retirement went with, or that brought it in step.
    retired_at: Option<Instant>,
    /// None: clients whose endpoint is gone are forgotten when their time is up.
    prune: Option<Prune>,
    /// Endpoint ids that clients may still be remembered with.
    gone: BTreeMap<Family, BTreeSet<u32>>,
    /// None: flows stay with the endpoints that they began with.
    flows: Option<Backlog>,
    /// The service ports that want an address which another one has.
    shadowed: BTreeMap<(ServicePortName, Family), Vec<Shadowed>>,
    /// The service ports whose weights take too many turns.
    unweighted: BTreeSet<(ServicePortName, Family)>,
}

/// How far the kernel's tables are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not at all.
    Unknown,
    /// They are being filled for the first time.
    Filling,
    /// They hold what was planned at the last commit.
    InStep,
    /// Something went wrong; what they hold must be listed.
    Lost,
}

impl Nftables {
    /// Begins with whatever tables of these families an earlier run has left.
    pub fn new(socket: Socket, families: &[Family], settings: &Settings) -> Self {
        Self {
            families: families.to_vec(),
            settings: settings.clone(),
            surroundings: Surroundings::default(),
            planner: Planner::new(families, settings),
            socket,
            repair: None,
            stage: Stage::Unknown,
            unhooked: BTreeSet::new(),
            is_touched: false,
            retired_at: None,
            prune: None,
            gone: BTreeMap::new(),
            flows: None,
            shadowed: BTreeMap::new(),
            unweighted: BTreeSet::new(),
        }
    }

    /// The same, but clients are forgotten whose endpoint is gone; read on a socket of its own.
    #[must_use]
    pub fn with_pruning(self, socket: Socket) -> Self {
        Self { prune: Some(Prune::new(socket)), ..self }
    }

    /// Goes on forgetting clients. Says whether something is left to do.
    fn prune(&mut self) -> Result<bool, nft::Error> {
        let Some(prune) = &mut self.prune else { return Ok(false) };
        for (family, ids) in self.planner.take_gone() {
            self.gone.entry(family).or_default().extend(ids);
        }
        if !prune.is_reading()
            && let Some((family, ids)) = self.gone.pop_first()
            && let Some(kind) = self.planner.kind(family, CLIENTS)
        {
            prune.begin(family, CLIENTS.into(), kind, ids)?;
        }
        let (found, is_reading) = (prune.step(PAGES)?, prune.is_reading());
        if let Some(found) = found {
            let clients = found.delete(|transaction| self.send(transaction))?;
            if clients > 0 {
                debug!(clients, "forgot clients of endpoints that are gone");
            }
        }
        Ok(is_reading || !self.gone.is_empty())
    }

    /// The same, but what others change is put back at once.
    #[must_use]
    pub fn with_repair(self, repair: Repair) -> Self {
        Self { repair: Some(repair), ..self }
    }

    /// The same, but flows are told of that may lead astray after a commit.
    #[must_use]
    pub fn with_flows(self, flows: Backlog) -> Self {
        Self { flows: Some(flows), ..self }
    }

    /// Tells which flows may lead astray by what is committed.
    fn tell_flows(&mut self) {
        let suspects = self.planner.take_suspects();
        if let Some(flows) = &self.flows {
            flows.add(suspects);
        }
    }

    /// What others changed and was put back so far.
    pub fn repairs(&self) -> Repairs {
        self.repair.as_ref().map(Repair::done).unwrap_or_default()
    }

    /// Takes stock of a family's table, or makes it.
    fn take_up(&mut self, family: Family) -> Result<Stage, nft::Error> {
        let Some(held) = self.socket.held(family)? else {
            let skeleton = self.planner.skeletons().find(|table| table.family == family).map(without_hooks);
            if let Some(skeleton) = skeleton {
                self.send(&diff(None, &skeleton))?;
            }
            self.unhooked.insert(family);
            return Ok(Stage::Filling);
        };
        match self.planner.adopt(held) {
            Some(changes) => self.send(&changes).map(|()| Stage::Filling),
            None => Ok(Stage::Lost), // of another version: replaced as a whole once all is planned
        }
    }

    /// Commits what is planned. Whatever was wrong with it, what the kernel holds tells what is left to do.
    fn flush(&mut self) -> Result<Transaction, nft::Error> {
        if self.stage != Stage::Lost {
            let (mut changes, rest) = (self.planner.take_chains(), self.planner.take());
            match self.send(&changes).and_then(|()| self.send(&rest)) {
                Ok(()) => {
                    changes.append(rest);
                    return Ok(changes);
                }
                Err(error) => warn!(
                    error = &error as &dyn std::error::Error,
                    "not committed; lists the tables to mend them"
                ),
            }
            self.repair.iter().for_each(Repair::refused);
            self.stage = Stage::Lost;
            self.repair.as_mut().map(Repair::yield_to_commit);
        }
        let changes = self.changes_from_held()?;
        self.send(&changes)?;
        self.planner.take(); // the tables said it all
        self.unhooked.clear();
        Ok(changes)
    }

    /// The changes to whatever the kernel holds now.
    fn changes_from_held(&self) -> Result<Transaction, nft::Error> {
        let mut changes = Transaction::default();
        for table in self.planner.tables() {
            changes.append(diff(self.socket.held(table.family)?.as_ref(), &table));
        }
        Ok(changes)
    }

    /// Lets packets in.
    fn hook(&mut self) -> Result<(), nft::Error> {
        let mut hooks = Transaction::default();
        for skeleton in self.planner.skeletons().filter(|table| self.unhooked.contains(&table.family)) {
            hooks.append(diff(Some(&Held::from(&without_hooks(skeleton))), skeleton));
        }
        self.send(&hooks)?;
        self.unhooked.clear();
        Ok(())
    }

    fn send(&mut self, transaction: &Transaction) -> Result<(), nft::Error> {
        trace!(%transaction, "commits");
        match &mut self.repair {
            Some(repair) => repair.commit(&self.socket, transaction),
            None => self.socket.commit(transaction),
        }
    }
}

fn without_hooks(table: &Table) -> Table {
    let mut table = table.clone();
    table.chains.retain(|_, chain| chain.hook.is_none());
    table
}

impl Services for Nftables {
    type Error = nft::Error;

    fn surround(&mut self, surroundings: &Surroundings) {
        self.surroundings = surroundings.clone();
        if self.stage != Stage::Unknown {
            self.planner.surround(surroundings);
        }
    }

    fn begin(&mut self) -> Result<(), nft::Error> {
        if self.stage != Stage::Unknown {
            return Ok(());
        }
        self.planner = Planner::within(&self.families, &self.settings, &self.surroundings);
        self.unhooked.clear();
        let mut stage = Stage::Filling;
        for family in self.families.clone() {
            if self.take_up(family)? == Stage::Lost {
                stage = Stage::Lost;
            }
        }
        self.stage = stage;
        Ok(())
    }

    fn set_node(&mut self, name: &str, node: Option<&Node>) {
        self.planner.set_node(name, node);
    }

    fn admit_nodes(&mut self) {
        let is_known = matches!(self.stage, Stage::InStep | Stage::Filling);
        if is_known && self.planner.pending() > 0 {
            // If it fails, the commit that follows mends it, and says what is wrong if it cannot.
            let _ = self.flush();
        }
    }

    fn set(&mut self, name: &ServicePortName, family: Family, port: Option<ServicePort>) {
        self.is_touched = true;
        let shadowed = self.planner.set(name, family, port.as_ref());
        let key = (name.clone(), family);
        if shadowed.is_empty() {
            self.shadowed.remove(&key);
        } else if self.shadowed.get(&key) != Some(&shadowed) {
            for address in &shadowed {
                warn!("{address}");
            }
            self.shadowed.insert(key.clone(), shadowed);
        }
        match port.as_ref().and_then(excess_turns) {
            None => drop(self.unweighted.remove(&key)),
            Some(turns) if self.unweighted.insert(key) => {
                warn!(service = %name, turns, "weights take too many turns: all endpoints weigh the same");
            }
            Some(_) => {}
        }
        if self.planner.pending() >= BATCH && self.stage != Stage::Lost {
            // If it fails, the commit that follows mends it, and says what is wrong if it cannot.
            let _ = self.flush();
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the shell reads the clock")]
    fn commit(&mut self) -> Result<Committed, nft::Error> {
        let was_in_step = self.stage == Stage::InStep;
        if !was_in_step {
            self.planner.disclaim();
        }
        // What was refused led nobody away yet: what it was to lead away from must outlive the next attempt.
        let retires = was_in_step && self.retired_at.is_none_or(|at| at.elapsed() >= SETTLED);
        if retires {
            self.planner.retire();
        }
        let changes = self.flush()?;
        self.hook()?;
        if self.stage == Stage::Lost {
            self.planner.suspect_all();
        }
        self.tell_flows();
        let is_mended = mem::replace(&mut self.stage, Stage::InStep) != Stage::InStep;
        if retires || is_mended {
            self.retired_at = Some(Instant::now());
        }

        let is_touched = mem::take(&mut self.is_touched);
        let mut is_pruned = true;
        if !is_touched && changes.is_empty() {
            if self.planner.replenish() {
                self.flush()?;
            }
            is_pruned = self.prune().map_or_else(
                |error| {
                    // What was committed is: this is no reason to try that again.
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "clients of a gone endpoint stay until their time is up"
                    );
                    true
                },
                |is_left| !is_left,
            );
        }
        let (added, removed) = changes.elements();
        let elements = if is_touched { added + removed } else { 0 };
        // After a change, there may be something to remove, and classes to be made in advance.
        Ok(Committed {
            elements,
            is_full: is_mended,
            is_unfinished: is_touched || !changes.is_empty() || !self.planner.is_settled() || !is_pruned,
        })
    }

    async fn disturbed(&mut self) {
        match &mut self.repair {
            Some(repair) => repair.disturbed().await,
            None => future::pending().await,
        }
    }

    fn repair(&mut self) -> bool {
        let Some(repair) = &mut self.repair else { return true };
        if self.stage == Stage::InStep {
            let before = repair.done().repairs;
            let repaired = repair.run(&self.socket, || self.planner.tables().collect());
            let is_changed = repair.done().repairs != before;
            let Err(error) = repaired else {
                if is_changed {
                    self.planner.suspect_all();
                    self.tell_flows();
                }
                return true;
            };
            let error: &(dyn std::error::Error + 'static) = &error;
            warn!(error, "not put back one by one; lists the tables to mend them");
            self.stage = Stage::Lost;
            return false;
        }
        let is_disturbed = repair.yield_to_commit();
        if is_disturbed && self.stage == Stage::Filling {
            self.stage = Stage::Lost;
        }
        !is_disturbed
    }
}

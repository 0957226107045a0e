//! Puts back what others change in our tables.
//!
//! In: what the kernel tells of other processes' transactions, and an audit now and then for what it could not tell. Out: the changes
//! that make the tables what was planned, at once; a warning that says what was found and who did it; a count. Whoever undoes that
//! again and again is answered at longer and longer intervals, and named. Only what is in doubt is read: see
//! [`dataplane::nft::Doubt`].

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    error::Error,
    future,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    sync::Arc,
    time::Duration,
};

use dataplane::{
    nft::{self, Audit, Doubt, Intrusion, Monitor, Notice, Socket, Table, Transaction},
    packet::Family,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};
use tracing::{debug, error, warn};

use self::{contest::Contest, findings::Findings, host_ports::Touched};
use crate::metrics::RepairMetrics;

mod contest;
mod findings;
pub mod host_ports;

/// How the audit reads: for one part of the time, not for this many.
const REST: u32 = 10;

/// When an audit that must wait looks again.
const UNTIL_IN_STEP: Duration = Duration::from_secs(1);

/// Notices taken in before anything else is done, at most.
const MOST_AT_ONCE: usize = 4096;

/// What has been put back so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repairs {
    /// How often something was.
    pub repairs: u64,
    /// How often the kernel had no room to tell what others did.
    pub missed: u64,
    /// How often all was read and compared.
    pub audits: u64,
}

/// What is known of others' changes, and what is to be done about them when.
#[derive(Debug)]
pub struct Repair {
    /// None: only audits find anything.
    monitor: Option<AsyncFd<Monitor>>,
    families: Vec<Family>,
    doubts: BTreeMap<Family, Doubt>,
    by: BTreeSet<String>,
    contest: Contest,
    /// When what is in doubt is to be looked at.
    due: Option<Instant>,
    last: Option<Instant>,
    audit: Audit,
    /// Zero: no audit unless something was missed.
    period: Duration,
    /// When the audit begins or reads its next page.
    next_page: Option<Instant>,
    /// Whether the audit begins anew once it is over.
    is_audit_due: bool,
    metrics: RepairMetrics,
    /// Whoever looks after the tables of host ports hears when they are touched.
    host_ports: Option<Arc<Touched>>,
}

impl Repair {
    /// Begins to listen. `audit` is a socket of its own.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(
        monitor: Option<Monitor>,
        audit: Socket,
        families: &[Family],
        period: Duration,
    ) -> Result<Self, nft::Error> {
        let monitor = monitor.map(wait_for).transpose();
        let mut repair = Self {
            monitor: monitor
                .map_err(|source| nft::Error::Open { hint: "it cannot be waited for", source })?,
            families: families.to_vec(),
            doubts: BTreeMap::new(),
            by: BTreeSet::new(),
            contest: Contest::default(),
            due: None,
            last: None,
            audit: Audit::new(audit),
            period,
            next_page: None,
            is_audit_due: false,
            metrics: RepairMetrics::default(),
            host_ports: None,
        };
        repair.next_page = repair.next_audit();
        Ok(repair)
    }

    /// The same, but tells when somebody touches the tables of host ports.
    #[must_use]
    pub fn telling_of_host_ports(self, touched: Arc<Touched>) -> Self {
        Self { host_ports: Some(touched), ..self }
    }

    /// The same, counted there.
    #[must_use]
    pub fn with_metrics(self, metrics: RepairMetrics) -> Self {
        Self { metrics, ..self }
    }

    /// What has been done so far.
    pub fn done(&self) -> Repairs {
        let RepairMetrics { repairs, missed, audits, .. } = &self.metrics;
        Repairs { repairs: repairs.get(), missed: missed.get(), audits: audits.get() }
    }

    /// A transaction was refused.
    pub(super) fn refused(&self) {
        self.metrics.refused.inc();
    }

    /// Commits a transaction of ours.
    pub fn commit(&mut self, socket: &Socket, transaction: &Transaction) -> Result<(), nft::Error> {
        match &mut self.monitor {
            Some(monitor) => {
                let committed = monitor.get_mut().commit(socket, transaction);
                let (notices, _) = hear(monitor.get_mut()); // that others were not heard meanwhile
                self.take_in(notices);
                committed
            }
            None => socket.commit(transaction),
        }
    }

    /// Waits until there is something to look at. Nothing is lost if the future is dropped.
    pub async fn disturbed(&mut self) {
        loop {
            let next = self.due.into_iter().chain(self.next_page).min();
            if next.is_some_and(|next| next <= Instant::now()) {
                return;
            }
            let heard = async {
                let Some(monitor) = &mut self.monitor else { return future::pending().await };
                let mut guard = monitor.readable_mut().await?;
                let (notices, is_all) = hear(guard.get_inner_mut());
                if is_all {
                    guard.clear_ready();
                }
                Ok::<_, io::Error>(notices)
            };
            tokio::select! {
                heard = heard => match heard {
                    Ok(notices) => self.take_in(notices),
                    Err(error) => {
                        error!(%error, "no longer listening to what others do; audits go on");
                        self.monitor = None;
                    }
                },
                () = super::at(next) => return,
            }
        }
    }

    fn take_in(&mut self, notices: Vec<Notice>) {
        for notice in notices {
            let intrusion = match notice {
                Notice::Changed(intrusion) => intrusion,
                Notice::Missed => {
                    self.metrics.missed.inc();
                    self.is_audit_due = true;
                    if self.audit.is_over() {
                        self.next_page = Some(Instant::now());
                    }
                    Intrusion { doubts: self.outlines(), are_host_ports_touched: true, by: None }
                }
            };
            if intrusion.are_host_ports_touched
                && let Some(touched) = &self.host_ports
            {
                let by = intrusion.by.as_ref().map_or("unknown".to_owned(), ToString::to_string);
                touched.say([(by, ())]);
            }
            if !intrusion.doubts.is_empty() {
                self.suspect(intrusion);
            }
        }
    }

    fn outlines(&self) -> BTreeMap<Family, Doubt> {
        self.families.iter().map(|family| (*family, Doubt::about_outline())).collect()
    }

    fn suspect(&mut self, intrusion: Intrusion) {
        let by = intrusion.by.map(|process| process.to_string());
        if self.due.is_none() {
            let now = Instant::now();
            let since = self.last.map_or(Duration::MAX, |last| now.duration_since(last));
            let pause = self.contest.pause(since);
            if pause.is_new {
                let by = by.as_deref().unwrap_or("somebody");
                warn!(by, "changes our tables again and again; it is put back, but less and less at once");
            }
            self.due = Some(now + pause.length);
        }
        self.by.extend(by);
        self.doubt(intrusion.doubts);
    }

    fn doubt(&mut self, doubts: impl IntoIterator<Item = (Family, Doubt)>) {
        for (family, doubt) in doubts {
            self.doubts.entry(family).or_default().extend(doubt);
        }
    }

    /// Looks at what is in doubt, and makes it what the tables say. They are asked for only if need be.
    pub fn run(&mut self, socket: &Socket, tables: impl FnOnce() -> Vec<Table>) -> Result<(), nft::Error> {
        let tables = LazyCell::new(tables);
        if self.next_page.is_some_and(|at| at <= Instant::now()) {
            self.read_page(|| tables.as_slice());
        }
        if self.due.is_none_or(|at| at > Instant::now()) {
            return Ok(());
        }
        let began = Instant::now();
        let (doubts, by) = self.take_doubts();
        let mut changes = Transaction::default();
        for (family, doubt) in doubts {
            if let Some(table) = tables.iter().find(|table| table.family == family) {
                changes.append(socket.amends(table, &doubt)?);
            }
        }
        if !changes.is_empty() {
            self.commit(socket, &changes)?;
            self.metrics.repairs.inc();
            let (repairs, found) = (self.done().repairs, Findings::from(&changes));
            let took_ms = began.elapsed().as_millis();
            warn!(%found, by, repairs, took_ms, "put back what others changed in our tables");
        }
        Ok(())
    }

    /// Leaves all to a commit that compares everything. False: nobody has disturbed us, so it need not be made at once.
    pub fn yield_to_commit(&mut self) -> bool {
        let now = Instant::now();
        if self.next_page.is_some_and(|at| at <= now) {
            self.next_page = Some(now + UNTIL_IN_STEP);
        }
        let is_disturbed = self.due.is_some_and(|at| at <= now);
        if is_disturbed {
            let (_, by) = self.take_doubts();
            self.metrics.repairs.inc();
            warn!(
                by,
                repairs = self.done().repairs,
                "others changed our tables; all of them is compared anew"
            );
        }
        is_disturbed
    }

    fn take_doubts(&mut self) -> (BTreeMap<Family, Doubt>, String) {
        self.due = None;
        self.last = Some(Instant::now());
        let by: Vec<_> = std::mem::take(&mut self.by).into_iter().collect();
        let by = if by.is_empty() { "unknown".to_owned() } else { by.join(", ") };
        (std::mem::take(&mut self.doubts), by)
    }

    /// Takes the audit a step further.
    fn read_page<'a>(&mut self, tables: impl FnOnce() -> &'a [Table]) {
        let began = Instant::now();
        if self.audit.is_over() {
            self.is_audit_due = false;
            self.audit.begin(tables());
            self.doubt(self.outlines());
            self.due.get_or_insert(began);
        } else {
            match self.audit.step(tables) {
                Ok(None) => {}
                Ok(doubt) => {
                    self.doubt(doubt);
                    self.due.get_or_insert(began);
                }
                Err(error) => {
                    let error: &(dyn Error + 'static) = &error;
                    warn!(error, "a map is not audited");
                }
            }
        }
        if !self.audit.is_over() {
            self.next_page = Some(Instant::now() + began.elapsed() * REST);
            return;
        }
        self.metrics.audits.inc();
        debug!(audits = self.done().audits, "audited");
        self.next_page = if self.is_audit_due { Some(Instant::now()) } else { self.next_audit() };
    }

    /// When the next audit is due: after the period, or up to a tenth later, so that not all nodes are busy at once.
    fn next_audit(&self) -> Option<Instant> {
        let tenths = RandomState::new().build_hasher().finish() % 100;
        let jitter = self.period / 1000 * u32::try_from(tenths).unwrap_or(0);
        (!self.period.is_zero()).then(|| Instant::now() + self.period + jitter)
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe to call, and the monitor keeps its descriptor as long as it lives"
)]
fn wait_for(monitor: Monitor) -> io::Result<AsyncFd<Monitor>> {
    AsyncFd::with_interest(monitor, Interest::READABLE)
}

/// Hears what there is to hear, and says whether that is all.
fn hear(monitor: &mut Monitor) -> (Vec<Notice>, bool) {
    let mut notices = Vec::new();
    while notices.len() < MOST_AT_ONCE {
        match monitor.next_notice() {
            Ok(notice) => notices.push(notice),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (notices, true),
            Err(error) => {
                warn!(%error, "cannot hear what others do");
                notices.push(Notice::Missed);
                return (notices, true);
            }
        }
    }
    (notices, false)
}

//! Puts back what others take out of the plugin's tables, of host ports and of masquerade.
//!
//! In: that somebody touched these tables, and the claims that the plugin keeps in the run directory. Out: tables that say what the claims
//! say; a warning where they did not. The plugin changes them, too, so being touched is nothing odd: only what is found is.
//! All of it is done while the claims are locked, when tables and claims agree unless something is wrong.

use std::{collections::BTreeSet, net::IpAddr, path::Path, sync::Arc, time::Duration};

use dataplane::{
    claims::{self, Claim, Claims, kernel},
    conntrack,
    disk::{Directory, Durability},
    host_ports::{HostPort, flows},
    nft, owner,
    rtnl::{self, Kernel},
    sysctl,
};
use tokio::{
    task::{self, JoinError},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{contest::Contest, findings::Findings};
use crate::{listeners::latest::Latest, metrics::RepairMetrics, sync::at};

/// What is touched again so soon is looked at once.
const SETTLE: Duration = Duration::from_millis(20);

/// What could not be done is tried again so soon, whether anybody touches the tables or not.
const AGAIN: Duration = Duration::from_secs(1);

/// Who touched the tables since that was heard last.
pub type Touched = Latest<String, ()>;

/// Why host ports could not be put back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The claims cannot be read.
    #[error("read the claims on host ports")]
    Claims(#[from] claims::Error),
    /// The kernel cannot be asked, or refuses.
    #[error("compare the tables of host ports")]
    Nft(#[from] nft::Error),
    /// This boot cannot be told from others.
    #[error("tell this boot from others")]
    Boot(#[from] sysctl::Error),
    /// Flows that began meanwhile go on.
    #[error("end flows that began while host ports were missing")]
    Flows(#[from] conntrack::Error),
    /// The node's addresses are not known.
    #[error("ask for the node's addresses")]
    Addresses(#[from] rtnl::Error),
    /// The look at them broke.
    #[error("look after host ports")]
    Task(#[from] JoinError),
}

/// What looks after host ports.
#[derive(Debug)]
pub struct HostPorts {
    tables: Arc<Tables>,
    touched: Arc<Touched>,
    /// Zero: only when they are touched.
    period: Duration,
    contest: Contest,
    repaired_at: Option<Instant>,
    metrics: RepairMetrics,
    last_error: Option<String>,
}

/// The claims and the tables.
#[derive(Debug)]
struct Tables {
    claims: Claims,
    kernel: std::sync::Mutex<kernel::Tables>,
    boot_id: String,
}

impl HostPorts {
    /// Looks after the claims in that run directory, through sockets of its own.
    pub fn new(
        run_dir: &Path,
        kernel: kernel::Tables,
        touched: Arc<Touched>,
        period: Duration,
    ) -> Result<Self, Error> {
        let claims = Claims::of(&Directory::new(run_dir, Durability::Volatile))?;
        let boot_id = sysctl::read("kernel/random/boot_id")?;
        Ok(Self {
            tables: Arc::new(Tables { claims, kernel: kernel.into(), boot_id }),
            touched,
            period,
            contest: Contest::default(),
            repaired_at: None,
            metrics: RepairMetrics::default(),
            last_error: None,
        })
    }

    /// The same, counted there.
    #[must_use]
    pub fn with_metrics(self, metrics: RepairMetrics) -> Self {
        Self { metrics, ..self }
    }

    /// Looks at once, whenever the tables are touched, and now and then, until cancelled.
    pub async fn run(mut self, cancelled: CancellationToken) {
        let mut by: BTreeSet<String> = BTreeSet::new();
        let mut pause = Duration::ZERO;
        loop {
            let look = async {
                sleep(pause).await;
                self.look(&by).await
            };
            pause = tokio::select! {
                () = cancelled.cancelled() => return,
                pause = look => pause,
            };
            let is_owed = self.last_error.is_some();
            let next = if is_owed { Some(AGAIN) } else { (!self.period.is_zero()).then_some(self.period) };
            if !is_owed {
                by.clear();
            }
            tokio::select! {
                () = cancelled.cancelled() => return,
                heard = self.touched.heard() => by.extend(heard.into_keys()),
                () = at(next.map(|wait| Instant::now() + wait)) => {}
            }
            pause = pause.max(SETTLE);
        }
    }

    /// Puts back what is missing, and says how long to wait before the next time.
    async fn look(&mut self, by: &BTreeSet<String>) -> Duration {
        match self.mend().await {
            Ok(changes) if changes.is_empty() => {
                self.last_error = None;
                Duration::ZERO
            }
            Ok(changes) => {
                self.last_error = None;
                let by = by.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                let by = if by.is_empty() { "unknown" } else { &by };
                for (table, changes) in &changes {
                    self.metrics.host_ports.inc();
                    let (repairs, found) = (self.metrics.host_ports.get(), Findings::from(changes));
                    let is_of_host_ports = *table == owner::HOST_PORTS_TABLE;
                    let what = if is_of_host_ports { "host ports" } else { "the masquerade of pods" };
                    warn!(%found, by, repairs, "put back {what}");
                }
                let now = Instant::now();
                let since = self.repaired_at.replace(now).map_or(Duration::MAX, |last| now - last);
                self.contest.pause(since).length
            }
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                let causes = std::iter::successors(Some(error), |error| error.source());
                let message = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
                if self.last_error.as_ref() != Some(&message) {
                    warn!(error, "host ports are not looked after");
                    self.last_error = Some(message);
                }
                Duration::ZERO
            }
        }
    }

    /// Makes the tables what the claims say, and returns the changes that it took, by table.
    async fn mend(&self) -> Result<kernel::Taken, Error> {
        let tables = Arc::clone(&self.tables);
        let (changes, claims) = task::spawn_blocking(move || tables.mend()).await??;
        let ports: Vec<HostPort> =
            claims.iter().filter_map(|claim| claim.what.host_port().copied()).collect();
        let are_ports_changed = changes.iter().any(|(table, _)| *table == owner::HOST_PORTS_TABLE);
        if are_ports_changed && flows::may_lead_astray(&ports) {
            let own = Kernel::open()?.addresses().await?;
            let own: BTreeSet<IpAddr> = own.into_iter().map(|own| own.network.ip()).collect();
            let end = move || flows::end_those_from_before(&mut conntrack::Socket::open()?, &ports, &own);
            task::spawn_blocking(end).await??;
        }
        Ok(changes)
    }
}

impl Tables {
    /// Waits for the lock; call it where waiting holds up nobody.
    fn mend(&self) -> Result<(kernel::Taken, Vec<Claim>), Error> {
        if !self.claims.are_there() {
            return Ok((Vec::new(), Vec::new()));
        }
        let locked = self.claims.lock()?;
        let mut claims = locked.all()?;
        claims.retain(|claim| claim.boot_id == self.boot_id);
        let tables = self.kernel.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok((tables.serve(&claims)?, claims))
    }
}

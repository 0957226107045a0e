//! What kube-proxy left on a node that it served before, so that nothing is served twice.
//!
//! In: nftables tables of that name, and those of iptables on nftables. Out: kube-proxy's pieces of them are gone, whatever else is in them
//! stays. Without them packets would still find services by rules that nobody keeps up to date. A kube-proxy that runs is not fought: if its
//! pieces come back, that is said once.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use dataplane::{
    disk::{self, Directory, Durability},
    nft::foreign::{Error, Foreign, Removal},
};
use tokio::{sync::oneshot, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::service_port::Family;

pub mod chains;

/// The table of kube-proxy's nftables mode, in both families.
const TABLE: &str = "kube-proxy";

/// The tables of iptables on nftables that kube-proxy's iptables mode uses.
const IPTABLES: [&str; 3] = ["filter", "nat", "mangle"];

/// When to look whether it came back: kube-proxy looks at its own rules every 30 s (`syncPeriod`).
const LOOK_AGAIN: Duration = Duration::from_mins(2);

/// How often pieces are listed anew that somebody else changes meanwhile.
const TRIES: usize = 5;

/// What there is of kube-proxy's.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// `ip kube-proxy`, and so on.
    pub tables: Vec<String>,
    /// How many chains in tables of iptables.
    pub chains: usize,
}

impl Found {
    /// Says whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, other: Self) {
        self.tables.extend(other.tables);
        self.chains += other.chains;
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = self.tables.iter().map(|table| format!("table {table}"));
        let chains = Some(format!("{} chains of iptables", self.chains)).filter(|_| self.chains > 0);
        f.write_str(&tables.chain(chains).collect::<Vec<_>>().join(", "))
    }
}

/// Says what there is of kube-proxy's, and changes nothing.
pub fn look() -> Result<Found, Error> {
    let (foreign, mut found) = (Foreign::open()?, Found::default());
    each(|family, table| {
        found.add(pieces(&foreign, family, table)?.0);
        Ok(())
    })?;
    Ok(found)
}

/// Removes all that there is of kube-proxy's in this network namespace, as much of it as it can, and says what that was.
pub fn remove() -> Result<Found, Error> {
    let (foreign, mut removed) = (Foreign::open()?, Found::default());
    each(|family, table| {
        removed.add(remove_from(&foreign, family, table)?);
        Ok(())
    })?;
    Ok(removed)
}

/// Removes what there is of kube-proxy's, and tells what that was, and what only legacy iptables can remove.
pub fn remove_and_tell() -> Result<(), Error> {
    let removed = remove();
    if let Some(command) = legacy() {
        warn!(
            command,
            "legacy iptables is in use here: if kube-proxy was in iptables mode, remove its rules by this"
        );
    }
    let removed = removed?;
    if removed.is_empty() {
        debug!("kube-proxy left nothing here");
    } else {
        info!(%removed, "removed what kube-proxy left");
    }
    Ok(())
}

/// Does something with every table that may have something of kube-proxy's, and returns the first error.
fn each(mut work: impl FnMut(Family, &str) -> Result<(), Error>) -> Result<(), Error> {
    let mut result = Ok(());
    for family in Family::ALL {
        for table in [TABLE].into_iter().chain(IPTABLES) {
            result = result.and(work(family, table));
        }
    }
    result
}

fn remove_from(foreign: &Foreign, family: Family, table: &str) -> Result<Found, Error> {
    let mut tries = 1;
    loop {
        let (found, removals) = pieces(foreign, family, table)?;
        if removals.is_empty() {
            return Ok(found);
        }
        match foreign.remove(family, table, &removals) {
            Ok(()) => return Ok(found),
            Err(error) if error.is_outdated() && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

fn pieces(foreign: &Foreign, family: Family, table: &str) -> Result<(Found, Vec<Removal>), Error> {
    if table == TABLE {
        let is_there = foreign.has_table(family, table)?;
        let tables: Vec<_> = is_there.then(|| format!("{family} {table}")).into_iter().collect();
        return Ok((Found { tables, chains: 0 }, is_there.then_some(Removal::Table).into_iter().collect()));
    }
    let removals = foreign.table(family, table)?.as_ref().map(chains::removals).unwrap_or_default();
    let chains = removals.iter().filter(|removal| matches!(removal, Removal::Chain(_))).count();
    Ok((Found { tables: Vec::new(), chains }, removals))
}

/// What there is of legacy iptables in this network namespace, and what to do about it; nobody but its own programs can look into it.
pub fn legacy() -> Option<String> {
    let families = [("/proc/net/ip_tables_names", "iptables"), ("/proc/net/ip6_tables_names", "ip6tables")];
    let used = families
        .iter()
        .filter(|(names, _)| fs::read_to_string(names).is_ok_and(|text| !text.trim().is_empty()));
    let commands: Vec<_> = used
        .map(|(_, program)| {
            format!("{program}-legacy-save | grep -vE '{}' | {program}-legacy-restore", chains::PATTERN)
        })
        .collect();
    (!commands.is_empty()).then(|| commands.join("; "))
}

/// Where a daemon finds itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Start {
    /// Another proxy may have served the node until now.
    First,
    /// An earlier run of ours served it, and has removed what another left.
    Again,
}

/// In the run directory: what kube-proxy left has been removed, since this boot.
const REMOVED: &str = "kube-proxy-removed";

fn directory(run_dir: &Path) -> Directory {
    Directory::new(run_dir, Durability::Volatile)
}

/// Says which start this is.
pub fn start(run_dir: &Path) -> Result<Start, disk::Error> {
    let is_done = directory(run_dir).read(REMOVED)?.is_some();
    Ok(if is_done { Start::Again } else { Start::First })
}

/// The next start is the first again.
pub fn forget(run_dir: &Path) -> Result<(), disk::Error> {
    directory(run_dir).remove(REMOVED).map(drop)
}

/// Says whether a kube-proxy tells its mode at that address, where a daemon of ours would otherwise.
pub fn answers_at(address: SocketAddr) -> bool {
    const PATIENCE: Duration = Duration::from_secs(2);
    const MOST: u64 = 4 << 10;
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(host, address.port()), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /proxyMode HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(MOST).read_to_string(&mut answer)?;
        io::Result::Ok(answer)
    };
    ask().is_ok_and(|answer| MODES.iter().any(|mode| answer.trim_end().ends_with(mode)))
}

/// kube-proxy's modes on Linux.
const MODES: [&str; 3] = ["iptables", "ipvs", "nftables"];

/// Takes the node over once our own rules serve it: removes what kube-proxy left at the first start, until that is done, and says so if it
/// comes back or is still there at another.
pub async fn take_over(
    start: Start,
    run_dir: PathBuf,
    first_commit: oneshot::Receiver<()>,
    cancelled: CancellationToken,
) {
    let take_over = async {
        if first_commit.await.is_err() {
            return;
        }
        if start == Start::First {
            let mut is_told = false;
            while let Err(error) = on_a_thread(remove_and_tell).await {
                if !is_told {
                    let error: &(dyn std::error::Error + 'static) = &error;
                    warn!(error, "what kube-proxy left is still there, at least some of it: tries again");
                    is_told = true;
                }
                sleep(LOOK_AGAIN).await;
            }
            if let Err(error) = directory(&run_dir).replace(REMOVED, b"") {
                debug!(%error, "the next start removes what kube-proxy left once more");
            }
            sleep(LOOK_AGAIN).await;
        }
        match on_a_thread(look).await {
            Ok(found) if found.is_empty() => {}
            Ok(found) => warn!(
                %found,
                "kube-proxy's rules are here beside ours: stop kube-proxy, and remove them (nft delete table ip kube-proxy, kube-proxy --cleanup)"
            ),
            Err(error) => debug!(%error, "cannot look whether kube-proxy is here"),
        }
    };
    tokio::select! {
        () = cancelled.cancelled() => {}
        () = async { take_over.await; std::future::pending().await } => {}
    }
}

/// Lists of a hundred thousand rules take their time.
async fn on_a_thread<T: Send + 'static>(work: fn() -> Result<T, Error>) -> Result<T, Error> {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

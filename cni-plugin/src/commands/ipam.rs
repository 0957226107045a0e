//! Lists leases, tells which of them nobody uses, and gives them back.
//!
//! In: a command. Out: a report. It makes no file and changes none, but for `release`, which does what DEL does.

use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use dataplane::{
    disk::{Directory, Durability},
    rtnl::Kernel,
};

use super::{
    Command, Options,
    report::{Row, as_json, table},
};
use crate::{
    Outcome,
    failure::{Code, Failure},
    ipam::{
        standing::Standing,
        store::{self, Record, Store},
    },
    ops::{self, reclaim::Node},
    request::{Attachment, is_identifier},
};

/// An attachment that has a lease.
struct Lease {
    network: String,
    attachment: Attachment,
    record: Option<Record>,
}

/// Does what is asked for.
pub(super) fn run(command: &Command, options: &Options, now: SystemTime) -> Result<Outcome, Failure> {
    let runtime = ops::runtime()?;
    runtime.block_on(async {
        let host = ops::kernel()?;
        let stores = stores(options)?;
        let leases = leases(&stores)?;
        let node = Node::look(&host).await?; // after the leases: the link of a lease is made after it
        let rows: Vec<Row> = leases
            .iter()
            .map(|Lease { network, attachment, record }| {
                let standing = node.standing(network, attachment, record.as_ref());
                let owner = (attachment.container_id(), attachment.ifname());
                Row::of(network, owner, record.as_ref(), standing)
            })
            .collect();
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        match command {
            Command::Audit => Ok(audit(options, rows, &orphans(&stores)?, now)),
            Command::Release { whose, stale, force } => {
                let chosen = if *stale { stale_ones(&rows) } else { chosen(&rows, whose, *force)? };
                let swept = if *stale { sweep(&stores)? } else { 0 };
                release(&leases, &rows, &chosen, &stores, &host, swept).await
            }
            Command::Help | Command::List => {
                let stdout = if options.json { as_json(&rows, &[]) } else { table(&rows, now) };
                Ok(Outcome { stdout, ..Outcome::default() })
            }
        }
    })
}

/// The stores of all networks, or of the one that is asked for.
fn stores(options: &Options) -> Result<Vec<(String, Store)>, Failure> {
    let run_dir = Directory::new(&options.run_dir, Durability::Volatile);
    let names = run_dir.names().map_err(store::Error::from)?;
    let of_interest =
        |name: &String| is_identifier(name) && options.network.as_ref().is_none_or(|network| network == name);
    let stores = names.into_iter().filter(of_interest).map(|name| {
        let store = Store::of(&run_dir, &name)?;
        Ok((name, store))
    });
    let stores: Vec<_> = stores.collect::<Result<_, store::Error>>()?;
    match &options.network {
        Some(network) if stores.is_empty() => {
            let dir = options.run_dir.display();
            Err(refusal(format!("network {network} has no leases in {dir}: right name and --run-dir?")))
        }
        _ => Ok(stores),
    }
}

fn leases(stores: &[(String, Store)]) -> Result<Vec<Lease>, Failure> {
    let mut leases = Vec::new();
    for (network, store) in stores {
        for attachment in store.attachments()? {
            let record = store.find(&attachment)?;
            leases.push(Lease { network: network.clone(), attachment, record });
        }
    }
    Ok(leases)
}

/// Addresses that are taken by nobody.
fn orphans(stores: &[(String, Store)]) -> Result<Vec<String>, Failure> {
    let mut all = Vec::new();
    for (network, store) in stores {
        all.extend(store.orphans()?.into_iter().map(|(name, _)| format!("{network}: {name}")));
    }
    Ok(all)
}

fn sweep(stores: &[(String, Store)]) -> Result<usize, Failure> {
    let mut swept = 0;
    for (_, store) in stores {
        let orphans = store.orphans()?;
        swept += orphans.len();
        for orphan in orphans {
            store.remove_orphan(&orphan)?;
        }
    }
    Ok(swept)
}

fn audit(options: &Options, rows: Vec<Row>, orphans: &[String], now: u64) -> Outcome {
    let all = rows.len();
    let found: Vec<Row> = rows.into_iter().filter(|row| row.standing != Standing::InUse).collect();
    let (stale, unwired) = (found.iter().filter(|row| row.is_stale).count(), found.len());
    let unwired = unwired - stale;
    let exit_code = u8::from(!found.is_empty() || !orphans.is_empty());
    if options.json {
        return Outcome { stdout: as_json(&found, orphans), exit_code, ..Outcome::default() };
    }
    let mut stdout = if found.is_empty() { String::new() } else { format!("{}\n", table(&found, now)) };
    for orphan in orphans {
        let _ = writeln!(stdout, "{orphan} is taken by nobody");
    }
    let _ = writeln!(
        stdout,
        "{all} leases: {} in use, {stale} stale, {unwired} without a link",
        all - found.len()
    );
    if stale > 0 || !orphans.is_empty() {
        stdout += "give the stale ones back with: fairway ipam release --stale\n";
    }
    Outcome { stdout, exit_code, ..Outcome::default() }
}

/// Stale leases that are this plugin's to give back.
fn stale_ones(rows: &[Row]) -> Vec<usize> {
    rows.iter()
        .enumerate()
        .filter(|(_, row)| row.is_stale && row.delegate.is_none())
        .map(|(place, _)| place)
        .collect()
}

/// Finds whose leases are meant: all of a container, by its id or the beginning of it, or the one with an address.
fn chosen(rows: &[Row], whose: &[String], force: bool) -> Result<Vec<usize>, Failure> {
    let mut chosen = Vec::new();
    for word in whose {
        let is_meant = |row: &Row| match word.parse() {
            Ok(address) => row.addresses.contains(&address),
            Err(_) => row.container_id.starts_with(word.as_str()),
        };
        let meant: Vec<(usize, &Row)> = rows.iter().enumerate().filter(|(_, row)| is_meant(row)).collect();
        let mut containers: Vec<&str> = meant.iter().map(|(_, row)| row.container_id.as_str()).collect();
        containers.dedup();
        match containers.as_slice() {
            [] => return Err(refusal(format!("{word} has no lease; see fairway ipam list"))),
            [_] => {}
            _ => return Err(refusal(format!("{word} is the beginning of {}", containers.join(" and of ")))),
        }
        if let Some(name) = meant.iter().find_map(|(_, row)| row.delegate.as_ref()) {
            return Err(refusal(format!(
                "{word} was leased by {name}: stop the pod, and the runtime has {name} give it back, or run GC"
            )));
        }
        if let Some((_, row)) = meant.iter().find(|(_, row)| !row.is_stale && !force) {
            let name = row.pod.as_deref().unwrap_or(&row.container_id);
            return Err(refusal(format!(
                "{word} is {name}'s, {}: stop the pod, or take its network away with --force",
                row.standing
            )));
        }
        chosen.extend(meant.into_iter().map(|(place, _)| place));
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

async fn release(
    leases: &[Lease],
    rows: &[Row],
    chosen: &[usize],
    stores: &[(String, Store)],
    host: &Kernel,
    swept: usize,
) -> Result<Outcome, Failure> {
    let mut stdout = String::new();
    let mut failures = Vec::new();
    for (lease, row) in chosen.iter().filter_map(|place| leases.get(*place).zip(rows.get(*place))) {
        let Some((_, store)) = stores.iter().find(|(network, _)| *network == lease.network) else { continue };
        match ops::del::undo(&lease.network, host, store, (&lease.attachment, None)).await {
            Ok(()) => {
                let addresses: Vec<String> = row.addresses.iter().map(ToString::to_string).collect();
                let addresses =
                    if addresses.is_empty() { "what it had".to_owned() } else { addresses.join(", ") };
                let _ = writeln!(
                    stdout,
                    "released {addresses} of {}",
                    row.pod.as_ref().unwrap_or(&row.container_id)
                );
            }
            Err(failure) => failures.push(failure),
        }
    }
    if swept > 0 {
        let _ = writeln!(stdout, "released {swept} taken by nobody");
    }
    if stdout.is_empty() && failures.is_empty() {
        "nothing to release\n".clone_into(&mut stdout);
    }
    match Failure::first_of(failures) {
        Some(failure) => Err(failure.under(Code::Incomplete)),
        None => Ok(Outcome { stdout, ..Outcome::default() }),
    }
}

fn refusal(msg: String) -> Failure {
    Failure { code: Code::InvalidConfiguration, msg, details: String::new() }
}

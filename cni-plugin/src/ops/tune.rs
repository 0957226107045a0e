//! A pod's kernel parameters and the settings of its link: set, compared, and set back.
//!
//! The settings of a link go with it, and so do its own parameters. What the others of a namespace were is kept before they are
//! set: a namespace may outlive its link.

use std::{collections::BTreeMap, path::Path};

use dataplane::{
    netns::{self, Netns},
    rtnl::{self, Kernel, Link},
    sysctl,
};

use super::Sandbox;
use crate::{
    failure::{Code, Coded, Failure},
    ipam::store::{Before, Store},
    request::{Attachment, Target},
    tuning::{Tuning, goes_with_link, in_one_line},
};

/// Where a node's administrator says which kernel parameters the reference plugin may set. To pass over it would be wrong.
const ALLOW_LIST: &str = "/etc/cni/tuning/allowlist.conf";

/// Why a pod could not be tuned.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(
        "sysctl: {ALLOW_LIST} says which may be set, in regular expressions, which are not understood here: leave sysctl to the plugin tuning"
    )]
    AllowList,
    #[error("tune the pod in its namespace")]
    Sysctl(#[from] sysctl::Error),
    #[error("tune the pod's link")]
    Rtnl(#[from] rtnl::Error),
    #[error("tune the pod in its namespace")]
    Netns(#[from] netns::Error),
}

impl Coded for Error {
    fn code(&self) -> Code {
        match self {
            Self::AllowList => Code::UnsupportedField,
            Self::Sysctl(error) if error.is_not_found() => Code::InvalidConfiguration,
            Self::Sysctl(_) | Self::Rtnl(_) => Code::Wiring,
            Self::Netns(_) => Code::InvalidNetns,
        }
    }
}

/// Tunes a pod that is wired. What an earlier ADD set, and this one does not, is set back.
pub(super) async fn tune(
    tuning: &Tuning,
    target: &Target,
    sandbox: &Sandbox,
    store: &Store,
) -> Result<(), Failure> {
    let ifname = target.attachment.ifname();
    let wanted = tuning.parameters(ifname);
    if !wanted.is_empty() && Path::new(ALLOW_LIST).exists() {
        return Err(Error::AllowList.into());
    }
    let known = store.before(&target.attachment)?.filter(|known| known.netns_inode == sandbox.inode);
    if !wanted.is_empty() || known.is_some() {
        let mut before = known.clone().unwrap_or_else(|| Before {
            netns: target.netns.to_string_lossy().into_owned(),
            netns_inode: sandbox.inode,
            values: BTreeMap::new(),
        });
        let is_new = |path: &&String| !before.values.contains_key(*path) && !goes_with_link(path, ifname);
        let new: Vec<&String> = wanted.keys().filter(is_new).collect();
        before.values.extend(in_namespace(&sandbox.netns, || read(new))?);
        if known.map_or(!before.values.is_empty(), |known| known != before) {
            store.keep_before(&target.attachment, &before)?;
        }
        in_namespace(&sandbox.netns, || set(&wanted))?;

        let mut dropped = before.values.clone();
        dropped.retain(|path, _| !wanted.contains_key(path));
        if !dropped.is_empty() {
            in_namespace(&sandbox.netns, || set_back(&dropped))?;
            before.values.retain(|path, _| wanted.contains_key(path));
            store.keep_before(&target.attachment, &before)?;
        }
    }
    if tuning.link != crate::tuning::LinkSettings::default() {
        let pod = Kernel::open_in(&sandbox.netns).map_err(Error::Rtnl)?;
        tune_link(tuning, ifname, &pod).await?;
    }
    Ok(())
}

fn in_namespace<T: Send>(
    netns: &Netns,
    work: impl FnOnce() -> Result<T, sysctl::Error> + Send,
) -> Result<T, Error> {
    Ok(netns.run(work)??)
}

fn read(paths: Vec<&String>) -> Result<BTreeMap<String, String>, sysctl::Error> {
    paths.into_iter().map(|path| Ok((path.clone(), sysctl::read(path)?))).collect()
}

fn set(wanted: &BTreeMap<String, String>) -> Result<(), sysctl::Error> {
    for (path, value) in wanted {
        if in_one_line(&sysctl::read(path)?) != *value {
            sysctl::set(path, value)?;
        }
    }
    Ok(())
}

/// Sets all back that can be, and tells of the first that could not. One that is gone is no loss.
fn set_back(before: &BTreeMap<String, String>) -> Result<(), sysctl::Error> {
    let mut failure = None;
    for (path, value) in before {
        match sysctl::set_if_different(path, value) {
            Err(error) if !error.is_not_found() => failure = failure.or(Some(error)),
            _ => {}
        }
    }
    failure.map_or(Ok(()), Err)
}

async fn tune_link(tuning: &Tuning, ifname: &str, pod: &Kernel) -> Result<(), Error> {
    let link = pod.link(ifname).await?;
    let wanted = tuning.link;
    if let Some(is_promiscuous) = wanted.is_promiscuous.filter(|is| *is != link.is_promiscuous) {
        pod.set_promiscuous(link.index, is_promiscuous).await?;
    }
    if let Some(is_allmulti) = wanted.is_allmulti.filter(|is| *is != link.is_allmulti) {
        pod.set_allmulti(link.index, is_allmulti).await?;
    }
    if let Some(packets) = wanted.tx_queue_len.filter(|packets| *packets != link.tx_queue_len) {
        pod.set_tx_queue_len(link.index, packets).await?;
    }
    Ok(())
}

/// Sets back what was set for an attachment, where its namespace is still there.
pub(super) fn untune(store: &Store, attachment: &Attachment) -> Result<(), Failure> {
    let Some(before) = store.before(attachment)? else { return Ok(()) };
    // What cannot be opened is gone, or is not what it was.
    let Ok(netns) = Netns::open(&before.netns) else { return Ok(()) };
    if netns.inode().is_ok_and(|inode| inode == before.netns_inode) {
        in_namespace(&netns, || set_back(&before.values))?;
    }
    Ok(())
}

/// Lists what is not as it was tuned.
pub(super) async fn faults(
    tuning: &Tuning,
    ifname: &str,
    netns: &Netns,
    pod: &Kernel,
) -> Result<Vec<String>, Error> {
    let wanted = tuning.parameters(ifname);
    let mut faults = if wanted.is_empty() { Vec::new() } else { netns.run(|| altered(&wanted))? };
    // A link that is missing is told of by those who look at all of it.
    if let Ok(link) = pod.link(ifname).await {
        faults.extend(link_faults(tuning, &link));
    }
    Ok(faults)
}

fn altered(wanted: &BTreeMap<String, String>) -> Vec<String> {
    let fault = |(path, value): (&String, &String)| match sysctl::read(path) {
        Ok(there) if in_one_line(&there) == *value => None,
        Ok(there) => Some(format!("sysctl {path} in its namespace is {}, not {value}", in_one_line(&there))),
        Err(_) => Some(format!("sysctl {path} in its namespace cannot be read")),
    };
    wanted.iter().filter_map(fault).collect()
}

fn link_faults(tuning: &Tuning, link: &Link) -> Vec<String> {
    let (name, wanted) = (&link.name, tuning.link);
    let mut faults = Vec::new();
    for (key, is, should) in [
        ("promisc", link.is_promiscuous, wanted.is_promiscuous),
        ("allmulti", link.is_allmulti, wanted.is_allmulti),
    ] {
        if let Some(should) = should.filter(|should| *should != is) {
            faults.push(format!("link {name} in its namespace has {key} {is}, not {should}"));
        }
    }
    if let Some(should) = wanted.tx_queue_len.filter(|should| *should != link.tx_queue_len) {
        faults.push(format!("link {name} in its namespace has txQLen {}, not {should}", link.tx_queue_len));
    }
    faults
}

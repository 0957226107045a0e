//! Called as type `loopback`: the pod's own loopback link, and nothing else. No lease, no other link.
//!
//! The link that `CNI_IFNAME` names does not matter: it is `lo` that is meant, as with the reference plugin.

use std::path::Path;

use dataplane::{
    netns::Netns,
    rtnl::{self, Kernel, LOOPBACK},
};

use super::{Error, Sandbox};
use crate::{
    conf::{self, Network},
    failure::{Code, Coded, Failure},
    request::{Target, Verb},
    result::{AddResult, Interface, Ip},
    spec::SpecVersion,
};

/// The loopback link's name in every namespace.
const NAME: &str = "lo";

/// What is not as it should be.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("link {NAME} in its namespace cannot be asked or set")]
    Rtnl(#[source] rtnl::Error),
    #[error("{0}")]
    Altered(String),
}

impl Coded for Fault {
    fn code(&self) -> Code {
        match self {
            Self::Rtnl(_) => Code::Wiring,
            Self::Altered(_) => Code::Altered,
        }
    }
}

/// Does what a verb says. There is nothing to collect, and nothing that an ADD would have to wait for.
pub(super) async fn run(network: &Network, verb: &Verb) -> Result<Option<String>, Failure> {
    match verb {
        Verb::Add(target) => return add(network, target).await.map(Some),
        Verb::Check(target) => check(network, target).await?,
        Verb::Del { netns, .. } => del(netns.as_deref()).await?,
        Verb::Gc => network.require("GC", SpecVersion::V1_1_0)?,
        Verb::Status => network.require("STATUS", SpecVersion::V1_1_0)?,
    }
    Ok(None)
}

/// Sets it up. What plugins before this one made is passed on as it is; otherwise the result is the link and its addresses.
async fn add(network: &Network, target: &Target) -> Result<String, Failure> {
    let earlier = network.prev_result()?;
    let sandbox = Sandbox::open(target)?;
    let pod = Kernel::open_in(&sandbox.netns).map_err(Error::Kernel)?;

    pod.set_up(LOOPBACK, true).await.map_err(Fault::Rtnl)?;
    let result = match earlier {
        Some(earlier) => earlier,
        None => result(&pod, &target.netns).await.map_err(Fault::Rtnl)?,
    };

    Ok(result.to_json(network.version))
}

/// The kernel gives the link its addresses when it is set up: `127.0.0.1/8`, and `::1/128` unless IPv6 is off.
async fn result(pod: &Kernel, sandbox: &Path) -> Result<AddResult, rtnl::Error> {
    let addresses = pod.addresses().await?.into_iter();
    let addresses =
        addresses.filter(|address| address.link == LOOPBACK && address.network.ip().is_loopback());
    let link = Interface {
        name: NAME.to_owned(),
        mac: Some("00:00:00:00:00:00".to_owned()),
        mtu: None,
        sandbox: Some(sandbox.to_string_lossy().into_owned()),
        rest: serde_json::Map::new(),
    };
    Ok(AddResult {
        interfaces: vec![link],
        ips: addresses.map(|own| Ip { interface: Some(0), address: own.network, gateway: None }).collect(),
        ..AddResult::default()
    })
}

/// Looks whether it is up, and has what ADD returned.
async fn check(network: &Network, target: &Target) -> Result<(), Failure> {
    network.require("CHECK", SpecVersion::V0_4_0)?;
    let returned = network.prev_result()?.ok_or(conf::Error::Missing("prevResult"))?;
    let sandbox = Sandbox::open(target)?;
    let pod = Kernel::open_in(&sandbox.netns).map_err(Error::Kernel)?;

    let link = pod.link_by_index(LOOPBACK).await.map_err(Fault::Rtnl)?;
    let mut faults = Vec::new();
    if !link.is_up {
        faults.push(format!("link {NAME} in its namespace is down"));
    }
    let there = pod.addresses().await.map_err(Fault::Rtnl)?;
    let is_there = |ip: &&Ip| there.iter().any(|own| own.link == LOOPBACK && own.network == ip.address);
    let on_loopback = |ip: &&Ip| ip.address.ip().is_loopback();
    for ip in returned.ips.iter().filter(on_loopback).filter(|ip| !is_there(ip)) {
        faults.push(format!("address {} in its namespace is missing", ip.address));
    }
    if faults.is_empty() { Ok(()) } else { Err(Fault::Altered(faults.join("; ")).into()) }
}

/// Sets it down, where its namespace is still there: never the plugin's own, though, which a runtime may name by mistake.
async fn del(netns: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = netns else { return Ok(()) };
    let netns = match Netns::open(path) {
        Err(error) if error.is_not_found() => return Ok(()),
        opened => opened.map_err(Error::Netns)?,
    };
    let own = Netns::current().map_err(Error::Netns)?;
    if netns.inode().map_err(Error::Inode)? == own.inode().map_err(Error::Inode)? {
        return Ok(());
    }
    let pod = Kernel::open_in(&netns).map_err(Error::Kernel)?;
    Ok(pod.set_up(LOOPBACK, false).await.map_err(Fault::Rtnl)?)
}

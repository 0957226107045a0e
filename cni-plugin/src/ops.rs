//! What each verb does: the shell that joins the parts.
//!
//! In: a verb and the configuration. Out: what to print, if the verb prints anything. This is the only place of the plugin
//! that opens sockets and namespaces.

mod add;
mod check;
mod claims;
pub(crate) mod del;
mod gc;
mod leased;
mod loopback;
mod mtu;
pub(crate) mod reclaim;
mod status;
mod tune;
pub(crate) mod version;

use std::net::IpAddr;

use dataplane::{
    disk::{Directory, Durability},
    netns::{self, Netns},
    rtnl::{self, Kernel},
    sysctl,
};
use ipnetwork::IpNetwork;

use crate::{
    conf::{Conf, Network},
    delegate::{Call, Delegate},
    failure::{Code, Coded, Failure},
    ipam::{
        self, Ask, Bounds, Range, RangeSet,
        store::{Record, Store},
    },
    node::Node,
    request::{Target, Verb},
    wiring::{DEFAULT_MTU, Endpoint, Wiring, Wish, kernel::errand::Helper},
};

use leased::Leased;

/// Does what a verb says, and returns its result as JSON, where it has one.
pub(crate) fn run(verb: &Verb, call: Call<'_>) -> Result<Option<String>, Failure> {
    let network = Network::parse(call.stdin)?;
    let done = runtime()?.block_on(async {
        if network.is_loopback() {
            loopback::run(&network, verb).await
        } else {
            wired(network, verb, call).await
        }
    });
    done.map_err(|failure| match verb.subject() {
        Some(subject) => failure.of(&subject),
        None => failure,
    })
}

/// The verbs of a network of pods.
async fn wired(network: Network, verb: &Verb, call: Call<'_>) -> Result<Option<String>, Failure> {
    let delegate = network.delegate().map(|name| Delegate::new(name, call)).transpose()?;
    let delegate = delegate.as_ref();
    match verb {
        Verb::Add(target) => return add::run(network, target, delegate).await.map(Some),
        Verb::Check(target) => check::run(network, target, delegate).await?,
        Verb::Del { attachment, netns } => {
            let helper = Helper::of(call.environment.program.as_deref(), netns.as_deref());
            del::run(&network, attachment, delegate, helper.as_ref()).await?;
        }
        Verb::Gc => gc::run(&network, delegate).await?,
        Verb::Status => status::run(network, delegate).await?,
    }
    Ok(None)
}

/// What goes wrong between the parts.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error("open the pod's network namespace")]
    Netns(#[source] netns::Error),
    #[error("CNI_NETNS is the plugin's own network namespace")]
    OwnNetns,
    #[error("tell the pod's network namespace from others")]
    Inode(#[source] std::io::Error),
    #[error("wait for another ADD in the pod's network namespace")]
    Hold(#[source] std::io::Error),
    #[error("tell this boot from others")]
    Boot(#[source] sysctl::Error),
    #[error("read ipam.resolvConf {}", .path.display())]
    ResolvConf { path: std::path::PathBuf, source: std::io::Error },
    #[error("reach the kernel")]
    Kernel(#[source] rtnl::Error),
    #[error(
        "ipam.type={}: it asks over the pod's link, and a routed pod has nobody there: set mode to bridge",
        Delegate::OVER_THE_LINK
    )]
    NobodyToAsk,
}

impl Coded for Error {
    fn code(&self) -> Code {
        match self {
            Self::Netns(_) | Self::OwnNetns => Code::InvalidNetns,
            Self::Runtime(_) | Self::Inode(_) | Self::Hold(_) | Self::Boot(_) | Self::ResolvConf { .. } => {
                Code::InputOutput
            }
            Self::Kernel(_) => Code::Wiring,
            Self::NobodyToAsk => Code::InvalidConfiguration,
        }
    }
}

/// A pod's network namespace, open.
struct Sandbox {
    netns: Netns,
    inode: u64,
}

impl Sandbox {
    /// Opens it, unless it is the plugin's own: then the plugin would wire the host to itself.
    fn open(target: &Target) -> Result<Self, Error> {
        let netns = Netns::open(&target.netns).map_err(Error::Netns)?;
        let own = Netns::current().map_err(Error::Netns)?;
        let inode = netns.inode().map_err(Error::Inode)?;
        if !target.may_be_own && inode == own.inode().map_err(Error::Inode)? {
            return Err(Error::OwnNetns);
        }
        Ok(Self { netns, inode })
    }
}

fn run_dir(network: &Network) -> Directory {
    Directory::new(&network.run_dir, Durability::Volatile)
}

fn store(network: &Network) -> Result<Store, Failure> {
    Ok(Store::of(&run_dir(network), &network.name)?)
}

/// What waits for the kernel's answers.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(Error::Runtime)?)
}

pub(crate) fn kernel() -> Result<Kernel, Failure> {
    Ok(Kernel::open().map_err(Error::Kernel)?)
}

/// What the configuration says of addresses, and what the daemon says where it says nothing.
struct Plan {
    /// Nothing is asked for where another plugin leases the addresses.
    ask: Ask,
    mtu: u32,
    /// The same where it is the daemon's to say: pods that are there follow it.
    followed: Option<u32>,
}

impl Plan {
    /// `requested` is an address that the runtime asks for beside those of the configuration.
    fn of(conf: &Conf, requested: Option<IpAddr>) -> Result<Self, Failure> {
        if let Some(name) = conf.network.delegate() {
            if name == Delegate::OVER_THE_LINK && conf.bridging.is_none() {
                return Err(Error::NobodyToAsk.into());
            }
            let told = || Node::read(&run_dir(&conf.network)).ok()?.mtu;
            let followed = if conf.mtu.is_none() { told() } else { None };
            let mtu = conf.mtu.or(followed).unwrap_or(DEFAULT_MTU);
            return Ok(Self { ask: Ask::default(), mtu, followed });
        }
        let (sets, followed) = if let Some(sets) = &conf.ranges {
            (sets.clone(), None)
        } else {
            let node = Node::read(&run_dir(&conf.network))?;
            let range = |cidr: &IpNetwork| RangeSet::new(vec![Range::new(*cidr, Bounds::default())?]);
            let sets: Result<Vec<RangeSet>, ipam::Error> = node.pod_cidrs.iter().map(range).collect();
            (sets?, node.mtu.filter(|_| conf.mtu.is_none()))
        };
        let sets = sets.into_iter().map(|set| set.reserving(&conf.reserved)).collect();
        let requested: Vec<IpAddr> = requested.into_iter().chain(conf.requested.iter().copied()).collect();
        let mtu = conf.mtu.or(followed).unwrap_or(DEFAULT_MTU);
        Ok(Self { ask: Ask::new(sets, &requested)?, mtu, followed })
    }

    /// Works out the wiring of a pod that has its addresses.
    fn wiring(&self, conf: &Conf, target: &Target, record: &Record) -> Result<Wiring, Failure> {
        let leased = match &record.delegated {
            Some(delegated) => {
                Leased::by_another(&delegated.name, &delegated.result, conf.bridging.is_some())?
            }
            None => Leased { endpoints: self.endpoints(&record.addresses), routes: conf.routes.clone() },
        };
        let wish = Wish {
            network: &conf.network.name,
            attachment: &target.attachment,
            run_dir: &conf.network.run_dir,
            alias: &target.name(),
            mtu: self.mtu,
            mac: conf.mac.or(target.mac).or(conf.tuning.mac),
            endpoints: leased.endpoints,
            bridging: conf.bridging.as_ref(),
            bandwidth: conf.bandwidth,
            routes: leased.routes.as_deref(),
        };
        Ok(Wiring::of(wish)?)
    }

    fn endpoints(&self, addresses: &[IpAddr]) -> Vec<Endpoint> {
        let endpoint = |address: &IpAddr| {
            let range = self.ask.range_of(*address)?;
            let (gateway, prefix) = (range.gateway(), range.subnet().prefix());
            Some(Endpoint { address: *address, gateway, prefix })
        };
        addresses.iter().filter_map(endpoint).collect()
    }
}

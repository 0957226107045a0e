//! What makes a pod reachable: a veth pair, and on either side an address, routes and a neighbour. Pure: nothing is done here.
//!
//! In: an attachment, its addresses and their gateways. Out: the pair, and what belongs on each end. Unless one is asked for, there is
//! no bridge ([`bridge`]), so nothing depends on `br_netfilter`; every packet is routed by the host, where service rules see it.
//!
//! ```text
//!  host                                               │ pod
//!  fw7mqk…   alias default/web                        │ eth0
//!  address   10.244.1.1/32   the same on all ends     │ address   10.244.1.7/32
//!  route     10.244.1.7 dev fw7mqk… src 10.244.1.1    │ routes    10.244.1.1 dev eth0
//!                                                     │           default via 10.244.1.1
//!  neighbour 10.244.1.7 is the pod end                │ neighbour 10.244.1.1 is the host end
//! ```
//!
//! The name of the host end holds a hash of the attachment, and the hardware addresses of both ends are made from it. By its
//! attachment a link is known by name. Where the attachment is not known any more, a link whose name and address agree is
//! ours; others may well have names that begin with `fw`.

pub mod bridge;
pub mod kernel;
pub mod mtu;
mod routes;

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive, os::unix::ffi::OsStrExt, path::Path};

use self::bridge::Bridging;
use dataplane::{
    hash, owner,
    rtnl::{self, Address, Link, Mac, Neighbour, NeighbourState, TokenBucket, VethEnd},
};
use ipnetwork::IpNetwork;

use crate::{
    bandwidth::Bandwidth,
    conf::PodRoute,
    request::Attachment,
    result::{AddResult, Interface, Ip, Route},
};

/// Ethernet's, and what the kernel gives a veth pair.
pub const DEFAULT_MTU: u32 = 1500;

/// The longest free text that the kernel keeps of a link: it takes 255 bytes, the zero at the end among them.
const ALIAS_BYTES: usize = 254;

/// What the kernel lets an Ethernet link have: `ETH_MIN_MTU` and `ETH_MAX_MTU` of `include/uapi/linux/if_ether.h`.
const LEAST_MTU: u32 = 68;
const MOST_MTU: u32 = 65_535;

/// The smallest packet that every link of IPv6 must take. // RFC 8200 §5
const LEAST_MTU_V6: u32 = 1280;

/// An address of a pod, and the gateway it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The pod's.
    pub address: IpAddr,
    /// The host end's, or whose else it is on a bridge.
    pub gateway: IpAddr,
    /// The length of the prefix of the subnet that the pod's address is of.
    pub prefix: u8,
}

/// What a wiring is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish<'a> {
    /// The network's name.
    pub network: &'a str,
    /// Which link of which container.
    pub attachment: &'a Attachment,
    /// Where its lease is kept.
    pub run_dir: &'a Path,
    /// What people call the pod.
    pub alias: &'a str,
    /// The largest packet.
    pub mtu: u32,
    /// The hardware address of the pod's end; otherwise one is made up.
    pub mac: Option<Mac>,
    /// The pod's addresses.
    pub endpoints: Vec<Endpoint>,
    /// The bridge that the host end is plugged into; nothing where the pod is routed.
    pub bridging: Option<&'a Bridging>,
    /// How fast the pod may receive and send.
    pub bandwidth: Bandwidth,
    /// The pod's routes; otherwise those that its mode gives it.
    pub routes: Option<&'a [PodRoute]>,
}

/// A pod's link, as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wiring {
    /// The end on the host.
    pub host_end: VethEnd,
    /// The end in the pod.
    pub pod_end: VethEnd,
    /// The free text on the host end: the pod's name, cut where the kernel takes no more.
    pub alias: String,
    /// The bridge that the host end is plugged into; nothing where the pod is routed.
    pub bridging: Option<Bridging>,
    bandwidth: Bandwidth,
    least_pod_mtu: u32,
    endpoints: Vec<Endpoint>,
    routes: Vec<(PodRoute, IpAddr)>,
}

/// What belongs on one end of the pair, or on the bridge, once its index is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Side {
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Routes over it, in an order in which the kernel takes them.
    pub routes: Vec<rtnl::Route>,
    /// Who is at the other end.
    pub neighbours: Vec<Neighbour>,
}

/// Why a pod's link cannot be as it is wished.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No link takes packets of that size.
    #[error("mtu {mtu}: {least} to {MOST_MTU}")]
    Mtu {
        /// The largest packet, as wished.
        mtu: u32,
        /// The smallest that it may be.
        least: u32,
    },
    /// The family has no address.
    #[error("ipam.routes: {0} is of a family that the pod has no address of")]
    NoAddress(IpNetwork),
    /// A routed pod reaches the host end and nobody else; one on a bridge, all of its subnet.
    #[error("ipam.routes: {dst} through {gw}, which is no gateway that the pod reaches: leave gw out")]
    NoGateway {
        /// The destination.
        dst: IpNetwork,
        /// The gateway.
        gw: IpAddr,
    },
    /// A bridge leads to the subnet and no further.
    #[error("gateway {gateway} is not in the subnet of {address}: over a bridge it is not reached")]
    FarGateway {
        /// The gateway.
        gateway: IpAddr,
        /// The pod's address in its subnet.
        address: IpNetwork,
    },
}

impl crate::failure::Coded for Error {
    fn code(&self) -> crate::failure::Code {
        crate::failure::Code::InvalidConfiguration
    }
}

impl Wiring {
    /// Works out what a pod's link is to be.
    pub fn of(wish: Wish<'_>) -> Result<Self, Error> {
        let has_ipv6 = wish.endpoints.iter().any(|endpoint| endpoint.address.is_ipv6());
        let least = if has_ipv6 { LEAST_MTU_V6 } else { LEAST_MTU };
        if !(least..=MOST_MTU).contains(&wish.mtu) {
            return Err(Error::Mtu { mtu: wish.mtu, least });
        }
        if wish.bridging.is_some() {
            bridge::gateways_are_near(&wish.endpoints)?;
        }
        let seed = seed_of(wish.network, wish.attachment);
        let end = |name: &str, mac| VethEnd { name: name.to_owned(), mac, mtu: wish.mtu };
        Ok(Self {
            host_end: end(&host_end_of(wish.network, wish.attachment), host_mac(seed, wish.run_dir)),
            pod_end: end(wish.attachment.ifname(), wish.mac.unwrap_or_else(|| pod_mac(seed))),
            bandwidth: wish.bandwidth,
            least_pod_mtu: wish.mtu,
            alias: wish.alias.split_at(wish.alias.floor_char_boundary(ALIAS_BYTES)).0.to_owned(),
            bridging: wish.bridging.cloned(),
            routes: routes::of(wish.routes, &wish.endpoints, wish.bridging)?,
            endpoints: wish.endpoints,
        })
    }

    /// Takes over what ADD returned of the link in the end: plugins after this one may have changed the pod end, and say so. Where the
    /// version of the result has no MTU they cannot say so, and a smaller one is taken for theirs. A link of one size is as we made it, and
    /// [follows](mtu) the node's.
    #[must_use]
    pub fn as_returned(mut self, pod_end: &Interface, host_end: Option<&Interface>) -> Self {
        let mac = pod_end.mac.as_ref().and_then(|mac| mac.parse().ok());
        self.pod_end.mac = mac.unwrap_or(self.pod_end.mac);
        let host_mtu = host_end.and_then(|host_end| host_end.mtu);
        match pod_end.mtu {
            None => self.least_pod_mtu = LEAST_MTU,
            Some(mtu) if host_mtu == Some(mtu) => {}
            Some(mtu) => {
                (self.pod_end.mtu, self.least_pod_mtu) = (mtu, mtu);
                self.host_end.mtu = host_mtu.unwrap_or(self.host_end.mtu);
            }
        }
        self
    }

    /// Says which sizes of the largest packet are right for the pod end.
    pub fn pod_mtu(&self) -> RangeInclusive<u32> {
        self.least_pod_mtu..=self.pod_end.mtu
    }

    /// Says whether there is a limit to what the pod receives or sends.
    pub fn is_limited(&self) -> bool {
        self.bandwidth != Bandwidth::default()
    }

    /// The bucket on the host end, for what the pod receives.
    pub fn ingress_bucket(&self) -> Option<TokenBucket> {
        self.bandwidth.ingress.map(|limit| limit.bucket(self.host_end.mtu))
    }

    /// The bucket on the link beside the host end, for what the pod sends.
    pub fn egress_bucket(&self) -> Option<TokenBucket> {
        self.bandwidth.egress.map(|limit| limit.bucket(self.host_end.mtu))
    }

    /// What belongs on the host end: on a bridge's port, nothing.
    pub fn host_side(&self, link: u32) -> Side {
        if self.bridging.is_some() {
            return Side::default();
        }
        let gateways = self.gateways().into_iter().map(|gateway| Address::bare(link, alone(gateway)));
        let routes = self.endpoints.iter().map(|endpoint| rtnl::Route {
            source: Some(endpoint.gateway),
            ..rtnl::Route::on_link(alone(endpoint.address), link)
        });
        let pods = self.endpoints.iter().map(|endpoint| known(link, endpoint.address, self.pod_end.mac));
        Side { addresses: gateways.collect(), routes: routes.collect(), neighbours: pods.collect() }
    }

    /// What belongs on the pod end.
    pub fn pod_side(&self, link: u32) -> Side {
        if self.bridging.is_some() {
            return self.bridged_pod_side(link);
        }
        let gateways = self.gateways();
        let own = self.endpoints.iter().map(|endpoint| Address::bare(link, alone(endpoint.address)));
        let near = gateways.iter().map(|gateway| rtnl::Route::on_link(alone(*gateway), link));
        let hosts = gateways.iter().map(|gateway| known(link, *gateway, self.host_end.mac));
        Side {
            addresses: own.collect(),
            routes: near.chain(self.far_routes(link)).collect(),
            neighbours: hosts.collect(),
        }
    }

    /// The routes that the pod is given.
    fn far_routes(&self, link: u32) -> Vec<rtnl::Route> {
        let far = self.routes.iter().map(|(route, gateway)| {
            // IPv4 would send what the link does not take. IPv6 goes by the link, whoever sets it.
            let most = if route.dst.is_ipv4() { self.host_end.mtu } else { self.pod_end.mtu };
            rtnl::Route {
                mtu: route.mtu.filter(|mtu| *mtu > 0).map(|mtu| mtu.min(most)),
                ..rtnl::Route::through(route.dst, *gateway, link).with_metric(route.priority)
            }
        });
        far.collect()
    }

    /// Says whether the pod has an address of IPv4, or of IPv6.
    pub fn has_family(&self, is_ipv4: bool) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.address.is_ipv4() == is_ipv4)
    }

    /// What ADD returns for it; `bridge` is the link that the host end is plugged into.
    pub fn result(&self, sandbox: &str, bridge: Option<&Link>) -> AddResult {
        let bridge = bridge.map(|bridge| Interface {
            name: bridge.name.clone(),
            mac: bridge.mac.map(|mac| mac.to_string()),
            mtu: Some(bridge.mtu),
            sandbox: None,
            rest: serde_json::Map::new(),
        });
        let place = if bridge.is_some() { 2 } else { 1 };
        let interface = |end: &VethEnd, sandbox: Option<&str>| Interface {
            name: end.name.clone(),
            mac: Some(end.mac.to_string()),
            mtu: Some(end.mtu),
            sandbox: sandbox.map(str::to_owned),
            rest: serde_json::Map::new(),
        };
        let ips = self.endpoints.iter().map(|endpoint| Ip {
            interface: Some(place),
            address: if self.bridging.is_some() { endpoint.in_subnet() } else { alone(endpoint.address) },
            gateway: Some(endpoint.gateway),
        });
        let routes = self.routes.iter().map(|(route, gateway)| {
            let rest = [("mtu", route.mtu), ("priority", route.priority)];
            let rest = rest.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into())));
            Route { dst: route.dst, gw: Some(*gateway), rest: rest.collect() }
        });
        let ends = [interface(&self.host_end, None), interface(&self.pod_end, Some(sandbox))];
        let ifb = self.bandwidth.egress.map(|_| {
            let name = ifb_of(&self.host_end.name);
            interface(&VethEnd { name, ..self.host_end.clone() }, None)
        });
        AddResult {
            interfaces: bridge.into_iter().chain(ends).chain(ifb).collect(),
            ips: ips.collect(),
            routes: routes.collect(),
            dns: None,
        }
    }

    /// The pod's addresses, each with the subnet that it is of.
    pub fn own_networks(&self) -> impl Iterator<Item = (IpAddr, IpNetwork)> {
        self.endpoints.iter().map(|endpoint| {
            let subnet = endpoint.in_subnet();
            let network = IpNetwork::new(subnet.network(), subnet.prefix()).unwrap_or(subnet);
            (endpoint.address, network)
        })
    }

    /// Several addresses may use one gateway.
    fn gateways(&self) -> BTreeSet<IpAddr> {
        self.endpoints.iter().map(|endpoint| endpoint.gateway).collect()
    }
}

/// An address as a network of its own: /32, or /128.
fn alone(ip: IpAddr) -> IpNetwork {
    ip.into()
}

/// A neighbour that is known before the first packet, which so waits for no ARP and no neighbour discovery: in IPv6 that
/// would be the second or so until the link-local address has been found to be unique.
///
/// Stale rather than permanent: it is used at once all the same, but confirmed while it is in use. Should the other end ever
/// get another hardware address, the link heals; with a permanent entry it would be dead without a trace.
fn known(link: u32, address: IpAddr, mac: Mac) -> Neighbour {
    Neighbour { link, address, mac: Some(mac), state: NeighbourState::Stale }
}

/// The name of the host end of an attachment to a network: the prefix, and 13 letters and digits that hold the hash. A link's
/// name may have 15.
pub fn host_end_of(network: &str, attachment: &Attachment) -> String {
    named(owner::LINK_PREFIX, seed_of(network, attachment))
}

/// The name of the link that what comes in at a host end of ours is limited on: of the same hash.
pub fn ifb_of(host_end: &str) -> String {
    host_end.replacen(owner::LINK_PREFIX, owner::IFB_PREFIX, 1)
}

fn named(prefix: &str, seed: u64) -> String {
    let digits = (0..SEED_DIGITS).rev().map(|place| {
        let digit = usize::try_from((seed >> (5 * place)) & 0b1_1111).unwrap_or(0);
        char::from(DIGITS.get(digit).copied().unwrap_or(b'a'))
    });
    prefix.chars().chain(digits).collect()
}

/// Says for which host end of ours a link was made, if we made it for an attachment whose lease is in `run_dir`, whatever that
/// attachment was: its name and hardware address come from one hash, and the latter from the directory as well. It is that host
/// end, or the link that what comes in there is limited on.
pub fn host_end_for(link: &Link, run_dir: &Path) -> Option<String> {
    let prefix = if link.is_ifb() { owner::IFB_PREFIX } else { owner::LINK_PREFIX };
    let seed = seed_in(prefix, &link.name)?;
    let is_ours = (link.is_veth() || link.is_ifb()) && link.mac == Some(host_mac(seed, run_dir));
    is_ours.then(|| named(owner::LINK_PREFIX, seed))
}

const SEED_DIGITS: u32 = 13;
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn seed_in(prefix: &str, name: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    if digits.len() != 13 {
        return None;
    }
    digits.bytes().try_fold(0_u64, |seed, byte| {
        let digit = DIGITS.iter().position(|digit| *digit == byte)?;
        Some((seed << 5) | u64::try_from(digit).ok()?)
    })
}

/// Hashes what makes an attachment unique, for the host end's name and the hardware addresses. Neither part holds a zero byte.
fn seed_of(network: &str, attachment: &Attachment) -> u64 {
    let parts = [network, attachment.container_id(), attachment.ifname()];
    hash::stable(parts.into_iter().flat_map(|part| part.bytes().chain([0])))
}

fn host_mac(seed: u64, run_dir: &Path) -> Mac {
    let parts = run_dir.components().map(|part| part.as_os_str().as_bytes());
    let place = hash::stable(parts.flat_map(|part| part.iter().copied().chain([0])));
    Mac::locally_administered(seed ^ place)
}

fn pod_mac(seed: u64) -> Mac {
    Mac::locally_administered(!seed)
}

#[cfg(test)]
mod tests;

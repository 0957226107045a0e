//! What a pod's namespace and link are to be like beyond being connected: the keys of the reference plugin tuning.
//!
//! In: the configuration. Out: kernel parameters by path, and settings of the link. Nothing is set here.
//!
//! A parameter must be of the pod's network alone. Below `net` there are only such in a namespace that is not the node's own, as far as
//! they can be written: Linux has seen to that since 5.13. // `net/sysctl_net.c` `ensure_safe_net_sysctl`

use std::collections::BTreeMap;

use dataplane::rtnl::Mac;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    conf::mode::mac_in,
    failure::{Code, Coded},
};

/// Stands for the link's name in keys.
const IFNAME: &str = "IFNAME";

/// What each network namespace has for itself, below `net`.
const OF_NAMESPACES: [&str; 9] =
    ["bridge", "core", "ipv4", "ipv6", "mpls", "mptcp", "netfilter", "sctp", "unix"];

/// Where there is a directory for each link.
const OF_LINKS: [[&str; 3]; 4] =
    [["net", "ipv4", "conf"], ["net", "ipv4", "neigh"], ["net", "ipv6", "conf"], ["net", "ipv6", "neigh"]];

/// Why a pod cannot be tuned so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of another type.
    #[error("decode {key} of the network configuration")]
    Decode {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A parameter that is not the pod's.
    #[error(
        "sysctl {0:?}: none of a pod's network: net.core.…, net.ipv4.…, net.ipv6.…, net.netfilter.… and their like"
    )]
    NotOfPods(String),
    /// A hardware address that no link can have.
    #[error("mac {0:?}: six pairs of hexadecimal digits with colons between them, and no group's")]
    Mac(String),
}

impl Coded for Error {
    fn code(&self) -> Code {
        match self {
            Self::Decode { .. } => Code::Decode,
            Self::NotOfPods(_) | Self::Mac(_) => Code::InvalidConfiguration,
        }
    }
}

/// What a pod's namespace and link are to be like.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuning {
    /// The link's hardware address, where nobody says another for this pod.
    pub mac: Option<Mac>,
    /// What the link is set to.
    pub link: LinkSettings,
    parameters: BTreeMap<Parameter, String>,
}

/// Settings of a link; nothing where it stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkSettings {
    /// Whether it takes packets that are for others.
    pub is_promiscuous: Option<bool>,
    /// Whether it takes packets for all groups.
    pub is_allmulti: Option<bool>,
    /// How many packets wait in a queue that has no limit of its own.
    pub tx_queue_len: Option<u32>,
}

/// A path below `/proc/sys`, which leads nowhere else; with a stand-in for the link's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Parameter(Vec<String>);

impl Tuning {
    /// Reads what is to be set: from the configuration, or for one pod from `args.cni`, which comes first.
    pub fn parse(whole: &Value) -> Result<Self, Error> {
        let sysctl: Option<BTreeMap<String, String>> = said(whole, "sysctl")?;
        let parameters = sysctl.unwrap_or_default().into_iter();
        let parameters = parameters.map(|(key, value)| {
            let parameter = Parameter::parse(&key).ok_or(Error::NotOfPods(key))?;
            Ok((parameter, in_one_line(&value)))
        });
        let mac = whole.get("mac").and_then(Value::as_str).filter(|mac| !mac.is_empty());
        Ok(Self {
            mac: mac.map(|mac| mac_in(mac).ok_or_else(|| Error::Mac(mac.to_owned()))).transpose()?,
            link: LinkSettings {
                is_promiscuous: said(whole, "promisc")?,
                is_allmulti: said(whole, "allmulti")?,
                tx_queue_len: said(whole, "txQLen")?,
            },
            parameters: parameters.collect::<Result<_, Error>>()?,
        })
    }

    /// The kernel parameters for a link of that name, by path, with their values.
    pub fn parameters(&self, ifname: &str) -> BTreeMap<String, String> {
        let named = self.parameters.iter();
        named.map(|(parameter, value)| (parameter.path(ifname), value.clone())).collect()
    }
}

/// Says whether a parameter goes with the link of that name.
pub fn goes_with_link(path: &str, ifname: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    parts.get(3) == Some(&ifname) && OF_LINKS.iter().any(|links| parts.starts_with(links))
}

/// A value with its words one space apart: the kernel prints those of a list with tabs between them.
pub fn in_one_line(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn said<T: DeserializeOwned>(whole: &Value, key: &'static str) -> Result<Option<T>, Error> {
    let for_pod = whole.pointer("/args/cni").and_then(|args| args.get(key)).filter(|value| !value.is_null());
    let value = for_pod.or_else(|| whole.get(key)).cloned().unwrap_or_default();
    serde_json::from_value(value).map_err(|source| Error::Decode { key, source })
}

impl Parameter {
    /// Reads a key with dots or slashes between its parts, whichever comes first; the other is then a part's own, as in `net/ipv4/conf/eth0.7/…`
    /// or `net.ipv4.conf.eth0/7.…`. // sysctl(8)
    fn parse(key: &str) -> Option<Self> {
        let separator = key.chars().find(|letter| matches!(letter, '.' | '/'))?;
        let parts: Vec<String> = match separator {
            '.' => key.split('.').map(|part| part.replace('/', ".")).collect(),
            _ => key.split('/').map(str::to_owned).collect(),
        };
        let is_name = |part: &String| {
            !matches!(part.as_str(), "" | "." | "..") && part.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let is_of_pods = match parts.as_slice() {
            [net, of, _, ..] => net == "net" && OF_NAMESPACES.contains(&of.as_str()),
            _ => false,
        };
        (is_of_pods && parts.iter().all(is_name)).then_some(Self(parts))
    }

    fn path(&self, ifname: &str) -> String {
        let parts = self.0.iter().map(|part| if part == IFNAME { ifname } else { part });
        parts.collect::<Vec<_>>().join("/")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::failure::Failure;

    fn paths(sysctl: &Value) -> Vec<(String, String)> {
        let tuning = Tuning::parse(&json!({ "sysctl": sysctl })).unwrap();
        tuning.parameters("eth0.7").into_iter().collect()
    }

    #[test]
    fn keys_have_dots_or_slashes_and_a_place_for_the_link() {
        let pair = |path: &str, value: &str| (path.to_owned(), value.to_owned());
        assert_eq!(
            paths(&json!({
                "net.core.somaxconn": "500",
                "net/ipv4/tcp_rmem": "4096\t131072  6291456\n",
                "net.ipv4.conf.IFNAME.arp_filter": "1",
                "net.ipv6.conf.eth0/9.accept_ra": "0",
                "net/ipv6/conf/eth0.8/accept_ra": "0",
            })),
            [
                pair("net/core/somaxconn", "500"),
                pair("net/ipv4/conf/eth0.7/arp_filter", "1"),
                pair("net/ipv4/tcp_rmem", "4096 131072 6291456"),
                pair("net/ipv6/conf/eth0.8/accept_ra", "0"),
                pair("net/ipv6/conf/eth0.9/accept_ra", "0"),
            ]
        );
    }

    #[test]
    fn what_goes_with_the_link_is_told_from_the_rest() {
        assert!(goes_with_link("net/ipv4/conf/eth0/arp_filter", "eth0"));
        assert!(goes_with_link("net/ipv6/neigh/eth0/gc_stale_time", "eth0"));
        for stays in ["net/ipv4/conf/all/arp_filter", "net/ipv4/conf/eth1/arp_filter", "net/core/eth0/eth0"] {
            assert!(!goes_with_link(stays, "eth0"), "{stays}");
        }
    }

    #[test]
    fn what_is_said_for_one_pod_comes_first() {
        let whole = json!({
            "promisc": true, "txQLen": 100, "mac": "02:00:00:00:00:01",
            "args": { "cni": { "promisc": false, "allmulti": true, "txQLen": null, "sysctl": { "net.core.somaxconn": "1" } } },
        });
        let tuning = Tuning::parse(&whole).unwrap();
        let link =
            LinkSettings { is_promiscuous: Some(false), is_allmulti: Some(true), tx_queue_len: Some(100) };
        assert_eq!((tuning.link, tuning.mac), (link, Some(Mac([2, 0, 0, 0, 0, 1]))));
        assert_eq!(tuning.parameters("eth0").len(), 1);
        assert_eq!(Tuning::parse(&json!({})).unwrap(), Tuning::default());
    }

    #[test]
    fn nothing_but_a_pod_s_network_is_reached() {
        for key in [
            "kernel.shmmax",
            "net",
            "net.ipv4",
            "net.core.",
            "net..core.x",
            ".net.core.x",
            "/proc/sys/net/core/x",
            "net/../kernel/shmmax",
            "net/core/../../kernel/x",
            "net/core/./x",
            "net.core.//.//.kernel",
            "net.core.a b",
            "net.core.a\u{0}",
            "net.x25.acknowledgement_hold_back_timeout",
            "vm/net/core/x",
            "",
        ] {
            let failure = Failure::from(Tuning::parse(&json!({ "sysctl": { key: "1" } })).unwrap_err());
            assert_eq!(failure.code, Code::InvalidConfiguration, "{key}");
            assert!(
                failure.msg.starts_with(&format!("sysctl {key:?}: none of a pod's network")),
                "{}",
                failure.msg
            );
        }
        let number = Tuning::parse(&json!({ "sysctl": { "net.core.somaxconn": 500 } })).unwrap_err();
        assert_eq!(number.code(), Code::Decode);
        assert_eq!(Tuning::parse(&json!({ "mac": "x" })).unwrap_err().code(), Code::InvalidConfiguration);
    }
}

//! How pods on other nodes are reached, and what is in the way: what whoever asks is told of it. Pure.
//!
//! In: what the daemon has made, and what it complains of. Out: JSON for people. What is wrong is put into words where it is found, once,
//! and the same words stand in the log. Of nodes that cannot be reached only the first are named here: there may be thousands.

use std::collections::BTreeSet;

use dataplane::rtnl::Vxlan;
use serde_json::{Value, json};

use crate::{
    config::RouteMode,
    plan::routes::{Unreachable, Ways},
};

/// As many nodes are named at once, at most: a link that goes down may take thousands along.
pub const NAMED: usize = 100;

/// What a complaint is about. There are as many as these, however large the cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About {
    /// The address that this node's tunnels begin at.
    Address,
    /// A device for tunnels.
    Device,
    /// Chains of other programs on the way of forwarded packets.
    Firewall,
    /// Whether this node forwards.
    Forwarding,
    /// What the kernel did not list.
    Kernel,
    /// This node's own object.
    Node,
    /// What the CNI plugin and the container runtime are to be told.
    Plugin,
    /// A route, or what a tunnel is to be told, that the kernel did not take.
    Route,
    /// The reverse path filter of a link.
    RpFilter,
}

impl About {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Address,
        Self::Device,
        Self::Firewall,
        Self::Forwarding,
        Self::Kernel,
        Self::Node,
        Self::Plugin,
        Self::Route,
        Self::RpFilter,
    ];

    /// One word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Device => "device",
            Self::Firewall => "firewall",
            Self::Forwarding => "forwarding",
            Self::Kernel => "kernel",
            Self::Node => "node",
            Self::Plugin => "plugin",
            Self::Route => "route",
            Self::RpFilter => "rp_filter",
        }
    }

    /// A complaint about it.
    pub fn complaint(self, said: impl Into<String>) -> Complaint {
        Complaint { about: self, said: said.into() }
    }
}

/// Something that is not as pods need it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// What it is about.
    pub about: About,
    /// The words: what, on what, why, and what to do.
    pub said: String,
}

/// How pods on other nodes are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingReport {
    /// Which kinds of way there may be.
    pub mode: RouteMode,
    /// Our devices for tunnels that are there.
    pub devices: Vec<Vxlan>,
    /// How many ways there are.
    pub ways: Ways,
    /// Whom none leads to.
    pub unreachable: BTreeSet<Unreachable>,
    /// What else is wrong.
    pub complaints: BTreeSet<Complaint>,
}

impl RoutingReport {
    /// Nothing is known yet.
    pub fn new(mode: RouteMode) -> Self {
        Self {
            mode,
            devices: Vec::new(),
            ways: Ways::default(),
            unreachable: BTreeSet::new(),
            complaints: BTreeSet::new(),
        }
    }

    /// For people: all of it.
    pub fn said(&self) -> Value {
        let devices = self.devices.iter().map(|Vxlan { name, mac, mtu, tunnel }| {
            json!({
                "name": name, "vni": tunnel.vni, "port": tunnel.port, "local": tunnel.local,
                "mac": mac.to_string(), "mtu": mtu,
            })
        });
        let named = self.unreachable.iter().take(NAMED);
        let named = named.map(|one| json!({"node": one.node, "reason": one.to_string()}));
        let complaints = self.complaints.iter();
        let complaints = complaints.map(|one| json!({"about": one.about.word(), "said": one.said}));
        json!({
            "mode": self.mode.to_string(),
            "devices": devices.collect::<Vec<_>>(),
            "ways": {"direct": self.ways.direct, "tunnel": self.ways.tunnel},
            "unreachableNodes": nodes_of(&self.unreachable),
            "unreachable": named.collect::<Vec<_>>(),
            "complaints": complaints.collect::<Vec<_>>(),
        })
    }
}

/// How many nodes these are: some are there for several reasons, one after the other.
pub fn nodes_of(unreachable: &BTreeSet<Unreachable>) -> usize {
    let mut nodes: Vec<&str> = unreachable.iter().map(|one| one.node.as_str()).collect();
    nodes.dedup();
    nodes.len()
}

#[cfg(test)]
mod tests {
    use dataplane::rtnl::{Mac, Tunnel};

    use super::*;
    use crate::plan::routes::Reason;

    fn unreachable(node: &str, reason: Reason) -> Unreachable {
        Unreachable { node: node.to_owned(), reason }
    }

    #[test]
    fn people_are_told_all_of_the_ways_in_the_words_of_the_log() {
        let tunnel =
            Tunnel { vni: 1, port: 8472, local: "192.168.14.50".parse().unwrap(), is_learning: false };
        let mac = Mac([2, 0x46, 192, 168, 14, 50]);
        let report = RoutingReport {
            devices: vec![Vxlan { name: "fairway.1".to_owned(), mac, mtu: 1450, tunnel }],
            ways: Ways { direct: 3, tunnel: 1 },
            unreachable: [unreachable("w9", Reason::NoPodCidr)].into(),
            complaints: [About::RpFilter.complaint("rp_filter is strict")].into(),
            ..RoutingReport::new(RouteMode::Auto)
        };

        assert_eq!(
            report.said(),
            json!({
                "mode": "auto",
                "devices": [{
                    "name": "fairway.1", "vni": 1, "port": 8472, "local": "192.168.14.50",
                    "mac": "02:46:c0:a8:0e:32", "mtu": 1450,
                }],
                "ways": {"direct": 3, "tunnel": 1},
                "unreachableNodes": 1,
                "unreachable": [{"node": "w9", "reason": "node w9 has no pod CIDR"}],
                "complaints": [{"about": "rp_filter", "said": "rp_filter is strict"}],
            })
        );
    }

    #[test]
    fn of_many_nodes_the_first_are_named_and_all_are_counted_once() {
        let cidr = |third: u8| format!("10.244.{third}.0/24").parse().unwrap();
        let mut report = RoutingReport::new(RouteMode::Direct);
        for number in 0..500 {
            for third in [1, 2] {
                let reason = Reason::NoAddress(cidr(third));
                report.unreachable.insert(unreachable(&format!("w{number:03}"), reason));
            }
        }

        let said = report.said();

        assert_eq!(said.get("unreachableNodes"), Some(&500.into()));
        let named = said.get("unreachable").and_then(Value::as_array).unwrap();
        assert_eq!(named.len(), NAMED);
        assert!(named.last().unwrap().to_string().contains("w049"));
    }
}

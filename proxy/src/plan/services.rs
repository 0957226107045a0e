//! Cluster IPs: the first rule of `services`, and what becomes of a packet that it finds.

use dataplane::nft::{Chain, Data, Element, Key, Match, Rule, Source, Statement};

use super::{
    Settings, is_of,
    layout::{self, CLUSTER_VIPS, DISPATCH, NODE_PORTS, goto, mark_for_masquerade},
    table::Journal,
};
use crate::service_port::{Family, ServicePort, ServicePortName};

/// The chain of packets to a cluster IP.
pub(super) const CLUSTER_IP: &str = "cluster-ip";

/// Finds packets to a cluster IP. The `goto` stands in the same rule as the lookup: a priority that an application set is
/// overwritten, or never looked at.
pub(super) fn rule() -> Rule {
    // meta priority set ip daddr . meta l4proto . th dport map @cluster-vips goto cluster-ip
    layout::rule([Statement::SetPriority(Source::ByService(CLUSTER_VIPS.into())), goto(CLUSTER_IP)])
}

/// Masquerades what would not find back: sources outside the pod networks, where those are known.
pub(super) fn cluster_ip(family: Family, settings: &Settings) -> Chain {
    let mut rules = Vec::new();
    let pods = settings.cluster_cidrs.iter().find(|network| is_of(family, network));
    if settings.masquerade_all {
        rules.push(layout::rule([mark_for_masquerade()]));
    } else if let Some(pods) = pods {
        // ip saddr != 10.244.0.0/16 meta mark set meta mark | 0x00004000
        rules.push(layout::rule([Statement::Match(Match::SourceOutside(*pods)), mark_for_masquerade()]));
    }
    rules.push(layout::rule([goto(DISPATCH)]));
    Chain { hook: None, rules }
}

/// The key of a service port's cluster IP.
pub(super) fn cluster_ip_key(name: &ServicePortName, port: &ServicePort) -> Key {
    Key::Service(port.cluster_ip, name.protocol, port.port)
}

/// Points an address of a service port to a number, with the service's name for people.
pub(super) fn point(journal: &mut Journal, key: Key, name: &ServicePortName, number: Option<u32>) {
    let element = number.map(|number| {
        // The longest namespace, name and port together are longer than what nft takes.
        let mut comment = name.to_string();
        comment.truncate(comment.floor_char_boundary(Element::LONGEST_COMMENT));
        Element { data: Data::Number(number), comment: Some(comment.into()) }
    });
    journal.set(vip_map(key), key, element);
}

/// Takes an address out of service.
pub(super) fn unpoint(journal: &mut Journal, key: Key) {
    journal.set(vip_map(key), key, None);
}

fn vip_map(key: Key) -> &'static str {
    if matches!(key, Key::Port(..)) { NODE_PORTS } else { CLUSTER_VIPS }
}

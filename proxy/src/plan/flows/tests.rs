use std::collections::BTreeMap;

use dataplane::conntrack::Tuple;

use super::*;
use crate::{
    config::NodePortAddresses,
    plan::{Planner, Settings},
    service_port::{Endpoint, TrafficPolicy},
};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A flow of a client that asked `asked`, and whom it was led to.
fn flow(protocol: Protocol, asked: &str, answerer: &str) -> Flow {
    let client = at(if asked.starts_with('[') { "[fd00::99]:4000" } else { "10.244.9.9:4000" });
    Flow {
        protocol,
        original: Tuple { source: client, destination: at(asked) },
        reply: Tuple { source: at(answerer), destination: client },
        is_answered: false,
        zone: 0,
        id: 1,
    }
}

fn udp(asked: &str, answerer: &str) -> Flow {
    Flow { is_answered: true, ..flow(Protocol::Udp, asked, answerer) }
}

fn name(name: &str, protocol: Protocol) -> ServicePortName {
    ServicePortName { namespace: "default".into(), name: name.into(), port: "p".into(), protocol }
}

/// A service port at a cluster IP, port 53, with endpoints at 10.244.1.n:5353.
fn port(cluster_ip: &str, endpoints: &[u8]) -> ServicePort {
    let endpoint = |n: &u8| Endpoint::new(SocketAddr::new([10, 244, 1, *n].into(), 5353), false);
    ServicePort::new(ip(cluster_ip), 53, endpoints.iter().map(endpoint).collect())
}

fn with_node_port(node_port: u16, port: ServicePort) -> ServicePort {
    ServicePort { node_port: Some(node_port), ..port }
}

/// The node at 192.168.14.50.
fn own() -> OwnAddresses {
    OwnAddresses([ip("192.168.14.50"), ip("127.0.0.1")].into())
}

/// One service port of a planner, changed from one thing to another, the first of which is long ago.
struct Changed(Suspects);

impl Changed {
    fn of(protocol: Protocol, before: Option<&ServicePort>, now: Option<&ServicePort>) -> Self {
        let mut planner = Planner::new(&Family::ALL, &Settings::default());
        planner.set(&name("dns", protocol), Family::Ip, before);
        planner.take_suspects();
        planner.set(&name("dns", protocol), Family::Ip, now);
        Self(planner.take_suspects())
    }

    fn udp(before: &ServicePort, now: &ServicePort) -> Self {
        Self::of(Protocol::Udp, Some(before), Some(now))
    }

    #[track_caller]
    fn ends(&self, flow: &Flow) -> &Self {
        assert!(self.0.condemn(flow, &own(), false), "{flow} goes on");
        self
    }

    #[track_caller]
    fn keeps(&self, flow: &Flow) -> &Self {
        assert!(!self.0.condemn(flow, &own(), false), "{flow} ends");
        self
    }
}

#[test]
fn flows_to_an_endpoint_that_is_gone_end_and_others_go_on() {
    Changed::udp(&port("10.96.0.10", &[1, 2]), &port("10.96.0.10", &[2, 3]))
        .ends(&udp("10.96.0.10:53", "10.244.1.1:5353"))
        .keeps(&udp("10.96.0.10:53", "10.244.1.2:5353"))
        .keeps(&udp("10.96.0.10:53", "10.244.1.3:5353"));
}

#[test]
fn all_flows_end_when_the_last_endpoint_goes() {
    Changed::udp(&port("10.96.0.10", &[1]), &port("10.96.0.10", &[]))
        .ends(&udp("10.96.0.10:53", "10.244.1.1:5353"));
}

#[test]
fn flows_to_an_endpoint_that_still_answers_go_on_though_nobody_new_is_sent_there() {
    let draining = ServicePort {
        serving: vec![at("10.244.1.1:5353"), at("10.244.1.2:5353")],
        ..port("10.96.0.10", &[2])
    };

    Changed::udp(&port("10.96.0.10", &[1]), &draining).keeps(&udp("10.96.0.10:53", "10.244.1.1:5353"));
}

#[test]
fn flows_end_when_the_target_port_is_another() {
    let other = ServicePort::new(ip("10.96.0.10"), 53, vec![Endpoint::new(at("10.244.1.1:5354"), false)]);

    Changed::udp(&port("10.96.0.10", &[1]), &other).ends(&udp("10.96.0.10:53", "10.244.1.1:5353"));
}

#[test]
fn flows_that_began_before_the_service_came_end_so_that_they_are_led_there() {
    Changed::of(Protocol::Udp, None, Some(&port("10.96.0.10", &[1])))
        .ends(&udp("10.96.0.10:53", "10.96.0.10:53"))
        .keeps(&udp("10.96.0.10:53", "10.244.1.1:5353"));
}

#[test]
fn flows_to_a_service_end_with_it_and_what_it_never_led_anywhere_goes_on() {
    Changed::of(Protocol::Udp, Some(&port("10.96.0.10", &[1])), None)
        .ends(&udp("10.96.0.10:53", "10.244.1.1:5353"))
        .keeps(&udp("10.96.0.10:53", "10.96.0.10:53"))
        .keeps(&udp("10.96.0.11:53", "10.244.1.1:5353"));
}

#[test]
fn flows_to_a_cluster_ip_that_was_exchanged_end() {
    Changed::udp(&port("10.96.0.10", &[1]), &port("10.96.0.11", &[1]))
        .ends(&udp("10.96.0.10:53", "10.244.1.1:5353"))
        .keeps(&udp("10.96.0.11:53", "10.244.1.1:5353"));
}

#[test]
fn flows_to_a_node_port_that_was_exchanged_end_on_addresses_of_the_node() {
    let (old, new) =
        (with_node_port(30_053, port("10.96.0.10", &[1])), with_node_port(30_054, port("10.96.0.10", &[1])));

    Changed::udp(&old, &new)
        .ends(&udp("192.168.14.50:30053", "10.244.1.1:5353"))
        .keeps(&udp("192.168.14.50:30054", "10.244.1.1:5353"))
        .keeps(&udp("10.96.0.10:53", "10.244.1.1:5353"));
}

#[test]
fn what_others_say_to_the_number_of_a_node_port_is_theirs() {
    let port = port("10.96.0.10", &[1]);

    Changed::udp(&port, &with_node_port(30_053, port.clone()))
        .ends(&udp("192.168.14.50:30053", "192.168.14.50:30053")) // from before
        .keeps(&udp("192.168.14.51:30053", "192.168.14.51:30053")) // to another node
        .keeps(&udp("10.97.0.1:30053", "10.244.7.7:53")) // to another proxy's service
        .keeps(&udp("127.0.0.1:30053", "127.0.0.1:30053")) // among processes of this node
        .ends(&udp("127.0.0.1:30053", "10.244.7.7:53")); // led here, and to nobody who is right
}

#[test]
fn node_ports_are_ours_only_where_they_are_served() {
    let addresses = NodePortAddresses::Cidrs(vec!["192.168.14.0/24".parse().unwrap()]);
    let settings = Settings { node_port_addresses: addresses, ..Settings::default() };
    let mut planner = Planner::new(&Family::ALL, &settings);
    let port = with_node_port(30_053, port("10.96.0.10", &[1]));
    planner.set(&name("dns", Protocol::Udp), Family::Ip, Some(&port));
    let suspects = planner.take_suspects();
    let own = OwnAddresses([ip("192.168.14.50"), ip("172.17.0.1")].into());

    let ends = |to: &str| suspects.condemn(&udp(to, to), &own, false);
    assert!(ends("192.168.14.50:30053"));
    assert!(!ends("172.17.0.1:30053"));
}

#[test]
fn node_ports_stay_confined_whatever_else_is_looked_at_with_them() {
    let addresses = NodePortAddresses::Cidrs(vec!["192.168.14.0/24".parse().unwrap()]);
    let settings = Settings { node_port_addresses: addresses, ..Settings::default() };
    let mut planner = Planner::new(&Family::ALL, &settings);
    let node_port = with_node_port(30_053, port("10.96.0.10", &[1]));
    planner.set(&name("dns", Protocol::Udp), Family::Ip, Some(&node_port));
    let mut suspects = planner.take_suspects();

    planner.set(&name("log", Protocol::Udp), Family::Ip, Some(&port("10.96.0.11", &[1])));
    suspects.extend(planner.take_suspects());

    let own = OwnAddresses([ip("192.168.14.50"), ip("172.17.0.1")].into());
    let others = udp("172.17.0.1:30053", "172.17.0.1:30053");
    assert!(!suspects.condemn(&others, &own, false), "{others} ends");
    let ours = udp("192.168.14.50:30053", "192.168.14.50:30053");
    assert!(suspects.condemn(&ours, &own, false), "{ours} goes on");
}

#[test]
fn external_addresses_are_looked_at_too() {
    let external = |ips: &[&str]| ServicePort {
        external_ips: ips.iter().map(|text| ip(text)).collect(),
        load_balancer_ips: vec![ip("203.0.113.9")],
        ..port("10.96.0.10", &[1])
    };

    Changed::udp(&external(&["198.51.100.7", "198.51.100.8"]), &external(&["198.51.100.8"]))
        .ends(&udp("198.51.100.7:53", "10.244.1.1:5353"))
        .keeps(&udp("198.51.100.8:53", "10.244.1.1:5353"))
        .ends(&udp("198.51.100.8:53", "10.244.1.2:5353"))
        .ends(&udp("203.0.113.9:53", "10.244.1.2:5353"));
}

#[test]
fn each_protocol_is_a_service_port_of_its_own() {
    Changed::udp(&port("10.96.0.10", &[1]), &port("10.96.0.10", &[]))
        .keeps(&flow(Protocol::Sctp, "10.96.0.10:53", "10.244.1.1:5353"))
        .keeps(&flow(Protocol::Tcp, "10.96.0.10:53", "10.244.1.1:5353"));
    Changed::of(Protocol::Sctp, Some(&port("10.96.0.10", &[1])), Some(&port("10.96.0.10", &[]))).ends(&flow(
        Protocol::Sctp,
        "10.96.0.10:53",
        "10.244.1.1:5353",
    ));
}

#[test]
fn of_tcp_only_what_nobody_answered_ends() {
    let waiting = flow(Protocol::Tcp, "10.96.0.10:53", "10.244.1.1:5353");
    let established = Flow { is_answered: true, ..waiting.clone() };

    for now in [Some(&port("10.96.0.10", &[2])), None] {
        Changed::of(Protocol::Tcp, Some(&port("10.96.0.10", &[1])), now).ends(&waiting).keeps(&established);
    }
}

#[test]
fn where_it_is_asked_for_connections_to_endpoints_that_are_nowhere_end_too() {
    let now = ServicePort { silent: vec![at("10.244.1.1:5353")], ..port("10.96.0.10", &[2]) };
    let Changed(suspects) = Changed::of(Protocol::Tcp, Some(&port("10.96.0.10", &[1])), Some(&now));
    let ends = |answerer| {
        let established = Flow { is_answered: true, ..flow(Protocol::Tcp, "10.96.0.10:53", answerer) };
        suspects.condemn(&established, &own(), true)
    };

    assert!(ends("10.244.1.3:5353"), "gone");
    assert!(!ends("10.244.1.1:5353"), "there, but not ready");
    assert!(!ends("10.244.1.2:5353"), "ready");
    assert!(!ends("10.96.0.10:53"), "never ours");
}

#[test]
fn an_address_that_changes_hands_keeps_flows_to_endpoints_of_its_new_holder() {
    let mut planner = Planner::new(&Family::ALL, &Settings::default());
    let (first, second) = (name("a", Protocol::Udp), name("b", Protocol::Udp));
    planner.set(&first, Family::Ip, Some(&port("10.96.0.10", &[1])));
    planner.set(&second, Family::Ip, Some(&port("10.96.0.10", &[2, 3])));
    planner.take_suspects();

    planner.set(&second, Family::Ip, Some(&port("10.96.0.10", &[2]))); // it does not have the address
    assert!(planner.take_suspects().is_empty());
    planner.set(&first, Family::Ip, None);

    Changed(planner.take_suspects())
        .ends(&udp("10.96.0.10:53", "10.244.1.1:5353"))
        .keeps(&udp("10.96.0.10:53", "10.244.1.2:5353"));
}

#[test]
fn after_a_time_without_rules_what_was_led_nowhere_ends() {
    let mut planner = Planner::new(&Family::ALL, &Settings::default());
    planner.set(
        &name("dns", Protocol::Udp),
        Family::Ip,
        Some(&with_node_port(30_053, port("10.96.0.10", &[1]))),
    );
    planner.take_suspects();

    planner.suspect_all();

    Changed(planner.take_suspects())
        .ends(&udp("10.96.0.10:53", "10.96.0.10:53"))
        .ends(&udp("192.168.14.50:30053", "192.168.14.50:30053"))
        .keeps(&udp("10.96.0.10:53", "10.244.1.7:5353"));
}

#[test]
fn filters_are_as_narrow_as_they_can_be_in_one_walk_of_each_kind() {
    let filters = |keys: &[(Family, Key)], reset| {
        let mut suspects = Suspects::default();
        for (family, key) in keys {
            suspects.add(*family, *key, Answerers::Nobody);
        }
        suspects.filters(reset)
    };
    let all = Filter::all(Family::Ip, Protocol::Udp);
    let one = (Family::Ip, Key::Service(ip("10.96.0.10"), Protocol::Udp, 53));
    let same_address = (Family::Ip, Key::Service(ip("10.96.0.10"), Protocol::Udp, 54));
    let same_port = (Family::Ip, Key::Service(ip("10.96.0.11"), Protocol::Udp, 53));
    let node_port = (Family::Ip, Key::Port(Protocol::Udp, 53));
    let tcp = (Family::Ip, Key::Service(ip("10.96.0.10"), Protocol::Tcp, 53));

    let address = Some(ip("10.96.0.10"));
    assert_eq!(filters(&[one], false), [Filter { address, port: Some(53), ..all }]);
    assert_eq!(filters(&[one, same_address], false), [Filter { address, ..all }]);
    assert_eq!(filters(&[one, same_port], false), [Filter { port: Some(53), ..all }]);
    assert_eq!(filters(&[one, node_port], false), [Filter { port: Some(53), ..all }]);
    assert_eq!(filters(&[same_address, same_port], false), [all]);
    let unanswered =
        Filter { address, port: Some(53), unanswered: true, ..Filter::all(Family::Ip, Protocol::Tcp) };
    assert_eq!(filters(&[tcp], false), [unanswered]);
    assert_eq!(filters(&[tcp], true), [Filter { unanswered: false, ..unanswered }]);
    assert_eq!(filters(&[], false), []);
}

#[test]
fn tcp_can_wait_and_is_judged_by_the_newest_then() {
    let mut planner = Planner::new(&Family::ALL, &Settings::default());
    let mut take = |protocol, endpoints: &[u8]| {
        planner.set(&name("dns", protocol), Family::Ip, Some(&port("10.96.0.10", endpoints)));
        planner.take_suspects()
    };
    let new = take(Protocol::Tcp, &[1, 2]).split_off_tcp();
    assert!(new.is_empty(), "what was led nowhere so far cannot wait");
    let mut both = take(Protocol::Tcp, &[1]);
    both.extend(take(Protocol::Udp, &[1]));
    let waiting = flow(Protocol::Tcp, "10.96.0.10:53", "10.244.1.2:5353");

    let mut tcp = both.split_off_tcp();
    assert_eq!((both.len(), tcp.len()), (1, 1));
    Changed(both).keeps(&waiting).ends(&udp("10.96.0.10:53", "10.244.1.2:5353"));
    assert!(tcp.condemn(&waiting, &own(), false));

    tcp.renew(&take(Protocol::Tcp, &[2]));
    tcp.renew(&take(Protocol::Udp, &[3]));
    assert_eq!(tcp.len(), 1);
    Changed(tcp).keeps(&waiting);
}

#[test]
fn no_filter_holds_back_what_is_condemned() {
    let ports = BTreeMap::from([("a", "10.96.0.10"), ("b", "10.96.0.11"), ("c", "10.96.0.12")]);
    let mut planner = Planner::new(&Family::ALL, &Settings::default());
    for (service, cluster_ip) in &ports {
        planner.set(
            &name(service, Protocol::Udp),
            Family::Ip,
            Some(&with_node_port(30_053, port(cluster_ip, &[1]))),
        );
    }
    let suspects = planner.take_suspects();

    let asked = ports.values().map(|ip| format!("{ip}:53")).chain(["192.168.14.50:30053".to_owned()]);
    for flow in asked.map(|asked| udp(&asked, "10.244.1.9:5353")) {
        assert!(suspects.condemn(&flow, &own(), false), "{flow}");
        assert!(suspects.filters(false).iter().any(|filter| filter.lets_through(&flow)), "{flow}");
    }
}

#[test]
fn policies_do_not_end_what_is_established() {
    let now = ServicePort { internal_policy: TrafficPolicy::Local, ..port("10.96.0.10", &[1]) };

    Changed::udp(&port("10.96.0.10", &[1]), &now).keeps(&udp("10.96.0.10:53", "10.244.1.1:5353"));
}

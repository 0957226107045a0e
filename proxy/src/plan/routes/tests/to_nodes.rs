//! What pods send to other nodes themselves.

use super::*;

/// What there is for what pods send to nodes themselves.
fn to_nodes(planned: Vec<String>) -> Vec<String> {
    planned.into_iter().filter(|line| line.contains("18007")).collect()
}

#[test]
fn all_addresses_of_a_node_behind_a_tunnel_are_reached_through_it() {
    let own = node("m", &["10.244.0.0/24"], &["fd00:14::50"]);
    let site = Site::new(RouteMode::Vxlan, Some(&own), vec![address(2, "fd00:14::50/64")], &BTreeMap::new());
    let far = node("w3", &["10.244.3.0/24", "fd00:3::/64"], &["192.168.15.53", "fd00:15::53", "10.0.0.53"]);

    let planned = planned_by(site, &[far]);

    assert!(planned.contains(&"192.168.15.53 dev 8 lladdr 96:a6:fd:77:fd:fa".to_owned()), "{planned:?}");
    assert_eq!(
        to_nodes(planned),
        [
            "10.0.0.53/32 via 10.0.0.53 dev 8 table 18007 proto 70 onlink",
            "192.168.15.53/32 via 192.168.15.53 dev 8 table 18007 proto 70 onlink",
            // None of our pods has an IPv6 address.
            "from 10.244.0.0/24 lookup 18007 priority 1070 proto 70",
        ],
    );
}

#[test]
fn an_address_that_several_nodes_have_is_that_of_whose_tunnels_end_there() {
    let claims = |ips: [&str; 2]| node("a", &["10.244.9.0/24"], &ips);
    let far = node("w2", &["10.244.2.0/24"], &["192.168.15.52"]);
    let near = node("w1", &["10.244.1.0/24"], &["192.168.14.51", "10.0.0.51"]);

    assert_eq!(
        to_nodes(planned(&[claims(["192.168.15.51", "192.168.15.52"]), far])),
        [
            "192.168.15.51/32 via 192.168.15.51 dev 7 table 18007 proto 70 onlink",
            "192.168.15.52/32 via 192.168.15.52 dev 7 table 18007 proto 70 onlink",
            "from 10.244.0.0/24 lookup 18007 priority 1070 proto 70",
        ],
    );
    assert_eq!(
        to_nodes(planned(&[claims(["192.168.15.51", "10.0.0.51"]), near])),
        [
            "192.168.15.51/32 via 192.168.15.51 dev 7 table 18007 proto 70 onlink",
            "from 10.244.0.0/24 lookup 18007 priority 1070 proto 70",
        ],
        "a node that no tunnel leads to keeps its addresses",
    );
}

#[test]
fn of_several_nodes_with_an_address_that_no_tunnel_ends_at_none_has_it_and_all_are_named() {
    let nodes = ["w2", "w3"].map(|name| {
        let own = format!("192.168.15.5{}", &name[1..]);
        node(
            name,
            &[&format!("10.244.{}.0/24", &name[1..]), "fd00:3::/64"],
            &[&own, "fd00:15::9", "10.0.0.9"],
        )
    });
    let mut ways = routing(site(RouteMode::Auto), &nodes);

    assert!(
        !to_nodes(lines(ways.objects()))
            .iter()
            .any(|line| line.contains("fd00:15::9") || line.contains("10.0.0.9"))
    );
    let named: Vec<_> = ways.unreachable().iter().map(ToString::to_string).collect();
    for name in ["w2", "w3"] {
        let words =
            format!("node {name} shares its address 10.0.0.9 with another node: no tunnel leads to it");
        assert!(named.contains(&words), "{named:?}");
    }

    ways.follow([("w2", None)]);
    assert!(
        lines(ways.objects())
            .contains(&"10.0.0.9/32 via 192.168.15.53 dev 7 table 18007 proto 70 onlink".to_owned())
    );
    assert_eq!(ways.unreachable(), BTreeSet::new());
}

#[test]
fn no_node_gets_what_is_sent_to_pods_or_to_no_machine_whatever_addresses_it_says_it_has() {
    let pods =
        ["10.244.0.7", "10.244.3.7", "fd00::7", "169.254.169.254", "127.0.0.1", "224.0.0.1", "fe80::1"];
    let all: Vec<_> = ["192.168.15.59"].into_iter().chain(pods).collect();
    let liar = node("w9", &["10.244.9.0/24", "fd00:9::/64"], &all);
    let victim = node("w3", &["10.244.3.0/24"], &["192.168.15.53"]);
    let mut ways = routing(site(RouteMode::Auto), [&liar]);
    let claimed = |ways: &Routing| {
        let led = to_nodes(lines(ways.objects()));
        pods.into_iter()
            .filter(|ip| led.iter().any(|line| line.starts_with(&format!("{ip}/"))))
            .collect::<Vec<_>>()
    };

    assert_eq!(claimed(&ways), ["10.244.3.7"], "nobody has those pods yet");
    ways.follow([("w3", Some(&victim))]);
    assert_eq!(claimed(&ways), [""; 0]);
    assert_eq!(ways.objects(), routing(site(RouteMode::Auto), [&victim, &liar]).objects());
    ways.follow([("w3", None)]);
    assert_eq!(claimed(&ways), ["10.244.3.7"]);
}

#[test]
fn rules_come_last_and_go_first() {
    let far = node("w3", &["10.244.3.0/24"], &["192.168.15.53"]);
    let mut routing = routing(site(RouteMode::Auto), []);

    let come = routing.follow([("w3", Some(&far))]);
    let gone = routing.follow([("w3", None)]);

    let rule = "from 10.244.0.0/24 lookup 18007 priority 1070 proto 70";
    assert_eq!(lines(come.put.iter().map(|put| put.object)).last().unwrap(), rule);
    assert_eq!(lines(gone.gone)[0], rule);
    routing.follow([("w3", Some(&far))]);
    let other = routing.follow([("w4", Some(&node("w4", &["10.244.4.0/24"], &["192.168.15.54"])))]);
    let put = lines(other.put.iter().map(|put| put.object));
    assert!(!put.contains(&rule.to_owned()), "it is there: {put:?}");
}

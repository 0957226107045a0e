use std::collections::BTreeMap;

use dataplane::rtnl::{Address, Link, Route};

use super::*;
use crate::{
    config::RouteMode,
    objects::Node,
    plan::routes::{
        Site,
        routing::Routing,
        tests::{address, link, node, planned_by, routing},
    },
};

/// A route of somebody else's, of this metric.
fn route(destination: &str, link: u32, metric: Option<u32>) -> Route {
    Route { protocol: 3, metric, ..Route::on_link(destination.parse().unwrap(), link) }
}

/// Node `m` with two links: its address is on the first, and the network of the second is another one unless said otherwise.
struct M {
    links: [Link; 2],
    addresses: Vec<Address>,
    routes: Vec<Route>,
}

impl M {
    fn new() -> Self {
        Self {
            links: [link(2, "eth0"), link(3, "eth1")],
            addresses: vec![address(2, "192.168.14.50/24"), address(3, "172.16.0.50/24")],
            routes: vec![route("192.168.14.0/24", 2, None), route("172.16.0.0/24", 3, None)],
        }
    }

    /// With the default route over this link.
    fn behind(mut self, link: u32) -> Self {
        self.routes.push(route("0.0.0.0/0", link, None));
        self
    }

    fn eth0(mut self, change: impl FnOnce(&mut Link)) -> Self {
        change(&mut self.links[0]);
        // The kernel takes routes along with a link that goes down, and leaves those over one without a carrier.
        let is_down = !self.links[0].is_up;
        self.routes.retain(|route| !is_down || route.link != 2);
        self
    }

    fn site(&self, mode: RouteMode) -> Site {
        let own = node("m", &["10.244.0.0/24"], &["192.168.14.50"]);
        let site = Site::new(mode, Some(&own), self.addresses.clone(), &BTreeMap::new());
        site.over(Uplinks::new(&self.links, &self.routes))
    }

    /// The route to this node's pods, or why there is none.
    fn way(&self, mode: RouteMode, other: &Node) -> String {
        let mut planned = planned_by(self.site(mode), std::slice::from_ref(other)).into_iter();
        planned.find(|line| line.starts_with("10.244.") || line.starts_with("node ")).unwrap()
    }

    fn mtu(&self, others: &[Node]) -> u32 {
        Routing::new(self.site(RouteMode::Auto), others).link_mtu()
    }
}

fn w1() -> Node {
    node("w1", &["10.244.1.0/24"], &["192.168.14.51"])
}

fn w3() -> Node {
    node("w3", &["10.244.3.0/24"], &["192.168.15.53"])
}

fn is_down(link: &mut Link) {
    (link.is_up, link.has_carrier) = (false, false);
}

fn has_no_carrier(link: &mut Link) {
    link.has_carrier = false;
}

const STRAIGHT: &str = "10.244.1.0/24 via 192.168.14.51 dev 2 proto 70";
const THROUGH_A_TUNNEL: &str = "10.244.1.0/24 via 192.168.14.51 dev 7 proto 70 onlink";

#[test]
fn a_node_on_a_link_that_is_down_is_reached_through_a_tunnel_by_another() {
    assert_eq!(M::new().behind(3).way(RouteMode::Auto, &w1()), STRAIGHT);
    assert_eq!(M::new().behind(3).eth0(is_down).way(RouteMode::Auto, &w1()), THROUGH_A_TUNNEL);
}

#[test]
fn where_nothing_else_leads_to_a_node_its_link_is_waited_for() {
    // All of these leave by the link that leads nowhere, or by none: nothing is gained by a tunnel.
    assert_eq!(M::new().eth0(has_no_carrier).way(RouteMode::Auto, &w1()), STRAIGHT);
    assert_eq!(M::new().behind(2).eth0(has_no_carrier).way(RouteMode::Auto, &w1()), STRAIGHT);
    assert_eq!(M::new().behind(3).eth0(has_no_carrier).way(RouteMode::Auto, &w1()), STRAIGHT);
    let waits =
        "node w1 at 192.168.14.51 is on a link of this node that is down, and nothing else leads there";
    assert_eq!(M::new().eth0(is_down).way(RouteMode::Auto, &w1()), waits);
    assert_eq!(M::new().eth0(is_down).way(RouteMode::Direct, &w1()), waits);
    assert_eq!(M::new().eth0(is_down).way(RouteMode::Vxlan, &w1()), THROUGH_A_TUNNEL);
}

#[test]
fn of_two_links_on_a_network_the_one_that_packets_leave_by_is_taken() {
    let both = || {
        let mut m = M::new();
        m.addresses.insert(0, address(3, "192.168.14.60/24"));
        m
    };

    assert_eq!(both().way(RouteMode::Auto, &w1()), STRAIGHT);
    for change in [is_down, has_no_carrier] {
        let way = both().eth0(change).way(RouteMode::Direct, &w1());
        assert_eq!(way, "10.244.1.0/24 via 192.168.14.51 dev 3 proto 70");
    }
}

#[test]
fn of_a_node_s_addresses_the_one_on_a_link_that_packets_leave_by_is_taken() {
    let both = node("w1", &["10.244.1.0/24"], &["192.168.14.51", "172.16.0.51"]);

    assert_eq!(M::new().way(RouteMode::Direct, &both), STRAIGHT);
    let way = M::new().eth0(has_no_carrier).way(RouteMode::Direct, &both);
    assert_eq!(way, "10.244.1.0/24 via 172.16.0.51 dev 3 proto 70");
}

#[test]
fn nobody_is_next_to_us_on_a_link_without_neighbours() {
    let m = || M::new().eth0(|link| link.has_neighbours = false);

    assert_eq!(m().way(RouteMode::Auto, &w1()), THROUGH_A_TUNNEL);
    assert!(m().way(RouteMode::Direct, &w1()).contains("is on none of this node's links"));
    let mut on_loopback = M::new();
    on_loopback.addresses = vec![address(1, "192.168.14.50/24")];
    assert_eq!(on_loopback.way(RouteMode::Auto, &w1()), THROUGH_A_TUNNEL);
}

#[test]
fn an_address_that_is_ours_for_the_moment_is_passed_over_for_another_of_the_node() {
    let with = |ips: &[&str]| node("w1", &["10.244.1.0/24"], ips);
    let m = || {
        let mut m = M::new();
        m.addresses.push(address(2, "192.168.14.100/32")); // whoever keeps it alive has given it to us
        m
    };

    for ips in [["192.168.14.100", "192.168.14.51"], ["192.168.14.51", "192.168.14.100"]] {
        assert_eq!(m().way(RouteMode::Auto, &with(&ips)), STRAIGHT);
        assert_eq!(m().way(RouteMode::Vxlan, &with(&ips)), THROUGH_A_TUNNEL);
    }
    let ours = "node w1 claims 192.168.14.100, which is an address of this node, and has no other";
    for mode in [RouteMode::Auto, RouteMode::Direct, RouteMode::Vxlan] {
        assert_eq!(m().way(mode, &with(&["192.168.14.100"])), ours);
    }
}

#[test]
fn the_mtu_is_the_least_of_the_links_that_lead_to_other_nodes() {
    let m = |eth0, eth1| {
        let mut m = M::new().behind(3).eth0(|link| link.mtu = eth0);
        m.links[1].mtu = eth1;
        m
    };

    assert_eq!(m(1500, 1400).mtu(&[w1()]), 1500, "nobody is behind the other link");
    assert_eq!(m(1500, 1400).mtu(&[w1(), w3()]), 1400);
    assert_eq!(m(1500, 9000).mtu(&[w3()]), 9000);
    assert_eq!(
        m(1400, 9000).mtu(&[]),
        1400,
        "as long as there is nobody, it is that of the node's own address"
    );
}

#[test]
fn an_mtu_of_a_route_counts_where_packets_take_it() {
    let m = |routes: &[Route]| {
        let mut m = M::new();
        m.routes.extend_from_slice(routes);
        m.mtu(&[w3()])
    };
    let with_mtu = |mtu, route| Route { mtu: Some(mtu), ..route };
    let everything = |metric, link| route("0.0.0.0/0", link, metric);

    assert_eq!(m(&[with_mtu(1300, everything(None, 2))]), 1300);
    assert_eq!(m(&[with_mtu(9000, everything(None, 2))]), 1500, "no link takes more than it does");
    assert_eq!(m(&[with_mtu(1300, everything(Some(200), 2)), everything(Some(100), 3)]), 1500);
    assert_eq!(
        m(&[everything(Some(100), 3), with_mtu(1300, everything(Some(100), 2))]),
        1300,
        "either may be taken"
    );
    let nearer = [with_mtu(1300, everything(None, 2)), route("192.168.15.0/24", 3, Some(500))];
    assert_eq!(m(&nearer), 1500);
    let elsewhere = [everything(None, 2), with_mtu(1300, route("192.168.16.0/24", 2, None))];
    assert_eq!(m(&elsewhere), 1500);
    // Straight to a neighbour.
    let mut near = M::new();
    near.routes[0].mtu = Some(1280);
    assert_eq!(near.mtu(&[w1()]), 1280);
}

#[test]
fn a_node_whose_address_is_on_a_loopback_link_sends_what_its_links_take() {
    let mut m = M::new();
    m.addresses = vec![address(1, "192.168.14.50/32"), address(3, "172.16.0.1/31")];
    m.links[1].mtu = 1400;

    assert_eq!(m.mtu(&[]), 1400);
    m.addresses.clear();
    assert_eq!(m.mtu(&[]), 1500, "nothing is known");
}

#[test]
fn in_ipv6_no_metric_is_worse_than_a_small_one() {
    let uplinks = Uplinks::new(&[], &[route("::/0", 2, None), route("::/0", 3, Some(100))]);

    assert_eq!(uplinks.towards("fd00:15::53".parse().unwrap()), [Exit { link: 3, mtu: None }].into());
    assert_eq!(uplinks.towards("192.168.15.53".parse().unwrap()), BTreeSet::new());
}

#[test]
fn the_mtu_is_followed_as_nodes_come_and_go() {
    let mut m = M::new().behind(3);
    m.links[1].mtu = 1400;
    let mut followed = routing(m.site(RouteMode::Auto), [&w1()]);
    assert_eq!(followed.link_mtu(), 1500);

    followed.follow([("w3", Some(&w3()))]);
    assert_eq!(followed.link_mtu(), 1400);
    let network = |text: &str| text.parse().unwrap();
    assert!(followed.has_nodes_in(network("192.168.15.0/24")) && followed.has_nodes_in(network("0.0.0.0/0")));
    assert!(!followed.has_nodes_in(network("192.168.16.0/24")) && !followed.has_nodes_in(network("::/0")));

    followed.follow([("w3", None)]);
    assert_eq!(followed.link_mtu(), 1500);
    assert!(!followed.has_nodes_in(network("192.168.15.0/24")));
}

#[test]
fn of_two_links_on_a_network_with_addresses_alike_the_one_with_the_better_metric_is_taken() {
    for (metrics, link) in [([100, 101], 2), ([101, 100], 3), ([100, 100], 2)] {
        let mut m = M::new();
        m.addresses = vec![address(2, "192.168.14.50/24"), address(3, "192.168.14.60/24")];
        m.routes = [2, 3]
            .into_iter()
            .zip(metrics)
            .map(|(link, metric)| route("192.168.14.0/24", link, Some(metric)))
            .collect();

        assert_eq!(
            m.way(RouteMode::Auto, &w1()),
            format!("10.244.1.0/24 via 192.168.14.51 dev {link} proto 70")
        );
    }
}

#[test]
fn a_route_to_nodes_that_wait_for_one_matters_and_no_other() {
    let m = M::new().eth0(is_down);
    let routing = Routing::new(m.site(RouteMode::Auto), &[w1()]);

    let matters = |network: &str| routing.has_nodes_in(network.parse().unwrap());

    assert!(matters("0.0.0.0/0") && matters("192.168.14.0/24"));
    assert!(!matters("192.168.15.0/24"));
}

#[test]
fn whom_no_way_leads_to_is_looked_at_again_only_where_that_is_different() {
    let others = ["192.168.15.53", "192.168.15.54"].map(|ip| node("w", &["10.244.3.0/24"], &[ip]));
    let mut routing = Routing::new(M::new().site(RouteMode::Direct), &others[..1]);
    assert!(routing.take_unreachable_changed());

    let mut is_changed = |node: Option<&Node>| {
        routing.follow([("w", node)]);
        routing.take_unreachable_changed()
    };

    assert!(!is_changed(Some(&others[0])), "as it was");
    assert!(is_changed(Some(&others[1])), "for another reason");
    assert!(is_changed(None));
    assert!(!is_changed(Some(&w1())), "which is reached");
}

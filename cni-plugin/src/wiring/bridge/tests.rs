use std::net::IpAddr;

use dataplane::rtnl::Port;

use super::*;
use crate::{
    conf::{PodRoute, RUN_DIR},
    request::Attachment,
    wiring::Wish,
};

fn endpoint(address: &str, gateway: &str, prefix: u8) -> Endpoint {
    Endpoint { address: address.parse().unwrap(), gateway: gateway.parse().unwrap(), prefix }
}

fn dual_stack() -> Vec<Endpoint> {
    vec![endpoint("10.244.1.7", "10.244.1.1", 24), endpoint("fd00::7", "fd00::1", 64)]
}

fn plugged(role: Role, endpoints: Vec<Endpoint>, routes: Option<&[PodRoute]>) -> Result<Wiring, Error> {
    let port = Port::default();
    let bridging =
        Bridging { bridge: "cni0".to_owned(), role, takes_over: false, is_promiscuous: false, port };
    Wiring::of(Wish {
        network: "pods",
        attachment: &Attachment::new("c1", "eth0").unwrap(),
        run_dir: RUN_DIR.as_ref(),
        alias: "default/web",
        mtu: 1450,
        mac: None,
        endpoints,
        bandwidth: crate::bandwidth::Bandwidth::default(),
        bridging: Some(&bridging),
        routes,
    })
}

fn route(dst: &str, gw: Option<&str>) -> PodRoute {
    let gw = gw.map(|gw| gw.parse().unwrap());
    PodRoute { dst: dst.parse().unwrap(), gw, mtu: None, priority: None }
}

fn addresses(side: &Side) -> Vec<String> {
    side.addresses.iter().map(|address| address.network.to_string()).collect()
}

/// Where the pod's routes lead to, and through whom.
fn ways(wiring: &Wiring) -> Vec<(String, Option<IpAddr>)> {
    let routes = wiring.pod_side(2).routes;
    routes.iter().map(|route| (route.destination.to_string(), route.gateway)).collect()
}

#[test]
fn on_a_bridge_addresses_bring_their_subnet_and_the_host_end_has_nothing() {
    let wiring = plugged(Role::DefaultGateway, dual_stack(), None).unwrap();

    assert_eq!(addresses(&wiring.pod_side(2)), ["10.244.1.7/24", "fd00::7/64"]);
    assert_eq!(addresses(&wiring.bridge_side(3)), ["10.244.1.1/24", "fd00::1/64"]);
    assert_eq!(wiring.host_side(4), Side::default());
    assert!(wiring.pod_side(2).addresses.iter().all(|own| !own.flags.noprefixroute));
}

#[test]
fn a_switch_has_no_address_and_is_no_way_out() {
    let wiring = plugged(Role::Switch, dual_stack(), None).unwrap();
    assert_eq!((wiring.bridge_side(3), ways(&wiring)), (Side::default(), vec![]));
}

#[test]
fn only_the_default_gateway_is_the_way_to_everywhere() {
    let (v4, v6) = ("10.244.1.1".parse().ok(), "fd00::1".parse().ok());
    let given = [route("10.0.0.0/8", None), route("fd00::/16", Some("fd00::9"))];
    let [first, second] = [("10.0.0.0/8".to_owned(), v4), ("fd00::/16".to_owned(), "fd00::9".parse().ok())];

    let gateway = plugged(Role::Gateway, dual_stack(), Some(&given)).unwrap();
    assert_eq!(ways(&gateway), [first.clone(), second.clone()]);

    let default = plugged(Role::DefaultGateway, dual_stack(), Some(&given)).unwrap();
    let everywhere = [("0.0.0.0/0".to_owned(), v4), ("::/0".to_owned(), v6)];
    assert_eq!(ways(&default), [[first, second], everywhere].concat());

    let own_default = [route("0.0.0.0/0", Some("10.244.1.9"))];
    let default = plugged(Role::DefaultGateway, dual_stack(), Some(&own_default)).unwrap();
    let theirs = ("0.0.0.0/0".to_owned(), "10.244.1.9".parse().ok());
    assert_eq!(ways(&default), [theirs, ("::/0".to_owned(), v6)], "one that is given stands in for ours");
}

#[test]
fn what_is_not_in_the_subnet_is_not_reached_over_a_bridge() {
    let far = plugged(Role::Gateway, vec![endpoint("10.244.1.7", "169.254.1.1", 24)], None);
    assert_eq!(
        far.unwrap_err().to_string(),
        "gateway 169.254.1.1 is not in the subnet of 10.244.1.7/24: over a bridge it is not reached"
    );

    let far = plugged(Role::Gateway, dual_stack(), Some(&[route("0.0.0.0/0", Some("10.9.9.9"))]));
    assert_eq!(
        far.unwrap_err().to_string(),
        "ipam.routes: 0.0.0.0/0 through 10.9.9.9, which is no gateway that the pod reaches: leave gw out"
    );
}

#[test]
fn two_addresses_of_one_subnet_have_one_gateway() {
    let both = vec![endpoint("10.1.0.7", "10.1.0.1", 24), endpoint("10.1.0.8", "10.1.0.1", 24)];
    let wiring = plugged(Role::Gateway, both, None).unwrap();
    assert_eq!(addresses(&wiring.bridge_side(3)), ["10.1.0.1/24"]);
}

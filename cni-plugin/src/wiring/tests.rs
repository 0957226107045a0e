use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::conf::RUN_DIR;

fn attachment() -> Attachment {
    Attachment::new("0123456789abcdef", "eth0").unwrap()
}

fn endpoint(address: &str, gateway: &str) -> Endpoint {
    let address: IpAddr = address.parse().unwrap();
    let prefix = if address.is_ipv4() { 24 } else { 64 };
    Endpoint { address, gateway: gateway.parse().unwrap(), prefix }
}

fn dual_stack() -> Vec<Endpoint> {
    vec![endpoint("10.244.1.7", "10.244.1.1"), endpoint("fd00::7", "fd00::1")]
}

fn wiring(endpoints: Vec<Endpoint>, routes: Option<&[PodRoute]>) -> Result<Wiring, Error> {
    Wiring::of(Wish {
        network: "pods",
        attachment: &attachment(),
        run_dir: RUN_DIR.as_ref(),
        alias: "default/web",
        mtu: 1450,
        mac: None,
        endpoints,
        bandwidth: Bandwidth::default(),
        bridging: None,
        routes,
    })
}

fn route(dst: &str, gw: Option<&str>) -> PodRoute {
    let gw = gw.map(|gw| gw.parse().unwrap());
    PodRoute { dst: dst.parse().unwrap(), gw, mtu: None, priority: None }
}

/// A side as one would type it.
fn printed(side: &Side) -> String {
    let addresses = side.addresses.iter().map(|address| format!("address {address}"));
    let routes = side.routes.iter().map(|route| format!("route {route}"));
    let neighbours = side.neighbours.iter().map(|neighbour| format!("neighbour {neighbour}"));
    addresses.chain(routes).chain(neighbours).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_host_end_has_the_gateways_and_the_ways_to_the_pod() {
    assert_snapshot!(printed(&wiring(dual_stack(), None).unwrap().host_side(7)));
}

#[test]
fn the_pod_end_has_the_pod_s_addresses_and_all_ways_lead_to_the_host() {
    assert_snapshot!(printed(&wiring(dual_stack(), None).unwrap().pod_side(2)));
}

#[test]
fn routes_of_the_configuration_stand_in_for_the_default_ones() {
    let wanted = [
        PodRoute { mtu: Some(1400), priority: Some(9), ..route("10.0.0.0/8", None) },
        route("fd00::/16", Some("fd00::1")),
    ];

    let routes = wiring(dual_stack(), Some(&wanted)).unwrap().pod_side(2).routes;

    assert_eq!(
        routes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "10.244.1.1/32 dev 2 proto 70",
            "fd00::1/128 dev 2 proto 70",
            "10.0.0.0/8 via 10.244.1.1 dev 2 proto 70 metric 9 mtu 1400",
            "fd00::/16 via fd00::1 dev 2 proto 70",
        ]
    );
    assert_eq!(wiring(dual_stack(), Some(&[])).unwrap().pod_side(2).routes.len(), 2, "the gateways alone");
}

#[test]
fn a_route_that_leads_nowhere_is_refused() {
    let v4 = vec![endpoint("10.244.1.7", "10.244.1.1")];

    let refused = wiring(v4.clone(), Some(&[route("::/0", None)])).unwrap_err();
    assert_eq!(refused.to_string(), "ipam.routes: ::/0 is of a family that the pod has no address of");
    let refused = wiring(v4, Some(&[route("0.0.0.0/0", Some("10.9.9.9"))])).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "ipam.routes: 0.0.0.0/0 through 10.9.9.9, which is no gateway that the pod reaches: leave gw out"
    );
}

#[test]
fn a_size_that_the_kernel_would_not_take_is_refused_by_name() {
    let check = |mtu: u32, endpoints: Vec<Endpoint>| {
        let attachment = attachment();
        let wish = Wish {
            network: "pods",
            attachment: &attachment,
            run_dir: RUN_DIR.as_ref(),
            alias: "x",
            mtu,
            mac: None,
            endpoints,
            bandwidth: Bandwidth::default(),
            bridging: None,
            routes: None,
        };
        Wiring::of(wish).map(|wiring| wiring.pod_end.mtu).map_err(|error| error.to_string())
    };
    let v4 = || vec![endpoint("10.244.1.7", "10.244.1.1")];

    assert_eq!(check(68, v4()), Ok(68));
    assert_eq!(check(67, v4()), Err("mtu 67: 68 to 65535".to_owned()));
    assert_eq!(check(1280, dual_stack()), Ok(1280));
    assert_eq!(check(1279, dual_stack()), Err("mtu 1279: 1280 to 65535".to_owned()));
    assert_eq!(check(65_536, v4()), Err("mtu 65536: 68 to 65535".to_owned()));
}

#[test]
fn two_addresses_of_one_range_share_its_gateway() {
    let both = vec![endpoint("10.244.1.7", "10.244.1.1"), endpoint("10.244.1.8", "10.244.1.1")];
    let wiring = wiring(both, None).unwrap();

    assert_eq!(wiring.host_side(7).addresses.len(), 1);
    assert_eq!(wiring.host_side(7).routes.len(), 2);
    assert_eq!(wiring.pod_side(2).routes.len(), 2, "gateway and default");
}

fn link(name: &str, mac: Mac) -> Link {
    Link {
        index: 7,
        name: name.to_owned(),
        kind: Some("veth".to_owned()),
        mac: Some(mac),
        mtu: 1500,
        is_up: true,
        has_carrier: true,
        is_running: true,
        has_neighbours: true,
        alias: None,
        is_promiscuous: false,
        is_allmulti: false,
        tx_queue_len: 1000,
        master: None,
        port: None,
        is_forwarding: false,
        peer: Some(2),
        peer_netns: Some(0),
        tunnel: None,
    }
}

proptest! {
    #[test]
    fn a_host_end_is_known_by_its_name_and_hardware_address(id in "[a-z0-9]{1,64}", ifname in "[a-z0-9]{1,15}") {
        let attachment = Attachment::new(&id, &ifname).unwrap();
        let name = host_end_of("pods", &attachment);
        let wish = Wish { network: "pods", attachment: &attachment, run_dir: RUN_DIR.as_ref(), alias: "x", mtu: 1500, mac: None, endpoints: vec![], bandwidth: Bandwidth::default(), bridging: None, routes: None };
        let wiring = Wiring::of(wish).unwrap();

        prop_assert_eq!(name.len(), 15);
        prop_assert_eq!(&wiring.host_end.name, &name);
        prop_assert_ne!(wiring.host_end.mac, wiring.pod_end.mac);
        prop_assert_eq!(host_end_for(&link(&name, wiring.host_end.mac), RUN_DIR.as_ref()), Some(name.clone()));
        let ifb = Link { kind: Some("ifb".to_owned()), ..link(&ifb_of(&name), wiring.host_end.mac) };
        prop_assert_eq!(host_end_for(&ifb, RUN_DIR.as_ref()), Some(name.clone()));
        prop_assert!(!owner::is_host_end(&ifb.name));
        prop_assert!(host_end_for(&link(&name, wiring.host_end.mac), "/run/other".as_ref()).is_none());
        prop_assert!(host_end_for(&link(&name, wiring.pod_end.mac), RUN_DIR.as_ref()).is_none());
    }
}

#[test]
fn one_link_of_a_container_has_a_host_end_for_each_network() {
    assert_ne!(host_end_of("pods", &attachment()), host_end_of("other", &attachment()));
}

#[test]
fn a_link_of_another_s_is_not_ours_whatever_it_is_called() {
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    for name in ["fwbr100i0", "fwln100i0", "fw", "eth0", "fwaaaaaaaaaaaa1", "fwaaaaaaaaaaaaa"] {
        assert!(host_end_for(&link(name, mac), RUN_DIR.as_ref()).is_none(), "{name}");
    }
    let name = host_end_of("pods", &attachment());
    let ours = link(&name, wiring(dual_stack(), None).unwrap().host_end.mac);
    assert!(host_end_for(&Link { kind: Some("dummy".to_owned()), ..ours }, RUN_DIR.as_ref()).is_none());
}

#[test]
fn names_and_hardware_addresses_are_the_same_in_every_release() {
    assert_snapshot!(host_end_of("pods", &attachment()));
    assert_snapshot!(wiring(dual_stack(), None).unwrap().host_end.mac);
}

#![expect(clippy::needless_pass_by_value, reason = "literals read better without a borrow each")]

use serde_json::{Value, json};

use super::*;
use crate::{
    objects::{Kind, Object},
    service_port::Endpoint,
};

mod nodes;

/// A service of one port `http`, changed by `spec`.
fn service(name: &str, spec: Value) -> Event {
    labelled_service(name, json!({}), spec)
}

fn labelled_service(name: &str, labels: Value, spec: Value) -> Event {
    let mut full = json!({"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]});
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    parse(json!({"kind": "Service", "metadata": {"name": name, "labels": labels}, "spec": full}))
}

/// A slice of service `web` on node `w1`, port `http` to 8080, changed by `fields`.
fn slice(name: &str, fields: Value) -> Event {
    labelled_slice(name, json!({"kubernetes.io/service-name": "web"}), fields)
}

fn labelled_slice(name: &str, labels: Value, fields: Value) -> Event {
    let mut full = json!({
        "kind": "EndpointSlice", "metadata": {"name": name, "labels": labels}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
    });
    full.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    parse(full)
}

fn endpoints(addresses: &[&str]) -> Value {
    let endpoints = addresses.iter().map(|address| json!({"addresses": [address], "nodeName": "w1"}));
    json!({"endpoints": endpoints.collect::<Vec<_>>()})
}

fn endpoint(address: &str, conditions: Value) -> Value {
    json!({"addresses": [address], "nodeName": "w1", "conditions": conditions})
}

fn parse(value: Value) -> Event {
    Event::set(Object::parse(value).unwrap().unwrap())
}

fn gone(kind: Kind, name: &str) -> Event {
    Event::gone(kind, ObjectName { namespace: "default".into(), name: name.into() })
}

/// The service ports after `events`, as seen from node `m`, a line each.
fn after(events: impl IntoIterator<Item = Event>) -> Vec<String> {
    let mut state = State::new("m");
    for event in events {
        state.apply(event);
    }
    state.service_ports().map(|(name, _, port)| line(&name, &port)).collect()
}

fn line(name: &ServicePortName, port: &ServicePort) -> String {
    let mut line = format!("{name} {} {}", name.protocol, SocketAddr::new(port.cluster_ip, port.port));
    line.extend(port.node_port.map(|port| format!(" node port {port}")));
    line.extend(port.affinity_seconds.map(|seconds| format!(" sticky {seconds}")));
    line.push_str(" ->");
    for endpoint in &port.endpoints {
        line.extend([" ", &endpoint.address.to_string(), if endpoint.is_local { " (local)" } else { "" }]);
    }
    line
}

#[track_caller]
fn check(events: impl IntoIterator<Item = Event>, lines: &[&str]) {
    assert_eq!(after(events), lines);
}

/// What the last of the events touches.
fn touched(events: impl IntoIterator<Item = Event>) -> Vec<String> {
    let mut state = State::new("m");
    let mut touched = events.into_iter().map(|event| state.apply(event)).last().unwrap();
    assert!(!touched.nodes);
    let mut service_ports = touched.take_service_ports();
    service_ports.sort();
    service_ports.into_iter().map(|(name, family)| format!("{name} {family:?}")).collect()
}

const DUAL: fn() -> Value = || json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"]});

#[test]
fn a_service_finds_its_endpoints_by_port_name() {
    check(
        [
            service("web", json!({"ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}]})),
            slice(
                "a",
                json!({
                    "ports": [{"name": "https", "port": 8443}, {"name": "http", "port": 8080}, {"name": "other", "port": 1}],
                    "endpoints": [{"addresses": ["10.1.0.1"]}],
                }),
            ),
        ],
        &[
            "default/web:http tcp 10.96.0.1:80 -> 10.1.0.1:8080",
            "default/web:https tcp 10.96.0.1:443 -> 10.1.0.1:8443",
        ],
    );
}

#[test]
fn a_port_s_protocol_must_fit_as_well() {
    let dns = json!({"ports": [{"name": "http", "port": 53, "protocol": "UDP"}]});

    check(
        [service("web", dns), slice("a", endpoints(&["10.1.0.1"]))],
        &["default/web:http udp 10.96.0.1:53 ->"],
    );
}

#[test]
fn a_service_without_endpoints_is_still_a_service() {
    check([service("web", json!({}))], &["default/web:http tcp 10.96.0.1:80 ->"]);
}

#[test]
fn endpoints_are_sorted_and_stand_once_however_many_slices_name_them() {
    check(
        [
            service("web", json!({})),
            slice("a", endpoints(&["10.1.0.3", "10.1.0.1"])),
            slice("b", endpoints(&["10.1.0.2", "10.1.0.3"])),
        ],
        &["default/web:http tcp 10.96.0.1:80 -> 10.1.0.1:8080 10.1.0.2:8080 10.1.0.3:8080"],
    );
}

#[test]
fn endpoints_on_this_node_are_local() {
    check(
        [
            service("web", json!({})),
            slice(
                "a",
                json!({"endpoints": [
                    {"addresses": ["10.1.0.1"], "nodeName": "m"},
                    {"addresses": ["10.1.0.2"], "nodeName": "w1"},
                    {"addresses": ["10.1.0.3"]},
                ]}),
            ),
        ],
        &["default/web:http tcp 10.96.0.1:80 -> 10.1.0.1:8080 (local) 10.1.0.2:8080 10.1.0.3:8080"],
    );
}

#[test]
fn only_ready_endpoints_are_chosen() {
    check(
        [
            service("web", json!({})),
            slice(
                "a",
                json!({"endpoints": [
                    endpoint("10.1.0.1", json!({"ready": true})),
                    endpoint("10.1.0.2", json!({"ready": false})),
                    endpoint("10.1.0.3", json!({"ready": false, "serving": true, "terminating": true})),
                ]}),
            ),
        ],
        &["default/web:http tcp 10.96.0.1:80 -> 10.1.0.1:8080"],
    );
}

#[test]
fn without_a_ready_endpoint_those_that_end_but_still_answer_are_chosen() {
    check(
        [
            service("web", json!({})),
            slice(
                "a",
                json!({"endpoints": [
                    endpoint("10.1.0.1", json!({"ready": false, "serving": true, "terminating": false})),
                    endpoint("10.1.0.2", json!({"ready": false, "serving": true, "terminating": true})),
                    endpoint("10.1.0.3", json!({"ready": false, "serving": false, "terminating": true})),
                ]}),
            ),
        ],
        &["default/web:http tcp 10.96.0.1:80 -> 10.1.0.2:8080"],
    );
}

#[test]
fn of_two_slices_the_one_in_which_an_endpoint_is_not_terminating_is_right() {
    let ending = json!({"endpoints": [endpoint("10.1.0.1", json!({"ready": false, "terminating": true}))]});
    let staying = json!({"endpoints": [endpoint("10.1.0.1", json!({"ready": true}))]});

    for (a, b) in [(&ending, &staying), (&staying, &ending)] {
        check(
            [service("web", json!({})), slice("a", a.clone()), slice("b", b.clone())],
            &["default/web:http tcp 10.96.0.1:80 -> 10.1.0.1:8080"],
        );
    }
}

#[test]
fn each_family_of_a_dual_stack_service_has_its_own_endpoints() {
    check(
        [
            service("web", DUAL()),
            slice("a", endpoints(&["10.1.0.1"])),
            slice("b", json!({"addressType": "IPv6", "endpoints": [{"addresses": ["fd00:1::1"]}]})),
        ],
        &[
            "default/web:http tcp 10.96.0.1:80 -> 10.1.0.1:8080",
            "default/web:http tcp [fd00::1]:80 -> [fd00:1::1]:8080",
        ],
    );
}

#[test]
fn slices_of_host_names_or_of_headless_services_are_ignored() {
    let headless = json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""});
    check(
        [
            service("web", json!({})),
            slice("a", json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.org"]}]})),
            labelled_slice("b", headless, endpoints(&["10.1.0.1"])),
            labelled_slice("c", json!({}), endpoints(&["10.1.0.2"])),
        ],
        &["default/web:http tcp 10.96.0.1:80 ->"],
    );
}

#[test]
fn a_slice_that_becomes_headless_leaves_its_service() {
    let headless = json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""});
    check(
        [
            service("web", json!({})),
            slice("a", endpoints(&["10.1.0.1"])),
            labelled_slice("a", headless, endpoints(&["10.1.0.1"])),
        ],
        &["default/web:http tcp 10.96.0.1:80 ->"],
    );
}

#[test]
fn services_that_are_not_ours_are_not_served() {
    let other_proxy = json!({"service.kubernetes.io/service-proxy-name": ""});

    check([service("web", json!({"clusterIP": "None"}))], &[]);
    check([service("web", json!({"type": "ExternalName"}))], &[]);
    check([labelled_service("web", other_proxy, json!({}))], &[]);
}

#[test]
fn a_node_port_and_affinity_are_handed_on() {
    let spec = json!({
        "type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
        "sessionAffinity": "ClientIP",
    });

    check([service("web", spec)], &["default/web:http tcp 10.96.0.1:80 node port 30080 sticky 10800 ->"]);
}

#[test]
fn a_service_told_after_its_slices_has_them() {
    check(
        [slice("a", endpoints(&["10.1.0.1"])), service("web", json!({}))],
        &["default/web:http tcp 10.96.0.1:80 -> 10.1.0.1:8080"],
    );
}

#[test]
fn a_slice_touches_its_service_in_its_family() {
    assert_eq!(
        touched([service("web", DUAL()), service("db", json!({})), slice("a", endpoints(&["10.1.0.1"]))]),
        ["default/web:http Ip"],
    );
}

#[test]
fn a_slice_that_changes_hands_touches_both_services() {
    assert_eq!(
        touched([
            service("web", json!({})),
            service("db", json!({})),
            slice("a", endpoints(&["10.1.0.1"])),
            labelled_slice("a", json!({"kubernetes.io/service-name": "db"}), endpoints(&["10.1.0.1"])),
        ]),
        ["default/db:http Ip", "default/web:http Ip"],
    );
}

#[test]
fn a_removed_slice_touches_its_service() {
    let events =
        [service("web", json!({})), slice("a", endpoints(&["10.1.0.1"])), gone(Kind::EndpointSlice, "a")];

    assert_eq!(touched(events), ["default/web:http Ip"]);
}

#[test]
fn a_renamed_port_touches_the_old_name_and_the_new_one() {
    let renamed = service("web", json!({"ports": [{"name": "www", "port": 80}]}));

    assert_eq!(touched([service("web", json!({})), renamed]), ["default/web:http Ip", "default/web:www Ip"]);
}

#[test]
fn a_service_that_stops_being_ours_touches_what_it_had() {
    for last in [service("web", json!({"type": "ExternalName"})), gone(Kind::Service, "web")] {
        assert_eq!(touched([service("web", DUAL()), last]), ["default/web:http Ip", "default/web:http Ip6"],);
    }
}

#[test]
fn what_is_told_again_unchanged_touches_nothing() {
    let slice = || slice("a", endpoints(&["10.1.0.1"]));

    assert_eq!(touched([service("web", json!({})), service("web", json!({}))]), [""; 0]);
    assert_eq!(touched([service("web", json!({})), slice(), slice()]), [""; 0]);
}

#[test]
fn a_node_touches_no_service() {
    let mut state = State::new("m");
    let node = parse(json!({"kind": "Node", "metadata": {"name": "w1"}}));

    let first = state.apply(node.clone());
    let again = state.apply(node);

    assert_eq!(
        first,
        Touched { nodes: true, node_names: BTreeSet::from(["w1".into()]), ..Touched::default() }
    );
    assert_eq!(again, Touched::default());
    assert_eq!(state.nodes().count(), 1);
}

/// An endpoint that is ready, on a node, meant for others as its hints say.
fn hinted(address: &str, node: &str, hints: Value) -> Value {
    json!({"addresses": [address], "nodeName": node, "hints": hints})
}

fn for_zones(zones: &[&str]) -> Value {
    json!({"forZones": zones.iter().map(|zone| json!({"name": zone})).collect::<Vec<_>>()})
}

fn for_nodes(nodes: &[&str]) -> Value {
    json!({"forNodes": nodes.iter().map(|node| json!({"name": node})).collect::<Vec<_>>()})
}

fn own_node(zone: Option<&str>, ip: &str) -> Event {
    let labels = zone.map(|zone| json!({"topology.kubernetes.io/zone": zone}));
    parse(json!({
        "kind": "Node", "metadata": {"name": "m", "labels": labels},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
    }))
}

/// The only service port after `events`, as seen from node `m`.
fn resolved(events: impl IntoIterator<Item = Event>) -> ServicePort {
    let mut state = State::new("m");
    for event in events {
        state.apply(event);
    }
    let ports: Vec<_> = state.service_ports().collect();
    let [(_, _, port)] = ports.as_slice() else { panic!("{ports:?}") };
    port.clone()
}

fn addresses(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().map(|endpoint| endpoint.address.ip().to_string()).collect()
}

#[test]
fn hints_count_only_if_every_ready_endpoint_has_one_and_one_is_meant_for_here() {
    let chosen = |zone, endpoints: &[Value]| {
        let endpoints = slice("a", json!({"endpoints": endpoints}));
        addresses(&resolved([own_node(zone, "10.2.0.1"), service("web", json!({})), endpoints]).endpoints)
    };
    let east = || hinted("10.1.0.1", "w1", for_zones(&["east", "south"]));
    let west = || hinted("10.1.0.2", "w1", for_zones(&["west"]));
    let here = || hinted("10.1.0.3", "w1", for_nodes(&["m"]));
    let there = || hinted("10.1.0.4", "w1", for_nodes(&["w1"]));
    let anybody = || json!({"addresses": ["10.1.0.5"]});
    let ending = || {
        let conditions = json!({"ready": false, "serving": true, "terminating": true});
        json!({"addresses": ["10.1.0.6"], "conditions": conditions})
    };

    assert_eq!(chosen(Some("east"), &[east(), west()]), ["10.1.0.1"]);
    assert_eq!(chosen(Some("west"), &[east(), west()]), ["10.1.0.2"]);
    assert_eq!(chosen(Some("east"), &[east(), west(), ending()]), ["10.1.0.1"]);
    assert_eq!(chosen(Some("north"), &[east(), west()]).len(), 2);
    assert_eq!(chosen(None, &[east(), west()]).len(), 2);
    assert_eq!(chosen(Some("east"), &[east(), west(), anybody()]).len(), 3);
    assert_eq!(chosen(None, &[here(), there()]), ["10.1.0.3"]);
    assert_eq!(chosen(None, &[there()]), ["10.1.0.4"]);
    assert_eq!(chosen(None, &[here(), there(), anybody()]).len(), 3);
}

#[test]
fn hints_for_nodes_come_before_hints_for_zones() {
    let both = |address, node, zone| {
        let mut hints = for_nodes(&[node]);
        hints.as_object_mut().unwrap().extend(for_zones(&[zone]).as_object().unwrap().clone());
        hinted(address, "w1", hints)
    };
    let endpoints = json!({"endpoints": [both("10.1.0.1", "m", "west"), both("10.1.0.2", "w1", "east")]});

    let port =
        resolved([own_node(Some("east"), "10.2.0.1"), service("web", json!({})), slice("a", endpoints)]);

    assert_eq!(addresses(&port.endpoints), ["10.1.0.1"]);
}

#[test]
fn local_endpoints_fall_back_on_those_that_end_by_themselves() {
    let endpoint = |address, node, ready: bool| {
        let conditions = json!({"ready": ready, "serving": true, "terminating": !ready});
        json!({"addresses": [address], "nodeName": node, "conditions": conditions})
    };
    let spec = json!({"internalTrafficPolicy": "Local"});
    let of =
        |endpoints| resolved([service("web", spec.clone()), slice("a", json!({"endpoints": endpoints}))]);

    let port = of([endpoint("10.1.0.1", "m", false), endpoint("10.1.0.2", "w1", true)]);
    assert_eq!(addresses(&port.endpoints), ["10.1.0.2"]);
    assert_eq!(addresses(&port.local_endpoints), ["10.1.0.1"]);
    assert_eq!(port.serving.len(), 2);
    assert!(port.has_endpoints);

    let port = of([endpoint("10.1.0.1", "w1", false), endpoint("10.1.0.2", "w1", false)]);
    assert!(port.local_endpoints.is_empty() && port.has_endpoints);
}

#[test]
fn a_policy_for_external_traffic_needs_an_external_address() {
    let local = |spec: Value| {
        let mut full = json!({"externalTrafficPolicy": "Local"});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let port = resolved([service("web", full)]);
        (port.uses_all_endpoints(), port.uses_local_endpoints())
    };
    let node_port = json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30000}]});

    assert_eq!(local(json!({})), (true, false));
    assert_eq!(local(json!({"externalIPs": ["192.0.2.1"]})), (true, true));
    assert_eq!(local(node_port), (true, true));
    assert_eq!(local(json!({"internalTrafficPolicy": "Local"})), (false, true));
}

#[test]
fn source_ranges_are_of_one_family_and_let_the_node_in_by_the_address_itself() {
    let ranges = |ranges: &[&str]| {
        let service = parse(json!({
            "kind": "Service", "metadata": {"name": "web"},
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.1", "ports": [{"port": 80}],
                "loadBalancerSourceRanges": ranges,
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
        }));
        let port = resolved([own_node(None, "10.2.0.1"), service]);
        port.source_ranges.iter().map(ToString::to_string).collect::<Vec<_>>()
    };

    assert_eq!(ranges(&[]), [""; 0]);
    assert_eq!(ranges(&["203.0.113.0/24"]), ["203.0.113.0/24"]);
    assert_eq!(ranges(&["203.0.113.0/24", "2001:db8::/32"]), ["203.0.113.0/24"]);
    assert_eq!(ranges(&["2001:db8::/32"]), [""; 0], "none of this family: everyone");
    assert_eq!(ranges(&["203.0.113.0/24", "0.0.0.0/0"]), [""; 0], "everyone");
    assert_eq!(ranges(&["203.0.113.7/32", "203.0.113.0/24"]), ["203.0.113.0/24"], "none within another");
    assert_eq!(ranges(&[" 10.2.0.0/16 "]), ["10.2.0.0/16", "192.0.2.1/32"], "this node's own");
}

/// A service with these weights in front of three pods `web-0` … `web-2`, one of them not ready: what each endpoint weighs.
fn weighed(weights: &str) -> String {
    let metadata = json!({"name": "web", "annotations": {"fairway.dev/weights": weights}});
    let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]});
    let pod = |number: u8, ready: bool| {
        json!({
            "addresses": [format!("10.1.0.{number}")], "hostname": format!("host-{number}"),
            "targetRef": {"kind": "Pod", "name": format!("web-{number}")}, "conditions": {"ready": ready},
        })
    };
    let mut state = State::new("m");
    state.apply(parse(json!({"kind": "Service", "metadata": metadata, "spec": spec})));
    state.apply(slice("a", json!({"endpoints": [pod(0, true), pod(1, true), pod(2, false)]})));
    let (_, _, port) = state.service_ports().next().unwrap();
    let weights = port.endpoints.iter().map(|e| format!("{}={}", e.address.ip(), e.weight));
    weights.collect::<Vec<_>>().join(" ")
}

#[test]
fn an_endpoint_is_weighed_by_address_pod_or_host_name() {
    assert_eq!(weighed(""), "10.1.0.0=1 10.1.0.1=1");
    assert_eq!(weighed("web-0=3,10.1.0.1=2"), "10.1.0.0=3 10.1.0.1=2");
    assert_eq!(weighed("host-1=7, web-2=5"), "10.1.0.0=1 10.1.0.1=7");
    assert_eq!(weighed("web-1=7, host-1=6, 10.1.0.1=5"), "10.1.0.0=1 10.1.0.1=5");
}

#[test]
fn what_weighs_nothing_is_chosen_only_if_nothing_weighs_anything() {
    assert_eq!(weighed("web-0=0"), "10.1.0.1=1");
    assert_eq!(weighed("web-0=0, web-1=0"), "10.1.0.0=1 10.1.0.1=1");
}

/// What load balancers are told of service `web`, as seen from `w1`.
fn health_check(events: impl IntoIterator<Item = Event>) -> Option<(u16, usize)> {
    let mut state = State::new("w1");
    for event in events {
        state.apply(event);
    }
    let web = ObjectName { namespace: "default".into(), name: "web".into() };
    state.health_check(&web).map(|check| (check.port, check.local_endpoints))
}

/// Service `web`, for a load balancer that wants to know where its endpoints are.
fn local_service() -> Event {
    local_service_at(30_100)
}

fn local_service_at(port: u16) -> Event {
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port});
    service("web", spec)
}

#[test]
fn endpoints_of_a_health_check_are_distinct_addresses_here_that_are_ready_and_stay() {
    let several = json!({"endpoints": [
        endpoint("10.244.1.1", json!({})),
        endpoint("10.244.1.2", json!({"ready": false})),
        endpoint("10.244.1.3", json!({"ready": false, "serving": true, "terminating": true})),
        endpoint("10.244.1.4", json!({"ready": true, "terminating": true})),
        {"addresses": ["10.244.2.5"], "nodeName": "w2"},
        {"addresses": ["10.244.2.6"]},
    ]});
    let events =
        [local_service(), slice("web-1", several), slice("web-2", endpoints(&["10.244.1.1", "10.244.1.7"]))];
    assert_eq!(health_check(events), Some((30_100, 2)));
}

#[test]
fn an_endpoint_of_two_families_is_one_endpoint_of_a_health_check() {
    let v6 = json!({"addressType": "IPv6", "endpoints": [endpoint("fd00::1", json!({})), endpoint("fd00::2", json!({}))]});
    let events = [local_service(), slice("web-1", endpoints(&["10.244.1.1"])), slice("web-2", v6)];
    assert_eq!(health_check(events), Some((30_100, 2)));
}

#[test]
fn only_load_balancers_with_the_local_policy_have_a_health_check() {
    let slice = || slice("web-1", endpoints(&["10.244.1.1"]));
    for (field, value) in [
        ("type", json!("NodePort")),
        ("externalTrafficPolicy", json!("Cluster")),
        ("healthCheckNodePort", json!(0)),
        ("clusterIP", json!("None")),
    ] {
        let mut spec =
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30_100});
        spec[field] = value;
        assert_eq!(health_check([service("web", spec), slice()]), None, "{field}");
    }
    let spec =
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30_100});
    let others = labelled_service("web", json!({"service.kubernetes.io/service-proxy-name": "other"}), spec);
    assert_eq!(health_check([others, slice()]), None);
}

#[test]
fn what_may_change_a_health_check_touches_it() {
    let mut state = State::new("w1");
    let web = ObjectName { namespace: "default".into(), name: "web".into() };
    let mut touches = |event| state.apply(event).health_checks().contains(&web);

    assert!(touches(local_service()));
    assert!(touches(local_service_at(30_200)));
    assert!(touches(slice("web-1", endpoints(&["10.244.1.1"]))));
    assert!(touches(gone(Kind::EndpointSlice, "web-1")));
    assert!(!touches(service("other", json!({}))));
    assert!(touches(service("web", json!({})))); // it had one
    assert!(!touches(slice("web-1", endpoints(&["10.244.1.1"]))));
    assert!(touches(local_service()));
    assert!(touches(gone(Kind::Service, "web")));
}

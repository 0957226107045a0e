#![expect(clippy::needless_pass_by_value, reason = "literals read better without a borrow each")]

use serde_json::json;

use super::*;

fn service(spec: Value) -> Result<Service, Invalid> {
    let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec});
    match Object::parse(value)? {
        Some(Object::Service(service)) => Ok(Arc::unwrap_or_clone(service)),
        other => panic!("{other:?}"),
    }
}

fn slice(rest: Value) -> Result<EndpointSlice, Invalid> {
    let mut value = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
    });
    let fields = value.as_object_mut().unwrap();
    fields.extend(rest.as_object().unwrap().clone());
    match Object::parse(value)? {
        Some(Object::EndpointSlice(slice)) => Ok(Arc::unwrap_or_clone(slice)),
        other => panic!("{other:?}"),
    }
}

fn node(spec: Value, addresses: Value) -> Result<Node, Invalid> {
    let value =
        json!({"kind": "Node", "metadata": {"name": "w1"}, "spec": spec, "status": {"addresses": addresses}});
    match Object::parse(value)? {
        Some(Object::Node(node)) => Ok(Arc::unwrap_or_clone(node)),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check_wrong<T: fmt::Debug>(parsed: Result<T, Invalid>, message: &str) {
    assert_eq!(parsed.unwrap_err().to_string(), message);
}

#[test]
fn a_minimal_service_gets_the_api_server_s_defaults() {
    let service = service(json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]})).unwrap();

    assert_eq!(service.name.to_string(), "default/web");
    assert_eq!(service.service_type, ServiceType::ClusterIp);
    assert_eq!(service.affinity_seconds, None);
    assert_eq!(service.ports, [Port { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }]);
}

#[test]
fn null_means_absent_everywhere() {
    let service = service(json!({
        "type": null, "clusterIP": "10.96.0.1", "clusterIPs": null, "sessionAffinity": null,
        "ports": [{"name": null, "protocol": null, "port": 80, "nodePort": null}],
    }));
    let slice = slice(json!({"ports": null, "endpoints": null}));

    assert_eq!(service.unwrap().ports.len(), 1);
    assert!(slice.unwrap().endpoints.is_empty());
}

#[test]
fn a_dual_stack_service_has_one_address_of_each_family() {
    let service = service(json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"]})).unwrap();

    assert_eq!(service.cluster_ip(Family::Ip), Some("10.96.0.1".parse().unwrap()));
    assert_eq!(service.cluster_ip(Family::Ip6), Some("fd00::1".parse().unwrap()));
}

#[test]
fn a_headless_service_has_no_address() {
    for headless in [
        json!({"clusterIP": "None"}),
        json!({"clusterIP": ""}),
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
    ] {
        assert!(service(headless).unwrap().cluster_ips.is_empty());
    }
}

#[test]
fn leading_zeros_in_addresses_are_decimal() {
    let service = service(json!({"clusterIP": "010.096.000.010"})).unwrap();

    assert_eq!(service.cluster_ips, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
}

#[test]
fn a_service_without_any_address_is_told_what_is_missing() {
    check_wrong(
        service(json!({"ports": [{"port": 80}]})),
        "Service default/web: spec.clusterIP: missing: nothing here allots one; give an address, or None",
    );
}

#[test]
fn an_external_name_needs_no_address_and_is_not_proxied() {
    assert!(!service(json!({"type": "ExternalName", "externalName": "example.org"})).unwrap().is_proxied());
}

#[test]
fn affinity_lasts_three_hours_unless_said_otherwise() {
    let affinity = |config| {
        let spec =
            json!({"clusterIP": "10.96.0.1", "sessionAffinity": "ClientIP", "sessionAffinityConfig": config});
        service(spec).unwrap().affinity_seconds
    };

    assert_eq!(affinity(json!(null)), Some(10_800));
    assert_eq!(affinity(json!({"clientIP": {"timeoutSeconds": 60}})), Some(60));
}

#[test]
fn only_types_with_node_ports_keep_them() {
    let node_port = |service_type| {
        let spec = json!({"type": service_type, "clusterIP": "10.96.0.1", "ports": [{"port": 80, "nodePort": 30080}]});
        service(spec).unwrap().ports[0].node_port
    };

    assert_eq!(node_port("ClusterIP"), None);
    assert_eq!(node_port("NodePort"), Some(30080));
    assert_eq!(node_port("LoadBalancer"), Some(30080));
}

#[test]
fn a_wrong_field_is_named_with_its_path() {
    check_wrong(
        service(json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}, {"port": 99999}]})),
        "Service default/web: spec.ports[1].port: invalid value: integer `99999`, expected u16",
    );
    check_wrong(
        service(json!({"clusterIP": "10.96.0.1", "ports": [{"name": "http"}]})),
        "Service default/web: spec.ports[0].port: missing",
    );
    check_wrong(
        service(json!({"clusterIP": "10.96.0.256"})),
        "Service default/web: spec.clusterIP: \"10.96.0.256\" is not an IP address",
    );
    check_wrong(
        service(json!({"clusterIP": "10..0.1"})),
        "Service default/web: spec.clusterIP: \"10..0.1\" is not an IP address",
    );
    check_wrong(
        service(json!({
            "clusterIP": "10.96.0.1", "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}},
        })),
        "Service default/web: spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is not between 1 and 86400",
    );
    check_wrong(
        slice(json!({"endpoints": [{"addresses": ["10.1.0.1"]}, {"addresses": ["fd00::1"]}]})),
        "EndpointSlice shop/web-1: endpoints[1].addresses[0]: fd00::1 is not of the slice's address type",
    );
    check_wrong(
        node(json!({"podCIDRs": ["10.244.1.0"]}), json!([])),
        "Node w1: spec.podCIDRs[0]: \"10.244.1.0\" is not a CIDR",
    );
}

#[test]
fn two_ports_of_one_name_and_protocol_are_refused() {
    let ports =
        |second| json!({"clusterIP": "10.96.0.1", "ports": [{"port": 53}, {"port": 54, "protocol": second}]});

    assert!(service(ports("UDP")).is_ok());
    check_wrong(
        service(ports("TCP")),
        "Service default/web: spec.ports[1].name: \"\" is taken by an earlier port",
    );
}

#[test]
fn an_absent_condition_means_ready_serving_and_not_terminating() {
    let slice = slice(json!({"endpoints": [
        {"addresses": ["10.1.0.1", "10.1.0.9"]},
        {"addresses": ["10.1.0.2"], "conditions": {"ready": false, "serving": null, "terminating": true}},
    ]}));

    let conditions = slice.unwrap().endpoints.into_iter().map(|e| (e.ready, e.serving, e.terminating));
    assert_eq!(conditions.collect::<Vec<_>>(), [(true, true, false), (false, true, true)]);
}

#[test]
fn only_the_first_address_of_an_endpoint_counts_and_ports_without_number_do_not() {
    let slice = slice(json!({
        "endpoints": [{"addresses": ["10.1.0.1", "10.1.0.9"]}, {"addresses": []}],
        "ports": [{"name": "a"}, {"name": "b", "port": 80}],
    }));

    let slice = slice.unwrap();
    assert_eq!(slice.endpoints.len(), 1);
    assert_eq!(slice.endpoints[0].address, "10.1.0.1".parse::<IpAddr>().unwrap());
    assert_eq!(slice.ports, [SlicePort { name: "b".into(), protocol: Protocol::Tcp, port: 80 }]);
}

#[test]
fn host_names_as_endpoints_are_left_aside() {
    let slice = slice(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.org"]}]})).unwrap();

    assert_eq!((slice.family, slice.endpoints), (None, vec![]));
}

#[test]
fn a_node_gives_its_pod_cidrs_and_internal_addresses() {
    let node = node(
        json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]}),
        json!([
            {"type": "Hostname", "address": "w1"}, {"type": "ExternalIP", "address": "203.0.113.5"},
            {"type": "InternalIP", "address": "192.168.14.51"},
        ]),
    );

    let node = node.unwrap();
    assert_eq!(node.name.to_string(), "w1");
    assert_eq!(node.pod_cidrs, ["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()]);
    assert_eq!(node.internal_ips, ["192.168.14.51".parse::<IpAddr>().unwrap()]);
    assert_eq!(node.ips(), ["192.168.14.51", "203.0.113.5"].map(|ip| ip.parse::<IpAddr>().unwrap()));
}

#[test]
fn a_load_balancer_s_addresses_are_served_unless_it_must_see_the_packets_first() {
    let service = |service_type: &str, ingress: Value| {
        let value = json!({
            "kind": "Service", "metadata": {"name": "web"},
            "spec": {"type": service_type, "clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
            "status": {"loadBalancer": {"ingress": ingress}},
        });
        match Object::parse(value).unwrap() {
            Some(Object::Service(service)) => service.load_balancer_ips.clone(),
            other => panic!("{other:?}"),
        }
    };
    let ingress = || {
        json!([
            {"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "VIP"}, {"ip": "192.0.2.3", "ipMode": "Proxy"},
            {"hostname": "lb.example.org"}, {"ip": "", "hostname": "lb.example.org"}, {"ip": "2001:db8::1"}, {"ip": "192.0.2.1"},
        ])
    };
    let served: Vec<IpAddr> = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into();

    assert_eq!(service("LoadBalancer", ingress()), served);
    assert_eq!(service("ClusterIP", ingress()), [] as [IpAddr; 0], "left over from an earlier type");
}

#[test]
fn external_addresses_ranges_and_policies_are_read() {
    let read = service(json!({
        "type": "LoadBalancer", "clusterIP": "10.96.0.1", "ports": [{"port": 80}],
        "externalIPs": ["192.0.2.010", "2001:db8::1", "192.0.2.10"], "loadBalancerSourceRanges": [" 10.1.2.3/16 "],
        "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30100,
    }));
    let read = read.unwrap();

    assert_eq!(read.external_ips, ["192.0.2.10", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    assert_eq!(read.source_ranges, ["10.1.0.0/16".parse().unwrap()]);
    assert_eq!((read.internal_policy, read.external_policy), (TrafficPolicy::Local, TrafficPolicy::Local));
    assert_eq!(read.health_check_node_port, Some(30100));
    check_wrong(
        service(json!({"clusterIP": "10.96.0.1", "loadBalancerSourceRanges": ["10.0.0.0/8", "10.1.2.3"]})),
        "Service default/web: spec.loadBalancerSourceRanges[1]: \"10.1.2.3\" is not a CIDR",
    );
}

#[test]
fn a_health_check_port_needs_a_load_balancer_with_policy_local() {
    let port = |service_type: &str, policy: &str| {
        let spec = json!({
            "type": service_type, "clusterIP": "10.96.0.1", "externalTrafficPolicy": policy, "healthCheckNodePort": 30100,
        });
        service(spec).unwrap().health_check_node_port
    };

    assert_eq!(port("LoadBalancer", "Local"), Some(30100));
    assert_eq!(port("LoadBalancer", "Cluster"), None);
    assert_eq!(port("NodePort", "Local"), None);
}

#[test]
fn kinds_that_only_share_the_name_are_not_ours() {
    let knative =
        json!({"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "web"}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}});

    assert_eq!(Object::parse(knative), Ok(None));
    assert_eq!(Object::parse(pod), Ok(None));
}

#[test]
fn an_object_without_kind_is_told_so() {
    check_wrong(Object::parse(json!({"metadata": {"name": "web"}})), "object web: kind: missing");
}

#[test]
fn an_annotation_that_makes_no_sense_is_noted_and_left_out() {
    let value = json!({
        "kind": "Service", "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
        "metadata": {"name": "web", "annotations": {
            "fairway.dev/balancing": "least-connections", "fairway.dev/weights": "web-0=3", "other": "x",
        }},
    });

    let Some(Object::Service(service)) = Object::parse(value).unwrap() else { panic!("no service") };

    assert_eq!(service.balancing, Balancing::RoundRobin);
    assert_ne!(service.weights, Weights::default());
    let reason = r#""least-connections" is none of round-robin, random, source-hash; round-robin is used"#;
    let field = "metadata.annotations[fairway.dev/balancing]".to_owned();
    assert_eq!(service.notes, [Note { field, reason: reason.into() }]);
}

#[test]
fn a_node_that_is_deleted_or_about_to_be_is_leaving() {
    let is_leaving = |metadata: Value, taints: Value| {
        let value = json!({"kind": "Node", "metadata": metadata, "spec": {"taints": taints}});
        match Object::parse(value).unwrap() {
            Some(Object::Node(node)) => node.is_leaving,
            other => panic!("{other:?}"),
        }
    };

    assert!(!is_leaving(json!({"name": "w1"}), json!(null)));
    assert!(!is_leaving(
        json!({"name": "w1"}),
        json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])
    ));
    assert!(is_leaving(json!({"name": "w1", "deletionTimestamp": "2026-11-25T10:00:00Z"}), json!(null)));
    let taint = json!([{"key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule"}]);
    assert!(is_leaving(json!({"name": "w1"}), taint));
}

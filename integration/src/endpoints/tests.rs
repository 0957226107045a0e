use super::*;
use crate::manifest::{Content, parse};

const PODS: &str = "
{kind: Pod, metadata: {name: a, labels: {app: web, tier: x}}, spec: {containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}}
---
{kind: Pod, metadata: {name: b, labels: {app: web}}, spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}}
---
{kind: Pod, metadata: {name: other, labels: {app: db}}, spec: {containers: [{name: c}]}}
";

/// `slice: address address -> port/protocol`, one line a slice.
fn check(service: &str, expected: &[&str]) {
    let contents = |text| parse("x", text).unwrap().into_iter().map(|object| object.content);
    let pods: Vec<Pod> = contents(PODS)
        .map(|content| match content {
            Content::Pod(pod) => pod,
            other => panic!("{other:?}"),
        })
        .collect();
    let addresses: Vec<[IpAddr; 2]> = (2..5)
        .map(|n| [format!("10.244.1.{n}").parse().unwrap(), format!("fd00::{n}").parse().unwrap()])
        .collect();
    let backends = pods.iter().zip(&addresses).map(|(pod, addresses)| Backend { pod, node: "w1", addresses });
    let Some(Content::Service(service)) = contents(service).next() else { panic!("no service") };

    let lines: Vec<String> = slices(&service, backends)
        .iter()
        .map(|slice| {
            let addresses: Vec<String> = slice.endpoints.iter().map(|e| e.addresses[0].to_string()).collect();
            let ports: Vec<String> =
                slice.ports.iter().map(|p| format!("{}={}/{:?}", p.name, p.port, p.protocol)).collect();
            format!(
                "{} {}: {} -> {}",
                slice.metadata.name,
                slice.address_type,
                addresses.join(" "),
                ports.join(" ")
            )
        })
        .collect();
    assert_eq!(lines, expected);
}

#[test]
fn the_pods_with_all_labels_stand_behind_the_service() {
    check(
        "{kind: Service, metadata: {name: s}, spec: {clusterIP: 10.96.0.1, selector: {app: web, tier: x}, ports: [{port: 80}]}}",
        &["s-ipv4-1 IPv4: 10.244.1.2 -> =80/Tcp"],
    );
}

#[test]
fn a_port_without_target_is_the_same_on_the_pods() {
    check(
        "{kind: Service, metadata: {name: s}, spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 7}]}}",
        &["s-ipv4-1 IPv4: 10.244.1.2 10.244.1.3 -> =7/Tcp"],
    );
}

#[test]
fn a_port_s_name_means_what_each_pod_says() {
    check(
        "{kind: Service, metadata: {name: s}, spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: web, port: 80, targetPort: http}]}}",
        &["s-ipv4-1 IPv4: 10.244.1.2 -> web=80/Tcp", "s-ipv4-2 IPv4: 10.244.1.3 -> web=8080/Tcp"],
    );
}

#[test]
fn each_family_has_slices_of_its_own() {
    check(
        "{kind: Service, metadata: {name: s}, spec: {clusterIPs: [10.96.0.1, 'fd00:96::1'], selector: {app: db}, ports: [{port: 53, protocol: UDP}]}}",
        &["s-ipv4-1 IPv4: 10.244.1.4 -> =53/Udp", "s-ipv6-1 IPv6: fd00::4 -> =53/Udp"],
    );
}

#[test]
fn without_a_selector_somebody_else_writes_the_slices() {
    check("{kind: Service, metadata: {name: s}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}", &[]);
}

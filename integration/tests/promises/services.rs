//! What becomes a service port, and what does not.

use dataplane::packet::Family;
use serde_json::{Value, json};

use crate::bed::{Bed, on};

const WEB: &str = "spec: {ports: [{port: 80}]}";

/// Whoever asks what is no service of ours is sent where routes lead: out, where a test lets the address be answered.
const NOT_OURS: [&str; 1] = ["outside sees w1"];

fairway_lab::sandbox_tests! {
    fn ports_are_told_apart_by_number_and_protocol() {
        let mut bed = Bed::start(&[]);

        bed.serve(
            "web",
            "spec: {type: NodePort, ports: [
                {name: one, port: 80, nodePort: 30080},
                {name: two, port: 81, targetPort: 8080, nodePort: 30081},
                {name: one-udp, port: 80, protocol: UDP, targetPort: 8080, nodePort: 30080}]}",
            &[on("a")],
        );

        bed.check("client", "web:80", ["a sees client"]);
        bed.check("client", "web:81", ["a:8080 sees client"]);
        bed.check("client", "web:80/udp", ["a:8080 sees client"]);
        bed.check("outside", "w1:30080", ["a sees w1"]);
        bed.check("outside", "w1:30081", ["a:8080 sees w1"]);
        bed.check("outside", "w1:30080/udp", ["a:8080 sees w1"]);
    }

    fn ports_without_a_name_and_services_of_one_name_are_told_apart() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", WEB, &[on("a")]);

        let of_another_namespace = |family: &str, ip: &str, pod: std::net::IpAddr| {
            format!(
                "{{kind: Service, apiVersion: v1, metadata: {{name: web, namespace: other}}, \
                  spec: {{clusterIPs: [\"10.96.1.1\", \"fd00:10:96::1:1\"], ports: [{{port: 80, targetPort: 8080}}]}}}}\n---\n\
                  {{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, metadata: {{name: \"{ip}\", namespace: other, \
                  labels: {{kubernetes.io/service-name: web}}}}, addressType: {family}, ports: [{{port: 8080}}], \
                  endpoints: [{{addresses: [\"{pod}\"]}}]}}\n---\n"
            )
        };
        let (v4, v6) = (bed.address("c", Family::Ip), bed.address("c", Family::Ip6));
        bed.apply_text(&of_another_namespace("IPv4", "web-4", v4));
        bed.apply_text(&of_another_namespace("IPv6", "web-6", v6));
        bed.name("other", &["10.96.1.1", "fd00:10:96::1:1"]);

        bed.check("client", "web:80", ["a sees client"]);
        bed.check("client", "other:80", ["c:8080 sees client"]);
    }

    fn the_families_of_a_service_do_not_mix() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", WEB, &[on("a")]);
        bed.name("other", &["10.96.2.1", "fd00:10:96::2:1"]);

        bed.serve("other", "spec: {clusterIPs: [10.96.2.1], ports: [{port: 80}]}", &[on("c")]);
        bed.delete(&[("EndpointSlice", "web-1-ipv6")]);

        bed.name("other", &["10.96.2.1", "fd00:10:96::2:1"]);
        bed.answer_outside("other");
        assert_eq!(bed.ask(Family::Ip, "client", "other:80"), "c sees client");
        assert_eq!(bed.ask(Family::Ip6, "client", "other:80"), NOT_OURS[0]);
        assert_eq!(bed.ask(Family::Ip, "client", "web:80"), "a sees client");
        assert_eq!(bed.ask(Family::Ip6, "client", "web:80"), "refused");
    }

    fn all_of_it_works_without_ipv4() {
        let mut bed = Bed::of_ipv6(&["--cluster-cidr=fd00:10:244::/48"]);

        let rest = "spec: {type: NodePort, sessionAffinity: ClientIP, ports: [{port: 80, nodePort: 30080}]}";
        bed.serve("web", "spec: {type: NodePort, ports: [{port: 80, nodePort: 30081}]}", &[on("a"), on("c")]);
        bed.serve("sticky", rest, &[on("a"), on("c")]);

        bed.check("client", "web:80", ["a sees client", "c sees client"]);
        bed.check("outside", "w2:30081", ["a sees w2", "c sees w2"]);
        bed.check("a", "web:80", ["a sees w1", "c sees a"]);
        let first = bed.ask(Family::Ip6, "client", "sticky:80");
        bed.check("client", "sticky:80", [first.as_str()]);

        bed.name("balancer", &["2001:db8:113::20"]);
        bed.route("outside", &["2001:db8:113::/64"], "w1");
        let local = "{spec: {type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30082}]}, \
                     status: {loadBalancer: {ingress: [{ip: \"2001:db8:113::20\"}]}}}";
        bed.serve("local", local, &[on("a"), on("c")]);
        bed.check("outside", "balancer:80", ["a sees outside"]);
        bed.check("client", "balancer:80", ["a sees client", "c sees client"]);
        bed.back("local", &[on("c")]);
        bed.check("outside", "w1:30082", ["silent"]);
    }

    fn a_service_that_turns_headless_is_let_go_and_taken_up_again() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", WEB, &[on("a")]);
        bed.answer_outside("web");
        let with_ips = |ips: Value| move |service: &mut Value| service["spec"]["clusterIPs"] = ips;

        bed.edit("web", with_ips(json!(["None"])));
        bed.check("client", "web:80", NOT_OURS);

        bed.edit("web", with_ips(json!(["10.96.0.1", "fd00:10:96::1"])));
        bed.check("client", "web:80", ["a sees client"]);
    }

    fn a_service_that_turns_into_an_external_name_is_let_go_whatever_address_is_left_in_it() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", WEB, &[on("a")]);
        bed.answer_outside("web");
        bed.check("client", "web:80", ["a sees client"]);

        bed.edit("web", |service| {
            service["spec"]["type"] = "ExternalName".into();
            service["spec"]["externalName"] = "example.org".into();
        });

        bed.check("client", "web:80", NOT_OURS);
    }

    fn a_service_of_another_proxy_is_left_to_it_as_long_as_the_label_is_there() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", WEB, &[on("a")]);
        bed.answer_outside("web");

        for value in ["kube-router", ""] {
            let labels = json!({"service.kubernetes.io/service-proxy-name": value});
            bed.edit("web", |service| service["metadata"]["labels"] = labels);
            bed.check("client", "web:80", NOT_OURS);

            bed.edit("web", |service| service["metadata"]["labels"] = json!({}));
            bed.check("client", "web:80", ["a sees client"]);
        }
    }

    fn slices_with_the_headless_label_are_not_used_as_long_as_it_is_there() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", WEB, &[on("a")]);
        let service = serde_saphyr::from_str::<Value>(WEB).unwrap();
        let mut slices = bed.slices_of("web", "web-2", &service, &[on("c")]);

        for slice in &mut slices {
            slice["metadata"]["labels"]["service.kubernetes.io/headless"] = "".into();
        }
        bed.apply(&slices);
        bed.check("client", "web:80", ["a sees client"]);

        for slice in &mut slices {
            slice["metadata"]["labels"].as_object_mut().unwrap().remove("service.kubernetes.io/headless");
        }
        bed.apply(&slices);
        bed.check("client", "web:80", ["a sees client", "c sees client"]);
    }

    fn zeros_in_front_of_an_old_object_s_numbers_do_no_harm() {
        let mut bed = Bed::start(&[]);

        bed.write_manifest(
            "old.yaml",
            "{kind: Service, apiVersion: v1, metadata: {name: old}, spec: {clusterIP: 010.096.000.007, ports: [{port: 80}]}}\n\
             ---\n\
             {kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, metadata: {name: old, labels: \
             {kubernetes.io/service-name: old}}, addressType: IPv4, ports: [{name: \"\", port: 80}], endpoints: \
             [{addresses: [010.244.001.003]}]}",
        );

        bed.name("old", &["10.96.0.7"]);
        let told = bed.ask(Family::Ip, "client", "old:80");
        assert_eq!(told, format!("{} sees client", bed.name_of([10, 244, 1, 3].into())));
    }

    fn an_application_protocol_changes_nothing() {
        let mut bed = Bed::start(&[]);

        bed.serve("web", "spec: {ports: [{port: 80, appProtocol: kubernetes.io/h2c}]}", &[on("a")]);

        bed.check("client", "web:80", ["a sees client"]);
    }

    fn a_node_port_that_was_not_allotted_is_none() {
        let mut bed = Bed::start(&[]);

        bed.serve(
            "web",
            "spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80, nodePort: 0}]}",
            &[on("a")],
        );
        bed.serve("left-over", "spec: {type: ClusterIP, ports: [{port: 80, nodePort: 30080}]}", &[on("a")]);

        bed.check("client", "web:80", ["a sees client"]);
        bed.check("client", "left-over:80", ["a sees client"]);
        bed.check("outside", "w1:30080", ["refused"]);
    }
}

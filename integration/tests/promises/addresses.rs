//! Where a service answers besides its cluster IP.

use dataplane::packet::Family;
use serde_json::json;

use crate::bed::{Bed, on};

const NODE_PORT: &str = "spec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}";
const EXTERNAL: [&str; 2] = ["203.0.113.10", "2001:db8:113::10"];
const BALANCER: [&str; 2] = ["203.0.113.20", "2001:db8:113::20"];

/// The machine outside and a stranger send what goes to external addresses to w1.
fn bed(flags: &[&str]) -> Bed {
    let mut bed = Bed::start(flags);
    bed.name("external", &EXTERNAL);
    bed.name("balancer", &BALANCER);
    bed.add_stranger("stranger", &["192.168.14.90", "fd00:192:168:14::90"]);
    for from in ["outside", "stranger"] {
        bed.route(from, &["203.0.113.0/24", "2001:db8:113::/64"], "w1");
    }
    bed
}

/// A load balancer's service with `more` in its spec, and every kind of address.
fn balanced(more: &str) -> String {
    format!(
        "{{spec: {{type: LoadBalancer, {more}, ports: [{{port: 80, nodePort: 30080}}], \
           externalIPs: [203.0.113.10, \"2001:db8:113::10\"]}}, \
          status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.20}}, {{ip: \"2001:db8:113::20\"}}]}}}}}}"
    )
}

fn ranges(list: &str) -> String {
    balanced(&format!("loadBalancerSourceRanges: [{list}]"))
}

fairway_lab::sandbox_tests! {
    fn an_address_that_a_node_gets_serves_node_ports_at_once_and_no_longer_than_it_is_there() {
        let mut bed = bed(&[]);
        bed.serve("web", NODE_PORT, &[on("a")]);
        bed.name("new", &["192.168.14.151", "fd00:192:168:14::151"]);

        bed.add_addresses("w1", "new");
        bed.check("stranger", "new:30080", ["a sees w1"]);
        bed.check("client", "new:30080", ["a sees w1"]);

        bed.remove_addresses("w1", "new");
        for family in Family::ALL {
            assert_ne!(bed.ask(family, "client", "new:30080"), "a sees w1");
        }
        bed.check("stranger", "w1:30080", ["a sees w1"]);
    }

    fn node_ports_are_served_at_the_node_s_own_addresses_on_demand() {
        let mut bed = bed(&["--nodeport-addresses=primary"]);
        bed.serve("web", NODE_PORT, &[on("a")]);
        bed.name("new", &["192.168.14.151", "fd00:192:168:14::151"]);

        bed.add_addresses("w1", "new");

        bed.check("stranger", "w1:30080", ["a sees w1"]);
        bed.check("stranger", "new:30080", ["refused"]);
        bed.check("w1", "new:30080", ["refused"]);
        bed.check("client", "w1:30080", ["a sees w1"]);
    }

    fn node_ports_are_served_at_addresses_of_these_networks_whenever_they_come() {
        let mut bed = bed(&["--nodeport-addresses=198.51.100.0/24,2001:db8:51::/64"]);
        bed.serve("web", NODE_PORT, &[on("a")]);
        bed.name("new", &["198.51.100.7", "2001:db8:51::7"]);
        bed.route("stranger", &["198.51.100.0/24", "2001:db8:51::/64"], "w1");

        bed.check("stranger", "w1:30080", ["refused"]);
        bed.add_addresses("w1", "new");
        bed.check("stranger", "new:30080", ["a sees w1"]);
        bed.check("stranger", "w1:30080", ["refused"]);
    }

    fn a_family_without_a_network_serves_node_ports_at_all_its_addresses() {
        let mut bed = bed(&["--nodeport-addresses=198.51.100.0/24"]);
        bed.serve("web", NODE_PORT, &[on("a")]);

        assert_eq!(bed.ask(Family::Ip, "stranger", "w1:30080"), "refused");
        assert_eq!(bed.ask(Family::Ip6, "stranger", "w1:30080"), "a sees w1");
    }

    fn node_ports_are_not_served_on_localhost_unless_asked_for() {
        let mut bed = bed(&[]);
        bed.serve("web", NODE_PORT, &[on("a")]);

        bed.name("localhost", &["127.0.0.1", "::1"]);
        bed.check("w1", "localhost:30080", ["refused"]);
        bed.name("localhost-too", &["127.5.6.7"]);
        assert_eq!(bed.ask(Family::Ip, "w1", "localhost-too:30080"), "refused");
    }

    fn external_ips_lead_to_the_service_from_everywhere_though_no_node_has_them() {
        let mut bed = bed(&[]);

        bed.serve("web", "spec: {ports: [{port: 80}], externalIPs: [203.0.113.10, \"2001:db8:113::10\"]}", &[on("a"), on("c")]);

        for from in ["outside", "stranger", "client", "w1"] {
            bed.check(from, "external:80", ["a sees w1", "c sees w1"]);
        }
        bed.check("client2", "external:80", ["a sees w2", "c sees w2"]);
        bed.edit("web", |service| service["spec"]["externalIPs"] = json!([]));
        bed.answer_outside("external");
        bed.check("client", "external:80", ["outside sees w1"]);
    }

    fn external_ips_are_served_within_the_networks_that_the_administrator_allows() {
        let mut bed = bed(&["--external-ips=203.0.113.0/28"]);

        bed.serve("web", "spec: {ports: [{port: 80}], externalIPs: [203.0.113.10, 203.0.113.77]}", &[on("a")]);

        bed.name("other", &["203.0.113.77"]);
        bed.answer_outside("other");
        assert_eq!(bed.ask(Family::Ip, "client", "external:80"), "a sees w1");
        assert_eq!(bed.ask(Family::Ip, "client", "other:80"), "outside sees w1");
    }

    fn the_load_balancer_s_addresses_are_served_unless_it_wants_the_traffic_itself() {
        let mut bed = bed(&[]);
        let ingress = |mode: &str| {
            let of = |ip: &str| json!({"ip": ip, "ipMode": mode});
            json!([{"hostname": "lb.example.org"}, of(BALANCER[0]), of(BALANCER[1])])
        };

        bed.serve("web", &balanced("sessionAffinity: None"), &[on("a")]);
        bed.check("outside", "balancer:80", ["a sees w1"]);
        bed.check("client", "balancer:80", ["a sees w1"]);

        bed.edit("web", |service| service["status"]["loadBalancer"]["ingress"] = ingress("VIP"));
        bed.check("client", "balancer:80", ["a sees w1"]);

        bed.edit("web", |service| service["status"]["loadBalancer"]["ingress"] = ingress("Proxy"));
        bed.answer_outside("balancer");
        bed.check("client", "balancer:80", ["outside sees w1"]);
    }

    fn source_ranges_are_for_the_load_balancer_s_addresses_alone() {
        let mut bed = bed(&[]);

        // With the spaces that old objects may have.
        bed.serve("web", &ranges("\" 192.168.14.90/32 \", \"fd00:192:168:14::90/128\""), &[on("a")]);

        bed.check("stranger", "balancer:80", ["a sees w1"]);
        bed.check("outside", "balancer:80", ["silent"]);
        bed.check("client", "balancer:80", ["silent"]);
        bed.check("w1", "balancer:80", ["silent"]);
        bed.check("outside", "external:80", ["a sees w1"]);
        bed.check("outside", "w1:30080", ["a sees w1"]);
        bed.check("client", "web:80", ["a sees client"]);
    }

    fn source_ranges_may_be_changed_and_taken_away() {
        let mut bed = bed(&[]);
        let served = |bed: &mut Bed, list: &str| bed.serve("web", &ranges(list), &[on("a")]);
        bed.serve("other", "spec: {ports: [{port: 81}]}", &[on("c")]);

        served(&mut bed, "192.168.14.90/32, \"fd00:192:168:14::90/128\"");
        bed.check("outside", "balancer:80", ["silent"]);

        served(&mut bed, "192.168.14.1/32, \"fd00:192:168:14::1/128\"");
        bed.check("outside", "balancer:80", ["a sees w1"]);
        bed.check("stranger", "balancer:80", ["silent"]);

        served(&mut bed, "192.168.14.1/32, \"fd00:192:168:14::1/128\", 192.168.14.90/32, \"fd00:192:168:14::90/128\"");
        bed.check("stranger", "balancer:80", ["a sees w1"]);

        served(&mut bed, "");
        bed.check("client", "balancer:80", ["a sees w1"]);
    }

    fn a_range_of_everything_is_no_range_and_a_family_without_one_is_open() {
        let mut bed = bed(&[]);

        bed.serve("web", &ranges("192.168.14.90/32, 0.0.0.0/0, \"fd00:192:168:14::90/128\", \"::/0\""), &[on("a")]);
        bed.check("outside", "balancer:80", ["a sees w1"]);

        bed.serve("web", &ranges("192.168.14.90/32"), &[on("a")]);
        assert_eq!(bed.ask(Family::Ip, "outside", "balancer:80"), "silent");
        assert_eq!(bed.ask(Family::Ip6, "outside", "balancer:80"), "a sees w1");
    }

    fn a_node_in_a_source_range_may_use_the_balancer_s_address_even_if_that_is_its_own() {
        let mut bed = bed(&[]);
        bed.serve("web", &ranges("192.168.14.51/32, \"fd00:192:168:14::51/128\""), &[on("a")]);
        bed.check("w1", "balancer:80", ["a sees w1"]);

        // As where an agent puts the balancer's addresses on the nodes: then it is what the node asks from.
        bed.add_addresses("w1", "balancer");
        bed.check("w1", "balancer:80", ["a sees w1"]);
        bed.check("outside", "balancer:80", ["silent"]);
    }
}

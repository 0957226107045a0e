//! Traffic policies: who is led to all endpoints, and who to those of the node only.
//!
//! Of the two endpoints, a is on w1 and c on w2.

use crate::bed::{Bed, on};

const PODS: &str = "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48";

/// A service with every kind of address: a cluster IP, node ports, `external:80` and `balancer:80`.
fn service(policies: &str) -> String {
    format!(
        "{{spec: {{type: LoadBalancer, {policies}, ports: [{{port: 80, nodePort: 30080}}], \
           externalIPs: [203.0.113.10, \"2001:db8:113::10\"]}}, \
          status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.20}}, {{ip: \"2001:db8:113::20\"}}]}}}}}}"
    )
}

fn internal(policy: &str) -> String {
    service(&format!("internalTrafficPolicy: {policy}"))
}

fn external(policy: &str) -> String {
    service(&format!("externalTrafficPolicy: {policy}"))
}

/// The machine outside sends what goes to external addresses to w1, the stranger to w2.
fn bed() -> Bed {
    let mut bed = Bed::start(&[PODS]);
    bed.name("external", &["203.0.113.10", "2001:db8:113::10"]);
    bed.name("balancer", &["203.0.113.20", "2001:db8:113::20"]);
    bed.add_stranger("stranger", &["192.168.14.90", "fd00:192:168:14::90"]);
    let networks = ["203.0.113.0/24", "2001:db8:113::/64"];
    bed.route("outside", &networks, "w1");
    bed.route("stranger", &networks, "w2");
    bed
}

/// The external addresses, as they are asked on w1 and on w2.
const ON_W1: [&str; 3] = ["w1:30080", "external:80", "balancer:80"];
const ON_W2: [&str; 3] = ["w2:30080", "external:80", "balancer:80"];

fairway_lab::sandbox_tests! {
    fn external_addresses_lead_everybody_to_all_endpoints_through_the_node() {
        let mut bed = bed();

        bed.serve("web", &external("Cluster"), &[on("a"), on("c")]);

        for to in ON_W1 {
            for from in ["outside", "client", "w1"] {
                bed.check(from, to, ["a sees w1", "c sees w1"]);
            }
        }
        for to in ON_W2 {
            bed.check("stranger", to, ["a sees w2", "c sees w2"]);
        }
        bed.check("client", "w2:30080", ["a sees w2", "c sees w2"]);
        bed.check("client", "web:80", ["a sees client", "c sees client"]);
    }

    fn strangers_are_led_to_the_node_s_endpoints_and_seen_as_they_are_by_a_local_external_policy() {
        let mut bed = bed();

        bed.serve("web", &external("Local"), &[on("a"), on("b"), on("c")]);

        for to in ON_W1 {
            bed.check("outside", to, ["a sees outside", "b sees outside"]);
        }
        for to in ON_W2 {
            bed.check("stranger", to, ["c sees stranger"]);
        }
    }

    fn a_local_external_policy_is_not_for_the_node_s_pods_nor_for_the_node_itself() {
        let mut bed = bed();

        bed.serve("web", &external("Local"), &[on("a"), on("c")]);

        for to in ON_W1 {
            bed.check("client", to, ["a sees client", "c sees client"]);
            bed.check("w1", to, ["a sees w1", "c sees w1"]);
            bed.check("a", to, ["a sees w1", "c sees a"]);
        }
        bed.check("client", "web:80", ["a sees client", "c sees client"]);
        bed.check("client2", "web:80", ["a sees client2", "c sees client2"]);
    }

    fn pods_of_another_node_are_strangers_to_a_local_external_policy() {
        let mut bed = bed();

        bed.serve("web", &external("Local"), &[on("a"), on("c")]);

        // Their packets come here only for a node port; answers of their own node's pods would not come back through here.
        bed.check("client2", "w1:30080", ["a sees client2"]);
    }

    fn strangers_are_dropped_where_a_local_external_policy_finds_nobody_and_refused_where_nobody_is_anywhere() {
        let mut bed = bed();

        bed.serve("web", &external("Local"), &[on("c")]);
        for to in ON_W1 {
            bed.check("outside", to, ["silent"]);
        }
        bed.check("client", "balancer:80", ["c sees client"]);
        bed.check("w1", "balancer:80", ["c sees w1"]);
        bed.check("stranger", "balancer:80", ["c sees stranger"]);

        bed.back("web", &[on("a").unready(), on("c").terminating()]);
        bed.check("outside", "balancer:80", ["silent"]);

        bed.back("web", &[on("a").unready()]);
        for to in ON_W1 {
            bed.check("outside", to, ["refused"]);
        }
        bed.check("client", "balancer:80", ["refused"]);
    }

    fn the_cluster_ip_leads_to_the_node_s_endpoints_by_a_local_internal_policy() {
        let mut bed = bed();

        bed.serve("web", &internal("Local"), &[on("a"), on("c")]);

        bed.check("client", "web:80", ["a sees client"]);
        bed.check("w1", "web:80", ["a sees w1"]);
        bed.check("client2", "web:80", ["c sees client2"]);
        bed.check("outside", "w1:30080", ["a sees w1", "c sees w1"]); // which it says nothing about
    }

    fn pods_are_dropped_where_a_local_internal_policy_finds_nobody_and_refused_where_nobody_is_anywhere() {
        let mut bed = bed();

        bed.serve("web", &internal("Local"), &[on("c")]);
        bed.check("client", "web:80", ["silent"]);
        bed.check("w1", "web:80", ["silent"]);
        bed.check("client2", "web:80", ["c sees client2"]);

        bed.back("web", &[]);
        bed.check("client", "web:80", ["refused"]);
        bed.check("client2", "web:80", ["refused"]);
    }

    fn both_policies_may_be_local() {
        let mut bed = bed();

        let both = service("internalTrafficPolicy: Local, externalTrafficPolicy: Local");
        bed.serve("web", &both, &[on("a"), on("c")]);

        bed.check("client", "web:80", ["a sees client"]);
        bed.check("client", "balancer:80", ["a sees client", "c sees client"]);
        bed.check("w1", "w1:30080", ["a sees w1", "c sees w1"]);
        bed.check("outside", "external:80", ["a sees outside"]);
    }

    fn those_that_are_going_stand_in_on_a_node_whatever_is_ready_elsewhere() {
        let mut bed = bed();

        bed.serve("web", &external("Local"), &[on("a").terminating(), on("c")]);

        bed.check("outside", "balancer:80", ["a sees outside"]);
        bed.check("client", "balancer:80", ["c sees client"]);
        bed.check("client", "web:80", ["c sees client"]);

        bed.back("web", &[on("a").terminating(), on("b"), on("c")]);
        bed.check("outside", "balancer:80", ["b sees outside"]);
    }

    fn hints_do_not_count_among_a_node_s_own_endpoints() {
        let mut bed = bed();
        let for_west = |pod| on(pod).with("hints: {forZones: [{name: west}]}");
        let for_east = |pod| on(pod).with("hints: {forZones: [{name: east}]}");

        bed.serve("web", &external("Local"), &[for_west("a"), for_east("c")]);

        bed.check("outside", "balancer:80", ["a sees outside"]);
        bed.check("client", "balancer:80", ["c sees client"]);
        bed.check("client", "web:80", ["c sees client"]);
    }

    fn a_policy_that_is_changed_holds_at_once() {
        let mut bed = bed();
        let endpoints = [on("a"), on("c")];

        bed.serve("web", &external("Local"), &endpoints);
        bed.check("outside", "balancer:80", ["a sees outside"]);

        bed.serve("web", &external("Cluster"), &endpoints);
        bed.check("outside", "balancer:80", ["a sees w1", "c sees w1"]);

        bed.serve("web", &external("Local"), &endpoints);
        bed.check("outside", "balancer:80", ["a sees outside"]);
    }

    fn a_sticky_client_stays_among_those_that_its_policy_leads_to() {
        let mut bed = bed();

        bed.serve("web", &service("externalTrafficPolicy: Local, sessionAffinity: ClientIP"), &[on("a"), on("b"), on("c")]);

        for family in dataplane::packet::Family::ALL {
            let first = bed.ask(family, "outside", "balancer:80");
            assert!(["a sees outside", "b sees outside"].contains(&first.as_str()), "{first}");
            for to in ON_W1 {
                assert_eq!(bed.ask(family, "outside", to), first, "{to}");
            }
            let own = bed.ask(family, "client", "balancer:80");
            assert_eq!(bed.ask(family, "client", "web:80"), own);
            assert_eq!(bed.ask(family, "client", "external:80"), own);
        }
    }
}

//! Which endpoints are chosen.

use dataplane::packet::Family;
use serde_json::{Value, json};

use crate::bed::{Backend, Bed, on};

const WEB: &str = "spec: {ports: [{port: 80}]}";

/// An endpoint with these conditions, some of them left out or null.
fn saying(pod: &'static str, conditions: &str) -> Backend {
    on(pod).with(&format!("conditions: {{{conditions}}}"))
}

fairway_lab::sandbox_tests! {
    fn what_an_endpoint_does_not_say_is_ready_serving_and_staying() {
        let mut bed = Bed::start(&[]);

        bed.serve("web", WEB, &[on("a"), on("b").with("conditions: null"), saying("c", "ready: null")]);
        bed.check("client", "web:80", ["a sees client", "b sees client", "c sees client"]);

        // No serving: it serves; no terminating: it stays, so it is no endpoint to fall back to.
        bed.back("web", &[saying("a", "ready: false, terminating: true"), saying("b", "ready: false, serving: true")]);
        bed.check("client", "web:80", ["a sees client"]);
    }

    fn who_is_said_to_be_ready_is_chosen_whatever_else_is_said() {
        let mut bed = Bed::start(&[]);

        // As the controller writes it for `publishNotReadyAddresses`.
        bed.serve("web", WEB, &[saying("a", "ready: true, serving: false, terminating: true"), on("c").unready()]);

        bed.check("client", "web:80", ["a sees client"]);
    }

    fn those_that_are_going_are_chosen_only_while_nobody_is_ready() {
        let mut bed = Bed::start(&[]);
        let gone = saying("d", "ready: false, serving: false, terminating: true");

        bed.serve("web", WEB, &[on("a").terminating(), on("c").terminating(), on("b").unready(), gone.clone()]);
        bed.check("client", "web:80", ["a sees client", "c sees client"]);

        bed.back("web", &[on("a").terminating(), on("c").terminating(), on("b"), gone.clone()]);
        bed.check("client", "web:80", ["b sees client"]);

        bed.back("web", &[gone, on("b").unready()]);
        bed.check("client", "web:80", ["refused"]);
    }

    fn an_endpoint_in_several_slices_is_one_and_stays_while_one_of_them_says_so() {
        let mut bed = Bed::start(&[]);

        bed.serve("web", WEB, &[on("a").terminating(), on("c")]);
        bed.back_also("web", "web-2", &[on("a"), on("c")]);

        bed.check("client", "web:80", ["a sees client", "c sees client"]);
        let turns: Vec<_> = (0..4).map(|_| bed.ask(Family::Ip, "client", "web:80")).collect();
        assert_eq!(turns[..2], turns[2..]);
        assert_ne!(turns[0], turns[1]);

        bed.back_also("web", "web-2", &[]);
        bed.check("client", "web:80", ["c sees client"]);
    }

    fn of_an_endpoint_s_addresses_the_first_counts() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", WEB, &[]);
        let service = serde_saphyr::from_str::<Value>(WEB).unwrap();
        let mut slices = bed.slices_of("web", "web-1", &service, &[on("a")]);

        for (slice, family) in slices.iter_mut().zip(Family::ALL) {
            let second = bed.address("c", family);
            slice["endpoints"][0]["addresses"].as_array_mut().unwrap().push(json!(second));
            slice["endpoints"].as_array_mut().unwrap().push(json!({"addresses": []}));
        }
        bed.apply(&slices);

        bed.check("client", "web:80", ["a sees client"]);
    }

    fn ports_without_a_number_and_slices_of_host_names_are_passed_over() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", WEB, &[on("a")]);
        let service = serde_saphyr::from_str::<Value>(WEB).unwrap();

        let mut all = bed.slices_of("web", "web-2", &service, &[on("c")]);
        for slice in &mut all {
            slice["ports"] = json!([{"name": "", "port": null}, {"name": "other", "port": 80}]);
        }
        all.push(json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"name": "web-names", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "FQDN", "ports": [{"name": "", "port": 80}],
            "endpoints": [{"addresses": ["www.example.org"]}],
        }));
        bed.apply(&all);

        bed.check("client", "web:80", ["a sees client"]);
    }

    fn slices_of_a_port_may_lead_to_different_target_ports() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", WEB, &[on("a"), on("c")]);
        let service = serde_saphyr::from_str::<Value>("spec: {ports: [{port: 80, targetPort: 8080}]}").unwrap();

        bed.apply(&bed.slices_of("web", "web-2", &service, &[on("b"), on("c")]));

        bed.check("client", "web:80", ["a sees client", "b:8080 sees client", "c sees client", "c:8080 sees client"]);
    }

    fn a_service_is_found_by_its_slices_whichever_comes_first() {
        let mut bed = Bed::start(&[]);
        let service = serde_saphyr::from_str::<Value>(WEB).unwrap();

        bed.apply(&bed.slices_of("web", "web-0", &service, &[on("c")]));
        bed.serve("web", WEB, &[on("a")]);

        bed.check("client", "web:80", ["a sees client", "c sees client"]);
    }

    fn hints_for_the_node_come_before_hints_for_the_zone_and_count_only_if_all_have_them() {
        let mut bed = Bed::start(&[]);
        let for_node = |backend: Backend, node: &str| backend.with(&format!("hints: {{forNodes: [{{name: {node}}}]}}"));
        let for_zone = |backend: Backend, zone: &str| backend.with(&format!("hints: {{forZones: [{{name: {zone}}}]}}"));
        let everybody = ["a sees client", "b sees client", "c sees client"];

        bed.serve("web", WEB, &[for_zone(on("a"), "east"), for_zone(on("b"), "west"), for_zone(on("c"), "east")]);
        bed.check("client", "web:80", ["a sees client", "c sees client"]);
        bed.check("client2", "web:80", ["b sees client2"]);

        bed.back("web", &[for_node(on("a"), "w1"), for_node(on("b"), "w2"), for_node(on("c"), "w2")]);
        bed.check("client", "web:80", ["a sees client"]);
        bed.check("client2", "web:80", ["b sees client2", "c sees client2"]);

        // One without a hint: nobody can know what it is for.
        bed.back("web", &[for_zone(on("a"), "east"), on("b"), for_zone(on("c"), "west")]);
        bed.check("client", "web:80", everybody);

        // None for this node or zone: better all than nobody.
        bed.back("web", &["a", "b", "c"].map(|pod| for_node(on(pod), "w3")));
        bed.check("client", "web:80", everybody);

        // None for this node, but for its zone.
        let both = |pod: &'static str, node: &str, zone: &str| {
            on(pod).with(&format!("hints: {{forNodes: [{{name: {node}}}], forZones: [{{name: {zone}}}]}}"))
        };
        bed.back("web", &[both("a", "w3", "east"), both("b", "w2", "west"), both("c", "w2", "east")]);
        bed.check("client", "web:80", ["a sees client", "c sees client"]);
        bed.check("client2", "web:80", ["b sees client2", "c sees client2"]);
    }

    fn hints_of_endpoints_that_are_not_ready_do_not_count() {
        let mut bed = Bed::start(&[]);
        let east = "hints: {forZones: [{name: east}]}";

        bed.serve("web", WEB, &[on("a").with(east), on("b").unready(), on("c").with("hints: {forZones: [{name: west}]}")]);

        bed.check("client", "web:80", ["a sees client"]);
        bed.check("client2", "web:80", ["c sees client2"]);
    }

    fn a_node_that_changes_its_zone_is_served_by_the_new_one_s_endpoints_at_once() {
        let mut bed = Bed::start(&[]);
        let zone = |pod, zone: &str| on(pod).with(&format!("hints: {{forZones: [{{name: {zone}}}]}}"));
        bed.serve("web", WEB, &[zone("a", "east"), zone("c", "west")]);
        bed.check("client", "web:80", ["a sees client"]);

        bed.label_node("w1", &[("topology.kubernetes.io/zone", "west")]);
        bed.check("client", "web:80", ["c sees client"]);

        bed.label_node("w1", &[]);
        bed.check("client", "web:80", ["a sees client", "c sees client"]);
    }
}

//! Changes that connections do not notice.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use dataplane::packet::Family;
use fairway_lab::{
    client::{self, PATIENCE},
    harness::report,
};

use crate::bed::{Backend, Bed, on};

const SERVERS: [&str; 2] = ["203.0.113.20", "2001:db8:113::20"];

/// The service with this in its spec, and always the same addresses.
fn service(spec: &str) -> String {
    format!(
        "{{spec: {{type: LoadBalancer, {spec}, ports: [{{port: 80, nodePort: 30080}}]}}, \
          status: {{loadBalancer: {{ingress: [{{ip: {}}}, {{ip: \"{}\"}}]}}}}}}",
        SERVERS[0], SERVERS[1]
    )
}

/// Asks from everywhere without a pause while `change` goes on; returns how many were answered, or what went wrong.
fn answered_during(bed: &mut Bed, change: impl FnOnce(&mut Bed)) -> Result<usize, Vec<String>> {
    let asked = [("client", "web:80"), ("client2", "web:80"), ("w1", "w1:30080"), ("outside", "balancer:80")];
    let askers: Vec<_> = asked
        .into_iter()
        .flat_map(|(from, to)| Family::ALL.map(|family| (bed.netns(from), bed.door(family, to).1)))
        .collect();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = askers.iter().map(|(netns, to)| {
            let is_over = &is_over;
            scope.spawn(move || {
                let ask = || netns.run(|| client::http(*to, PATIENCE)).unwrap();
                let answers = std::iter::from_fn(|| (!is_over.load(Ordering::Relaxed)).then(ask));
                answers.map(|answer| answer.map_err(|error| report(&error))).collect::<Result<Vec<_>, _>>()
            })
        });
        let asking: Vec<_> = asking.collect();
        change(bed);
        is_over.store(true, Ordering::Relaxed);
        let heard: Vec<_> = asking.into_iter().map(|asking| asking.join().unwrap()).collect();
        let failed: Vec<_> = heard.iter().filter_map(|heard| heard.clone().err()).collect();
        if failed.is_empty() {
            Ok(heard.into_iter().flatten().map(|answers| answers.len()).sum())
        } else {
            Err(failed)
        }
    })
}

fairway_lab::sandbox_tests! {
    fn no_connection_fails_while_a_service_is_edited_in_every_way() {
        let mut bed = Bed::start(&["--cluster-cidr=10.244.0.0/16,fd00:10:244::/48"]);
        bed.name("balancer", &SERVERS);
        bed.route("outside", &["203.0.113.0/24", "2001:db8:113::/64"], "w1");
        bed.serve("web", &service("sessionAffinity: None"), &[on("a"), on("c")]);

        let answered = answered_during(&mut bed, |bed| {
            let both: &[Backend] = &[on("a"), on("c")];
            for (spec, backends) in [
                ("externalTrafficPolicy: Local", both),
                ("externalTrafficPolicy: Local", &[on("b"), on("a"), on("c")]),
                ("externalTrafficPolicy: Local, sessionAffinity: ClientIP", &[on("b"), on("c")]),
                ("externalTrafficPolicy: Local, internalTrafficPolicy: Local", &[on("a"), on("c"), on("d")]),
                ("internalTrafficPolicy: Local", &[on("a").terminating(), on("d")]),
                ("loadBalancerSourceRanges: [192.168.14.0/24, \"fd00:192:168:14::/64\"]", &[on("a"), on("d")]),
                ("externalIPs: [203.0.113.30, \"2001:db8:113::30\"]", &[on("d").terminating()]),
                ("sessionAffinity: ClientIP", &[on("b")]),
                ("sessionAffinity: None", both),
            ] {
                bed.serve("web", &service(spec), backends);
            }
        });

        assert!(answered.unwrap() > 100);
    }
}

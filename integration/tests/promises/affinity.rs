//! `sessionAffinity: ClientIP`: a client stays with its endpoint.

use std::time::Duration;

use dataplane::{
    nft::{Prune, Socket},
    packet::Family,
};
use fairway_lab::wait;
use proxy::plan::{CLIENTS, Planner, Settings};

use crate::bed::{Bed, on};

const STICKY: &str = "spec: {sessionAffinity: ClientIP, type: NodePort, ports: [
    {name: one, port: 80, nodePort: 30080}, {name: two, port: 81, targetPort: 8080, nodePort: 30081}]}";

/// How many clients of the first sticky service ports a node remembers.
fn remembered(bed: &Bed, node: &str, family: Family) -> usize {
    let kind = Planner::new(&[family], &Settings::default()).kind(family, CLIENTS).unwrap();
    let mut clients = Prune::new(Socket::open_in(&bed.netns(node)).unwrap());
    clients.begin(family, CLIENTS.into(), kind, (0xc000_0000..0xc000_4000).collect()).unwrap();
    let read = clients.step(usize::MAX).unwrap().unwrap();
    read.delete(|_| Ok(())).unwrap() // says how many there would have been to delete
}

fairway_lab::sandbox_tests! {
    fn a_client_meets_one_endpoint_at_all_addresses_of_a_port() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", STICKY, &[on("a"), on("c")]);

        for family in Family::ALL {
            for from in ["client", "b", "w1"] {
                let first = bed.ask(family, from, "web:80");
                let of = |answer: &str| answer.split(' ').next().unwrap().to_owned();
                for to in ["w1:30080", "web:80", "w1:30080", "web:80", "w1:30080"] {
                    assert_eq!(of(&bed.ask(family, from, to)), of(&first), "{family}: {from} at {to}");
                }
            }
        }
    }

    fn clients_are_dealt_out_in_turn() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", STICKY, &[on("a"), on("c")]);

        for family in Family::ALL {
            let answers = ["client", "b"].map(|from| bed.ask(family, from, "web:80"));
            assert_ne!(answers[0].split(' ').next(), answers[1].split(' ').next(), "{family}");
        }
    }

    fn each_port_of_a_service_remembers_for_itself() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", STICKY, &[on("a"), on("c")]);

        for family in Family::ALL {
            let asked = |from, to| bed.ask(family, from, to).split([' ', ':']).next().unwrap().to_owned();
            let (own, last) = (asked("client", "web:80"), asked("b", "web:81"));
            if last != own {
                let _ = asked("w1", "web:81"); // so that the next turn is not the client's endpoint at the other port
            }
            assert_ne!(asked("client", "web:81"), own, "{family}");
        }
    }

    fn a_client_moves_at_once_when_its_endpoint_leaves_and_only_then() {
        let mut bed = Bed::start(&[]);
        let all = [on("a"), on("b"), on("c")];
        bed.serve("web", STICKY, &all);
        let family = Family::Ip;
        let asked = |bed: &Bed| bed.ask(family, "client", "web:80").split(' ').next().unwrap().to_owned();
        let own = asked(&bed);
        let others: Vec<_> = ["a", "b", "c"].into_iter().filter(|name| *name != own).collect();

        bed.back("web", &[all.as_slice(), &[on("d")]].concat());
        assert_eq!(asked(&bed), own, "another comes");
        bed.back("web", &[on("a"), on("b"), on("c")].into_iter().filter(|b| *b != on(others[0])).collect::<Vec<_>>());
        assert_eq!(asked(&bed), own, "another leaves");

        // It is still there and would answer, but it is not ready any more.
        let ending = |name: &'static str| if name == own { on(name).unready() } else { on(name) };
        bed.back("web", &["a", "b", "c"].map(ending));
        let next = asked(&bed);
        assert_ne!(next, own);

        bed.back("web", &all);
        assert_eq!(asked(&bed), next, "the first comes back");
    }

    fn clients_are_remembered_over_a_restart() {
        let mut bed = Bed::start(&[]);
        bed.serve("web", STICKY, &[on("a"), on("c")]);
        let before = Family::ALL.map(|family| ["client", "b"].map(|from| bed.ask(family, from, "web:80")));

        bed.restart(&[]);

        let after = Family::ALL.map(|family| ["client", "b"].map(|from| bed.ask(family, from, "web:80")));
        assert_eq!(after, before);
    }

    fn every_new_connection_gives_a_client_its_whole_time_again() {
        let mut bed = Bed::start(&[]);
        let rest = "spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 2}}, ports: [{port: 80}]}";
        bed.serve("web", rest, &[on("a"), on("c")]);
        let first = bed.ask(Family::Ip, "client", "web:80");

        assert_eq!(remembered(&bed, "w1", Family::Ip), 1);

        // For longer than it would be remembered without asking again.
        let _ = wait::until_within(Duration::from_millis(2_500), "the client to be moved", || {
            match bed.ask(Family::Ip, "client", "web:80") {
                answer if answer == first => Err(answer),
                other => panic!("{first}, then {other}"),
            }
        })
        .map(|()| panic!("moved"));

        wait::until("the client to be forgotten", || match remembered(&bed, "w1", Family::Ip) {
            0 => Ok(()),
            many => Err(many.to_string()),
        })
        .unwrap();
        assert_ne!(bed.ask(Family::Ip, "client", "web:80"), first);
    }

    fn affinity_comes_and_goes_with_the_service_s_word_for_it() {
        let mut bed = Bed::start(&[]);
        let affinity = |kind: &str| format!("spec: {{sessionAffinity: {kind}, ports: [{{port: 80}}]}}");
        let both = [on("a"), on("c")];

        bed.serve("web", &affinity("None"), &both);
        bed.check("client", "web:80", ["a sees client", "c sees client"]);

        bed.serve("web", &affinity("ClientIP"), &both);
        let first = bed.ask(Family::Ip, "client", "web:80");
        assert_eq!([(); 4].map(|()| bed.ask(Family::Ip, "client", "web:80")), [(); 4].map(|()| first.clone()));

        bed.serve("web", &affinity("None"), &both);
        bed.check("client", "web:80", ["a sees client", "c sees client"]);
    }

    fn datagrams_are_remembered_too() {
        let mut bed = Bed::start(&[]);
        let rest = "spec: {sessionAffinity: ClientIP, ports: [{port: 80, protocol: UDP}]}";
        bed.serve("dns", rest, &[on("a"), on("c")]);

        for family in Family::ALL {
            let first = bed.ask(family, "client", "dns:80/udp");
            assert_eq!([(); 3].map(|()| bed.ask(family, "client", "dns:80/udp")), [(); 3].map(|()| first.clone()));
        }
    }
}

//! Nodes that come, move and go, and daemons that start again: what of that is felt by traffic under way.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use fairway_lab::{host::Host, wait};

use crate::bed::{self, Bed, Peer};

/// Sends datagrams from pod to pod, one after the other, while something happens: what is lost stays lost, where a connection would
/// send it once more. All must be echoed, by both families, before, during and after it.
struct Traffic(Vec<(&'static str, &'static str, Peer, Peer)>);

impl Traffic {
    fn between(bed: &Bed, pairs: &[(&'static str, &'static str)]) -> Self {
        let pairs = pairs.iter().flat_map(|pair| [0, 1].map(|family| (*pair, family)));
        let peers = pairs.zip(100..).map(|(((from, to), family), port)| {
            let (client, far) = (Peer::at(bed, from, family, 0), Peer::at(bed, to, family, port));
            wait::until("the way", || client.echo(far.address(), &far, 1)).unwrap();
            (from, to, client, far)
        });
        Self(peers.collect())
    }

    fn loses_nothing_while(&self, happens: impl FnOnce(&dyn Fn())) {
        let (is_over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let asked = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    for (from, to, client, far) in &self.0 {
                        let round = rounds.load(Ordering::Relaxed);
                        assert_eq!(
                            client.echo(far.address(), far, 100),
                            Ok(()),
                            "{from} to {to}, round {round}"
                        );
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
            // Waits until some more have been sent and echoed.
            let go_on = || {
                let until = rounds.load(Ordering::Relaxed) + 50;
                while !asked.is_finished() && rounds.load(Ordering::Relaxed) < until {
                    thread::yield_now();
                }
            };
            go_on();
            happens(&go_on);
            go_on();
            is_over.store(true, Ordering::Relaxed);
            asked.join().unwrap();
        });
    }
}

/// How many IPv4 packets a machine has received that were sent to it alone, whatever address they are for.
fn packets_to(machine: &Host) -> u64 {
    let of = |file: &str, group: &str, name: &str| -> u64 {
        let table = machine.run(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap());
        let table = table.unwrap();
        let mut rows = table.lines().filter_map(|row| row.strip_prefix(group)).map(str::split_whitespace);
        let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
        names.zip(values).find(|(known, _)| *known == name).unwrap().1.parse().unwrap()
    };
    // Groups are joined and left on a network now and then.
    of("snmp", "Ip: ", "InReceives") - of("netstat", "IpExt: ", "InMcastPkts")
}

/// Nodes of the bed that stay, with pods that are reached by each way: directly, by a tunnel, and by one between networks.
const OTHERS: [(&str, &str); 3] = [("client", "near"), ("client", "far"), ("far", "near")];

fairway_lab::sandbox_tests! {
    fn a_node_joins_moves_and_leaves_and_nothing_between_others_is_lost() {
        let mut bed = Bed::start(&[]);

        Traffic::between(&bed, &OTHERS).loses_nothing_while(|go_on| {
            bed.apply(bed::NEW_NODE);
            for url in bed.urls("new") {
                assert_eq!(bed.cluster.await_answer("client", &url).unwrap().name, "new");
            }
            go_on();
            bed.apply(bed::MOVED_NODE);
            for url in bed.urls("new") {
                assert_eq!(bed.cluster.await_answer("client", &url).unwrap().name, "new");
                assert_eq!(bed.cluster.await_answer("farther", &url).unwrap().name, "new");
            }
            bed.await_far_ends("m", &["192.168.15.65"], &["192.168.15.55"]);
            go_on();
            bed.delete("Node", "w5");
            bed.await_far_ends("m", &["192.168.15.53"], &["192.168.15.65"]);
        });
    }

    fn who_has_a_node_s_old_address_gets_nothing_of_what_is_sent_to_its_pods() {
        let mut bed = Bed::start(&[]);
        bed.apply(bed::NEW_NODE);
        Traffic::between(&bed, &[("client", "new"), ("farther", "new")]).loses_nothing_while(|_| ());

        bed.apply(bed::MOVED_NODE);
        for node in ["m", "w1", "w3", "w4"] {
            bed.await_far_ends(node, &[], &["192.168.15.55"]);
        }
        let heir = Host::make("heir").unwrap();
        bed.cluster.switch_of("w3").unwrap().connect(&heir, &["192.168.15.55".parse().unwrap()]).unwrap();

        // By tunnels from the other network, and directly on this one.
        Traffic::between(&bed, &[("client", "new"), ("farther", "new"), ("new", "far")]).loses_nothing_while(|_| ());
        assert_eq!(packets_to(&heir), 0);
    }

    fn nothing_is_lost_while_daemons_start_again() {
        let mut bed = Bed::start(&[]);

        Traffic::between(&bed, &OTHERS).loses_nothing_while(|go_on| {
            for node in ["m", "w3", "m"] {
                let running = bed.cluster.node_mut(node).unwrap();
                running.stop_daemon().unwrap();
                go_on();
                running.start_daemon().unwrap();
                bed.await_health(node);
                go_on();
            }
        });
    }
}

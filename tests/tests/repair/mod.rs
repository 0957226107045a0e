//! What others do to our tables, and that it is put back.

use std::{
    net::Ipv4Addr,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use dataplane::{
    nft::{
        Change, Data, Element, Held, Key, Monitor, Notice, Rule, SetType, Socket, Statement, Table,
        Transaction, Verdict, diff,
    },
    packet::{Family, Protocol},
};
use fairway_lab::wait;
use proxy::{
    plan::{Planner, Settings},
    service_port::{Endpoint, ServicePort, ServicePortName},
    sync::{
        Services,
        repair::{Repair, Repairs},
        services::Nftables,
    },
};

use super::{Daemon, endpoint, held, on_a_node, service, slice, write};

/// Commits as another process would: with a socket and a name of its own.
fn intrude(changes: impl IntoIterator<Item = (Family, Change)>) -> Result<(), dataplane::nft::Error> {
    let mut transaction = Transaction::default();
    changes.into_iter().for_each(|(family, change)| transaction.push(family, change));
    let commit = || Socket::open()?.commit(&transaction);
    thread::scope(|scope| {
        thread::Builder::new().name("intruder".into()).spawn_scoped(scope, commit).unwrap().join().unwrap()
    })
}

/// What the kernel holds once nothing has changed for a while: retired slots are gone, and classes made in advance.
fn at_rest() -> Held {
    let (mut last, mut looks) = (None, 0);
    wait::until("the tables to be at rest", || {
        let now = held();
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
        if looks > 50 { last.clone().ok_or_else(String::new) } else { Err(format!("{looks} equal looks")) }
    })
    .unwrap()
}

fn is_again(before: &Held) {
    let look = || if held().as_ref() == Some(before) { Ok(()) } else { Err(format!("{:?}", held())) };
    wait::until("the tables to be as before", look).unwrap();
}

fn write_two_endpoints() {
    write(
        "web.yaml",
        &format!("{}\n---\n{}", service("ports: [{port: 80}]"), slice(&["10.244.1.2", "10.244.1.3"])),
    );
}

/// Runs the daemon, does what `intrusion` makes of what it holds, and checks what it says and that all is as before.
fn check(intrusion: impl FnOnce(&Held) -> Vec<Change> + Send, found: &str) {
    on_a_node(|| {
        write_two_endpoints();
        let daemon = Daemon::start();
        daemon.says("committed");
        let before = at_rest();

        intrude(intrusion(&before).into_iter().map(|change| (Family::Ip, change))).unwrap();

        let said = daemon.says("put back what others changed");
        for words in [found, "by=\"intruder[", "repairs=1 "] {
            assert!(said.contains(words), "{words} is not in {said}");
        }
        is_again(&before);
    });
}

/// A map, its kind, and the first of its elements.
fn first(held: &Held, map: &'static str) -> (&'static str, SetType, Key, Element) {
    let (key, element) = held.maps[map].elements.first_key_value().unwrap();
    (map, held.maps[map].kind, *key, element.clone())
}

fn delete((map, kind, key, _): (&'static str, SetType, Key, Element)) -> Change {
    Change::DeleteElements(map.into(), kind, vec![key])
}

/// Services of `endpoints` endpoints each.
fn planner(services: u32, endpoints: u32) -> Planner {
    let mut planner = Planner::new(&[Family::Ip], &Settings::default());
    for n in 0..services {
        let (name, port) = service_port(n, endpoints);
        planner.set(&name, Family::Ip, Some(&port));
    }
    planner
}

fn service_port(n: u32, endpoints: u32) -> (ServicePortName, ServicePort) {
    let (namespace, name, port) = ("default".into(), format!("web-{n}"), String::new());
    let name = ServicePortName { namespace, name: name.into(), port: port.into(), protocol: Protocol::Tcp };
    let address = |net: u32, n: u32| Ipv4Addr::from_bits(net + n);
    let endpoint = |e| Endpoint::new((address(0x0af4_0000, n * endpoints + e), 8080).into(), false);
    let endpoints = (0..endpoints).map(endpoint).collect();
    (name, ServicePort::new(address(0x0a60_0000, n).into(), 80, endpoints))
}

fn notices(monitor: &mut Monitor) -> Vec<Notice> {
    std::iter::from_fn(|| monitor.next_notice().ok()).collect()
}

fn table_of(planner: &Planner) -> Table {
    planner.tables().next().unwrap()
}

/// Plans and commits 2,000 services, lets somebody disturb them, and waits until all is as before. Audits all the time, unless there
/// is a monitor to listen.
fn disturbs_and_repairs(listens: bool, disturb: impl FnOnce(&Held)) -> (Repairs, Held) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (families, socket) = ([Family::Ip], Socket::open().unwrap());
        let monitor = listens.then(|| Monitor::open(&socket).unwrap());
        let period = if listens { Duration::ZERO } else { Duration::from_millis(1) };
        let repair = Repair::new(monitor, Socket::open().unwrap(), &families, period).unwrap();
        let mut services = Nftables::new(socket, &families, &Settings::default()).with_repair(repair);
        services.begin().unwrap();
        for n in 0..2_000 {
            let (name, port) = service_port(n, 2);
            services.set(&name, Family::Ip, Some(port));
        }
        while services.commit().unwrap().is_unfinished {}
        let before = held().unwrap();

        disturb(&before);
        while held().as_ref() != Some(&before) {
            services.disturbed().await;
            assert!(services.repair());
        }
        (services.repairs(), before)
    })
}

/// Runs `nft`, if it is installed.
fn nft(command: &str) -> bool {
    let Ok(status) = Command::new("nft").args(command.split_whitespace()).status() else {
        println!("nft is not installed: {command:?} is not tried");
        return false;
    };
    assert!(status.success(), "nft {command}: {status}");
    true
}

fairway_lab::sandbox_tests! {
    fn a_deleted_table_is_put_back() {
        check(|_| vec![Change::DeleteTable], "1 missing (table ip)");
    }

    fn one_deleted_element_is_put_back() {
        check(|held| vec![delete(first(held, "cluster-vips"))], "1 missing (ip cluster-vips 10.96.0.1 . tcp . 80)");
    }

    fn a_changed_element_is_put_back() {
        check(
            |held| {
                let (map, kind, key, element) = first(held, "slots");
                let changed = Element { data: Data::Endpoint(endpoint("10.9.9.9:9")), ..element.clone() };
                vec![delete((map, kind, key, element)), Change::AddElements(map.into(), kind, vec![(key, changed)])]
            },
            "1 changed (ip slots ",
        );
    }

    fn an_element_of_others_is_removed() {
        check(
            |held| {
                let (map, kind, _, element) = first(held, "cluster-vips");
                let foreign = Key::Service("10.96.0.99".parse().unwrap(), Protocol::Tcp, 80);
                vec![Change::AddElements(map.into(), kind, vec![(foreign, element)])]
            },
            "1 not ours (ip cluster-vips 10.96.0.99 . tcp . 80)",
        );
    }

    fn a_rule_of_others_is_removed() {
        let rule = || Rule([Statement::Verdict(Verdict::Drop)].into_iter().collect());
        check(|_| vec![Change::AddRule("dispatch".into(), rule())], "1 changed (ip rules of dispatch)");
    }

    fn the_deleted_rules_of_a_chain_are_put_back() {
        check(|_| vec![Change::FlushChain("pick".into())], "1 missing (ip rules of pick)");
    }

    fn a_chain_of_others_is_removed() {
        check(|_| vec![Change::AddChain("foreign".into(), None)], "1 not ours (ip chain foreign)");
    }

    fn both_tables_are_put_back_at_once() {
        on_a_node(|| {
            write_two_endpoints();
            let daemon = Daemon::start();
            daemon.says("committed");
            let before = at_rest();

            intrude(Family::ALL.map(|family| (family, Change::DeleteTable))).unwrap();

            assert!(daemon.says("put back").contains("2 missing (table ip, table ip6)"));
            is_again(&before);
            assert!(Socket::open().unwrap().held(Family::Ip6).unwrap().is_some());
        });
    }

    fn our_own_changes_are_no_reason_to_repair_anything_and_audits_agree_with_them() {
        on_a_node(|| {
            write_two_endpoints();
            let daemon = Daemon::start_with(&["--audit-period", "10ms", "-v", "4"]);
            let mut said = daemon.says("committed");
            for n in 3..30 {
                write("web.yaml", &format!("{}\n---\n{}", service("ports: [{port: 80}]"), slice(&[&format!("10.244.1.{n}")])));
                said += &daemon.says("committed");
            }
            at_rest();
            said += &daemon.says("audited");
            said += &daemon.says("audited");

            assert!(!said.contains("WARN"), "{said}");
        });
    }

    fn a_storm_ends_with_all_as_it_was() {
        on_a_node(|| {
            write_two_endpoints();
            let daemon = Daemon::start();
            daemon.says("committed");
            let before = at_rest();

            for _ in 0..100 {
                for map in ["cluster-vips", "slots"] {
                    let _ = intrude([(Family::Ip, delete(first(&before, map)))]); // unless it is still gone
                }
            }

            is_again(&before);
            let said = daemon.says("again and again");
            assert!(said.contains("by=\"intruder["), "{said}");
        });
    }

    fn an_audit_finds_what_nobody_told_of() {
        on_a_node(|| {
            let (repairs, before) = disturbs_and_repairs(false, |before| {
                let (map, kind, key, element) = first(before, "slots");
                let foreign = (Key::Number(99_999), element);
                let at_once = vec![
                    delete(first(before, "cluster-vips")),
                    Change::DeleteElements(map.into(), kind, vec![key]),
                    Change::AddElements(map.into(), kind, vec![foreign]),
                    Change::FlushChain("dispatch".into()),
                ];
                intrude(at_once.into_iter().map(|change| (Family::Ip, change))).unwrap();
            });

            assert_eq!(held(), Some(before));
            assert!((1..=4).contains(&repairs.repairs), "{repairs:?}"); // some may be found on one page
        });
    }

    fn what_there_was_no_room_to_tell_is_found_all_the_same() {
        on_a_node(|| {
            let (repairs, before) = disturbs_and_repairs(true, |before| {
                let (map, kind, ..) = first(before, "slots");
                let all: Vec<_> = before.maps[map].elements.clone().into_iter().collect();
                let keys = all.iter().map(|(key, _)| *key).collect();
                let noise = [Change::DeleteElements(map.into(), kind, keys), Change::AddElements(map.into(), kind, all)];
                for _ in 0..120 {
                    intrude(noise.clone().map(|change| (Family::Ip, change))).unwrap();
                }
                intrude([(Family::Ip, delete(first(before, "cluster-vips")))]).unwrap();
            });

            assert_eq!(held(), Some(before));
            assert!(repairs.missed > 0 && repairs.repairs == 1, "{repairs:?}");
        });
    }

    fn the_monitor_tells_what_others_touched_and_nothing_of_our_own() {
        on_a_node(|| {
            let (own, mut planner) = (Socket::open().unwrap(), planner(2_000, 2));
            let mut monitor = Monitor::open(&own).unwrap();

            // Small, and so large that it is committed without listening.
            monitor.commit(&own, &diff(None, &table_of(&self::planner(1, 1)))).unwrap();
            own.commit(&diff(own.held(Family::Ip).unwrap().as_ref(), &table_of(&planner))).unwrap();
            planner.set(&service_port(7, 2).0, Family::Ip, None);
            monitor.commit(&own, &diff(own.held(Family::Ip).unwrap().as_ref(), &table_of(&planner))).unwrap();
            let mut replacement = Transaction::default();
            replacement.replace(&table_of(&planner));
            monitor.commit(&own, &replacement).unwrap();
            assert_eq!(notices(&mut monitor), []);

            let table = table_of(&planner);
            intrude([(Family::Ip, delete(first(&Held::from(&table), "slots")))]).unwrap();
            let notices = notices(&mut monitor);
            let [Notice::Changed(intrusion)] = &notices[..] else { panic!("{notices:?}") };
            assert_eq!(intrusion.by.as_ref().unwrap().name, "intruder");
            let doubt = &intrusion.doubts[&Family::Ip];
            assert!(!doubt.table && !doubt.outline && doubt.elements.len() == 1, "{doubt:?}");
            let amends = own.amends(&table, doubt).unwrap();
            assert_eq!(amends.elements(), (1, 0));
            monitor.commit(&own, &amends).unwrap();
            assert!(own.amends(&table, doubt).unwrap().is_empty());
        });
    }

    fn what_others_commit_while_we_do_not_listen_is_known_to_be_missed() {
        on_a_node(|| {
            let (own, table) = (Socket::open().unwrap(), table_of(&planner(1_000, 2)));
            let mut monitor = Monitor::open(&own).unwrap();
            monitor.commit(&own, &diff(None, &table)).unwrap();
            let held = Held::from(&table);
            let transaction = |changes: [Change; 2]| {
                let mut transaction = Transaction::default();
                for change in changes {
                    transaction.push(Family::Ip, change);
                }
                transaction
            };
            let (map, kind, ..) = first(&held, "slots");
            let all: Vec<_> = held.maps[map].elements.clone().into_iter().collect();
            let keys = all.iter().map(|(key, _)| *key).collect();
            let ours =
                transaction([Change::DeleteElements(map.into(), kind, keys), Change::AddElements(map.into(), kind, all)]);
            let (map, kind, key, element) = first(&held, "cluster-vips");
            let theirs = transaction([
                Change::DeleteElements(map.into(), kind, vec![key]),
                Change::AddElements(map.into(), kind, vec![(key, element)]),
            ]);

            let (other, is_over) = (Socket::open().unwrap(), AtomicBool::new(false));
            let intrusions = thread::scope(|scope| {
                let intruder = scope.spawn(|| {
                    let again = || !is_over.load(Ordering::Relaxed);
                    std::iter::repeat_with(|| other.commit(&theirs).unwrap()).take_while(|()| again()).count() + 1
                });
                for _ in 0..20 {
                    monitor.commit(&own, &ours).unwrap();
                }
                is_over.store(true, Ordering::Relaxed);
                intruder.join().unwrap()
            });

            let notices = notices(&mut monitor);
            let is_known = notices.contains(&Notice::Missed) || notices.len() == intrusions;
            assert!(is_known, "told of {} of {intrusions}, and none was missed", notices.len());
        });
    }

    fn what_nft_does_to_our_tables_is_put_back_and_other_tables_are_left_alone() {
        on_a_node(|| {
            write_two_endpoints();
            let daemon = Daemon::start();
            daemon.says("committed");
            let before = at_rest();

            if !nft("flush ruleset") {
                return;
            }
            let said = daemon.says("put back");
            assert!(said.contains("2 missing (table ip, table ip6)") && said.contains("by=\"nft["), "{said}");
            is_again(&before);

            nft("add table ip other");
            nft("add chain ip other mine");
            nft("add rule ip other mine counter");
            for (command, found) in [
                ("add rule ip fairway dispatch counter", "1 changed (ip rules of dispatch)"),
                ("add table ip fairway { flags dormant; }", "1 changed (table ip)"),
                ("add chain ip fairway prerouting { policy drop; }", "1 changed (table ip)"),
                ("add set ip fairway strange { type mark; }", "1 not ours (ip map strange)"),
            ] {
                nft(command);
                let said = daemon.says("put back");
                assert!(said.contains(found), "{command}: {said}");
                is_again(&before);
            }
            nft("delete chain ip other mine"); // which fails if it is gone
        });
    }
}

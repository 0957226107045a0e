//! What goes wrong between us and the kernel: too many refusals, lists that change while they are read, and others who
//! write into our tables.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use dataplane::{
    netns::Netns,
    nft::{Chain, Change, Counters, Data, Element, Held, Key, Prune, Socket, Table, Transaction, diff},
    packet::{Family, Protocol},
};
use proxy::{
    plan::{Planner, Settings, counting},
    service_port::{Endpoint, ServicePort, ServicePortName},
    sync::{Services, pace::SETTLED, services::Nftables},
};

fn kernel() -> (Netns, Socket) {
    let netns = Netns::make().unwrap();
    let socket = Socket::open_in(&netns).unwrap();
    (netns, socket)
}

/// The table of one service with as many endpoints.
fn table(endpoints: u8) -> Table {
    let mut planner = Planner::new(&[Family::Ip], &Settings::default());
    planner.set(&name(), Family::Ip, Some(&service_port(endpoints)));
    planner.tables().next().unwrap()
}

fn name() -> ServicePortName {
    let (namespace, name, port) = ("default".into(), "web".into(), "http".into());
    ServicePortName { namespace, name, port, protocol: Protocol::Tcp }
}

fn service_port(endpoints: u8) -> ServicePort {
    let endpoint = |n| Endpoint::new(([10, 244, 1, n], 8080).into(), false);
    ServicePort::new([10, 96, 0, 1].into(), 80, (1..=endpoints).map(endpoint).collect())
}

fn transaction(changes: impl IntoIterator<Item = Change>) -> Transaction {
    let mut transaction = Transaction::default();
    changes.into_iter().for_each(|change| transaction.push(Family::Ip, change));
    transaction
}

/// Runs `nft` in the namespace; false where it is not installed.
fn nft(netns: &Netns, words: &str) -> bool {
    let Ok(done) = netns.run(|| Command::new("nft").arg(words).output()).unwrap() else {
        println!("nft is not installed: nobody else writes into our table");
        return false;
    };
    assert!(done.status.success(), "{words}: {}", String::from_utf8_lossy(&done.stderr));
    true
}

/// How many endpoints the kernel holds.
fn slots(kernel: &Socket) -> usize {
    let held = kernel.held(Family::Ip).unwrap().unwrap();
    held.maps.get("slots").unwrap().elements.len()
}

fairway_lab::sandbox_tests! {
    fn more_refusals_than_the_socket_holds_are_still_a_refusal_and_leave_nothing_behind() {
        let (_netns, kernel) = kernel();
        let nowhere = (0..20_000).map(|n| Change::DeleteChain(format!("nowhere-{n}").into()));

        let refused = kernel.commit(&transaction([Change::AddTable].into_iter().chain(nowhere))).unwrap_err();

        assert!(refused.is_not_found(), "{refused:?}");
        assert_eq!(refused.to_string(), "kernel refuses `delete chain ip fairway nowhere-0`");
        assert_eq!(kernel.held(Family::Ip).unwrap(), None);
        kernel.commit(&transaction([Change::AddTable])).unwrap();
        assert!(kernel.held(Family::Ip).unwrap().is_some());
    }

    fn a_list_that_others_keep_interrupting_is_read_again() {
        let (netns, kernel) = kernel();
        let mut table = table(3);
        for n in 0..400 {
            table.chains.insert(format!("many-{n}").into(), Chain::default());
        }
        kernel.commit(&diff(None, &table)).unwrap();
        let others = Socket::open_in(&netns).unwrap();
        let is_done = AtomicBool::new(false);

        thread::scope(|scope| {
            scope.spawn(|| {
                let mut flicker = Transaction::default();
                flicker.push(Family::Ip6, Change::AddTable);
                flicker.push(Family::Ip6, Change::DeleteTable);
                while !is_done.load(Ordering::Relaxed) {
                    others.commit(&flicker).unwrap();
                    thread::sleep(Duration::from_millis(5)); // often enough to hit some lists
                }
            });
            let lists: Vec<_> = (0..100).map(|_| kernel.held(Family::Ip)).collect();
            is_done.store(true, Ordering::Relaxed);
            for list in lists {
                assert_eq!(list.unwrap(), Some(Held::from(&table)));
            }
        });
    }

    fn what_somebody_else_wrote_into_our_table_does_not_stop_us() {
        for foreign in [
            "add rule ip fairway services ip saddr { 10.0.0.1, 10.0.0.2 } drop", // brings a set without a name
            "add element ip fairway cluster-vips { 10.96.0.9 . udplite . 80 : 0:1 }",
            "add set ip fairway theirs { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } }; \
             add rule ip fairway services ip saddr @theirs drop",
            "add chain ip fairway theirs; add rule ip fairway services jump theirs",
        ] {
            let (netns, kernel) = kernel();
            kernel.commit(&diff(None, &table(3))).unwrap();
            if !nft(&netns, foreign) {
                return;
            }

            let wanted = table(2);
            let changes = diff(kernel.held(Family::Ip).unwrap().as_ref(), &wanted);

            kernel.commit(&changes).unwrap_or_else(|error| panic!("{foreign}: {error}\n{changes}"));
            assert_eq!(kernel.held(Family::Ip).unwrap(), Some(Held::from(&wanted)), "{foreign}");
        }
    }

    fn counters_are_read_of_all_elements_however_many_pages_they_fill() {
        let (netns, kernel) = kernel();
        let kind = counting::maps(&Settings::default()).find(|(_, map, _)| *map == "slots").unwrap().2;
        let slot = |n: u32| (Key::Number(n), Element::new(Data::Endpoint(([10, 244, 1, 1], 8080).into())));
        let elements = (1..=3_000).map(slot).collect();
        kernel.commit(&diff(None, &table(0))).unwrap();
        kernel.commit(&transaction([Change::AddElements("slots".into(), kind, elements)])).unwrap();
        let mut counters = Counters::new(Socket::open_in(&netns).unwrap());

        let (mut seen, mut pages) = (BTreeSet::new(), 1);
        counters.begin(Family::Ip, &"slots".into(), kind).unwrap();
        while counters.step(|counted| assert!(seen.insert(counted.key) && counted.packets == 0)).unwrap() {
            pages += 1;
        }

        assert_eq!((seen.len(), pages > 1), (3_000, true));
        let of_rules = |chain: &'static str| counters.of_rules(Family::Ip, &chain.into()).unwrap();
        assert_eq!(of_rules(counting::PICKING), [None, Some(0)]);
        let (chain, reasons) = counting::MASQUERADE[0];
        assert_eq!(of_rules(chain), reasons.iter().map(|_| Some(0)).collect::<Vec<_>>());
        assert_eq!(of_rules("nowhere"), [None; 0]);
    }

    fn clients_are_not_listed_however_many_are_remembered() {
        let (netns, kernel) = kernel();
        kernel.commit(&diff(None, &table(3))).unwrap();
        if !nft(&netns, "add element ip fairway clients { 10.0.0.1 . c000:0 timeout 1h : c000:1 }") {
            return;
        }

        assert_eq!(kernel.held(Family::Ip).unwrap(), Some(Held::from(&table(3))));
    }

    fn clients_of_an_endpoint_that_left_are_forgotten_and_others_are_not() {
        let (netns, kernel) = kernel();
        let socket = || Socket::open_in(&netns).unwrap();
        let mut services =
            Nftables::new(socket(), &[Family::Ip], &Settings::default()).with_pruning(socket());
        let sticky = |endpoints| ServicePort { affinity_seconds: Some(3600), ..service_port(endpoints) };
        let settle = |services: &mut Nftables| {
            while services.commit().unwrap().is_unfinished {
                thread::sleep(SETTLED); // as the daemon waits between attempts
            }
        };
        services.begin().unwrap();
        services.set(&name(), Family::Ip, Some(sticky(2)));
        settle(&mut services);
        // As the rules remember them: 3,000 clients of the first endpoint, 2,000 of the second.
        let (identity, kind) = (0xc000_0000, Planner::new(&[Family::Ip], &Settings::default()).kind(Family::Ip, "clients").unwrap());
        let client = |n: u32| {
            let id = if n < 3_000 { identity | 1 } else { identity | 2 };
            (Key::Client(Ipv4Addr::from_bits(0x0a01_0000 + n).into(), identity), Element::from(Data::Number(id)))
        };
        let clients = (0..5_000).map(client).collect();
        kernel.commit(&transaction([Change::AddElements("clients".into(), kind, clients)])).unwrap();
        let remembered = |id| {
            let mut prune = Prune::new(socket());
            prune.begin(Family::Ip, "clients".into(), kind, [identity | id].into()).unwrap();
            prune.step(usize::MAX).unwrap().unwrap().delete(|_| Ok(())).unwrap()
        };
        assert_eq!((remembered(1), remembered(2)), (3_000, 2_000));

        services.set(&name(), Family::Ip, Some(sticky(1)));
        settle(&mut services);

        assert_eq!((remembered(1), remembered(2)), (3_000, 0));
    }

    fn clients_that_cannot_be_forgotten_are_no_failed_commit() {
        let (netns, kernel) = kernel();
        let socket = || Socket::open_in(&netns).unwrap();
        let mut services =
            Nftables::new(socket(), &[Family::Ip], &Settings::default()).with_pruning(socket());
        let sticky = |endpoints| ServicePort { affinity_seconds: Some(3600), ..service_port(endpoints) };
        services.begin().unwrap();
        services.set(&name(), Family::Ip, Some(sticky(2)));
        while services.commit().unwrap().is_unfinished {
            thread::sleep(SETTLED);
        }
        services.set(&name(), Family::Ip, Some(sticky(1)));
        while slots(&kernel) == 2 {
            services.commit().unwrap();
            thread::sleep(SETTLED);
        }

        kernel.commit(&transaction([Change::DeleteTable])).unwrap();

        assert!(services.commit().is_ok(), "the clients were to be read next, and their map is gone");
    }

    fn what_a_refused_commit_led_away_from_is_removed_only_after_it_was_mended() {
        let (netns, kernel) = kernel();
        let mut services = Nftables::new(Socket::open_in(&netns).unwrap(), &[Family::Ip], &Settings::default());
        services.begin().unwrap();
        services.set(&name(), Family::Ip, Some(service_port(3)));
        while services.commit().unwrap().is_unfinished {}
        let settled = || thread::sleep(SETTLED); // as the daemon waits between attempts
        settled();

        // A stranger's element is where the next endpoint is to go.
        let stranger = Element::from(Data::Endpoint(([192, 0, 2, 1], 1).into()));
        let map = kernel.held(Family::Ip).unwrap().unwrap().maps.get("slots").unwrap().kind;
        let elements = (4..200).map(|n| (Key::Number(n), stranger.clone())).collect();
        kernel.commit(&transaction([Change::AddElements("slots".into(), map, elements)])).unwrap();
        services.set(&name(), Family::Ip, Some(service_port(2)));

        assert!(services.commit().unwrap().is_unfinished, "refused, and mended at once");
        assert_eq!(slots(&kernel), 3 + 2, "the old endpoints are gone while packets may still be on their way to them");
        while services.commit().unwrap().is_unfinished {}
        assert_eq!(slots(&kernel), 2);
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

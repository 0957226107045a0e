//! Route netlink against the real kernel, and the fake against both: the same calls, the same answers.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::{collections::BTreeSet, net::IpAddr};

use dataplane::{
    netns::Netns,
    owner,
    rtnl::{
        Address, AddressFlags, Bridge, Change, Fake, Kernel, LOOPBACK, Link, Mac, Neighbour, NeighbourState,
        Port, Route, Routes, Rule, Rules, Table, TokenBucket, VethEnd, diff,
    },
    sysctl,
};
use fairway_lab::host::Host;
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};

/// Runs `work` in a namespace of its own, inside a runtime.
fn on_a_host<F: Future<Output = ()>>(work: impl FnOnce(Kernel) -> F + Send) {
    let host = Host::make("a").unwrap();
    host.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work(Kernel::open().unwrap()).await });
    })
    .unwrap();
}

fn end(name: &str, seed: u64) -> VethEnd {
    VethEnd { name: name.to_owned(), mac: Mac::locally_administered(seed), mtu: 1400 }
}

/// Makes a veth pair whose ends are both here, and up.
async fn pair(kernel: &Kernel) -> (Link, Link) {
    // A machine without any IPv4 address knows no unicast address, and so takes no gateway as `onlink`.
    kernel.set_up(LOOPBACK, true).await.unwrap();
    kernel.add_veth(&end("one", 1), &end("two", 2), None).await.unwrap();
    pair_up(kernel).await
}

/// Sets both ends up.
async fn pair_up(kernel: &Kernel) -> (Link, Link) {
    for name in ["one", "two"] {
        let end = kernel.link(name).await.unwrap();
        assert!(!end.is_up);
        kernel.set_up(end.index, true).await.unwrap();
    }
    (kernel.link("one").await.unwrap(), kernel.link("two").await.unwrap())
}

fn net(text: &str) -> ipnetwork::IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A call, as both the kernel and the fake take it.
#[derive(Debug, Clone)]
enum Call {
    Add(Route),
    Replace(Route),
    /// Deletes the n-th of the routes that are listed.
    DeleteListed(usize),
    DeleteAbsent,
    AddRule(Rule),
    DeleteRule(Rule),
}

/// Routes near and far, in both tables and families, over two links; some with a gateway that is not on the link.
fn any_route(links: [u32; 2]) -> impl Strategy<Value = Route> {
    let table = prop_oneof![2 => Just(Table::Main), 1 => Just(Table::Own)];
    (table, any_route_of_main(links)).prop_map(|(table, route)| Route { table, ..route })
}

fn any_route_of_main(links: [u32; 2]) -> impl Strategy<Value = Route> {
    let near =
        (any::<bool>(), 0..2usize, proptest::option::of(1..3u32)).prop_map(move |(v4, link, metric)| {
            let destination = net(if v4 { "192.168.1.0/24" } else { "fd00:1::/64" });
            Route { metric, ..Route::on_link(destination, links[link]) }
        });
    let mtu = proptest::option::of(1300..1303u32);
    let far = (any::<bool>(), 0..2usize, 0..3u8, any::<bool>(), proptest::option::of(1..3u32), mtu);
    let far = far.prop_map(move |(v4, link, number, onlink, metric, mtu)| {
        let (destination, gateway) = if v4 {
            (net(&format!("10.244.{number}.0/24")), ip("192.168.1.1"))
        } else {
            (net(&format!("fd00:2:{number}::/64")), ip("fd00:1::1"))
        };
        Route { metric, mtu, onlink, ..Route::through(destination, gateway, links[link]) }
    });
    prop_oneof![near, far]
}

/// Rules for few sources of both families, so that they meet again.
fn any_rule() -> impl Strategy<Value = Rule> {
    let sources = ["10.244.0.0/24", "10.244.0.0/25", "10.244.1.7/32", "fd00:1::/64", "fd00:1::/65"].map(net);
    let priority = prop_oneof![3 => Just(owner::RULE_PRIORITY), 1 => 900..902u32];
    (proptest::sample::select(sources.to_vec()), priority)
        .prop_map(|(source, priority)| Rule { source, priority })
}

fn calls(links: [u32; 2]) -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        4 => any_route(links).prop_map(Call::Add),
        2 => any_route(links).prop_map(Call::Replace),
        2 => (0..8usize).prop_map(Call::DeleteListed),
        1 => Just(Call::DeleteAbsent),
        2 => any_rule().prop_map(Call::AddRule),
        1 => any_rule().prop_map(Call::DeleteRule),
    ];
    vec(call, 1..20)
}

async fn listed(routes: &impl Routes) -> BTreeSet<Route> {
    routes.routes(owner::ROUTE_PROTOCOL).await.unwrap().into_iter().collect()
}

async fn listed_rules(rules: &impl Rules) -> BTreeSet<Rule> {
    rules.rules().await.unwrap().into_iter().collect()
}

/// Makes a call and returns the kernel's number for what went wrong.
async fn make<T: Routes + Rules>(call: &Call, links: [u32; 2], routes: &T) -> Option<i32> {
    let done = match call {
        Call::Add(route) => routes.add_route(route).await,
        Call::Replace(route) => routes.replace_route(route).await,
        Call::DeleteListed(n) => match listed(routes).await.iter().nth(*n) {
            Some(route) => routes.delete_route(route).await,
            None => Ok(()),
        },
        Call::AddRule(rule) => routes.add_rule(rule).await,
        Call::DeleteRule(rule) => routes.delete_rule(rule).await,
        Call::DeleteAbsent => routes.delete_route(&Route::on_link(net("172.16.0.0/12"), links[0])).await,
    };
    done.err().and_then(|error| error.errno())
}

async fn clear(kernel: &Kernel) {
    for change in diff(&listed(kernel).await, &BTreeSet::new()) {
        kernel.apply(&change).await.unwrap();
    }
    for rule in listed_rules(kernel).await {
        kernel.delete_rule(&rule).await.unwrap();
    }
}

fairway_lab::sandbox_tests! {
    fn the_fake_answers_as_the_kernel_does() {
        let host = Host::make("a").unwrap();
        host.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (kernel, links) = runtime.block_on(async {
                let kernel = Kernel::open().unwrap();
                let (one, two) = pair(&kernel).await;
                (kernel, [one.index, two.index])
            });
            let config = Config { cases: 64, failure_persistence: None, ..Config::default() };

            let law = TestRunner::new(config).run(&calls(links), |calls| {
                runtime.block_on(async {
                    clear(&kernel).await;
                    let fake = Fake::with_links(links);
                    for call in &calls {
                        let (real, faked) = (make(call, links, &kernel).await, make(call, links, &fake).await);
                        prop_assert_eq!(real, faked, "errno of {:?}", call);
                        prop_assert_eq!(listed(&kernel).await, listed(&fake).await, "after {:?}", call);
                        prop_assert_eq!(listed_rules(&kernel).await, listed_rules(&fake).await, "after {:?}", call);
                    }
                    Ok::<(), TestCaseError>(())
                })
            });
            law.unwrap();
        })
        .unwrap();
    }

    fn a_link_takes_packets_whose_answers_leave_by_another_once_it_is_told_to() {
        on_a_host(|kernel| async move {
            let (one, _) = pair(&kernel).await;
            let value = || sysctl::read("net/ipv4/conf/one/rp_filter").unwrap();
            sysctl::set("net/ipv4/conf/one/rp_filter", "1").unwrap();
            sysctl::set("net/ipv4/conf/one/arp_ignore", "3").unwrap();

            kernel.loosen_reverse_path_filter(one.index).await.unwrap();

            assert_eq!(value(), "2");
            assert_eq!(sysctl::read("net/ipv4/conf/one/arp_ignore").unwrap(), "3", "all else stays");
            assert!(kernel.loosen_reverse_path_filter(999_999).await.unwrap_err().is_not_found());
        });
    }

    fn applying_the_difference_gives_the_other_set() {
        on_a_host(|kernel| async move {
            let (one, two) = pair(&kernel).await;
            let near = Route::on_link(net("10.1.0.0/16"), one.index);
            let far = Route::through(net("10.244.1.0/24"), ip("10.1.0.9"), one.index);
            let moved = Route { gateway: Some(ip("10.1.0.8")), mtu: Some(1300), ..far };
            let other = Route::on_link(net("fd00::/64"), two.index);
            let own = Route { table: Table::Own, ..far };
            let sets = [vec![], vec![far, near], vec![moved, near, other, own], vec![other, near, own], vec![]];

            for wanted in sets {
                for change in diff(&listed(&kernel).await, &wanted) {
                    kernel.apply(&change).await.unwrap();
                }
                assert_eq!(listed(&kernel).await, wanted.into_iter().collect());
            }
        });
    }

    fn a_route_of_another_s_is_neither_replaced_nor_deleted() {
        on_a_host(|kernel| async move {
            let (one, two) = pair(&kernel).await;
            let foreign = Route { protocol: 4, ..Route::on_link(net("10.1.0.0/16"), one.index) };
            kernel.add_route(&foreign).await.unwrap();

            let ours = Route::on_link(net("10.1.0.0/16"), two.index);
            let refused = kernel.apply(&Change::Add(ours)).await.unwrap_err();

            assert!(refused.is_exists(), "{refused}");
            assert_eq!(refused.to_string(), format!("add route 10.1.0.0/16 dev {} proto 70", two.index));
            assert_eq!(diff(&kernel.routes(4).await.unwrap(), &[]), []);
            assert_eq!(kernel.routes(4).await.unwrap(), [foreign]);
        });
    }

    fn a_veth_pair_is_made_into_another_namespace_by_one_message() {
        on_a_host(|kernel| async move {
            let pod = Netns::make().unwrap();

            kernel.add_veth(&end("host", 1), &end("eth0", 2), Some(&pod)).await.unwrap();

            let inside = Kernel::open_in(&pod).unwrap();
            let (host_end, pod_end) =
                (kernel.link("host").await.unwrap(), inside.link("eth0").await.unwrap());
            assert_eq!(host_end.mac, Some(Mac::locally_administered(1)));
            assert_eq!(pod_end.mac, Some(Mac::locally_administered(2)));
            assert_eq!((host_end.mtu, pod_end.mtu), (1400, 1400));
            assert!(host_end.is_veth() && pod_end.is_veth());
            assert_eq!(host_end.peer, Some(pod_end.index));
            assert!(host_end.peer_netns.is_some());
            assert!(kernel.link("eth0").await.unwrap_err().is_not_found());

            kernel.delete_link(host_end.index).await.unwrap();
            assert!(inside.link("eth0").await.unwrap_err().is_not_found());
            assert!(kernel.delete_link(host_end.index).await.unwrap_err().is_not_found());
        });
    }

    fn a_link_is_changed_and_found_as_it_was_changed() {
        on_a_host(|kernel| async move {
            let (one, two) = pair(&kernel).await;
            assert_eq!((one.peer, one.peer_netns), (Some(two.index), None));
            kernel.add_bridge(&Bridge::named("switch")).await.unwrap();
            let bridge = kernel.link("switch").await.unwrap();

            kernel.set_mtu(one.index, 1300).await.unwrap();
            kernel.set_up_with_alias(one.index, "default/web").await.unwrap();
            kernel.set_mac(one.index, Mac::locally_administered(7)).await.unwrap();
            kernel.set_master(one.index, Some(bridge.index)).await.unwrap();
            kernel.rename(one.index, "port").await.unwrap();
            kernel.set_up(one.index, false).await.unwrap();

            let changed = kernel.link_by_index(one.index).await.unwrap();
            assert_eq!(
                changed,
                Link {
                    name: "port".to_owned(),
                    mac: Some(Mac::locally_administered(7)),
                    mtu: 1300,
                    is_up: false,
                    has_carrier: false,
                    is_running: false,
                    alias: Some("default/web".to_owned()),
                    master: Some(bridge.index),
                    port: Some(Port::default()),
                    ..one.clone()
                }
            );
            assert!(kernel.links().await.unwrap().contains(&changed));
            let port = Port { hairpin: true, isolated: true, locked: true };
            kernel.set_port(one.index, port).await.unwrap();
            assert_eq!(kernel.link("port").await.unwrap().port, Some(port));
            assert_eq!(kernel.pinned(one.index).await.unwrap(), []);
            kernel.pin(one.index, Mac::locally_administered(8)).await.unwrap();
            assert_eq!(kernel.pinned(one.index).await.unwrap(), [Mac::locally_administered(8)]);
            kernel.set_promiscuous(bridge.index, true).await.unwrap();
            kernel.set_allmulti(bridge.index, true).await.unwrap();
            kernel.set_tx_queue_len(bridge.index, 77).await.unwrap();
            let changed = kernel.link("switch").await.unwrap();
            assert!(changed.is_promiscuous && changed.is_allmulti);
            assert_eq!(changed.tx_queue_len, 77);
            kernel.set_master(one.index, None).await.unwrap();
            assert_eq!(kernel.link("port").await.unwrap().master, None);
            assert!(kernel.add_veth(&end("port", 3), &end("x", 4), None).await.unwrap_err().is_exists());
            assert_eq!(kernel.link("none").await.unwrap_err().to_string(), "find link none");
        });
    }

    fn a_limit_is_found_as_it_was_set_and_only_where_it_is_ours() {
        on_a_host(|kernel| async move {
            kernel.add_veth(&end("one", 1), &end("two", 2), None).await.unwrap();
            let one = kernel.link("one").await.unwrap();
            assert_eq!(kernel.bucket(one.index).await.unwrap(), None, "never up");
            let (one, _) = pair_up(&kernel).await;
            assert_eq!(kernel.bucket(one.index).await.unwrap(), None);

            // 1 Mbit/s, 40 Gbit/s (more than 32 bits have in bytes), and the longest burst of all.
            for (rate, burst) in [(125_000, 65_536), (5_000_000_000, 250_000_000), (125_000, TokenBucket::longest_burst(125_000))] {
                let bucket = TokenBucket { rate, burst, backlog: 4_000_000 };
                kernel.set_bucket(one.index, &bucket).await.unwrap();
                let held = kernel.bucket(one.index).await.unwrap().unwrap();
                assert!(bucket.is_held_as(&held), "{bucket:?} as {held:?}");
            }

            kernel.delete_bucket(one.index).await.unwrap();
            assert_eq!(kernel.bucket(one.index).await.unwrap(), None);
            assert!(kernel.delete_bucket(one.index).await.is_err());
        });
    }

    fn what_a_link_receives_goes_through_another_that_is_there_for_its_queue() {
        on_a_host(|kernel| async move {
            let (one, two) = pair(&kernel).await;
            kernel.add_ifb("queue", Mac::locally_administered(3), 1400).await.unwrap();
            let ifb = kernel.link("queue").await.unwrap();
            assert!(ifb.is_ifb() && ifb.is_up);
            assert_eq!((ifb.mac, ifb.mtu), (Some(Mac::locally_administered(3)), 1400));
            assert_eq!(kernel.redirected(one.index).await.unwrap(), None);

            kernel.redirect(one.index, ifb.index).await.unwrap();
            assert_eq!(kernel.redirected(one.index).await.unwrap(), Some(ifb.index));
            assert_eq!(kernel.redirected(two.index).await.unwrap(), None);

            kernel.delete_redirection(one.index).await.unwrap();
            assert_eq!(kernel.redirected(one.index).await.unwrap(), None);
            kernel.redirect(one.index, two.index).await.unwrap();
            assert_eq!(kernel.redirected(one.index).await.unwrap(), Some(two.index), "where the clsact queue is left");
        });
    }

    fn an_address_keeps_its_flags_and_a_bare_one_brings_no_route() {
        on_a_host(|kernel| async move {
            let (one, _) = pair(&kernel).await;
            let wanted = [
                Address::bare(one.index, net("10.244.1.7/24")),
                Address::bare(one.index, net("fd00::7/64")),
                Address { flags: AddressFlags::default(), ..Address::bare(one.index, net("10.9.0.1/24")) },
            ];

            for address in &wanted {
                kernel.add_address(address).await.unwrap();
                assert!(kernel.add_address(address).await.unwrap_err().is_exists());
            }

            let listed = kernel.addresses().await.unwrap();
            assert!(wanted.iter().all(|address| listed.contains(address)), "{listed:?}");
            // Protocol 2 is the kernel itself.
            let by_kernel = kernel.routes(2).await.unwrap();
            let by_kernel: Vec<_> = by_kernel.iter().filter(|route| route.destination.is_ipv4()).collect();
            assert_eq!(by_kernel.len(), 1, "{by_kernel:?}");
            assert_eq!(by_kernel[0].destination, net("10.9.0.0/24"));
            for address in &wanted {
                kernel.delete_address(address).await.unwrap();
                assert!(kernel.delete_address(address).await.unwrap_err().is_not_found());
            }
        });
    }

    fn a_neighbour_is_put_changed_and_forgotten() {
        on_a_host(|kernel| async move {
            let (one, _) = pair(&kernel).await;
            for address in [ip("10.244.1.7"), ip("fd00::7")] {
                let mac = Some(Mac::locally_administered(9));
                let stale = Neighbour { link: one.index, address, mac, state: NeighbourState::Stale };
                let permanent = Neighbour { state: NeighbourState::Permanent, ..stale };

                kernel.put_neighbour(&stale).await.unwrap();
                assert!(kernel.neighbours().await.unwrap().contains(&stale));
                kernel.put_neighbour(&permanent).await.unwrap();
                assert!(kernel.neighbours().await.unwrap().contains(&permanent));
                kernel.delete_neighbour(&permanent).await.unwrap();

                let left = kernel.neighbours().await.unwrap();
                assert!(left.iter().all(|n| n.address != address || n.mac.is_none()), "{left:?}");
            }
        });
    }

    fn a_socket_opened_inside_speaks_of_the_inside() {
        on_a_host(|kernel| async move {
            let pod = Netns::make().unwrap();
            let inside = Kernel::open_in(&pod).unwrap();

            inside.set_up(LOOPBACK, true).await.unwrap();

            assert!(inside.link("lo").await.unwrap().is_up);
            assert!(!kernel.link("lo").await.unwrap().is_up);
        });
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

//! VXLAN devices on the real kernel, and the fake against it: the same calls, the same answers.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::{collections::BTreeSet, net::IpAddr};

use dataplane::rtnl::{
    Fake, Forwarding, Kernel, LOOPBACK, Mac, Neighbour, NeighbourState, Report, Reports, Route, Routes, Rule,
    Rules, Table, Tunnel, Tunnels, Vxlan,
};
use fairway_lab::host::Host;
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use tokio::runtime::Runtime;

/// Runs `work` in a namespace of its own.
fn on_a_host(work: impl FnOnce(&Runtime, Kernel) + Send) {
    let host = Host::make("a").unwrap();
    host.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let kernel = runtime.block_on(async {
            let kernel = Kernel::open().unwrap();
            kernel.set_up(LOOPBACK, true).await.unwrap();
            kernel
        });
        work(&runtime, kernel);
    })
    .unwrap();
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn vxlan(name: &str, local: &str) -> Vxlan {
    let tunnel = Tunnel { vni: 1, port: 8472, local: ip(local), is_learning: false };
    Vxlan { name: name.to_owned(), mac: Mac::locally_administered(1), mtu: 1450, tunnel }
}

fn neighbour(link: u32, address: &str, mac: u64) -> Neighbour {
    let state = NeighbourState::Permanent;
    Neighbour { link, address: ip(address), mac: Some(Mac::locally_administered(mac)), state }
}

const NAMES: [&str; 2] = ["fairway.1", "other"];
const ADDRESSES: [&str; 4] = ["192.168.1.1", "192.168.1.2", "fd00::1", "fe80::2"];

/// No link has this index.
const NOBODY: u32 = 999_999;

/// A call, as both take it; the first number says which device it is about.
#[derive(Debug, Clone)]
enum Call {
    Add { name: usize, vni: u32, is_ipv4: bool },
    Delete(usize),
    Mend(usize, Option<u64>, u32),
    Forward(usize, u64, usize),
    Unforward(usize, u64, usize),
    Know(usize, usize, u64),
    Forget(usize, usize, u64),
    Route(usize),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let entry = (0..2usize, 1..4u64, 0..4usize);
    let known = (0..2usize, 0..4usize, 1..4u64);
    let call = prop_oneof![
        4 => (0..2usize, 1..3u32, any::<bool>()).prop_map(|(name, vni, is_ipv4)| Call::Add { name, vni, is_ipv4 }),
        1 => (0..2usize).prop_map(Call::Delete),
        2 => (0..2usize, proptest::option::of(1..4u64), 1280..1500u32).prop_map(|(name, mac, mtu)| Call::Mend(name, mac, mtu)),
        4 => entry.clone().prop_map(|(name, mac, at)| Call::Forward(name, mac, at)),
        2 => entry.prop_map(|(name, mac, at)| Call::Unforward(name, mac, at)),
        4 => known.clone().prop_map(|(name, at, mac)| Call::Know(name, at, mac)),
        2 => known.prop_map(|(name, at, mac)| Call::Forget(name, at, mac)),
        2 => (0..2usize).prop_map(Call::Route),
    ];
    vec(call, 1..24)
}

async fn index_of(name: usize, of: &impl Tunnels) -> u32 {
    of.device(NAMES[name]).await.unwrap().map_or(NOBODY, |device| device.index)
}

fn forwarding(link: u32, mac: u64, at: usize) -> Forwarding {
    Forwarding { link, mac: Mac::locally_administered(mac), remote: ip(ADDRESSES[at]) }
}

/// Makes a call and returns the kernel's number for what went wrong.
async fn make<T: Tunnels + Routes>(call: &Call, on: &T) -> Option<i32> {
    let done = match *call {
        Call::Add { name, vni, is_ipv4 } => {
            let mut vxlan = vxlan(NAMES[name], if is_ipv4 { "127.0.0.1" } else { "::1" });
            vxlan.tunnel.vni = vni;
            on.add_device(&vxlan).await
        }
        Call::Delete(name) => on.delete_device(index_of(name, on).await).await,
        Call::Mend(name, mac, mtu) => {
            on.mend_device(index_of(name, on).await, mac.map(Mac::locally_administered), mtu).await
        }
        Call::Forward(name, mac, at) => {
            on.put_forwarding(&forwarding(index_of(name, on).await, mac, at)).await
        }
        Call::Unforward(name, mac, at) => {
            on.delete_forwarding(&forwarding(index_of(name, on).await, mac, at)).await
        }
        Call::Know(name, at, mac) => {
            on.put_neighbour(&neighbour(index_of(name, on).await, ADDRESSES[at], mac)).await
        }
        Call::Forget(name, at, mac) => {
            on.delete_neighbour(&neighbour(index_of(name, on).await, ADDRESSES[at], mac)).await
        }
        Call::Route(name) => {
            let link = index_of(name, on).await;
            let gateway = ip("192.168.1.1");
            let route =
                Route { onlink: true, ..Route::through("10.244.1.0/24".parse().unwrap(), gateway, link) };
            on.replace_route(&route).await
        }
    };
    done.err().and_then(|error| error.errno())
}

/// All that is there, in words that hold no index.
async fn seen<T: Tunnels + Routes>(on: &T) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let routes = on.routes(70).await.unwrap();
    for name in NAMES {
        let Some(device) = on.device(name).await.unwrap() else { continue };
        seen.insert(format!("{} up={}", device.vxlan, device.is_up));
        for Forwarding { mac, remote, .. } in on.forwardings(device.index).await.unwrap() {
            seen.insert(format!("{name}: {mac} dst {remote}"));
        }
        for Neighbour { address, mac, .. } in on.permanent_neighbours(device.index).await.unwrap() {
            seen.insert(format!("{name}: {address} lladdr {}", mac.unwrap()));
        }
        let over = routes.iter().filter(|route| route.link == device.index);
        seen.extend(over.map(|route| format!("{name}: {} via {:?}", route.destination, route.gateway)));
    }
    seen
}

/// Waits until something is told that is like that.
async fn told(reports: &mut Reports, what: &str, is_it: impl Fn(&Report) -> bool) {
    let wait = async { while !is_it(&reports.next().await.unwrap()) {} };
    let told = tokio::time::timeout(std::time::Duration::from_secs(20), wait).await;
    assert!(told.is_ok(), "{what} is not told of");
}

fairway_lab::sandbox_tests! {
    fn whatever_happens_is_told_as_it_is_now() {
        on_a_host(|runtime, kernel| runtime.block_on(async {
            let mut reports = Reports::open().unwrap();
            kernel.add_device(&vxlan("fairway.1", "127.0.0.1")).await.unwrap();
            let device = kernel.device("fairway.1").await.unwrap().unwrap();
            let index = device.index;
            told(&mut reports, "a link", |report| matches!(report, Report::Link(link) if link.vxlan().as_ref() == Some(&device))).await;

            let forwarding = forwarding(index, 1, 0);
            kernel.put_forwarding(&forwarding).await.unwrap();
            told(&mut reports, "a forwarding", |report| *report == Report::Forwarding(forwarding)).await;
            let neighbour = neighbour(index, "fe80::2", 1);
            kernel.put_neighbour(&neighbour).await.unwrap();
            told(&mut reports, "a neighbour", |report| *report == Report::Neighbour(neighbour)).await;
            for (net, gateway, table) in [
                ("10.244.1.0/24", "192.168.1.1", Table::Main),
                ("fd00:1::/64", "fe80::2", Table::Main),
                ("192.168.2.1/32", "192.168.1.1", Table::Own),
                ("fd00:2::1/128", "fe80::2", Table::Own),
            ] {
                let route = Route { table, onlink: true, ..Route::through(net.parse().unwrap(), ip(gateway), index) };
                kernel.add_route(&route).await.unwrap();
                let listed = kernel.routes(70).await.unwrap();
                let listed = *listed.iter().find(|listed| listed.destination == route.destination).unwrap();
                told(&mut reports, "a route", |report| *report == Report::Route(listed)).await;
                kernel.delete_route(&route).await.unwrap();
                told(&mut reports, "no route", |report| *report == Report::RouteGone(listed)).await;
            }
            for source in ["10.244.0.0/24", "fd00::/64"] {
                let rule = Rule::of_source(source.parse().unwrap());
                kernel.add_rule(&rule).await.unwrap();
                told(&mut reports, "a rule", |report| *report == Report::Rule(rule)).await;
                kernel.delete_rule(&rule).await.unwrap();
                told(&mut reports, "no rule", |report| *report == Report::RuleGone(rule)).await;
            }
            kernel.delete_forwarding(&forwarding).await.unwrap();
            told(&mut reports, "no forwarding", |report| *report == Report::ForwardingGone(forwarding)).await;
            let address = dataplane::rtnl::Address::bare(index, "10.244.0.0/32".parse().unwrap());
            kernel.add_address(&address).await.unwrap();
            told(&mut reports, "an address", |report| *report == Report::Address(address)).await;
            kernel.delete_address(&address).await.unwrap();
            told(&mut reports, "no address", |report| *report == Report::AddressGone(address)).await;
            dataplane::sysctl::set("net/ipv4/conf/all/rp_filter", "1").unwrap();
            told(&mut reports, "a parameter", |report| *report == Report::Parameter).await;
            kernel.set_mtu(index, 1300).await.unwrap();
            told(&mut reports, "an MTU", |report| matches!(report, Report::Link(link) if link.mtu == 1300)).await;
            kernel.delete_device(index).await.unwrap();
            told(&mut reports, "no link", |report| *report == Report::LinkGone(index)).await;
        }));
    }

    fn the_fake_s_tunnels_answer_as_the_kernel_s_do() {
        on_a_host(|runtime, kernel| {
            let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
            let law = TestRunner::new(config).run(&calls(), |calls| {
                runtime.block_on(async {
                    for name in NAMES {
                        if let Some(device) = kernel.device(name).await.unwrap() {
                            kernel.delete_device(device.index).await.unwrap();
                        }
                    }
                    let fake = Fake::with_links([]);
                    for call in &calls {
                        let (real, faked) = (make(call, &kernel).await, make(call, &fake).await);
                        prop_assert_eq!(real, faked, "errno of {:?}", call);
                        prop_assert_eq!(seen(&kernel).await, seen(&fake).await, "after {:?}", call);
                    }
                    Ok::<(), TestCaseError>(())
                })
            });
            law.unwrap();
        });
    }

    fn a_device_is_found_as_it_was_made_and_as_others_changed_it() {
        on_a_host(|runtime, kernel| runtime.block_on(async {
            let wanted = vxlan("fairway.1", "127.0.0.1");
            assert_eq!(kernel.device("fairway.1").await.unwrap(), None);
            kernel.add_device(&wanted).await.unwrap();
            let made = kernel.device("fairway.1").await.unwrap().unwrap();
            assert_eq!((&made.vxlan, made.is_up), (&wanted, true));

            // As udev and systemd-networkd do, or a person.
            kernel.set_mac(made.index, Mac::locally_administered(9)).await.unwrap();
            kernel.set_mtu(made.index, 1300).await.unwrap();
            kernel.set_up(made.index, false).await.unwrap();
            let changed = kernel.device("fairway.1").await.unwrap().unwrap();
            assert_eq!((changed.vxlan.mac, changed.vxlan.mtu, changed.is_up), (Mac::locally_administered(9), 1300, false));

            kernel.mend_device(made.index, Some(wanted.mac), wanted.mtu).await.unwrap();
            assert_eq!(kernel.device("fairway.1").await.unwrap(), Some(made));
        }));
    }

    fn a_link_of_another_kind_is_no_device() {
        on_a_host(|runtime, kernel| runtime.block_on(async {
            kernel.add_bridge(&dataplane::rtnl::Bridge::named("fairway.1")).await.unwrap();
            assert_eq!(kernel.device("fairway.1").await.unwrap(), None);
            assert!(kernel.add_device(&vxlan("fairway.1", "127.0.0.1")).await.unwrap_err().is_exists());
        }));
    }

    fn a_thousand_entries_are_listed_whole() {
        on_a_host(|runtime, kernel| runtime.block_on(async {
            kernel.add_device(&vxlan("fairway.1", "127.0.0.1")).await.unwrap();
            let device = kernel.device("fairway.1").await.unwrap().unwrap().index;
            let addresses: Vec<IpAddr> =
                (0..1000_u32).map(|n| std::net::Ipv4Addr::from_bits(0xac10_0000 | n).into()).collect();
            for (&remote, n) in addresses.iter().zip(0..) {
                kernel.put_forwarding(&Forwarding { link: device, mac: Mac::locally_administered(n), remote }).await.unwrap();
                let permanent = Neighbour { address: remote, ..neighbour(device, "10.0.0.1", n) };
                kernel.put_neighbour(&permanent).await.unwrap();
            }

            let forwarded: BTreeSet<_> = kernel.forwardings(device).await.unwrap().iter().map(|entry| entry.remote).collect();
            let known: BTreeSet<_> = kernel.permanent_neighbours(device).await.unwrap().iter().map(|n| n.address).collect();
            assert_eq!(forwarded, addresses.iter().copied().collect());
            assert_eq!(known, forwarded);
        }));
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

//! What the kernel tells of links, addresses and routes, heard from outside of the namespace that it happens in.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use dataplane::{
    netns::Netns,
    rtnl::{Address, Kernel, Kinds, LOOPBACK, Mac, Monitor, Route, Routes as _, VethEnd},
};
use ipnetwork::IpNetwork;
use tokio::time::timeout;

/// Long enough for anything that is to be heard.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `work` with a namespace to change things in, outside of which it stays itself.
fn beside_a_namespace<F: Future<Output = ()>>(work: impl FnOnce(Netns, Kernel) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let netns = Netns::make().unwrap();
        let kernel = Kernel::open_in(&netns).unwrap();
        work(netns, kernel).await;
    });
}

async fn heard(monitor: &mut Monitor) -> Kinds {
    timeout(PATIENCE, monitor.changed()).await.expect("nothing is heard").unwrap()
}

/// Says whether nothing is waiting to be heard. What the kernel tells, it tells before the change returns; so it is there
/// by the time that the runtime first looks at its clock again.
async fn is_quiet(monitor: &mut Monitor) -> bool {
    timeout(Duration::from_millis(1), monitor.changed()).await.is_err()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn numbered(number: u32) -> Address {
    let ip = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
    Address::bare(LOOPBACK, IpNetwork::new(ip.into(), 32).unwrap())
}

fairway_lab::sandbox_tests! {
    fn an_address_that_comes_or_goes_is_told_in_both_families() {
        beside_a_namespace(|netns, kernel| async move {
            let mut monitor = Monitor::open_in(&netns, Kinds::ADDRESSES).unwrap();
            for address in ["10.9.0.1/32", "fd00::9/128"] {
                let address = Address::bare(LOOPBACK, net(address));

                kernel.add_address(&address).await.unwrap();
                assert_eq!(heard(&mut monitor).await, Kinds::ADDRESSES, "{address}");
                kernel.delete_address(&address).await.unwrap();
                assert_eq!(heard(&mut monitor).await, Kinds::ADDRESSES, "{address}");
            }
        });
    }

    fn only_what_was_asked_for_is_told() {
        beside_a_namespace(|netns, kernel| async move {
            kernel.set_up(LOOPBACK, true).await.unwrap();
            let routes = Kinds { routes: true, ..Kinds::default() };
            let mut of_addresses = Monitor::open_in(&netns, Kinds::ADDRESSES).unwrap();
            let mut of_routes = Monitor::open_in(&netns, routes).unwrap();

            kernel.add_route(&Route::on_link(net("10.1.0.0/16"), LOOPBACK)).await.unwrap();
            assert_eq!(heard(&mut of_routes).await, routes);
            assert!(is_quiet(&mut of_addresses).await);
        });
    }

    fn a_link_that_goes_down_casts_doubt_on_the_routes_too() {
        beside_a_namespace(|netns, kernel| async move {
            let end = |name: &str, seed| VethEnd {
                name: name.to_owned(), mac: Mac::locally_administered(seed), mtu: 1400,
            };
            kernel.add_veth(&end("one", 1), &end("two", 2), None).await.unwrap();
            let one = kernel.link("one").await.unwrap().index;
            kernel.set_up(one, true).await.unwrap();
            kernel.add_route(&Route::on_link(net("10.1.0.0/16"), one)).await.unwrap();
            let routes = Kinds { routes: true, ..Kinds::default() };
            let mut of_routes = Monitor::open_in(&netns, routes).unwrap();
            let mut of_all = Monitor::open_in(&netns, Kinds::ALL).unwrap();

            kernel.set_up(one, false).await.unwrap();

            assert_eq!(kernel.routes(dataplane::owner::ROUTE_PROTOCOL).await.unwrap(), []);
            assert_eq!(heard(&mut of_routes).await, routes);
            let all = heard(&mut of_all).await;
            assert!(all.links && all.routes, "{all:?}");
        });
    }

    fn a_burst_is_one_answer() {
        beside_a_namespace(|netns, kernel| async move {
            let mut monitor = Monitor::open_in(&netns, Kinds::ADDRESSES).unwrap();

            for number in 1..=50 {
                kernel.add_address(&numbered(number)).await.unwrap();
            }

            assert_eq!(heard(&mut monitor).await, Kinds::ADDRESSES);
            assert!(is_quiet(&mut monitor).await);
        });
    }

    fn what_there_was_no_room_to_tell_counts_as_everything() {
        beside_a_namespace(|netns, kernel| async move {
            let mut monitor = Monitor::open_in(&netns, Kinds::ALL).unwrap();

            // More than there is room for, all of one kind.
            for number in 1..=2_000 {
                kernel.add_address(&numbered(number)).await.unwrap();
            }

            assert_eq!(heard(&mut monitor).await, Kinds::ALL);
            kernel.delete_address(&numbered(1)).await.unwrap();
            assert!(heard(&mut monitor).await.addresses, "it is deaf since");
        });
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

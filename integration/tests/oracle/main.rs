//! The trace and the kernel agree: services are drawn, planned and committed; packets are drawn, traced and sent; each comes
//! out where the trace says, with the source address that the trace says, or is refused, or vanishes.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod cases;
mod street;

use std::{cell::RefCell, collections::BTreeSet, net::SocketAddr};

use dataplane::{
    nft::{Data, Fate, MapName, Route, Statement, Table, Verdict, trace},
    packet::Family,
};
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use proxy::plan::Planner;

use self::{
    cases::{Case, Shot, case},
    street::{Seen, Street},
};

/// Cases in each family, unless the environment says how many.
const CASES: u32 = 40;
const CASES_VARIABLE: &str = "FAIRWAY_ORACLE_CASES";

#[expect(clippy::disallowed_methods, reason = "whoever wants more cases says so in the environment")]
fn cases() -> u32 {
    std::env::var(CASES_VARIABLE).map_or(CASES, |text| text.parse().unwrap())
}

/// Says whether what was seen of a packet is what a way says. Where it arrives nobody listens, so that a refusal may follow; pings
/// are answered everywhere.
fn is_as_traced(shot: &Shot, way: &Route, from: SocketAddr, seen: &BTreeSet<Seen>) -> bool {
    let arrivals: Vec<_> =
        seen.iter().filter(|seen| ![Seen::Refused, Seen::Answered].contains(seen)).collect();
    let destination = match way.fate {
        Fate::Dropped => return seen.is_empty(),
        Fate::Rejected => return *seen == BTreeSet::from([Seen::Refused]),
        Fate::Redirected => {
            return *seen == BTreeSet::from([Seen::ArrivedAtNode { port: 0 }, Seen::Answered]);
        }
        Fate::Untouched => shot.destination,
        Fate::Endpoint(endpoint) => endpoint,
    };
    let is_of_node = |seen: &Seen| *seen == Seen::ArrivedAtNode { port: destination.port() };
    match arrivals.as_slice() {
        [Seen::Arrived { source, destination: at }] => {
            *at == destination && (*source != from) == way.is_masqueraded // the port is drawn anew even if the address is the same
        }
        [at_node] => is_of_node(at_node) && way.fate == Fate::Untouched,
        _ => false,
    }
}

/// Tries one case; `as_told` changes the table that the trace is asked.
fn agrees(street: &mut Street, case: &Case, as_told: &dyn Fn(Table) -> Table) -> Result<(), TestCaseError> {
    let family = street.family;
    if street.is_used_up() {
        *street = Street::make(family);
    }
    let mut planner = Planner::within(&[family], &case.settings, &case.surroundings);
    for node in &case.nodes {
        planner.set_node(&node.name.name, Some(node));
    }
    for (name, port) in &case.services {
        planner.set(name, family, Some(port));
    }
    let table = planner.tables().next().unwrap();
    street.commit(&table);

    let told = as_told(table);
    let ways: Vec<_> = case.shots.iter().map(|shot| trace(&told, &shot.packet(family))).collect();
    let is_heard_of = |ways: &Vec<Route>| ways.iter().all(|way| way.fate != Fate::Dropped);
    let seen = street.send(&case.shots, &ways.iter().map(is_heard_of).collect::<Vec<_>>());

    for ((shot, ways), (from, seen)) in case.shots.iter().zip(ways).zip(seen) {
        if !ways.iter().any(|way| is_as_traced(shot, way, from, &seen)) {
            let ways: Vec<_> = ways.iter().map(Route::to_string).collect();
            return Err(TestCaseError::fail(format!("{shot:?} from {from}: traced {ways:?}, seen {seen:?}")));
        }
    }
    Ok(())
}

/// Tries many cases; the smallest one for which the two disagree, if there is one.
fn disagreement(
    family: Family,
    cases: u32,
    max_shrink_iters: u32,
    as_told: &dyn Fn(Table) -> Table,
) -> Option<String> {
    let config = Config { cases, max_shrink_iters, failure_persistence: None, ..Config::default() };
    let street = RefCell::new(Street::make(family));
    let tried =
        TestRunner::new(config).run(&case(family), |case| agrees(&mut street.borrow_mut(), &case, as_told));
    match tried {
        Ok(()) => None,
        Err(TestError::Fail(reason, case)) => Some(format!("{reason}\n{case:#?}")),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

#[track_caller]
fn agrees_in(family: Family) {
    if let Some(disagreement) = disagreement(family, cases(), 300, &|table| table) {
        panic!("{disagreement}");
    }
}

/// A table that leads to another port than the kernel's.
fn with_other_ports(mut table: Table) -> Table {
    for element in table.maps.get_mut("slots").unwrap().elements.values_mut() {
        if let Data::Endpoint(endpoint) = &mut element.data {
            endpoint.set_port(endpoint.port() + 1);
        }
    }
    table
}

/// A table that masquerades nobody.
fn without_masquerade(mut table: Table) -> Table {
    for rule in table.chains.values_mut().flat_map(|chain| &mut chain.rules) {
        rule.0.retain(|statement| *statement != Statement::Masquerade);
    }
    table
}

/// A table that takes pods and nodes for strangers.
fn without_insiders(mut table: Table) -> Table {
    for set in ["pods", "nodes"] {
        table.maps.get_mut(set).unwrap().elements.clear();
    }
    table
}

/// A table that is silent instead of rejecting.
fn without_rejection(mut table: Table) -> Table {
    for statement in table.chains.values_mut().flat_map(|chain| &mut chain.rules).flat_map(|rule| &mut rule.0)
    {
        if [Statement::Reject, Statement::RejectWithReset].contains(statement) {
            *statement = Statement::Verdict(Verdict::Drop);
        }
    }
    table
}

/// A table that takes strangers for pods, and pods for strangers.
fn with_splits_the_other_way_round(mut table: Table) -> Table {
    let near = table.maps.remove(&MapName::from("splits-near")).unwrap();
    let local = table.maps.insert("splits-local".into(), near).unwrap();
    table.maps.insert("splits-near".into(), local);
    table
}

/// A table that lets everybody use a load balancer's addresses.
fn without_source_ranges(mut table: Table) -> Table {
    table.maps.get_mut("guards").unwrap().elements.clear();
    table
}

/// A table that answers no ping.
fn without_pong(mut table: Table) -> Table {
    table.maps.get_mut("pingable").unwrap().elements.clear();
    table
}

fairway_lab::sandbox_tests! {
    fn the_kernel_does_with_every_packet_what_the_trace_says() {
        agrees_in(Family::Ip);
    }

    fn the_kernel_does_with_every_ipv6_packet_what_the_trace_says() {
        agrees_in(Family::Ip6);
    }

    fn a_trace_of_another_table_is_found_out() {
        for family in Family::ALL {
            let others: [fn(Table) -> Table; 7] = [
                with_other_ports,
                without_masquerade,
                without_insiders,
                without_rejection,
                with_splits_the_other_way_round,
                without_source_ranges,
                without_pong,
            ];
            for (another, number) in others.into_iter().zip(0..) {
                // The first that is found is enough.
                let found = disagreement(family, 5 * CASES, 0, &another);
                assert!(found.is_some_and(|found| found.contains("traced")), "{family}: table {number}");
            }
        }
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

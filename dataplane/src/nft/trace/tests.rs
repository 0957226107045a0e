//! The way of one packet through chains that differ in the hook they stand at.

use super::*;
use crate::{
    nft::{Chain, DataType, KeyType, LinkName, Map, Rule, SetType},
    packet::Family,
};

const SERVICE: &str = "10.96.0.1:80";
const NODE: &str = "192.168.14.50:80";

/// A packet from a stranger by `eth0`; from the host itself, if there is no link.
fn packet(link: Option<&'static str>, destination: &str) -> Packet {
    let source = if link.is_some() { "192.168.14.1" } else { "192.168.14.50" };
    Packet {
        link: link.map(Into::into),
        payload: Payload::Transport(Protocol::Tcp),
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        host: ["192.168.14.50".parse().unwrap()].into(),
    }
}

/// A table of base chains of these rules, with a slot 1 that leads to 10.244.1.2:8080.
fn table<const N: usize>(chains: [(Hook, Vec<Statement>); N]) -> Table {
    let mut table = Table::new(Family::Ip);
    let kind = SetType { key: KeyType::Number, data: DataType::Endpoint, counter: false, dynamic: None };
    let endpoint = Data::Endpoint("10.244.1.2:8080".parse().unwrap());
    let slots = Map { kind, elements: [(Key::Number(1), endpoint.into())].into() };
    table.maps.insert("slots".into(), slots);
    for (place, (hook, rule)) in chains.into_iter().enumerate() {
        let chain = Chain { hook: Some(hook), rules: vec![Rule(rule)] };
        table.chains.insert(format!("chain-{place}").into(), chain);
    }
    table
}

fn rewrite() -> Vec<Statement> {
    let one = Source::Random { modulus: 1, offset: 1 };
    vec![Statement::SetPriority(one), Statement::DnatByPriority("slots".into())]
}

fn when(condition: Match, then: Statement) -> Vec<Statement> {
    vec![Statement::Match(condition), then]
}

fn drop() -> Statement {
    Statement::Verdict(Verdict::Drop)
}

#[track_caller]
fn check(table: &Table, packet: &Packet, expected: &str) {
    let ways: Vec<_> = trace(table, packet).iter().map(Route::to_string).collect();
    assert_eq!(ways.join(", "), expected);
}

#[test]
fn filters_see_the_rewritten_destination() {
    let inside = Match::DestinationInside("10.244.0.0/16".parse().unwrap());
    let refuse = || when(inside.clone(), Statement::Reject);
    let table = table([
        (Hook::FilterForward, refuse()),
        (Hook::FilterOutput, refuse()),
        (Hook::Prerouting, rewrite()),
        (Hook::Output, rewrite()),
    ]);

    check(&table, &packet(Some("eth0"), SERVICE), "rejected");
    check(&table, &packet(None, SERVICE), "rejected");
}

#[test]
fn what_is_for_this_host_is_not_on_its_way() {
    let port = Match::Port(Protocol::Tcp, 80);
    let table = table([
        (Hook::FilterInput, when(port.clone(), drop())),
        (Hook::FilterForward, when(port, Statement::Reject)),
    ]);

    check(&table, &packet(Some("eth0"), SERVICE), "rejected");
    check(&table, &packet(Some("eth0"), NODE), "dropped");
    check(&table, &packet(None, NODE), "dropped");
}

#[test]
fn the_raw_chain_comes_first_and_knows_no_state() {
    let new = || when(Match::State(State::New), drop());
    let knows = table([(Hook::RawPrerouting, new()), (Hook::Prerouting, rewrite())]);
    let from_eth = when(Match::Link(LinkName::Prefix("eth".into())), drop());
    let guards = table([(Hook::RawPrerouting, from_eth), (Hook::Prerouting, rewrite())]);

    check(&knows, &packet(Some("eth0"), SERVICE), "10.244.1.2:8080");
    check(&guards, &packet(Some("eth0"), SERVICE), "dropped");
    check(&guards, &packet(Some("fw0"), SERVICE), "10.244.1.2:8080");
}

#[test]
fn a_packet_for_this_host_is_not_forwarded() {
    let table = table([
        (Hook::FilterForward, vec![drop()]),
        (Hook::Postrouting, vec![Statement::Masquerade]),
        (Hook::Prerouting, when(Match::EchoRequest, Statement::Redirect)),
    ]);
    let ping = Packet { payload: Payload::EchoRequest, ..packet(Some("eth0"), SERVICE) };

    check(&table, &packet(Some("eth0"), NODE), "untouched");
    check(&table, &ping, "redirected");
    check(&table, &packet(Some("eth0"), SERVICE), "dropped");
    check(&table, &packet(None, NODE), "untouched masqueraded");
}

#[test]
fn what_a_process_sends_came_in_by_no_link() {
    let not_lo = when(Match::NotLink(LinkName::Exact("lo".into())), drop());
    let eth = when(Match::Link(LinkName::Prefix("eth".into())), drop());

    check(&table([(Hook::Output, not_lo)]), &packet(None, SERVICE), "dropped");
    check(&table([(Hook::Output, eth)]), &packet(None, SERVICE), "untouched");
}

#[test]
fn a_return_leads_back_to_whoever_jumped() {
    let mut table = table([(Hook::Prerouting, vec![Statement::Verdict(Verdict::Jump("ranges".into()))])]);
    let known = when(Match::FromThisHost, Statement::Verdict(Verdict::Return));
    let rules = vec![Rule(known), Rule(vec![drop()])];
    table.chains.insert("ranges".into(), Chain { hook: None, rules });
    table.chains.get_mut("chain-0").unwrap().rules.push(Rule(rewrite()));
    let own = Packet { source: "127.0.0.1".parse().unwrap(), ..packet(Some("lo"), SERVICE) };

    check(&table, &packet(Some("eth0"), SERVICE), "dropped");
    check(&table, &own, "10.244.1.2:8080");
}

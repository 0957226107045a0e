//! What people write into annotations, and what comes of it.

use super::*;

fn weights_of(text: &str) -> Vec<(String, u32)> {
    Weights::parse(text).unwrap().0.into_iter().map(|(name, weight)| (name.to_string(), weight)).collect()
}

#[track_caller]
fn check_refused(text: &str, reason: &str) {
    assert_eq!(Weights::parse(text).unwrap_err(), format!("{reason}; all endpoints weigh the same"));
}

#[test]
fn the_ways_to_balance_are_known_by_name() {
    assert_eq!(balancing("round-robin"), Ok(Balancing::RoundRobin));
    assert_eq!(balancing(" random "), Ok(Balancing::Random));
    assert_eq!(balancing("source-hash"), Ok(Balancing::SourceHash));
    let reason = "\"Random\" is none of round-robin, random, source-hash; round-robin is used";
    assert_eq!(balancing("Random"), Err(reason.to_owned()));
}

#[test]
fn weights_are_listed_by_name_or_address() {
    let known = |name: &str, weight| (name.to_owned(), weight);
    assert_eq!(weights_of(""), []);
    assert_eq!(weights_of(" web-0 = 3 ,10.244.1.2=0,"), [known("10.244.1.2", 0), known("web-0", 3)]);
    assert_eq!(weights_of("fd00:0::2=1000"), [known("fd00::2", 1000)]);
}

#[test]
fn weights_that_make_no_sense_are_refused_as_a_whole() {
    let shape = "is not of the form ENDPOINT=WEIGHT with a weight between 0 and 1000";
    check_refused("web-0=3, web-1", &format!("\"web-1\" {shape}"));
    check_refused("web-0=1001", &format!("\"web-0=1001\" {shape}"));
    check_refused("web-0=-1", &format!("\"web-0=-1\" {shape}"));
    check_refused("=2", &format!("\"=2\" {shape}"));
    check_refused("fd00::2=1, fd00:0::2=2", "\"fd00:0::2=2\" is not the first weight of it");
}

#[test]
fn weights_that_take_too_many_turns_are_refused() {
    assert!(Weights::parse("a=1000, b=25").is_ok());
    check_refused("a=1000, b=27", "\"a=1000, b=27\" takes 1027 turns, more than 1024");
}

#[test]
fn a_round_is_as_short_as_its_weights_allow() {
    assert_eq!(turns([300, 700].into_iter()), 10);
    assert_eq!(turns([1, 1, 1].into_iter()), 3);
    assert_eq!(turns([0, 6].into_iter()), 1);
    assert_eq!(turns([999, 1000].into_iter()), 1999);
    assert_eq!(turns(std::iter::empty()), 0);
}

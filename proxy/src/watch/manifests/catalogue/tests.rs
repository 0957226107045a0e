use super::*;
use crate::watch::manifests::parse::{Format, parse};

/// Files change one after the other, named `file: what it says`; what came of the last one.
fn after(changes: &[(&str, Option<&str>)]) -> (Vec<String>, Vec<String>) {
    let mut catalogue = Catalogue::default();
    let mut last = (Vec::new(), Vec::new());
    for (digest, (file, text)) in (0..).zip(changes) {
        last = match text {
            Some(text) => catalogue.update(file, digest, parse(Format::Yaml, text)),
            None => (catalogue.remove(file), Vec::new()),
        };
    }
    let told = last.0.iter().map(|event| match event {
        Event::Node(crate::watch::Change::Set(node)) => format!("{} has {:?}", node.name, node.pod_cidrs),
        Event::Node(crate::watch::Change::Gone(name)) => format!("{name} is gone"),
        other => panic!("{other:?}"),
    });
    (told.collect(), last.1.iter().map(Complaint::to_string).collect())
}

const PLAIN: &str = "{kind: Node, metadata: {name: w1}}";
const RICH: &str = "{kind: Node, metadata: {name: w1}, spec: {podCIDR: 10.244.1.0/24}}";
const PLAIN_TOLD: &str = "w1 has []";
const RICH_TOLD: &str = "w1 has [V4(Ipv4Network { addr: 10.244.1.0, prefix: 24 })]";
const NOTHING: [&str; 0] = [];

#[test]
fn only_what_changed_is_told() {
    let both = format!("{PLAIN}\n---\n{{kind: Node, metadata: {{name: w2}}}}");

    assert_eq!(after(&[("a", Some(&both)), ("a", Some(PLAIN))]).0, ["w2 is gone"]);
    assert_eq!(
        after(&[("a", Some(PLAIN)), ("a", Some("# the same\n{kind: Node, metadata: {name: w1}}"))]).0,
        NOTHING
    );
}

#[test]
fn a_removed_file_takes_its_objects_with_it() {
    assert_eq!(after(&[("a", Some(PLAIN)), ("a", None)]).0, ["w1 is gone"]);
}

#[test]
fn a_file_that_makes_no_sense_keeps_what_it_said_before() {
    let (told, complaints) = after(&[("a.yaml", Some(PLAIN)), ("a.yaml", Some("{kind: Node"))]);

    assert_eq!(told, NOTHING);
    assert!(complaints[0].starts_with("a.yaml: "), "{complaints:?}");
    assert_eq!(after(&[("a", Some(PLAIN)), ("a", Some("{kind: Node")), ("a", None)]).0, ["w1 is gone"]);
}

#[test]
fn an_object_that_became_invalid_is_not_served_any_more() {
    let (told, complaints) =
        after(&[("a", Some(RICH)), ("a", Some("{kind: Node, metadata: {name: w1}, spec: {podCIDR: x}}"))]);

    assert_eq!(told, ["w1 is gone"]);
    assert_eq!(complaints, ["a: Node w1: spec.podCIDR: \"x\" is not a CIDR"]);
}

#[test]
fn of_two_files_with_the_same_object_the_first_by_name_counts() {
    let complaint = ["b: Node w1: stands in a too; a counts, as the first by name"];
    let (told, complaints) = after(&[("a", Some(RICH)), ("b", Some(PLAIN))]);
    assert_eq!((told.as_slice(), complaints.as_slice()), (&[][..], &complaint.map(String::from)[..]));

    let (told, complaints) = after(&[("b", Some(PLAIN)), ("a", Some(RICH))]);
    assert_eq!(told, [RICH_TOLD]);
    assert_eq!(complaints, ["a: Node w1: stands in b too; a counts, as the first by name"]);
}

#[test]
fn the_second_file_counts_once_the_first_is_gone() {
    assert_eq!(after(&[("a", Some(RICH)), ("b", Some(PLAIN)), ("a", None)]).0, [PLAIN_TOLD]);
}

#[test]
fn of_two_objects_in_one_file_the_first_counts() {
    let (told, complaints) = after(&[("a", Some(&format!("{RICH}\n---\n{PLAIN}")))]);

    assert_eq!(told, [RICH_TOLD]);
    assert_eq!(complaints, ["a: Node w1: stands twice in this file; the first counts"]);
}

use std::time::UNIX_EPOCH;

use super::*;
use crate::request::Attachment;

fn record() -> Record {
    let attachment = Attachment::new("c", "eth0").unwrap();
    Record { boot_id: "now".to_owned(), netns_inode: 7, ..Record::of(&attachment, UNIX_EPOCH) }
}

#[test]
fn a_lease_is_stale_only_where_its_namespace_and_its_link_are_gone_or_another_boot_began() {
    use Found::{Namespace, Nothing, Unknown};
    use Standing::{EarlierBoot, Gone, InUse, Unwired};
    for (boot_id, found, has_link, expected) in [
        ("now", Namespace(7), true, InUse),
        ("now", Namespace(7), false, Unwired),
        ("now", Namespace(8), true, InUse),
        ("now", Namespace(8), false, Gone),
        ("now", Nothing, true, InUse),
        ("now", Nothing, false, Gone),
        ("now", Unknown, true, InUse),
        ("now", Unknown, false, InUse),
        ("then", Namespace(7), false, EarlierBoot),
        ("then", Unknown, true, EarlierBoot),
    ] {
        let facts = Facts { boot_id, found, has_link };
        assert_eq!(Standing::of(Some(&record()), facts), expected, "{facts:?}");
    }
}

#[test]
fn an_inherited_lease_needs_no_link_of_ours() {
    let standing = |found| {
        let record = Record { is_inherited: true, ..record() };
        Standing::of(Some(&record), Facts { boot_id: "now", found, has_link: false })
    };
    assert_eq!(standing(Found::Namespace(7)), Standing::InUse);
    assert_eq!(standing(Found::Unknown), Standing::InUse);
    assert_eq!(standing(Found::Nothing), Standing::Gone);
}

#[test]
fn a_record_that_cannot_be_read_counts_as_long_as_there_is_its_link() {
    let facts = |has_link| Facts { boot_id: "now", found: Found::Unknown, has_link };
    assert_eq!(Standing::of(None, facts(true)), Standing::InUse);
    assert_eq!(Standing::of(None, facts(false)), Standing::Unreadable);
}

use std::{collections::BTreeMap, fs, thread};

use dataplane::disk::Durability;
use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;

use super::*;
use crate::ipam::{Bounds, Past, Range};

fn place() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::of(&Directory::new(dir.path(), Durability::Volatile), "pods").unwrap();
    (dir, store)
}

fn attachment(container: &str) -> Attachment {
    Attachment::new(container, "eth0").unwrap()
}

fn sets(subnets: &[&str]) -> Ask {
    asking(subnets, &[])
}

fn asking(subnets: &[&str], requested: &[&str]) -> Ask {
    let requested: Vec<IpAddr> = requested.iter().map(|text| text.parse().unwrap()).collect();
    let set =
        |subnet: &&str| RangeSet::new(vec![Range::new(subnet.parse().unwrap(), Bounds::default()).unwrap()]);
    Ask::new(subnets.iter().map(|subnet| set(subnet).unwrap()).collect(), &requested).unwrap()
}

fn lease(store: &Store, container: &str, ask: &Ask) -> Result<Vec<IpAddr>, Error> {
    let attachment = attachment(container);
    store.lease(&attachment, &Record::of(&attachment, UNIX_EPOCH), ask).map(|record| record.addresses)
}

fn names(store: &Store) -> (Vec<String>, Vec<String>) {
    (store.owners.names().unwrap(), store.leases.names().unwrap())
}

const DUAL: [&str; 2] = ["10.244.1.0/24", "fd00::/64"];

#[test]
fn a_lease_is_one_file_under_the_names_of_its_owner_and_its_addresses() {
    let (_dir, store) = place();

    let leased = lease(&store, "a", &sets(&DUAL)).unwrap();

    assert_eq!(leased.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.1.2", "fd00::2"]);
    assert_eq!(
        names(&store),
        (vec!["a@eth0".to_owned()], vec!["10.244.1.2".to_owned(), "fd00::2".to_owned()])
    );
    let owner = store.owners.inode("a@eth0").unwrap();
    assert_eq!(store.leases.inode("10.244.1.2").unwrap(), owner);
    assert_eq!(store.leases.inode("fd00::2").unwrap(), owner);
}

#[test]
fn the_same_attachment_gets_the_same_addresses_and_another_link_others() {
    let (_dir, store) = place();
    let first = lease(&store, "a", &sets(&DUAL)).unwrap();

    let other = Attachment::new("a", "eth1").unwrap();
    let other = store.lease(&other, &Record::of(&other, UNIX_EPOCH), &sets(&DUAL)).unwrap();

    assert_eq!(lease(&store, "a", &sets(&DUAL)).unwrap(), first);
    assert_ne!(other.addresses, first);
}

#[test]
fn a_released_address_waits_for_its_turn() {
    let (_dir, store) = place();
    let sets = sets(&["10.0.0.0/29"]); // .2 to .6
    let a = lease(&store, "a", &sets).unwrap();

    assert!(store.release(&attachment("a")).unwrap());
    assert!(!store.release(&attachment("a")).unwrap());
    // That it was leased last is lost, and no matter: it is known to be freed.
    fs::remove_file(store.network.path().join("last/0")).unwrap();
    let next: Vec<_> = ["b", "c", "d", "e"].map(|c| lease(&store, c, &sets).unwrap()).concat();

    assert!(!next.contains(&a[0]), "{next:?}");
    assert_eq!(lease(&store, "f", &sets).unwrap(), a);
}

#[test]
fn of_two_that_are_free_the_one_freed_first_comes_first_even_in_another_process() {
    let (dir, store) = place();
    let sets = sets(&["10.0.0.0/29"]); // .2 to .6
    let all = ["a", "b", "c", "d", "e"].map(|c| lease(&store, c, &sets).unwrap());
    for container in ["d", "a"] {
        store.release(&attachment(container)).unwrap();
    }

    let store = Store::of(&Directory::new(dir.path(), Durability::Volatile), "pods").unwrap();

    assert_eq!(lease(&store, "f", &sets).unwrap(), all[3]);
    assert_eq!(lease(&store, "g", &sets).unwrap(), all[0]);
}

#[test]
fn what_was_freed_is_remembered_in_bounds() {
    let (_dir, store) = place();
    store.make().unwrap();
    for n in 0..20_000_u32 {
        store.turns.freed(0, IpAddr::V4((0x0a00_0000 + n).into()));
    }

    let waiting = past(&store, &sets(&["10.0.0.0/16"])).waiting;

    assert_eq!(waiting.last().unwrap().to_string(), "10.0.78.31");
    assert!((512..1024).contains(&waiting.len()), "{}", waiting.len());
    assert!(store.network.path().join("freed/0").metadata().unwrap().len() <= 64 << 10);
}

fn past(store: &Store, ask: &Ask) -> Past {
    store.turns.past(0, &ask.wishes()[0].0).unwrap()
}

#[test]
fn an_address_that_is_asked_for_is_given_or_its_holder_named() {
    let (_dir, store) = place();
    let asks = asking(&DUAL, &["10.244.1.9"]);
    let leased = lease(&store, "a", &asks).unwrap();

    assert_eq!(leased.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.1.9", "fd00::2"]);
    assert_eq!(lease(&store, "a", &asks).unwrap(), leased);
    assert_eq!(
        lease(&store, "b", &asks).unwrap_err().to_string(),
        "address 10.244.1.9 is asked for, and leased to container a, link eth0"
    );
    assert_eq!(names(&store).0, ["a@eth0"]);
    assert_eq!(
        lease(&store, "c", &sets(&DUAL)).unwrap()[0].to_string(),
        "10.244.1.2",
        "it was nobody's turn"
    );
}

#[test]
fn who_asks_for_another_address_moves_to_it() {
    let (_dir, store) = place();
    lease(&store, "a", &sets(&DUAL)).unwrap();

    let moved = lease(&store, "a", &asking(&DUAL, &["fd00::9"])).unwrap();

    assert_eq!(moved[1].to_string(), "fd00::9");
    assert_eq!(names(&store).1.len(), 2);
}

/// How many addresses are looked at until one is free: what a lease costs that depends on the others.
fn looked_at(store: &Store, ask: &Ask) -> usize {
    let past = past(store, ask);
    let is_leased = |ip: &IpAddr| store.leases.inode(&ip.to_string()).unwrap().is_some();
    ask.wishes()[0].0.in_turn(&past).take_while(is_leased).count() + 1
}

#[test]
fn among_a_thousand_leases_no_more_addresses_are_looked_at_than_among_ten() {
    let (_dir, store) = place();
    for (number, subnet) in ["10.0.0.0/16", "10.1.0.0/22"].into_iter().enumerate() {
        let sets = sets(&[subnet]); // of the second one, 21 are left
        for n in 0..1000 {
            assert_eq!(looked_at(&store, &sets), 1, "{n}");
            lease(&store, &format!("c{number}-{n}"), &sets).unwrap();
        }
        let mut once = 0;
        for n in 0..100 {
            once = looked_at(&store, &sets).max(once);
            assert!(
                n < 22 || looked_at(&store, &sets) == 1,
                "the circle was found bare, and is not looked at again"
            );
            lease(&store, "x", &sets).unwrap();
            store.release(&attachment("x")).unwrap();
        }
        assert_eq!(once, if number == 0 { 1 } else { 1001 }, "once");
    }
}

#[test]
fn a_range_that_grows_is_looked_at_anew() {
    let (_dir, store) = place();
    let small = sets(&["10.0.0.0/30"]); // .2 alone
    for _ in 0..2 {
        lease(&store, "a", &small).unwrap();
        store.release(&attachment("a")).unwrap();
    }
    assert!(past(&store, &small).is_bare);

    assert_eq!(lease(&store, "a", &sets(&["10.0.0.0/29"])).unwrap()[0].to_string(), "10.0.0.3");
}

#[test]
fn when_all_are_leased_the_message_says_how_many_and_what_to_do() {
    let (_dir, store) = place();
    let both = sets(&["10.0.0.0/24", "fd00::/126"]);
    lease(&store, "a", &both).unwrap();
    lease(&store, "b", &both).unwrap();

    let error = lease(&store, "c", &both).unwrap_err();

    assert_eq!(error.to_string(), "no free address in fd00::/126 (2 leased): raise the pod CIDR or run GC");
    assert_eq!(names(&store).0, ["a@eth0", "b@eth0"], "nothing is left of the try");
    assert_eq!(names(&store).1.len(), 4);
}

#[test]
fn many_at_once_get_distinct_addresses() {
    let (_dir, store) = place();
    let sets = sets(&DUAL);

    let leased: Vec<Vec<IpAddr>> = thread::scope(|scope| {
        let (store, sets) = (&store, &sets);
        let all: Vec<_> =
            (0..16).map(|i| scope.spawn(move || lease(store, &format!("c{i}"), sets).unwrap())).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });

    let distinct: BTreeSet<IpAddr> = leased.concat().into_iter().collect();
    assert_eq!(distinct.len(), 32);
    assert_eq!(names(&store).1.len(), 32);
}

#[test]
fn what_a_crash_left_between_owner_and_lease_is_made_whole_by_the_same_add() {
    let (_dir, store) = place();
    let sets = sets(&DUAL);
    let first = lease(&store, "a", &sets).unwrap();
    store.leases.remove(&first[1].to_string()).unwrap(); // as if it had crashed before the second link
    lease(&store, "b", &sets).unwrap();

    let again = lease(&store, "a", &sets).unwrap();

    assert_eq!(names(&store).1.len(), 4, "two for each");
    let owner = store.owners.inode("a@eth0").unwrap();
    for address in again {
        assert_eq!(store.leases.inode(&address.to_string()).unwrap(), owner);
    }
}

#[test]
fn release_never_takes_a_lease_that_another_has_by_now() {
    let (_dir, store) = place();
    let sets = sets(&["10.0.0.0/30"]); // .2 alone
    let leased = lease(&store, "a", &sets).unwrap();
    store.leases.remove(&leased[0].to_string()).unwrap();
    lease(&store, "b", &sets).unwrap();

    assert!(store.release(&attachment("a")).unwrap());

    assert_eq!(names(&store), (vec!["b@eth0".to_owned()], vec!["10.0.0.2".to_owned()]));
}

#[test]
fn a_record_that_cannot_be_read_is_given_back_with_its_leases() {
    let (_dir, store) = place();
    store.make().unwrap();
    let draft = store.network.draft(b"{ half").unwrap();
    store.owners.link(&draft, "a@eth0").unwrap();
    store.leases.link(&draft, "10.244.1.2").unwrap();
    drop(draft);

    assert_eq!(store.find(&attachment("a")).unwrap(), None);
    assert!(store.release(&attachment("a")).unwrap());
    assert_eq!(names(&store), (vec![], vec![]));
}

#[test]
fn leases_of_another_range_are_given_back_when_the_configuration_changes() {
    let (_dir, store) = place();
    lease(&store, "a", &sets(&["10.1.0.0/24"])).unwrap();

    let moved = lease(&store, "a", &sets(&["10.2.0.0/24"])).unwrap();

    assert_eq!(moved[0].to_string(), "10.2.0.2");
    assert_eq!(names(&store).1, ["10.2.0.2"]);
}

#[test]
fn leases_of_an_earlier_boot_are_given_back_with_the_first_lease_of_this_one() {
    let (_dir, store) = place();
    let sets = sets(&["10.0.0.0/29"]); // .2 to .6
    let lease = |container: &str, boot: &str| {
        let attachment = attachment(container);
        let record = Record { boot_id: boot.to_owned(), ..Record::of(&attachment, UNIX_EPOCH) };
        store.lease(&attachment, &record, &sets).map(|record| record.addresses[0].to_string())
    };
    for container in ["a", "b", "c"] {
        lease(container, "before").unwrap();
    }

    assert_eq!(lease("d", "now").unwrap(), "10.0.0.5");

    assert_eq!(names(&store).0, ["d@eth0"]);
    assert_eq!(lease("e", "now").unwrap(), "10.0.0.6");
    assert_eq!(names(&store).0, ["d@eth0", "e@eth0"]);
}

#[test]
fn a_container_whose_namespace_was_made_anew_keeps_its_addresses_and_its_record_is_true() {
    let (_dir, store) = place();
    let attachment = attachment("a");
    let record = |netns_inode| Record { netns_inode, ..Record::of(&attachment, UNIX_EPOCH) };
    let first = store.lease(&attachment, &record(7), &sets(&DUAL)).unwrap();

    let again = store.lease(&attachment, &record(8), &sets(&DUAL)).unwrap();

    assert_eq!(again.addresses, first.addresses);
    assert!(store.find(&attachment).unwrap().unwrap().is_of(8));
    assert_eq!(names(&store).1.len(), 2);
}

/// A directory as host-local leaves it, with what libcni keeps beside it.
struct HostLocal(TempDir);

impl HostLocal {
    fn new(files: &[(&str, &str)]) -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        for (name, content) in files {
            this.directory("networks/pods").replace(name, content.as_bytes()).unwrap();
        }
        this
    }

    fn directory(&self, path: &str) -> Directory {
        let directory = Directory::new(self.0.path().join(path), Durability::Volatile);
        directory.make().unwrap();
        directory
    }

    fn result(&self, container: &str, sandbox: &str) {
        let result = format!(
            r#"{{"result":{{"interfaces":[{{"name":"cni0"}},{{"name":"eth0","sandbox":"{sandbox}"}}]}}}}"#
        );
        self.directory("results").replace(&format!("pods-{container}-eth0"), result.as_bytes()).unwrap();
    }

    fn lease(&self, store: &Store, container: &str, ask: &Ask) -> Vec<String> {
        let store = store.clone().after_host_local(&self.0.path().join("networks"), "pods").unwrap();
        let attachment = attachment(container);
        let now = self.0.path().metadata().unwrap().modified().unwrap();
        let record = Record { boot_id: "now".to_owned(), ..Record::of(&attachment, now) };
        let leased = store.lease(&attachment, &record, ask).unwrap();
        leased.addresses.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn what_host_local_has_leased_is_heeded_and_its_directory_left_as_it_is() {
    let (_dir, store) = place();
    let files = [
        ("10.244.1.2", "a\r\neth0"),
        ("fd00::2", "a\r\neth0"),
        ("10.244.1.3", "b\r\neth0"),
        ("10.244.1.4", "old"),
        ("10.244.1.5", ""),
        ("10.244.1.6", "../../x\r\neth0"),
        ("last_reserved_ip.0", "10.244.1.4"),
        ("lock", ""),
    ];
    let host_local = HostLocal::new(&files);

    assert_eq!(host_local.lease(&store, "c", &sets(&DUAL)), ["10.244.1.5", "fd00::3"]);

    assert_eq!(names(&store).0, ["a@eth0", "b@eth0", "c@eth0", "old@eth0"]);
    let a = store.find(&attachment("a")).unwrap().unwrap();
    assert_eq!(a.addresses.len(), 2);
    assert!(a.is_inherited);
    let left = host_local.directory("networks/pods");
    for (name, content) in files {
        assert_eq!(left.read(name).unwrap().unwrap(), content.as_bytes());
    }
    assert_eq!(left.names().unwrap().len(), files.len());
}

#[test]
fn what_is_inherited_is_given_back_like_any_other_and_read_once() {
    let (_dir, store) = place();
    let host_local = HostLocal::new(&[("10.0.0.2", "a\r\neth0")]);
    let sets = sets(&["10.0.0.0/30"]); // .2 alone
    let b = attachment("b");
    let store_after = store.clone().after_host_local(&host_local.0.path().join("networks"), "pods").unwrap();
    let record = Record { boot_id: "now".to_owned(), ..Record::of(&b, UNIX_EPOCH) };
    assert!(matches!(store_after.lease(&b, &record, &sets), Err(Error::Exhausted { leased: 1, .. })));

    assert!(store.release(&attachment("a")).unwrap());

    assert_eq!(host_local.lease(&store, "b", &sets), ["10.0.0.2"]);
}

#[test]
fn of_a_container_whose_namespace_is_gone_nothing_is_inherited() {
    let (_dir, store) = place();
    let host_local = HostLocal::new(&[("10.244.1.2", "gone\r\neth0"), ("10.244.1.3", "here\r\neth0")]);
    host_local.result("gone", "/run/netns/never-was");
    host_local.result("here", "/proc/thread-self/ns/net");

    assert_eq!(host_local.lease(&store, "c", &sets(&DUAL))[0], "10.244.1.2");

    let here = store.find(&attachment("here")).unwrap().unwrap();
    let own = dataplane::netns::Netns::current().unwrap().inode().unwrap();
    assert!(here.is_of(own));
}

#[test]
fn what_host_local_leased_before_this_boot_is_nobody_s() {
    let host_local = HostLocal::new(&[("10.244.1.2", "a\r\neth0")]);
    let predecessor = Predecessor::of(&host_local.0.path().join("networks"), "pods").unwrap();
    let since = predecessor.held(0).unwrap()[0].since;

    assert_eq!(predecessor.held(since).unwrap().len(), 1);
    assert_eq!(predecessor.held(since + 1).unwrap(), []);
    assert!((1..since).contains(&predecessor::booted(since)));
}

#[test]
fn a_pod_that_runs_keeps_what_host_local_leased_to_it_whatever_the_clock_says() {
    let host_local = HostLocal::new(&[("10.244.1.2", "a\r\neth0")]);
    host_local.result("a", "/proc/thread-self/ns/net");
    let predecessor = Predecessor::of(&host_local.0.path().join("networks"), "pods").unwrap();

    assert_eq!(predecessor.held(u64::MAX).unwrap().len(), 1);
}

#[test]
fn leases_without_an_owner_and_drafts_are_swept() {
    let (_dir, store) = place();
    lease(&store, "a", &sets(&["10.1.0.0/24"])).unwrap();
    store.leases.create_exclusively("10.1.0.9", b"{}").unwrap();

    let orphans = store.orphans().unwrap();
    assert!(store.sweep().is_empty());

    assert_eq!(orphans.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["10.1.0.9"]);
    assert!(!store.remove_orphan(&orphans[0]).unwrap(), "it is gone");
    assert_eq!(names(&store), (vec!["a@eth0".to_owned()], vec!["10.1.0.2".to_owned()]));
}

#[test]
fn what_is_not_called_like_an_address_is_no_lease_and_stays() {
    let (_place, store) = place();
    store.make().unwrap();
    store.leases.replace("passwd", b"").unwrap();
    store.leases.replace("10.1.0.2", b"").unwrap();

    assert!(store.sweep().is_empty());

    assert_eq!(store.leases.names().unwrap(), ["passwd"]);
}

#[test]
fn nothing_is_made_to_look_for_a_lease_that_is_not_there() {
    let (dir, store) = place();

    assert_eq!(store.find(&attachment("a")).unwrap(), None);
    assert!(!store.release(&attachment("a")).unwrap());
    assert_eq!(store.attachments().unwrap(), []);
    assert!(store.sweep().is_empty());
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    Del(u8),
    Gc,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(
        prop_oneof![6 => (0..8u8).prop_map(Step::Add), 4 => (0..8u8).prop_map(Step::Del), 1 => Just(Step::Gc)],
        0..40,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The model: who has which address. Five addresses, eight containers.
    #[test]
    fn the_store_agrees_with_a_table_of_who_has_what(steps in steps()) {
        let (_dir, store) = place();
        let sets = sets(&["10.0.0.0/29"]);
        let mut model: BTreeMap<u8, IpAddr> = BTreeMap::new();

        for step in steps {
            match step {
                Step::Add(c) => match lease(&store, &format!("c{c}"), &sets) {
                    Ok(leased) => {
                        let others = model.iter().filter(|(other, _)| **other != c);
                        prop_assert!(others.map(|(_, ip)| ip).all(|ip| *ip != leased[0]), "{} twice", leased[0]);
                        prop_assert_eq!(*model.entry(c).or_insert(leased[0]), leased[0], "not the same again");
                    }
                    Err(error) => {
                        prop_assert!(matches!(error, Error::Exhausted { leased: 5, .. }), "{error}");
                        prop_assert!(model.len() == 5 && !model.contains_key(&c));
                    }
                },
                Step::Del(c) => {
                    let had = model.remove(&c).is_some();
                    prop_assert_eq!(store.release(&attachment(&format!("c{c}"))).unwrap(), had);
                }
                Step::Gc => prop_assert!(store.sweep().is_empty()),
            }
            let mut expected: Vec<String> = model.values().map(ToString::to_string).collect();
            expected.sort();
            prop_assert_eq!(store.leases.names().unwrap(), expected);
            prop_assert_eq!(store.attachments().unwrap().len(), model.len());
        }
    }
}

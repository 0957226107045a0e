use std::thread;

use super::*;

fn directory() -> (tempfile::TempDir, Directory) {
    let place = tempfile::tempdir().unwrap();
    let directory = Directory::new(place.path(), Durability::Durable);
    (place, directory)
}

#[test]
fn a_replaced_file_has_the_new_content_and_leaves_no_draft() {
    let (_place, directory) = directory();

    directory.replace("a", b"old").unwrap();
    directory.replace("a", b"new").unwrap();

    assert_eq!(directory.read("a").unwrap().unwrap(), b"new");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn content_in_pieces_is_there_as_a_whole_or_not_at_all() {
    let (_place, directory) = directory();
    let pieces = [b"one ".to_vec(), b"two".to_vec()];

    let length = directory.replace_by_pieces("a", pieces.clone().map(Ok::<_, Error>)).unwrap();
    let broken = pieces.map(Ok).into_iter().chain([Err(directory.read("no/name").unwrap_err())]);
    directory.replace_by_pieces("a", broken).unwrap_err();

    assert_eq!((length, directory.read("a").unwrap().unwrap()), (7, b"one two".to_vec()));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn of_many_that_create_one_file_one_succeeds_and_its_content_is_whole() {
    let (_place, directory) = directory();

    let outcomes: Vec<(String, bool)> = thread::scope(|scope| {
        let writers = (0..8).map(|i| {
            let (directory, content) = (&directory, format!("writer {i}").repeat(1000));
            scope.spawn(move || match directory.create_exclusively("a", content.as_bytes()) {
                Ok(()) => (content, true),
                Err(error) if error.is_exists() => (content, false),
                Err(error) => panic!("{error}"),
            })
        });
        let writers: Vec<_> = writers.collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });

    let winners: Vec<&String> = outcomes.iter().filter(|(_, won)| *won).map(|(content, _)| content).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(directory.read("a").unwrap().unwrap(), winners[0].as_bytes());
    assert_eq!(directory.names().unwrap(), ["a"]);
}

#[test]
fn a_draft_that_gets_no_name_is_gone_and_one_with_two_is_one_file() {
    let (_place, directory) = directory();

    drop(directory.draft(b"never").unwrap());
    let draft = directory.draft(b"twice").unwrap();
    directory.link(&draft, "a").unwrap();
    directory.put(draft, "b").unwrap();

    assert_eq!(directory.names().unwrap(), ["a", "b"]);
    assert_eq!(directory.inode("a").unwrap(), directory.inode("b").unwrap());
    assert_eq!(directory.inode("c").unwrap(), None);
}

#[test]
fn what_a_crash_left_is_not_listed_and_is_swept() {
    let (_place, directory) = directory();
    directory.replace("kept", b"").unwrap();
    let left = directory.draft(b"half").unwrap().file.keep().unwrap().1;

    assert_eq!(directory.names().unwrap(), ["kept"]);
    directory.sweep().unwrap();

    assert!(!left.exists());
    assert_eq!(directory.names().unwrap(), ["kept"]);
}

#[test]
fn a_program_can_be_started_as_soon_as_it_has_its_name_and_a_running_one_goes_on() {
    let (_place, directory) = directory();
    directory.replace_program("program", &fs::read("/bin/sleep").unwrap()).unwrap();
    let path = directory.path().join("program");
    #[expect(clippy::disallowed_methods, reason = "starts what was installed")]
    let mut running = std::process::Command::new(&path).arg("60").spawn().unwrap();

    directory.replace_program("program", b"another").unwrap();

    assert!(running.try_wait().unwrap().is_none());
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(directory.read("program").unwrap().unwrap(), b"another");
    assert_eq!(directory.names().unwrap(), ["program"]);
}

#[test]
fn a_name_never_leads_out_of_the_directory() {
    let (_place, directory) = directory();

    for name in ["", ".", "..", "../a", "a/b", "/etc/passwd", "a/", "a\0b", ".draft-a"] {
        let error = directory.replace(name, b"").unwrap_err();
        assert!(matches!(error, Error::Name { .. }), "{name:?}: {error}");
    }
    assert_eq!(directory.names().unwrap(), [""; 0]);
}

#[test]
fn what_is_not_there_reads_as_nothing_and_is_removed_without_complaint() {
    let (_place, directory) = directory();
    let missing = directory.directory("missing").unwrap();

    assert_eq!(missing.read("a").unwrap(), None);
    assert!(!missing.remove("a").unwrap());
    assert_eq!(missing.names().unwrap(), [""; 0]);
    missing.sweep().unwrap();
    assert!(missing.replace("a", b"").unwrap_err().is_not_found());
}

#[test]
fn a_lock_is_held_until_it_is_dropped() {
    let (_place, directory) = directory();
    let held = directory.lock("lock").unwrap();

    let other = File::options().write(true).open(directory.path().join("lock")).unwrap();
    assert!(other.try_lock().is_err());
    drop(held);
    assert!(other.try_lock().is_ok());
}

#[test]
fn what_is_appended_comes_last_and_only_the_end_is_read() {
    let (_place, directory) = directory();

    assert_eq!(directory.tail("log", 4).unwrap(), b"");
    assert_eq!(directory.append("log", b"one\n").unwrap(), 4);
    assert_eq!(directory.append("log", b"two\n").unwrap(), 8);

    assert_eq!(directory.tail("log", 6).unwrap(), b"e\ntwo\n");
    assert_eq!(directory.tail("log", 99).unwrap(), b"one\ntwo\n");
    assert!(directory.append("../log", b"").is_err());
    assert!(directory.tail("../log", 1).is_err());
}

#[test]
fn nothing_is_written_through_a_symbolic_link() {
    let (place, directory) = directory();
    let other = tempfile::NamedTempFile::new().unwrap();
    for name in ["append", "lock", "replace", "remove", "create"] {
        std::os::unix::fs::symlink(other.path(), place.path().join(name)).unwrap();
    }

    assert!(directory.append("append", b"x").is_err());
    assert!(directory.lock("lock").is_err());
    assert!(directory.create_exclusively("create", b"x").unwrap_err().is_exists());
    directory.replace("replace", b"x").unwrap();
    directory.remove("remove").unwrap();

    assert_eq!(fs::read(other.path()).unwrap(), b"");
}

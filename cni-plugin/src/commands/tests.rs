use super::*;

fn parsed(line: &str) -> Result<(Command, Options), String> {
    let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    parse(&arguments)
}

#[test]
fn commands_have_options_in_any_place() {
    let (command, options) = parsed("ipam --network pods list --json --run-dir /tmp/x").unwrap();

    assert_eq!(command, Command::List);
    assert_eq!(options, Options { network: Some("pods".to_owned()), run_dir: "/tmp/x".into(), json: true });
    assert_eq!(parsed("ipam audit").unwrap().0, Command::Audit);
    let whose = vec!["10.0.0.9".to_owned(), "c1".to_owned()];
    assert_eq!(
        parsed("ipam release 10.0.0.9 --force c1").unwrap().0,
        Command::Release { whose, stale: false, force: true }
    );
    assert_eq!(parsed("ipam release --help").unwrap().0, Command::Help);
}

#[test]
fn what_is_not_understood_is_named_and_nothing_is_done() {
    for (line, told) in [
        ("ipam", "unknown command"),
        ("list", "unknown command"),
        ("ipam drop", "unknown command"),
        ("ipam list x", "\"x\" is one word too many"),
        ("ipam list --all", "unknown flag --all"),
        ("ipam list --network", "--network needs a name"),
        ("ipam list --force", "--force and --stale are for release"),
        ("ipam release", "release needs addresses or container ids, or --stale"),
        ("ipam release c1 --stale", "release needs addresses or container ids, or --stale"),
    ] {
        assert_eq!(parsed(line).unwrap_err(), told, "{line}");
    }
}

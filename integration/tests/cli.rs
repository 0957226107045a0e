//! The lab's commands, as typed: the demo, and a lab that stays up between commands.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use fairway_lab::{
    answer::{Answer, is_in_turn},
    wait::{self, PATIENCE},
};

/// A command of the lab that knows nothing of the sandbox around this test, and so makes one of its own.
#[expect(clippy::disallowed_methods, reason = "a person types commands")]
fn command(words: &[&str]) -> Command {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_fairway-lab"));
    lab.args(words).env_remove("FAIRWAY_SANDBOX");
    lab
}

/// Runs a command to its end.
fn lab(words: &[&str]) -> Output {
    let mut lab = command(words);
    let (done, output) = mpsc::channel();
    thread::spawn(move || done.send(lab.output()));
    // Whoever reads the output waits for its end, which a process that stays behind must not put off.
    output.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{words:?} does not end")).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn says(words: &[&str]) -> String {
    let output = lab(words);
    assert!(output.status.success(), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
fn complains(words: &[&str]) -> String {
    let output = lab(words);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stderr)
}

/// What the lab could leave behind: processes, links, namespaces, files in places of ours.
fn traces() -> Vec<String> {
    let mut seen: Vec<String> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .map(|entry| fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default())
        .filter(|command| command.contains("fairway-lab"))
        .collect();
    let links = fs::read_to_string("/proc/net/dev").unwrap();
    seen.extend(links.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())));
    for directory in ["/run/fairway", "/run/netns", "/run/lab", "/run/tmp", "/etc/cni/net.d", "/opt/cni/bin"]
    {
        seen.extend(
            fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path().display().to_string()),
        );
    }
    seen
}

const APPLIED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/lab/service-node-port.yaml");

// One test for all: the commands of one user share one lab.
fairway_lab::sandbox_tests! {
    fn the_commands_do_as_they_say_and_leave_nothing() {
        let before = traces();

        let lesson = says(&["demo"]);
        assert_eq!(lesson.matches('✓').count(), 7, "{lesson}");
        assert!(!lesson.contains(['✗', '\x1b']), "{lesson}");
        assert_eq!(traces(), before);

        for command in [&["status"][..], &["down"], &["exec", "m", "--", "true"], &["apply", "-f", APPLIED]] {
            assert!(complains(command).starts_with("lab: no lab is up"), "{command:?}");
        }

        let mut demo = command(&["demo"]).stdout(Stdio::null()).spawn().unwrap();
        wait::until("the sandbox", || {
            let is_there = traces().iter().any(|trace| trace.contains("--play"));
            if is_there { Ok(()) } else { Err("no process of it".to_owned()) }
        })
        .unwrap();
        kill(Pid::from_raw(i32::try_from(demo.id()).unwrap()), Signal::SIGINT).unwrap();
        assert_eq!(demo.wait().unwrap().code(), Some(128 + Signal::SIGINT as i32));
        assert_eq!(traces(), before);

        // Without cargo, whose own lock would have them come one after the other.
        let ups = [(); 4].map(|()| thread::spawn(|| command(&["up"]).env_remove("CARGO").output()));
        let ups = ups.map(|up| up.join().unwrap().unwrap().status.success());
        assert_eq!(ups.iter().filter(|is_up| **is_up).count(), 1, "{ups:?}");
        says(&["down"]);
        assert!(complains(&["down"]).starts_with("lab: no lab is up"));

        says(&["up"]);
        assert!(complains(&["up"]).starts_with("lab: a lab is up already"));
        let status = says(&["status"]);
        for part in ["w1     192.168.14.51", "default/pair-pod", "web,admin", "10.105.77.228  8001/TCP"] {
            let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(squeezed(&status).contains(&squeezed(part)), "{part} in\n{status}");
        }

        assert_eq!(says(&["exec", "w2", "--", "cat", "/proc/sys/kernel/hostname"]), "w2\n");
        let routes = says(&["exec", "apache-pod", "--", "cat", "/proc/self/net/dev"]);
        assert!(routes.contains("eth0:"), "{routes}");
        assert_eq!(lab(&["exec", "outside", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
        says(&["exec", "outside", "--", "sh", "-c", "true & exec true"]);
        wait::until("what ended to be let go of", || {
            let ended = says(&["exec", "outside", "--", "sh", "-c", "grep -l ') Z 1 ' /proc/[0-9]*/stat || true"]);
            if ended.is_empty() { Ok(()) } else { Err(ended) }
        })
        .unwrap();
        assert!(complains(&["exec", "nowhere", "--", "true"]).contains("\"nowhere\" is no pod"));

        assert_eq!(says(&["apply", "-f", APPLIED]), "Service default/myweb-service configured\n");
        assert_eq!(says(&["apply", "-f", APPLIED]), "Service default/myweb-service unchanged\n");
        wait::until("the node port to answer", || {
            let asked = lab(&["curl", "-n", "3", "w1:30632"]);
            if asked.status.success() { Ok(()) } else { Err(text(&asked.stderr)) }
        })
        .unwrap();
        let answers = says(&["curl", "--from", "apache-pod", "-n", "6", "http://myweb-service:8001/"]);
        let answers: Vec<Answer> = answers.lines().map(|line| line.parse().unwrap()).collect();
        assert!(is_in_turn(&answers, 3), "{answers:?}");
        assert_eq!(says(&["delete", "-f", APPLIED]), "Service default/myweb-service deleted\n");

        says(&["down"]);
        assert_eq!(traces(), before);

        says(&["up", "--api"]);
        assert!(says(&["exec", "w1", "--", "cat", "/run/lab/kubeconfig"]).contains("https://192.168.14.1:6443"));
        assert_eq!(says(&["exec", "w1", "--", "ls", "/var/lib/fairway/manifests"]), "");
        assert!(says(&["status"]).contains("10.105.77.228"));
        assert_eq!(says(&["apply", "-f", APPLIED]), "Service default/myweb-service configured\n");
        wait::until("the node port to answer", || {
            let asked = lab(&["curl", "-n", "3", "w1:30632"]);
            if asked.status.success() { Ok(()) } else { Err(text(&asked.stderr)) }
        })
        .unwrap();
        says(&["down"]);
        assert_eq!(traces(), before);
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

//! What must hold of the whole plugin, for any call on a host of its own: what it answers, where it writes, and that nothing is left.
//!
//! A host is the lab's, so this works inside its sandbox only. Its run directory is [`RUN_DIR`], whatever the call says;
//! there is one pod, `/run/netns/pod`; and there is one plugin to lease addresses, `cat`, which answers what it was asked.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

use cni_plugin::{
    Environment, Outcome,
    conf::Network,
    request::{Request, Verb},
    result::AddResult,
};
use dataplane::{
    claims,
    disk::{Directory, Durability},
    rtnl::{Kernel, LOOPBACK},
};
use fairway_lab::host::Host;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::{call::Call, request::is_an_error};

/// Where leases are kept.
pub const RUN_DIR: &str = "/run/lab/leases";

/// Where other plugins are.
pub const PLUGINS: &str = "/run/lab/plugins";

/// Where nothing is to be written. All hosts of a sandbox share `/run/tmp`, in which others write meanwhile.
const ELSEWHERE: [&str; 7] =
    ["/run", "/run/fairway", "/run/netns", "/etc", "/etc/cni", "/opt/cni", "/var/lib"];

/// A host to try calls on.
#[derive(Debug)]
pub struct Place {
    /// The host.
    pub host: Host,
    /// What waits for its kernel's answers.
    pub runtime: Runtime,
}

#[expect(clippy::unwrap_used, reason = "where there is no host, nothing can be tried")]
impl Place {
    /// Makes one.
    pub fn make() -> Self {
        let host = Host::make("node").unwrap();
        host.make_netns("pod").unwrap();
        host.run(|| {
            fs::create_dir(PLUGINS).unwrap();
            symlink("/bin/cat", Path::new(PLUGINS).join("cat")).unwrap();
        })
        .unwrap();
        Self { host, runtime: Builder::new_current_thread().enable_io().build().unwrap() }
    }

    /// Tries a call.
    pub fn holds(&self, input: &[u8]) {
        let Call { environment, stdin } = Call::parse(input);
        let stdin = in_run_dir(stdin);
        let environment = Environment { path: environment.path.map(|_| PLUGINS.to_owned()), ..environment };
        self.host
            .run(|| {
                fs::create_dir(RUN_DIR).unwrap();
                let node = br#"{"podCIDRs":["10.2.0.0/29"],"mtu":1400}"#;
                Directory::new(RUN_DIR, Durability::Volatile).replace("node.json", node).unwrap();
                let before = elsewhere();
                let changed = || elsewhere().symmetric_difference(&before).cloned().collect::<Vec<_>>();

                let outcome = cni_plugin::run(&environment, &stdin);
                is_answered(&environment, &outcome);
                assert_eq!(changed(), [], "something was written elsewhere");
                self.nothing_is_left(&environment, &stdin);
                assert_eq!(changed(), [], "something was written elsewhere");
                fs::remove_dir_all(RUN_DIR).unwrap();
            })
            .unwrap();
    }

    /// DEL takes away all that a call has made, but a bridge; then that goes, too.
    fn nothing_is_left(&self, environment: &Environment, stdin: &[u8]) {
        let attachment = match Request::parse(environment) {
            Ok(Request::Verb(Verb::Add(target) | Verb::Check(target))) => Some(target.attachment),
            _ => None,
        };
        if let Some((attachment, network)) = attachment.zip(Network::parse(stdin).ok()) {
            let conf = json!({ "cniVersion": "1.1.0", "name": network.name, "runDir": RUN_DIR });
            let del = Environment { command: Some("DEL".to_owned()), ..environment.clone() };
            let outcome = cni_plugin::run(&del, conf.to_string().as_bytes());
            assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (0, ""));
            let key = format!("{}@{}", attachment.container_id(), attachment.ifname());
            for kept in ["owners", "sysctls"] {
                let kept = Path::new(RUN_DIR).join(&network.name).join(kept).join(&key);
                assert!(!kept.exists(), "{} is left", kept.display());
            }
            let claims = Directory::new(Path::new(RUN_DIR).join(claims::DIRECTORY), Durability::Volatile);
            let claims = claims.names().unwrap().into_iter().filter(|name| name != "lock");
            assert_eq!(claims.collect::<Vec<_>>(), [""; 0], "claims are left");
        }
        self.runtime.block_on(async {
            let kernel = Kernel::open().unwrap();
            for link in kernel.links().await.unwrap().iter().filter(|link| link.index != LOOPBACK) {
                assert!(link.is_bridge(), "{} is left", link.name);
                kernel.delete_link(link.index).await.unwrap();
            }
        });
    }
}

/// Has a configuration say last, and so once and for all, where leases are. What is no object has none.
fn in_run_dir(stdin: Vec<u8>) -> Vec<u8> {
    let is_object = |text: &[u8]| serde_json::from_slice::<Value>(text).is_ok_and(|value| value.is_object());
    if !is_object(&stdin) {
        return stdin;
    }
    let end = stdin.iter().rposition(|byte| *byte == b'}').unwrap_or(0);
    let head = stdin.get(..end).unwrap_or_default().trim_ascii_end();
    let comma = if head.ends_with(b"{") { "" } else { "," };
    let tail = format!("{comma}\"runDir\":\"{RUN_DIR}\"}}");
    let stdin = [head, tail.as_bytes()].concat();
    assert!(
        serde_json::from_slice::<Value>(&stdin)
            .is_ok_and(|value| value.get("runDir") == Some(&json!(RUN_DIR)))
    );
    stdin
}

/// SPEC "Section 2": a result, an error, or nothing.
fn is_answered(environment: &Environment, outcome: &Outcome) {
    match (outcome.exit_code, environment.command.as_deref()) {
        (0, None) => assert!(outcome.stdout.is_empty() && outcome.stderr.contains("CNI")),
        (0, Some("ADD")) => {
            let result = serde_json::from_str(&outcome.stdout).and_then(AddResult::parse);
            assert!(result.is_ok(), "{}", outcome.stdout);
        }
        (0, Some("VERSION")) => {
            let answer: Value = serde_json::from_str(&outcome.stdout).unwrap_or_default();
            assert!(answer.get("supportedVersions").is_some_and(Value::is_array), "{}", outcome.stdout);
        }
        (0, Some("CHECK" | "DEL" | "GC" | "STATUS")) => assert_eq!(outcome.stdout, ""),
        (1, Some(_)) => is_an_error(&outcome.stdout),
        (code, command) => panic!("{command:?} ended with {code}: {}", outcome.stdout),
    }
}

/// What is there, with its inode, its size and when it was changed.
fn elsewhere() -> BTreeSet<(PathBuf, u64, u64, i64, i64)> {
    let entries =
        ELSEWHERE.iter().chain(&["/run/lab"]).flat_map(|dir| fs::read_dir(dir).into_iter().flatten());
    entries
        .flatten()
        .filter(|entry| entry.path() != Path::new(RUN_DIR))
        .filter_map(|entry| {
            let there = entry.metadata().ok()?;
            let is_directory = there.is_dir(); // what is in it is looked at on its own, where that matters
            let times = if is_directory { (0, 0) } else { (there.mtime(), there.mtime_nsec()) };
            Some((entry.path(), there.ino(), there.size() * u64::from(!is_directory), times.0, times.1))
        })
        .collect()
}

//! The house rules: which crate may know which, what the pure modules may name, which licences we take.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What `cargo metadata` says of the workspace and all that it is built from.
#[expect(clippy::disallowed_methods, reason = "asks cargo")]
fn metadata() -> &'static Value {
    static METADATA: OnceLock<Value> = OnceLock::new();
    METADATA.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked", "--offline"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    })
}

/// Every package that a workspace crate is built from, tests aside.
fn built_from(name: &str) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let names: BTreeMap<_, _> = metadata()["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let edges: BTreeMap<_, Vec<String>> = metadata()["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| {
            let used = node["deps"].as_array().unwrap().iter().filter(|used| {
                used["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] != "dev")
            });
            (text(&node["id"]), used.map(|used| text(&used["pkg"])).collect())
        })
        .collect();
    let mut open: Vec<_> =
        names.iter().filter(|(_, found)| *found == name).map(|(id, _)| id.clone()).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id.clone()) {
            open.extend(edges[&id].iter().cloned());
        }
    }
    assert!(!seen.is_empty(), "no package {name}");
    seen.iter().map(|id| names[id].clone()).filter(|found| found != name).collect()
}

#[test]
fn crates_know_only_what_is_below_them() {
    for (name, forbidden) in [
        (
            "dataplane",
            &["kube", "k8s-openapi", "cni-plugin", "proxy", "fairway-lab", "anyhow", "tracing"][..],
        ),
        ("cni-plugin", &["kube", "k8s-openapi", "proxy", "fairway-lab", "anyhow", "clap", "nftables"]),
        ("proxy", &["cni-plugin", "fairway-lab", "nftables"]),
        ("fairway-lab", &["cni-plugin", "nftables"]),
    ] {
        let built_from = built_from(name);
        for other in forbidden {
            assert!(!built_from.contains(*other), "{name} is built from {other}");
        }
    }
}

/// Modules that compute and do nothing else: a file, or a folder with all in it.
const PURE: [&str; 29] = [
    "dataplane/src/host_ports",
    "dataplane/src/masquerade.rs",
    "dataplane/src/nft/diff.rs",
    "dataplane/src/nft/trace.rs",
    "dataplane/src/rtnl/diff.rs",
    "proxy/src/health/answer.rs",
    "proxy/src/health/progress.rs",
    "proxy/src/health/routing.rs",
    "proxy/src/config/written.rs",
    "proxy/src/kept.rs",
    "proxy/src/listeners/addresses.rs",
    "proxy/src/localhost/sessions.rs",
    "proxy/src/objects/sharing.rs",
    "proxy/src/state",
    "proxy/src/plan",
    "proxy/src/predecessor/chains.rs",
    "proxy/src/sync/nodes/outlook.rs",
    "proxy/src/sync/nodes/patience.rs",
    "proxy/src/sync/pace.rs",
    "proxy/src/sync/without_local.rs",
    "proxy/src/watch/kubernetes/backoff.rs",
    "proxy/src/watch/kubernetes/wire.rs",
    "proxy/src/sync/repair/contest.rs",
    "proxy/src/sync/repair/findings.rs",
    "cni-plugin/src/bandwidth.rs",
    "cni-plugin/src/conf/port_mappings.rs",
    "cni-plugin/src/ipam",
    "cni-plugin/src/tuning.rs",
    "cni-plugin/src/wiring",
];

/// Parts of pure modules' folders that are their shells.
const SHELLS: [&str; 5] = ["ipam/store", "kept/keeper", "kept/store", "wiring/kernel", "tests"];

#[test]
fn pure_modules_do_no_io_read_no_clock_and_log_nothing() {
    let banned = [
        "std::fs",
        "File::",
        "std::io",
        "std::process",
        "std::env",
        "std::thread",
        "Instant",
        "SystemTime",
        "tracing",
        "tokio",
        "println!",
        "TcpStream",
        "UdpSocket",
        "socket2",
        "rtnetlink",
        "netns",
    ];
    let mut read = 0;
    for module in PURE {
        let stem = module.trim_end_matches(".rs");
        let is_in = |path: &Path| {
            let path =
                path.to_str().unwrap().trim_start_matches(root().to_str().unwrap()).trim_start_matches('/');
            let is_shell = SHELLS.iter().any(|shell| path.contains(&format!("/{shell}")));
            !is_shell && (path == format!("{stem}.rs") || path.starts_with(&format!("{stem}/")))
        };
        let files: Vec<_> = sources(&root().join(module.split('/').next().unwrap()))
            .into_iter()
            .filter(|f| is_in(f))
            .collect();
        assert!(!files.is_empty(), "no module {module}");
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for (number, line) in code.enumerate() {
                for word in banned {
                    assert!(!line.contains(word), "{}:{}: {word}", file.display(), number + 1);
                }
            }
            read += 1;
        }
    }
    assert!(read > PURE.len());
}

/// All Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn everything_we_are_built_from_has_a_licence_that_we_allow() {
    #[derive(serde::Deserialize)]
    struct Deny {
        licenses: Licenses,
    }
    #[derive(serde::Deserialize)]
    struct Licenses {
        allow: Vec<String>,
    }
    let deny: Deny = toml::from_str(&fs::read_to_string(root().join("deny.toml")).unwrap()).unwrap();

    let packages = metadata()["packages"].as_array().unwrap();
    let refused: Vec<_> = packages
        .iter()
        .filter(|package| {
            let licence = package["license"].as_str().unwrap_or("none");
            let parsed = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX);
            !parsed.is_ok_and(|licence| {
                licence.evaluate(|wanted| {
                    let wanted = wanted.license.to_string();
                    deny.licenses.allow.contains(&wanted)
                })
            })
        })
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();

    assert!(packages.len() > 50);
    assert_eq!(refused, Vec::<String>::new());
}

/// The README and all pages.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

#[test]
fn pages_link_to_what_is_there() {
    let mut links = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.starts_with("http") {
                let target = page.parent().unwrap().join(link.split('#').next().unwrap());
                assert!(target.exists(), "{}: {link}", page.display());
                links += 1;
            }
        }
    }
    assert!(links > 5);
}

/// All words between backquotes of a page that look like the name of a test.
fn tests_named_in(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    quoted.filter(move |word| word.len() > 20 && word.contains('_') && word.chars().all(is_of_name))
}

/// The text of all Rust files.
fn code() -> String {
    let folders = ["dataplane", "cni-plugin", "proxy", "integration", "tests"];
    let files = folders.iter().flat_map(|folder| sources(&root().join(folder)));
    files.map(|file| fs::read_to_string(file).unwrap()).collect()
}

#[test]
fn the_tests_and_files_that_the_architecture_names_are_there() {
    let (text, code) = (fs::read_to_string(root().join("docs/architecture.md")).unwrap(), code());
    let mut named = 0;
    for test in tests_named_in(&text) {
        assert!(code.contains(&format!("fn {test}(")), "no test {test}");
        named += 1;
    }
    assert!(named >= 10, "{named}");
    for word in text.split('`').skip(1).step_by(2) {
        let is_file = Path::new(word).extension().is_some_and(|extension| extension == "rs");
        if is_file && word.contains('/') {
            assert!(root().join(word).exists(), "no file {word}");
        }
    }
}

#[test]
fn every_promise_about_services_names_tests_that_are_there() {
    let (text, code) = (fs::read_to_string(root().join("docs/services.md")).unwrap(), code());
    let cells = |line: &'_ str| {
        line.trim_matches('|').split('|').map(str::trim).map(str::to_owned).collect::<Vec<_>>()
    };
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| ")).map(cells).collect();
    // Promises have three columns: what happens, what is different, and the tests.
    let promises = rows.iter().filter(|row| row.len() == 3 && row[2] != "tests");
    let mut number = 0;
    for row in promises {
        let tests = tests_named_in(&row[2]).collect::<Vec<_>>();
        assert!(!tests.is_empty(), "no test: {row:?}");
        for test in tests {
            assert!(code.contains(&format!("fn {test}(")), "no test {test}");
        }
        number += 1;
    }
    assert!(number >= 40, "{number}");
}

#[test]
fn every_promise_about_wiring_and_routing_names_a_test_that_is_there() {
    let code = code();
    for page in ["docs/wiring.md", "docs/routing.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let named: Vec<_> = tests_named_in(&text).collect();
        for test in &named {
            assert!(code.contains(&format!("fn {test}(")), "no test {test}");
        }
        assert!(named.len() >= 5, "{named:?}");
    }
}

#[test]
fn the_daemon_s_flags_are_explained() {
    let text = fs::read_to_string(root().join("docs/operating.md")).unwrap();
    let command = <proxy::config::Config as clap::CommandFactory>::command();
    for flag in command.get_arguments().filter_map(|argument| argument.get_long()) {
        assert!(text.contains(&format!("`--{flag}")) || text.contains(&format!(", `--{flag}")), "--{flag}");
    }
}

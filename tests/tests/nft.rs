//! The contract of nftables: the fake and the kernel take and refuse the same transactions, and hold the same afterwards.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails"
)]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use dataplane::{
    netns::Netns,
    nft::{
        Affinity, Chain, Change, Data, DataType, Element, Fake, Held, Hook, Key, KeyType, LinkName, Map,
        MapName, Match, Rule, SetType, Socket, Source, State, Statement, Table, Transaction, Verdict, diff,
    },
    packet::{Family, Protocol},
};

use nftables::{helper::get_current_ruleset_raw, types::NfHook};

use proxy::{
    plan::{Planner, Settings},
    service_port::{Endpoint, ServicePort, ServicePortName},
};

/// The fake and a kernel of our own, side by side.
struct Both {
    fake: Fake,
    netns: Netns,
    kernel: Socket,
}

impl Both {
    fn new() -> Self {
        let netns = Netns::make().unwrap();
        let kernel = Socket::open_in(&netns).unwrap();
        Self { fake: Fake::default(), netns, kernel }
    }

    /// Commits to both; both must agree on the outcome (0 or an errno) and on what is held then.
    fn commit(&mut self, changes: Vec<Change>) -> i32 {
        let mut transaction = Transaction::default();
        for change in changes {
            transaction.push(Family::Ip, change);
        }
        self.run(&transaction)
    }

    fn run(&mut self, transaction: &Transaction) -> i32 {
        let fake = self.fake.commit(transaction).map_or_else(|refusal| refusal.errno as i32, |()| 0);
        let kernel = self.kernel.commit(transaction);
        let errno = kernel.as_ref().map_or_else(|error| error.errno().unwrap(), |()| 0);
        assert_eq!(fake, errno, "{transaction}{kernel:?}");
        for family in Family::ALL {
            let held = self.kernel.held(family).unwrap();
            assert_eq!(held, self.fake.table(family).map(Held::from), "{transaction}");
        }
        errno
    }

    /// What `nft` prints, where the version is installed whose words ours are.
    fn text(&self) -> Option<String> {
        let version = std::process::Command::new("nft").arg("--version").output();
        if !version.is_ok_and(|version| String::from_utf8_lossy(&version.stdout).contains("v1.0.6")) {
            println!("nft 1.0.6 is not installed: not compared with its listing");
            return None;
        }
        let list = || std::process::Command::new("nft").args(["--stateless", "list", "ruleset"]).output();
        let output = self.netns.run(list).unwrap().unwrap();
        Some(String::from_utf8(output.stdout).unwrap())
    }

    /// What `nft`, an independent reader, finds in the kernel, where it is installed: its objects as JSON.
    fn listing(&self) -> Option<Vec<serde_json::Value>> {
        if std::process::Command::new("nft").arg("--version").output().is_err() {
            println!("nft is not installed: not compared with its listing");
            return None;
        }
        let listing = self.netns.run(|| get_current_ruleset_raw(None::<&str>, ["list", "ruleset"])).unwrap();
        let listing: serde_json::Value = serde_json::from_str(&listing.unwrap()).unwrap();
        Some(listing["nftables"].as_array().unwrap().clone())
    }
}

/// Compares a table with what nft lists: every chain with its hook, the number of its rules, every element.
fn assert_lists(listing: &[serde_json::Value], table: &Table) {
    let family = table.family.to_string();
    let all = |word: &'static str| {
        let family = family.clone();
        listing
            .iter()
            .filter_map(move |object| object.get(word))
            .filter(move |object| object["family"] == *family)
    };
    // The typed reader of the nftables crate knows chains; of maps and rules it misses what ours are made of.
    let chains: BTreeMap<_, _> = all("chain")
        .map(|chain| serde_json::from_value::<nftables::schema::Chain<'_>>(chain.clone()).unwrap())
        .map(|chain| (chain.name.clone(), chain.hook))
        .collect();
    assert_eq!(chains.len(), table.chains.len());
    for (name, chain) in &table.chains {
        let hook = chain.hook.map(|hook| match hook {
            Hook::Prerouting | Hook::LatePrerouting | Hook::RawPrerouting => NfHook::Prerouting,
            Hook::Output | Hook::LateOutput | Hook::FilterOutput => NfHook::Output,
            Hook::FilterInput => NfHook::Input,
            Hook::FilterForward => NfHook::Forward,
            Hook::Postrouting => NfHook::Postrouting,
        });
        assert_eq!(chains[name], hook, "chain {name}");
        let rules = all("rule").filter(|rule| rule["chain"] == **name).count();
        assert_eq!(rules, chain.rules.len(), "chain {name}");
    }
    for (name, map) in &table.maps {
        let word = if map.kind.data == DataType::None { "set" } else { "map" };
        let listed = all(word).find(|map| map["name"] == **name).unwrap();
        let elements = listed["elem"].as_array().map_or(0, Vec::len);
        assert_eq!(elements, map.elements.len(), "{word} {name}");
    }
}

/// The lines of all chains in a listing.
fn chains(listing: &str) -> impl Iterator<Item = &str> {
    let mut is_chain = false;
    listing.lines().filter(move |line| {
        if !line.starts_with("\t\t") {
            is_chain = line.starts_with("\tchain");
        }
        is_chain
    })
}

const CLASSES: SetType =
    SetType { key: KeyType::Number, data: DataType::Verdict, counter: false, dynamic: None };
const SLOTS: SetType =
    SetType { key: KeyType::Number, data: DataType::Endpoint, counter: true, dynamic: None };
const SERVICES: SetType =
    SetType { key: KeyType::Service, data: DataType::Number, counter: false, dynamic: None };
const PORTS: SetType = SetType { key: KeyType::Port, data: DataType::Number, counter: false, dynamic: None };
const PAIRS: SetType =
    SetType { key: KeyType::Addresses, data: DataType::None, counter: false, dynamic: None };
const NUMBERS: SetType =
    SetType { key: KeyType::Number, data: DataType::Number, counter: false, dynamic: None };
const WAYS: SetType = SetType { key: KeyType::Towards, data: DataType::None, counter: false, dynamic: None };
const HOSTS: SetType = SetType { key: KeyType::Address, data: DataType::None, counter: false, dynamic: None };
const RANGES: SetType =
    SetType { key: KeyType::Service, data: DataType::Verdict, counter: false, dynamic: None };
const PORT_ENDPOINTS: SetType =
    SetType { key: KeyType::Port, data: DataType::Endpoint, counter: false, dynamic: None };
const SERVICE_ENDPOINTS: SetType =
    SetType { key: KeyType::Service, data: DataType::Endpoint, counter: false, dynamic: None };
const EXPOSED: SetType =
    SetType { key: KeyType::Service, data: DataType::None, counter: false, dynamic: None };
const CLIENTS: SetType =
    SetType { key: KeyType::Client, data: DataType::Number, counter: false, dynamic: Some(1024) };

fn rule(statements: impl IntoIterator<Item = Statement>) -> Rule {
    Rule(statements.into_iter().collect())
}

fn goto(chain: &'static str) -> Statement {
    Statement::Verdict(Verdict::Goto(chain.into()))
}

/// Maps of every key and data type.
fn maps(vip: IpAddr, pod: IpAddr, network: ipnetwork::IpNetwork) -> BTreeMap<MapName, Map> {
    let mut maps = BTreeMap::new();
    let mut map = |name: &'static str, kind, elements: Vec<(Key, Element)>| {
        maps.insert(name.into(), Map { kind, elements: elements.into_iter().collect() });
    };
    let named = Element { data: Data::Number(0x8000_0009), comment: Some("default/web:http".into()) };
    map("services", SERVICES, vec![(Key::Service(vip, Protocol::Tcp, 80), named)]);
    map("ports", PORTS, vec![(Key::Port(Protocol::Sctp, 30_000), Data::Number(7).into())]);
    map("slots", SLOTS, vec![(Key::Number(7), Data::Endpoint((pod, 8080).into()).into())]);
    map("numbers", NUMBERS, vec![(Key::Number(0xa000_0001), Data::Number(8).into())]);
    map("pairs", PAIRS, vec![(Key::Addresses(pod, pod), Data::None.into())]);
    let whole = ipnetwork::IpNetwork::from(vip);
    map(
        "ways",
        WAYS,
        vec![
            (Key::Towards(pod, network), Element::new(Data::None).with_comment("default/web")),
            (Key::Towards(pod, whole), Data::None.into()),
            (Key::Towards(vip, network), Data::None.into()),
        ],
    );
    map("hosts", HOSTS, vec![(Key::Address(vip), Data::None.into())]);
    map("clients", CLIENTS, vec![]);
    let endpoint = || Element::from(Data::Endpoint((pod, 8080).into()));
    map("any", PORT_ENDPOINTS, vec![(Key::Port(Protocol::Tcp, 8080), endpoint())]);
    map(
        "one",
        SERVICE_ENDPOINTS,
        vec![(Key::Service(vip, Protocol::Udp, 8080), endpoint().with_comment("a/b"))],
    );
    map("exposed", EXPOSED, vec![(Key::Service(pod, Protocol::Sctp, 8080), Data::None.into())]);
    let ranges = Data::Verdict(Verdict::Jump("ranges-1".into()));
    map("ranges", RANGES, vec![(Key::Service(vip, Protocol::Udp, 53), ranges.into())]);
    let rr = Data::Verdict(Verdict::Goto("rr-1".into()));
    map("classes", CLASSES, vec![(Key::Number(0x8000_0008), rr.into())]);
    let back = Data::Verdict(Verdict::Return);
    map("departed", CLASSES, vec![(Key::Number(0xc000_0002), back.into())]);
    maps
}

/// A table in which every statement, match, source, key and data type occurs.
fn everything(family: Family) -> Table {
    let (vip, pod, network) = match family {
        Family::Ip => ("10.96.0.1", "10.244.1.2", "10.244.0.0/16"),
        Family::Ip6 => ("fd00:96::1", "fd00:244::2", "fd00:244::/56"),
    };
    let (vip, pod) = (vip.parse().unwrap(), pod.parse().unwrap());
    let network: ipnetwork::IpNetwork = network.parse().unwrap();
    let mut table = Table::new(family);
    table.maps = maps(vip, pod, network);

    let mut chain = |name: &'static str, hook, rules: Vec<Rule>| {
        table.chains.insert(name.into(), Chain { hook, rules });
    };
    filters(&mut chain, network);
    host_ports(&mut chain);
    let priority = |map: &'static str, mask| Source::ByPriority { mask, map: map.into() };
    chain(
        "prerouting",
        Some(Hook::Prerouting),
        vec![rule([Statement::Verdict(Verdict::Jump("services".into()))])],
    );
    chain("output", Some(Hook::Output), vec![rule([Statement::Verdict(Verdict::Jump("services".into()))])]);
    chain(
        "postrouting",
        Some(Hook::Postrouting),
        vec![
            rule([
                Statement::Match(Match::Mark(0x4000)),
                Statement::ClearMark(0x4000),
                Statement::Masquerade,
            ]),
            rule([
                Statement::Match(Match::DestinationRewritten),
                Statement::Match(Match::AddressesIn("pairs".into())),
                Statement::Masquerade,
            ]),
        ],
    );
    chain(
        "services",
        None,
        vec![
            rule([Statement::Match(Match::EchoRequest), Statement::Redirect]),
            rule([Statement::VerdictMap(Source::ByService("ranges".into()))]),
            rule([Statement::SetPriority(Source::ByService("services".into())), goto("dispatch")]),
            rule([
                Statement::Match(Match::ToThisHost),
                Statement::Match(Match::DestinationOutside(network)),
                Statement::SetPriority(Source::ByPort("ports".into())),
                Statement::AddMark(0x4000),
                goto("dispatch"),
            ]),
            rule([Statement::Match(Match::SourceOutside(network)), Statement::Verdict(Verdict::Drop)]),
        ],
    );
    chain(
        "dispatch",
        None,
        vec![
            rule([Statement::VerdictMap(priority("classes", !7))]),
            rule([
                Statement::Match(Match::PriorityBits { mask: 0xe000_0000, number: 0xa000_0000 }),
                Statement::Match(Match::OtherPriorityBits { mask: 0xf000_0000, number: 0x9000_0000 }),
                Statement::Match(Match::Link(LinkName::Prefix("fw".into()))),
                Statement::SetPriority(priority("numbers", u32::MAX)),
                goto("pick"),
            ]),
            rule([
                Statement::SetPriority(Source::ByClient { mask: 0xffff_f000, map: "clients".into() }),
                goto("pick"),
            ]),
            rule([goto("pick")]),
        ],
    );
    let rotation = Source::Rotation { modulus: 3, offset: 7 };
    let affinity = Affinity { map: "clients".into(), mask: 0xffff_f000, seconds: 50 };
    chain(
        "rr-1",
        None,
        vec![rule([
            Statement::Match(Match::Priority(0x8000_0009)),
            Statement::SetPriority(rotation),
            Statement::Remember(affinity.clone()),
            goto("pick"),
        ])],
    );
    let random = Source::Random { modulus: 3, offset: 7 };
    chain("random-1", None, vec![rule([Statement::SetPriority(random), goto("pick")])]);
    let hash = Source::ByHash { modulus: 3, seed: 0xfa1_2a4, offset: 7 };
    chain("hash-1", None, vec![rule([Statement::SetPriority(hash), goto("pick")])]);
    chain(
        "pick",
        None,
        vec![
            rule([Statement::DnatAsRemembered { slots: "slots".into(), affinity }]),
            rule([Statement::DnatByPriority("slots".into())]),
            rule([Statement::Match(Match::Protocol(Protocol::Tcp)), Statement::RejectWithReset]),
            rule([Statement::Counter, Statement::Reject]),
        ],
    );
    table
}

/// The chains that come after those of services.
fn host_ports(chain: &mut impl FnMut(&'static str, Option<Hook>, Vec<Rule>)) {
    let find = || {
        vec![
            rule([Statement::Dnat(Source::ByService("one".into()))]),
            rule([Statement::Match(Match::ToThisHost), Statement::Dnat(Source::ByPort("any".into()))]),
        ]
    };
    chain("late-prerouting", Some(Hook::LatePrerouting), find());
    chain("late-output", Some(Hook::LateOutput), find());
    let sources = rule([
        Statement::Match(Match::SourceIn("hosts".into())),
        Statement::Match(Match::AddressesIn("ways".into())),
        Statement::Match(Match::ServiceIn("exposed".into())),
        Statement::Match(Match::BetweenBridges),
        Statement::Masquerade,
    ]);
    chain("sources", Some(Hook::Postrouting), vec![sources]);
}

/// The chains of type filter, with one that they jump to.
fn filters(chain: &mut impl FnMut(&'static str, Option<Hook>, Vec<Rule>), network: ipnetwork::IpNetwork) {
    let drop = || Statement::Verdict(Verdict::Drop);
    let whole = if network.is_ipv4() { 32 } else { 128 };
    let one = ipnetwork::IpNetwork::new(network.ip(), whole).unwrap();
    chain(
        "guard",
        Some(Hook::RawPrerouting),
        vec![
            rule([
                Statement::Match(Match::NotLink(LinkName::Exact("lo".into()))),
                Statement::Match(Match::DestinationInside(network)),
                drop(),
            ]),
            rule([
                Statement::Match(Match::NotLink(LinkName::Prefix("fw".into()))),
                Statement::Match(Match::Link(LinkName::Exact("fifteen-letters".into()))),
                Statement::Match(Match::SourceInside(one)),
                Statement::Counter,
            ]),
        ],
    );
    let filter = || {
        vec![
            rule([Statement::Match(Match::State(State::Invalid)), drop()]),
            rule([
                Statement::Match(Match::State(State::New)),
                Statement::Match(Match::DestinationIn("hosts".into())),
                Statement::Reject,
            ]),
            rule([
                Statement::Match(Match::Port(Protocol::Udp, 8472)),
                Statement::Match(Match::SourceIn("hosts".into())),
                drop(),
            ]),
            rule([
                Statement::Match(Match::DestinationNetworkIn {
                    prefix: network.prefix() + 5,
                    set: "hosts".into(),
                }),
                drop(),
            ]),
            rule([
                Statement::Match(Match::FromThisHost),
                Statement::Verdict(Verdict::Jump("ranges-1".into())),
            ]),
        ]
    };
    chain("forward", Some(Hook::FilterForward), filter());
    chain("local", Some(Hook::FilterOutput), filter());
    chain("input", Some(Hook::FilterInput), filter());
    chain(
        "ranges-1",
        None,
        vec![
            rule([Statement::Match(Match::SourceInside(network)), Statement::Verdict(Verdict::Return)]),
            rule([drop()]),
        ],
    );
}

fairway_lab::sandbox_tests! {
    fn every_word_of_ours_is_taken_and_held_as_written() {
        let mut both = Both::new();

        for family in Family::ALL {
            assert_eq!(both.run(&diff(None, &everything(family))), 0);
        }
    }

    fn nft_lists_every_word_of_ours() {
        let mut both = Both::new();
        for family in Family::ALL {
            both.run(&diff(None, &everything(family)));
        }

        let Some(listing) = both.listing() else { return };
        for family in Family::ALL {
            assert_lists(&listing, &everything(family));
        }
    }

    fn nft_prints_rules_as_we_do() {
        let mut both = Both::new();
        for family in Family::ALL {
            both.run(&diff(None, &everything(family)));
        }

        let Some(listing) = both.text() else { return };
        // nft leaves out what a reset implies.
        let ours = Family::ALL.map(|family| everything(family).to_string()).concat();
        let ours = ours.replace("meta l4proto tcp reject with tcp reset", "reject with tcp reset");
        assert_eq!(chains(&listing).count(), chains(&ours).count());
        for (theirs, ours) in chains(&listing).zip(chains(&ours)) {
            assert_eq!(theirs, ours);
        }
    }

    fn a_network_that_begins_or_ends_in_another_of_its_source_is_refused() {
        let mut both = Both::new();
        let ways = |network: &str| {
            let key = Key::Towards("10.1.0.2".parse().unwrap(), network.parse().unwrap());
            Change::AddElements("ways".into(), WAYS, vec![(key, Data::None.into())])
        };
        let make = vec![Change::AddTable, Change::AddMap("ways".into(), WAYS), ways("10.1.0.0/16")];
        assert_eq!(both.commit(make), 0);

        assert_eq!(both.commit(vec![ways("10.1.0.0/16")]), 0, "the same");
        assert_eq!(both.commit(vec![ways("10.2.0.0/16")]), 0);
        for other in ["10.1.2.0/24", "10.1.0.0/24", "10.1.255.0/24", "10.2.0.0/15"] {
            assert_eq!(both.commit(vec![ways(other)]), errno::EEXIST, "{other}");
        }
        let gone = ["10.1.0.0/16", "10.2.0.0/16"].map(|network| {
            Key::Towards("10.1.0.2".parse().unwrap(), network.parse().unwrap())
        });
        let delete = Change::DeleteElements("ways".into(), WAYS, gone.to_vec());
        assert_eq!(both.commit(vec![delete, ways("10.0.0.0/8")]), 0, "another in its place");
    }

    fn a_table_can_be_added_twice_and_deleted_once() {
        let mut both = Both::new();

        assert_eq!(both.commit(vec![Change::DeleteTable]), errno::ENOENT);
        assert_eq!(both.commit(vec![Change::AddTable, Change::AddTable]), 0);
        assert_eq!(both.commit(vec![Change::DeleteTable]), 0);
        assert_eq!(both.commit(vec![Change::DeleteTable]), errno::ENOENT);
    }

    fn replacing_a_table_leaves_nothing_of_the_old_one() {
        let mut both = Both::new();
        both.run(&diff(None, &everything(Family::Ip)));
        let mut other = Table::new(Family::Ip);
        other.chains.insert("alone".into(), Chain::default());

        let mut replacement = Transaction::default();
        replacement.replace(&other);

        assert_eq!(both.run(&replacement), 0);
    }

    fn a_refused_transaction_changes_nothing() {
        let mut both = Both::new();
        both.commit(vec![Change::AddTable, Change::AddChain("a".into(), None)]);

        let errno = both.commit(vec![Change::AddChain("b".into(), None), Change::DeleteChain("c".into())]);

        assert_eq!(errno, errno::ENOENT);
    }

    fn chains_are_kept_while_something_leads_to_them() {
        let mut both = Both::new();
        let verdict = Element::from(Data::Verdict(Verdict::Goto("b".into())));
        both.commit(vec![
            Change::AddTable,
            Change::AddMap("classes".into(), CLASSES),
            Change::AddChain("a".into(), None),
            Change::AddChain("b".into(), None),
            Change::AddRule("a".into(), rule([goto("b")])),
        ]);

        assert_eq!(both.commit(vec![Change::DeleteChain("b".into())]), errno::EBUSY);
        assert_eq!(both.commit(vec![Change::FlushChain("a".into())]), 0);
        assert_eq!(
            both.commit(vec![Change::AddElements("classes".into(), CLASSES, vec![(Key::Number(8), verdict)])]),
            0
        );
        assert_eq!(both.commit(vec![Change::DeleteChain("b".into())]), errno::EBUSY);
        assert_eq!(both.commit(vec![Change::DeleteElements("classes".into(), CLASSES, vec![Key::Number(8)])]), 0);
        assert_eq!(both.commit(vec![Change::DeleteChain("b".into())]), 0);
        assert_eq!(both.commit(vec![Change::AddRule("a".into(), rule([goto("b")]))]), errno::ENOENT);
    }

    fn chains_keep_their_hook() {
        let mut both = Both::new();
        both.commit(vec![Change::AddTable, Change::AddChain("a".into(), Some(Hook::Output))]);

        assert_eq!(both.commit(vec![Change::AddChain("a".into(), Some(Hook::Output))]), 0);
        assert_eq!(both.commit(vec![Change::AddChain("a".into(), Some(Hook::Prerouting))]), errno::EOPNOTSUPP);
        assert_eq!(
            both.commit(vec![
                Change::AddChain("b".into(), None),
                Change::AddRule("b".into(), rule([goto("a")])),
            ]),
            errno::EOPNOTSUPP
        );
    }

    fn maps_are_kept_while_a_rule_looks_into_them() {
        let mut both = Both::new();
        let look = rule([Statement::SetPriority(Source::ByPort("ports".into())), goto("a")]);
        both.commit(vec![
            Change::AddTable,
            Change::AddMap("ports".into(), PORTS),
            Change::AddChain("a".into(), None),
            Change::AddChain("b".into(), None),
            Change::AddRule("b".into(), look.clone()),
        ]);

        assert_eq!(both.commit(vec![Change::DeleteMap("ports".into())]), errno::EBUSY);
        assert_eq!(both.commit(vec![Change::FlushChain("b".into()), Change::DeleteMap("ports".into())]), 0);
        assert_eq!(both.commit(vec![Change::AddRule("b".into(), look)]), errno::ENOENT);
        assert_eq!(both.commit(vec![Change::DeleteMap("ports".into())]), errno::ENOENT);
    }

    fn maps_keep_their_kind() {
        let mut both = Both::new();
        both.commit(vec![Change::AddTable, Change::AddMap("m".into(), PORTS)]);

        assert_eq!(both.commit(vec![Change::AddMap("m".into(), PORTS)]), 0);
        assert_eq!(both.commit(vec![Change::AddMap("m".into(), SLOTS)]), errno::EEXIST);
    }

    fn an_element_is_replaced_by_removing_it_first() {
        let mut both = Both::new();
        let key = Key::Port(Protocol::Tcp, 30_632);
        let add = |number| Change::AddElements("ports".into(), PORTS, vec![(key, Data::Number(number).into())]);
        let remove = || Change::DeleteElements("ports".into(), PORTS, vec![key]);
        both.commit(vec![Change::AddTable, Change::AddMap("ports".into(), PORTS), add(1)]);

        assert_eq!(both.commit(vec![add(1)]), 0);
        assert_eq!(both.commit(vec![add(2)]), errno::EEXIST);
        assert_eq!(both.commit(vec![remove(), add(2)]), 0);
        assert_eq!(both.commit(vec![remove()]), 0);
        assert_eq!(both.commit(vec![remove()]), errno::ENOENT);
    }

    fn a_refusal_names_the_one_element_among_many() {
        let netns = Netns::make().unwrap();
        let kernel = Socket::open_in(&netns).unwrap();
        let mut transaction = Transaction::default();
        let element = |port, number| (Key::Port(Protocol::Udp, port), Element::from(Data::Number(number)));
        let mut elements: Vec<_> = (1..=5_000).map(|port| element(port, 1)).collect();
        elements.push(element(4_321, 2));
        transaction.push(Family::Ip6, Change::AddTable);
        transaction.push(Family::Ip6, Change::AddMap("ports".into(), PORTS));
        transaction.push(Family::Ip6, Change::AddElements("ports".into(), PORTS, elements));

        let error = kernel.commit(&transaction).unwrap_err();

        assert!(error.is_exists());
        let said = error.to_string();
        assert!(said.starts_with("kernel refuses `add element ip6 fairway ports { udp . 4321 : 0:2 }`"), "{said}");
    }

    fn the_kernel_takes_whatever_is_planned() {
        let mut both = Both::new();
        let mut planner = Planner::new(&Family::ALL, &Settings::default());
        for table in planner.tables() {
            both.run(&diff(None, &table));
        }
        // Every change from any of these to any other: number of endpoints, affinity, node port, and gone.
        let shapes = [Some((0, None)), Some((1, None)), Some((3, None)), Some((1, Some(60))), Some((3, Some(60))), None];
        for (from, to) in shapes.iter().flat_map(|from| shapes.iter().map(move |to| (from, to))) {
            for shape in [from, to] {
                for family in Family::ALL {
                    let port = shape.map(|(endpoints, affinity_seconds)| service_port(family, endpoints, affinity_seconds));
                    planner.set(&service_name(), family, port.as_ref());
                }
                assert_eq!(both.run(&planner.take()), 0, "{from:?} to {to:?}");
                planner.retire();
            }
        }
        assert_eq!(both.run(&planner.take()), 0);
        for table in planner.tables() {
            assert_eq!(both.kernel.held(table.family).unwrap(), Some(Held::from(&table)));
        }
    }

    fn ten_thousand_services_fit_one_transaction() {
        let netns = Netns::make().unwrap();
        let kernel = Socket::open_in(&netns).unwrap();
        let mut table = everything(Family::Ip);
        let services = table.maps.get_mut("services").unwrap();
        for n in 0..10_000_u32 {
            let address = std::net::Ipv4Addr::from_bits(0x0a60_0100 + n).into();
            services.elements.insert(Key::Service(address, Protocol::Tcp, 80), Data::Number(n).into());
        }
        // Without privilege over the machine, one transaction is limited by net.core.wmem_max.
        let limit = std::fs::read_to_string("/proc/sys/net/core/wmem_max").map_or(0, |limit| limit.trim().parse().unwrap());

        let committed = kernel.commit(&diff(None, &table));

        if committed.is_err() && limit < 1 << 20 {
            return;
        }
        committed.unwrap();
        assert_eq!(kernel.held(Family::Ip).unwrap(), Some(Held::from(&table)));
    }
}

fn service_name() -> ServicePortName {
    let (namespace, name, port) = ("default".into(), "web".into(), "http".into());
    ServicePortName { namespace, name, port, protocol: Protocol::Tcp }
}

fn service_port(family: Family, endpoints: u16, affinity_seconds: Option<u32>) -> ServicePort {
    let (cluster_ip, pod): (IpAddr, IpAddr) = match family {
        Family::Ip => ([10, 96, 0, 1].into(), [10, 244, 1, 2].into()),
        Family::Ip6 => ([0xfd00, 0x96, 0, 0, 0, 0, 0, 1].into(), [0xfd00, 0x244, 0, 0, 0, 0, 0, 2].into()),
    };
    let endpoint = |port| Endpoint::new(SocketAddr::new(pod, port), port % 2 == 0);
    ServicePort {
        node_port: (endpoints > 1).then_some(30_632),
        affinity_seconds,
        ..ServicePort::new(cluster_ip, 80, (8_000..8_000 + endpoints).map(endpoint).collect())
    }
}

/// The errnos that the kernel answers with (include/uapi/asm-generic/errno-base.h, errno.h).
mod errno {
    pub(crate) const ENOENT: i32 = 2;
    pub(crate) const EBUSY: i32 = 16;
    pub(crate) const EEXIST: i32 = 17;
    pub(crate) const EOPNOTSUPP: i32 = 95;
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

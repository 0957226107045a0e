//! The API server as a source: whatever goes wrong on the way, the daemon knows in the end what the API server holds.
//!
//! The double answers in the same process, and the clock is tokio's own, which goes on when all wait: minutes of silence take no time.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::{collections::BTreeMap, convert::Infallible, fs, path::Path, time::Duration};

use fairway_api_double::{Double, Fault, Kind};
use kube::Client;
use proptest::prelude::*;
use proxy::{
    kept::{Owner, store::Store},
    objects::{self, Object, ObjectName},
    watch::{
        Change, Event,
        kubernetes::{Access, Kubernetes},
    },
};
use serde_json::{Value, json};
use tokio::{
    runtime,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Longer than everything that the daemon waits for, one after the other.
const LONG: Duration = Duration::from_hours(1);

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(test)
}

fn client(double: &Double) -> Client {
    let double = double.clone();
    let service = tower::service_fn(move |request| {
        let double = double.clone();
        async move { Ok::<_, Infallible>(double.answer(request).await) }
    });
    Client::new(service, "default")
}

/// What has been told, as whoever listens would know it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    objects: BTreeMap<(objects::Kind, ObjectName), Object>,
    lists: usize,
    is_confirmed: bool,
    events: usize,
}

impl Known {
    fn take_in(&mut self, event: Event) {
        self.events += 1;
        let (kind, change) = match event {
            Event::Listed => {
                self.lists += 1;
                return;
            }
            Event::Confirmed => {
                self.is_confirmed = true;
                return;
            }
            Event::Service(change) => (objects::Kind::Service, erased(change, Object::Service)),
            Event::EndpointSlice(change) => {
                (objects::Kind::EndpointSlice, erased(change, Object::EndpointSlice))
            }
            Event::Node(change) => (objects::Kind::Node, erased(change, Object::Node)),
            Event::ServiceCidr(change) => (objects::Kind::ServiceCidr, erased(change, Object::ServiceCidr)),
        };
        match change {
            Ok(object) => drop(self.objects.insert((kind, object.name().clone()), object)),
            Err(name) => drop(self.objects.remove(&(kind, name))),
        }
    }
}

fn erased<T>(change: Change<T>, object: impl Fn(std::sync::Arc<T>) -> Object) -> Result<Object, ObjectName> {
    match change {
        Change::Set(set) => Ok(object(set)),
        Change::Gone(name) => Err(name),
    }
}

/// What an honest listener should know of a double.
fn held(double: &Double) -> BTreeMap<(objects::Kind, ObjectName), Object> {
    let kinds = [
        (Kind::Service, objects::Kind::Service),
        (Kind::EndpointSlice, objects::Kind::EndpointSlice),
        (Kind::Node, objects::Kind::Node),
        (Kind::ServiceCidr, objects::Kind::ServiceCidr),
    ];
    let all =
        kinds.into_iter().flat_map(|(kind, ours)| double.objects(kind).into_iter().map(move |o| (ours, o)));
    let labelled = |object: &Value| {
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
        ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"]
            .iter()
            .any(|label| labels.is_some_and(|labels| labels.contains_key(*label)))
    };
    all.filter(|(_, object)| !labelled(object))
        .filter_map(|(kind, object)| {
            Object::of_kind(kind, &object.to_string()).ok().map(|object| (kind, object))
        })
        .map(|(kind, object)| ((kind, object.name().clone()), object))
        .collect()
}

/// A daemon's source and what it has told.
struct Listener {
    events: mpsc::Receiver<Event>,
    known: Known,
    cancelled: CancellationToken,
}

impl Listener {
    fn start(source: Kubernetes) -> Self {
        let (sender, events) = mpsc::channel(8);
        let cancelled = CancellationToken::new();
        tokio::spawn(source.run(sender, cancelled.clone()));
        Self { events, known: Known::default(), cancelled }
    }

    fn of(double: &Double) -> Self {
        Self::start(Kubernetes::new(Access::through(client(double))))
    }

    /// Listens until something holds; fails if it never does.
    async fn until(&mut self, mut holds: impl FnMut(&Known) -> bool) {
        let listen = async {
            while !holds(&self.known) {
                let event = self.events.recv().await.expect("the source has ended");
                self.known.take_in(event);
            }
        };
        let is_so = timeout(LONG, listen).await.is_ok();
        assert!(is_so, "it never comes to know: {:#?}", self.known.objects.keys());
    }

    /// Listens for a time.
    async fn listen(&mut self, time: Duration) {
        let listen = async {
            while let Some(event) = self.events.recv().await {
                self.known.take_in(event);
            }
        };
        drop(timeout(time, listen).await);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.cancelled.cancel();
    }
}

fn service(name: &str, port: u16) -> Value {
    json!({
        "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]},
    })
}

fn slice(name: &str, address: u8) -> Value {
    json!({
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"port": 80}], "endpoints": [{"addresses": [format!("10.244.0.{address}")]}],
    })
}

fn node(name: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": "192.168.14.50"}]}})
}

#[test]
fn all_kinds_are_listed_before_anything_is_said_to_be() {
    run(async {
        let double = Double::default();
        double.put(&service("web", 80));
        double.put(&slice("web-1", 2));
        double.put(&node("w1"));
        double.order(Fault::Status(500), Some(Kind::EndpointSlice));
        let mut listener = Listener::of(&double);

        listener.until(|known| known.lists == 1).await;

        assert_eq!(listener.known.objects, held(&double));
        assert_eq!(listener.known.objects.len(), 3);
    });
}

#[test]
fn lists_come_in_pages_and_one_that_is_too_old_to_go_on_from_is_begun_anew() {
    run(async {
        let double = Double::default();
        for number in 0..1_200 {
            double.put(&service(&format!("s{number}"), 80));
        }
        let mut listener = Listener::of(&double);
        // After the first page: it is 8 events behind.
        listener.until(|known| known.events > 0).await;
        double.delete(Kind::Service, "shop", "s0");
        double.compact();

        listener.until(|known| known.lists == 1).await;
        listener.until(|known| known.objects == held(&double)).await;

        assert_eq!(listener.known.objects.len(), 1_199);
        assert!(double.requests("list /api/v1/services") > 2);
    });
}

#[test]
fn services_that_another_proxy_serves_are_never_heard_of() {
    run(async {
        let double = Double::default();
        let labelled = |label: &str| {
            let mut service = service("theirs", 80);
            service["metadata"]["labels"] = json!({label: "x"});
            service
        };
        double.put(&labelled("service.kubernetes.io/service-proxy-name"));
        let mut listener = Listener::of(&double);
        listener.until(|known| known.lists == 1).await;
        assert!(listener.known.objects.is_empty());

        double.put(&service("theirs", 80));
        listener.until(|known| known.objects.len() == 1).await;
        double.put(&labelled("service.kubernetes.io/headless"));

        listener.until(|known| known.objects.is_empty()).await;
    });
}

#[test]
fn a_watch_goes_on_where_it_was_whatever_ends_it() {
    for fault in [
        Fault::CutAfter(40),
        Fault::EndAfter(40),
        Fault::Silence,
        Fault::Hang,
        Fault::Status(503),
        Fault::Garbage,
    ] {
        run(async {
            let double = Double::default();
            double.put(&service("web", 80));
            let mut listener = Listener::of(&double);
            listener.until(|known| known.lists == 1).await;
            let lists = double.requests("list /api/v1/services");

            double.order(fault, Some(Kind::Service));
            double.cut();
            listener.listen(Duration::from_millis(1)).await;
            double.put(&service("web", 81));

            listener.until(|known| known.objects == held(&double)).await;
            assert_eq!(double.requests("list /api/v1/services"), lists, "listed anew after {fault:?}");
        });
    }
}

#[test]
fn what_has_gone_while_nobody_looked_is_gone() {
    run(async {
        let double = Double::default();
        double.put(&service("web", 80));
        double.put(&service("api", 80));
        let mut listener = Listener::of(&double);
        listener.until(|known| known.lists == 1).await;

        for _ in 0..3 {
            double.order(Fault::Status(500), Some(Kind::Service));
        }
        double.cut();
        listener.listen(Duration::from_millis(1)).await;
        double.delete(Kind::Service, "shop", "api");
        double.compact();

        listener.until(|known| known.objects == held(&double)).await;
        assert_eq!(listener.known.objects.len(), 1);
    });
}

#[test]
fn an_object_that_makes_no_sense_is_left_as_it_was_and_holds_up_no_other() {
    run(async {
        let double = Double::default();
        double.put(&service("web", 80));
        let mut listener = Listener::of(&double);
        listener.until(|known| known.lists == 1).await;

        let mut nonsense = service("web", 80);
        nonsense["spec"]["ports"] = json!("many");
        double.put(&nonsense);
        double.put(&service("api", 80));
        listener.until(|known| known.objects.len() == 2).await;
        let mut anew = Listener::of(&double);
        anew.until(|known| known.lists == 1).await;

        assert_eq!(anew.known.objects.len(), 1);
    });
}

#[test]
fn an_api_server_without_service_cidrs_is_followed_all_the_same() {
    for status in [403, 404] {
        run(async {
            let double = Double::default();
            double.put(&service("web", 80));
            double.order(Fault::Status(status), Some(Kind::ServiceCidr));
            let mut listener = Listener::of(&double);

            listener.until(|known| known.lists == 1).await;
            double.put(&json!({"kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12"]}}));

            listener.until(|known| known.objects.len() == 2).await;
        });
    }
}

#[test]
fn while_nothing_happens_nothing_is_asked_for_but_the_watches() {
    run(async {
        let double = Double::default();
        double.put(&service("web", 80));
        let mut listener = Listener::of(&double);
        listener.until(|known| known.is_confirmed).await;
        let events = listener.known.events;

        listener.listen(Duration::from_hours(1)).await;

        assert_eq!(listener.known.events, events);
        assert_eq!(double.requests("list /api/v1/services"), 1);
        // Each lasts 145 s at least.
        assert!(double.requests("watch /api/v1/services") <= 25);
    });
}

#[test]
fn only_this_node_is_asked_for_where_no_other_is_needed() {
    run(async {
        let double = Double::default();
        double.put(&node("w1"));
        double.put(&node("w2"));
        let source = Kubernetes::new(Access::through(client(&double))).with_own_node_only("w2");
        let mut listener = Listener::start(source);

        listener.until(|known| known.lists == 1).await;

        assert_eq!(listener.known.objects.len(), 1);
    });
}

/// Where a daemon of this test keeps what it knows, with what it has kept already.
fn keeping(objects: &[Value]) -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let owner = Owner { node: "w1".into(), server: "https://192.168.14.50:6443/".into() };
    let store = Store::new(directory.path().to_str().unwrap(), owner);
    let objects: Vec<_> =
        objects.iter().map(|object| Object::parse(object.clone()).unwrap().unwrap()).collect();
    store.save(&objects).unwrap();
    (directory, store)
}

fn remembering(double: &Double, store: Store) -> Listener {
    Listener::start(Kubernetes::new(Access::through(client(double))).remembering(store))
}

/// What is known, as text.
fn names(known: &Known) -> Vec<String> {
    known.objects.keys().map(|(kind, name)| format!("{kind} {name}")).collect()
}

#[test]
fn what_was_known_last_is_served_where_the_api_server_does_not_answer() {
    for fault in [Fault::Status(500), Fault::Hang, Fault::Garbage, Fault::Status(401)] {
        run(async {
            let double = Double::default();
            double.put(&service("new", 80));
            for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr] {
                double.order(fault, Some(kind));
            }
            let (_directory, store) = keeping(&[service("old", 80), slice("old-1", 2), node("w1")]);
            let mut listener = remembering(&double, store);

            listener.until(|known| known.lists == 1).await;
            let began = names(&listener.known);
            assert!(!listener.known.is_confirmed, "after {fault:?}");
            listener.until(|known| known.is_confirmed).await;

            assert_eq!(began, ["Service shop/old", "EndpointSlice shop/old-1", "Node w1"], "after {fault:?}");
            assert_eq!(listener.known.objects, held(&double), "after {fault:?}");
        });
    }
}

#[test]
fn what_was_known_last_is_not_asked_for_where_the_api_server_answers() {
    run(async {
        let double = Double::default();
        double.put(&service("web", 80));
        let (_directory, store) = keeping(&[service("old", 80)]);
        let mut listener = remembering(&double, store);

        listener.until(|known| known.is_confirmed).await;

        assert_eq!(listener.known.events, 1 + 2, "a service, Listed and Confirmed");
    });
}

#[test]
fn what_the_api_server_has_told_is_newer_than_what_was_known_last() {
    run(async {
        let double = Double::default();
        double.put(&service("web", 81));
        for number in 0..600 {
            double.put(&service(&format!("z{number}"), 80));
        }
        let (_directory, store) = keeping(&[service("web", 80), service("old", 80)]);
        let mut listener = remembering(&double, store);
        // After the first page.
        listener.until(|known| known.events > 0).await;
        double.order(Fault::Status(500), Some(Kind::Service));

        listener.until(|known| known.lists == 1).await;

        let told: Vec<_> = names(&listener.known);
        assert!(told.contains(&"Service shop/old".to_owned()), "{told:?}");
        let web = listener.known.objects.values().find(|object| &*object.name().name == "web").unwrap();
        let Object::Service(web) = web else { panic!("{web:?}") };
        assert_eq!(web.ports[0].port, 81);
        listener.until(|known| known.is_confirmed).await;
        assert_eq!(listener.known.objects, held(&double));
    });
}

#[test]
#[expect(clippy::disallowed_methods, reason = "plays a disk that fails")]
fn what_was_kept_of_another_cluster_or_is_damaged_is_not_served() {
    let damage: [fn(&Path); 3] = [
        |file| fs::write(file, "fairway-state 1\n0123456789abcdef\n{}\n").unwrap(),
        |file| fs::write(file, "").unwrap(),
        |file| {
            let owner = Owner { node: "w1".into(), server: "https://10.0.0.1/".into() };
            let old = Object::parse(service("old", 80)).unwrap().unwrap();
            Store::new(file.parent().unwrap().to_str().unwrap(), owner).save(&[old]).unwrap();
        },
    ];
    for damage in damage {
        run(async {
            let double = Double::default();
            double.order(Fault::Status(500), None);
            let (directory, store) = keeping(&[service("old", 80)]);
            damage(&directory.path().join("state"));
            let mut listener = remembering(&double, store);

            listener.until(|known| known.is_confirmed).await;

            assert_eq!(listener.known.events, 2, "Listed and Confirmed");
        });
    }
}

/// Something that happens to the API server or on the way to it.
#[derive(Debug, Clone)]
enum Step {
    Put(Value),
    Delete(Kind, String),
    Order(Fault, Option<Kind>),
    Cut,
    Compact,
    Wait(Duration),
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Service), Just(Kind::EndpointSlice), Just(Kind::Node)]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        prop_oneof![Just(401), Just(403), Just(404), Just(410), Just(429), Just(500), Just(503)]
            .prop_map(Fault::Status),
        Just(Fault::Hang),
        (0_usize..2_000).prop_map(Fault::CutAfter),
        (0_usize..2_000).prop_map(Fault::EndAfter),
        Just(Fault::Garbage),
        Just(Fault::Gone),
        Just(Fault::Silence),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = |kind: Kind, number: u8| match kind {
        Kind::Node => format!("w{number}"),
        _ => format!("web-{number}"),
    };
    let object = (kind(), 0_u8..4, 1_u8..100).prop_map(move |(kind, number, content)| match kind {
        Kind::EndpointSlice => slice(&name(kind, number), content),
        Kind::Node => node(&name(kind, number)),
        _ => service(&name(kind, number), u16::from(content)),
    });
    let step = prop_oneof![
        6 => object.prop_map(Step::Put),
        3 => (kind(), 0_u8..4).prop_map(move |(kind, number)| Step::Delete(kind, name(kind, number))),
        4 => (fault(), proptest::option::of(kind())).prop_map(|(fault, kind)| Step::Order(fault, kind)),
        1 => Just(Step::Cut),
        1 => Just(Step::Compact),
        3 => (0_u64..200_000).prop_map(|ms| Step::Wait(Duration::from_millis(ms))),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_goes_wrong_the_daemon_knows_in_the_end_what_the_api_server_holds(steps in steps()) {
        run(async {
            let double = Double::default();
            let mut listener = Listener::of(&double);
            for step in steps {
                match step {
                    Step::Put(object) => drop(double.put(&object)),
                    Step::Delete(kind, name) => {
                        let namespace = if kind == Kind::Node { "" } else { "shop" };
                        double.delete(kind, namespace, &name);
                    }
                    Step::Order(fault, kind) => double.order(fault, kind),
                    Step::Cut => double.cut(),
                    Step::Compact => double.compact(),
                    Step::Wait(time) => listener.listen(time).await,
                }
            }
            double.heal();

            listener.until(|known| known.lists == 1 && known.objects == held(&double)).await;
            listener.listen(Duration::from_mins(20)).await;
            assert_eq!(listener.known.objects, held(&double));
            sleep(Duration::ZERO).await;
        });
    }
}

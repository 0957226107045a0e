use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::timeout;

use super::*;

/// What is open, by place: by whom and, as long as it is served, what for. And which places refuse.
#[derive(Debug, Clone, Default)]
struct Machine(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<Place, (&'static str, watch::Receiver<u32>)>,
    refused: BTreeSet<Place>,
    /// Nothing more can be opened.
    is_short: bool,
    attempts: usize,
    /// Places whose task is to end.
    broken: Arc<tokio::sync::Notify>,
}

struct Open(Machine, Place);

/// Keeps what is logged.
#[derive(Clone)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl io::Write for Said {
    fn write(&mut self, said: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(said);
        Ok(said.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().open.remove(&self.1);
    }
}

impl Serve for Machine {
    type Owner = &'static str;
    type Purpose = u32;

    const NAME: &'static str = "test port";

    fn open(
        &self,
        owner: &&'static str,
        place: Place,
        purpose: watch::Receiver<u32>,
    ) -> io::Result<BoxFuture<'static, ()>> {
        let mut state = self.0.lock().unwrap();
        state.attempts += 1;
        if state.is_short {
            return Err(io::Error::from_raw_os_error(nix::errno::Errno::EMFILE as i32));
        }
        if state.refused.contains(&place) || state.open.contains_key(&place) {
            return Err(io::Error::from_raw_os_error(nix::errno::Errno::EADDRINUSE as i32));
        }
        state.open.insert(place, (owner, purpose));
        let (open, broken) = (Open(self.clone(), place), Arc::clone(&state.broken));
        Ok(Box::pin(async move {
            let _open = open;
            broken.notified().await;
        }))
    }
}

impl Machine {
    /// What is open, in words.
    fn open(&self) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let line = |(place, (owner, purpose)): (&Place, &(&str, watch::Receiver<u32>))| {
            format!("{}: {owner} {}", place.address.port(), *purpose.borrow())
        };
        state.open.iter().map(line).collect()
    }

    fn attempts(&self) -> usize {
        self.0.lock().unwrap().attempts
    }

    fn refuse(&self, port: u16, is_refused: bool) {
        let refused = &mut self.0.lock().unwrap().refused;
        if is_refused {
            refused.insert(at(port))
        } else {
            refused.remove(&at(port))
        };
    }
}

fn at(port: u16) -> Place {
    Place { protocol: Protocol::Tcp, address: ([127, 0, 0, 1], port).into() }
}

fn listeners() -> (Listeners<Machine>, Machine) {
    let machine = Machine::default();
    (Listeners::new(machine.clone()), machine)
}

/// Lets time pass, and whatever is due in it happen.
async fn pass(listeners: &mut Listeners<Machine>, time: Duration) {
    let end = Instant::now() + time;
    while timeout(end - Instant::now(), listeners.unsettled()).await.is_ok() {
        listeners.settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_is_open_and_nothing_else() {
    let (mut listeners, machine) = listeners();

    listeners.want(&"a", [(at(1), 10), (at(2), 20)]);
    listeners.want(&"b", [(at(3), 30)]);
    listeners.settle().await;
    assert_eq!(machine.open(), ["1: a 10", "2: a 20", "3: b 30"]);

    listeners.want(&"a", [(at(2), 20), (at(4), 40)]);
    listeners.want(&"b", []);
    listeners.settle().await;
    assert_eq!(machine.open(), ["2: a 20", "4: a 40"]);
}

#[tokio::test(start_paused = true)]
async fn another_purpose_reaches_a_socket_that_stays_open() {
    let (mut listeners, machine) = listeners();
    listeners.want(&"a", [(at(1), 10)]);
    listeners.settle().await;

    listeners.want(&"a", [(at(1), 11)]);
    listeners.settle().await;

    assert_eq!((machine.open(), machine.attempts()), (vec!["1: a 11".to_owned()], 1));
}

#[tokio::test(start_paused = true)]
async fn a_port_can_change_hands_at_once_in_whatever_order_it_is_told() {
    let (mut listeners, machine) = listeners();
    listeners.want(&"b", [(at(1), 0)]);
    listeners.settle().await;

    listeners.want(&"a", [(at(1), 0)]);
    listeners.want(&"b", []);
    listeners.settle().await;

    assert_eq!((machine.open(), machine.attempts()), (vec!["1: a 0".to_owned()], 2));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_opened_is_counted_as_long_as_it_cannot() {
    let (listeners, machine) = listeners();
    let unopened = Gauge::default();
    let mut listeners = listeners.telling_unopened(unopened.clone());
    machine.refuse(1, true);
    machine.refuse(2, true);

    listeners.want(&"a", [(at(1), 0), (at(2), 0), (at(3), 0)]);
    listeners.settle().await;
    assert_eq!(unopened.get(), 2);

    machine.refuse(1, false);
    pass(&mut listeners, Duration::from_secs(2)).await;
    assert_eq!(unopened.get(), 1);
    listeners.want(&"a", [(at(1), 0)]);
    listeners.settle().await;
    assert_eq!(unopened.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_tried_again_less_and_less_often_and_others_go_on() {
    let (mut listeners, machine) = listeners();
    machine.refuse(1, true);

    listeners.want(&"a", [(at(1), 0)]);
    listeners.want(&"b", [(at(2), 0)]);
    listeners.settle().await;
    assert_eq!(machine.open(), ["2: b 0"]);
    pass(&mut listeners, Duration::from_secs(8)).await; // after 1, 2 and 4 more
    assert_eq!(machine.attempts(), 2 + 3);

    machine.refuse(1, false);
    pass(&mut listeners, Duration::from_secs(8)).await;
    assert_eq!(machine.open(), ["1: a 0", "2: b 0"]);
}

#[tokio::test(start_paused = true)]
async fn that_there_is_no_room_for_more_is_said_once_for_all() {
    let said = Arc::new(Mutex::new(Vec::new()));
    let writer = Said(Arc::clone(&said));
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _listening = tracing::subscriber::set_default(subscriber);
    let (mut listeners, machine) = listeners();
    let complaints = || {
        let said = String::from_utf8(said.lock().unwrap().clone()).unwrap();
        said.lines().filter(|line| line.contains("WARN") && line.contains("ulimit -n")).count()
    };

    for _ in 1..=2 {
        machine.0.lock().unwrap().is_short = true;
        listeners.want(&"a", (1..=50).map(|port| (at(port), 0)));
        listeners.settle().await;
        listeners.want(&"b", (51..=100).map(|port| (at(port), 0)));
        listeners.settle().await;
        pass(&mut listeners, Duration::from_mins(1)).await;
        machine.0.lock().unwrap().is_short = false;
        pass(&mut listeners, Duration::from_mins(1)).await;
        assert_eq!(machine.open().len(), 100);
        listeners.want(&"a", []);
        listeners.want(&"b", []);
        listeners.settle().await;
    }

    assert_eq!(complaints(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_tried_at_once_when_its_owner_is_spoken_of() {
    let (mut listeners, machine) = listeners();
    machine.refuse(1, true);
    listeners.want(&"a", [(at(1), 0)]);
    listeners.settle().await;
    machine.refuse(1, false);

    listeners.want(&"a", [(at(1), 0)]);
    listeners.settle().await;

    assert_eq!(machine.open(), ["1: a 0"]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_another_of_ours_is_opened_when_that_goes() {
    let (mut listeners, machine) = listeners();
    listeners.want(&"a", [(at(1), 0)]);
    listeners.want(&"b", [(at(1), 0)]);
    listeners.settle().await;
    assert_eq!(machine.open(), ["1: a 0"]);

    listeners.want(&"a", []);
    listeners.settle().await;

    assert_eq!(machine.open(), ["1: b 0"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_wanted_is_not_tried_again() {
    let (mut listeners, machine) = listeners();
    machine.refuse(1, true);
    listeners.want(&"a", [(at(1), 0)]);
    listeners.settle().await;

    listeners.want(&"a", []);
    pass(&mut listeners, Duration::from_mins(10)).await;

    assert_eq!(machine.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ends_is_noticed_and_begun_anew() {
    let (mut listeners, machine) = listeners();
    listeners.want(&"a", [(at(1), 0)]);
    listeners.settle().await;
    tokio::task::yield_now().await;

    machine.0.lock().unwrap().broken.notify_waiters();
    pass(&mut listeners, Duration::from_secs(2)).await;

    assert_eq!((machine.open(), machine.attempts()), (vec!["1: a 0".to_owned()], 2));
}

#[tokio::test]
async fn an_address_that_stands_for_all_is_listened_on_in_both_families() {
    for all in ["0.0.0.0:0", "[::]:0"] {
        let listener = socket::tcp_of_all(all.parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let has_ipv6 = std::path::Path::new("/proc/net/if_inet6").exists();
        for host in ["127.0.0.1", "::1"].into_iter().take(if has_ipv6 { 2 } else { 1 }) {
            tokio::net::TcpStream::connect((host, port)).await.unwrap();
        }
    }
    let one = socket::tcp_of_all("127.0.0.1:0".parse().unwrap()).unwrap();
    assert!(one.local_addr().unwrap().is_ipv4());
}

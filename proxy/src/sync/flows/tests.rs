use std::net::SocketAddr;

use dataplane::{
    conntrack::{Fake, Filter, Tuple},
    nft::Key,
    packet::{Family, Protocol},
};
use tokio::task::JoinHandle;

use super::*;
use crate::plan::flows::Answerers;

/// A machine whose addresses nobody asks for.
struct Nowhere;

impl Machine for Nowhere {
    async fn own_addresses(&self) -> Result<OwnAddresses, rtnl::Error> {
        Ok(OwnAddresses::default())
    }
}

/// Flows in memory, shared with the test, and how often they were listed.
#[derive(Debug, Clone, Default)]
struct Shared(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    fake: Fake,
    listed_at: Vec<Instant>,
    /// A list fails as often.
    failures: usize,
    /// Comes after the first list was made.
    late: Option<Flow>,
    /// Is said after a list was made.
    news: Option<(Backlog, Suspects)>,
}

#[derive(Debug, thiserror::Error)]
#[error("no list")]
struct NoList;

impl Conntrack for Shared {
    type Error = NoList;

    fn flows(
        &mut self,
        filter: &Filter,
        is_wanted: &mut dyn FnMut(&Flow) -> bool,
    ) -> Result<Vec<Flow>, NoList> {
        let mut kept = self.0.lock().unwrap();
        kept.listed_at.push(Instant::now());
        if kept.failures > 0 {
            kept.failures -= 1;
            return Err(NoList);
        }
        let flows = kept.fake.flows(filter, is_wanted).unwrap();
        let late = kept.late.take();
        kept.fake.flows.extend(late);
        if let Some((backlog, suspects)) = kept.news.take() {
            backlog.add(suspects);
        }
        Ok(flows)
    }

    fn delete(&mut self, flows: &[Flow]) -> Result<usize, NoList> {
        Ok(self.0.lock().unwrap().fake.delete(flows).unwrap())
    }
}

impl Shared {
    fn of(flows: Vec<Flow>) -> Self {
        let shared = Self::default();
        shared.0.lock().unwrap().fake.flows = flows;
        shared
    }

    fn with(self, change: impl FnOnce(&mut Kept)) -> Self {
        change(&mut self.0.lock().unwrap());
        self
    }

    /// Whom the flows lead to that are left.
    fn left(&self) -> Vec<String> {
        let kept = self.0.lock().unwrap();
        kept.fake.flows.iter().map(|flow| flow.answerer().to_string()).collect()
    }

    fn lists(&self) -> usize {
        self.0.lock().unwrap().listed_at.len()
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn tcp(client_port: u16, answerer: &str) -> Flow {
    Flow { protocol: Protocol::Tcp, is_answered: false, ..flow(client_port, answerer) }
}

fn flow(client_port: u16, answerer: &str) -> Flow {
    let client = SocketAddr::new([10, 244, 9, 9].into(), client_port);
    Flow {
        protocol: Protocol::Udp,
        original: Tuple { source: client, destination: at("10.96.0.10:53") },
        reply: Tuple { source: at(answerer), destination: client },
        is_answered: true,
        zone: 0,
        id: client_port.into(),
    }
}

/// The one address, and who may answer there.
fn suspects(answerer: &str) -> Suspects {
    suspects_of(Protocol::Udp, answerer)
}

fn suspects_of(protocol: Protocol, answerer: &str) -> Suspects {
    let mut suspects = Suspects::default();
    let key = Key::Service([10, 96, 0, 10].into(), protocol, 53);
    let serving = [at(answerer)].into();
    suspects.add(Family::Ip, key, Answerers::Endpoints { serving, silent: [].into() });
    suspects
}

fn start(backlog: &Backlog, conntrack: &Shared) -> JoinHandle<()> {
    let flows = Flows::new(backlog.clone(), conntrack.clone(), Nowhere, false);
    tokio::spawn(flows.run(CancellationToken::new()))
}

/// Waits until `conntrack` has been listed so often, and what was found is dealt with: the task sleeps.
async fn listed(conntrack: &Shared, times: usize) {
    while conntrack.lists() < times {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn what_leads_astray_is_ended_and_the_rest_goes_on() {
    let conntrack = Shared::of(vec![flow(1, "10.244.1.1:5353"), flow(2, "10.244.1.2:5353")]);
    let backlog = Backlog::default();
    start(&backlog, &conntrack);

    backlog.add(suspects("10.244.1.2:5353"));

    listed(&conntrack, 1).await;
    assert_eq!(conntrack.left(), ["10.244.1.2:5353"]);
}

#[tokio::test(start_paused = true)]
async fn what_began_by_old_rules_just_before_the_commit_is_ended_by_a_second_look() {
    let late = flow(3, "10.244.1.1:5353");
    let conntrack = Shared::of(vec![]).with(|kept| kept.late = Some(late));
    let backlog = Backlog::default();
    start(&backlog, &conntrack);

    backlog.add(suspects("10.244.1.2:5353"));

    listed(&conntrack, 1).await;
    assert_eq!(conntrack.left(), ["10.244.1.1:5353"]);
    listed(&conntrack, 2).await;
    assert_eq!(conntrack.left(), Vec::<String>::new());
    let listed_at = conntrack.0.lock().unwrap().listed_at.clone();
    assert!(listed_at[1] - listed_at[0] >= SETTLED);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_listed_without_a_change_and_no_more_than_twice_for_one() {
    let conntrack = Shared::default();
    let backlog = Backlog::default();
    start(&backlog, &conntrack);
    sleep(Duration::from_hours(1)).await;
    assert_eq!(conntrack.lists(), 0);

    backlog.add(suspects("10.244.1.2:5353"));
    sleep(Duration::from_hours(1)).await;

    assert_eq!(conntrack.lists(), 2);
}

#[tokio::test(start_paused = true)]
async fn changes_that_follow_each_other_share_their_looks() {
    let conntrack = Shared::default();
    let backlog = Backlog::default();
    start(&backlog, &conntrack);

    for _ in 0..1_000 {
        backlog.add(suspects("10.244.1.2:5353"));
        sleep(Duration::from_millis(1)).await;
    }

    let lists = conntrack.lists();
    assert!((9..=12).contains(&lists), "{lists} looks in a second");
}

#[tokio::test(start_paused = true)]
async fn tcp_is_looked_at_once_for_each_change_before_clients_send_again() {
    let conntrack = Shared::of(vec![tcp(1, "10.244.1.1:5353")]).with(|kept| kept.late = None);
    let backlog = Backlog::default();
    start(&backlog, &conntrack);
    let began = Instant::now();

    for _ in 0..1_000 {
        backlog.add(suspects_of(Protocol::Tcp, "10.244.1.2:5353"));
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_hours(1)).await;

    let listed_at = conntrack.0.lock().unwrap().listed_at.clone();
    let after: Vec<_> = listed_at.iter().map(|at| (*at - began).as_millis() / 100).collect();
    assert_eq!(after, [4, 8, 12, 16]); // in tenths of a second; the last change came after one, and was seen to before two
    assert_eq!(conntrack.left(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn tcp_is_judged_by_the_newest_when_its_time_comes() {
    let conntrack = Shared::of(vec![tcp(1, "10.244.1.1:5353"), tcp(2, "10.244.1.2:5353")]);
    let backlog = Backlog::default();
    start(&backlog, &conntrack);

    backlog.add(suspects_of(Protocol::Tcp, "10.244.1.1:5353"));
    sleep(Duration::from_millis(200)).await;
    backlog.add(suspects_of(Protocol::Tcp, "10.244.1.2:5353"));

    listed(&conntrack, 1).await;
    assert_eq!(conntrack.left(), ["10.244.1.2:5353"]);
}

#[tokio::test(start_paused = true)]
async fn what_there_is_news_of_is_not_judged_by_what_is_old() {
    let conntrack = Shared::of(vec![flow(1, "10.244.1.1:5353")]);
    let backlog = Backlog::default();
    let news = (backlog.clone(), suspects("10.244.1.1:5353"));
    let conntrack = conntrack.with(|kept| kept.news = Some(news));
    start(&backlog, &conntrack);

    backlog.add(suspects("10.244.1.2:5353"));

    listed(&conntrack, 2).await;
    assert_eq!(conntrack.left(), ["10.244.1.1:5353"]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again() {
    let conntrack = Shared::of(vec![flow(1, "10.244.1.1:5353")]).with(|kept| kept.failures = 3);
    let backlog = Backlog::default();
    start(&backlog, &conntrack);

    backlog.add(suspects("10.244.1.2:5353"));

    listed(&conntrack, 4).await;
    assert_eq!(conntrack.left(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_is_new_does_not_wait_for_what_goes_on_failing() {
    let conntrack = Shared::default().with(|kept| kept.failures = usize::MAX);
    let backlog = Backlog::default();
    start(&backlog, &conntrack);
    backlog.add(suspects("10.244.1.2:5353"));
    listed(&conntrack, 8).await; // by now there are 30 s in between

    let conntrack = conntrack.with(|kept| {
        kept.failures = 0;
        kept.fake.flows.push(flow(1, "10.244.1.2:5353"));
    });
    let told = Instant::now();
    backlog.add(suspects("10.244.1.3:5353"));

    listed(&conntrack, 9).await;
    assert_eq!(conntrack.left(), Vec::<String>::new());
    assert!(told.elapsed() <= Duration::from_secs(1), "{:?}", told.elapsed());
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_it_is_told_to() {
    let (backlog, cancelled) = (Backlog::default(), CancellationToken::new());
    let task = tokio::spawn(Flows::new(backlog, Shared::default(), Nowhere, false).run(cancelled.clone()));

    cancelled.cancel();

    task.await.unwrap();
}

//! `bench net`: how much flows between pods, and how long one waits for the other, by every way that there is.
//!
//! ```text
//! veth             two machines and a pair of links: what there is to lose
//! node             pod to pod on one node
//! direct           pod to pod across nodes, by a route          service_direct   the same through a cluster IP
//! vxlan            pod to pod across nodes, through a tunnel    service_vxlan    the same through a cluster IP
//! by_hand_node …   the same ways, but for the cluster IP, of links and routes that no program of ours made: no table looks at their packets
//! ```
//!
//! One stream of TCP for as long as asked, then questions of one byte, one after the other. All ways are measured in turns, since other
//! things happen on the machine, and every other turn the other way round; what is compared was measured in the same turn. Shown is the middle
//! one of the turns.

mod by_hand;

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;

use self::by_hand::ByHand;
use super::figures::{Samples, measure as timed, median, rounded};
use crate::{
    binaries::Binaries,
    cluster::Cluster,
    manifest::{Object, parse},
    wait,
};

/// Questions in one measure.
const QUESTIONS: usize = 2_000;

/// What is sent at once in a stream.
const AT_ONCE: usize = 128 << 10;

const PORT: u16 = 9;
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 105, 77, 250);
const PATIENCE: Duration = Duration::from_secs(2);

/// One way, measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct WayFigures {
    mbit_s: f64,
    /// Of what a bare pair of links takes.
    ratio: f64,
    /// Of what the same way takes, or the one that is behind the cluster IP, when it is made by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_by_hand: Option<f64>,
    rtt_us: f64,
    /// The same of the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_ratio_by_hand: Option<f64>,
}

/// What was measured of one way, turn by turn.
#[derive(Debug, Clone, Default, PartialEq)]
struct Turns {
    mbit_s: Vec<f64>,
    rtt_us: Vec<f64>,
}

/// What `bench net` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct NetFigures {
    seconds: u32,
    turns: u32,
    #[serde(flatten)]
    ways: BTreeMap<&'static str, WayFigures>,
}

/// From where to where.
struct Way<'a> {
    name: &'static str,
    /// Connects from where the client is.
    connect: Box<dyn Fn() -> Result<TcpStream> + 'a>,
    listener: TcpListener,
}

/// Measures so many times, each for so many seconds.
pub(super) fn measure(seconds: u32, turns: u32, fairway: &Path, fairway_proxy: &Path) -> Result<NetFigures> {
    let binaries = Binaries { fairway: fairway.to_owned(), fairway_proxy: fairway_proxy.to_owned() };
    let bare = ByHand::bare().context("wire two machines")?;
    let by_hand = [ByHand::on_a_node(), ByHand::routed(), ByHand::tunnelled()];
    let [on_a_node, routed, tunnelled] = by_hand.map(|made| made.context("make a way by hand"));
    let (on_a_node, routed, tunnelled) = (on_a_node?, routed?, tunnelled?);
    let direct = Cluster::start_with(&binaries, objects()?, &["--routes", "direct"])?;
    let vxlan = Cluster::start_with(&binaries, objects()?, &["--routes", "vxlan"])?;
    let mut ways = vec![bare.way()?, on_a_node.way()?, way(&direct, "node", "near", None)?];
    for (by_hand, cluster, plain, through) in
        [(&routed, &direct, "direct", "service_direct"), (&tunnelled, &vxlan, "vxlan", "service_vxlan")]
    {
        ways.push(by_hand.way()?);
        ways.push(way(cluster, plain, "far", None)?);
        ways.push(way(cluster, through, "far", Some(SERVICE.into()))?);
    }

    let mut taken: BTreeMap<&'static str, Turns> = BTreeMap::new();
    for _ in 0..turns {
        for way in &ways {
            let (mbit_s, rtt_us) = way.measure(seconds).with_context(|| format!("measure {}", way.name))?;
            let turns = taken.entry(way.name).or_default();
            turns.mbit_s.push(mbit_s);
            turns.rtt_us.push(rtt_us);
        }
        ways.reverse();
    }
    let figures = taken.iter().map(|(name, turns)| (*name, turns.figures(name, &taken)));
    Ok(NetFigures { seconds, turns, ways: figures.collect() })
}

/// What a way is compared with, other than a bare pair of links.
fn counterpart(way: &str) -> Option<&'static str> {
    match way {
        "node" => Some("by_hand_node"),
        "direct" | "service_direct" => Some("by_hand_direct"),
        "vxlan" | "service_vxlan" => Some("by_hand_vxlan"),
        _ => None,
    }
}

impl Turns {
    fn figures(&self, name: &str, all: &BTreeMap<&'static str, Self>) -> WayFigures {
        let ratio = |of: &[f64], to: &[f64]| {
            rounded(median(of.iter().zip(to).map(|(of, to)| of / to).collect()), 1000.0)
        };
        let by_hand = counterpart(name).and_then(|name| all.get(name));
        WayFigures {
            mbit_s: rounded(median(self.mbit_s.clone()), 1.0),
            ratio: all.get("veth").map_or(f64::NAN, |veth| ratio(&self.mbit_s, &veth.mbit_s)),
            ratio_by_hand: by_hand.map(|by_hand| ratio(&self.mbit_s, &by_hand.mbit_s)),
            rtt_us: rounded(median(self.rtt_us.clone()), 10.0),
            rtt_ratio_by_hand: by_hand.map(|by_hand| ratio(&self.rtt_us, &by_hand.rtt_us)),
        }
    }
}

fn objects() -> Result<Vec<Object>> {
    let node = |name: &str, number: u8| {
        format!(
            "{{kind: Node, metadata: {{name: {name}}}, spec: {{podCIDRs: [10.244.{number}.0/24]}}, \
               status: {{addresses: [{{type: InternalIP, address: 192.168.14.5{number}}}]}}}}"
        )
    };
    let pod = |name: &str, node: &str| {
        format!(
            "{{kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}}}, \
               spec: {{nodeName: {node}, containers: [{{name: c, image: c, ports: [{{containerPort: 80}}]}}]}}}}"
        )
    };
    let service = format!(
        "{{kind: Service, metadata: {{name: far}}, \
           spec: {{clusterIP: {SERVICE}, selector: {{app: far}}, ports: [{{name: stream, port: {PORT}}}, {{name: web, port: 80}}]}}}}"
    );
    let pods = [pod("client", "m"), pod("near", "m"), pod("far", "w1")];
    let all = [node("m", 0), node("w1", 1)].into_iter().chain(pods).chain([service]);
    Ok(parse("bench", &all.collect::<Vec<_>>().join("\n---\n"))?)
}

/// From pod `client` to another, or to a service in front of it.
fn way<'a>(cluster: &'a Cluster, name: &'static str, pod: &str, service: Option<IpAddr>) -> Result<Way<'a>> {
    let own = cluster.pod(pod).and_then(|pod| pod.addresses().first().copied());
    let own = own.with_context(|| format!("{pod} has no address"))?;
    let url = |ip| format!("http://{}/", SocketAddr::new(ip, 80));
    cluster.await_answer("client", &url(service.unwrap_or(own)))?;
    // Each way has a port of its own behind it, but a service leads to one alone.
    let port = if service.is_some() { PORT } else { 0 };
    let listener = cluster.place(pod)?.run(|| TcpListener::bind((own, port)))??;
    let to = match service {
        Some(service) => SocketAddr::new(service, PORT),
        None => listener.local_addr()?,
    };
    let connect = move || {
        let connected = cluster.place("client")?.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        connected.with_context(|| format!("connect to {to}"))
    };
    Ok(Way { name, connect: Box::new(connect), listener })
}

impl Way<'_> {
    /// Megabits per second, and microseconds for a question and its answer.
    fn measure(&self, seconds: u32) -> Result<(f64, f64)> {
        Ok((self.stream(Duration::from_secs(seconds.into()))?, self.questions()?))
    }

    fn pair(&self) -> Result<(TcpStream, TcpStream)> {
        let client = wait::until("a connection", || (self.connect)().map_err(|error| format!("{error:#}")))?;
        let (server, _) = self.listener.accept()?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        Ok((client, server))
    }

    #[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
    fn stream(&self, lasting: Duration) -> Result<f64> {
        let (mut client, mut server) = self.pair()?;
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; AT_ONCE];
            let mut received = 0;
            loop {
                match server.read(&mut buffer)? {
                    0 => return Ok::<u64, io::Error>(received),
                    length => received += u64::try_from(length).unwrap_or_default(),
                }
            }
        });
        let data = vec![7; AT_ONCE];
        let (received, spent) = timed(|| -> Result<u64> {
            let began = std::time::Instant::now();
            while began.elapsed() < lasting {
                client.write_all(&data)?;
            }
            drop(client);
            Ok(reader.join().map_err(|_| anyhow!("the reader panicked"))??)
        });
        #[expect(clippy::cast_precision_loss, reason = "a rate is not that precise")]
        let bits = received? as f64 * 8.0;
        Ok(bits / spent.wall.as_secs_f64() / 1e6)
    }

    fn questions(&self) -> Result<f64> {
        let (mut client, mut server) = self.pair()?;
        let answers = thread::spawn(move || {
            let mut byte = [0];
            while server.read(&mut byte)? == 1 {
                server.write_all(&byte)?;
            }
            Ok::<(), io::Error>(())
        });
        let mut samples = Samples::default();
        for _ in 0..QUESTIONS {
            let (asked, spent) = timed(|| client.write_all(&[1]).and_then(|()| client.read_exact(&mut [0])));
            asked?;
            samples.add(spent.wall);
        }
        drop(client);
        answers.join().map_err(|_| anyhow!("the other end panicked"))??;
        Ok(samples.percentile_us(50))
    }
}

impl fmt::Display for NetFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["Mbit/s", "of veth", "of by hand", "question, µs", "of by hand"];
        write!(f, "{:<16}", "")?;
        heads.iter().try_for_each(|head| write!(f, " {head:>12}"))?;
        let ratio = |of: Option<f64>| of.map(|of| of.to_string()).unwrap_or_default();
        for (name, way) in &self.ways {
            write!(f, "\n{name:<16} {:>12} {:>12} {:>12}", way.mbit_s, way.ratio, ratio(way.ratio_by_hand))?;
            write!(f, " {:>12} {:>12}", way.rtt_us, ratio(way.rtt_ratio_by_hand))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(mbit_s: [f64; 3], rtt_us: [f64; 3]) -> Turns {
        Turns { mbit_s: mbit_s.into(), rtt_us: rtt_us.into() }
    }

    #[test]
    fn what_is_compared_was_measured_in_the_same_turn() {
        // In the second turn the machine had something else to do.
        let all = BTreeMap::from([
            ("veth", turns([1000.0, 100.0, 1000.0], [10.0, 90.0, 10.0])),
            ("by_hand_vxlan", turns([500.0, 50.0, 400.0], [20.0, 180.0, 20.0])),
            ("vxlan", turns([400.0, 40.0, 400.0], [30.0, 270.0, 20.0])),
        ]);
        let figures = |name| all.get(name).unwrap().figures(name, &all);

        assert_eq!(
            figures("vxlan"),
            WayFigures {
                mbit_s: 400.0,
                ratio: 0.4,
                ratio_by_hand: Some(0.8),
                rtt_us: 30.0,
                rtt_ratio_by_hand: Some(1.5),
            }
        );
        assert_eq!((figures("veth").ratio, figures("veth").ratio_by_hand), (1.0, None));
    }
}

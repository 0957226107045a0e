//! A node with host ports, and a client outside of it.

#![allow(dead_code, reason = "each test program uses its part of it")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use dataplane::{
    conntrack::{self, Conntrack, Filter, Flow},
    nft::{
        Chain, Change, Data, DataType, Hook, Key, KeyType, Map, Match, Rule, SetType, Socket, Source,
        Statement, Table, Transaction, diff,
    },
    owner,
    packet::{Family, Protocol},
};
use fairway_lab::{binaries, host::Host, network::Switch, wait};
use serde_json::{Value, json};

use crate::runtime::{Runtime, dual_stack, traces::PATIENCE};

/// Long enough for what should not come.
pub(crate) const IN_VAIN: Duration = Duration::from_millis(500);

/// A node, which the runtime is on, and a client on the same network, whose default gateway the node is.
pub(crate) struct Node {
    pub(crate) runtime: Runtime,
    pub(crate) client: Host,
    _switch: Switch,
}

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From<'a> {
    Outside,
    Node,
    Pod(&'a str),
}

/// A mapping of all addresses.
pub(crate) fn mapping(host: u16, container: u16, protocol: &str) -> Value {
    json!({ "hostPort": host, "containerPort": container, "protocol": protocol })
}

impl Node {
    /// Two families, and more keys of the configuration.
    pub(crate) fn make(more: &Value) -> Self {
        let mut runtime = Runtime::new(dual_stack());
        runtime.conf = runtime.conf_with(more);
        let (client, switch) = (Host::make("client").unwrap(), Switch::make().unwrap());
        let connect = |host: &Host, addresses: [&str; 2]| {
            switch.connect(host, &addresses.map(|address| address.parse().unwrap())).unwrap();
        };
        connect(&runtime.host, ["192.168.1.1", "fd01::1"]);
        connect(&client, ["192.168.1.2", "fd01::2"]);
        Self { runtime, client, _switch: switch }
    }

    /// The configuration as the runtime passes it on for a pod with these mappings.
    pub(crate) fn conf(&self, mappings: &[Value]) -> Value {
        self.runtime.conf_with(&json!({ "runtimeConfig": { "portMappings": mappings } }))
    }

    pub(crate) fn run<T: Send>(&self, from: From<'_>, work: impl FnOnce() -> T + Send) -> T {
        match from {
            From::Outside => self.client.run(work).unwrap(),
            From::Node => self.runtime.host.run(work).unwrap(),
            From::Pod(pod) => self.runtime.inside(pod, work),
        }
    }

    /// Connects and talks; as whom a pod that listens there has seen the caller, if it was reached.
    pub(crate) fn tcp(&self, from: From<'_>, to: SocketAddr, pod: &str, at: SocketAddr) -> Option<IpAddr> {
        let listener = self.runtime.inside(pod, || TcpListener::bind(at).unwrap());
        let mut client = self.run(from, || TcpStream::connect_timeout(&to, PATIENCE)).ok()?;
        let (mut server, peer) = listener.accept().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).unwrap();
        server.write_all(&heard).unwrap();
        client.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        Some(peer.ip())
    }

    /// Sends a datagram that a pod answers, and says where the answer seems to come from.
    pub(crate) fn udp(
        &self,
        from: From<'_>,
        to: SocketAddr,
        pod: &str,
        at: SocketAddr,
    ) -> Option<SocketAddr> {
        let server = self.runtime.inside(pod, || UdpSocket::bind(at).unwrap());
        let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let client = self.run(from, || UdpSocket::bind(any).unwrap());
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send_to(b"hello", to).unwrap();
        let mut heard = [0; 8];
        let (length, peer) = server.recv_from(&mut heard).ok()?;
        server.send_to(&heard[..length], peer).unwrap();
        Some(client.recv_from(&mut heard).unwrap().1)
    }

    /// Flows that were begun to a port, whoever answers.
    pub(crate) fn flows_to(&self, protocol: Protocol, port: u16) -> Vec<Flow> {
        let mut socket = self.runtime.host.run(|| conntrack::Socket::open().unwrap()).unwrap();
        let filter = Filter { port: Some(port), ..Filter::all(Family::Ip, protocol) };
        socket.flows(&filter, &mut |_| true).unwrap()
    }

    /// Waits until the kernel has taken the links of pods away whose namespace is gone.
    pub(crate) fn wait_until_link_is_gone(&self) {
        wait::until("the link is gone", || {
            let links = self.runtime.on_host(|kernel| async move { kernel.links().await.unwrap() });
            let left = links.into_iter().find(|link| link.name.starts_with("fw"));
            left.map_or(Ok(()), |link| Err(link.name))
        })
        .unwrap();
    }

    /// Changes the table of IPv4.
    pub(crate) fn change(&self, change: Change) {
        let mut transaction = Transaction::default();
        transaction.push(Family::Ip, change);
        socket(&self.runtime).commit(&transaction).unwrap();
    }

    /// Leads a port of the node to an endpoint, in the daemon's table and at its priority.
    pub(crate) fn serve(&self, port: u16, endpoint: SocketAddr) {
        let kind = SetType { key: KeyType::Port, data: DataType::Endpoint, counter: false, dynamic: None };
        let mut ports = Map::new(kind);
        ports.elements.insert(Key::Port(Protocol::Tcp, port), Data::Endpoint(endpoint).into());
        let mut table = Table::new(Family::Ip);
        table.maps.insert("ports".into(), ports);
        let dnat =
            Rule(vec![Statement::Match(Match::ToThisHost), Statement::Dnat(Source::ByPort("ports".into()))]);
        table.chains.insert("prerouting".into(), Chain { hook: Some(Hook::Prerouting), rules: vec![dnat] });
        let socket = self.runtime.host.run(|| Socket::open().unwrap()).unwrap();
        socket.commit(&diff(None, &table)).unwrap();
    }

    /// The names of the chains, if there is a table.
    pub(crate) fn chains(&self, family: Family) -> Option<Vec<String>> {
        let held = socket(&self.runtime).held(family).unwrap()?;
        Some(held.chains.keys().map(ToString::to_string).collect())
    }
}

/// The daemon on a node, and what it says.
pub(crate) struct Daemon {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Daemon {
    /// Starts it without any service.
    pub(crate) fn start(runtime: &Runtime) -> Self {
        const MANIFESTS: &str = "/var/lib/fairway/manifests";
        let start = || {
            fs::create_dir_all(MANIFESTS).unwrap();
            let mut daemon = Command::new(&binaries::built().unwrap().fairway_proxy);
            daemon.args(["--manifests", MANIFESTS, "--audit-period", "0"]);
            daemon.stderr(Stdio::piped()).spawn().unwrap()
        };
        let mut child = runtime.host.run(start).unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// Waits until it says something with `words` in it, and returns all it said until then.
    pub(crate) fn says(&self, words: &str) -> String {
        let mut said = String::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("it does not say {words:?}, but:\n{said}"));
            said += &line;
            said.push('\n');
            if line.contains(words) {
                return said;
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(runtime: &Runtime) -> Socket {
    socket_to(runtime, owner::HOST_PORTS_TABLE)
}

/// A socket to the tables of that name.
pub(crate) fn socket_to(runtime: &Runtime, table: &'static str) -> Socket {
    runtime.host.run(|| Socket::open().unwrap().to(table)).unwrap()
}

/// All that the table of host ports of a family holds, as text; nothing if there is none.
pub(crate) fn held(runtime: &Runtime, family: Family) -> Vec<String> {
    held_in(runtime, owner::HOST_PORTS_TABLE, family)
}

/// The same of the table of that name.
pub(crate) fn held_in(runtime: &Runtime, table: &'static str, family: Family) -> Vec<String> {
    let held = socket_to(runtime, table).held(family).unwrap();
    let maps = held.into_iter().flat_map(|held| held.maps);
    maps.flat_map(|(name, map)| {
        map.elements.into_iter().map(move |(key, element): (Key, _)| match element.data {
            Data::None => format!("{name}: {key}"),
            data => format!("{name}: {key} → {data:?}"),
        })
    })
    .collect()
}

/// The claims, by name.
pub(crate) fn claims(runtime: &Runtime) -> Vec<String> {
    let files = runtime.files("/run/fairway/host-ports");
    let names = files.iter().map(|file| file.rsplit('/').next().unwrap().to_owned());
    names.filter(|name| name != "lock" && !name.starts_with(".draft-")).collect()
}

/// What `nft flush ruleset` does to the tables of host ports.
pub(crate) fn wipe(runtime: &Runtime) {
    let mut transaction = Transaction::default();
    for family in Family::ALL {
        transaction.delete(family);
    }
    socket(runtime).commit(&transaction).unwrap();
}

//! A cluster on two networks, what is seen of it, and traffic of any size.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use dataplane::{
    netns::Netns,
    rtnl::{Kernel, Link, Route, Routes as _, Tunnels as _},
};
use fairway_lab::{
    binaries, client,
    cluster::{Cluster, OUTSIDE},
    manifest::{ObjectName, parse},
    network::UPLINK,
    wait,
};
use serde_json::Value;

const ROUTED: &str = include_str!("../../../conf/lab/routed.yaml");

/// The pods of the manifests.
pub(crate) const ALL_PODS: [&str; 4] = ["client", "near", "far", "farther"];

/// The cluster IPs of the service in front of `far`.
pub(crate) const FAR_IPS: [&str; 2] = ["10.105.77.240", "fd00:10:105:77::240"];

/// Another node on the second network, with a pod.
pub(crate) const NEW_NODE: &str = r#"
{kind: Node, metadata: {name: w5}, spec: {podCIDRs: [10.244.5.0/24, "fd00:10:244:5::/64"]},
 status: {addresses: [{type: InternalIP, address: 192.168.15.55}, {type: InternalIP, address: "fd00:192:168:15::55"}]}}
---
{kind: Pod, metadata: {name: new}, spec: {nodeName: w5, containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}}
"#;

/// The same node at another address.
pub(crate) const MOVED_NODE: &str = r#"
{kind: Node, metadata: {name: w5}, spec: {podCIDRs: [10.244.5.0/24, "fd00:10:244:5::/64"]},
 status: {addresses: [{type: InternalIP, address: 192.168.15.65}, {type: InternalIP, address: "fd00:192:168:15::65"}]}}
"#;

/// Another pod.
pub(crate) fn new_pod(name: &str, node: &str) -> String {
    format!(
        "{{kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: {node}, containers: [{{name: web, image: nginx, ports: [{{containerPort: 80}}]}}]}}}}"
    )
}

/// Nodes and pods that have no IPv4.
pub(crate) const IPV6_ALONE: &str = r#"
{kind: Node, metadata: {name: m}, spec: {podCIDRs: ["fd00:10:244:0::/64"]},
 status: {addresses: [{type: InternalIP, address: "fd00:192:168:14::50"}]}}
---
{kind: Node, metadata: {name: w3}, spec: {podCIDRs: ["fd00:10:244:3::/64"]},
 status: {addresses: [{type: InternalIP, address: "fd00:192:168:15::53"}]}}
---
{kind: Pod, metadata: {name: client}, spec: {nodeName: m, containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}}
---
{kind: Pod, metadata: {name: far}, spec: {nodeName: w3, containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}}
"#;

/// How long something that may be lost is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// How much flows each way in a stream.
const STREAM: usize = 1 << 20;

pub(crate) struct Bed {
    pub(crate) cluster: Cluster,
}

impl Bed {
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_from(ROUTED, flags)
    }

    pub(crate) fn start_from(manifests: &str, flags: &[&str]) -> Self {
        let objects = parse("test.yaml", manifests).unwrap();
        Self { cluster: Cluster::start_with(binaries::built().unwrap(), objects, flags).unwrap() }
    }

    pub(crate) fn apply(&mut self, text: &str) {
        self.cluster.apply(parse("test.yaml", text).unwrap()).unwrap();
    }

    pub(crate) fn delete(&mut self, kind: &str, name: &str) {
        let mut object = parse("test.yaml", NEW_NODE).unwrap().remove(0).name;
        object = ObjectName { kind: kind.into(), name: name.into(), ..object };
        self.cluster.delete(&[object]).unwrap();
    }

    /// A pod's addresses, one of each family.
    pub(crate) fn ips(&self, pod: &str) -> Vec<IpAddr> {
        self.cluster.pod(pod).unwrap().addresses().to_vec()
    }

    /// Where a pod answers over HTTP, in each family.
    pub(crate) fn urls(&self, pod: &str) -> Vec<String> {
        self.ips(pod).into_iter().map(|ip| format!("http://{}/", SocketAddr::new(ip, 80))).collect()
    }

    /// Does something with the kernel of a place.
    pub(crate) fn on<T>(&self, place: &str, work: impl AsyncFnOnce(Kernel) -> T) -> T {
        let netns = Netns::open(self.cluster.place(place).unwrap().netns_path()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work(Kernel::open_in(&netns).unwrap()).await })
    }

    /// Has the machine outside lead to the pods of `m`, as a network does that knows pods.
    pub(crate) fn lead_to_pods_from_outside(&mut self) {
        self.on(OUTSIDE, async |kernel| {
            let uplink = kernel.link(UPLINK).await.unwrap().index;
            for (pods, node) in
                [("10.244.0.0/24", "192.168.14.50"), ("fd00:10:244::/64", "fd00:192:168:14::50")]
            {
                let route = Route::through(pods.parse().unwrap(), node.parse().unwrap(), uplink);
                kernel.add_route(&route).await.unwrap();
            }
        });
    }

    pub(crate) fn link(&self, place: &str, name: &str) -> Option<Link> {
        self.on(place, async |kernel| kernel.link(name).await.ok())
    }

    pub(crate) fn mtu(&self, place: &str, name: &str) -> u32 {
        self.link(place, name).unwrap().mtu
    }

    pub(crate) fn pod_mtu(&self, pod: &str) -> u32 {
        self.mtu(pod, "eth0")
    }

    pub(crate) fn set_uplink_mtu(&self, node: &str, mtu: u32) {
        self.on(node, async |kernel| {
            let uplink = kernel.link(UPLINK).await.unwrap().index;
            kernel.set_mtu(uplink, mtu).await.unwrap();
        });
    }

    /// The VXLAN devices of a node.
    pub(crate) fn devices(&self, node: &str) -> Vec<String> {
        let links = self.on(node, async |kernel| kernel.links().await.unwrap());
        links.into_iter().filter(|link| link.tunnel.is_some()).map(|link| link.name).collect()
    }

    /// The nodes that a node has tunnels to.
    pub(crate) fn far_ends(&self, node: &str) -> Vec<String> {
        self.on(node, async |kernel| {
            let device = kernel.device("fairway.1").await.unwrap().unwrap().index;
            let ends = kernel.forwardings(device).await.unwrap();
            ends.into_iter().map(|end| end.remote.to_string()).collect()
        })
    }

    /// Waits until a node has tunnels to some, and none to others.
    pub(crate) fn await_far_ends(&self, node: &str, there: &[&str], gone: &[&str]) {
        wait::until("the tunnels to be others", || {
            let ends = self.far_ends(node);
            let has = |end: &&str| ends.iter().any(|known| known == end);
            if there.iter().all(has) && !gone.iter().any(has) { Ok(()) } else { Err(format!("{ends:?}")) }
        })
        .unwrap();
    }

    /// How many packets a link of a node has sent.
    pub(crate) fn packets(&self, node: &str, link: &str) -> u64 {
        let read = || fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let table = self.cluster.place(node).unwrap().run(read).unwrap();
        let counters = table.lines().find_map(|row| row.trim().strip_prefix(&format!("{link}:"))).unwrap();
        counters.split_whitespace().nth(9).unwrap().parse().unwrap()
    }

    /// What the daemon has left for the plugin.
    pub(crate) fn node_facts(&self, node: &str) -> Value {
        let read = || fs::read_to_string("/run/fairway/node.json").unwrap();
        serde_json::from_str(&self.cluster.place(node).unwrap().run(read).unwrap()).unwrap()
    }

    /// Waits until a node's daemon says that it is healthy.
    pub(crate) fn await_health(&self, node: &str) {
        let ask = || client::http_text((Ipv4Addr::LOCALHOST, 10256).into(), "/healthz", PATIENCE);
        wait::until("the daemon to be healthy", || {
            let said =
                self.cluster.place(node).unwrap().run(ask).unwrap().map_err(|error| error.to_string())?;
            if said.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(said) }
        })
        .unwrap();
    }

    /// Sends a lot from somewhere to a port, behind which a pod sends all of it back.
    pub(crate) fn stream(&self, from: &str, to: IpAddr, port: u16, (pod, ip): (&str, IpAddr)) {
        self.stream_to(from, SocketAddr::new(to, port), (pod, SocketAddr::new(ip, 9)));
    }

    /// The same to a socket anywhere.
    pub(crate) fn stream_to(&self, from: &str, to: SocketAddr, (place, at): (&str, SocketAddr)) {
        let listen = || TcpListener::bind(at).unwrap();
        let listener = self.cluster.place(place).unwrap().run(listen).unwrap();
        let data: Vec<u8> = (0..STREAM).map(|n| u8::try_from(n % 251).unwrap()).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut received = Vec::new();
                stream.read_to_end(&mut received).unwrap();
                stream.write_all(&received).unwrap();
            });
            let ask = || {
                wait::until("a connection", || {
                    TcpStream::connect_timeout(&to, PATIENCE).map_err(|error| error.to_string())
                })
                .unwrap()
            };
            let mut stream = self.cluster.place(from).unwrap().run(ask).unwrap();
            stream.set_read_timeout(Some(20 * PATIENCE)).unwrap();
            stream.write_all(&data).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut echo = Vec::new();
            stream.read_to_end(&mut echo).unwrap();
            assert!(echo == data, "{from} to {to}: {} of {} bytes came back", echo.len(), data.len());
        });
    }
}

/// A socket for datagrams in a pod or on a machine.
pub(crate) struct Peer {
    socket: UdpSocket,
    sent: AtomicU32,
}

impl Peer {
    pub(crate) fn at(bed: &Bed, pod: &str, family: usize, port: u16) -> Self {
        let of_a_machine = [IpAddr::from([0, 0, 0, 0]), IpAddr::from([0_u16; 8])];
        let ip = if pod == OUTSIDE { of_a_machine[family] } else { bed.ips(pod)[family] };
        Self::with(bed, pod, SocketAddr::new(ip, port))
    }

    /// One of a pod or a machine, at an address of it.
    pub(crate) fn with(bed: &Bed, place: &str, address: SocketAddr) -> Self {
        let bind = || UdpSocket::bind(address).unwrap();
        let socket = bed.cluster.place(place).unwrap().run(bind).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, sent: AtomicU32::new(0) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Sends a datagram of that size to an address behind which is `far`, which sends it back: both must come whole, and under the
    /// sender's own address.
    pub(crate) fn echo(&self, to: SocketAddr, far: &Self, size: usize) -> Result<(), String> {
        let from = self.echo_through_a_node(to, far, size)?;
        if from == self.address() {
            Ok(())
        } else {
            Err(format!("sent by {}, and seen as {from}", self.address()))
        }
    }

    /// The same, under whatever address; which it says.
    pub(crate) fn echo_through_a_node(
        &self,
        to: SocketAddr,
        far: &Self,
        size: usize,
    ) -> Result<SocketAddr, String> {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        let mut data: Vec<u8> =
            (0..size).map(|n| u8::try_from((n + usize::try_from(number).unwrap()) % 251).unwrap()).collect();
        for (byte, mark) in data.iter_mut().zip(number.to_be_bytes().into_iter().rev()) {
            *byte = mark;
        }
        self.socket.send_to(&data, to).map_err(|error| format!("send: {error}"))?;
        let from = far.receive(&data, "there")?;
        far.socket.send_to(&data, from).map_err(|error| format!("send back: {error}"))?;
        let by = self.receive(&data, "back")?;
        if by == to { Ok(from) } else { Err(format!("sent to {to}, and answered by {by}")) }
    }

    /// The next thing that anybody says to it.
    pub(crate) fn hear(&self) -> Result<String, String> {
        let mut buffer = [0; 64];
        let length = self.socket.recv(&mut buffer).map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    fn receive(&self, data: &[u8], way: &str) -> Result<SocketAddr, String> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let (length, from) =
                self.socket.recv_from(&mut buffer).map_err(|error| format!("{way}: {error}"))?;
            if &buffer[..length] == data {
                return Ok(from);
            }
        }
    }
}

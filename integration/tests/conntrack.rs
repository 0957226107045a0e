//! What becomes of flows that go on while their service changes. Each client keeps one socket all the time: to the kernel it is one
//! flow, which stays where it began unless somebody ends it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

mod start;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use dataplane::{
    conntrack::{self, Conntrack as _, Filter, Flow},
    netns::Netns,
    nft::{self, Change, Key},
    packet::{Family, Protocol},
    sysctl,
};
use fairway_lab::{
    answer::Answer,
    binaries,
    client::{PATIENCE, body_of},
    cluster::{Cluster, OUTSIDE},
    manifest::{Object, ObjectName, parse},
    sctp,
    wait::until,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long one datagram is waited for before the next is sent.
const TRY: Duration = Duration::from_millis(200);

const DNS: &str = "10.96.0.53:53";

fn objects(text: &str) -> Vec<Object> {
    parse("test.yaml", text).unwrap()
}

/// A pod that answers datagrams on two ports, and over HTTP.
fn pod(name: &str, app: &str) -> Vec<Object> {
    objects(&format!(
        "{{kind: Pod, apiVersion: v1, metadata: {{name: {name}, labels: {{app: {app}}}}}, spec: {{nodeName: w2, \
         containers: [{{name: dns, image: dns, ports: [{{containerPort: 80}}, \
         {{containerPort: 5353, protocol: UDP}}, {{containerPort: 5354, protocol: UDP}}]}}]}}}}"
    ))
}

/// Service `dns` at [`DNS`], over the pods of an app.
fn service(app: &str, port: &str) -> Vec<Object> {
    objects(&format!(
        "{{kind: Service, apiVersion: v1, metadata: {{name: dns}}, spec: {{type: NodePort, clusterIP: 10.96.0.53, \
         selector: {{app: {app}}}, ports: [{{port: 53, protocol: UDP, {port}}}]}}}}"
    ))
}

const USUAL: &str = "targetPort: 5353, nodePort: 30053";

fn named(kind: &str, name: &str) -> [ObjectName; 1] {
    [ObjectName { kind: kind.into(), namespace: "default".into(), name: name.into() }]
}

/// The network namespace of a place.
fn netns(cluster: &Cluster, place: &str) -> Netns {
    Netns::open(cluster.place(place).unwrap().netns_path()).unwrap()
}

/// A client that asks the same address from the same port, again and again.
struct Client {
    socket: UdpSocket,
    to: String,
}

impl Client {
    fn at(cluster: &Cluster, place: &str, to: &str) -> Self {
        let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = netns(cluster, place).run(|| {
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(TRY))?;
            socket.connect(to)?;
            Ok::<_, io::Error>(socket)
        });
        Self { socket: socket.unwrap().unwrap(), to: to.to_owned() }
    }

    fn ask(&self) -> io::Result<Answer> {
        self.socket.send(b"who are you?\n")?;
        let mut answer = [0; 512];
        let length = self.socket.recv(&mut answer)?;
        Ok(std::str::from_utf8(&answer[..length]).unwrap().parse().unwrap())
    }

    /// Asks until this pod answers at this port.
    #[track_caller]
    fn is_answered_by(&self, pod: &str, port: u16) {
        until(&format!("{pod} to answer at {}", self.to), || match self.ask() {
            Ok(answer) if answer.name == pod && answer.address.port() == port => Ok(()),
            Ok(answer) => Err(answer.to_string()),
            Err(error) => Err(error.to_string()),
        })
        .unwrap();
    }

    /// Asks until it is refused.
    #[track_caller]
    fn is_refused(&self) {
        until(&format!("a refusal at {}", self.to), || match self.ask() {
            Ok(answer) => Err(answer.to_string()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error.to_string()),
        })
        .unwrap();
    }
}

/// Service `dns` with pod `one` behind it, and a client on another node that it has answered.
fn answered() -> (Cluster, Client) {
    let mut cluster = start::lesson();
    cluster.apply(pod("one", "dns")).unwrap();
    cluster.apply(service("dns", USUAL)).unwrap();
    let client = Client::at(&cluster, "apache-pod", DNS);
    client.is_answered_by("one", 5353);
    (cluster, client)
}

/// What a node tracks of a protocol.
fn flows(cluster: &Cluster, node: &str, protocol: Protocol) -> Vec<Flow> {
    let mut socket = conntrack::Socket::open_in(&netns(cluster, node)).unwrap();
    socket.flows(&Filter::all(Family::Ip, protocol), &mut |_| true).unwrap()
}

/// The flow of a node to that address, once there is one.
fn flow_to(cluster: &Cluster, node: &str, protocol: Protocol, to: &str) -> Flow {
    let to: SocketAddr = to.parse().unwrap();
    until(&format!("a flow to {to}"), || {
        let flows = flows(cluster, node, protocol);
        let flow = flows.iter().find(|flow| flow.original.destination == to).cloned();
        flow.ok_or_else(|| format!("{flows:?}"))
    })
    .unwrap()
}

/// An HTTP connection from `apache-pod` over which nothing was asked yet.
fn connection(cluster: &Cluster, to: &str) -> TcpStream {
    let to: SocketAddr = to.parse().unwrap();
    let stream =
        netns(cluster, "apache-pod").run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Asks over a connection, which ends with the answer.
fn ask_over(mut stream: &TcpStream) -> io::Result<Answer> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(body_of(&response).parse().unwrap())
}

/// Service `web` at `10.96.0.80:80`, over the pods of an app.
fn web(app: &str) -> Vec<Object> {
    objects(&format!(
        "{{kind: Service, apiVersion: v1, metadata: {{name: web}}, spec: {{clusterIP: 10.96.0.80, \
         selector: {{app: {app}}}, ports: [{{port: 80}}]}}}}"
    ))
}

const WEB_URL: &str = "http://10.96.0.80/";

fairway_lab::sandbox_tests! {
    fn datagrams_follow_an_endpoint_that_is_replaced() {
        let (mut cluster, client) = answered();

        cluster.apply(pod("two", "dns")).unwrap();
        cluster.delete(&named("Pod", "one")).unwrap();

        client.is_answered_by("two", 5353);
    }

    fn datagrams_are_refused_without_endpoints_and_answered_by_the_next() {
        let (mut cluster, client) = answered();

        cluster.delete(&named("Pod", "one")).unwrap();
        client.is_refused();

        cluster.apply(pod("two", "dns")).unwrap();
        client.is_answered_by("two", 5353);
    }

    fn datagrams_follow_a_target_port() {
        let (mut cluster, client) = answered();

        cluster.apply(service("dns", "targetPort: 5354, nodePort: 30053")).unwrap();

        client.is_answered_by("one", 5354);
    }

    fn datagrams_to_a_node_port_end_with_it_and_find_it_again() {
        let (mut cluster, _) = answered();
        let client = Client::at(&cluster, OUTSIDE, "192.168.14.50:30053");
        client.is_answered_by("one", 5353);

        cluster.apply(service("dns", "targetPort: 5353, nodePort: 30054")).unwrap();
        client.is_refused();

        cluster.apply(service("dns", USUAL)).unwrap();
        client.is_answered_by("one", 5353);
    }

    fn datagrams_to_an_external_address_end_with_it_and_find_it_again() {
        let (mut cluster, _) = answered();
        let with = |external: &str| {
            objects(&format!(
                "{{kind: Service, apiVersion: v1, metadata: {{name: dns}}, spec: {{clusterIP: 10.96.0.53, selector: {{app: dns}}, \
                 externalIPs: [{external}], ports: [{{port: 53, protocol: UDP, targetPort: 5353}}]}}}}"
            ))
        };
        cluster.apply(with("192.168.14.51, 192.168.14.50")).unwrap();
        let (kept, lost) = (
            Client::at(&cluster, OUTSIDE, "192.168.14.50:53"),
            Client::at(&cluster, OUTSIDE, "192.168.14.51:53"),
        );
        kept.is_answered_by("one", 5353);
        lost.is_answered_by("one", 5353);

        cluster.apply(with("192.168.14.50")).unwrap();
        lost.is_refused();
        assert_eq!(kept.ask().unwrap().name, "one");

        cluster.apply(with("192.168.14.50, 192.168.14.51")).unwrap();
        lost.is_answered_by("one", 5353);
    }

    fn datagrams_to_a_service_that_is_deleted_end_and_find_it_when_it_is_back() {
        let (mut cluster, client) = answered();

        cluster.delete(&named("Service", "dns")).unwrap();
        let own = client.socket.local_addr().unwrap();
        until("datagrams to be led nowhere", || {
            let answer = client.ask();
            let flows = flows(&cluster, "w1", Protocol::Udp);
            let is_left = |flow: &Flow| flow.original.source == own && !flow.is_led_elsewhere();
            if flows.iter().any(is_left) { Ok(()) } else { Err(format!("{answer:?}, {flows:?}")) }
        })
        .unwrap();

        cluster.apply(service("dns", USUAL)).unwrap();
        client.is_answered_by("one", 5353);
    }

    fn datagrams_follow_in_both_families() {
        let text = include_str!("../../conf/lab/dual-stack.yaml");
        let mut cluster = Cluster::start(binaries::built().unwrap(), objects(text)).unwrap();
        let service = |port| {
            objects(&format!(
                "{{kind: Service, apiVersion: v1, metadata: {{name: dns}}, spec: {{type: NodePort, clusterIP: 10.96.0.53, \
                 clusterIPs: [10.96.0.53, 'fd00:10:96::53'], ipFamilies: [IPv4, IPv6], selector: {{app: dns}}, \
                 ports: [{{port: 53, protocol: UDP, targetPort: {port}, nodePort: 30053}}]}}}}"
            ))
        };
        cluster.apply(pod("one", "dns")).unwrap();
        cluster.apply(service(5353)).unwrap();
        let clients = [
            ("client", DNS),
            ("client", "[fd00:10:96::53]:53"),
            (OUTSIDE, "192.168.14.51:30053"),
            (OUTSIDE, "[fd00:192:168:14::51]:30053"),
        ]
        .map(|(place, to)| Client::at(&cluster, place, to));
        for client in &clients {
            client.is_answered_by("one", 5353);
        }

        cluster.apply(service(5354)).unwrap();

        for client in &clients {
            client.is_answered_by("one", 5354);
        }
    }

    fn what_changes_while_the_daemon_is_away_is_made_good_when_it_is_back() {
        let (mut cluster, client) = answered();
        cluster.node_mut("w1").unwrap().kill_daemon().unwrap();
        cluster.apply(pod("two", "dns")).unwrap();
        cluster.delete(&named("Pod", "one")).unwrap();
        assert!(client.ask().is_err());

        cluster.node_mut("w1").unwrap().start_daemon().unwrap();

        client.is_answered_by("two", 5353);
    }

    fn an_association_is_forgotten_with_its_endpoint() {
        let mut cluster = start::lesson();
        let diameter = "{kind: Service, apiVersion: v1, metadata: {name: diameter}, spec: {clusterIP: 10.96.0.68, \
                        selector: {app: dns}, ports: [{protocol: SCTP, port: 3868, targetPort: 13868}]}}";
        cluster.apply(pod("one", "dns")).unwrap();
        cluster.apply(objects(diameter)).unwrap();
        // Such an association would be forgotten by itself after three seconds.
        let forget = || sysctl::set("net/netfilter/nf_conntrack_sctp_timeout_cookie_wait", "600");
        cluster.node("w1").unwrap().run(forget).unwrap().unwrap();
        let socket = netns(&cluster, "apache-pod").run(sctp::open).unwrap().unwrap();
        let to: SocketAddr = "10.96.0.68:0".parse().unwrap();
        let mut source_ports = 20_000_u16..;
        let one = cluster.pod("one").unwrap().addresses()[0];
        until("an association to be led to the endpoint", || {
            socket.send_to(&sctp::init(source_ports.next().unwrap(), 3868), &to.into()).unwrap();
            let flows = flows(&cluster, "w1", Protocol::Sctp);
            let is_led = flows.iter().any(|flow| flow.answerer() == SocketAddr::new(one, 13_868));
            is_led.then_some(()).ok_or_else(|| format!("{flows:?}"))
        })
        .unwrap();

        cluster.delete(&named("Pod", "one")).unwrap();

        until("no association to the endpoint", || match flows(&cluster, "w1", Protocol::Sctp) {
            flows if flows.iter().all(|flow| flow.answerer().ip() != one) => Ok(()),
            flows => Err(format!("{flows:?}")),
        })
        .unwrap();
    }

    fn a_connection_begun_before_its_service_came_is_led_there() {
        // Outside, nobody has that address either: a pod that is known there would be told so at once.
        let mut cluster = start::lesson_with(&["--non-masquerade-cidrs", "0.0.0.0/0"]);
        cluster.apply(pod("one", "web")).unwrap();
        let (pod, to) = (netns(&cluster, "apache-pod"), "10.96.0.80:80".parse().unwrap());

        let connected = until("a connection", || {
            let connected = thread::scope(|scope| {
                let connecting =
                    scope.spawn(|| pod.run(|| TcpStream::connect_timeout(&to, 4 * PATIENCE)).unwrap());
                let flow = flow_to(&cluster, "w1", Protocol::Tcp, "10.96.0.80:80");
                assert!(!flow.is_answered && !flow.is_led_elsewhere(), "{flow}");
                cluster.apply(web("web")).unwrap();
                connecting.join().unwrap()
            });
            match connected {
                // Its second SYN came after the commit and before the look, and was refused as one to a cluster IP that was not translated.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    cluster.delete(&named("Service", "web")).unwrap();
                    until("the flow to be gone", || {
                        let left = flows(&cluster, "w1", Protocol::Tcp);
                        let left = left.iter().find(|flow| flow.original.destination == to && !flow.is_answered);
                        left.map_or(Ok(()), |flow| Err(flow.to_string()))
                    })
                    .unwrap();
                    Err(error.to_string())
                }
                connected => Ok(connected.unwrap()),
            }
        });

        assert_eq!(ask_over(&connected.unwrap()).unwrap().name, "one");
    }

    fn an_established_connection_outlives_its_endpoint() {
        let mut cluster = start::lesson();
        cluster.apply(pod("one", "blue")).unwrap();
        cluster.apply(pod("two", "green")).unwrap();
        cluster.apply(web("blue")).unwrap();
        cluster.await_backends("apache-pod", WEB_URL, &["one"]).unwrap();
        let stream = connection(&cluster, "10.96.0.80:80");

        cluster.apply(web("green")).unwrap();
        cluster.await_backends("apache-pod", WEB_URL, &["two"]).unwrap();

        assert_eq!(ask_over(&stream).unwrap().name, "one");
    }

    fn an_established_connection_to_an_endpoint_that_is_gone_is_reset_where_that_is_asked_for() {
        let mut cluster = start::lesson();
        let node = cluster.node_mut("w1").unwrap();
        node.set_flags(&["--conntrack-tcp-reset-vanished"]);
        node.start_daemon().unwrap();
        node.await_network().unwrap();
        for (app, backend) in [("green", Some("two")), ("nobody", None)] {
            cluster.apply(pod("one", "blue")).unwrap();
            cluster.apply(pod("two", "green")).unwrap();
            cluster.apply(web("blue")).unwrap();
            cluster.await_backends("apache-pod", WEB_URL, &["one"]).unwrap();
            let stream = connection(&cluster, "10.96.0.80:80");
            let own = stream.local_addr().unwrap();

            cluster.apply(web(app)).unwrap();
            until("the flow to be ended", || {
                let mut flows = flows(&cluster, "w1", Protocol::Tcp).into_iter();
                flows.find(|flow| flow.original.source == own).map_or(Ok(()), |flow| Err(flow.to_string()))
            })
            .unwrap();

            let error = ask_over(&stream).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
            if let Some(backend) = backend {
                cluster.await_backends("apache-pod", WEB_URL, &[backend]).unwrap();
            }
        }
    }

    fn whichever_end_of_such_a_connection_speaks_is_told_at_once() {
        let mut cluster = start::lesson();
        let node = cluster.node_mut("w1").unwrap();
        node.set_flags(&["--conntrack-tcp-reset-vanished"]);
        node.start_daemon().unwrap();
        node.await_network().unwrap();
        cluster.apply(pod("one", "blue")).unwrap();
        let echo = "{kind: Service, apiVersion: v1, metadata: {name: web}, spec: {clusterIP: 10.96.0.80, \
                    selector: {app: blue}, ports: [{port: 80, targetPort: 7000}]}}";
        cluster.apply(objects(echo)).unwrap();
        let backend = netns(&cluster, "one").run(|| TcpListener::bind("0.0.0.0:7000")).unwrap().unwrap();
        let connected = || until("a connection", || {
            let to = "10.96.0.80:80".parse().unwrap();
            let client = netns(&cluster, "apache-pod").run(|| TcpStream::connect_timeout(&to, TRY)).unwrap();
            client.map_err(|error| error.to_string())
        });
        let [a, b] = [connected(), connected()].map(|client| (client.unwrap(), backend.accept().unwrap().0));
        let own = [&a, &b].map(|(client, _)| client.local_addr().unwrap());

        cluster.apply(objects(&echo.replace("blue", "nobody"))).unwrap();
        until("the flows to be ended", || {
            let mut flows = flows(&cluster, "w1", Protocol::Tcp).into_iter();
            flows.find(|flow| own.contains(&flow.original.source)).map_or(Ok(()), |flow| Err(flow.to_string()))
        })
        .unwrap();

        for (mut speaker, _other) in [a, (b.1, b.0)] {
            speaker.set_read_timeout(Some(PATIENCE)).unwrap();
            speaker.write_all(b"are you there?").unwrap();
            let heard = speaker.read(&mut [0; 16]).unwrap_err();
            assert_eq!(heard.kind(), io::ErrorKind::ConnectionReset, "{heard}");
        }
    }

    fn datagrams_that_were_led_nowhere_while_others_had_broken_the_rules_are_led_again() {
        let (mut cluster, _) = answered();
        let node = cluster.node_mut("w1").unwrap();
        node.set_flags(&["--v=4"]);
        node.start_daemon().unwrap();
        // It looks at all flows at its start, and at some once more.
        until("the daemon to have no flows to look at", || {
            let log = node.log();
            let is_over = log.lines().any(|line| line.contains("looked flows through") && line.contains("again=false"));
            if is_over { Ok(()) } else { Err(log) }
        })
        .unwrap();
        let daemon = Pid::from_raw(node.daemon_id().unwrap().try_into().unwrap());
        kill(daemon, Signal::SIGSTOP).unwrap();
        until("the daemon to stop", || {
            let status = fs::read_to_string(format!("/proc/{daemon}/status")).map_err(|error| error.to_string())?;
            if status.contains("State:\tT") { Ok(()) } else { Err(status) }
        })
        .unwrap();
        let tables = nft::Socket::open_in(&netns(&cluster, "w1")).unwrap();
        let held = tables.held(Family::Ip).unwrap().unwrap();
        let dns = [10, 96, 0, 53].into();
        let mut intrusion = nft::Transaction::default();
        for (map, key) in [
            ("cluster-vips", Key::Service(dns, Protocol::Udp, 53)),
            ("cluster-ips", Key::Address(dns)), // would have it refused
        ] {
            intrusion.push(Family::Ip, Change::DeleteElements(map.into(), held.maps[map].kind, vec![key]));
        }
        tables.commit(&intrusion).unwrap();
        let client = Client::at(&cluster, "apache-pod", DNS);
        assert!(client.ask().is_err());
        let own = client.socket.local_addr().unwrap();
        let mut flows = flows(&cluster, "w1", Protocol::Udp).into_iter();
        let flow = flows.find(|flow| flow.original.source == own).unwrap();
        assert!(!flow.is_led_elsewhere(), "{flow}");

        kill(daemon, Signal::SIGCONT).unwrap();

        client.is_answered_by("one", 5353);
    }

    fn flows_of_others_are_left_alone() {
        let (mut cluster, client) = answered();
        // Flows that nobody answers would go by themselves after half a minute.
        let stay = || sysctl::set("net/netfilter/nf_conntrack_udp_timeout", "600");
        cluster.node("w1").unwrap().run(stay).unwrap().unwrap();
        let one = cluster.pod("one").unwrap().addresses()[0];
        // To the pod itself, to another machine at the number of the node port, and to an address that is no service's at the service's port.
        let others = [format!("{one}:5353"), "192.168.14.1:30053".to_owned(), "192.168.14.1:53".to_owned()];
        let clients: Vec<_> = others.iter().map(|to| Client::at(&cluster, "apache-pod", to)).collect();
        for client in &clients {
            let _ = client.ask(); // nobody need answer
        }
        let before: Vec<Flow> = others.iter().map(|to| flow_to(&cluster, "w1", Protocol::Udp, to)).collect();

        cluster.apply(service("dns", "targetPort: 5354, nodePort: 30053")).unwrap();
        client.is_answered_by("one", 5354);
        cluster.delete(&named("Service", "dns")).unwrap();
        until("nobody to answer", || client.ask().map_or(Ok(()), |answer| Err(answer.to_string()))).unwrap();

        let after: Vec<Flow> = others.iter().map(|to| flow_to(&cluster, "w1", Protocol::Udp, to)).collect();
        let ids = |flows: &[Flow]| flows.iter().map(|flow| flow.id).collect::<Vec<_>>();
        assert_eq!(ids(&after), ids(&before), "{before:?}, then {after:?}");
    }
}

fn main() -> std::process::ExitCode {
    fairway_lab::harness::run(&[TESTS])
}

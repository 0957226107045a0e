//! What runs in the lab's containers: a server that says who it is and whom it sees.
//!
//! In: the words after `serve` on the command line. Out: an [`Answer`] to every HTTP request and every datagram, over
//! both families. It says [`READY`] on stdout once it listens, and never ends by itself.
//! Every program that starts pods can be one: it hands its arguments to [`run_if_asked`] before all else.

use std::{
    ffi::OsString,
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use clap::Parser;

use crate::answer::Answer;

/// The first argument of a program that is to be a server.
pub const SERVE: &str = "serve";

/// The line that says that all ports are open.
pub const READY: &str = "ready";

/// A client that says nothing must not hold its thread for ever.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// Who to be, and where to listen.
#[derive(Debug, Clone, PartialEq, Eq, clap::Parser)]
struct Options {
    /// The name to answer with.
    #[arg(long)]
    name: String,
    /// Ports that answer HTTP.
    #[arg(long)]
    http: Vec<u16>,
    /// Ports that answer datagrams.
    #[arg(long)]
    udp: Vec<u16>,
}

/// Becomes a server if `arguments`, the program's own, ask for one. Returns only if not, or if a port is taken.
pub fn run_if_asked(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter().skip(1).peekable();
    arguments.peek().filter(|first| *first == SERVE)?;
    let options = Options::parse_from(arguments);
    match serve(&options) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("serve: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

fn serve(options: &Options) -> io::Result<()> {
    listen(&options.name, &options.http, &options.udp)?;
    println!("{READY}");
    loop {
        thread::park();
    }
}

/// Answers on these ports of the calling thread's network namespace, on threads of its own, until the program ends.
pub fn listen(name: &str, http: &[u16], udp: &[u16]) -> io::Result<()> {
    let name: Arc<str> = name.into();
    let http = http.iter().map(|port| everywhere(*port, TcpListener::bind));
    let http = http.collect::<io::Result<Vec<_>>>()?;
    let udp = udp.iter().map(|port| everywhere(*port, UdpSocket::bind));
    let udp = udp.collect::<io::Result<Vec<_>>>()?;

    for listener in http {
        let name = Arc::clone(&name);
        thread::spawn(move || answer_connections(&listener, &name));
    }
    for socket in udp {
        let name = Arc::clone(&name);
        thread::spawn(move || answer_datagrams(&socket, &name));
    }
    Ok(())
}

/// Binds to both families, or to IPv4 alone where the kernel has no IPv6.
fn everywhere<T>(port: u16, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let both = IpAddr::from(Ipv6Addr::UNSPECIFIED); // takes IPv4 too: net.ipv6.bindv6only is 0 unless set
    let only = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let bound = bind((both, port).into()).or_else(|_| bind((only, port).into()));
    bound.map_err(|error| io::Error::new(error.kind(), format!("port {port}: {error}")))
}

fn answer_connections(listener: &TcpListener, name: &Arc<str>) {
    for stream in listener.incoming().flatten() {
        let name = Arc::clone(name);
        thread::spawn(move || answer_request(stream, &name)); // a client that goes away is no error of ours
    }
}

fn answer_request(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    let (address, client) = (stream.local_addr()?, stream.peer_addr()?);
    let mut head = BufReader::new(&stream).lines();
    while head.next().transpose()?.is_some_and(|line| !line.is_empty()) {}

    let body = format!("{}\n", answer(name, address, client));
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn answer_datagrams(socket: &UdpSocket, name: &str) -> io::Result<()> {
    let mut asked = [0; 2048];
    loop {
        let Ok((_, client)) = socket.recv_from(&mut asked) else { continue };
        let address = SocketAddr::new(address_towards(client)?, socket.local_addr()?.port());
        // The client may be gone: its loss.
        let _ = socket.send_to(format!("{}\n", answer(name, address, client)).as_bytes(), client);
    }
}

/// The address that an answer to `client` leaves from: an unbound socket does not know it, a connected one does.
fn address_towards(client: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr =
        if client.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let probe = UdpSocket::bind((any, 0))?;
    probe.connect(client)?;
    Ok(probe.local_addr()?.ip())
}

fn answer(name: &str, address: SocketAddr, client: SocketAddr) -> Answer {
    let plain = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    Answer { name: name.to_owned(), address: plain(address), client: plain(client) }
}

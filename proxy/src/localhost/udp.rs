//! UDP: each client has a socket of ours towards the service, so that its answers find it.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
};

use futures_util::future;
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::sessions::Sessions;

/// The longest datagram.
const LONGEST: usize = 65_535;

/// Answers on their way to clients. Beyond that, sockets wait, and the kernel drops what they have no room for.
const ANSWERS: usize = 64;

/// A client's way to the service.
struct Session {
    socket: Arc<UdpSocket>,
    answers: AbortOnDropHandle<()>,
}

/// An answer, and whom it is for.
type Answer = (SocketAddr, Vec<u8>);

/// Everyone who talks to a port.
struct Clients {
    began: Instant,
    sessions: Sessions<Session>,
    answers: mpsc::Sender<Answer>,
}

/// Passes datagrams on. All sessions end with the future.
pub(super) async fn relay(socket: UdpSocket, mut to: watch::Receiver<SocketAddr>) {
    let (sender, mut answers) = mpsc::channel(ANSWERS);
    let mut clients = Clients { began: Instant::now(), sessions: Sessions::default(), answers: sender };
    let mut datagram = vec![0; LONGEST];
    loop {
        let next_end = clients.sessions.next_end().map(|end| clients.began + end);
        let is_silent = async {
            match next_end {
                Some(end) => sleep_until(end).await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            received = socket.recv_from(&mut datagram) => {
                let Ok((length, client)) = received else { continue }; // an answer that found nobody there any more
                let said = datagram.get(..length).unwrap_or_default();
                let to = *to.borrow();
                if let Err(error) = clients.pass(said, client, to).await {
                    debug!(%error, %client, "a datagram through localhost got lost");
                }
            }
            Some((client, said)) = answers.recv() => {
                clients.sessions.touch(client, clients.began.elapsed());
                let _ = socket.send_to(&said, client).await; // whoever is gone needs no answer
            }
            Ok(()) = to.changed() => clients.sessions = Sessions::default(),
            () = is_silent => clients.sessions.end(clients.began.elapsed()),
        }
    }
}

impl Clients {
    /// Sends a client's datagram on, in its session or in a new one.
    async fn pass(&mut self, said: &[u8], client: SocketAddr, to: SocketAddr) -> io::Result<()> {
        let now = self.began.elapsed();
        let session = self.sessions.touch(client, now).filter(|session| !session.answers.is_finished());
        if let Some(session) = session
            && session.socket.send(said).await.is_ok()
        {
            return Ok(());
        }
        let socket = Arc::new(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await?);
        socket.connect(to).await?;
        let receiving = tokio::spawn(receive(Arc::clone(&socket), client, self.answers.clone()));
        let session = Session { socket: Arc::clone(&socket), answers: AbortOnDropHandle::new(receiving) };
        self.sessions.begin(client, session, now);
        socket.send(said).await.map(drop)
    }
}

/// Hands on what comes back, until nobody listens there any more (ICMP says so) or nobody here.
async fn receive(socket: Arc<UdpSocket>, client: SocketAddr, answers: mpsc::Sender<Answer>) {
    let mut datagram = vec![0; LONGEST];
    while let Ok(length) = socket.recv(&mut datagram).await {
        let said = datagram.get(..length).unwrap_or_default().to_vec();
        if answers.send((client, said)).await.is_err() {
            return;
        }
    }
}

//! Sends as fast as it goes, and counts what arrives.
//!
//! However the machine is loaded, a token bucket lets through what its rate gives in a time, and one burst. So much holds for each
//! measurement. That it lets through no less needs a sender and a receiver that run, and a TCP that knows the way: a first one sends too
//! much, loses it, and starts slowly again. So there the best of a few counts.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::runtime::{Runtime, traces::PATIENCE};

/// Over how long bytes are counted.
const WINDOW: Duration = Duration::from_millis(500);

/// How often it is tried to reach the rate.
const TRIES: u32 = 5;

/// What fits in a packet of the pods' MTU.
const DATAGRAM: [u8; 1400] = [0; 1400];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToPod,
    FromPod,
}

/// Bytes from the host to a pod, or back.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) pod: &'static str,
    pub(crate) receiver: IpAddr,
    pub(crate) transport: Transport,
    pub(crate) direction: Direction,
    /// Bytes in a second.
    pub(crate) rate: u64,
    /// Bytes at once after a silence.
    pub(crate) burst: u64,
}

impl Flow {
    /// Measures until the rate is reached but for a tenth; it must not be exceeded by more in any try.
    pub(crate) fn reaches_its_rate(&self, runtime: &Runtime) {
        let mut best = 0;
        for _ in 0..TRIES {
            let arrived = match self.transport {
                Transport::Tcp => self.stream(runtime),
                Transport::Udp => self.datagrams(runtime),
            };
            let (most, least) = (self.percent(arrived.beyond(self.burst)), self.percent(arrived.after_burst));
            assert!(most < 110, "{most} % of the rate: {self:?}");
            best = best.max(least);
            if best > 90 {
                return;
            }
        }
        panic!("only {best} % of the rate: {self:?}");
    }

    /// So much of the rate are bytes in a time.
    fn percent(&self, (bytes, time): (u64, Duration)) -> u128 {
        u128::from(bytes) * 100 / (u128::from(self.rate) * time.as_nanos() / 1_000_000_000).max(1)
    }

    fn at_receiver<T: Send>(&self, runtime: &Runtime, work: impl FnOnce() -> T + Send) -> T {
        match self.direction {
            Direction::ToPod => runtime.inside(self.pod, work),
            Direction::FromPod => runtime.host.run(work).unwrap(),
        }
    }

    fn at_sender<T: Send>(&self, runtime: &Runtime, work: impl FnOnce() -> T + Send) -> T {
        match self.direction {
            Direction::ToPod => runtime.host.run(work).unwrap(),
            Direction::FromPod => runtime.inside(self.pod, work),
        }
    }

    fn stream(&self, runtime: &Runtime) -> Arrived {
        let listener = self.at_receiver(runtime, || TcpListener::bind((self.receiver, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let start = Instant::now();
        let mut sender = self.at_sender(runtime, || TcpStream::connect_timeout(&address, PATIENCE).unwrap());
        let mut receiver = listener.accept().unwrap().0;
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        thread::scope(|scope| {
            scope.spawn(move || while sender.write_all(&[0; 1 << 14]).is_ok() {});
            let mut buffer = vec![0; 1 << 16];
            let counted = self.count(start, || receiver.read(&mut buffer).unwrap());
            drop(receiver); // the sender fails, and ends
            counted
        })
    }

    fn datagrams(&self, runtime: &Runtime) -> Arrived {
        let bind = |address: SocketAddr| UdpSocket::bind(address).unwrap();
        let receiver = self.at_receiver(runtime, || bind((self.receiver, 0).into()));
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let address = receiver.local_addr().unwrap();
        let is_over = AtomicBool::new(false);
        let start = Instant::now();
        let sender = self.at_sender(runtime, || bind(([0, 0, 0, 0], 0).into()));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = sender.send_to(&DATAGRAM, address); // a queue that is full is no obstacle
                }
            });
            let mut buffer = vec![0; 1 << 16];
            let counted = self.count(start, || receiver.recv(&mut buffer).unwrap());
            is_over.store(true, Ordering::Relaxed);
            counted
        })
    }

    /// Adds up what is received until the time is over.
    fn count(&self, start: Instant, mut receive: impl FnMut() -> usize) -> Arrived {
        let (mut bytes, mut at_burst) = (0, None);
        loop {
            bytes += u64::try_from(receive()).unwrap();
            let time = start.elapsed();
            let (bytes_then, then) = *at_burst.get_or_insert((bytes, time));
            if bytes_then < self.burst {
                at_burst = None;
            }
            if time > WINDOW {
                return Arrived {
                    all: (bytes, time),
                    after_burst: (bytes - bytes_then, time.saturating_sub(then)),
                };
            }
        }
    }
}

/// Bytes and the time that they took.
#[derive(Debug, Clone, Copy)]
struct Arrived {
    /// From before the first was sent.
    all: (u64, Duration),
    /// From when as many as one burst had arrived: the bucket is empty then, or was less than full from the start.
    after_burst: (u64, Duration),
}

impl Arrived {
    /// What no burst accounts for.
    fn beyond(self, burst: u64) -> (u64, Duration) {
        (self.all.0.saturating_sub(burst), self.all.1)
    }
}

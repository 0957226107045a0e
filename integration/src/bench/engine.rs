//! The daemon's middle and its kernel end, driven by hand: events in, one commit at a time.
//!
//! This is the one place of the benchmarks that knows how state, plan and socket are put together.

use std::{
    io::{self, Read as _},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use dataplane::nft::{Monitor, Socket};
use proxy::{
    plan::Settings,
    service_port::Family,
    state::{State, Touched},
    sync::{Committed, Services as _, pace::SETTLED, repair::Repair, services::Nftables},
    watch::Event,
};
use socket2::{Domain, Protocol, Type};
use tokio::runtime::{self, Runtime};

use super::workload::OWN_NODE;

/// State, plan and socket.
#[derive(Debug)]
pub(super) struct Engine {
    state: State,
    services: Nftables,
    touched: Touched,
    /// What listens to others is registered here.
    _runtime: Runtime,
}

impl Engine {
    /// Begins as the daemon does, with whatever the calling thread's network namespace holds.
    pub(super) fn open() -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (state, touched) = (State::new(OWN_NODE), Touched::default());
        Ok(Self { state, services: nftables(&runtime)?, touched, _runtime: runtime })
    }

    /// Takes an event in.
    pub(super) fn take(&mut self, event: Event) {
        self.touched.extend(self.state.apply(event));
    }

    /// Takes events in and commits them at once.
    pub(super) fn change(&mut self, events: impl IntoIterator<Item = Event>) -> Result<Committed> {
        events.into_iter().for_each(|event| self.take(event));
        self.commit()
    }

    /// Plans and commits what was taken in.
    pub(super) fn commit(&mut self) -> Result<Committed> {
        self.services.begin()?;
        for (name, family) in self.touched.take_service_ports() {
            self.services.set(&name, family, self.state.service_port(&name, family));
        }
        Ok(self.services.commit()?)
    }

    /// Does what the daemon does while nothing happens, until nothing is left to do.
    pub(super) fn settle(&mut self) -> Result<()> {
        while self.commit()?.is_unfinished {
            thread::sleep(SETTLED);
        }
        Ok(())
    }
}

/// The kernel's end as in the daemon, but without audits, in the calling thread's network namespace.
pub(super) fn nftables(runtime: &Runtime) -> Result<Nftables> {
    let _inside = runtime.enter();
    let (socket, families) = (Socket::open()?, Family::ALL);
    let monitor = Monitor::open(&socket)?;
    let repair = Repair::new(Some(monitor), Socket::open()?, &families, Duration::ZERO)?;
    Ok(Nftables::new(socket, &families, &Settings::default()).with_repair(repair))
}

/// Counts the nftables transactions that the calling thread's network namespace has ever seen.
pub(super) fn transactions() -> Result<u32> {
    generation().context("ask for the generation of nftables")
}

fn generation() -> io::Result<u32> {
    const NETLINK: i32 = 16;
    const NETFILTER: i32 = 12;
    // nlmsghdr (include/uapi/linux/netlink.h) and nfgenmsg: NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, NLM_F_REQUEST.
    let mut request = Vec::with_capacity(20);
    request.extend(20_u32.to_ne_bytes());
    request.extend((10_u16 << 8 | 16).to_ne_bytes());
    request.extend(1_u16.to_ne_bytes());
    request.resize(20, 0);

    let mut socket = socket2::Socket::new(Domain::from(NETLINK), Type::RAW, Some(Protocol::from(NETFILTER)))?;
    socket.send(&request)?;
    let mut reply = [0; 256];
    let length = socket.read(&mut reply)?;
    // The first attribute is NFTA_GEN_ID: 20 bytes of headers, 4 of its own, the number in network order.
    match reply.get(..length).and_then(|reply| reply.get(20..28)) {
        Some(&[_, _, 1, 0, a, b, c, d]) => Ok(u32::from_be_bytes([a, b, c, d])),
        _ => Err(io::Error::other("the kernel's answer has another form")),
    }
}

//! What can be seen of pods from outside the plugin: what they hear, and what they leave on a host.

#![allow(dead_code, reason = "each test program uses its part of it")]

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use dataplane::{
    owner,
    rtnl::{Address, LOOPBACK, Neighbour, Route, Routes},
};

use super::Runtime;

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Connects from one place to an address of a pod, sends a word, and returns what the pod heard and from whom.
pub(crate) fn say(runtime: &Runtime, from: Option<&str>, to: &str, address: &str) -> (String, IpAddr) {
    let address = SocketAddr::new(address.parse().unwrap(), 80);
    let listener = runtime.inside(to, || TcpListener::bind(address).unwrap());
    let connect = || TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    let mut client = match from {
        Some(pod) => runtime.inside(pod, connect),
        None => runtime.host.run(connect).unwrap(),
    };
    client.write_all(b"hello").unwrap();
    drop(client);
    let (mut server, peer) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut heard = String::new();
    server.read_to_string(&mut heard).unwrap();
    (heard, peer.ip())
}

/// Everything on a host that is not there before the first pod.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Traces {
    pub(crate) links: Vec<String>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) routes: Vec<Route>,
    pub(crate) neighbours: Vec<Neighbour>,
    pub(crate) leases: Vec<String>,
}

pub(crate) fn traces(runtime: &Runtime) -> Traces {
    let leases = runtime.leases();
    runtime.on_host(|kernel| async move {
        let links =
            kernel.links().await.unwrap().into_iter().map(|link| link.name).filter(|name| name != "lo");
        Traces {
            links: links.collect(),
            addresses: kernel.addresses().await.unwrap().into_iter().filter(|a| a.link != LOOPBACK).collect(),
            routes: kernel.routes(owner::ROUTE_PROTOCOL).await.unwrap(),
            neighbours: kernel
                .neighbours()
                .await
                .unwrap()
                .into_iter()
                .filter(|n| n.link != LOOPBACK)
                .collect(),
            leases,
        }
    })
}

//! The API server of a lab that has one: the double of the tests, which the daemons follow instead of files.
//!
//! In: the objects that the daemons are to see. Out: lists and watches of them over HTTPS, for whoever has the token; and what a kubeconfig
//! file must say. It is on a machine of the lab, and goes with its handle.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
};

use dataplane::disk::{self, Directory, Durability};
use fairway_api_double::{Double, Kind, Options, Server, Tls};
use serde_json::Value;
use tokio::runtime::{self, Runtime};

use crate::{
    host::{self, Host},
    manifest::ObjectName,
};

/// Where API servers listen.
const PORT: u16 = 6443;

/// In a place that each machine has for itself.
const DIRECTORY: &str = "/run/lab";

/// The certificate that it is known by, beside the kubeconfig file.
const AUTHORITY: &str = "ca.crt";

/// The kubeconfig file on machines that it was introduced to.
pub const KUBECONFIG: &str = "/run/lab/kubeconfig";

/// What lets a daemon in. Nobody outside of the lab can reach the server.
const TOKEN: &str = "of-the-lab";

/// Why there is no API server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine refused.
    #[error("the API server")]
    Host(#[from] host::Error),
    /// A machine has no file that leads to it.
    #[error("lead to the API server")]
    File(#[from] disk::Error),
    /// It has no certificates.
    #[error("make certificates for the API server")]
    Certificates(#[source] fairway_api_double::Error),
    /// It has no event loop, or cannot listen.
    #[error("the API server on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// An API server that runs.
#[derive(Debug)]
pub struct ApiServer {
    server: Server, // before the event loop that it is in
    double: Double,
    tls: Tls,
    told: BTreeMap<ObjectName, Value>,
    _runtime: Runtime,
}

impl ApiServer {
    /// Starts it on a machine, at one of its addresses.
    pub fn start(host: &Host, ip: IpAddr) -> Result<Self, Error> {
        let double = Double::new(Options { token: Some(TOKEN.into()), ..Options::default() });
        let tls = Tls::new().map_err(Error::Certificates)?;
        let address = SocketAddr::new(ip, PORT);
        let started = host.run(|| {
            // Its threads are made on that machine, and so are the sockets.
            let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let server = runtime.block_on(Server::start(&double, address, Some(&tls)))?;
            Ok((server, runtime))
        })?;
        let (server, runtime) = started.map_err(|source| Error::Listen { address, source })?;
        Ok(Self { server, double, tls, told: BTreeMap::new(), _runtime: runtime })
    }

    /// Brings what it has to these objects: first what is new or says something else, in the order of names, then what goes, in the opposite
    /// order.
    pub fn tell(&mut self, objects: BTreeMap<ObjectName, Value>) {
        for (_, object) in objects.iter().filter(|(name, object)| self.told.get(*name) != Some(object)) {
            self.double.put(object);
        }
        for (name, object) in self.told.iter().rev().filter(|(name, _)| !objects.contains_key(*name)) {
            if let Some(kind) = Kind::of(object) {
                self.double.delete(kind, &name.namespace, &name.name);
            }
        }
        self.told = objects;
    }

    /// Leaves on a machine what a daemon there needs to find and trust it: [`KUBECONFIG`].
    pub fn introduce(&self, host: &Host) -> Result<(), Error> {
        let (authority, kubeconfig) = (self.tls.authority(), kubeconfig(&self.server.url()));
        let written = host.run(|| {
            let directory = Directory::new(DIRECTORY, Durability::Volatile);
            directory.replace(AUTHORITY, authority.as_bytes())?;
            directory.replace("kubeconfig", kubeconfig.as_bytes())
        })?;
        Ok(written?)
    }

    /// The double itself, to order faults from.
    pub fn double(&self) -> &Double {
        &self.double
    }
}

fn kubeconfig(url: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters: [{{name: lab, cluster: {{server: '{url}', certificate-authority: {AUTHORITY}}}}}]
users: [{{name: fairway, user: {{token: {TOKEN}}}}}]
contexts: [{{name: lab, context: {{cluster: lab, user: fairway}}}}]
current-context: lab
"
    )
}

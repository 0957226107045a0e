//! The lab as a library: a cluster of network namespaces on one machine.
//!
//! Everything here happens inside a [`sandbox`]: fresh user, mount, network and process namespaces that the kernel
//! takes away with their first process. The tests of the whole workspace stand on the same floor, by [`harness`].

pub mod answer;
pub mod api_server;
pub mod bench;
pub mod binaries;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod demo;
pub mod endpoints;
pub mod harness;
pub mod holder;
pub mod host;
pub mod image;
pub mod kubelet;
pub mod lesson;
pub mod manifest;
pub mod network;
pub mod node;
pub mod ping;
mod process;
pub mod row;
pub mod runtime;
pub mod sandbox;
pub mod screen;
pub mod sctp;
pub mod server;
pub mod syn;
pub mod wait;
pub mod wire;

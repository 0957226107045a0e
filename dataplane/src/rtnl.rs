//! Links, addresses, routes, rules, neighbours and VXLAN's forwardings: values, the difference between two sets of routes, and the kernel.
//!
//! In: values. Out: values, and changes made by [`Kernel`], a route-netlink socket that is opened inside a namespace and
//! used from outside it; [`Monitor`] tells when to look again. [`Fake`] keeps routes as the kernel does, for tests without one; both pass the same contract.
//! Nothing here decides what should be there, and [`diff`](diff()) never lists a route that is not ours.
//!
//! ```text
//! wanted routes ─┐
//!                ├─ diff ─→ changes ─→ Routes::apply  (Kernel | Fake)
//! Routes::routes ┘
//! ```

mod address;
mod bridge;
mod diff;
mod error;
mod fake;
mod kernel;
mod link;
mod monitor;
mod neighbour;
mod reports;
mod route;
mod rule;
mod shaping;
mod tunnel;

pub use self::{
    address::{Address, AddressFlags, Uniqueness},
    bridge::{Bridge, Port},
    diff::{Change, diff},
    error::{Error, Operation},
    fake::Fake,
    kernel::Kernel,
    link::{Link, Mac, ParseMacError, VethEnd},
    monitor::{Kinds, Monitor},
    neighbour::{Neighbour, NeighbourState},
    reports::{Report, Reports},
    route::{Route, Routes, Scope, Table},
    rule::{Rule, Rules},
    shaping::TokenBucket,
    tunnel::{Device, Forwarding, Tunnel, Tunnels, Vxlan},
};

/// The loopback link has this index in every namespace.
pub const LOOPBACK: u32 = 1;

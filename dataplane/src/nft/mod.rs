//! nftables as values, and the socket that makes the kernel agree with them.
//!
//! ```text
//! table (values) ──text──▶ what `nft list table` would say
//!    │ diff            ┌──encode──▶ bytes ──socket──▶ kernel
//!    ▼                 │
//! transaction ─────────┼──fake──▶ the same table, in memory
//!                      └──text──▶ what `nft -f` would read
//! held ◀──socket── kernel: what it holds of ours, comparable with a table
//! trace: where would this packet go?
//! ```

mod audit;
mod counters;
mod decode;
mod diff;
mod doubt;
mod encode;
mod fake;
pub mod foreign;
mod held;
mod jhash;
mod monitor;
mod prune;
mod socket;
mod table;
mod text;
mod trace;
mod transaction;

use crate::nfnetlink::message;

pub use audit::Audit;
pub use counters::{Counted, Counters};
pub use diff::diff;
pub use doubt::{Doubt, Keys};
pub use fake::{Fake, Refusal};
pub use held::{Fingerprint, Held, HeldChain};
pub use monitor::{Intrusion, Monitor, Notice, Process};
pub use prune::{Prune, Reading};
pub use socket::{Error, Socket};
pub use table::{
    Affinity, Chain, ChainName, Data, DataType, Element, Hook, Key, KeyType, LinkName, Map, MapName, Match,
    Rule, SetType, Source, State, Statement, Table, Verdict,
};
pub use trace::{Fate, Packet, Payload, Route, trace};
pub use transaction::{Change, Transaction};

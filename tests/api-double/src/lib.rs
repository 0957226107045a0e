//! A double of the Kubernetes API server: list and watch of the four kinds that Fairway reads, and faults to order.
//!
//! In: objects that are put and deleted. Out: what an API server answers over HTTP or HTTPS to `list` (pages, continue tokens that
//! expire) and `watch` (from a version on, bookmarks, 410 once that is forgotten), by the rules of the Kubernetes API concepts. [`Double::answer`] answers in the same
//! process; [`Server`] over a socket. It never validates objects: that is where tests put nonsense in.

mod answer;
mod faults;
mod selector;
mod server;
mod store;
mod tls;

pub use answer::{Body, Double, Options};
pub use faults::Fault;
pub use server::Server;
pub use store::{Kind, Name};
pub use tls::{Error, Tls};

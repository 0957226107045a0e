//! Connection tracking: flows as values, and the kernel that keeps them.
//!
//! In: a [`Filter`], and what of it is wanted. Out: flows; and, for those that are to go, their deletion. [`Socket`] asks the
//! kernel (ctnetlink), [`Fake`] keeps flows in memory; both pass the same contract. Nothing here decides which flow is wrong.
//!
//! ```text
//!  client 10.244.1.2:4000 ──original──▶ 10.96.0.10:53          a flow is found by either of its tuples
//!         10.244.1.2:4000 ◀───reply──── 10.244.2.7:5353        the reply's source: who really answers
//! ```

mod fake;
mod flow;
mod kernel;
mod wire;

pub use self::{
    fake::Fake,
    flow::{Filter, Flow, Tuple},
    kernel::{Error, Socket},
};

/// Whatever keeps flows.
pub trait Conntrack {
    /// Why it could not say, or not delete.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Lists the flows that a filter lets through and that are wanted. Flows that come or go meanwhile may be on the list or not.
    fn flows(
        &mut self,
        filter: &Filter,
        is_wanted: &mut dyn FnMut(&Flow) -> bool,
    ) -> Result<Vec<Flow>, Self::Error>;

    /// Deletes these flows, and says how many of them were still there. Another flow that has taken the place of one of them stays.
    /// One that cannot be deleted is an error, and no reason to leave others.
    fn delete(&mut self, flows: &[Flow]) -> Result<usize, Self::Error>;
}

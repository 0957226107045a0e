//! Flows in memory, for tests without a kernel. They come only as they are put in, and never time out.

use std::convert::Infallible;

use super::{Conntrack, Filter, Flow};

/// Keeps flows as the kernel does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fake {
    /// The flows that there are.
    pub flows: Vec<Flow>,
}

impl Conntrack for Fake {
    type Error = Infallible;

    fn flows(
        &mut self,
        filter: &Filter,
        is_wanted: &mut dyn FnMut(&Flow) -> bool,
    ) -> Result<Vec<Flow>, Infallible> {
        let let_through = self.flows.iter().filter(|flow| filter.lets_through(flow));
        Ok(let_through.filter(|flow| is_wanted(flow)).cloned().collect())
    }

    fn delete(&mut self, flows: &[Flow]) -> Result<usize, Infallible> {
        let before = self.flows.len();
        self.flows.retain(|flow| !flows.iter().any(|other| is_same(flow, other)));
        Ok(before - self.flows.len())
    }
}

/// Whatever else has become of it meanwhile.
fn is_same(one: &Flow, other: &Flow) -> bool {
    let key = |flow: &Flow| (flow.protocol, flow.reply, flow.zone, flow.id);
    key(one) == key(other)
}

//! Which endpoints of a service port may be chosen, seen from one node. Pure.
//!
//! In: every endpoint of all slices, with its conditions and hints. Out: the ones to choose from under each traffic
//! policy. The rules are kube-proxy's (`pkg/proxy/topology.go`).

use std::net::SocketAddr;

use crate::{
    objects::{Hints, SliceEndpoint, annotations::Weights},
    service_port::Endpoint,
};

/// Where the choice is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place<'a> {
    /// The node's name.
    pub(super) node: &'a str,
    /// Its zone, if it has one.
    pub(super) zone: Option<&'a str>,
}

/// What is known of an endpoint. The order is that of trust: of two slices that name the same endpoint, the one in which it
/// is not terminating is right (a pod may move between slices).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::struct_excessive_bools, reason = "the API's three conditions are independent of each other")]
pub(super) struct Candidate {
    is_staying: bool,
    is_ready: bool,
    is_serving: bool,
    for_node: Hint,
    for_zone: Hint,
    is_local: bool,
    weight: u32,
}

/// Whether an endpoint is meant for clients here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hint {
    /// It does not say.
    None,
    /// For others.
    Elsewhere,
    /// It is.
    Here,
}

impl Candidate {
    pub(super) fn new(endpoint: &SliceEndpoint, place: Place, weights: &Weights) -> Self {
        let hints = endpoint.hints.as_deref();
        Self {
            is_staying: !endpoint.terminating,
            is_ready: endpoint.ready,
            is_serving: endpoint.serving,
            for_node: hint(hints, |hints| &hints.nodes, Some(place.node)),
            for_zone: hint(hints, |hints| &hints.zones, place.zone),
            is_local: endpoint.node.as_deref() == Some(place.node),
            weight: weights.of(endpoint),
        }
    }

    fn is_usable(self, any_ready: bool) -> bool {
        self.is_ready || (!any_ready && self.is_serving && !self.is_staying)
    }

    fn merge(&mut self, other: Self) {
        let is_local = self.is_local || other.is_local;
        *self = Self { is_local, ..(*self).max(other) };
    }
}

fn hint(
    hints: Option<&Hints>,
    names: impl Fn(&Hints) -> &Vec<std::sync::Arc<str>>,
    here: Option<&str>,
) -> Hint {
    match hints.map(names).map(Vec::as_slice) {
        None | Some([]) => Hint::None,
        Some(names) if names.iter().any(|name| Some(&**name) == here) => Hint::Here,
        Some(_) => Hint::Elsewhere,
    }
}

/// Every endpoint once, in order of addresses.
pub(super) fn merged(mut candidates: Vec<(SocketAddr, Candidate)>) -> Vec<(SocketAddr, Candidate)> {
    candidates.sort_unstable();
    candidates.dedup_by(|other, first| {
        let is_same = other.0 == first.0;
        if is_same {
            first.1.merge(other.1);
        }
        is_same
    });
    candidates
}

/// The endpoints for [`crate::service_port::TrafficPolicy::Cluster`]: the ready ones, of them those that are meant for clients
/// here; if none is ready, those that still answer while they end.
pub(super) fn of_all(candidates: &[(SocketAddr, Candidate)]) -> Vec<Endpoint> {
    let ready = || candidates.iter().filter(|(_, candidate)| candidate.is_ready);
    // A hint counts only if every ready endpoint has one, and some of them are meant for here.
    let decide = |hint: fn(Candidate) -> Hint| {
        ready().all(|(_, candidate)| hint(*candidate) != Hint::None)
            && ready().any(|(_, candidate)| hint(*candidate) == Hint::Here)
    };
    let (by_node, by_zone) = (decide(|candidate| candidate.for_node), decide(|candidate| candidate.for_zone));
    chosen(candidates, |candidate| match (candidate.is_ready, by_node, by_zone) {
        (true, true, _) => candidate.for_node == Hint::Here,
        (true, false, true) => candidate.for_zone == Hint::Here,
        _ => true,
    })
}

/// The endpoints for [`crate::service_port::TrafficPolicy::Local`]: the same among those of this node, whatever their hints.
pub(super) fn of_local(candidates: &[(SocketAddr, Candidate)]) -> Vec<Endpoint> {
    chosen(candidates, |candidate| candidate.is_local)
}

fn chosen(candidates: &[(SocketAddr, Candidate)], is_among: impl Fn(Candidate) -> bool) -> Vec<Endpoint> {
    let among = || candidates.iter().filter(|(_, candidate)| is_among(*candidate));
    let any_ready = among().any(|(_, candidate)| candidate.is_ready);
    let usable = || among().filter(|(_, candidate)| candidate.is_usable(any_ready));
    // Where all weigh nothing, they are better than nobody.
    let any_weight = usable().any(|(_, candidate)| candidate.weight > 0);
    let wanted = usable().filter(|(_, candidate)| candidate.weight > 0 || !any_weight);
    let endpoint = |(address, candidate): &(SocketAddr, Candidate)| Endpoint {
        address: *address,
        is_local: candidate.is_local,
        weight: candidate.weight.max(1),
    };
    wanted.map(endpoint).collect()
}

/// Says whether there is an endpoint for anybody anywhere.
pub(super) fn any(candidates: &[(SocketAddr, Candidate)]) -> bool {
    candidates.iter().any(|(_, candidate)| candidate.is_usable(false))
}

/// Every endpoint that answers.
pub(super) fn serving(candidates: &[(SocketAddr, Candidate)]) -> Vec<SocketAddr> {
    addresses(candidates, |candidate| candidate.is_ready || candidate.is_serving)
}

/// Every endpoint that does not answer.
pub(super) fn silent(candidates: &[(SocketAddr, Candidate)]) -> Vec<SocketAddr> {
    addresses(candidates, |candidate| !candidate.is_ready && !candidate.is_serving)
}

fn addresses(candidates: &[(SocketAddr, Candidate)], is_meant: fn(Candidate) -> bool) -> Vec<SocketAddr> {
    candidates.iter().filter(|(_, candidate)| is_meant(*candidate)).map(|(address, _)| *address).collect()
}

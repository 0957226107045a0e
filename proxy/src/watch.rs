//! Where the state's news comes from: one event for each object that changed, over a bounded channel.
//!
//! Every source says [`Event::Listed`] once it has told everything that was there when it began, or last time, and nothing is
//! committed before that. It never repeats an object that is as it was.

use std::sync::Arc;

use crate::objects::{EndpointSlice, Kind, Node, Object, ObjectName, Service, ServiceCidr};

pub mod kubernetes;
pub mod manifests;

/// Something that happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// To a service.
    Service(Change<Service>),
    /// To a part of a service's endpoints.
    EndpointSlice(Change<EndpointSlice>),
    /// To a node.
    Node(Change<Node>),
    /// To networks of cluster IPs.
    ServiceCidr(Change<ServiceCidr>),
    /// Everything has been told once.
    Listed,
    /// Everything has been told by the API server itself, so that it is worth to be kept for a start without it.
    Confirmed,
}

/// What happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// It is there, and is this from now on.
    Set(Arc<T>),
    /// It is not there any more.
    Gone(ObjectName),
}

impl Event {
    /// The kind of the object, if it is about one.
    pub fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
            Self::Listed | Self::Confirmed => return None,
        })
    }

    /// The object is there, as given.
    pub fn set(object: Object) -> Self {
        match object {
            Object::Service(service) => Self::Service(Change::Set(service)),
            Object::EndpointSlice(slice) => Self::EndpointSlice(Change::Set(slice)),
            Object::Node(node) => Self::Node(Change::Set(node)),
            Object::ServiceCidr(cidr) => Self::ServiceCidr(Change::Set(cidr)),
        }
    }

    /// The object is gone.
    pub fn gone(kind: Kind, name: ObjectName) -> Self {
        match kind {
            Kind::Service => Self::Service(Change::Gone(name)),
            Kind::EndpointSlice => Self::EndpointSlice(Change::Gone(name)),
            Kind::Node => Self::Node(Change::Gone(name)),
            Kind::ServiceCidr => Self::ServiceCidr(Change::Gone(name)),
        }
    }
}

//! What the daemons see of a cluster, and where: in a directory on each node, or at an API server for all of them.
//!
//! In: the cluster's objects and the pods that run. Out: files, one object each, or an API server that has them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Cluster, Error};
use crate::{
    api_server::ApiServer,
    endpoints,
    manifest::{Content, ObjectName},
    node::RunningNode,
};

/// Where daemons look for objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// In a directory of manifests on each node.
    #[default]
    Manifests,
    /// At an API server.
    Api,
}

/// Who is told of objects.
#[derive(Debug)]
pub(super) enum Audience {
    /// A directory on each node.
    Directories,
    /// One for all.
    Api(Box<ApiServer>),
}

impl Cluster {
    /// Lets the daemons see what is there now.
    pub(super) fn publish(&mut self) -> Result<(), Error> {
        let seen = self.seen()?;
        match &mut self.audience {
            Audience::Api(server) => server.tell(seen),
            Audience::Directories => {
                let mut files = BTreeMap::new();
                for (name, object) in &seen {
                    let file = file_of(name);
                    let text = serde_saphyr::to_string(object).map_err(unwritten(name))?;
                    files.insert(file, text);
                }
                self.nodes.values_mut().try_for_each(|node: &mut RunningNode| node.publish(&files))?;
            }
        }
        Ok(())
    }

    /// The objects that daemons see: all but pods, and what the endpoint controller makes of these.
    fn seen(&self) -> Result<BTreeMap<ObjectName, Value>, Error> {
        let mut seen = BTreeMap::new();
        for object in self.objects.values() {
            if !matches!(object.content, Content::Pod(_)) {
                seen.insert(object.name.clone(), object.document.clone());
            }
            if let Content::Service(service) = &object.content {
                for slice in endpoints::slices(service, self.backends()) {
                    let name = ObjectName {
                        kind: slice.kind.into(),
                        namespace: slice.metadata.namespace.clone(),
                        name: slice.metadata.name.clone(),
                    };
                    let written = serde_json::to_value(&slice).map_err(unwritten(&name))?;
                    seen.insert(name, written);
                }
            }
        }
        Ok(seen)
    }
}

fn file_of(object: &ObjectName) -> String {
    let ObjectName { kind, namespace, name } = object;
    let kind = kind.to_lowercase();
    if namespace.is_empty() {
        format!("{kind}-{name}.yaml")
    } else {
        format!("{kind}-{namespace}-{name}.yaml")
    }
}

fn unwritten<E: std::error::Error>(object: &ObjectName) -> impl Fn(E) -> Error {
    move |error| Error::Write { object: object.clone(), reason: error.to_string() }
}

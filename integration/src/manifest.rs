//! Manifests: Kubernetes objects as people write them.
//!
//! In: the text of a file, YAML or JSON, one or more documents, `List`s too. Out: [`Object`]s of the kinds the lab acts
//! on, each with its whole document, so that what only the daemon understands reaches the daemon unchanged.
//! An error names the file, the object and the field. Nothing here touches a file or the network.

mod objects;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

pub use objects::{
    Condition, Container, ContainerPort, EndpointPort, EndpointSlice, Metadata, Node, NodeAddress, NodeSpec,
    NodeStatus, Pod, PodSpec, Protocol, Reference, Service, ServicePort, ServiceSpec, SliceEndpoint,
    TargetPort,
};

/// Why a manifest was not understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no YAML.
    #[error("{file}: not YAML: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// What the parser said, on one line.
        reason: String,
    },
    /// A document is no Kubernetes object.
    #[error("{file}: document {number} is no object with kind and metadata.name: {reason}")]
    NoObject {
        /// The file.
        file: String,
        /// Which document, from 1.
        number: usize,
        /// What is missing.
        reason: String,
    },
    /// The lab does nothing with objects of this kind.
    #[error("{file}: {object}: kind is none of Node, Pod, Service, EndpointSlice, List")]
    Kind {
        /// The file.
        file: String,
        /// The object.
        object: Box<ObjectName>,
    },
    /// A field has a value that the lab cannot use.
    #[error("{file}: {object}: {field}: {reason}")]
    Field {
        /// The file.
        file: String,
        /// The object.
        object: Box<ObjectName>,
        /// The field's path.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Names an object: its kind, its namespace (empty for nodes) and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// `Pod`, `Service`, …
    pub kind: String,
    /// Empty for kinds that live in none.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// What an object says, for the kinds the lab acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A machine of the cluster.
    Node(Node),
    /// Containers that share a network namespace.
    Pod(Pod),
    /// A stable address in front of pods.
    Service(Service),
    /// Backends of a service, written by hand. Read by the daemon only.
    EndpointSlice,
}

/// A Kubernetes object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub name: ObjectName,
    /// What the lab understood of it.
    pub content: Content,
    /// All of it, as written; the namespace is filled in.
    pub document: Value,
}

/// Parses a file's text. `file` is what errors call it.
pub fn parse(file: &str, text: &str) -> Result<Vec<Object>, Error> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| {
        let reason = error.without_snippet().to_string();
        let reason = reason.lines().next().unwrap_or_default().to_owned();
        Error::Syntax { file: file.to_owned(), reason }
    })?;
    let mut objects = Vec::new();
    for (document, number) in documents.into_iter().zip(1..) {
        for document in unlisted(document) {
            objects.push(object(file, number, document)?);
        }
    }
    Ok(objects)
}

/// The items of a `List`, or the document itself.
fn unlisted(mut document: Value) -> Vec<Value> {
    let is_list = document.get("kind").and_then(Value::as_str) == Some("List");
    match document.get_mut("items") {
        Some(Value::Array(items)) if is_list => std::mem::take(items),
        _ => vec![document],
    }
}

#[derive(Deserialize)]
struct Head {
    kind: String,
    metadata: Metadata,
}

fn object(file: &str, number: usize, mut document: Value) -> Result<Object, Error> {
    let head: Head = serde_path_to_error::deserialize(&document).map_err(|error| Error::NoObject {
        file: file.to_owned(),
        number,
        reason: error.to_string(),
    })?;
    let namespace = if head.kind == "Node" { String::new() } else { head.metadata.namespace };
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut)
        && !namespace.is_empty()
    {
        metadata.insert("namespace".into(), namespace.clone().into());
    }
    let name = ObjectName { kind: head.kind, namespace, name: head.metadata.name };

    let source = Source { file, name: &name, document: &document };
    for (field, text) in [("metadata.name", &name.name), ("metadata.namespace", &name.namespace)] {
        if !(is_name(text) || name.kind == "Node" && field == "metadata.namespace") {
            return Err(source.field((field.to_owned(), not_a_name(text))));
        }
    }
    let content = match name.kind.as_str() {
        "Node" => Content::Node(source.checked(Node::wrong_field)?),
        "Pod" => Content::Pod(source.checked(Pod::wrong_field)?),
        "Service" => Content::Service(source.checked(Service::wrong_field)?),
        "EndpointSlice" => Content::EndpointSlice,
        _ => return Err(Error::Kind { file: file.to_owned(), object: Box::new(name) }),
    };
    Ok(Object { name, content, document })
}

/// Says whether a text can be an object's or a container's name: they become names of files and machines. // RFC 1123 §2.1
fn is_name(text: &str) -> bool {
    let is_end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(is_end)
        && text.ends_with(is_end)
        && text.chars().all(|c| is_end(c) || matches!(c, '-' | '.'))
}

fn not_a_name(text: &str) -> String {
    format!("{text:?} is no name: a-z 0-9 - . with a letter or digit first and last")
}

/// A document, and what to call it in errors.
struct Source<'a> {
    file: &'a str,
    name: &'a ObjectName,
    document: &'a Value,
}

/// A field's path and what is wrong with it.
type WrongField = (String, String);

impl Source<'_> {
    fn checked<T: DeserializeOwned>(&self, wrong: impl Fn(&T) -> Option<WrongField>) -> Result<T, Error> {
        let content = serde_path_to_error::deserialize(self.document).map_err(|error| {
            let field = error.path().to_string();
            self.field((field, error.into_inner().to_string()))
        })?;
        match wrong(&content) {
            Some(wrong) => Err(self.field(wrong)),
            None => Ok(content),
        }
    }

    fn field(&self, (field, reason): WrongField) -> Error {
        Error::Field { file: self.file.to_owned(), object: Box::new(self.name.clone()), field, reason }
    }
}

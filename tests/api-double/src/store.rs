//! The objects, and what happened to them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde_json::{Value, json};

use crate::selector::Selector;

/// How much of what happened is remembered, at most: an API server's watch cache has as little.
const HISTORY: usize = 10_000;

/// The kinds that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// core/v1 Service.
    Service,
    /// discovery.k8s.io/v1 `EndpointSlice`.
    EndpointSlice,
    /// core/v1 Node.
    Node,
    /// networking.k8s.io/v1 `ServiceCIDR`.
    ServiceCidr,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Service, Self::EndpointSlice, Self::Node, Self::ServiceCidr];

    /// Where its objects are, in all namespaces.
    pub fn path(self) -> &'static str {
        match self {
            Self::Service => "/api/v1/services",
            Self::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices",
            Self::Node => "/api/v1/nodes",
            Self::ServiceCidr => "/apis/networking.k8s.io/v1/servicecidrs",
        }
    }

    /// Its name and group version, as objects have them.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Service => ("Service", "v1"),
            Self::EndpointSlice => ("EndpointSlice", "discovery.k8s.io/v1"),
            Self::Node => ("Node", "v1"),
            Self::ServiceCidr => ("ServiceCIDR", "networking.k8s.io/v1"),
        }
    }

    /// The kind that an object says it is of.
    pub fn of(object: &Value) -> Option<Self> {
        let name = object.get("kind")?.as_str()?;
        Self::ALL.into_iter().find(|kind| kind.names().0 == name)
    }
}

/// Namespace and name; no namespace for nodes and service CIDRs.
pub type Name = (String, String);

/// An object as it was at some time.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// As an item of a list: without kind and version.
    pub(crate) item: String,
    /// As the object of a watch's line.
    pub(crate) whole: String,
}

/// A list at some time.
pub(crate) type Listed = Arc<Vec<Arc<Version>>>;

/// What happened to an object.
#[derive(Debug, Clone)]
pub(crate) struct Happening {
    pub(crate) revision: u64,
    pub(crate) kind: Kind,
    pub(crate) before: Option<Arc<Version>>,
    /// `None`: it was deleted.
    pub(crate) after: Option<Arc<Version>>,
}

/// All objects.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) revision: u64,
    objects: BTreeMap<Kind, BTreeMap<Name, Arc<Version>>>,
    history: VecDeque<Happening>,
    /// What happened up to this revision may be forgotten.
    oldest: u64,
    /// What pages are cut from, by revision, kind and selector.
    snapshots: BTreeMap<(u64, Kind, String), Listed>,
}

impl Store {
    pub(crate) fn put(&mut self, object: &Value) -> Option<Name> {
        let kind = Kind::of(object)?;
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = (text("/metadata/namespace"), text("/metadata/name"));
        self.revision += 1;
        let version = self.version(kind, object);
        let before = self.objects.entry(kind).or_default().insert(name.clone(), Arc::clone(&version));
        let after = Some(version);
        self.remember(Happening { revision: self.revision, kind, before, after });
        Some(name)
    }

    pub(crate) fn delete(&mut self, kind: Kind, name: &Name) -> bool {
        let Some(before) = self.objects.entry(kind).or_default().remove(name) else { return false };
        self.revision += 1;
        // The last state, as of its deletion. // Kubernetes API concepts, "Efficient detection of changes"
        let object: Value = serde_json::from_str(&before.whole).unwrap_or_default();
        let before = self.version(kind, &object);
        self.remember(Happening { revision: self.revision, kind, before: Some(before), after: None });
        true
    }

    fn remember(&mut self, happening: Happening) {
        self.history.push_back(happening);
        while self.history.len() > HISTORY
            && let Some(forgotten) = self.history.pop_front()
        {
            let oldest = forgotten.revision;
            self.oldest = oldest;
            self.snapshots.retain(|(revision, ..), _| *revision >= oldest);
        }
    }

    fn version(&self, kind: Kind, object: &Value) -> Arc<Version> {
        let mut object = object.clone();
        let (kind_name, group_version) = kind.names();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), self.revision.to_string().into());
            // What no reader of ours may keep.
            metadata.insert(
                "managedFields".into(),
                json!([{
                    "manager": "kube-controller-manager", "operation": "Update", "apiVersion": group_version,
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:ports": {}}},
                }]),
            );
        }
        if let Some(fields) = object.as_object_mut() {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        let item = object.to_string();
        if let Some(fields) = object.as_object_mut() {
            fields.insert("kind".into(), kind_name.into());
            fields.insert("apiVersion".into(), group_version.into());
        }
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
        let labels = labels.into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Arc::new(Version {
            name: object.pointer("/metadata/name").map(text).unwrap_or_default(),
            labels: labels.map(|(key, value)| (key.clone(), text(value))).collect(),
            item,
            whole: object.to_string(),
        })
    }

    /// Forgets all that happened so far: watches from before, and pages of lists from before, are too old.
    pub(crate) fn compact(&mut self) {
        self.oldest = self.revision;
        self.history.clear();
        self.snapshots.clear();
    }

    pub(crate) fn is_forgotten(&self, revision: u64) -> bool {
        revision < self.oldest
    }

    /// What happened to a kind after a revision.
    pub(crate) fn since(&self, revision: u64, kind: Kind) -> Vec<Happening> {
        let first = self.history.partition_point(|happening| happening.revision <= revision);
        self.history.range(first..).filter(|happening| happening.kind == kind).cloned().collect()
    }

    /// All objects that a selector takes, as they are now.
    pub(crate) fn list(&mut self, kind: Kind, selector: &Selector) -> Listed {
        let key = (self.revision, kind, selector.to_string());
        if let Some(snapshot) = self.snapshots.get(&key) {
            return Arc::clone(snapshot);
        }
        let all = self.objects.get(&kind).into_iter().flat_map(BTreeMap::values);
        let taken = Arc::new(all.filter(|version| selector.takes(version)).cloned().collect::<Vec<_>>());
        self.snapshots.insert(key, Arc::clone(&taken));
        taken
    }

    /// The list that a page was cut from, unless it is forgotten.
    pub(crate) fn listed(&self, revision: u64, kind: Kind, selector: &Selector) -> Option<Listed> {
        self.snapshots.get(&(revision, kind, selector.to_string())).cloned()
    }

    /// Every object of a kind, whole.
    pub(crate) fn all(&self, kind: Kind) -> Vec<Value> {
        let all = self.objects.get(&kind).into_iter().flat_map(BTreeMap::values);
        all.filter_map(|version| serde_json::from_str(&version.whole).ok()).collect()
    }
}

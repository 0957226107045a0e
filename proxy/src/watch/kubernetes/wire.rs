//! What the API server answers: pages of a list, and lines of a watch. Objects stay text here.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::objects::ObjectName;

/// A page of a list.
#[derive(Deserialize)]
pub(super) struct Page<'a> {
    #[serde(default)]
    pub(super) metadata: ListMetadata,
    #[serde(borrow, default)]
    pub(super) items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMetadata {
    pub(super) resource_version: Option<String>,
    /// Where the next page begins.
    #[serde(rename = "continue")]
    pub(super) rest: Option<String>,
}

/// A line of a watch.
#[derive(Deserialize)]
pub(super) struct Line<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) happened: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

/// What says which object it is, and as of when.
#[derive(Deserialize)]
pub(super) struct Head {
    pub(super) metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    pub(super) resource_version: Option<String>,
}

impl Head {
    pub(super) fn object_name(&self) -> ObjectName {
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        ObjectName { namespace: text(&self.metadata.namespace), name: text(&self.metadata.name) }
    }
}

/// Why the API server ends a watch.
#[derive(Deserialize, Debug, Default)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) code: u16,
    #[serde(default)]
    pub(super) message: String,
}

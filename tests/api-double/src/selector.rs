//! Label and field selectors, as far as Fairway uses them: `key`, `!key`, `key=value`, and `metadata.name=…`.

use std::fmt;

use crate::store::Version;

/// Which objects a request is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) labels: String,
    pub(crate) fields: String,
}

impl Selector {
    pub(crate) fn takes(&self, version: &Version) -> bool {
        let parts = |text: &str| text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let (labels, fields): (Vec<String>, Vec<String>) = (parts(&self.labels), parts(&self.fields));
        let is_labelled = labels.iter().all(|part| match (part.strip_prefix('!'), part.split_once('=')) {
            (Some(key), _) => !version.labels.contains_key(key),
            (None, Some((key, value))) => {
                version.labels.get(key).map(String::as_str) == Some(value.trim_start_matches('='))
            }
            (None, None) => version.labels.contains_key(part),
        });
        let has_fields = fields.iter().all(|part| match part.split_once('=') {
            Some(("metadata.name", value)) => version.name == value.trim_start_matches('='),
            _ => false,
        });
        is_labelled && has_fields
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{}", self.labels, self.fields)
    }
}

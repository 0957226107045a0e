//! From a file's text to the objects in it. Pure.
//!
//! YAML or JSON, several documents, `List` objects. What is wrong with one object does not touch the others.

use serde_json::Value;

use crate::objects::{Invalid, Object};

#[cfg(test)]
mod tests;

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The objects of the kinds that we use, in the order of the file.
    pub objects: Vec<Object>,
    /// Those that were not accepted.
    pub invalid: Vec<Invalid>,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// YAML documents, separated by `---`.
    Yaml,
    /// JSON values, one after the other.
    Json,
}

impl Format {
    /// The format of a file, by its name; `None` if it is no manifest.
    pub fn of(file_name: &str) -> Option<Self> {
        // Hidden files are the notes that editors and ConfigMap volumes keep for themselves.
        let (stem, extension) = file_name.rsplit_once('.')?;
        match extension {
            _ if stem.is_empty() || stem.starts_with('.') => None,
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Reads the objects of a file. An error means that the file as a whole makes no sense; it says where and why.
pub fn parse(format: Format, text: &str) -> Result<Manifest, String> {
    let documents = match format {
        Format::Yaml => yaml(text)?,
        Format::Json => {
            let values = serde_json::Deserializer::from_str(text).into_iter();
            values.collect::<Result<Vec<Value>, _>>().map_err(|error| error.to_string())?
        }
    };
    let mut manifest = Manifest::default();
    for document in documents {
        manifest.add(document);
    }
    Ok(manifest)
}

fn yaml(text: &str) -> Result<Vec<Value>, String> {
    // A document may hold no more than its own text could spell out: aliases cannot multiply it.
    let size = text.len().max(1_000);
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_events: size, max_nodes: size, max_documents: size, max_depth: 64 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: size },
        leading_zero_numbers_as_strings: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| error.to_string())
}

impl Manifest {
    fn add(&mut self, mut value: Value) {
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        // `List`, or `ServiceList` whose items need not repeat their kind.
        if let (Some(item_kind), Some(Value::Array(items))) =
            (kind.strip_suffix("List"), value.get_mut("items"))
        {
            let items = std::mem::take(items);
            let api_version = value.get("apiVersion").cloned();
            for mut item in items {
                if let Value::Object(fields) = &mut item
                    && !item_kind.is_empty()
                    && !fields.contains_key("kind")
                {
                    fields.insert("kind".into(), item_kind.into());
                    fields.extend(api_version.clone().map(|version| ("apiVersion".into(), version)));
                }
                self.add(item);
            }
            return;
        }
        match Object::parse(value) {
            Ok(object) => self.objects.extend(object),
            Err(invalid) => self.invalid.push(invalid),
        }
    }
}

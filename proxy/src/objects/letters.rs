//! Shared text, as serde writes and reads it where objects are kept.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Deserializer, Serializer};

pub(crate) fn is_empty(text: &Arc<str>) -> bool {
    text.is_empty()
}

pub(crate) fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    Cow::<str>::deserialize(deserializer).map(Arc::from)
}

/// Text that may be missing.
pub(crate) mod perhaps {
    use super::{Arc, Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "how serde calls it")]
    pub(crate) fn serialize<S: Serializer>(
        text: &Option<Arc<str>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match text {
            Some(text) => serializer.serialize_some(&**text),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<str>>, D::Error> {
        Option::<String>::deserialize(deserializer).map(|text| text.map(Arc::from))
    }
}

/// Several texts.
pub(crate) mod list {
    use super::{Arc, Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(texts: &[Arc<str>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(texts.iter().map(|text| &**text))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Arc<str>>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        Ok(texts.into_iter().map(Arc::from).collect())
    }
}

/// Numbers by text.
pub(crate) mod keys {
    use std::collections::BTreeMap;

    use super::{Arc, Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        numbers: &BTreeMap<Arc<str>, u32>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(numbers.iter().map(|(text, number)| (&**text, number)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Arc<str>, u32>, D::Error> {
        let numbers = BTreeMap::<String, u32>::deserialize(deserializer)?;
        Ok(numbers.into_iter().map(|(text, number)| (text.into(), number)).collect())
    }
}

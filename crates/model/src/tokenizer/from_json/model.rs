//! The model part of `tokenizer.json`: vocabulary, merges, and every other setting as it stands.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::merge::Merge;

/// Read, not yet checked. `vocab` and `merges` are taken for those of byte-level BPE.
#[derive(Default)]
pub(super) struct Model {
    pub(super) vocab: Option<HashMap<String, u32>>,
    pub(super) merges: Option<Vec<Merge>>,
    pub(super) settings: Map<String, Value>,
}

impl<'de> Deserialize<'de> for Model {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ModelVisitor)
    }
}

struct ModelVisitor;

impl<'de> Visitor<'de> for ModelVisitor {
    type Value = Model;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings of a tokenizer model")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Model, A::Error> {
        let mut model = Model::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "vocab" => model.vocab = Some(map.next_value()?),
                "merges" => model.merges = Some(map.next_value()?),
                _ => {
                    model.settings.insert(key, map.next_value()?);
                }
            }
        }
        Ok(model)
    }
}

//! One merge of `tokenizer.json`: `["left", "right"]` in newer files, `"left right"` in older ones.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use crate::tokenizer::from_gguf::split_merge;

/// Both parts in one text, with the place where the second begins.
pub(super) struct Merge {
    text: String,
    right: usize,
}

impl Merge {
    fn new(left: &str, right: &str) -> Self {
        Self {
            text: [left, right].concat(),
            right: left.len(),
        }
    }

    /// The two parts.
    pub(super) fn pair(&self) -> (&str, &str) {
        self.text
            .split_at_checked(self.right)
            .unwrap_or((&self.text, ""))
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MergeVisitor)
    }
}

struct MergeVisitor;

impl<'de> Visitor<'de> for MergeVisitor {
    type Value = Merge;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge: [\"left\", \"right\"] or \"left right\"")
    }

    fn visit_str<E: Error>(self, line: &str) -> Result<Merge, E> {
        match split_merge(line) {
            Some((left, right)) => Ok(Merge::new(left, right)),
            None => Err(E::custom(
                "a merge is not two tokens with one space between",
            )),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
        let left: String = seq
            .next_element()?
            .ok_or_else(|| Error::invalid_length(0, &self))?;
        let right: String = seq
            .next_element()?
            .ok_or_else(|| Error::invalid_length(1, &self))?;
        if seq.next_element::<serde::de::IgnoredAny>()?.is_some() {
            return Err(Error::invalid_length(3, &self));
        }
        Ok(Merge::new(&left, &right))
    }
}

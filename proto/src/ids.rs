//! Identifiers. Each is its own type, so that no raw number or text crosses a crate border to mean an id.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The id that follows this one; stays at the end of the range rather than wrapping.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// Version of membership and plan. Frames of an older epoch are fenced.
    Epoch
);
number_id!(
    /// One conversation's token run, as the nodes know it.
    SequenceId
);
number_id!(
    /// One pass of a batch through the pipeline.
    StepId
);
number_id!(
    /// One request of a client, as the session knows it; a request with `n` choices has `n` sequences.
    RequestId
);

number_id!(
    /// One person of the household, as this process knows them. Given out anew at every start; 0 is nobody in particular.
    PersonId
);

/// A node's identity: the text form of its PeerId.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct NodeId(String);

/// A text that cannot be a node id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{0}' is not a node id: 1 to {max} letters and digits were expected", max = limits::NODE_ID_MAX)]
pub struct NodeIdError(String);

impl NodeId {
    /// Checks length and alphabet (ASCII letters and digits).
    ///
    /// # Errors
    /// When the text is empty, too long, or holds anything else.
    pub fn new(text: impl Into<String>) -> Result<Self, NodeIdError> {
        let text = text.into();
        let fits = !text.is_empty()
            && text.len() <= limits::NODE_ID_MAX
            && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if fits {
            Ok(Self(text))
        } else {
            Err(NodeIdError(text.chars().take(80).collect()))
        }
    }

    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        NodeId::new(String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_are_checked() {
        assert_eq!(NodeId::new("12D3KooW").unwrap().as_str(), "12D3KooW");
        for bad in ["", "a b", "../x", &"a".repeat(limits::NODE_ID_MAX + 1)] {
            assert!(NodeId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_do_not_wrap() {
        assert_eq!(Epoch(4).next(), Epoch(5));
        assert_eq!(StepId(u64::MAX).next(), StepId(u64::MAX));
    }
}

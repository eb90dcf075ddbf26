//! What a shard is for: the units into which every model is cut, whatever the plan.

use std::fmt;
use std::str::FromStr;

use proto::limits::{EXPERT_GROUPS_MAX, HEAD_BLOCKS_MAX, LAYERS_MAX};
use serde::{Deserialize, Serialize};

/// A shard by its use. As text: `base`, `embedding`, `trunk.3`, `group.3.5` (layer, group), `head.2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// What every node needs to open the model: headers, tensor tables, configuration, and the few tensors that belong
    /// to no layer (the norm before the head, divisors of rope frequencies).
    Base,
    /// The token embedding. A model whose head is the embedding has none: there it is all head blocks.
    Embedding,
    /// A layer without its experts.
    Trunk(u32),
    /// One expert group of a layer.
    Group {
        /// The layer.
        layer: u32,
        /// The group.
        group: u32,
    },
    /// One block of rows of the output head.
    Head(u32),
}

impl Unit {
    /// The layer that it belongs to.
    #[must_use]
    pub fn layer(self) -> Option<u32> {
        match self {
            Self::Trunk(layer) | Self::Group { layer, .. } => Some(layer),
            Self::Base | Self::Embedding | Self::Head(_) => None,
        }
    }

    fn in_range(self) -> bool {
        match self {
            Self::Base | Self::Embedding => true,
            Self::Trunk(layer) => layer < LAYERS_MAX,
            Self::Group { layer, group } => layer < LAYERS_MAX && group < EXPERT_GROUPS_MAX,
            Self::Head(block) => block < HEAD_BLOCKS_MAX,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.write_str("base"),
            Self::Embedding => f.write_str("embedding"),
            Self::Trunk(layer) => write!(f, "trunk.{layer}"),
            Self::Group { layer, group } => write!(f, "group.{layer}.{group}"),
            Self::Head(block) => write!(f, "head.{block}"),
        }
    }
}

/// A text that names no unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' names no shard; expected base, embedding, trunk.LAYER, group.LAYER.GROUP or head.BLOCK"
)]
pub struct UnitError(String);

impl FromStr for Unit {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let mut parts = text.split('.');
        let name = parts.next().unwrap_or_default();
        let numbers: Vec<Option<u32>> = parts.map(|part| part.parse().ok()).collect();
        let unit = match (name, numbers.as_slice()) {
            ("base", []) => Some(Self::Base),
            ("embedding", []) => Some(Self::Embedding),
            ("trunk", [Some(layer)]) => Some(Self::Trunk(*layer)),
            ("group", [Some(layer), Some(group)]) => Some(Self::Group {
                layer: *layer,
                group: *group,
            }),
            ("head", [Some(block)]) => Some(Self::Head(*block)),
            _ => None,
        };
        unit.filter(|unit| unit.in_range() && unit.to_string() == text)
            .ok_or_else(|| UnitError(text.chars().take(80).collect()))
    }
}

impl Serialize for Unit {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_reads_back_and_nothing_else_does() {
        for unit in [
            Unit::Base,
            Unit::Embedding,
            Unit::Trunk(39),
            Unit::Group {
                layer: 3,
                group: 15,
            },
            Unit::Head(0),
        ] {
            assert_eq!(unit.to_string().parse(), Ok(unit));
        }
        for wrong in [
            "",
            "base.1",
            "trunk",
            "trunk.",
            "trunk.-1",
            "trunk.03",
            "trunk.+3",
            "trunk.9999",
            "group.1",
            "group.1.16",
            "head.16",
            "head.0.0",
            "Base",
        ] {
            assert!(wrong.parse::<Unit>().is_err(), "{wrong}");
        }
    }
}

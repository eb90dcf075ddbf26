//! What there is to know about a model's weights, as the API tells it.

use model::{Checkpoint, DType, Format, Identity};
use proto::facts::ModelFacts;

/// Facts of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// Sizes and shapes.
    pub facts: ModelFacts,
    /// What makes two copies the same.
    pub identity: Identity,
    /// How the files are written.
    pub format: Format,
}

impl Card {
    /// The card of a checkpoint.
    #[must_use]
    pub fn of(checkpoint: &Checkpoint) -> Self {
        Self {
            facts: checkpoint.facts(),
            identity: *checkpoint.identity(),
            format: checkpoint.format(),
        }
    }

    /// Values of all weights that are used.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let of = |name: &str, bytes: u64| {
            let known = DType::ALL.into_iter().find(|ty| ty.name() == name);
            known.map_or(0, |ty| {
                let (values, size) = (ty.block_len() as u64, ty.block_bytes() as u64);
                (bytes / size.max(1)).saturating_mul(values)
            })
        };
        let types = self.facts.types.iter();
        types
            .map(|ty| of(&ty.name, ty.bytes))
            .fold(0, u64::saturating_add)
    }

    /// The type that most bytes have, `Q4_K` for example.
    #[must_use]
    pub fn main_type(&self) -> &str {
        let largest = self.facts.types.iter().max_by_key(|ty| ty.bytes);
        largest.map_or("unknown", |ty| ty.name.as_str())
    }
}

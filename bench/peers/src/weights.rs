//! What one token costs according to the model file: bytes that have to be read, multiply-adds that have to be done.

use anyhow::Result;
use model::{Checkpoint, Role};

/// Bytes of one value of the attention cache: both sides keep it in F16.
const KV_VALUE_BYTES: u64 = 2;

/// Costs of one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Weights and recurrent state that one decoded token needs: of the experts only those used, no embedding.
    pub decode_bytes: u64,
    /// More of them for each position before it.
    pub bytes_per_position: u64,
    /// Multiply-adds of the matrices for a prompt's token: no head, no attention over positions, no recurrence.
    pub prefill_macs: u64,
    /// The model's files.
    pub file_bytes: u64,
}

impl Cost {
    /// # Errors
    /// The model's.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let facts = checkpoint.facts();
        let used = u64::from(facts.experts_used);
        let mut cost = Self {
            decode_bytes: facts.head_bytes,
            bytes_per_position: 0,
            prefill_macs: 0,
            file_bytes: facts.file_bytes,
        };
        for (index, layer) in (0..).zip(&facts.layers) {
            // The recurrent state is read and written.
            cost.decode_bytes +=
                layer.trunk_bytes + used * layer.expert_bytes + 2 * layer.state_bytes_per_sequence;
            cost.bytes_per_position += layer.kv_values_per_position * KV_VALUE_BYTES;
            cost.prefill_macs += used * layer.expert_macs;
            for role in checkpoint.layer_roles(index) {
                // Vectors are no matrices and cost next to nothing.
                if let Ok(matrix) = checkpoint.matrix(Role::Layer(index, role)) {
                    cost.prefill_macs += (matrix.rows * matrix.cols) as u64;
                }
            }
        }
        Ok(cost)
    }

    /// Bytes for a token that sees so many positions.
    #[must_use]
    pub fn decode_bytes_after(&self, positions: u32) -> f64 {
        (self.decode_bytes + self.bytes_per_position * u64::from(positions)) as f64
    }

    /// Integer operations for a prompt's token, two for each multiply-add.
    #[must_use]
    pub fn prefill_ops(&self) -> f64 {
        2.0 * self.prefill_macs as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_model_costs_less_than_its_file_and_more_than_nothing() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/hearth-tiny.gguf");
        let checkpoint = Checkpoint::open(file.as_ref()).unwrap();
        let facts = checkpoint.facts();
        let cost = Cost::of(&checkpoint).unwrap();
        let state: u64 = facts
            .layers
            .iter()
            .map(|l| 2 * l.state_bytes_per_sequence)
            .sum();
        let spared: u64 = facts
            .layers
            .iter()
            .map(|l| {
                l.group_bytes.iter().sum::<u64>() - u64::from(facts.experts_used) * l.expert_bytes
            })
            .sum();
        let whole: u64 = facts
            .layers
            .iter()
            .map(|l| l.trunk_bytes + l.group_bytes.iter().sum::<u64>())
            .sum();
        assert_eq!(cost.decode_bytes + spared, whole + facts.head_bytes + state);
        assert!(spared > 0, "not all experts are used");
        assert!(cost.prefill_macs > 0 && cost.bytes_per_position > 0);
        let more = cost.decode_bytes_after(10) - cost.decode_bytes_after(0);
        assert_eq!(more, 10.0 * cost.bytes_per_position as f64);
    }
}

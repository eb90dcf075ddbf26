//! Blocks and heads of a GGUF model: one number for all blocks or one for each, zeros for layers without attention.

use proto::limits::LAYERS_MAX;

use super::{
    AttentionShape, Family, Mixer, OutputGate, QkNorm,
    metadata::{DIM_MAX, Metadata},
};
use crate::ModelError;

/// How many blocks there are, and how many of them are layers.
pub(super) struct Blocks {
    /// All blocks of the file.
    pub(super) all: usize,
    /// The layers of the model.
    pub(super) layers: usize,
    /// Blocks behind the layers that only draft.
    pub(super) drafting: u32,
}

impl Blocks {
    /// Reads both counts.
    pub(super) fn read(meta: &Metadata<'_>) -> Result<Self, ModelError> {
        let expected = format!("a number from 1 to {LAYERS_MAX}");
        let all = meta
            .dim_if("block_count", u64::from(LAYERS_MAX))?
            .ok_or_else(|| meta.bad("block_count", "missing", expected))?;
        let suffix = "nextn_predict_layers";
        let drafting = meta.number(suffix)?.unwrap_or(0);
        let layers = usize::try_from(drafting)
            .ok()
            .and_then(|drafting| all.checked_sub(drafting))
            .filter(|layers| *layers > 0);
        let Some(layers) = layers else {
            let expected = format!("less than the {all} blocks");
            return Err(meta.bad(suffix, drafting.to_string(), expected));
        };
        Ok(Self {
            all,
            layers,
            drafting: u32::try_from(drafting).unwrap_or(u32::MAX),
        })
    }
}

/// Heads per layer as the file gives them; drafting blocks left out.
pub(super) struct Heads {
    query: Vec<u64>,
    key_value: Vec<u64>,
}

impl Heads {
    /// Reads both kinds of heads.
    pub(super) fn read(meta: &Metadata<'_>, blocks: &Blocks) -> Result<Self, ModelError> {
        let Some(mut query) = meta.per_block("attention.head_count", blocks.all)? else {
            return Err(meta.bad("attention.head_count", "missing", "a number of heads"));
        };
        let mut key_value = meta
            .per_block("attention.head_count_kv", blocks.all)?
            .unwrap_or_else(|| query.clone());
        query.truncate(blocks.layers);
        key_value.truncate(blocks.layers);
        Ok(Self { query, key_value })
    }

    /// The heads of attention layers alone; of all layers if none is one, since the numbers are there all the same.
    pub(super) fn of_attention(&self, mixers: &[Mixer]) -> Self {
        let attention = |counts: &[u64]| -> Vec<u64> {
            let pairs = counts.iter().zip(mixers);
            let chosen: Vec<u64> = pairs
                .filter(|(_, mixer)| **mixer == Mixer::Attention)
                .map(|(count, _)| *count)
                .collect();
            if chosen.is_empty() {
                counts.to_vec()
            } else {
                chosen
            }
        };
        Self {
            query: attention(&self.query),
            key_value: attention(&self.key_value),
        }
    }
}

/// How each layer mixes positions: by the file's list, else by layers without heads, else by the interval.
pub(super) fn read_mixers(
    meta: &Metadata<'_>,
    family: Family,
    heads: &Heads,
    blocks: &Blocks,
) -> Result<Vec<Mixer>, ModelError> {
    let layers = blocks.layers;
    if !family.has_delta() {
        return Ok(vec![Mixer::Attention; layers]);
    }
    let mixer = |linear: bool| {
        if linear {
            Mixer::DeltaNet
        } else {
            Mixer::Attention
        }
    };
    let suffix = "attention.recurrent_layers";
    if let Some(flags) = meta.per_block(suffix, blocks.all)? {
        if let Some(odd) = flags.iter().find(|flag| **flag > 1) {
            return Err(meta.bad(suffix, odd.to_string(), "truth values"));
        }
        return Ok(flags
            .iter()
            .take(layers)
            .map(|flag| mixer(*flag == 1))
            .collect());
    }
    let zero = |layer: &u64| *layer == 0;
    if heads.query.iter().any(zero) || heads.key_value.iter().any(zero) {
        let pairs = heads.query.iter().zip(&heads.key_value);
        return Ok(pairs.map(|(q, kv)| mixer(*q == 0 || *kv == 0)).collect());
    }
    let interval = meta
        .dim_if("full_attention_interval", DIM_MAX)?
        .unwrap_or(4);
    Ok((1..=layers)
        .map(|n| mixer(!n.is_multiple_of(interval)))
        .collect())
}

/// The shape of every attention layer, whose heads are `heads`.
pub(super) fn read_attention(
    meta: &Metadata<'_>,
    family: Family,
    heads: &Heads,
    hidden: usize,
) -> Result<AttentionShape, ModelError> {
    let count = one(meta, "attention.head_count", &heads.query)?;
    let kv_heads = one(meta, "attention.head_count_kv", &heads.key_value)?;
    if !count.is_multiple_of(kv_heads) {
        return Err(meta.bad(
            "attention.head_count_kv",
            kv_heads.to_string(),
            format!("a divisor of the {count} query heads"),
        ));
    }
    let head_dim = match meta.dim_if("attention.key_length", DIM_MAX)? {
        Some(dim) => dim,
        None if hidden.is_multiple_of(count) => hidden / count,
        None => return Err(meta.bad("attention.key_length", "missing", "the values per head")),
    };
    let value_dim = meta.dim_if("attention.value_length", DIM_MAX)?;
    if let Some(value_dim) = value_dim.filter(|value_dim| *value_dim != head_dim) {
        return Err(ModelError::unsupported(
            meta.path,
            meta.key("attention.value_length"),
            value_dim.to_string(),
            format!("the key length {head_dim}"),
        ));
    }
    Ok(AttentionShape {
        heads: count,
        kv_heads,
        head_dim,
        output_gate: if family.has_delta() {
            OutputGate::Sigmoid
        } else {
            OutputGate::None
        },
        qk_norm: if family == Family::Llama {
            QkNorm::None
        } else {
            QkNorm::PerHead
        },
    })
}

/// The one number of heads that all of `counts` are.
fn one(meta: &Metadata<'_>, suffix: &str, counts: &[u64]) -> Result<usize, ModelError> {
    let first = counts.first().copied().unwrap_or(0);
    if let Some(other) = counts.iter().find(|count| **count != first) {
        return Err(ModelError::unsupported(
            meta.path,
            meta.key(suffix),
            format!("{first} in one attention layer and {other} in another"),
            "the same number in all attention layers",
        ));
    }
    usize::try_from(first)
        .ok()
        .filter(|_| (1..=DIM_MAX).contains(&first))
        .ok_or_else(|| meta.bad(suffix, first.to_string(), format!("1 to {DIM_MAX} heads")))
}

//! The architecture that GGUF metadata describes.

use std::path::Path;

use proto::limits::LAYERS_MAX;

use super::{
    Architecture, AttentionShape, DeltaShape, Family, FfnKind, HeadOrder, LayerKind, Mixer,
    MoeShape, OutputGate, Pairing, QkNorm,
    metadata::{CONTEXT_MAX, DIM_MAX, Metadata, VOCAB_MAX},
    rope,
};
use crate::{
    ModelError,
    gguf::{Gguf, Value},
    store::Store,
};

/// What an architecture is read from.
pub(crate) struct GgufModel<'a> {
    /// The first file.
    pub(crate) path: &'a Path,
    /// Its head.
    pub(crate) gguf: &'a Gguf,
    /// Its bytes.
    pub(crate) bytes: &'a [u8],
    /// The tensors of all files.
    pub(crate) store: &'a Store,
    /// Values of `rope_freqs.weight`, if the model has them.
    pub(crate) rope_factors: Option<Vec<f32>>,
}

/// Settings that change the result; anything but these neutral values is refused.
const NEUTRAL: [(&str, &[f64]); 17] = [
    ("rope.scaling.factor", &[0.0, 1.0]),
    ("rope.scale_linear", &[0.0, 1.0]),
    ("rope.scaling.attn_factor", &[0.0, 1.0]),
    ("attention.sliding_window", &[0.0]),
    ("attention.scale", &[0.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.temperature_scale", &[0.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("router_logit_softcapping", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("expert_weights_scale", &[0.0, 1.0]),
    ("expert_group_count", &[0.0, 1.0]),
    ("expert_gating_func", &[0.0, 1.0]),
];

/// Reads and checks the architecture; also the number of drafting blocks behind the layers.
pub(crate) fn from_gguf(model: &GgufModel<'_>) -> Result<(Architecture, u32), ModelError> {
    let family = read_family(model)?;
    let meta = Metadata {
        path: model.path,
        gguf: model.gguf,
        bytes: model.bytes,
        arch: family.name(),
    };
    refuse_unsupported(&meta, family)?;
    let blocks = meta
        .dim_if("block_count", u64::from(LAYERS_MAX))?
        .ok_or_else(|| {
            meta.bad(
                "block_count",
                "missing",
                format!("a number from 1 to {LAYERS_MAX}"),
            )
        })?;
    let drafting = meta.number("nextn_predict_layers")?.unwrap_or(0);
    let layers = usize::try_from(drafting)
        .ok()
        .and_then(|drafting| blocks.checked_sub(drafting))
        .filter(|layers| *layers > 0)
        .ok_or_else(|| {
            meta.bad(
                "nextn_predict_layers",
                drafting.to_string(),
                format!("less than the {blocks} blocks"),
            )
        })?;
    let heads = read_heads(&meta, blocks, layers)?;
    let mixers = read_mixers(&meta, family, &heads, layers)?;
    let hidden = meta.dim("embedding_length")?;
    let attention = read_attention(&meta, family, &heads, &mixers, hidden)?;
    let rope_dims = meta
        .dim_if("rope.dimension_count", DIM_MAX)?
        .unwrap_or(attention.head_dim);
    let rope = rope::Source {
        path: model.path,
        theta: meta.float("rope.freq_base")?.unwrap_or(10_000.0),
        dims: rope_dims,
        head_dim: attention.head_dim,
        pairing: if family == Family::Llama {
            Pairing::Neighbours
        } else {
            Pairing::Halves
        },
    };
    let rope = match &model.rope_factors {
        None => rope.plain()?,
        Some(factors) => rope.divided_by(factors)?,
    };
    let moe = read_moe(&meta, family)?;
    let leading_dense = meta.number("leading_dense_block_count")?.unwrap_or(0);
    let layers: Vec<LayerKind> = mixers
        .iter()
        .enumerate()
        .map(|(layer, mixer)| LayerKind {
            mixer: *mixer,
            ffn: if moe.is_some() && layer as u64 >= leading_dense {
                FfnKind::Moe
            } else {
                FfnKind::Dense
            },
        })
        .collect();
    let has_dense = layers.iter().any(|layer| layer.ffn == FfnKind::Dense);
    let drafting = u32::try_from(drafting).unwrap_or(u32::MAX);
    let arch = Architecture {
        family,
        hidden,
        vocab: read_vocab(&meta, model.store)?,
        context: meta
            .dim_if("context_length", CONTEXT_MAX)?
            .ok_or_else(|| meta.bad("context_length", "missing", "a number of positions"))?,
        norm_eps: read_eps(&meta)?,
        delta: if mixers.contains(&Mixer::DeltaNet) {
            Some(read_delta(&meta)?)
        } else {
            None
        },
        layers,
        attention,
        rope,
        moe,
        tied_head: model.store.find("output.weight").is_none(),
        dense_width: if has_dense {
            meta.dim("feed_forward_length")?
        } else {
            0
        },
    };
    Ok((arch, drafting))
}

fn read_family(model: &GgufModel<'_>) -> Result<Family, ModelError> {
    let key = "general.architecture";
    let names = Family::ALL.map(Family::name).join(", ");
    let Some(value) = model.gguf.value(key) else {
        return Err(ModelError::malformed(model.path, key, "missing", names));
    };
    let name = value.as_text().unwrap_or_default();
    Family::ALL
        .into_iter()
        .find(|family| family.name() == name)
        .ok_or_else(|| ModelError::unsupported(model.path, key, value.to_string(), names))
}

fn refuse_unsupported(meta: &Metadata<'_>, family: Family) -> Result<(), ModelError> {
    for (suffix, neutral) in NEUTRAL {
        meta.only(suffix, neutral)?;
    }
    meta.only_bool("attention.causal", &Value::Bool(true))?;
    meta.only_bool("use_parallel_residual", &Value::Bool(false))?;
    if !family.has_experts() {
        meta.only("expert_count", &[0.0])?;
    }
    match meta.value("rope.scaling.type") {
        None => Ok(()),
        Some(value) if value.as_text() == Some("none") => Ok(()),
        Some(value) => Err(ModelError::unsupported(
            meta.path,
            meta.key("rope.scaling.type"),
            value.to_string(),
            "`none` (frequency factors in `rope_freqs.weight` are supported)",
        )),
    }
}

/// Heads per layer as the file gives them; drafting blocks left out.
struct Heads {
    query: Vec<u64>,
    key_value: Vec<u64>,
}

fn read_heads(meta: &Metadata<'_>, blocks: usize, layers: usize) -> Result<Heads, ModelError> {
    let Some(mut query) = meta.per_block("attention.head_count", blocks)? else {
        return Err(meta.bad("attention.head_count", "missing", "a number of heads"));
    };
    let mut key_value = meta
        .per_block("attention.head_count_kv", blocks)?
        .unwrap_or_else(|| query.clone());
    query.truncate(layers);
    key_value.truncate(layers);
    Ok(Heads { query, key_value })
}

fn read_mixers(
    meta: &Metadata<'_>,
    family: Family,
    heads: &Heads,
    layers: usize,
) -> Result<Vec<Mixer>, ModelError> {
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
    let blocks = layers.saturating_add(
        usize::try_from(meta.number("nextn_predict_layers")?.unwrap_or(0)).unwrap_or(0),
    );
    if let Some(flags) = meta.per_block(suffix, blocks)? {
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

fn read_attention(
    meta: &Metadata<'_>,
    family: Family,
    heads: &Heads,
    mixers: &[Mixer],
    hidden: usize,
) -> Result<AttentionShape, ModelError> {
    let one = |suffix: &str, counts: &[u64]| -> Result<usize, ModelError> {
        let mut of_attention = counts
            .iter()
            .zip(mixers)
            .filter(|(_, mixer)| **mixer == Mixer::Attention)
            .map(|(count, _)| *count);
        // A model of delta nets alone still has a scalar here.
        let first = of_attention
            .next()
            .or_else(|| counts.first().copied())
            .unwrap_or(0);
        if let Some(other) = of_attention.find(|count| *count != first) {
            return Err(ModelError::unsupported(
                meta.path,
                meta.key(suffix),
                format!("{first} in one attention layer and {other} in another"),
                "the same number in all attention layers",
            ));
        }
        meta.checked_heads(suffix, first)
    };
    let heads_count = one("attention.head_count", &heads.query)?;
    let kv_heads = one("attention.head_count_kv", &heads.key_value)?;
    if !heads_count.is_multiple_of(kv_heads) {
        return Err(meta.bad(
            "attention.head_count_kv",
            kv_heads.to_string(),
            format!("a divisor of the {heads_count} query heads"),
        ));
    }
    let head_dim = match meta.dim_if("attention.key_length", DIM_MAX)? {
        Some(dim) => dim,
        None if hidden.is_multiple_of(heads_count) => hidden / heads_count,
        None => {
            return Err(meta.bad("attention.key_length", "missing", "the values per head"));
        }
    };
    let value_dim = meta
        .dim_if("attention.value_length", DIM_MAX)?
        .unwrap_or(head_dim);
    if value_dim != head_dim {
        return Err(ModelError::unsupported(
            meta.path,
            meta.key("attention.value_length"),
            value_dim.to_string(),
            format!("the key length {head_dim}"),
        ));
    }
    Ok(AttentionShape {
        heads: heads_count,
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

impl Metadata<'_> {
    fn checked_heads(&self, suffix: &str, count: u64) -> Result<usize, ModelError> {
        usize::try_from(count)
            .ok()
            .filter(|_| (1..=DIM_MAX).contains(&count))
            .ok_or_else(|| self.bad(suffix, count.to_string(), format!("1 to {DIM_MAX} heads")))
    }
}

fn read_delta(meta: &Metadata<'_>) -> Result<DeltaShape, ModelError> {
    let key_heads = meta.dim("ssm.group_count")?;
    let value_heads = meta.dim("ssm.time_step_rank")?;
    let inner = meta.dim("ssm.inner_size")?;
    if !value_heads.is_multiple_of(key_heads) {
        return Err(meta.bad(
            "ssm.time_step_rank",
            value_heads.to_string(),
            format!("a multiple of the {key_heads} key heads"),
        ));
    }
    if !inner.is_multiple_of(value_heads) {
        return Err(meta.bad(
            "ssm.inner_size",
            inner.to_string(),
            format!("a multiple of the {value_heads} value heads"),
        ));
    }
    Ok(DeltaShape {
        key_heads,
        value_heads,
        key_dim: meta.dim("ssm.state_size")?,
        value_dim: inner / value_heads,
        conv_kernel: meta.dim("ssm.conv_kernel")?,
        head_order: HeadOrder::Tiled,
    })
}

fn read_moe(meta: &Metadata<'_>, family: Family) -> Result<Option<MoeShape>, ModelError> {
    if !family.has_experts() {
        return Ok(None);
    }
    let experts = meta.dim("expert_count")?;
    let used = meta.dim("expert_used_count")?;
    if used > experts {
        return Err(meta.bad(
            "expert_used_count",
            used.to_string(),
            format!("at most {experts}"),
        ));
    }
    let shared_width = match family {
        Family::Qwen35Moe => Some(meta.dim("expert_shared_feed_forward_length")?),
        _ => None,
    };
    let renormalise = match meta.value("expert_weights_norm") {
        None => true,
        Some(value) => value
            .as_bool()
            .ok_or_else(|| meta.bad("expert_weights_norm", value.to_string(), "a truth value"))?,
    };
    Ok(Some(MoeShape {
        experts,
        used,
        width: meta.dim("expert_feed_forward_length")?,
        shared_width,
        renormalise,
    }))
}

fn read_vocab(meta: &Metadata<'_>, store: &Store) -> Result<usize, ModelError> {
    let name = "token_embd.weight";
    let rows = match store.find(name).map(|(_, tensor)| tensor.shape.as_slice()) {
        Some([rows, _]) => *rows,
        Some(other) => {
            return Err(ModelError::tensor(
                meta.path,
                name,
                format!("shape {other:?}"),
                "two dimensions [vocabulary, hidden]",
            ));
        }
        None => {
            return Err(ModelError::MissingTensor {
                path: meta.path.to_path_buf(),
                tensor: name.to_owned(),
                shape: "[vocabulary, hidden]".to_owned(),
            });
        }
    };
    if let Some(claimed) = meta.number("vocab_size")?
        && claimed != rows
    {
        return Err(meta.bad(
            "vocab_size",
            claimed.to_string(),
            format!("{rows}, the rows of `{name}`"),
        ));
    }
    usize::try_from(rows)
        .ok()
        .filter(|_| rows <= VOCAB_MAX)
        .ok_or_else(|| {
            meta.bad(
                "vocab_size",
                rows.to_string(),
                format!("at most {VOCAB_MAX}"),
            )
        })
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the file stores the value as f32"
)]
fn read_eps(meta: &Metadata<'_>) -> Result<f32, ModelError> {
    let suffix = "attention.layer_norm_rms_epsilon";
    match meta.float(suffix)? {
        Some(eps) if eps > 0.0 && eps < 1.0 => Ok(eps as f32),
        Some(eps) => Err(meta.bad(suffix, eps.to_string(), "a number between 0 and 1")),
        None => Err(meta.bad(suffix, "missing", "a number between 0 and 1")),
    }
}

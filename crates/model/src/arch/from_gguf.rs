//! The architecture that GGUF metadata describes.

use std::path::Path;

use super::{
    Architecture, DeltaShape, Family, FfnKind, HeadOrder, LayerKind, Mixer, MoeShape, Pairing,
    Rope,
    gguf_heads::{Blocks, Heads, read_attention, read_mixers},
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
    let blocks = Blocks::read(&meta)?;
    let heads = Heads::read(&meta, &blocks)?;
    let mixers = read_mixers(&meta, family, &heads, &blocks)?;
    let hidden = meta.dim("embedding_length")?;
    let attention = read_attention(&meta, family, &heads.of_attention(&mixers), hidden)?;
    let moe = read_moe(&meta, family)?;
    let has_delta = mixers.contains(&Mixer::DeltaNet);
    let layers = read_layers(&meta, mixers, moe.is_some())?;
    let has_dense = layers.iter().any(|layer| layer.ffn == FfnKind::Dense);
    let context = meta.dim_if("context_length", CONTEXT_MAX)?;
    let arch = Architecture {
        family,
        hidden,
        vocab: read_vocab(&meta, model.store)?,
        context: context
            .ok_or_else(|| meta.bad("context_length", "missing", "a number of positions"))?,
        norm_eps: read_eps(&meta)?,
        rope: read_rope(&meta, model, family, attention.head_dim)?,
        delta: if has_delta {
            Some(read_delta(&meta)?)
        } else {
            None
        },
        layers,
        attention,
        moe,
        tied_head: model.store.find("output.weight").is_none(),
        dense_width: if has_dense {
            meta.dim("feed_forward_length")?
        } else {
            0
        },
    };
    Ok((arch, blocks.drafting))
}

/// Layers with experts, but for leading ones that the file names dense.
fn read_layers(
    meta: &Metadata<'_>,
    mixers: Vec<Mixer>,
    has_experts: bool,
) -> Result<Vec<LayerKind>, ModelError> {
    let leading_dense = meta.number("leading_dense_block_count")?.unwrap_or(0);
    let ffn = |layer: usize| {
        if has_experts && layer as u64 >= leading_dense {
            FfnKind::Moe
        } else {
            FfnKind::Dense
        }
    };
    let layers = mixers.into_iter().enumerate();
    Ok(layers
        .map(|(layer, mixer)| LayerKind {
            mixer,
            ffn: ffn(layer),
        })
        .collect())
}

fn read_rope(
    meta: &Metadata<'_>,
    model: &GgufModel<'_>,
    family: Family,
    head_dim: usize,
) -> Result<Rope, ModelError> {
    let dims = meta.dim_if("rope.dimension_count", DIM_MAX)?;
    let source = rope::Source {
        path: model.path,
        theta: meta.float("rope.freq_base")?.unwrap_or(10_000.0),
        dims: dims.unwrap_or(head_dim),
        head_dim,
        pairing: if family == Family::Llama {
            Pairing::Neighbours
        } else {
            Pairing::Halves
        },
    };
    match &model.rope_factors {
        None => source.plain(),
        Some(factors) => source.divided_by(factors),
    }
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

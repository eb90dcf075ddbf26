//! The architecture that a config.json describes.

use std::path::Path;

use proto::limits::LAYERS_MAX;
use serde_json::Value;

use super::{
    Architecture, AttentionShape, DeltaShape, Family, FfnKind, HeadOrder, LayerKind, Mixer,
    MoeShape, OutputGate, Pairing, QkNorm, Rope,
    config::{Config, brief},
    metadata::{CONTEXT_MAX, DIM_MAX, VOCAB_MAX},
    rope,
};
use crate::{ModelError, store::Store};

/// `model_type` of each family, outer and inner.
const MODEL_TYPES: [(&str, Family); 7] = [
    ("qwen3_5_moe", Family::Qwen35Moe),
    ("qwen3_5_moe_text", Family::Qwen35Moe),
    ("qwen3_5", Family::Qwen35),
    ("qwen3_5_text", Family::Qwen35),
    ("qwen3_moe", Family::Qwen3Moe),
    ("qwen3", Family::Qwen3),
    ("llama", Family::Llama),
];

/// Reads and checks the architecture in `config`, the content of the file at `path`.
pub(crate) fn from_config(
    path: &Path,
    config: &Value,
    store: &Store,
) -> Result<Architecture, ModelError> {
    let family = read_family(path, config)?;
    let text = match config.get("text_config") {
        Some(text) if text.is_object() => text,
        _ => config,
    };
    let config = Config {
        path,
        text,
        outer: config,
    };
    refuse_unsupported(&config)?;
    let layers = read_layers(&config, family)?;
    let attention = read_attention(&config, family)?;
    let has_delta = layers.iter().any(|layer| layer.mixer == Mixer::DeltaNet);
    let has_dense = layers.iter().any(|layer| layer.ffn == FfnKind::Dense);
    let needs = |key: &str, max: u64| {
        config
            .dim_if(key, max)?
            .ok_or_else(|| config.bad(key, "missing", format!("a whole number from 1 to {max}")))
    };
    Ok(Architecture {
        family,
        hidden: config.dim("hidden_size")?,
        vocab: needs("vocab_size", VOCAB_MAX)?,
        context: needs("max_position_embeddings", CONTEXT_MAX)?,
        norm_eps: read_eps(&config)?,
        rope: read_rope(&config, family, attention.head_dim)?,
        attention,
        delta: if has_delta {
            Some(read_delta(&config)?)
        } else {
            None
        },
        moe: if family.has_experts() {
            Some(read_moe(&config, family)?)
        } else {
            None
        },
        tied_head: read_tied(&config, store)?,
        dense_width: if has_dense {
            config.dim("intermediate_size")?
        } else {
            0
        },
        layers,
    })
}

fn read_family(path: &Path, config: &Value) -> Result<Family, ModelError> {
    let names = MODEL_TYPES.map(|(name, _)| name).join(", ");
    let Some(value) = config.get("model_type") else {
        return Err(ModelError::malformed(
            path,
            "`model_type`",
            "missing",
            names,
        ));
    };
    MODEL_TYPES
        .iter()
        .find(|(name, _)| value.as_str() == Some(name))
        .map(|(_, family)| *family)
        .ok_or_else(|| ModelError::unsupported(path, "`model_type`", brief(value), names))
}

fn refuse_unsupported(config: &Config<'_>) -> Result<(), ModelError> {
    for key in ["attention_bias", "mlp_bias", "use_sliding_window"] {
        config.refuse_flag(key)?;
    }
    if config.flag("use_sliding_window")?.is_none()
        && let Some(window) = config.field("sliding_window")
    {
        return Err(config.unsupported("sliding_window", brief(window), "null"));
    }
    if let Some(act) = config.field("hidden_act")
        && act.as_str() != Some("silu")
    {
        return Err(config.unsupported("hidden_act", brief(act), "silu"));
    }
    if let Some(quantisation) = config.field_anywhere("quantization_config") {
        let method = quantisation.get("quant_method").unwrap_or(quantisation);
        return Err(config.unsupported(
            "quantization_config",
            brief(method),
            "none in safetensors: F32, F16 or BF16 weights; take a GGUF file for quantised ones",
        ));
    }
    Ok(())
}

fn read_layers(config: &Config<'_>, family: Family) -> Result<Vec<LayerKind>, ModelError> {
    let count = config
        .dim_if("num_hidden_layers", u64::from(LAYERS_MAX))?
        .ok_or_else(|| config.bad("num_hidden_layers", "missing", "the number of layers"))?;
    let mixers = read_mixers(config, family, count)?;
    let dense = read_dense_layers(config, family, count)?;
    Ok(mixers
        .into_iter()
        .zip(dense)
        .map(|(mixer, dense)| LayerKind {
            mixer,
            ffn: if dense { FfnKind::Dense } else { FfnKind::Moe },
        })
        .collect())
}

fn read_mixers(
    config: &Config<'_>,
    family: Family,
    count: usize,
) -> Result<Vec<Mixer>, ModelError> {
    let Some(value) = config.field("layer_types") else {
        if !family.has_delta() {
            return Ok(vec![Mixer::Attention; count]);
        }
        let interval = config
            .dim_if("full_attention_interval", DIM_MAX)?
            .unwrap_or(4);
        let mixer = |n: usize| {
            if n.is_multiple_of(interval) {
                Mixer::Attention
            } else {
                Mixer::DeltaNet
            }
        };
        return Ok((1..=count).map(mixer).collect());
    };
    let types = value
        .as_array()
        .filter(|types| types.len() == count)
        .ok_or_else(|| {
            config.bad(
                "layer_types",
                brief(value),
                format!("a list of {count} names"),
            )
        })?;
    types
        .iter()
        .map(|name| match name.as_str() {
            Some("full_attention") => Ok(Mixer::Attention),
            Some("linear_attention") if family.has_delta() => Ok(Mixer::DeltaNet),
            _ => Err(config.unsupported(
                "layer_types",
                brief(name),
                if family.has_delta() {
                    "full_attention, linear_attention"
                } else {
                    "full_attention"
                },
            )),
        })
        .collect()
}

/// Which layers have no experts.
fn read_dense_layers(
    config: &Config<'_>,
    family: Family,
    count: usize,
) -> Result<Vec<bool>, ModelError> {
    if !family.has_experts() {
        return Ok(vec![true; count]);
    }
    let step = config.dim_if("decoder_sparse_step", DIM_MAX)?.unwrap_or(1);
    let mut dense: Vec<bool> = (1..=count).map(|n| !n.is_multiple_of(step)).collect();
    let Some(value) = config.field("mlp_only_layers") else {
        return Ok(dense);
    };
    let wrong = |got: &Value| {
        config.bad(
            "mlp_only_layers",
            brief(got),
            format!("a list of layers from 0 to {}", count - 1),
        )
    };
    for layer in value.as_array().ok_or_else(|| wrong(value))? {
        let index = layer.as_u64().and_then(|n| usize::try_from(n).ok());
        *index
            .and_then(|index| dense.get_mut(index))
            .ok_or_else(|| wrong(layer))? = true;
    }
    Ok(dense)
}

fn read_attention(config: &Config<'_>, family: Family) -> Result<AttentionShape, ModelError> {
    let heads = config.dim("num_attention_heads")?;
    let kv_heads = config
        .dim_if("num_key_value_heads", DIM_MAX)?
        .unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(config.bad(
            "num_key_value_heads",
            kv_heads.to_string(),
            format!("a divisor of the {heads} query heads"),
        ));
    }
    let hidden = config.dim("hidden_size")?;
    let head_dim = match config.dim_if("head_dim", DIM_MAX)? {
        Some(dim) => dim,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(config.bad("head_dim", "missing", "the values per head")),
    };
    let gated = family.has_delta() && config.flag("attn_output_gate")?.unwrap_or(true);
    Ok(AttentionShape {
        heads,
        kv_heads,
        head_dim,
        output_gate: if gated {
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

fn read_delta(config: &Config<'_>) -> Result<DeltaShape, ModelError> {
    let key_heads = config.dim("linear_num_key_heads")?;
    let value_heads = config.dim("linear_num_value_heads")?;
    if !value_heads.is_multiple_of(key_heads) {
        return Err(config.bad(
            "linear_num_value_heads",
            value_heads.to_string(),
            format!("a multiple of the {key_heads} key heads"),
        ));
    }
    Ok(DeltaShape {
        key_heads,
        value_heads,
        key_dim: config.dim("linear_key_head_dim")?,
        value_dim: config.dim("linear_value_head_dim")?,
        conv_kernel: config.dim("linear_conv_kernel_dim")?,
        head_order: HeadOrder::Grouped,
    })
}

fn read_moe(config: &Config<'_>, family: Family) -> Result<MoeShape, ModelError> {
    let experts = match config.dim_if("num_experts", DIM_MAX)? {
        Some(experts) => experts,
        None => config.dim("num_local_experts")?,
    };
    let used = config.dim("num_experts_per_tok")?;
    if used > experts {
        return Err(config.bad(
            "num_experts_per_tok",
            used.to_string(),
            format!("at most {experts}"),
        ));
    }
    let (shared_width, renormalise) = match family {
        Family::Qwen35Moe => (Some(config.dim("shared_expert_intermediate_size")?), true),
        _ => (None, config.flag("norm_topk_prob")?.unwrap_or(false)),
    };
    Ok(MoeShape {
        experts,
        used,
        width: config.dim("moe_intermediate_size")?,
        shared_width,
        renormalise,
    })
}

fn read_rope(config: &Config<'_>, family: Family, head_dim: usize) -> Result<Rope, ModelError> {
    let nested = config
        .field("rope_parameters")
        .or_else(|| config.field("rope_scaling"))
        .unwrap_or(&Value::Null);
    let either = |key: &str| match config.float_in(nested, key)? {
        Some(x) => Ok(Some(x)),
        None => config.float_in(config.text, key),
    };
    let theta = match either("rope_theta")? {
        Some(theta) => theta,
        None if family == Family::Llama => 10_000.0,
        None => {
            return Err(config.bad("rope_theta", "missing", "the base of the rope frequencies"));
        }
    };
    let default_part = if family.has_delta() { 0.25 } else { 1.0 };
    let part = either("partial_rotary_factor")?.unwrap_or(default_part);
    let source = rope::Source {
        path: config.path,
        theta,
        dims: rotated(config, head_dim, part)?,
        head_dim,
        pairing: Pairing::Halves,
    };
    let kind = nested.get("rope_type").or_else(|| nested.get("type"));
    match kind
        .filter(|kind| !kind.is_null())
        .map(|kind| kind.as_str())
    {
        None | Some(Some("default")) => source.plain(),
        // Three position streams, equal for text.
        Some(Some("mrope")) if family.has_delta() => source.plain(),
        Some(Some("llama3")) => source.llama3(&read_llama3(config, nested)?),
        Some(_) => Err(config.unsupported(
            "rope_type",
            kind.map(brief).unwrap_or_default(),
            "default, llama3",
        )),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the product is between 0 and head_dim, at most 2^20; it is cut off as the reference does"
)]
fn rotated(config: &Config<'_>, head_dim: usize, part: f64) -> Result<usize, ModelError> {
    if part > 0.0 && part <= 1.0 {
        Ok((head_dim as f64 * part) as usize)
    } else {
        Err(config.bad(
            "partial_rotary_factor",
            part.to_string(),
            "above 0, at most 1",
        ))
    }
}

fn read_llama3(config: &Config<'_>, nested: &Value) -> Result<rope::Llama3, ModelError> {
    let needs = |key: &str| {
        config
            .float_in(nested, key)?
            .ok_or_else(|| config.bad(key, "missing", "a number, as rope type llama3 needs it"))
    };
    let rule = rope::Llama3 {
        factor: needs("factor")?,
        low: needs("low_freq_factor")?,
        high: needs("high_freq_factor")?,
        original_context: needs("original_max_position_embeddings")?,
    };
    if rule.is_sound() {
        return Ok(rule);
    }
    Err(config.bad(
        "rope_scaling",
        brief(nested),
        "numbers above zero, high_freq_factor above low_freq_factor",
    ))
}

#[allow(clippy::cast_possible_truncation, reason = "norms are computed in f32")]
fn read_eps(config: &Config<'_>) -> Result<f32, ModelError> {
    let key = "rms_norm_eps";
    match config.float_in(config.text, key)? {
        Some(eps) if eps > 0.0 && eps < 1.0 => Ok(eps as f32),
        Some(eps) => Err(config.bad(key, eps.to_string(), "a number between 0 and 1")),
        None => Err(config.bad(key, "missing", "a number between 0 and 1")),
    }
}

/// Tied if a level says so; if no level says anything, tied if there is no head.
fn read_tied(config: &Config<'_>, store: &Store) -> Result<bool, ModelError> {
    let key = "tie_word_embeddings";
    match config.field_anywhere(key) {
        None => Ok(store.find("lm_head.weight").is_none()),
        Some(value) => value
            .as_bool()
            .ok_or_else(|| config.bad(key, brief(value), "true or false")),
    }
}

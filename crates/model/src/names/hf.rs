//! Names in safetensors files as `transformers` writes them.

use super::{ExpertNames, qwen35};
use crate::roles::{LayerRole, Proj, Role};

/// What may precede `embed_tokens`, most specific first: multimodal and text-only checkpoints.
pub(crate) const PREFIXES: [&str; 2] = ["model.language_model.", "model."];

/// The name of a role's tensor.
pub(super) fn name(prefix: &str, tied: bool, role: Role) -> String {
    match role {
        Role::Head if !tied => "lm_head.weight".to_owned(),
        Role::Embedding | Role::Head => format!("{prefix}embed_tokens.weight"),
        Role::OutputNorm => format!("{prefix}norm.weight"),
        Role::RopeFactors => "rope_freqs.weight".to_owned(),
        Role::Layer(layer, role) => format!("{prefix}layers.{layer}.{}", in_layer(role)),
    }
}

fn in_layer(role: LayerRole) -> &'static str {
    use LayerRole as R;
    match role {
        R::AttnNorm => "input_layernorm.weight",
        R::FfnNorm => "post_attention_layernorm.weight",
        R::Q => "self_attn.q_proj.weight",
        R::K => "self_attn.k_proj.weight",
        R::V => "self_attn.v_proj.weight",
        R::O => "self_attn.o_proj.weight",
        R::QNorm => "self_attn.q_norm.weight",
        R::KNorm => "self_attn.k_norm.weight",
        R::Router => "mlp.gate.weight",
        R::SharedGate => "mlp.shared_expert.gate_proj.weight",
        R::SharedUp => "mlp.shared_expert.up_proj.weight",
        R::SharedDown => "mlp.shared_expert.down_proj.weight",
        R::SharedRouter => "mlp.shared_expert_gate.weight",
        R::Gate => "mlp.gate_proj.weight",
        R::Up => "mlp.up_proj.weight",
        R::Down => "mlp.down_proj.weight",
        R::DeltaQkv
        | R::DeltaZ
        | R::DeltaB
        | R::DeltaA
        | R::DeltaConv
        | R::DeltaDecay
        | R::DeltaDtBias
        | R::DeltaNorm
        | R::DeltaOut => qwen35::delta(role).hf,
    }
}

/// Where a layer's experts may be.
pub(super) fn experts(prefix: &str, layer: u32) -> ExpertNames {
    let base = format!("{prefix}layers.{layer}.mlp.experts");
    ExpertNames {
        gate_up: format!("{base}.gate_up_proj"),
        stacked: ["gate", "up", "down"].map(|proj| format!("{base}.{proj}_proj")),
    }
}

/// One expert's own tensor.
pub(super) fn expert(prefix: &str, layer: u32, proj: Proj, expert: u32) -> String {
    let proj = match proj {
        Proj::Gate => "gate",
        Proj::Up => "up",
        Proj::Down => "down",
    };
    format!("{prefix}layers.{layer}.mlp.experts.{expert}.{proj}_proj.weight")
}

/// The vision tower, drafting layers, precomputed rope tables, and the copy of a tied head.
pub(super) fn is_left_out(name: &str, tied: bool) -> bool {
    ["model.visual.", "visual.", "mtp.", "model.mtp."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        || name.ends_with("rotary_emb.inv_freq")
        || (tied && name == "lm_head.weight")
}

//! Names in GGUF files.

use std::ops::Range;

use super::{ExpertNames, qwen35};
use crate::{
    arch::Family,
    roles::{LayerRole, Proj, Role},
};

/// The name of a role's tensor.
pub(super) fn name(family: Family, role: Role) -> String {
    match role {
        Role::Embedding => "token_embd.weight".to_owned(),
        Role::OutputNorm => "output_norm.weight".to_owned(),
        Role::Head => "output.weight".to_owned(),
        Role::RopeFactors => "rope_freqs.weight".to_owned(),
        Role::Layer(layer, role) => format!("blk.{layer}.{}", in_block(family, role)),
    }
}

fn in_block(family: Family, role: LayerRole) -> &'static str {
    use LayerRole as R;
    match role {
        R::AttnNorm => "attn_norm.weight",
        R::FfnNorm if family.has_delta() => qwen35::GGUF_FFN_NORM,
        R::FfnNorm => "ffn_norm.weight",
        R::Q => "attn_q.weight",
        R::K => "attn_k.weight",
        R::V => "attn_v.weight",
        R::O => "attn_output.weight",
        R::QNorm => "attn_q_norm.weight",
        R::KNorm => "attn_k_norm.weight",
        R::Router => "ffn_gate_inp.weight",
        R::SharedGate => "ffn_gate_shexp.weight",
        R::SharedUp => "ffn_up_shexp.weight",
        R::SharedDown => "ffn_down_shexp.weight",
        R::SharedRouter => "ffn_gate_inp_shexp.weight",
        R::Gate => "ffn_gate.weight",
        R::Up => "ffn_up.weight",
        R::Down => "ffn_down.weight",
        R::DeltaQkv
        | R::DeltaZ
        | R::DeltaB
        | R::DeltaA
        | R::DeltaConv
        | R::DeltaDecay
        | R::DeltaDtBias
        | R::DeltaNorm
        | R::DeltaOut => qwen35::delta(role).gguf,
    }
}

/// Where a layer's experts may be.
pub(super) fn experts(layer: u32) -> ExpertNames {
    ExpertNames {
        gate_up: format!("blk.{layer}.ffn_gate_up_exps.weight"),
        stacked: ["gate", "up", "down"].map(|proj| format!("blk.{layer}.ffn_{proj}_exps.weight")),
    }
}

/// One expert's own tensor, as early MoE files have it.
pub(super) fn expert(layer: u32, proj: Proj, expert: u32) -> String {
    let proj = match proj {
        Proj::Gate => "gate",
        Proj::Up => "up",
        Proj::Down => "down",
    };
    format!("blk.{layer}.ffn_{proj}.{expert}.weight")
}

/// Vision and audio towers, and blocks that only draft.
pub(super) fn is_left_out(name: &str, drafting: &Range<u32>) -> bool {
    if ["v.", "mm.", "a."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
    {
        return true;
    }
    name.strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'))
        .and_then(|(block, _)| block.parse::<u32>().ok())
        .is_some_and(|block| drafting.contains(&block))
}

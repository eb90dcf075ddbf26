//! Names that only Qwen3.5 has: the gated delta net, and its own name of the second norm in GGUF.

use crate::roles::LayerRole;

/// The norm before the feed-forward in GGUF.
pub(super) const GGUF_FFN_NORM: &str = "post_attention_norm.weight";

/// One role's name in both formats.
pub(super) struct Pair {
    /// After `blk.N.`.
    pub(super) gguf: &'static str,
    /// After `layers.N.`.
    pub(super) hf: &'static str,
}

/// Names of the delta net's tensors; other roles have none here and get names that no file has.
pub(super) fn delta(role: LayerRole) -> Pair {
    use LayerRole as R;
    let (gguf, hf) = match role {
        R::DeltaQkv => ("attn_qkv.weight", "linear_attn.in_proj_qkv.weight"),
        R::DeltaZ => ("attn_gate.weight", "linear_attn.in_proj_z.weight"),
        R::DeltaB => ("ssm_beta.weight", "linear_attn.in_proj_b.weight"),
        R::DeltaA => ("ssm_alpha.weight", "linear_attn.in_proj_a.weight"),
        R::DeltaConv => ("ssm_conv1d.weight", "linear_attn.conv1d.weight"),
        R::DeltaDecay => ("ssm_a", "linear_attn.A_log"),
        R::DeltaDtBias => ("ssm_dt.bias", "linear_attn.dt_bias"),
        R::DeltaNorm => ("ssm_norm.weight", "linear_attn.norm.weight"),
        R::DeltaOut => ("ssm_out.weight", "linear_attn.out_proj.weight"),
        _ => ("", ""),
    };
    Pair { gguf, hf }
}

//! Which tensors of a GGUF file are matrices of products, by name; drafting blocks included, other towers not.

/// What stands between `blk.N.` and `.weight` in the names of matrices.
const IN_BLOCKS: [&str; 19] = [
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "attn_qkv",
    "attn_gate",
    "ssm_alpha",
    "ssm_beta",
    "ssm_out",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "ffn_gate_exps",
    "ffn_up_exps",
    "ffn_down_exps",
    "ffn_gate_up_exps",
    "ffn_gate_shexp",
    "ffn_up_shexp",
    "ffn_down_shexp",
];

/// Whether the tensor called `name` is multiplied with whole rows of activations, and no router.
pub(super) fn is_matrix(name: &str) -> bool {
    let Some(base) = name.strip_suffix(".weight") else {
        return false;
    };
    if matches!(base, "token_embd" | "output") {
        return true;
    }
    let Some((_, in_block)) = base.strip_prefix("blk.").and_then(|b| b.split_once('.')) else {
        return false;
    };
    // Early files have an expert's number behind the name: `ffn_up.7`.
    let in_block = match in_block.rsplit_once('.') {
        Some((base, number)) if number.parse::<u32>().is_ok() => base,
        _ => in_block,
    };
    IN_BLOCKS.contains(&in_block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_told_from_small_tensors() {
        for name in [
            "token_embd.weight",
            "output.weight",
            "blk.0.attn_qkv.weight",
            "blk.31.ffn_down_exps.weight",
            "blk.3.ffn_up.17.weight",
            "blk.3.ffn_down_shexp.weight",
        ] {
            assert!(is_matrix(name), "{name}");
        }
        for name in [
            "output_norm.weight",
            "rope_freqs.weight",
            "blk.0.attn_norm.weight",
            "blk.0.ffn_gate_inp.weight",
            "blk.0.ffn_gate_inp_shexp.weight",
            "blk.0.ssm_conv1d.weight",
            "blk.0.ssm_dt.bias",
            "blk.0.ssm_a",
            "blk.8.nextn.eh_proj.weight",
            "v.blk.0.attn_q.weight",
            "mm.0.weight",
        ] {
            assert!(!is_matrix(name), "{name}");
        }
    }
}

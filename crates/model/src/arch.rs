//! What the model computes, read once from GGUF metadata or config.json and checked.
//!
//! Everything that changes the result is either in [`Architecture`] or refused by name; nothing is ignored. A value
//! that got here is within bounds that let every product of two or three dimensions fit.

mod config;
mod from_config;
mod from_gguf;
mod gguf_heads;
mod metadata;
mod rope;
mod shape;

pub(crate) use from_config::from_config;
pub(crate) use from_gguf::GgufModel;
pub(crate) use from_gguf::from_gguf;
pub(crate) use shape::{Class, Expected, expected_shape, layer_roles};

/// The model families that are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Qwen3.5 with experts: gated delta net and gated attention.
    Qwen35Moe,
    /// Qwen3.5 dense.
    Qwen35,
    /// Qwen3 with experts.
    Qwen3Moe,
    /// Qwen3 dense.
    Qwen3,
    /// Llama.
    Llama,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 5] = [
        Self::Qwen35Moe,
        Self::Qwen35,
        Self::Qwen3Moe,
        Self::Qwen3,
        Self::Llama,
    ];

    /// The name that GGUF files use, `qwen35moe` for example.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qwen35Moe => "qwen35moe",
            Self::Qwen35 => "qwen35",
            Self::Qwen3Moe => "qwen3moe",
            Self::Qwen3 => "qwen3",
            Self::Llama => "llama",
        }
    }

    /// Whether layers may be gated delta nets.
    #[must_use]
    pub fn has_delta(self) -> bool {
        matches!(self, Self::Qwen35Moe | Self::Qwen35)
    }

    /// Whether layers have experts.
    #[must_use]
    pub fn has_experts(self) -> bool {
        matches!(self, Self::Qwen35Moe | Self::Qwen3Moe)
    }
}

/// A whole model. Dimensions are positive and at most 2^20 (vocabulary and context 2^24 and 2^30).
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// The family.
    pub family: Family,
    /// Values in one row of the residual stream.
    pub hidden: usize,
    /// Rows of embedding and head.
    pub vocab: usize,
    /// Positions that the model was made for.
    pub context: usize,
    /// Added to the mean square in every norm.
    pub norm_eps: f32,
    /// The layers in order, without drafting layers.
    pub layers: Vec<LayerKind>,
    /// Shape of every attention layer.
    pub attention: AttentionShape,
    /// Rotary embedding of every attention layer.
    pub rope: Rope,
    /// Shape of every delta-net layer, if there is one.
    pub delta: Option<DeltaShape>,
    /// Shape of every MoE layer, if there is one.
    pub moe: Option<MoeShape>,
    /// Whether the head is the embedding.
    pub tied_head: bool,
    /// Inner width of dense layers; 0 if there is none.
    pub dense_width: usize,
}

/// What one layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerKind {
    /// How it mixes positions.
    pub mixer: Mixer,
    /// Its feed-forward.
    pub ffn: FfnKind,
}

/// How a layer mixes positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixer {
    /// Softmax attention.
    Attention,
    /// Gated delta net.
    DeltaNet,
}

/// The feed-forward of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FfnKind {
    /// One wide MLP.
    Dense,
    /// Routed experts.
    Moe,
}

/// Attention layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Gate on the attention output.
    pub output_gate: OutputGate,
    /// Norm of queries and keys.
    pub qk_norm: QkNorm,
}

/// Gate on the attention output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputGate {
    /// None.
    None,
    /// Sigmoid; rows of Q are per head: `head_dim` of query, then `head_dim` of gate.
    Sigmoid,
}

/// Norm of queries and keys before rope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// RMS norm over each head.
    PerHead,
}

/// Rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Leading values of each head that are rotated; even.
    pub dims: usize,
    /// Which two values turn together.
    pub pairing: Pairing,
    /// The base from which unscaled frequencies follow.
    pub base: f64,
    /// Radians per position of each pair, [dims / 2], scaling already applied.
    pub inv_freq: Vec<f64>,
}

/// Which two values turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// i and i + dims / 2.
    Halves,
    /// 2i and 2i + 1.
    Neighbours,
}

/// Gated delta net layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaShape {
    /// Query and key heads.
    pub key_heads: usize,
    /// Value heads; a multiple of `key_heads`.
    pub value_heads: usize,
    /// Values per key head.
    pub key_dim: usize,
    /// Values per value head.
    pub value_dim: usize,
    /// Positions that the causal convolution sees.
    pub conv_kernel: usize,
    /// Which key head a value head reads.
    pub head_order: HeadOrder,
}

impl DeltaShape {
    /// Channels of the convolution: queries, keys, values.
    #[must_use]
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim
    }
}

/// Which key head value head `j` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadOrder {
    /// `j / (value_heads / key_heads)`.
    Grouped,
    /// `j % key_heads`.
    Tiled,
}

/// MoE layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoeShape {
    /// Experts.
    pub experts: usize,
    /// Experts used per token.
    pub used: usize,
    /// Inner width of an expert.
    pub width: usize,
    /// Inner width of the shared expert, if there is one.
    pub shared_width: Option<usize>,
    /// Whether the weights of the chosen experts are made to sum to 1.
    pub renormalise: bool,
}

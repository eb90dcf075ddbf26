//! What a tensor is for. The engine asks by role; names belong to `names`.

use std::fmt;

/// A tensor of the model by its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Token embedding, [vocab, hidden].
    Embedding,
    /// Norm before the head, `[hidden]`.
    OutputNorm,
    /// Output head, [vocab, hidden]; the embedding itself in a tied model.
    Head,
    /// Divisors of the rope frequencies, [dims / 2]; already applied in `Rope::inv_freq`.
    RopeFactors,
    /// A tensor of one layer.
    Layer(u32, LayerRole),
}

/// A tensor of a layer by its use. Shapes are [rows, cols] of `y = W x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerRole {
    /// Norm before the mixer, `[hidden]`.
    AttnNorm,
    /// Norm before the feed-forward, `[hidden]`.
    FfnNorm,
    /// Query projection, [heads * head_dim, hidden]; twice the rows with an output gate, interleaved per head.
    Q,
    /// Key projection, [kv_heads * head_dim, hidden].
    K,
    /// Value projection, [kv_heads * head_dim, hidden].
    V,
    /// Output projection, [hidden, heads * head_dim].
    O,
    /// Norm of each query head, `[head_dim]`.
    QNorm,
    /// Norm of each key head, `[head_dim]`.
    KNorm,
    /// Joint projection of the delta net, [2 * key_heads * key_dim + value_heads * value_dim, hidden].
    DeltaQkv,
    /// Output gate of the delta net, [value_heads * value_dim, hidden].
    DeltaZ,
    /// Write strength, [value_heads, hidden].
    DeltaB,
    /// Decay input, [value_heads, hidden].
    DeltaA,
    /// Causal convolution, [channels, kernel]; the last column meets the current position.
    DeltaConv,
    /// `-exp(A_log)`, `[value_heads]`, always below zero.
    DeltaDecay,
    /// Bias of the decay input, `[value_heads]`.
    DeltaDtBias,
    /// Norm of each value head's output, `[value_dim]`; plain weight.
    DeltaNorm,
    /// Output projection of the delta net, [hidden, value_heads * value_dim].
    DeltaOut,
    /// Router, [experts, hidden].
    Router,
    /// Gate projection of the shared expert, [shared_width, hidden].
    SharedGate,
    /// Up projection of the shared expert, [shared_width, hidden].
    SharedUp,
    /// Down projection of the shared expert, [hidden, shared_width].
    SharedDown,
    /// Scalar gate of the shared expert, [1, hidden].
    SharedRouter,
    /// Gate projection of a dense layer, [dense_width, hidden].
    Gate,
    /// Up projection of a dense layer, [dense_width, hidden].
    Up,
    /// Down projection of a dense layer, [hidden, dense_width].
    Down,
}

/// Which matrix of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proj {
    /// [width, hidden]
    Gate,
    /// [width, hidden]
    Up,
    /// [hidden, width]
    Down,
}

impl Proj {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Gate, Self::Up, Self::Down];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(layer, role) => write!(f, "{role:?} of layer {layer}"),
            other => write!(f, "{other:?}"),
        }
    }
}

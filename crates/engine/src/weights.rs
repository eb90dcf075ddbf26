//! The weights of a slice: where its matrices lie in the mapped files, and the small vectors in memory.

use kernels::{ActFormat, Matrix, WeightType};
use model::{Checkpoint, DType, FileRange, TensorRef};

use crate::EngineError;
use crate::groups::GroupSet;

/// A matrix in the mapped model files.
#[derive(Debug, Clone)]
pub struct Weight {
    /// How it is stored.
    pub ty: WeightType,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    place: FileRange,
}

/// The kernels' name of a stored type.
pub fn weight_type(dtype: DType) -> WeightType {
    match dtype {
        DType::F32 => WeightType::F32,
        DType::F16 => WeightType::F16,
        DType::BF16 => WeightType::BF16,
        DType::Q8_0 => WeightType::Q8_0,
        DType::Q4_0 => WeightType::Q4_0,
        DType::Q4K => WeightType::Q4K,
        DType::Q5K => WeightType::Q5K,
        DType::Q6K => WeightType::Q6K,
    }
}

impl Weight {
    /// Remembers where a tensor lies.
    pub fn of(tensor: &TensorRef<'_>) -> Self {
        Self {
            ty: weight_type(tensor.ty),
            rows: tensor.rows,
            cols: tensor.cols,
            place: tensor.at,
        }
    }

    /// The matrix, its bytes straight from the map.
    pub fn matrix<'a>(&self, checkpoint: &'a Checkpoint) -> Result<Matrix<'a>, EngineError> {
        let bytes = checkpoint.bytes_at(self.place);
        Ok(Matrix::new(self.ty, self.rows, self.cols, bytes)?)
    }

    /// Some of its rows as a matrix of their own.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        let row_bytes = self.place.len / self.rows.max(1) as u64;
        let first = rows.start.min(self.rows);
        let count = rows.end.min(self.rows).saturating_sub(first);
        Self {
            rows: count,
            place: FileRange {
                start: self.place.start + first as u64 * row_bytes,
                len: count as u64 * row_bytes,
                ..self.place
            },
            ..self.clone()
        }
    }

    /// Where it lies.
    pub fn place(&self) -> FileRange {
        self.place
    }
}

/// The three matrices of a gated feed-forward: `down(silu(gate x) * (up x))`.
#[derive(Debug, Clone)]
pub struct FfnWeights {
    /// `[width, hidden]`.
    pub gate: Weight,
    /// `[width, hidden]`.
    pub up: Weight,
    /// `[hidden, width]`.
    pub down: Weight,
}

impl FfnWeights {
    fn all(&self) -> [&Weight; 3] {
        [&self.gate, &self.up, &self.down]
    }
}

/// Softmax attention.
#[derive(Debug, Clone)]
pub struct AttentionWeights {
    /// `[heads * head_dim (* 2 with an output gate), hidden]`.
    pub q: Weight,
    /// `[kv_heads * head_dim, hidden]`.
    pub k: Weight,
    /// `[kv_heads * head_dim, hidden]`.
    pub v: Weight,
    /// `[hidden, heads * head_dim]`.
    pub o: Weight,
    /// `[head_dim]`, where the family norms queries.
    pub q_norm: Option<Vec<f32>>,
    /// `[head_dim]`, where the family norms keys.
    pub k_norm: Option<Vec<f32>>,
}

/// Gated delta net.
pub struct DeltaWeights {
    /// `[channels, hidden]`: queries, keys, values.
    pub qkv: Weight,
    /// `[value_heads * value_dim, hidden]`: the output gate.
    pub z: Weight,
    /// `[value_heads, hidden]`: write strength.
    pub b: Weight,
    /// `[value_heads, hidden]`: decay.
    pub a: Weight,
    /// `[hidden, value_heads * value_dim]`.
    pub out: Weight,
    /// Convolution, decay and gated norm.
    pub net: kernels::DeltaNet,
}

/// How a layer mixes positions.
pub enum MixerWeights {
    /// Softmax attention.
    Attention(AttentionWeights),
    /// Gated delta net.
    Delta(DeltaWeights),
}

/// Experts of one layer.
#[derive(Debug, Clone)]
pub struct Experts {
    /// The format in which rows travel to experts elsewhere: that of all gate and up matrices, `F32` where they differ.
    pub travel: ActFormat,
    /// Which groups are here.
    pub groups: GroupSet,
    /// The experts that this slice holds, by id.
    pub by_id: Vec<Option<FfnWeights>>,
}

impl Experts {
    /// Every matrix that is here.
    pub fn matrices(&self) -> impl Iterator<Item = &Weight> {
        self.by_id.iter().flatten().flat_map(FfnWeights::all)
    }
}

/// A mixture of experts.
#[derive(Debug, Clone)]
pub struct MoeWeights {
    /// `[experts, hidden]`.
    pub router: Weight,
    /// The formats that the gate and up matrices held here take, the shared expert's included, each once.
    pub formats: Vec<ActFormat>,
    /// The experts that this slice holds.
    pub experts: Experts,
    /// The expert that every row uses.
    pub shared: Option<FfnWeights>,
    /// `[1, hidden]`: how much of the shared expert a row takes.
    pub shared_router: Option<Weight>,
}

/// What follows the mixer.
#[derive(Debug, Clone)]
pub enum FeedForward {
    /// One gated feed-forward.
    Dense(FfnWeights),
    /// A mixture of experts.
    Moe(MoeWeights),
}

/// One layer.
pub struct LayerWeights {
    /// Norm before the mixer, `[hidden]`.
    pub attn_norm: Vec<f32>,
    /// Norm before the feed-forward, `[hidden]`.
    pub ffn_norm: Vec<f32>,
    /// Mixer.
    pub mixer: MixerWeights,
    /// Feed-forward.
    pub ffn: FeedForward,
}

impl LayerWeights {
    /// Every matrix of the layer that this slice holds.
    pub fn matrices(&self) -> Vec<&Weight> {
        let mut all = match &self.mixer {
            MixerWeights::Attention(w) => vec![&w.q, &w.k, &w.v, &w.o],
            MixerWeights::Delta(w) => vec![&w.qkv, &w.z, &w.b, &w.a, &w.out],
        };
        match &self.ffn {
            FeedForward::Dense(ffn) => all.extend(ffn.all()),
            FeedForward::Moe(moe) => {
                all.push(&moe.router);
                all.extend(moe.experts.matrices());
                all.extend(moe.shared.iter().flat_map(FfnWeights::all));
                all.extend(moe.shared_router.iter());
            }
        }
        all
    }

    /// Bytes of the vectors that were copied into memory.
    pub fn vector_bytes(&self) -> u64 {
        let values = match &self.mixer {
            MixerWeights::Attention(w) => {
                w.q_norm.as_ref().map_or(0, Vec::len) + w.k_norm.as_ref().map_or(0, Vec::len)
            }
            MixerWeights::Delta(w) => {
                let net = &w.net;
                let conv = net.conv.channels() * net.conv.kernel();
                conv + net.decay_rate.len() + net.dt_bias.len() + net.norm.len()
            }
        };
        ((values + self.attn_norm.len() + self.ffn_norm.len()) * 4) as u64
    }
}

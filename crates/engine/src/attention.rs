//! Softmax attention over the paged cache, with or without query and key norms and an output gate.

use kernels::{
    Attend, AttendRow, AttendScratch, AttendShape, KvStore, Placement, QueryLayout, attend_rows,
    place_rows,
};
use model::{AttentionShape, Pairing};

use crate::EngineError;
use crate::dense::{project, project_out};
use crate::load::gated;
use crate::sequences::Span;
use crate::slice::{Scratch, Weights};
use crate::spec::{CacheSpec, KvType};
use crate::weights::AttentionWeights;

/// Keys and values of one layer.
pub struct AttentionCache {
    store: KvStore,
}

impl AttentionCache {
    /// Zeroed pages; they become resident when they are first written.
    pub fn new(shape: &AttentionShape, spec: &CacheSpec) -> Result<Self, EngineError> {
        let kv = match spec.kv {
            KvType::F32 => kernels::KvType::F32,
            KvType::F16 => kernels::KvType::F16,
            KvType::Q8 => kernels::KvType::Q8,
        };
        let store = KvStore::new(kv, spec.pages, shape.kv_heads, shape.head_dim)?;
        Ok(Self { store })
    }

    /// Bytes when every page is used.
    pub fn bytes(&self) -> u64 {
        self.store.bytes() as u64
    }
}

/// Buffers of the attention layers.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    spans: AttendScratch,
    out: Vec<f32>,
}

/// The position of every row of the batch.
pub fn positions(spans: &[Span]) -> Vec<u32> {
    spans
        .iter()
        .flat_map(|s| (s.start..).take(s.rows))
        .collect()
}

/// The shape of the attention layers as the kernels know it.
fn attend_shape(weights: &Weights) -> AttendShape {
    let shape = &weights.checkpoint.arch().attention;
    #[allow(clippy::cast_precision_loss, reason = "head dimensions are small")]
    let scale = 1.0 / (shape.head_dim as f32).sqrt();
    AttendShape {
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        scale,
        queries: if gated(&weights.checkpoint) {
            QueryLayout::Gated
        } else {
            QueryLayout::Plain
        },
    }
}

/// Queries, keys and values of all rows into the scratch, as projected.
fn project_heads(
    weights: &Weights,
    layer: &AttentionWeights,
    h: &[f32],
    scratch: &mut Scratch,
) -> Result<(), EngineError> {
    let s = &mut scratch.attention;
    let take = std::mem::take::<Vec<f32>>;
    let mut outs = [
        (&layer.q, take(&mut s.q)),
        (&layer.k, take(&mut s.k)),
        (&layer.v, take(&mut s.v)),
    ];
    project(weights, h, &mut scratch.acts, &mut outs)?;
    let [(_, q), (_, k), (_, v)] = outs;
    (s.q, s.k, s.v) = (q, k, v);
    Ok(())
}

/// How queries and keys become ready for scores.
fn placement<'a>(
    weights: &'a Weights,
    layer: &'a AttentionWeights,
    shape: &'a AttendShape,
    angles: &'a [f32],
) -> Placement<'a> {
    let arch = weights.checkpoint.arch();
    Placement {
        shape,
        q_norm: layer.q_norm.as_deref(),
        k_norm: layer.k_norm.as_deref(),
        norm_eps: arch.norm_eps,
        angles,
        pairing: match arch.rope.pairing {
            Pairing::Halves => kernels::Pairing::Halves,
            Pairing::Neighbours => kernels::Pairing::Neighbours,
        },
    }
}

/// Attention of all rows. `angles`: `[rows][rope dims]`; `h`: `[rows, hidden]` normed rows; `scratch.mixed` becomes `[rows, hidden]`.
pub fn attention(
    weights: &Weights,
    layer: &AttentionWeights,
    (spans, angles): (&[Span], &[f32]),
    h: &[f32],
    cache: &mut AttentionCache,
    scratch: &mut Scratch,
) -> Result<(), EngineError> {
    project_heads(weights, layer, h, scratch)?;
    let (exec, shape) = (&weights.exec, attend_shape(weights));
    let s = &mut scratch.attention;
    let rows: Vec<AttendRow<'_>> = spans
        .iter()
        .flat_map(|span| {
            let row = |position| AttendRow {
                pages: &span.pages,
                len: position + 1,
            };
            (span.start..).take(span.rows).map(row)
        })
        .collect();
    let how = placement(weights, layer, &shape, angles);
    let keys = (s.k.as_mut_slice(), s.v.as_slice());
    place_rows(
        &exec.pool,
        exec.isa,
        &how,
        &rows,
        &mut s.q,
        keys,
        &mut cache.store,
    );
    let attend = Attend {
        shape: &shape,
        store: &cache.store,
        rows: &rows,
        queries: &s.q,
    };
    // Every value is written, so what the last layer left need not be cleared.
    s.out.resize(rows.len() * shape.heads * shape.head_dim, 0.0);
    attend_rows(&exec.pool, exec.isa, &attend, &mut s.out, &mut s.spans);
    project_out(
        weights,
        &layer.o,
        &s.out,
        &mut scratch.out_acts,
        &mut scratch.mixed,
    )
}

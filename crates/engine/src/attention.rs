//! Softmax attention over the paged cache, with or without query and key norms and an output gate.

use kernels::{AttendRow, AttendShape, KvStore};
use model::{AttentionShape, Pairing};

use crate::EngineError;
use crate::dense::{project, project_out};
use crate::load::gated;
use crate::scratch::sized;
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
    /// Queries without their gates.
    queries: Vec<f32>,
    gates: Vec<f32>,
    out: Vec<f32>,
}

/// The position of every row of the batch.
pub fn positions(spans: &[Span]) -> Vec<u32> {
    spans
        .iter()
        .flat_map(|s| (s.start..).take(s.rows))
        .collect()
}

/// Cuts `[rows][heads][query, gate]` into queries and gates.
fn split_gates(q: &[f32], head_dim: usize, queries: &mut Vec<f32>, gates: &mut Vec<f32>) {
    queries.clear();
    gates.clear();
    for pair in q.chunks_exact(2 * head_dim) {
        let (query, gate) = pair.split_at(head_dim);
        queries.extend_from_slice(query);
        gates.extend_from_slice(gate);
    }
}

/// Norm and rope of all heads in `x` (`[rows][heads * head_dim]`).
fn place_heads(
    weights: &Weights,
    norm: Option<&[f32]>,
    x: &mut [f32],
    width: usize,
    angles: &[f32],
) {
    let arch = weights.checkpoint.arch();
    let isa = weights.exec.isa;
    let pairing = match arch.rope.pairing {
        Pairing::Halves => kernels::Pairing::Halves,
        Pairing::Neighbours => kernels::Pairing::Neighbours,
    };
    let dims = arch.rope.dims;
    kernels::parallel_chunks(&weights.exec.pool, x, width, |row, heads| {
        if let Some(norm) = norm {
            kernels::rms_norm_in_place(isa, heads, norm, arch.norm_eps);
        }
        let angles = angles.get(row * dims..(row + 1) * dims).unwrap_or_default();
        kernels::rope(isa, heads, arch.attention.head_dim, angles, pairing);
    });
}

/// Queries, keys and values of all rows into the scratch, normed and turned to their positions.
fn project_heads(
    weights: &Weights,
    layer: &AttentionWeights,
    angles: &[f32],
    h: &[f32],
    scratch: &mut Scratch,
) -> Result<(), EngineError> {
    let shape = &weights.checkpoint.arch().attention;
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
    if gated(&weights.checkpoint) {
        split_gates(&s.q, shape.head_dim, &mut s.queries, &mut s.gates);
    } else {
        std::mem::swap(&mut s.q, &mut s.queries);
    }
    let wide = shape.heads * shape.head_dim;
    let narrow = shape.kv_heads * shape.head_dim;
    let (q_norm, k_norm) = (layer.q_norm.as_deref(), layer.k_norm.as_deref());
    place_heads(weights, q_norm, &mut s.queries, wide, angles);
    place_heads(weights, k_norm, &mut s.k, narrow, angles);
    Ok(())
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
    project_heads(weights, layer, angles, h, scratch)?;
    let shape = &weights.checkpoint.arch().attention;
    let s = &mut scratch.attention;
    let wide = shape.heads * shape.head_dim;
    let narrow = shape.kv_heads * shape.head_dim;
    let mut rows = Vec::with_capacity(h.len() / weights.hidden.max(1));
    for span in spans {
        let keys = s.k.chunks_exact(narrow).zip(s.v.chunks_exact(narrow));
        for (position, (k, v)) in (span.start..).zip(keys.skip(span.first_row).take(span.rows)) {
            cache.store.write(&span.pages, position, k, v);
            rows.push(AttendRow {
                pages: &span.pages,
                len: position + 1,
            });
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "head dimensions are small")]
    let scale = 1.0 / (shape.head_dim as f32).sqrt();
    let attend = AttendShape {
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        scale,
    };
    let exec = &weights.exec;
    let out = sized(&mut s.out, rows.len() * wide);
    kernels::attend_rows(
        &exec.pool,
        exec.isa,
        &attend,
        &cache.store,
        &rows,
        &s.queries,
        out,
    );
    if gated(&weights.checkpoint) {
        let gates = &s.gates;
        kernels::parallel_chunks(&exec.pool, &mut s.out, wide, |row, out| {
            let gates = gates.get(row * wide..(row + 1) * wide).unwrap_or_default();
            kernels::sigmoid_gate(exec.isa, out, gates);
        });
    }
    project_out(
        weights,
        &layer.o,
        &s.out,
        &mut scratch.out_acts,
        &mut scratch.mixed,
    )
}

//! The gated delta net layer: projections around the recurrent state of each sequence.

use kernels::{DeltaInput, DeltaNet, DeltaRun, DeltaState};
use model::{Architecture, DeltaShape, HeadOrder};

use crate::EngineError;
use crate::dense::{project, project_out};
use crate::scratch::sized;
use crate::sequences::{Before, Span};
use crate::slice::{Scratch, Weights};
use crate::spec::CacheSpec;
use crate::weights::DeltaWeights;

/// The recurrent states of one layer, one per slot; a slot takes memory when it is first used.
pub struct DeltaCache {
    slots: Vec<Option<DeltaState>>,
    state_bytes: u64,
}

impl DeltaCache {
    /// Empty slots.
    pub fn new(shape: &DeltaShape, spec: &CacheSpec) -> Result<Self, EngineError> {
        let history = shape.conv_kernel.saturating_sub(1) * shape.channels();
        let state = shape.value_heads * shape.key_dim * shape.value_dim;
        let slots = usize::try_from(spec.slots).map_err(|_| EngineError::Caches {
            pages: spec.pages,
            slots: spec.slots,
        })?;
        Ok(Self {
            slots: (0..slots).map(|_| None).collect(),
            state_bytes: ((history + state) * 4) as u64,
        })
    }

    /// Bytes when every slot is used.
    pub fn bytes(&self) -> u64 {
        self.state_bytes.saturating_mul(self.slots.len() as u64)
    }
}

/// Buffers of the delta net layers.
#[derive(Default)]
pub struct DeltaScratch {
    qkv: Vec<f32>,
    z: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    out: Vec<f32>,
    kernel: kernels::DeltaScratch,
}

/// The kernels' form of a layer's recurrent part.
pub fn recurrent(arch: &Architecture, shape: &DeltaShape, vectors: Recurrent) -> DeltaNet {
    let order = match shape.head_order {
        HeadOrder::Grouped => kernels::HeadOrder::Grouped,
        HeadOrder::Tiled => kernels::HeadOrder::Tiled,
    };
    DeltaNet {
        shape: kernels::DeltaShape {
            key_heads: shape.key_heads,
            value_heads: shape.value_heads,
            key_dim: shape.key_dim,
            value_dim: shape.value_dim,
            order,
        },
        conv: kernels::ConvWeights::new(&vectors.conv, shape.channels(), shape.conv_kernel),
        decay_rate: vectors.decay,
        dt_bias: vectors.dt_bias,
        norm: vectors.norm,
        eps: arch.norm_eps,
    }
}

/// The small vectors of a delta net layer.
pub struct Recurrent {
    /// `[channels, kernel]`.
    pub conv: Vec<f32>,
    /// `[value_heads]`: `-exp(A_log)`.
    pub decay: Vec<f32>,
    /// `[value_heads]`.
    pub dt_bias: Vec<f32>,
    /// `[value_dim]`.
    pub norm: Vec<f32>,
}

/// Delta net of all rows. `h`: `[rows, hidden]` normed rows; `scratch.mixed` becomes `[rows, hidden]`.
pub fn delta_net(
    weights: &Weights,
    layer: &DeltaWeights,
    spans: &[Span],
    h: &[f32],
    cache: &mut DeltaCache,
    scratch: &mut Scratch,
) -> Result<(), EngineError> {
    let s = &mut scratch.delta;
    let take = std::mem::take::<Vec<f32>>;
    let mut outs = [
        (&layer.qkv, take(&mut s.qkv)),
        (&layer.z, take(&mut s.z)),
        (&layer.a, take(&mut s.a)),
        (&layer.b, take(&mut s.b)),
    ];
    project(weights, h, &mut scratch.acts, &mut outs)?;
    let [(_, qkv), (_, z), (_, a), (_, b)] = outs;
    (s.qkv, s.z, s.a, s.b) = (qkv, z, a, b);
    let exec = &weights.exec;
    let net = &layer.net;
    let mut states = Vec::with_capacity(spans.len());
    for span in spans {
        states.push(cache.prepare(weights, net, span)?);
    }
    let mut runs: Vec<DeltaRun<'_>> = spans
        .iter()
        .zip(&mut states)
        .map(|(span, state)| DeltaRun {
            rows: span.first_row..span.first_row + span.rows,
            provisional: span.provisional,
            state,
        })
        .collect();
    let input = DeltaInput {
        mixed: &s.qkv,
        z: &s.z,
        a: &s.a,
        b: &s.b,
    };
    let out = sized(&mut s.out, s.z.len());
    net.forward(
        (&exec.pool, exec.isa),
        &input,
        &mut runs,
        &mut s.kernel,
        out,
    );
    for (span, state) in spans.iter().zip(states) {
        cache.put(span.slot, state);
    }
    project_out(
        weights,
        &layer.out,
        &s.out,
        &mut scratch.out_acts,
        &mut scratch.mixed,
    )
}

impl DeltaCache {
    /// Takes the state of a span's slot, reset or committed as the span asks.
    fn prepare(
        &mut self,
        weights: &Weights,
        net: &DeltaNet,
        span: &Span,
    ) -> Result<DeltaState, EngineError> {
        let slot = self
            .slots
            .get_mut(span.slot as usize)
            .ok_or(EngineError::NotHeld("such slot"))?;
        let mut state = slot.take().unwrap_or_else(|| DeltaState::new(net));
        match span.before {
            Before::Reset => state.reset(),
            Before::Commit(n) => {
                net.commit(
                    (&weights.exec.pool, weights.exec.isa),
                    &mut state,
                    n as usize,
                );
            }
        }
        Ok(state)
    }

    fn put(&mut self, slot: u32, state: DeltaState) {
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(state);
        }
    }
}

//! One step on its way through a slice.
//!
//! A run computes until it is done or needs expert groups that live elsewhere. While those are computed
//! there, the next poll computes the groups that are here and the shared expert; after that the run waits.

use kernels::{Acts, Chunks, Weights as Applied};
use proto::step::{Sampled, Step};

use crate::moe::{ExpertRequest, Partials, RowRoute};
use crate::rows;
use crate::scratch::sized;
use crate::sequences::Span;
use crate::slice::{LayerCache, Scratch, Slice, Weights};
use crate::weights::{FeedForward, MixerWeights, MoeWeights};
use crate::{EngineError, GroupSet, attention, delta, dense, head, moe};

/// What a step starts from.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The step's token ids, on a slice with the embedding.
    Tokens,
    /// `[rows, hidden]`: the residual stream before the slice's first layer.
    Rows(Vec<f32>),
}

/// How far a run is.
#[derive(Debug)]
pub enum Poll {
    /// Send this to the owners of the missing groups, then poll again; answers come by [`Run::provide`].
    NeedExperts(ExpertRequest),
    /// Nothing more to compute until more partial sums are provided.
    Waiting,
    /// Done, on a slice without head: `[rows, hidden]`, the residual stream after the last layer.
    Rows(Vec<f32>),
    /// Done, on a slice with head: one entry per row that wanted logits.
    Samples(Vec<Sampled>),
}

enum State {
    /// The mixer of this layer (counted within the slice) comes next.
    Layer(usize),
    /// Rows were sent out; own groups and the shared expert come next.
    Own(usize, Routed),
    /// Own work is done; partial sums from elsewhere are missing.
    Met(usize, Vec<RowRoute>, Vec<f32>),
    Done,
}

/// Where the rows of a layer go.
struct Routed {
    routes: Vec<RowRoute>,
    /// Logits of the shared expert's gate, one a row.
    gates: Vec<f32>,
}

/// One step on its way through a slice.
pub struct Run {
    step: Step,
    spans: Vec<Span>,
    /// Cosines and sines of every row's position.
    angles: Vec<f32>,
    x: Vec<f32>,
    state: State,
    parts: Vec<Partials>,
}

impl Run {
    pub(crate) fn begin(slice: &mut Slice, step: Step, input: Input) -> Result<Self, EngineError> {
        let rows = step.tokens.len();
        let x = match (input, &slice.weights.embedding) {
            (Input::Tokens, Some(embedding)) => {
                head::embed(&slice.weights, embedding, &step.tokens)?
            }
            (Input::Tokens, None) => return Err(EngineError::NotHeld("embedding")),
            (Input::Rows(_), Some(_)) => return Err(EngineError::NotHeld("stage before it")),
            (Input::Rows(x), None) => x,
        };
        if x.len() != rows * slice.weights.hidden {
            return Err(EngineError::Step {
                what: "values of all rows",
                got: x.len() as u64,
                expected: (rows * slice.weights.hidden) as u64,
            });
        }
        let spans = slice.sequences.admit(&step, &slice.cache_spec)?;
        let positions = attention::positions(&spans);
        let mut angles = Vec::new();
        slice.weights.rope.fill(&positions, &mut angles);
        Ok(Self {
            step,
            spans,
            angles,
            x,
            state: State::Layer(0),
            parts: Vec::new(),
        })
    }

    /// The step that runs.
    #[must_use]
    pub fn step(&self) -> &Step {
        &self.step
    }

    /// Takes the step back, once the run is done.
    #[must_use]
    pub fn into_step(self) -> Step {
        self.step
    }

    /// Computes as far as it can.
    ///
    /// # Errors
    /// When a sequence of the step was closed meanwhile, partial sums do not fit, or the run was done before.
    pub fn poll(&mut self, slice: &mut Slice) -> Result<Poll, EngineError> {
        loop {
            match std::mem::replace(&mut self.state, State::Done) {
                State::Layer(index) if index < slice.weights.layers.len() => {
                    self.mix(slice, index)?;
                    if let Some(request) = self.feed_forward(slice, index)? {
                        return Ok(Poll::NeedExperts(request));
                    }
                }
                State::Layer(_) => return self.finish(slice),
                State::Own(index, routed) => {
                    let shared = self.own(slice, index, &routed)?;
                    self.state = State::Met(index, routed.routes, shared);
                }
                State::Met(index, routes, shared) => {
                    if !self.all_met(slice, &routes) {
                        self.state = State::Met(index, routes, shared);
                        return Ok(Poll::Waiting);
                    }
                    let parts = std::mem::take(&mut self.parts);
                    let w = &slice.weights;
                    let layer = w
                        .first_layer
                        .saturating_add(u32::try_from(index).unwrap_or(u32::MAX));
                    let routed = moe::combine(layer, w.experts, &routes, &parts, w.hidden)?;
                    self.add(w, routed, &shared);
                    self.state = State::Layer(index + 1);
                }
                State::Done => return Err(EngineError::Turn("done already")),
            }
        }
    }

    /// Brings partial sums of one owner.
    ///
    /// # Errors
    /// When the run asked for none.
    pub fn provide(&mut self, partials: Partials) -> Result<(), EngineError> {
        match self.state {
            State::Own(..) | State::Met(..) => {
                self.parts.push(partials);
                Ok(())
            }
            _ => Err(EngineError::Turn("not waiting for partial sums")),
        }
    }

    /// Norm of all rows into `scratch.normed`; no quantised form of them exists yet.
    fn normalise(&self, weights: &Weights, norm: &[f32], scratch: &mut Scratch) {
        let out = sized(&mut scratch.normed, self.x.len());
        rows::norm(weights, &self.x, norm, out);
        scratch.acts.clear();
    }

    /// Attention or delta net of one layer, added to the residual stream, and the norm of the rows before the
    /// feed-forward, into `scratch.normed`.
    fn mix(&mut self, slice: &mut Slice, index: usize) -> Result<(), EngineError> {
        let Slice {
            weights,
            caches,
            scratch,
            ..
        } = slice;
        let (Some(layer), Some(cache)) = (weights.layers.get(index), caches.get_mut(index)) else {
            return Err(EngineError::NotHeld("such layer"));
        };
        self.normalise(weights, &layer.attn_norm, scratch);
        let normed = std::mem::take(&mut scratch.normed);
        match (&layer.mixer, cache) {
            (MixerWeights::Attention(w), LayerCache::Attention(cache)) => {
                attention::attention(
                    weights,
                    w,
                    (&self.spans, &self.angles),
                    &normed,
                    cache,
                    scratch,
                )?;
            }
            (MixerWeights::Delta(w), LayerCache::Delta(cache)) => {
                delta::delta_net(weights, w, &self.spans, &normed, cache, scratch)?;
            }
            _ => return Err(EngineError::NotHeld("cache of this kind")),
        }
        scratch.normed = normed;
        let out = sized(&mut scratch.normed, self.x.len());
        rows::add_and_norm(weights, &mut self.x, &scratch.mixed, &layer.ffn_norm, out);
        scratch.acts.clear();
        Ok(())
    }

    /// The feed-forward of one layer, or the request for the groups that are missing here.
    fn feed_forward(
        &mut self,
        slice: &mut Slice,
        index: usize,
    ) -> Result<Option<ExpertRequest>, EngineError> {
        let Slice {
            weights, scratch, ..
        } = slice;
        let layer = weights
            .layers
            .get(index)
            .ok_or(EngineError::NotHeld("such layer"))?;
        let moe = match &layer.ffn {
            FeedForward::Moe(moe) => moe,
            FeedForward::Dense(ffn) => {
                let Scratch {
                    normed,
                    acts,
                    ffn: buffers,
                    mixed,
                    ..
                } = scratch;
                dense::feed_forward(weights, ffn, normed, acts, buffers, mixed)?;
                rows::add(&weights.exec, &mut self.x, &scratch.mixed);
                self.state = State::Layer(index + 1);
                return Ok(None);
            }
        };
        let routed = route(weights, moe, scratch)?;
        let missing = missing(weights.experts, held(weights, index), &routed.routes);
        if !missing.is_empty() {
            let request = request(weights, moe, index, missing, &routed.routes, scratch);
            self.state = State::Own(index, routed);
            return Ok(Some(request));
        }
        moe::quantise(weights, moe, &scratch.normed, &mut scratch.acts);
        let Scratch {
            acts, moe: buffers, ..
        } = scratch;
        let routes = (routed.routes.as_slice(), routed.gates.as_slice());
        moe::whole_layer(weights, moe, routes, acts, buffers, &mut self.x)?;
        self.state = State::Layer(index + 1);
        Ok(None)
    }

    /// The groups that are here, whose partial sums are kept, and the shared expert scaled by its gate:
    /// `[rows, hidden]`.
    fn own(
        &mut self,
        slice: &mut Slice,
        index: usize,
        routed: &Routed,
    ) -> Result<Vec<f32>, EngineError> {
        let Slice {
            weights, scratch, ..
        } = slice;
        let layer = weights
            .layers
            .get(index)
            .ok_or(EngineError::NotHeld("such layer"))?;
        let FeedForward::Moe(moe) = &layer.ffn else {
            return Err(EngineError::NotHeld("experts in this layer"));
        };
        // Another run may have used the buffers since the rows were sent out.
        self.normalise(weights, &layer.ffn_norm, scratch);
        moe::quantise(weights, moe, &scratch.normed, &mut scratch.acts);
        let Scratch {
            acts, moe: buffers, ..
        } = scratch;
        let routes = (routed.routes.as_slice(), routed.gates.as_slice());
        let held = held(weights, index);
        let (own, shared) = moe::own_part(weights, moe, held, routes, acts, buffers)?;
        self.parts.push(own);
        Ok(shared)
    }

    fn all_met(&self, slice: &Slice, routes: &[RowRoute]) -> bool {
        let experts = slice.weights.experts;
        let groups = proto::facts::expert_groups(experts);
        let mut met = vec![GroupSet::none(); routes.len()];
        for (row, node) in self.parts.iter().flat_map(|p| &p.entries) {
            let (first, size) = crate::groups::span(*node, groups);
            if let Some(set) = met.get_mut(*row as usize) {
                *set = (first..first.saturating_add(size)).fold(*set, GroupSet::with);
            }
        }
        routes.iter().zip(met).all(|(route, met)| {
            let group = |e: u32| crate::groups::group_of(e, experts);
            route.experts.iter().all(|(e, _)| met.contains(group(*e)))
        })
    }

    /// Residual: x + (routed + shared).
    fn add(&mut self, weights: &Weights, mut sum: Vec<f32>, shared: &[f32]) {
        if !shared.is_empty() {
            rows::add(&weights.exec, &mut sum, shared);
        }
        debug_assert_eq!(sum.len() % weights.hidden, 0);
        rows::add(&weights.exec, &mut self.x, &sum);
    }

    fn finish(&mut self, slice: &mut Slice) -> Result<Poll, EngineError> {
        let Slice {
            weights,
            scratch,
            sequences,
            ..
        } = slice;
        let x = std::mem::take(&mut self.x);
        match &weights.head {
            None => Ok(Poll::Rows(x)),
            Some(head) => {
                let of = (&self.step, self.spans.as_slice());
                let drawn = head::samples(weights, head, of, sequences, &x, &mut scratch.head)?;
                Ok(Poll::Samples(drawn))
            }
        }
    }
}

/// The expert groups of a layer that are here.
fn held(weights: &Weights, index: usize) -> GroupSet {
    let held = weights.groups.get(index).copied();
    held.unwrap_or(GroupSet::none())
}

/// The experts of every normed row in `scratch.normed`, ascending by id, and the gates of the shared expert.
fn route(
    weights: &Weights,
    moe: &MoeWeights,
    scratch: &mut Scratch,
) -> Result<Routed, EngineError> {
    let shape = weights.checkpoint.arch().moe.as_ref();
    let shape = shape.ok_or(EngineError::NotHeld("experts"))?;
    let (normed, acts) = (&scratch.normed, &mut scratch.acts);
    let (mut logits, gates) = match &moe.shared_router {
        Some(shared) => {
            let mut outs = [(&moe.router, Vec::new()), (shared, Vec::new())];
            dense::project(weights, normed, acts, &mut outs)?;
            let [(_, logits), (_, gates)] = outs;
            (logits, gates)
        }
        None => {
            let mut outs = [(&moe.router, Vec::new())];
            dense::project(weights, normed, acts, &mut outs)?;
            let [(_, logits)] = outs;
            (logits, Vec::new())
        }
    };
    let applied = if shape.renormalise {
        Applied::Renormalised
    } else {
        Applied::Raw
    };
    let mut routes = vec![RowRoute::default(); scratch.normed.len() / weights.hidden.max(1)];
    let exec = &weights.exec;
    let logits = Chunks::new(&mut logits, shape.experts.max(1));
    let rows = Chunks::new(&mut routes, 1);
    kernels::parallel_chunks2(&exec.pool, logits, rows, |_, logits, rows| {
        let mut experts = vec![(0, 0.0); shape.used];
        kernels::route(exec.isa, logits, applied, &mut experts);
        experts.sort_unstable_by_key(|(expert, _)| *expert);
        rows.iter_mut()
            .for_each(|row| row.experts.clone_from(&experts));
    });
    Ok(Routed { routes, gates })
}

fn missing(experts: u32, held: GroupSet, routes: &[RowRoute]) -> GroupSet {
    routes
        .iter()
        .flat_map(|route| &route.experts)
        .map(|(expert, _)| crate::groups::group_of(*expert, experts))
        .filter(|group| !held.contains(*group))
        .fold(GroupSet::none(), GroupSet::with)
}

fn request(
    weights: &Weights,
    moe: &MoeWeights,
    index: usize,
    missing: GroupSet,
    routes: &[RowRoute],
    scratch: &mut Scratch,
) -> ExpertRequest {
    let mut acts = Acts::new();
    acts.quantize(
        weights.exec.isa,
        moe.travel,
        &scratch.normed,
        weights.hidden,
    );
    ExpertRequest {
        layer: weights
            .first_layer
            .saturating_add(u32::try_from(index).unwrap_or(u32::MAX)),
        missing,
        acts,
        routes: routes.to_vec(),
    }
}

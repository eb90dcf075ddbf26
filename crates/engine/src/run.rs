//! One step on its way through a slice.
//!
//! A run computes until it is done or needs expert groups or head blocks that live elsewhere. While those are computed
//! there, the next poll computes what is here; after that the run waits.

use kernels::{Acts, Chunks, Weights as Applied};
use proto::SequenceId;
use proto::mask::TokenMask;
use proto::step::{Pooled, Sampled, Step};

use crate::exchange::{ExpertRequest, Meeting, Partials, Routes};
use crate::head::{Drawing, Drawn, HeadPart, HeadRequest};
use crate::masks::{Known, Masks};
use crate::rows;
use crate::scratch::sized;
use crate::sequences::Span;
use crate::slice::{LayerCache, Scratch, Slice, Weights};
use crate::weights::{FeedForward, MixerWeights, MoeWeights};
use crate::{EngineError, GroupSet, attention, delta, dense, head, moe, pool};

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
    /// Send this to the owners of the missing head blocks, then poll again; answers come by [`Run::provide_head`].
    NeedHead(HeadRequest),
    /// Nothing more to compute until more partial sums, logits or token masks are provided.
    Waiting,
    /// Done, on a slice without head: `[rows, hidden]`, the residual stream after the last layer.
    Rows(Vec<f32>),
    /// Done, on a slice with head: one entry per row that wanted logits, and one per pooled prompt that ended.
    Samples(Vec<Sampled>, Vec<Pooled>),
}

enum State {
    /// The mixer of this layer (counted within the slice) comes next.
    Layer(usize),
    /// Rows were sent out; own groups and the shared expert come next. Logits of the shared expert's gate, one a row.
    Own(usize, Box<Meeting>, Vec<f32>),
    /// Own work is done; partial sums from elsewhere are missing. The shared expert's rows.
    Met(usize, Box<Meeting>, Vec<f32>),
    /// All layers are done; logits come next.
    Head(Box<Drawing>),
    Done,
}

/// Where the rows of a layer go.
struct Routed {
    routes: Routes,
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
    /// Of prompts that ended in this step, once all layers are done.
    vectors: Vec<Pooled>,
    masks: Masks,
    state: State,
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
            masks: Masks::of(&step),
            step,
            spans,
            angles,
            x,
            vectors: Vec::new(),
            state: State::Layer(0),
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
                State::Layer(_) => match &slice.weights.head {
                    Some(head) if head.norm.is_some() => {
                        self.vectors = pool::vectors(slice, &self.step, &self.spans, &self.x)?;
                        let scratch = &mut slice.scratch.head;
                        let drawing = Drawing::new(&self.step, &self.spans, scratch);
                        self.state = State::Head(Box::new(drawing));
                    }
                    _ => return Ok(Poll::Rows(std::mem::take(&mut self.x))),
                },
                State::Own(index, mut meeting, gates) => {
                    let shared = self.own(slice, index, (&mut meeting, &gates))?;
                    self.state = State::Met(index, meeting, shared);
                }
                State::Met(index, mut meeting, shared) => {
                    if !meeting.is_complete() {
                        self.state = State::Met(index, meeting, shared);
                        return Ok(Poll::Waiting);
                    }
                    meeting.add_to(&slice.weights, &shared, &mut self.x);
                    self.state = State::Layer(index + 1);
                }
                State::Head(drawing) => return self.draw(slice, drawing),
                State::Done => return Err(EngineError::Turn("done already")),
            }
        }
    }

    /// Brings partial sums of one owner, their rows numbered as in the step.
    ///
    /// # Errors
    /// When the run asked for none, or these are not what it asked for.
    pub fn provide(&mut self, partials: Partials) -> Result<(), EngineError> {
        match &mut self.state {
            State::Own(_, meeting, _) | State::Met(_, meeting, _) => meeting.take(partials),
            _ => Err(EngineError::Turn("not waiting for partial sums")),
        }
    }

    /// Brings the logits of one owner of head blocks.
    ///
    /// # Errors
    /// When the run asked for none, or these are not what it asked for.
    pub fn provide_head(&mut self, slice: &Slice, part: &HeadPart) -> Result<(), EngineError> {
        match (&mut self.state, &slice.weights.head) {
            (State::Head(drawing), Some(head)) => drawing.take(part, head),
            _ => Err(EngineError::Turn("not waiting for logits")),
        }
    }

    /// Brings the mask under which the token of a sequence is drawn; `None` where the token is no longer wanted. It may
    /// come at any time before the run is done, and again.
    ///
    /// # Errors
    /// When the step draws no such token under a mask, or the mask is for a head of another size.
    pub fn provide_mask(
        &mut self,
        slice: &Slice,
        token: (SequenceId, u32),
        mask: Option<TokenMask>,
    ) -> Result<(), EngineError> {
        let head = slice.weights.head.as_ref();
        let head = head.ok_or(EngineError::NotHeld("head"))?;
        let vocab = u32::try_from(head.vocab).unwrap_or(u32::MAX);
        self.masks.take(token, mask, vocab)
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
        let missing = missing(weights.experts, moe.experts.groups, &routed.routes);
        if !missing.is_empty() {
            let request = request(weights, moe, index, missing, &routed.routes, scratch);
            let meeting = Meeting::new(request.layer, weights, routed.routes);
            self.state = State::Own(index, Box::new(meeting), routed.gates);
            return Ok(Some(request));
        }
        moe::quantise(weights, moe, &scratch.normed, &mut scratch.acts);
        let Scratch {
            acts, moe: buffers, ..
        } = scratch;
        let routes = (&routed.routes, routed.gates.as_slice());
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
        (meeting, gates): (&mut Meeting, &[f32]),
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
        let routes = (&meeting.routes, gates);
        let (own, shared) = moe::own_part(weights, moe, routes, acts, buffers)?;
        meeting.take(own)?;
        Ok(shared)
    }

    fn draw(&mut self, slice: &mut Slice, mut drawing: Box<Drawing>) -> Result<Poll, EngineError> {
        let Slice {
            weights,
            scratch,
            sequences,
            ..
        } = slice;
        let head = weights.head.as_ref().ok_or(EngineError::NotHeld("head"))?;
        let known = Known {
            spans: &self.spans,
            sequences,
            masks: &self.masks,
        };
        let drawn = drawing.poll((weights, head), known, &self.x, &mut scratch.head)?;
        Ok(match drawn {
            Drawn::Samples(samples) => {
                let vectors = std::mem::take(&mut self.vectors);
                return Ok(Poll::Samples(samples, vectors));
            }
            Drawn::Waiting => {
                self.state = State::Head(drawing);
                Poll::Waiting
            }
            Drawn::Need(request) => {
                self.state = State::Head(drawing);
                Poll::NeedHead(request)
            }
        })
    }
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
    let (rows, used) = (
        scratch.normed.len() / weights.hidden.max(1),
        shape.used.max(1),
    );
    let mut chosen = vec![(0, 0.0); rows * used];
    let exec = &weights.exec;
    let logits = Chunks::new(&mut logits, shape.experts.max(1));
    let of_rows = Chunks::new(&mut chosen, used);
    kernels::parallel_chunks2(&exec.pool, logits, of_rows, |_, logits, experts| {
        kernels::route(exec.isa, logits, applied, experts);
        experts.sort_unstable_by_key(|(expert, _)| *expert);
    });
    Ok(Routed {
        routes: Routes::even(chosen, used),
        gates,
    })
}

fn missing(experts: u32, held: GroupSet, routes: &Routes) -> GroupSet {
    routes
        .all()
        .iter()
        .map(|(expert, _)| crate::groups::group_of(*expert, experts))
        .filter(|group| !held.contains(*group))
        .fold(GroupSet::none(), GroupSet::with)
}

fn request(
    weights: &Weights,
    moe: &MoeWeights,
    index: usize,
    missing: GroupSet,
    routes: &Routes,
    scratch: &mut Scratch,
) -> ExpertRequest {
    let mut acts = Acts::new();
    acts.quantize(
        weights.exec.isa,
        moe.experts.travel,
        &scratch.normed,
        weights.hidden,
    );
    ExpertRequest {
        layer: weights
            .first_layer
            .saturating_add(u32::try_from(index).unwrap_or(u32::MAX)),
        missing,
        experts: weights.experts,
        acts,
        routes: routes.clone(),
    }
}

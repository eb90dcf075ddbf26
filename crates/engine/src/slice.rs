//! A part of a model, loaded, with the state of its sequences.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernels::Acts;
use model::{Checkpoint, FileRange, Mixer, Role, merge_ranges};
use proto::SequenceId;
use proto::facts::expert_groups;
use proto::step::Step;

use crate::attention::AttentionCache;
use crate::delta::{DeltaCache, DeltaScratch};
use crate::dense::FfnScratch;
use crate::exchange::{Partials, Routes};
use crate::groups::GroupSet;
use crate::head::{self, HeadScratch, HeadWeights};
use crate::moe::MoeScratch;
use crate::run::{Input, Run};
use crate::scratch::ActSet;
use crate::sequences::Sequences;
use crate::spec::{CacheSpec, Exec, SliceSpec};
use crate::weights::{Experts, FeedForward, LayerWeights, Weight};
use crate::{EngineError, attention, load, moe};

/// What never changes while a slice runs.
pub struct Weights {
    /// The mapped files.
    pub checkpoint: Arc<Checkpoint>,
    /// Threads and instruction set.
    pub exec: Exec,
    /// Values of a row.
    pub hidden: usize,
    /// Experts of a layer, 0 for dense models.
    pub experts: u32,
    /// First layer of the slice.
    pub first_layer: u32,
    /// The layers.
    pub layers: Vec<LayerWeights>,
    /// Expert groups of layers whose trunk is elsewhere.
    pub foreign: BTreeMap<u32, Experts>,
    /// Token rows, where the slice takes tokens.
    pub embedding: Option<Weight>,
    /// The head or blocks of it; the slice gives samples where its norm is here.
    pub head: Option<HeadWeights>,
    /// Cosines and sines by position.
    pub rope: kernels::RopeTable,
}

/// The state of one layer for all sequences.
pub enum LayerCache {
    /// Keys and values.
    Attention(AttentionCache),
    /// Recurrent states.
    Delta(DeltaCache),
}

/// Buffers that live from step to step.
#[derive(Default)]
pub struct Scratch {
    pub acts: ActSet,
    pub out_acts: ActSet,
    pub attention: attention::AttentionScratch,
    pub delta: DeltaScratch,
    pub ffn: FfnScratch,
    pub moe: MoeScratch,
    pub head: HeadScratch,
    pub normed: Vec<f32>,
    pub mixed: Vec<f32>,
}

/// A loaded part of a model.
pub struct Slice {
    pub(crate) weights: Weights,
    pub(crate) caches: Vec<LayerCache>,
    pub(crate) cache_spec: CacheSpec,
    pub(crate) sequences: Sequences,
    pub(crate) scratch: Scratch,
    footprint: Footprint,
}

/// Bytes that a slice takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// Weights in the mapped files.
    pub mapped_bytes: u64,
    /// Small vectors copied into memory.
    pub vector_bytes: u64,
    /// Attention pages and recurrent states when all are used.
    pub cache_bytes: u64,
}

fn check(checkpoint: &Checkpoint, spec: &SliceSpec) -> Result<(), EngineError> {
    let have = checkpoint.arch().layers.len() as u64;
    let error = |what, got: u64, have| Err(EngineError::Slice { what, got, have });
    if u64::from(spec.layers.end) > have || spec.layers.start > spec.layers.end {
        return error("layers up to", spec.layers.end.into(), have);
    }
    let layers = spec.layers.len() as u64;
    if !spec.groups.is_empty() && spec.groups.len() as u64 != layers {
        return error("expert groups for layers", spec.groups.len() as u64, layers);
    }
    if spec.embedding && spec.layers.start != 0 {
        return error("an embedding before layer", spec.layers.start.into(), 0);
    }
    if spec.head && u64::from(spec.layers.end) != have {
        return error("a head after layer", spec.layers.end.into(), have);
    }
    if let Some(own) = spec
        .foreign
        .keys()
        .find(|layer| spec.layers.contains(layer))
    {
        return error(
            "groups from elsewhere for its own layer",
            (*own).into(),
            have,
        );
    }
    let rows = u32::try_from(checkpoint.arch().vocab).unwrap_or(u32::MAX);
    let blocks = expert_groups(rows);
    let held = spec.head_blocks.unwrap_or_default();
    if let Some(block) = held.without(GroupSet::all(blocks)).iter().next() {
        return error("head block", block.into(), blocks.into());
    }
    Ok(())
}

impl Slice {
    /// Finds and maps the weights of a slice and makes its caches. Nothing is read yet: see [`Slice::prefault`].
    ///
    /// # Errors
    /// When the model has no such part, or the caches cannot be addressed.
    pub fn load(
        checkpoint: Arc<Checkpoint>,
        spec: &SliceSpec,
        cache: CacheSpec,
        exec: Exec,
    ) -> Result<Self, EngineError> {
        check(&checkpoint, spec)?;
        let arch = checkpoint.arch();
        let experts = arch.moe.as_ref().map_or(0, |m| m.experts);
        let experts = u32::try_from(experts).unwrap_or(u32::MAX);
        let all = GroupSet::all(expert_groups(experts));
        let mut layers = Vec::with_capacity(spec.layers.len());
        let mut caches = Vec::with_capacity(spec.layers.len());
        for (i, index) in spec.layers.clone().enumerate() {
            let held = spec.groups.get(i).copied().unwrap_or(all);
            layers.push(load::layer(&checkpoint, index, held)?);
            caches.push(layer_cache(&checkpoint, index, &cache)?);
        }
        let mut foreign = BTreeMap::new();
        for (layer, held) in spec.foreign.iter().filter(|(_, held)| !held.is_empty()) {
            foreign.insert(*layer, load::experts(&checkpoint, *layer, *held)?);
        }
        let embedding = if spec.embedding {
            Some(Weight::of(&checkpoint.matrix(Role::Embedding)?))
        } else {
            None
        };
        let every = if spec.head {
            GroupSet::all(expert_groups(u32::try_from(arch.vocab).unwrap_or(u32::MAX)))
        } else {
            GroupSet::none()
        };
        let blocks = spec.head_blocks.unwrap_or(every);
        let head = (spec.head || !blocks.is_empty())
            .then(|| HeadWeights::load(&checkpoint, spec.head, blocks))
            .transpose()?;
        let weights = Weights {
            exec,
            hidden: arch.hidden,
            experts,
            first_layer: spec.layers.start,
            layers,
            foreign,
            embedding,
            head,
            rope: kernels::RopeTable::new(&arch.rope.inv_freq),
            checkpoint: Arc::clone(&checkpoint),
        };
        let mut slice = Self {
            weights,
            caches,
            cache_spec: cache,
            sequences: Sequences::default(),
            scratch: Scratch::default(),
            footprint: Footprint::default(),
        };
        slice.footprint = slice.measure();
        Ok(slice)
    }

    /// Where the weights of the slice lie in the model's files, merged.
    #[must_use]
    pub fn places(&self) -> Vec<FileRange> {
        let w = &self.weights;
        let places = w
            .layers
            .iter()
            .flat_map(LayerWeights::matrices)
            .chain(w.embedding.iter())
            .chain(
                w.head
                    .iter()
                    .flat_map(|h| h.pieces.iter().map(|(_, weight)| weight)),
            )
            .chain(w.foreign.values().flat_map(Experts::matrices))
            .map(Weight::place)
            .collect();
        merge_ranges(places)
    }

    fn measure(&self) -> Footprint {
        let w = &self.weights;
        let head = w.head.as_ref().map_or(0, HeadWeights::vector_bytes);
        Footprint {
            mapped_bytes: self.places().iter().map(|p| p.len).sum(),
            vector_bytes: w.layers.iter().map(LayerWeights::vector_bytes).sum::<u64>() + head,
            cache_bytes: self
                .caches
                .iter()
                .map(|c| match c {
                    LayerCache::Attention(cache) => cache.bytes(),
                    LayerCache::Delta(cache) => cache.bytes(),
                })
                .sum(),
        }
    }

    /// Bytes that the slice takes.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        self.footprint
    }

    /// Values of a row of the residual stream.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.weights.hidden
    }

    /// Expert groups of a layer with experts; 0 for a dense model.
    #[must_use]
    pub fn groups(&self) -> u32 {
        expert_groups(self.weights.experts)
    }

    /// Sequences that are open here.
    #[must_use]
    pub fn open_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Raw logits of the rows that were sampled last, `[rows, vocab]`, at most 16 rows: for tests and tools.
    #[must_use]
    pub fn logits(&self) -> &[f32] {
        self.scratch.head.logits()
    }

    /// Reads every byte of the slice's weights once, so that no later step waits for the disk.
    /// `progress` is told the bytes read since the last call.
    pub fn prefault(&self, progress: &mut dyn FnMut(u64)) {
        self.weights.checkpoint.prefault(&self.places(), progress);
    }

    /// Checks that the model files are still those that were opened.
    ///
    /// # Errors
    /// When a file was changed, truncated or replaced.
    pub fn unchanged(&self) -> Result<(), EngineError> {
        Ok(self.weights.checkpoint.unchanged()?)
    }

    /// Starts a step: checks it whole, then applies what it says about its sequences.
    ///
    /// # Errors
    /// When the step does not fit the slice or its sequences; nothing has changed then.
    pub fn begin(&mut self, step: Step, input: Input) -> Result<Run, EngineError> {
        Run::begin(self, step, input)
    }

    /// Forgets a sequence. Its pages and slot are the caller's again.
    pub fn close(&mut self, sequence: SequenceId) {
        self.sequences.close(sequence);
    }

    /// Answers a request for expert groups that live in this slice: the other side of [`crate::ExpertRequest`]. `acts` has the
    /// rows, `routes` one entry for each, which may name only experts that are here.
    ///
    /// # Errors
    /// When the layer or its experts are not here, or the rows have another shape.
    pub fn experts(
        &mut self,
        layer: u32,
        acts: Acts,
        routes: &Routes,
    ) -> Result<Partials, EngineError> {
        let held = held(&self.weights, layer)?;
        let wrong = |what, got: usize, expected: usize| EngineError::Step {
            what,
            got: got as u64,
            expected: expected as u64,
        };
        if acts.cols() != self.weights.hidden {
            return Err(wrong("columns", acts.cols(), self.weights.hidden));
        }
        if acts.rows() != routes.len() {
            return Err(wrong("routes", routes.len(), acts.rows()));
        }
        if acts.format() != held.travel {
            return Err(EngineError::NotHeld(
                "experts that take this activation format",
            ));
        }
        let here = |expert: u32| held.by_id.get(expert as usize).is_some_and(Option::is_some);
        if routes.all().iter().any(|(expert, _)| !here(*expert)) {
            return Err(EngineError::NotHeld("expert that a row is sent to"));
        }
        let acts = ActSet::adopt(acts, &self.weights.exec, held);
        let scratch = &mut self.scratch.moe;
        moe::partials(&self.weights, held, routes, &acts, scratch)
    }

    /// The head blocks that are here, if any.
    #[must_use]
    pub fn head_blocks(&self) -> GroupSet {
        let head = self.weights.head.as_ref();
        head.map_or(GroupSet::none(), |head| head.blocks)
    }

    /// Answers a request for head blocks that live in this slice: the other side of [`crate::HeadRequest`]. Gives for each row
    /// the logits of these blocks, ascending.
    ///
    /// # Errors
    /// When no block is here, or the rows have another shape.
    pub fn head_rows(&mut self, acts: &Acts) -> Result<Vec<f32>, EngineError> {
        let head = self.weights.head.as_ref();
        let head = head.ok_or(EngineError::NotHeld("head block"))?;
        head::answer(&self.weights, head, acts, &mut self.scratch.head)
    }
}

/// Expert groups of a layer that are here, with or without the layer.
fn held(weights: &Weights, layer: u32) -> Result<&Experts, EngineError> {
    if let Some(experts) = weights.foreign.get(&layer) {
        return Ok(experts);
    }
    let own = layer
        .checked_sub(weights.first_layer)
        .and_then(|at| weights.layers.get(at as usize))
        .ok_or(EngineError::NotHeld("such layer"))?;
    match &own.ffn {
        FeedForward::Moe(moe) => Ok(&moe.experts),
        FeedForward::Dense(_) => Err(EngineError::NotHeld("experts in this layer")),
    }
}

fn layer_cache(
    checkpoint: &Checkpoint,
    index: u32,
    cache: &CacheSpec,
) -> Result<LayerCache, EngineError> {
    let arch = checkpoint.arch();
    let kind = arch
        .layers
        .get(index as usize)
        .ok_or(EngineError::NotHeld("such layer"))?;
    Ok(match kind.mixer {
        Mixer::Attention => LayerCache::Attention(AttentionCache::new(&arch.attention, cache)?),
        Mixer::DeltaNet => {
            let shape = arch
                .delta
                .as_ref()
                .ok_or(EngineError::NotHeld("delta net shape"))?;
            LayerCache::Delta(DeltaCache::new(shape, cache)?)
        }
    })
}

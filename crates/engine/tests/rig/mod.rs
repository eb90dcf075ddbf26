//! A rig that drives slices by hand: a chain of stages in one process, with owners of expert groups beside them.
#![allow(dead_code, reason = "each test file uses its own part of the rig")]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "test code"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{
    CacheSpec, Exec, ExpertRequest, GroupSet, HeadPart, HeadRequest, Input, KvType, Poll, Run,
    Slice, SliceSpec,
};
use kernels::{Acts, Isa, Pool};
use model::Checkpoint;
use proto::step::{Logits, Open, Pooled, Sampled, Sampling, Segment, Step, StepClass};
use proto::{Epoch, SequenceId, StepId};

pub const PAGES: u32 = 64;

/// The repository, from whichever crate this file is built into.
fn repository() -> PathBuf {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let root = above
        .into_iter()
        .find(|dir| dir.join("Cargo.lock").exists());
    root.unwrap().to_owned()
}

pub fn data(path: &str) -> PathBuf {
    repository().join("tests/data").join(path)
}

pub fn bundled() -> Arc<Checkpoint> {
    let path = repository().join("models/hearth-tiny.gguf");
    Arc::new(Checkpoint::open(&path).unwrap())
}

pub fn open(path: &str) -> Arc<Checkpoint> {
    Arc::new(Checkpoint::open(&data(path)).unwrap())
}

pub fn exec(isa: Isa, threads: usize) -> Exec {
    Exec {
        pool: Arc::new(Pool::new(threads)),
        isa,
    }
}

pub fn cache(kv: KvType) -> CacheSpec {
    CacheSpec {
        kv,
        pages: PAGES,
        slots: 8,
    }
}

/// Expert groups of a model's layers.
pub fn groups_of(checkpoint: &Checkpoint) -> u32 {
    let moe = checkpoint.arch().moe.as_ref();
    proto::facts::expert_groups(moe.map_or(0, |m| m.experts as u32))
}

/// Nodes: the stages in order, then owners of groups and head blocks alone. A stage may own for others too.
pub struct Chain {
    pub nodes: Vec<Slice>,
    specs: Vec<SliceSpec>,
    stages: usize,
    next_step: u64,
    next_page: u32,
    /// Rows that one owner is asked for at once.
    pub frame_rows: usize,
    /// Vectors that the newest step gave.
    pub vectors: Vec<Pooled>,
}

/// A sequence as its driver sees it.
pub struct Seq {
    pub id: SequenceId,
    pub tokens: Vec<u32>,
    pub len: u32,
    pub pages: u32,
    pub opened: bool,
    pub pending: u32,
    pub sampling: Sampling,
    pub prompt_len: u32,
}

impl Seq {
    pub fn new(id: u64, prompt: &[u32]) -> Self {
        let sampling = Sampling {
            logprobs: Some(1024),
            ..Sampling::default()
        };
        Self {
            id: SequenceId(id),
            tokens: prompt.to_vec(),
            len: 0,
            pages: 0,
            opened: false,
            pending: 0,
            sampling,
            prompt_len: prompt.len() as u32,
        }
    }
}

/// One segment to be run: which sequence, how many of its next tokens, and how.
pub struct Want<'a> {
    pub seq: &'a mut Seq,
    pub rows: u32,
    pub logits: Logits,
    pub commit: u32,
    pub provisional: u32,
}

impl<'a> Want<'a> {
    pub fn rows(seq: &'a mut Seq, rows: u32) -> Self {
        Self {
            seq,
            rows,
            logits: Logits::Last,
            commit: 0,
            provisional: 0,
        }
    }
}

impl Chain {
    pub fn whole(checkpoint: &Arc<Checkpoint>, exec: &Exec, kv: KvType) -> Self {
        Self::cut(checkpoint, exec, kv, &[])
    }

    /// Stages cut before each of the given layers.
    pub fn cut(checkpoint: &Arc<Checkpoint>, exec: &Exec, kv: KvType, cuts: &[u32]) -> Self {
        Self::placed(checkpoint, exec, kv, cuts, &[])
    }

    /// As `cut`, with the expert groups in `away` of every layer on an owner of their own each.
    pub fn placed(
        checkpoint: &Arc<Checkpoint>,
        exec: &Exec,
        kv: KvType,
        cuts: &[u32],
        away: &[GroupSet],
    ) -> Self {
        let layers = checkpoint.arch().layers.len() as u32;
        let groups = groups_of(checkpoint);
        let taken = away.iter().fold(GroupSet::none(), |all, set| all.and(*set));
        let mut edges = vec![0];
        edges.extend_from_slice(cuts);
        edges.push(layers);
        let stages = edges.windows(2).map(|edge| SliceSpec {
            embedding: edge[0] == 0,
            layers: edge[0]..edge[1],
            groups: vec![taken.missing(groups); (edge[1] - edge[0]) as usize],
            head: edge[1] == layers,
            ..SliceSpec::default()
        });
        let owners = away.iter().map(|set| SliceSpec {
            foreign: (0..layers).map(|layer| (layer, *set)).collect(),
            ..SliceSpec::default()
        });
        let specs = stages.chain(owners).collect();
        Self::of(checkpoint, exec, kv, specs)
    }

    /// Nodes as specified, the stages first and in order.
    pub fn of(
        checkpoint: &Arc<Checkpoint>,
        exec: &Exec,
        kv: KvType,
        specs: Vec<SliceSpec>,
    ) -> Self {
        let load = |spec: &SliceSpec| {
            Slice::load(Arc::clone(checkpoint), spec, cache(kv), exec.clone()).unwrap()
        };
        Self {
            nodes: specs.iter().map(load).collect(),
            stages: specs.iter().filter(|spec| !spec.layers.is_empty()).count(),
            specs,
            next_step: 0,
            next_page: 0,
            frame_rows: 5,
            vectors: Vec::new(),
        }
    }

    pub fn specs(&self) -> &[SliceSpec] {
        &self.specs
    }

    pub fn step(&mut self, wants: &mut [Want<'_>]) -> Vec<Sampled> {
        let mut segments = Vec::new();
        let mut tokens = Vec::new();
        for want in wants.iter_mut() {
            let seq = &mut *want.seq;
            seq.len += want.commit;
            let needed = (seq.len + want.rows).div_ceil(64);
            // Pages are handed out backwards, so that a page table is never the identity by accident.
            let pages = (seq.pages..needed)
                .map(|_| {
                    self.next_page += 1;
                    PAGES - self.next_page
                })
                .collect();
            seq.pages = needed.max(seq.pages);
            segments.push(Segment {
                sequence: seq.id,
                slot: (seq.id.0 % 8) as u32,
                start: seq.len,
                rows: want.rows,
                logits: want.logits,
                commit: want.commit,
                provisional: want.provisional,
                pages,
                open: (!seq.opened).then(|| Open {
                    prompt_len: seq.prompt_len,
                    sampling: seq.sampling.clone(),
                }),
            });
            seq.opened = true;
            tokens.extend(&seq.tokens[seq.len as usize..(seq.len + want.rows) as usize]);
            seq.len += want.rows - want.provisional;
            seq.pending = want.provisional;
        }
        self.next_step += 1;
        let step = Step {
            epoch: Epoch(1),
            id: StepId(self.next_step),
            class: StepClass::Decode,
            segments,
            tokens,
        };
        self.run(&step)
    }

    pub fn run(&mut self, step: &Step) -> Vec<Sampled> {
        self.vectors.clear();
        let mut input = Input::Tokens;
        for stage in 0..self.stages {
            let mut run = self.nodes[stage]
                .begin(step.clone(), input.clone())
                .unwrap();
            loop {
                match run.poll(&mut self.nodes[stage]).unwrap() {
                    Poll::NeedExperts(request) => self.ask_experts(&mut run, &request),
                    Poll::NeedHead(request) => self.ask_head(&mut run, stage, &request),
                    Poll::Waiting => panic!("every owner answered"),
                    Poll::Rows(rows) => {
                        input = Input::Rows(rows);
                        break;
                    }
                    Poll::Samples(samples, vectors) => {
                        self.vectors = vectors;
                        return samples;
                    }
                }
            }
        }
        panic!("the last stage has no head")
    }

    fn ask_experts(&mut self, run: &mut Run, request: &ExpertRequest) {
        for (node, spec) in self.nodes.iter_mut().zip(&self.specs) {
            let held = spec
                .foreign
                .get(&request.layer)
                .copied()
                .unwrap_or_default();
            let mut from = 0;
            while let Some((part, next)) = request.part(held, from, self.frame_rows) {
                let rows = part.rows.len();
                let acts = Acts::from_bytes(part.format, rows, part.cols, &part.bytes).unwrap();
                let mut sums = node.experts(request.layer, acts, &part.routes).unwrap();
                sums.renumber(&part.rows).unwrap();
                run.provide(sums).unwrap();
                from = next;
            }
        }
    }

    fn ask_head(&mut self, run: &mut Run, stage: usize, request: &HeadRequest) {
        for at in (0..self.nodes.len()).filter(|at| *at != stage) {
            let blocks = self.nodes[at].head_blocks();
            if blocks.is_empty() {
                continue;
            }
            let part = HeadPart {
                first: request.first,
                blocks,
                values: self.nodes[at].head_rows(&request.acts).unwrap(),
            };
            run.provide_head(&self.nodes[stage], &part).unwrap();
        }
    }

    pub fn logits(&self) -> Vec<f32> {
        self.nodes[self.stages - 1].logits().to_vec()
    }

    /// Prefills in pieces of the given sizes (the last repeated), then decodes greedily; the raw logits after the
    /// prompt, and the ids.
    pub fn generate(
        &mut self,
        seq: &mut Seq,
        pieces: &[u32],
        count: usize,
    ) -> (Vec<f32>, Vec<u32>) {
        let mut pieces = pieces
            .iter()
            .copied()
            .chain(std::iter::repeat(*pieces.last().unwrap()));
        let mut last = Vec::new();
        while seq.len < seq.prompt_len {
            let rows = pieces.next().unwrap().min(seq.prompt_len - seq.len);
            last = self.step(&mut [Want::rows(seq, rows)]);
        }
        let logits = self.logits();
        let mut ids = Vec::new();
        while ids.len() < count {
            let token = last[0].token;
            ids.push(token);
            seq.tokens.push(token);
            if ids.len() < count {
                last = self.step(&mut [Want::rows(seq, 1)]);
            }
        }
        (logits, ids)
    }

    /// The bits of the logits after `prompt`, prefilled in these pieces, and after `count` tokens more; with all ids.
    pub fn trace(&mut self, prompt: &[u32], pieces: &[u32], count: usize) -> (Vec<u32>, Vec<u32>) {
        let mut seq = Seq::new(2, prompt);
        let (logits, mut ids) = self.generate(&mut seq, pieces, count);
        let mut all = bits(&logits);
        let last = self.step(&mut [Want::rows(&mut seq, 1)]);
        all.extend(bits(&self.logits()));
        ids.push(last[0].token);
        (all, ids)
    }
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

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

use engine::{CacheSpec, Exec, GroupSet, Input, KvType, Poll, Slice, SliceSpec};
use kernels::{Isa, Pool};
use model::Checkpoint;
use proto::step::{Logits, Open, Sampled, Sampling, Segment, Step, StepClass};
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

/// Stages in order, and for each layer owners of the groups that its stage lacks.
pub struct Chain {
    pub stages: Vec<Slice>,
    pub owners: Vec<Slice>,
    next_step: u64,
    next_page: u32,
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
        let experts = checkpoint
            .arch()
            .moe
            .as_ref()
            .map_or(0, |m| m.experts as u32);
        let groups = proto::facts::expert_groups(experts);
        let taken = away.iter().fold(GroupSet::none(), |all, set| {
            (0..groups)
                .filter(|g| set.contains(*g))
                .fold(all, GroupSet::with)
        });
        let kept = taken.missing(groups);
        let mut edges = vec![0];
        edges.extend_from_slice(cuts);
        edges.push(layers);
        let load = |spec: &SliceSpec| {
            Slice::load(Arc::clone(checkpoint), spec, cache(kv), exec.clone()).unwrap()
        };
        let stages = edges
            .windows(2)
            .map(|edge| {
                load(&SliceSpec {
                    embedding: edge[0] == 0,
                    layers: edge[0]..edge[1],
                    groups: vec![kept; (edge[1] - edge[0]) as usize],
                    head: edge[1] == layers,
                })
            })
            .collect();
        let owners = away
            .iter()
            .map(|set| {
                load(&SliceSpec {
                    embedding: false,
                    layers: 0..layers,
                    groups: vec![*set; layers as usize],
                    head: false,
                })
            })
            .collect();
        Self {
            stages,
            owners,
            next_step: 0,
            next_page: 0,
        }
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
        let mut input = Input::Tokens;
        for stage in &mut self.stages {
            let mut run = stage.begin(step.clone(), input.clone()).unwrap();
            loop {
                match run.poll(stage).unwrap() {
                    Poll::NeedExperts(request) => {
                        for owner in &mut self.owners {
                            let part = owner.experts(request.clone()).unwrap();
                            run.provide(part).unwrap();
                        }
                    }
                    Poll::Waiting => panic!("every owner answered"),
                    Poll::Rows(rows) => {
                        input = Input::Rows(rows);
                        break;
                    }
                    Poll::Samples(samples) => return samples,
                }
            }
        }
        panic!("the last stage has no head")
    }

    pub fn logits(&self) -> Vec<f32> {
        self.stages.last().unwrap().logits().to_vec()
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
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

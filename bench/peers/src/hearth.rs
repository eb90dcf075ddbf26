//! Our engine: the whole model as one slice in one process, driven as a node drives it.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use engine::{CacheSpec, Exec, Input, KvType, Poll, Slice, SliceSpec};
use model::Checkpoint;
use proto::limits::PAGE_POSITIONS;
use proto::step::{Logits, Open, Sampled, Sampling, Segment, Step, StepClass};
use proto::{Epoch, SequenceId, StepId};

use crate::child::{Load, Side};
use crate::job::Job;

/// Rows of one prefill step.
const CHUNK: usize = 512;

/// The engine with a loaded model.
pub struct Hearth {
    slice: Slice,
    isa: String,
    vocab: u32,
    pages: u32,
    /// Pages of each sequence of the present job.
    pages_each: u32,
    seqs: u32,
    next_step: u64,
}

impl Hearth {
    /// # Errors
    /// The model's or the engine's.
    pub fn load(load: &Load) -> Result<Self> {
        let checkpoint = Arc::new(Checkpoint::open(&load.file)?);
        let vocab = u32::try_from(checkpoint.arch().vocab)?;
        let layers = u32::try_from(checkpoint.arch().layers.len())?;
        let spec = SliceSpec {
            embedding: true,
            layers: 0..layers,
            head: true,
            ..SliceSpec::default()
        };
        let positions = load.context.max(load.seqs * Load::BATCH_POSITIONS);
        let pages = positions.div_ceil(PAGE_POSITIONS);
        let cache = CacheSpec {
            kv: KvType::F16,
            pages,
            slots: load.seqs,
        };
        let isa = load
            .isa
            .parse()
            .map_err(|e| anyhow!("isa={}: {e}", load.isa))?;
        let exec = Exec {
            pool: Arc::new(kernels::Pool::new(load.threads as usize)),
            isa,
        };
        let slice = Slice::load(checkpoint, &spec, cache, exec)?;
        slice.prefault(&mut |_| ());
        Ok(Self {
            slice,
            isa: isa.to_string(),
            vocab,
            pages,
            pages_each: pages,
            seqs: 0,
            next_step: 0,
        })
    }

    fn segment(&self, seq: u32, start: u32, rows: u32, logits: Logits) -> Segment {
        let first = seq * self.pages_each;
        let opens = start == 0;
        Segment {
            sequence: SequenceId(u64::from(seq)),
            slot: seq,
            start,
            rows,
            logits,
            commit: 0,
            provisional: 0,
            pages: if opens {
                (first..first + self.pages_each).collect()
            } else {
                Vec::new()
            },
            open: opens.then(|| Open {
                prompt_len: 1,
                sampling: Sampling::default(),
            }),
        }
    }

    fn run(
        &mut self,
        class: StepClass,
        segments: Vec<Segment>,
        tokens: Vec<u32>,
    ) -> Result<Vec<Sampled>> {
        self.next_step += 1;
        let step = Step {
            epoch: Epoch(1),
            id: StepId(self.next_step),
            class,
            segments,
            tokens,
        };
        let mut run = self.slice.begin(step, Input::Tokens)?;
        match run.poll(&mut self.slice)? {
            Poll::Samples(samples, _) => Ok(samples),
            other => bail!("expected samples, got {other:?}"),
        }
    }
}

impl Side for Hearth {
    fn about(&self) -> String {
        self.isa.clone()
    }

    fn vocab(&self) -> u32 {
        self.vocab
    }

    fn begin(&mut self, job: &Job) -> Result<()> {
        for seq in 0..self.seqs {
            self.slice.close(SequenceId(u64::from(seq)));
        }
        self.seqs = job.seqs;
        self.pages_each = self.pages / job.seqs;
        let room = self.pages_each * PAGE_POSITIONS;
        ensure!(
            job.rows_each() <= room,
            "room for {room} positions, got {job:?}"
        );
        Ok(())
    }

    fn prompt(&mut self, seq: u32, ids: &[u32]) -> Result<u32> {
        let mut start = 0;
        let mut last = Vec::new();
        for chunk in ids.chunks(CHUNK) {
            let rows = u32::try_from(chunk.len())?;
            let logits = if start as usize + chunk.len() == ids.len() {
                Logits::Last
            } else {
                Logits::None
            };
            let segment = self.segment(seq, start, rows, logits);
            last = self.run(StepClass::Prefill, vec![segment], chunk.to_vec())?;
            start += rows;
        }
        Ok(last.first().context("a prompt without a sample")?.token)
    }

    fn step(&mut self, position: u32, ids: &[u32]) -> Result<()> {
        let segments: Vec<Segment> = (0..self.seqs)
            .map(|seq| self.segment(seq, position, 1, Logits::Last))
            .collect();
        let samples = self.run(StepClass::Decode, segments, ids.to_vec())?;
        ensure!(
            samples.len() == ids.len(),
            "{} samples of {} rows",
            samples.len(),
            ids.len()
        );
        Ok(())
    }
}

//! Prefill and decode speed of a whole model in one process.
//!
//! `cargo bench --profile release -p engine --bench engine -- [FILE.gguf] [threads=N] [isa=NAME] [prompt=N] [tokens=N] [batch=N] [chunk=N] [rounds=N]`
//!
//! Prompts differ from round to round. Prints the median with the smallest and largest of the rounds.
#![allow(
    missing_docs,
    clippy::unreachable,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a measuring program"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use engine::{CacheSpec, Exec, Input, KvType, Poll, Slice, SliceSpec};
use model::Checkpoint;
use proto::step::{Logits, Open, Sampled, Sampling, Segment, Step, StepClass};
use proto::{Epoch, SequenceId, StepId};

struct Bench {
    slice: Slice,
    next_step: u64,
    pages_each: u32,
    /// Rows of one prefill step.
    chunk: u32,
}

impl Bench {
    fn step(&mut self, segments: Vec<Segment>, tokens: Vec<u32>) -> Vec<Sampled> {
        self.next_step += 1;
        let step = Step {
            epoch: Epoch(1),
            id: StepId(self.next_step),
            class: StepClass::Decode,
            segments,
            tokens,
        };
        let mut run = self.slice.begin(step, Input::Tokens).unwrap();
        match run.poll(&mut self.slice).unwrap() {
            Poll::Samples(samples, _) => samples,
            other => unreachable!("{other:?}"),
        }
    }

    fn segment(&self, slot: u32, start: u32, rows: u32, logits: Logits) -> Segment {
        let open = (start == 0).then(|| Open {
            prompt_len: 1,
            sampling: Sampling::default(),
        });
        let first = slot * self.pages_each;
        let pages = if start == 0 {
            (first..first + self.pages_each).collect()
        } else {
            Vec::new()
        };
        let sequence = SequenceId(u64::from(slot));
        Segment {
            sequence,
            slot,
            start,
            rows,
            logits,
            commit: 0,
            provisional: 0,
            pages,
            open,
        }
    }

    /// One round: (prefill tokens per second of one prompt, decode tokens per second of the batch).
    fn round(
        &mut self,
        round: u32,
        prompt: u32,
        tokens: u32,
        batch: u32,
        vocab: u32,
    ) -> (f64, f64) {
        let mut next = Vec::new();
        let mut prefill = 0.0;
        for slot in 0..batch {
            let begun = Instant::now();
            let mut start = 0;
            let mut last = Vec::new();
            while start < prompt {
                let rows = self.chunk.min(prompt - start);
                let ids = (start..start + rows)
                    .map(|i| (i * 7919 + round * 104_729 + slot * 1299) % (vocab - 1000));
                let logits = if start + rows == prompt {
                    Logits::Last
                } else {
                    Logits::None
                };
                let segment = self.segment(slot, start, rows, logits);
                last = self.step(vec![segment], ids.collect());
                start += rows;
            }
            prefill = f64::from(prompt) / begun.elapsed().as_secs_f64();
            next.push(last[0].token);
        }
        let begun = Instant::now();
        for i in 0..tokens {
            let segments = (0..batch)
                .map(|slot| self.segment(slot, prompt + i, 1, Logits::Last))
                .collect();
            next = self
                .step(segments, next.clone())
                .iter()
                .map(|s| s.token)
                .collect();
        }
        (
            prefill,
            f64::from(tokens * batch) / begun.elapsed().as_secs_f64(),
        )
    }
}

fn show(what: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    let median = values[values.len() / 2];
    println!(
        "{what}: {median:.2} tokens/s ({:.2} to {:.2})",
        values[0],
        values[values.len() - 1]
    );
}

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let named: HashMap<&str, &str> = args.iter().filter_map(|a| a.split_once('=')).collect();
    let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/hearth-tiny.gguf");
    let file = args
        .iter()
        .find(|a| !a.contains('='))
        .map_or(bundled, String::as_str);
    let number = |name: &str, or: u32| named.get(name).map_or(or, |v| v.parse().expect(name));
    let (threads, prompt, tokens) = (
        number("threads", 2),
        number("prompt", 128),
        number("tokens", 32),
    );
    let (batch, rounds) = (number("batch", 1), number("rounds", 5));
    let isa = named.get("isa").unwrap_or(&"auto").parse().unwrap();
    let begun = Instant::now();
    let checkpoint = Arc::new(Checkpoint::open(file.as_ref()).unwrap());
    let arch = checkpoint.arch().clone();
    let pages_each = (prompt + tokens + 1).div_ceil(64);
    let layers = arch.layers.len() as u32;
    let spec = SliceSpec {
        embedding: true,
        layers: 0..layers,
        head: true,
        ..SliceSpec::default()
    };
    let cache = CacheSpec {
        kv: KvType::F16,
        pages: pages_each * batch,
        slots: batch,
    };
    let exec = Exec {
        pool: Arc::new(kernels::Pool::new(threads as usize)),
        isa,
    };
    let slice = Slice::load(checkpoint, &spec, cache, exec).unwrap();
    slice.prefault(&mut |_| ());
    let loaded = begun.elapsed().as_secs_f64();
    println!(
        "{file}: {layers} layers, {threads} threads, {isa}, loaded in {loaded:.2} s, {:?}",
        slice.footprint()
    );
    let mut bench = Bench {
        slice,
        next_step: 0,
        pages_each,
        chunk: number("chunk", 512),
    };
    let vocab = arch.vocab as u32;
    bench.round(0, prompt.min(16), 2, batch, vocab);
    let results: Vec<(f64, f64)> = (1..=rounds)
        .map(|r| bench.round(r, prompt, tokens, batch, vocab))
        .collect();
    show(
        &format!("prefill {prompt}"),
        results.iter().map(|r| r.0).collect(),
    );
    show(
        &format!("decode {tokens} x {batch}"),
        results.iter().map(|r| r.1).collect(),
    );
}

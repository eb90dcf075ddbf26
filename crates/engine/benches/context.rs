//! Decode speed by context and cache type.
//!
//! `cargo bench --profile release -p engine --bench context -- [FILE.gguf] [threads=N] [isa=NAME] [tokens=N] [rounds=N] [at=1024,8192,32768] [kv=f32,f16,q8]`
//!
//! The cache is filled by a real prefill, once for each type, and decoding is measured where it passes each context.
//! Prints the median with the smallest and largest of the rounds, and what the prefill up to there took.
#![allow(
    missing_docs,
    clippy::unreachable,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a measuring program"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use engine::{CacheSpec, Exec, Input, KvType, Poll, Slice, SliceSpec};
use model::Checkpoint;
use proto::step::{Logits, Open, Sampled, Sampling, Segment, Step, StepClass};
use proto::{Epoch, SequenceId, StepId};

/// Rows of one prefill step.
const CHUNK: u32 = 512;

/// One sequence and how far it is.
struct Sequence {
    slice: Slice,
    pages: u32,
    len: u32,
    vocab: u32,
}

impl Sequence {
    /// Runs `tokens`; the sample after the last.
    fn step(&mut self, tokens: Vec<u32>) -> Sampled {
        let rows = tokens.len() as u32;
        let first = self.len == 0;
        let segment = Segment {
            sequence: SequenceId(0),
            slot: 0,
            start: self.len,
            rows,
            logits: Logits::Last,
            commit: 0,
            provisional: 0,
            pages: if first {
                (0..self.pages).collect()
            } else {
                vec![]
            },
            open: first.then(|| Open {
                prompt_len: 1,
                sampling: Sampling::default(),
            }),
        };
        let step = Step {
            epoch: Epoch(1),
            id: StepId(u64::from(self.len) + 1),
            class: StepClass::Decode,
            segments: vec![segment],
            tokens,
        };
        self.len += rows;
        let mut run = self.slice.begin(step, Input::Tokens).unwrap();
        match run.poll(&mut self.slice).unwrap() {
            Poll::Samples(samples, _) => samples.into_iter().next().expect("a sample"),
            other => unreachable!("{other:?}"),
        }
    }

    /// Prefills up to position `end`.
    fn fill(&mut self, end: u32) {
        while self.len < end {
            let rows = CHUNK.min(end - self.len);
            let id = |i: u32| i.wrapping_mul(7919) % (self.vocab - 1000);
            let tokens = (self.len..self.len + rows).map(id).collect();
            self.step(tokens);
        }
    }
}

/// One cache type: prefill to each context and decode there.
fn measure(slice: Slice, vocab: u32, pages: u32, contexts: &[u32], (tokens, rounds): (u32, u32)) {
    let mut sequence = Sequence {
        slice,
        pages,
        len: 0,
        vocab,
    };
    for context in contexts {
        let (begun, from) = (Instant::now(), sequence.len);
        sequence.fill(*context);
        let filled = f64::from(context - from) / begun.elapsed().as_secs_f64();
        let mut speeds: Vec<f64> = (0..rounds)
            .map(|round| {
                let begun = Instant::now();
                let mut next = round;
                for _ in 0..tokens {
                    next = sequence.step(vec![next]).token;
                }
                f64::from(tokens) / begun.elapsed().as_secs_f64()
            })
            .collect();
        speeds.sort_by(f64::total_cmp);
        println!(
            "  at {context}: decode {:.2} tokens/s ({:.2} to {:.2}); prefill {from} to {context} {filled:.1} tokens/s",
            speeds[speeds.len() / 2],
            speeds[0],
            speeds[speeds.len() - 1],
        );
    }
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
    let (threads, tokens, rounds) = (
        number("threads", 2),
        number("tokens", 8).max(1),
        number("rounds", 5).max(1),
    );
    let list = |name: &str, or: &'static str| named.get(name).copied().unwrap_or(or).to_owned();
    let contexts: Vec<u32> = list("at", "1024,8192,32768")
        .split(',')
        .map(|n| n.parse().expect("at"))
        .collect();
    let checkpoint = Arc::new(Checkpoint::open(file.as_ref()).unwrap());
    let isa = named.get("isa").unwrap_or(&"auto").parse().unwrap();
    let exec = Exec {
        pool: Arc::new(kernels::Pool::new(threads as usize)),
        isa,
    };
    let layers = checkpoint.arch().layers.len() as u32;
    let spec = SliceSpec {
        embedding: true,
        layers: 0..layers,
        head: true,
        ..SliceSpec::default()
    };
    let most = contexts.iter().copied().max().unwrap_or(0) + tokens * rounds;
    for name in list("kv", "f32,f16,q8").split(',') {
        let kv = match name {
            "f32" => KvType::F32,
            "f16" => KvType::F16,
            "q8" => KvType::Q8,
            other => unreachable!("cache type {other}"),
        };
        let pages = most.div_ceil(64);
        let cache = CacheSpec {
            kv,
            pages,
            slots: 1,
        };
        let slice = Slice::load(Arc::clone(&checkpoint), &spec, cache, exec.clone()).unwrap();
        slice.prefault(&mut |_| ());
        println!(
            "{file}, {layers} layers, {threads} threads, {isa}, cache {name}: {} MiB",
            slice.footprint().cache_bytes >> 20
        );
        let vocab = checkpoint.arch().vocab as u32;
        measure(slice, vocab, pages, &contexts, (tokens, rounds));
    }
}

//! A model with random weights, its own sampler and its own masks: whatever it finishes is valid.

use std::path::Path;
use std::sync::Arc;

use engine::{CacheSpec, Exec, Input, KvType, Poll, Slice, SliceSpec};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use proto::mask::TokenMask;
use proto::step::{Logits, Open, Sampled, Sampling, Segment, Step, StepClass};
use proto::{Epoch, SequenceId, StepId};
use serde_json::Value;

use super::{Bench, END};
use crate::text::Strictness;
use crate::text::grammar::{Constraint, Form, Walk};

/// Answers at once.
pub(super) const WIDTH: u32 = 16;
/// Tokens of an answer.
const TOKENS_MAX: u32 = 250;
const PAGES: u32 = (TOKENS_MAX + 2).div_ceil(64);

/// One answer under way.
pub(super) struct Run {
    pub schema: Value,
    pub constraint: Constraint,
    walk: Walk,
    mask: TokenMask,
    pub drawn: Vec<u32>,
    sequence: SequenceId,
    slot: u32,
}

/// The model, and the answers that it gives side by side.
pub(super) struct Machine {
    slice: Slice,
    pub runs: Vec<Run>,
    steps: u64,
    sequences: u64,
}

impl Machine {
    pub fn new() -> Self {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/data/qwen3_5_moe/model-f16.gguf"
        );
        let checkpoint = Arc::new(model::Checkpoint::open(Path::new(path)).unwrap());
        let layers = u32::try_from(checkpoint.arch().layers.len()).unwrap();
        let spec = SliceSpec {
            embedding: true,
            layers: 0..layers,
            head: true,
            ..SliceSpec::default()
        };
        let cache = CacheSpec {
            kv: KvType::F32,
            pages: PAGES * WIDTH,
            slots: WIDTH,
        };
        let exec = Exec {
            pool: Arc::new(kernels::Pool::new(2)),
            isa: kernels::Isa::detect(),
        };
        Self {
            slice: Slice::load(checkpoint, &spec, cache, exec).unwrap(),
            runs: Vec::new(),
            steps: 0,
            sequences: 0,
        }
    }

    pub fn add(&mut self, schema: Value, constraint: Constraint) {
        let taken: Vec<u32> = self.runs.iter().map(|run| run.slot).collect();
        let slot = (0..WIDTH).find(|slot| !taken.contains(slot)).unwrap();
        let (walk, mask) = constraint.begin();
        self.sequences += 1;
        self.runs.push(Run {
            schema,
            constraint,
            walk,
            mask,
            drawn: Vec::new(),
            sequence: SequenceId(self.sequences),
            slot,
        });
    }

    /// One token for every answer.
    fn step(&mut self) -> Vec<Sampled> {
        self.steps += 1;
        let segments = self.runs.iter().map(|run| {
            let start = u32::try_from(run.drawn.len()).unwrap();
            Segment {
                sequence: run.sequence,
                slot: run.slot,
                start,
                rows: 1,
                logits: Logits::Masked,
                commit: 0,
                provisional: 0,
                pages: (start % 64 == 0)
                    .then_some(run.slot * PAGES + start / 64)
                    .into_iter()
                    .collect(),
                open: (start == 0).then(|| Open {
                    prompt_len: 1,
                    sampling: Sampling {
                        temperature: 1.0,
                        seed: run.sequence.0,
                        ..Sampling::default()
                    },
                }),
            }
        });
        let step = Step {
            epoch: Epoch(1),
            id: StepId(self.steps),
            class: StepClass::Decode,
            segments: segments.collect(),
            tokens: self
                .runs
                .iter()
                .map(|run| run.drawn.last().copied().unwrap_or(5))
                .collect(),
        };
        let mut under_way = self.slice.begin(step, Input::Tokens).unwrap();
        assert!(
            matches!(under_way.poll(&mut self.slice), Ok(Poll::Waiting)),
            "for masks"
        );
        for run in &self.runs {
            let token = (run.sequence, u32::try_from(run.drawn.len()).unwrap() + 1);
            let mask = Some(run.mask.clone());
            under_way.provide_mask(&self.slice, token, mask).unwrap();
        }
        match under_way.poll(&mut self.slice) {
            Ok(Poll::Samples(samples, _)) => samples,
            other => panic!("{other:?}"),
        }
    }

    /// Draws until some answers are over; those that finished.
    pub fn finish_some(&mut self) -> Vec<Run> {
        loop {
            let mut finished = Vec::new();
            let samples = self.step();
            for (at, sampled) in samples.iter().enumerate().rev() {
                let run = &mut self.runs[at];
                assert!(run.mask.allows(sampled.token));
                let ended = sampled.token == END || sampled.token == 512;
                if !ended {
                    run.drawn.push(sampled.token);
                    let next = run.walk.next(sampled.token);
                    let schema = &run.schema;
                    run.mask = next.unwrap_or_else(|error| panic!("{schema}: {error}"));
                }
                if ended || run.drawn.len() >= TOKENS_MAX as usize {
                    let run = self.runs.swap_remove(at);
                    self.slice.close(run.sequence);
                    finished.extend(ended.then_some(run));
                }
            }
            if self.runs.len() < WIDTH as usize {
                return finished;
            }
        }
    }
}

/// Everything that a model with random weights finishes is valid, and could be said in the tokenizer's own tokens.
#[test]
fn finished_answers_of_a_thousand_random_schemas_are_valid() {
    const SCHEMAS: u32 = 1000;
    let bench = Bench::new();
    let mut machine = Machine::new();
    let mut runner = TestRunner::deterministic();
    let strategy = super::random::schema();
    let (mut made, mut finished) = (0, 0);
    while made < SCHEMAS || !machine.runs.is_empty() {
        while made < SCHEMAS && machine.runs.len() < WIDTH as usize {
            let schema = strategy.new_tree(&mut runner).unwrap().current();
            let form = Form::Json {
                schema: schema.clone(),
                strictness: Strictness::Strict,
            };
            let constraint = bench.compile(&form);
            let constraint = constraint.unwrap_or_else(|error| panic!("{schema}: {error}"));
            machine.add(schema, constraint);
            made += 1;
        }
        for run in machine.finish_some() {
            let text = bench.tokenizer.decode(&run.drawn, model::SpecialText::Keep);
            let value: Value = match serde_json::from_str(&text) {
                Ok(value) => value,
                // JSON, with a number that no machine's numbers reach.
                Err(error) if error.to_string().starts_with("number out of range") => continue,
                Err(error) => panic!("{}: {text:?}: {error}", run.schema),
            };
            let validator = jsonschema::options()
                .should_validate_formats(true)
                .build(&run.schema)
                .unwrap();
            assert!(validator.is_valid(&value), "{}: {text:?}", run.schema);
            let own = bench.lets(&run.constraint, &text);
            assert_eq!(own, Ok(()), "{}: {text:?}", run.schema);
            finished += 1;
        }
    }
    assert!(
        finished > SCHEMAS * 6 / 10,
        "{finished} of {SCHEMAS} finished"
    );
}

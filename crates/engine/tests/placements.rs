//! The same bits wherever layers, expert groups and head blocks live, also where steps wait for each other's owners.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "test code"
)]

mod rig;

use std::sync::Arc;

use engine::{
    EngineError, GroupSet, HeadPart, Input, KvType, Partials, Poll, Routes, Slice, SliceSpec,
    Subtree,
};
use kernels::{ActFormat, Acts, Isa};
use model::{Checkpoint, FfnKind};
use proto::facts::expert_groups;
use proto::step::{Logits, Open, Sampling, Segment, Step, StepClass};
use proto::{Epoch, SequenceId, StepId};
use rig::{Chain, exec};

const PROMPT: [u32; 19] = [
    7, 100, 3, 250, 9, 31, 77, 12, 12, 200, 41, 5, 6, 300, 2, 88, 90, 11, 64,
];

/// Numbers that look random and are the same on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as u32) % n
    }
}

/// See [`Chain::trace`].
fn trace(chain: &mut Chain, pieces: &[u32]) -> (Vec<u32>, Vec<u32>) {
    chain.trace(&PROMPT, pieces, 5)
}

fn models() -> Vec<(&'static str, Arc<Checkpoint>, KvType)> {
    vec![
        ("hearth-tiny Q8_0", rig::bundled(), KvType::F16),
        ("qwen3_5_moe", rig::open("qwen3_5_moe"), KvType::F32),
        (
            "qwen3_5_moe f16",
            rig::open("qwen3_5_moe/model-f16.gguf"),
            KvType::F32,
        ),
        (
            "qwen3_moe f16",
            rig::open("qwen3_moe/model-f16.gguf"),
            KvType::F32,
        ),
        ("llama f16", rig::open("llama/model-f16.gguf"), KvType::F16),
    ]
}

/// Layers cut anywhere over the first nodes; every group of every layer, and every head block, on any node.
fn random_placement(checkpoint: &Checkpoint, nodes: u32, dice: &mut Dice) -> Vec<SliceSpec> {
    let arch = checkpoint.arch();
    let layers = arch.layers.len() as u32;
    let groups = rig::groups_of(checkpoint);
    let stages = 1 + dice.below(nodes);
    let mut cuts: Vec<u32> = (0..stages - 1)
        .map(|_| 1 + dice.below(layers - 1))
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    let edges: Vec<u32> = std::iter::once(0).chain(cuts).chain([layers]).collect();
    let stages = edges.len() - 1;
    let mut specs = vec![SliceSpec::default(); nodes as usize];
    for (at, edge) in edges.windows(2).enumerate() {
        specs[at].layers = edge[0]..edge[1];
        specs[at].embedding = at == 0;
        specs[at].head = at + 1 == stages;
        specs[at].groups = vec![GroupSet::none(); (edge[1] - edge[0]) as usize];
    }
    // Some placements move much, some little.
    let stays = dice.below(4);
    for layer in 0..layers {
        let stage = edges.iter().skip(1).position(|end| layer < *end).unwrap();
        if arch.layers[layer as usize].ffn != FfnKind::Moe {
            continue;
        }
        for group in 0..groups {
            let owner = if dice.below(4) < stays {
                stage
            } else {
                dice.below(nodes) as usize
            };
            if owner == stage {
                let at = (layer - edges[stage]) as usize;
                specs[stage].groups[at] = specs[stage].groups[at].with(group);
            } else {
                let held = specs[owner].foreign.entry(layer).or_default();
                *held = held.with(group);
            }
        }
    }
    for block in 0..expert_groups(arch.vocab as u32) {
        let owner = if dice.below(4) < stays {
            stages - 1
        } else {
            dice.below(nodes) as usize
        };
        let held = specs[owner].head_blocks.get_or_insert_default();
        *held = held.with(block);
    }
    let last = &mut specs[stages - 1];
    last.head_blocks.get_or_insert_default();
    specs
}

#[test]
fn random_placements_give_the_bits_of_the_whole_model() {
    for (name, checkpoint, kv) in models() {
        let exec = exec(Isa::detect(), 2);
        let whole = trace(&mut Chain::whole(&checkpoint, &exec, kv), &[9]);
        let mut dice = Dice(41);
        for round in 0..12 {
            let nodes = 1 + round % 4;
            let specs = random_placement(&checkpoint, nodes, &mut dice);
            let mut chain = Chain::of(&checkpoint, &exec, kv, specs.clone());
            chain.frame_rows = 1 + dice.below(9) as usize;
            let pieces = [1 + dice.below(19)];
            assert!(
                trace(&mut chain, &pieces) == whole,
                "{name}, round {round}, pieces {pieces:?}: {specs:#?}"
            );
        }
    }
}

#[test]
fn instruction_sets_may_differ_between_owners() {
    let checkpoint = rig::open("qwen3_5_moe/model-f16.gguf");
    let whole = trace(
        &mut Chain::whole(&checkpoint, &exec(Isa::detect(), 2), KvType::F32),
        &[9],
    );
    let mut dice = Dice(5);
    for isa in Isa::usable() {
        let specs = random_placement(&checkpoint, 3, &mut dice);
        let mut chain = Chain::of(&checkpoint, &exec(isa, 1), KvType::F32, specs);
        chain.nodes[1] = {
            let mut other = Chain::of(
                &checkpoint,
                &exec(Isa::Scalar, 1),
                KvType::F32,
                chain.specs().to_vec(),
            );
            other.nodes.swap_remove(1)
        };
        assert!(trace(&mut chain, &[7]) == whole, "{isa}");
    }
}

#[test]
fn every_byte_of_the_model_is_somewhere_once() {
    for (name, checkpoint, kv) in models() {
        let exec = exec(Isa::detect(), 1);
        let bytes = |chain: &Chain| -> u64 {
            let of = |node: &Slice| node.footprint().mapped_bytes;
            chain.nodes.iter().map(of).sum()
        };
        let whole = bytes(&Chain::whole(&checkpoint, &exec, kv));
        let mut dice = Dice(3);
        for _ in 0..4 {
            let specs = random_placement(&checkpoint, 4, &mut dice);
            let spread = bytes(&Chain::of(&checkpoint, &exec, kv, specs));
            let again = if checkpoint.arch().tied_head {
                checkpoint.facts().embedding_bytes
            } else {
                0
            };
            assert!(
                (whole..=whole + again).contains(&spread),
                "{name}: {spread} of {whole}"
            );
        }
    }
}

fn step(id: u64, sequence: u64, slot: u32, page: u32, tokens: &[u32]) -> Step {
    Step {
        epoch: Epoch(1),
        id: StepId(id),
        class: StepClass::Decode,
        segments: vec![Segment {
            sequence: SequenceId(sequence),
            slot,
            start: 0,
            rows: tokens.len() as u32,
            logits: Logits::All,
            commit: 0,
            provisional: 0,
            pages: vec![page],
            open: Some(Open {
                prompt_len: tokens.len() as u32,
                sampling: Sampling {
                    logprobs: Some(8),
                    ..Sampling::default()
                },
            }),
        }],
        tokens: tokens.to_vec(),
    }
}

/// One node with trunk and a few groups and head blocks, one owner of the rest.
fn pair(checkpoint: &Arc<Checkpoint>) -> (Slice, Slice) {
    let layers = checkpoint.arch().layers.len() as u32;
    let groups = rig::groups_of(checkpoint);
    let (kept, given) = (GroupSet::all(2), GroupSet::all(2).missing(groups));
    let blocks = expert_groups(checkpoint.arch().vocab as u32);
    let exec = exec(Isa::detect(), 1);
    let load = |spec: &SliceSpec| {
        let cache = rig::cache(KvType::F32);
        Slice::load(Arc::clone(checkpoint), spec, cache, exec.clone()).unwrap()
    };
    let trunk = load(&SliceSpec {
        embedding: true,
        layers: 0..layers,
        groups: vec![kept; layers as usize],
        head: true,
        head_blocks: Some(GroupSet::all(3)),
        ..SliceSpec::default()
    });
    let owner = load(&SliceSpec {
        foreign: (0..layers).map(|layer| (layer, given)).collect(),
        head_blocks: Some(GroupSet::all(3).missing(blocks)),
        ..SliceSpec::default()
    });
    (trunk, owner)
}

/// What an owner would answer to the last poll of a run, kept back.
enum Answer {
    Experts(Partials),
    Head(HeadPart),
}

fn ask(owner: &mut Slice, poll: Poll) -> Option<Answer> {
    match poll {
        Poll::NeedExperts(request) => {
            let (part, _) = request.part(request.missing, 0, usize::MAX)?;
            let acts =
                Acts::from_bytes(part.format, part.rows.len(), part.cols, &part.bytes).unwrap();
            let mut sums = owner.experts(request.layer, acts, &part.routes).unwrap();
            sums.renumber(&part.rows).unwrap();
            Some(Answer::Experts(sums))
        }
        Poll::NeedHead(request) => Some(Answer::Head(HeadPart {
            first: request.first,
            blocks: owner.head_blocks(),
            values: owner.head_rows(&request.acts).unwrap(),
        })),
        _ => None,
    }
}

#[test]
fn steps_take_turns_while_they_wait() {
    let checkpoint = rig::open("qwen3_5_moe");
    // 18 rows want logits: more than the head takes at once.
    let prompts: [&[u32]; 3] = [&PROMPT[..18], &PROMPT[4..9], &PROMPT[2..3]];
    let steps = || {
        let numbered = (0u64..).zip(prompts);
        numbered.map(|(n, tokens)| step(n, n, n as u32, 10 + n as u32, tokens))
    };
    let mut alone = Vec::new();
    for step in steps() {
        let mut whole = Chain::whole(&checkpoint, &exec(Isa::detect(), 1), KvType::F32);
        alone.push(whole.run(&step));
    }
    let (mut trunk, mut owner) = pair(&checkpoint);
    let mut runs: Vec<_> = steps()
        .map(|step| {
            let run = trunk.begin(step, Input::Tokens).unwrap();
            (run, None::<Answer>, None)
        })
        .collect();
    let mut waited = 0;
    while runs.iter().any(|(.., done)| done.is_none()) {
        for (run, answer, done) in &mut runs {
            if done.is_some() {
                continue;
            }
            match run.poll(&mut trunk).unwrap() {
                Poll::Samples(samples, _) => *done = Some(samples),
                Poll::Waiting => {
                    // The answer comes after own work was done, and after other runs have used the slice.
                    waited += 1;
                    match answer.take().unwrap() {
                        Answer::Experts(sums) => run.provide(sums).unwrap(),
                        Answer::Head(part) => run.provide_head(&trunk, &part).unwrap(),
                    }
                }
                poll => *answer = ask(&mut owner, poll),
            }
        }
    }
    assert!(waited > 20, "the runs had to wait {waited} times");
    for ((.., done), alone) in runs.into_iter().zip(alone) {
        assert_eq!(done.unwrap(), alone);
    }
}

#[test]
fn answers_that_were_not_asked_for_are_refused() {
    let checkpoint = rig::open("qwen3_5_moe");
    let (mut trunk, mut owner) = pair(&checkpoint);
    let hidden = trunk.hidden();
    let mut run = trunk
        .begin(step(1, 1, 0, 3, &PROMPT[..4]), Input::Tokens)
        .unwrap();
    assert!(matches!(
        run.provide(Partials::default()),
        Err(EngineError::Turn(_))
    ));
    let poll = run.poll(&mut trunk).unwrap();
    let Some(Answer::Experts(right)) = ask(&mut owner, poll) else {
        panic!("the first layer has experts elsewhere");
    };
    let (row, node) = right.entries[0];
    let one = |row: u32, node: u8| Partials {
        entries: vec![(row, Subtree(node))],
        values: vec![0.0; hidden],
    };
    let short = Partials {
        values: vec![0.0; hidden - 1],
        ..one(row, node.0)
    };
    let twice = Partials {
        entries: vec![(row, node); 2],
        values: vec![0.0; 2 * hidden],
    };
    for (what, wrong) in [
        ("values that are too few", short),
        ("the same row twice", twice),
        ("a row that is not there", one(99, node.0)),
        ("node 0", one(row, 0)),
        ("a node below the leaves", one(row, 255)),
    ] {
        let refused = run.provide(wrong);
        assert!(
            matches!(refused, Err(EngineError::Partials { .. })),
            "{what}"
        );
    }
    let head = HeadPart {
        first: 0,
        blocks: owner.head_blocks(),
        values: Vec::new(),
    };
    assert!(matches!(
        run.provide_head(&trunk, &head),
        Err(EngineError::Turn(_))
    ));
}

#[test]
fn requests_that_an_owner_cannot_serve_are_refused() {
    let checkpoint = rig::open("qwen3_5_moe");
    let (mut trunk, mut owner) = pair(&checkpoint);
    let hidden = trunk.hidden();
    let acts = |rows: usize, cols: usize| {
        let mut acts = Acts::new();
        acts.quantize(Isa::Scalar, ActFormat::F32, &vec![0.5; rows * cols], cols);
        acts
    };
    let routes = |rows: usize, expert: u32| {
        let mut routes = Routes::default();
        (0..rows).for_each(|_| routes.push([(expert, 0.5)]));
        routes
    };
    let experts = checkpoint.arch().moe.as_ref().unwrap().experts as u32;
    let held = experts - 1;
    owner.experts(0, acts(2, hidden), &routes(2, held)).unwrap();
    for (what, layer, acts, routes) in [
        ("another layer", 99, acts(2, hidden), routes(2, held)),
        ("an expert of the asker", 0, acts(2, hidden), routes(2, 0)),
        ("no such expert", 0, acts(2, hidden), routes(2, experts)),
        ("fewer routes", 0, acts(2, hidden), routes(1, held)),
        ("narrow rows", 0, acts(2, hidden / 2), routes(2, held)),
    ] {
        assert!(owner.experts(layer, acts, &routes).is_err(), "{what}");
    }
    assert!(Routes::from_counts([1, 1], vec![(3, 0.5)]).is_err());
    assert!(Routes::from_counts([2], vec![(3, 0.5), (3, 0.5)]).is_err());
    owner.head_rows(&acts(16, hidden)).unwrap();
    for (what, acts) in [
        ("no row", acts(0, hidden)),
        ("too many rows", acts(17, hidden)),
        ("narrow rows", acts(1, hidden / 2)),
    ] {
        assert!(owner.head_rows(&acts).is_err(), "{what}");
    }
    assert!(
        trunk
            .begin(step(1, 1, 0, 3, &PROMPT[..4]), Input::Tokens)
            .is_ok(),
        "the trunk is none the worse"
    );
    drop(trunk);
}

#[test]
fn parts_that_the_model_does_not_have_are_refused() {
    let checkpoint = rig::open("qwen3_5_moe");
    let dense = rig::open("llama/model-f16.gguf");
    let foreign = |layer: u32, group: u32| SliceSpec {
        foreign: [(layer, GroupSet::none().with(group))].into(),
        ..SliceSpec::default()
    };
    let own = SliceSpec {
        layers: 0..2,
        embedding: true,
        ..foreign(1, 0)
    };
    let groups = rig::groups_of(&checkpoint);
    for (checkpoint, spec) in [
        (&checkpoint, foreign(99, 0)),
        (&checkpoint, foreign(0, groups)),
        (&checkpoint, own),
        (&dense, foreign(0, 0)),
    ] {
        let cache = rig::cache(KvType::F32);
        let exec = exec(Isa::detect(), 1);
        let slice = Slice::load(Arc::clone(checkpoint), &spec, cache, exec);
        assert!(matches!(slice, Err(EngineError::Slice { .. })), "{spec:?}");
    }
}

//! The engine against recorded outputs of the official implementation, for every family and both file formats.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "test code"
)]

mod rig;

use engine::KvType;
use kernels::Isa;
use rig::{Chain, Seq, Want, data, exec};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    name: String,
    token_ids: Vec<u32>,
    last_logits: Vec<f32>,
    greedy: Greedy,
}

#[derive(Deserialize)]
struct Greedy {
    ids: Vec<u32>,
}

const FAMILIES: [&str; 4] = ["qwen3_5_moe", "qwen3_5", "qwen3_moe", "llama"];
/// Fp32 arithmetic in any order lands within 2e-4 of the recorded logits; a mistake moves them by 0.9 or more.
const TOLERANCE: f32 = 1e-3;

fn golden(family: &str) -> Golden {
    let text = std::fs::read(data(&format!("{family}/golden.json"))).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn formats(family: &str) -> [String; 2] {
    [family.to_owned(), format!("{family}/model-f16.gguf")]
}

fn compare(what: &str, prompt: &Prompt, logits: &[f32], ids: &[u32]) {
    assert_eq!(
        logits.len(),
        prompt.last_logits.len(),
        "{what} {}",
        prompt.name
    );
    let worst = logits
        .iter()
        .zip(&prompt.last_logits)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0f32, f32::max);
    println!(
        "{what} {}: largest difference of a logit {worst:.1e}",
        prompt.name
    );
    assert!(worst <= TOLERANCE, "{what} {}: {worst}", prompt.name);
    assert_eq!(ids, prompt.greedy.ids, "{what} {}", prompt.name);
}

fn with_pieces(pieces: &[u32]) {
    for family in FAMILIES {
        for format in formats(family) {
            let checkpoint = rig::open(&format);
            let exec = exec(Isa::detect(), 2);
            for prompt in golden(family).prompts {
                let mut chain = Chain::whole(&checkpoint, &exec, KvType::F32);
                let mut seq = Seq::new(3, &prompt.token_ids);
                let count = prompt.greedy.ids.len();
                let (logits, ids) = chain.generate(&mut seq, pieces, count);
                compare(&format, &prompt, &logits, &ids);
            }
        }
    }
}

#[test]
fn whole_prompts() {
    with_pieces(&[u32::MAX]);
}

#[test]
fn prompts_in_uneven_pieces() {
    with_pieces(&[1, 7, 2, 31, 5]);
}

#[test]
fn prompts_token_by_token() {
    with_pieces(&[1]);
}

/// All prompts of a family at once: prefilled in turns, then decoded in one batch.
#[test]
fn interleaved_sequences() {
    for family in FAMILIES {
        for format in formats(family) {
            let checkpoint = rig::open(&format);
            let mut chain = Chain::whole(&checkpoint, &exec(Isa::detect(), 2), KvType::F32);
            let prompts = golden(family).prompts;
            let mut seqs: Vec<Seq> = (0u64..)
                .zip(&prompts)
                .map(|(id, p)| Seq::new(id, &p.token_ids))
                .collect();
            let mut logits = vec![Vec::new(); seqs.len()];
            let mut next = vec![0; seqs.len()];
            while seqs.iter().any(|s| s.len < s.prompt_len) {
                for (i, seq) in seqs
                    .iter_mut()
                    .enumerate()
                    .filter(|(_, s)| s.len < s.prompt_len)
                {
                    let rows = (5 + i as u32).min(seq.prompt_len - seq.len);
                    next[i] = chain.step(&mut [Want::rows(seq, rows)])[0].token;
                    logits[i] = chain.logits();
                }
            }
            let count = prompts[0].greedy.ids.len();
            for done in 1..=count {
                for (seq, token) in seqs.iter_mut().zip(&next) {
                    seq.tokens.push(*token);
                }
                if done < count {
                    let mut wants: Vec<Want<'_>> =
                        seqs.iter_mut().map(|s| Want::rows(s, 1)).collect();
                    next = chain.step(&mut wants).iter().map(|s| s.token).collect();
                }
            }
            for ((prompt, seq), logits) in prompts.iter().zip(&seqs).zip(&logits) {
                compare(
                    &format,
                    prompt,
                    logits,
                    &seq.tokens[seq.prompt_len as usize..],
                );
            }
        }
    }
}

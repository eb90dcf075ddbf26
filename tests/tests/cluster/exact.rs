//! Any split gives the bits of the unsplit model, and both give the recorded ids of an independent implementation.

use std::path::Path;

use tests::api::Tokens;
use tests::fixtures::{self, Golden};
use tests::{Wanted, plans};

/// Layers of the family that is cut everywhere.
const LAYERS: u32 = 8;
/// Its vocabulary: every log-probability is compared.
const VOCABULARY: usize = 576;

async fn split(model: &Path, cuts: &[u32], goldens: &[Golden]) -> Vec<Tokens> {
    let id = match model.is_dir() {
        true => model.file_name(),
        false => model.file_stem(),
    };
    let plan = plans::cut(id.unwrap().to_str().unwrap(), LAYERS, cuts);
    let cluster = Wanted::model(model)
        .nodes(cuts.len() + 1)
        .plan(plan)
        .ready()
        .await;
    let shown = cluster.told(&["plan"]).await;
    let stages = shown["stages"].as_array().unwrap();
    let ends: Vec<u64> = stages
        .iter()
        .map(|stage| stage["end_layer"].as_u64().unwrap())
        .collect();
    let wanted: Vec<u64> = cuts
        .iter()
        .copied()
        .chain([LAYERS])
        .map(u64::from)
        .collect();
    assert_eq!(ends, wanted, "the given plan runs");
    cluster.api().greedy_all(goldens, VOCABULARY).await
}

async fn every_cut(model: &Path, parts: usize) {
    let goldens = fixtures::goldens("qwen3_5_moe");
    let whole = split(model, &[], &goldens).await;
    for (answer, golden) in whole.iter().zip(&goldens) {
        assert_eq!(answer.ids, golden.greedy, "{}", golden.name);
        assert!(
            answer
                .logprob_bits
                .iter()
                .all(|bits| bits.len() > VOCABULARY)
        );
    }
    for cuts in plans::cuts(LAYERS, parts) {
        let cut = split(model, &cuts, &goldens).await;
        for ((cut, whole), golden) in cut.iter().zip(&whole).zip(&goldens) {
            assert_eq!(
                cut.ids, whole.ids,
                "cut at {cuts:?}, prompt {}",
                golden.name
            );
            assert!(
                cut.logprob_bits == whole.logprob_bits,
                "bits differ: cut at {cuts:?}, prompt {}",
                golden.name
            );
        }
    }
}

#[tokio::test]
async fn every_cut_into_two_gives_the_same_bits() {
    every_cut(&fixtures::gguf("qwen3_5_moe"), 2).await;
}

#[tokio::test]
async fn every_cut_into_three_gives_the_same_bits() {
    every_cut(&fixtures::gguf("qwen3_5_moe"), 3).await;
}

#[tokio::test]
async fn a_safetensors_directory_is_cut_as_exactly() {
    every_cut(&fixtures::safetensors("qwen3_5_moe"), 2).await;
}

async fn recorded(family: &str) {
    let goldens = fixtures::goldens(family);
    for model in [fixtures::gguf(family), fixtures::safetensors(family)] {
        let cluster = Wanted::model(&model)
            .nodes(2)
            .serve(&["--plan", "layers"])
            .ready()
            .await;
        let answers = cluster.api().greedy_all(&goldens, VOCABULARY).await;
        for (answer, golden) in answers.iter().zip(&goldens) {
            assert_eq!(
                answer.ids,
                golden.greedy,
                "{}, prompt {}",
                model.display(),
                golden.name
            );
        }
    }
}

#[tokio::test]
async fn qwen3_5_moe_gives_the_recorded_ids() {
    recorded("qwen3_5_moe").await;
}

#[tokio::test]
async fn qwen3_5_gives_the_recorded_ids() {
    recorded("qwen3_5").await;
}

#[tokio::test]
async fn qwen3_moe_gives_the_recorded_ids() {
    recorded("qwen3_moe").await;
}

#[tokio::test]
async fn llama_gives_the_recorded_ids() {
    recorded("llama").await;
}

//! Expert groups and head blocks on other nodes than their layers: the bits of the whole model, through real processes.

use std::path::Path;

use serde_json::json;
use tests::fixtures::{self, Golden};
use tests::plans::{self, Dice};
use tests::{Cluster, Wanted};

/// Log-probabilities that are compared with each token: all of the tiny vocabularies, the head of the larger one.
const LOGPROBS: usize = 576;

async fn planned(model: &Path, nodes: usize, plan: serde_json::Value) -> Cluster {
    Wanted::model(model).nodes(nodes).plan(plan).ready().await
}

/// Random placements on one to four nodes beside one node alone.
async fn placements(model: &Path, goldens: &[Golden], (rounds, seed): (usize, u64)) {
    let mut dice = Dice(seed);
    let alone = planned(model, 1, plans::spread(model, 1, &mut dice)).await;
    let whole = alone.api().greedy_all(goldens, LOGPROBS).await;
    for (answer, golden) in whole.iter().zip(goldens) {
        assert_eq!(answer.ids, golden.greedy, "{}", golden.name);
    }
    drop(alone);
    for round in 0..rounds {
        let nodes = 2 + round % 3;
        let plan = plans::spread(model, u32::try_from(nodes).unwrap(), &mut dice);
        let cluster = planned(model, nodes, plan.clone()).await;
        let spread = cluster.api().greedy_all(goldens, LOGPROBS).await;
        assert!(
            spread == whole,
            "bits differ with seed {seed}, round {round}: {plan}"
        );
    }
}

#[tokio::test]
async fn a_plan_for_experts_uses_every_node_and_gives_the_recorded_ids() {
    let goldens = fixtures::goldens("qwen3_5_moe");
    let cluster = Wanted::model(&fixtures::gguf("qwen3_5_moe"))
        .nodes(3)
        .serve(&["--plan", "experts"])
        .ready()
        .await;
    let shown = cluster.told(&["plan"]).await;
    let plan = plan::Plan::from_json(&shown.to_string()).unwrap();
    let mut used: Vec<_> = plan.stages.iter().map(|stage| &stage.node).collect();
    used.extend(plan.experts.iter().map(|part| &part.node));
    used.extend(plan.head_blocks.iter().map(|part| &part.node));
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), 3, "{shown}");
    let answers = cluster.api().greedy_all(&goldens, LOGPROBS).await;
    for (answer, golden) in answers.iter().zip(&goldens) {
        assert_eq!(answer.ids, golden.greedy, "{}", golden.name);
    }
}

#[tokio::test]
async fn random_placements_of_the_hybrid_family_give_the_same_bits() {
    let goldens = fixtures::goldens("qwen3_5_moe");
    placements(&fixtures::gguf("qwen3_5_moe"), &goldens, (6, 7)).await;
}

#[tokio::test]
async fn random_placements_of_a_safetensors_directory_give_the_same_bits() {
    let goldens = fixtures::goldens("qwen3_moe");
    placements(&fixtures::safetensors("qwen3_moe"), &goldens, (3, 11)).await;
}

#[tokio::test]
async fn head_blocks_of_a_dense_model_give_the_same_bits() {
    let goldens = fixtures::goldens("llama");
    placements(&fixtures::gguf("llama"), &goldens, (2, 3)).await;
}

#[tokio::test]
async fn nodes_that_own_each_others_groups_do_not_wait_in_a_circle() {
    let model = fixtures::gguf("qwen3_5_moe");
    let goldens = fixtures::goldens("qwen3_5_moe");
    let mut plan = plans::cut("model-f16", 8, &[4]);
    plan["experts"] = json!([
        {"node": "n1", "first_layer": 0, "end_layer": 4, "groups": [0, 1, 2, 3]},
        {"node": "n0", "first_layer": 4, "end_layer": 8, "groups": [0, 1, 2, 3]},
    ]);
    plan["head_blocks"] = json!([{"node": "n0", "blocks": [0, 5, 6]}]);
    let cluster = planned(&model, 2, plan).await;
    let answers = cluster.api().greedy_all(&goldens, LOGPROBS).await;
    for (answer, golden) in answers.iter().zip(&goldens) {
        assert_eq!(answer.ids, golden.greedy, "{}", golden.name);
    }
    let shown = cluster.told(&["nodes"]).await;
    let nodes = shown["nodes"].as_array().unwrap();
    let held: Vec<u64> = nodes
        .iter()
        .map(|node| node["expert_groups"].as_u64().unwrap())
        .collect();
    assert_eq!(held, [16, 16], "{shown}");
}

#[tokio::test]
async fn a_lost_owner_ends_its_answers_clearly_and_may_come_back() {
    let model = fixtures::gguf("qwen3_5_moe");
    let goldens = fixtures::goldens("qwen3_5_moe");
    let mut cluster = planned(&model, 2, plans::lent(&model, 1)).await;
    let api = cluster.api();
    let before = api.greedy_all(&goldens, LOGPROBS).await;
    let request = json!({
        "prompt": goldens[0].prompt, "max_tokens": 400, "temperature": 0, "ignore_eos": true,
    });
    let mut stream = api.stream("/v1/completions", request).await;
    stream.next().await.unwrap();
    cluster.kill(1).await;
    let error = stream.error().await;
    assert!(error["message"].as_str().unwrap().contains("n1"), "{error}");
    assert_eq!(error["code"], "node_lost", "{error}");
    api.readiness("without its owner", |reply| reply.status == 503)
        .await;
    cluster.restart(1);
    api.ready().await;
    assert!(
        api.greedy_all(&goldens, LOGPROBS).await == before,
        "the same after the loss"
    );
}

//! Nodes that go, with and without a word, and what the others do.

use serde_json::json;
use tests::process::run;
use tests::{Cluster, Wanted, fixtures, plans, programs};

const PROMPT: [u32; 4] = [39, 279, 486, 11];
const CONTEXT: u32 = 4096;

async fn two_nodes(memory: &str) -> Cluster {
    Wanted::model(&fixtures::gguf("qwen3_5_moe"))
        .nodes(2)
        .memory(memory)
        .serve(&["--plan", "layers", "--context", &CONTEXT.to_string()])
        .ready()
        .await
}

fn long_request() -> serde_json::Value {
    json!({"prompt": PROMPT, "max_tokens": 4000, "temperature": 0, "ignore_eos": true})
}

#[tokio::test]
async fn a_lost_node_ends_its_answers_clearly_and_the_rest_goes_on() {
    let mut cluster = two_nodes("256MiB").await;
    let api = cluster.api();
    let before = api.greedy(&PROMPT, 16, 20).await;
    let mut stream = api.stream("/v1/completions", long_request()).await;
    stream.next().await.unwrap();
    cluster.kill(1).await;
    let error = stream.error().await;
    let text = error["message"].as_str().unwrap();
    assert!(text.contains("n1"), "{error}");
    assert_eq!(error["code"], "node_lost", "{error}");
    // One of them can hold all of this model.
    api.readiness("ready on one node", |reply| reply.status == 200)
        .await;
    cluster
        .status("one stage", |status| {
            status["stages"] == 1 && status["ready"] == true
        })
        .await;
    assert_eq!(api.greedy(&PROMPT, 16, 20).await, before);
}

#[tokio::test]
async fn what_is_missing_is_said_until_the_node_is_back() {
    // As much as two nodes need, which is too little for one.
    let memory = plans::least_memory(&fixtures::gguf("qwen3_5_moe"), 2, CONTEXT);
    let mut cluster = two_nodes(&memory.to_string()).await;
    let api = cluster.api();
    let before = api.greedy(&PROMPT, 16, 20).await;
    cluster.kill(0).await;
    let missing = |reply: &tests::Reply| {
        reply.status == 503 && reply.body["missing_bytes"].as_u64() > Some(0)
    };
    let reply = api.readiness("short of memory", missing).await;
    assert!(reply.retry_after_s.is_some(), "{reply:?}");
    let refused = api.post("/v1/completions", long_request()).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(
        refused.body["missing_bytes"].as_u64() > Some(0),
        "{refused:?}"
    );
    cluster.restart(0);
    api.ready().await;
    assert_eq!(api.greedy(&PROMPT, 16, 20).await, before);
}

#[tokio::test]
async fn a_node_that_leaves_is_let_go_and_may_come_back() {
    let mut cluster = two_nodes("256MiB").await;
    let api = cluster.api();
    let before = api.greedy(&PROMPT, 16, 20).await;
    let dir = cluster.members[1].dir.to_str().unwrap().to_owned();
    let left = run(&programs::node(), &["leave", "--json", "--data-dir", &dir])
        .await
        .ok()
        .json();
    assert_eq!(left["name"], "n1", "{left}");
    let ended = cluster.members[1].process.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    cluster
        .status("one stage", |status| {
            status["stages"] == 1 && status["ready"] == true
        })
        .await;
    assert_eq!(api.greedy(&PROMPT, 16, 20).await, before);
    cluster.restart(1);
    cluster
        .status("two nodes", |status| {
            status["nodes"] == 2 && status["ready"] == true
        })
        .await;
    assert_eq!(api.greedy(&PROMPT, 16, 20).await, before);
}

#[tokio::test]
async fn a_client_that_goes_away_frees_the_caches() {
    let cluster = two_nodes("256MiB").await;
    let api = cluster.api();
    let idle = cluster.told(&["status"]).await;
    assert_eq!(idle["pages_free"], idle["pages"], "{idle}");
    let mut stream = api.stream("/v1/completions", long_request()).await;
    stream.next().await.unwrap();
    cluster
        .status("a sequence", |status| status["sequences"] == 1)
        .await;
    drop(stream);
    cluster
        .status("all free again", |status| {
            status["sequences"] == 0
                && status["pages_free"] == status["pages"]
                && status["slots_free"] == status["slots"]
        })
        .await;
    for member in &cluster.members {
        let dir = member.dir.to_str().unwrap();
        let node = run(&programs::node(), &["status", "--json", "--data-dir", dir])
            .await
            .ok()
            .json();
        assert_eq!(node["sequences"], 0, "{node}");
    }
}

#[tokio::test]
async fn members_come_back_to_a_coordinator_that_was_started_again() {
    let mut cluster = two_nodes("256MiB").await;
    let before = cluster.api().greedy(&PROMPT, 16, 20).await;
    cluster.restart_coordinator().await;
    let api = cluster.api();
    api.ready().await;
    assert_eq!(api.greedy(&PROMPT, 16, 20).await, before);
}

#[tokio::test]
async fn a_node_with_too_little_memory_is_told_apart() {
    let cluster = Wanted::model(&fixtures::gguf("qwen3_5_moe"))
        .memory("1MiB")
        .start()
        .await;
    let missing = |reply: &tests::Reply| {
        reply.status == 503 && reply.body["missing_bytes"].as_u64() > Some(0)
    };
    let reply = cluster.api().readiness("short of memory", missing).await;
    assert_eq!(reply.body["nodes"], 1, "{reply:?}");
    assert!(reply.retry_after_s.is_some(), "{reply:?}");
    assert!(
        !reply.body["detail"].as_str().unwrap().is_empty(),
        "{reply:?}"
    );
    let refused = cluster.api().chat("Hello", 4).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(
        refused.body["missing_bytes"].as_u64() > Some(0),
        "{refused:?}"
    );
}

//! Model files that are missing, broken, exchanged or cut off under a running node.

use std::fs;
use std::path::Path;

use serde_json::json;
use tests::process::{Ended, run};
use tests::{Wanted, fixtures, programs};

/// `coordinator serve` with a model that it must refuse.
async fn refused(model: &Path, dir: &Path) -> Ended {
    let data_dir = dir.join("coordinator");
    let arguments = [
        "serve",
        "--api",
        "127.0.0.1:0",
        "--mesh",
        "127.0.0.1:0",
        "--model",
        model.to_str().unwrap(),
        "--data-dir",
        data_dir.to_str().unwrap(),
    ];
    let ended = run(&programs::coordinator(), &arguments).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(!ended.err.contains("panicked"), "{ended:?}");
    ended
}

#[tokio::test]
async fn what_is_no_model_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.gguf");
    let ended = refused(&missing, dir.path()).await;
    assert!(
        ended.err.contains("missing.gguf") && ended.err.contains("expected"),
        "{ended:?}"
    );

    let garbage = dir.path().join("garbage.gguf");
    fs::write(&garbage, b"this is not a model").unwrap();
    let ended = refused(&garbage, dir.path()).await;
    assert!(ended.err.contains("garbage.gguf"), "{ended:?}");

    let bytes = fs::read(fixtures::gguf("qwen3_moe")).unwrap();
    let short = dir.path().join("short.gguf");
    fs::write(&short, &bytes[..bytes.len() / 2]).unwrap();
    let ended = refused(&short, dir.path()).await;
    assert!(ended.err.contains("short.gguf"), "{ended:?}");

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let ended = refused(&empty, dir.path()).await;
    assert!(ended.err.contains("empty"), "{ended:?}");
}

#[tokio::test]
async fn a_node_opens_only_the_model_that_the_coordinator_means() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixtures::copy(&fixtures::gguf("qwen3_moe"), dir.path());
    let mut cluster = Wanted::model(&model).nodes(0).start().await;
    // Another model takes its place before a node reads it; the coordinator still has the first one open.
    let other = fixtures::copy(&fixtures::gguf("llama"), cluster.dir());
    fs::rename(other, &model).unwrap();
    let invite = cluster.invite().await;
    cluster.join("n0", "256MiB", &invite);
    let nodes =
        |nodes: &serde_json::Value| nodes["nodes"][0]["trouble"].as_str().map(str::to_owned);
    let api = cluster.api();
    let said = api.readiness("trouble", |reply| {
        reply.body["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("n0"))
    });
    let reply = said.await;
    assert_eq!(reply.status, 503, "{reply:?}");
    let shown = cluster.told(&["nodes"]).await;
    let trouble = nodes(&shown).unwrap_or_default() + reply.body["detail"].as_str().unwrap();
    assert!(trouble.contains("model"), "{shown} {reply:?}");
    // The right file back in its place is found at the next attempt.
    fs::copy(fixtures::gguf("qwen3_moe"), &model).unwrap();
    api.ready().await;
}

#[tokio::test]
async fn a_model_cut_off_under_a_node_is_a_lost_node_and_no_wrong_answer() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixtures::copy(&fixtures::gguf("qwen3_5_moe"), dir.path());
    let cluster = Wanted::model(&model)
        .nodes(2)
        .serve(&["--plan", "layers"])
        .ready()
        .await;
    let api = cluster.api();
    api.greedy(&[1, 2, 3], 4, 0).await;
    let file = fs::OpenOptions::new().write(true).open(&model).unwrap();
    file.set_len(64 << 10).unwrap();
    let body = json!({"prompt": [1, 2, 3], "max_tokens": 8, "temperature": 0, "ignore_eos": true});
    let reply = api.post("/v1/completions", body).await;
    assert_ne!(reply.status, 200, "{reply:?}");
    let reply = api
        .readiness("not ready", |reply| reply.status == 503)
        .await;
    assert!(
        !reply.body["detail"].as_str().unwrap().is_empty(),
        "{reply:?}"
    );
    assert_eq!(api.get("/healthz").await.status, 200);
    let log = cluster.coordinator.process.all();
    assert!(!log.contains("panicked"), "{log}");
}

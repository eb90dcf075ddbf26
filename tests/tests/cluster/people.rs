//! Keys and usage as the owner meets them: commands, with a service and without.

use std::path::Path;

use serde_json::{Value, json};
use tests::process::{Ended, Process, run};
use tests::{Wanted, fixtures, programs};

async fn coordinator(dir: &Path, words: &[&str]) -> Ended {
    let mut arguments = words.to_vec();
    arguments.extend(["--json", "--data-dir", dir.to_str().unwrap()]);
    run(&programs::coordinator(), &arguments).await
}

/// Status of GET /v1/models with this key, or without one.
async fn models(api: &str, key: &str) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.get(format!("http://{api}/v1/models"));
    if !key.is_empty() {
        request = request.header("x-api-key", key);
    }
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_key_that_was_made_before_opens_the_api_to_the_network() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("coordinator");
    let ended = coordinator(&data, &["key", "list"]).await;
    assert_eq!(ended.code, Some(1), "nothing is there yet: {ended:?}");
    let made = coordinator(&data, &["key", "create", "--name", "ada"])
        .await
        .ok()
        .json();
    let key = made["key"].as_str().unwrap();
    let again = coordinator(&data, &["key", "create", "--name", "ada"]).await;
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.err.contains("'ada' has a key"), "{again:?}");

    let model = fixtures::gguf("qwen3_moe");
    let mut arguments = vec!["serve", "--json", "--model", model.to_str().unwrap()];
    arguments.extend(["--api", "0.0.0.0:0", "--mesh", "127.0.0.1:0"]);
    arguments.extend(["--data-dir", data.to_str().unwrap()]);
    let mut service = Process::start("coordinator", &programs::coordinator(), &arguments);
    let line = service.out_line("{").await;
    let facts: Value = serde_json::from_str(&line).unwrap();
    let port = facts["api"].as_str().unwrap().rsplit(':').next().unwrap();
    let api = format!("127.0.0.1:{port}");

    assert_eq!(models(&api, "").await, 401);
    assert_eq!(models(&api, key).await, 200);
    let made = coordinator(
        &data,
        &["key", "create", "--name", "ben", "--priority", "low"],
    )
    .await;
    let ben = made.ok().json();
    assert_eq!(models(&api, ben["key"].as_str().unwrap()).await, 200);
    let revoked = coordinator(&data, &["key", "revoke", "ada"]).await;
    assert_eq!(revoked.ok().json()["last"], false);
    assert_eq!(models(&api, key).await, 401);
    let revoked = coordinator(&data, &["key", "revoke", &ben["id"].to_string()]).await;
    assert_eq!(revoked.ok().json()["last"], true);
    assert_eq!(
        models(&api, "").await,
        401,
        "nobody is let in from the network without a key"
    );
    let listed = coordinator(&data, &["key", "list"]).await.ok().json();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 2, "{listed}");
    assert!(!service.all().contains(key), "no log shows a key");
}

#[tokio::test]
async fn what_was_used_outlives_the_service() {
    let mut cluster = Wanted::model(&fixtures::gguf("qwen3_moe")).ready().await;
    let body = json!({"prompt": [1, 2, 3], "max_tokens": 5, "temperature": 0, "ignore_eos": true});
    for _ in 0..2 {
        let reply = cluster.api().post("/v1/completions", body.clone()).await;
        assert_eq!(reply.status, 200);
    }
    let before = cluster.told(&["usage"]).await;
    let row = &before["usage"][0];
    assert_eq!(row["person"], "local");
    let counts = ["requests", "prompt_tokens", "completion_tokens"].map(|field| row[field].clone());
    assert_eq!(counts, [json!(2), json!(6), json!(10)], "{before}");
    assert_eq!(
        cluster.api().post("/v1/completions", body).await.status,
        200
    );

    cluster.restart_coordinator().await;

    let after = cluster.told(&["usage", "--days", "2"]).await;
    assert_eq!(after["usage"][0]["completion_tokens"], 15, "{after}");
    cluster.coordinator.process.terminate();
    cluster.coordinator.process.ended().await;
    let closed = cluster.told(&["usage", "--days", "2"]).await;
    assert_eq!(closed, after, "the record answers where no service runs");
}

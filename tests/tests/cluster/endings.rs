//! How a service ends: answers under way are finished, the exit code is 0, nothing stays behind.

use serde_json::{Value, json};
use tests::{Cluster, Wanted, fixtures};

async fn household() -> Cluster {
    Wanted::model(&fixtures::gguf("qwen3_5_moe")).ready().await
}

/// Ends the service in the middle of an answer; gives the number of tokens that the client got.
async fn in_the_middle(cluster: &mut Cluster, end: impl AsyncFnOnce(&mut Cluster)) -> usize {
    let body = json!({"prompt": [1, 2, 3], "max_tokens": 64, "temperature": 0, "ignore_eos": true});
    let mut stream = cluster.api().stream("/v1/completions", body).await;
    stream.next().await.unwrap();
    end(cluster).await;
    let mut tokens = 1;
    let mut finish = Value::Null;
    while let Some(event) = stream.next().await {
        assert!(event.get("error").is_none(), "{event}");
        finish = event["choices"][0]["finish_reason"].clone();
        tokens += 1;
    }
    assert_eq!(finish, "length");
    let ended = cluster.coordinator.process.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!cluster.data_dir().join("control.sock").exists());
    tokens
}

#[tokio::test]
async fn a_signal_lets_answers_finish() {
    let mut cluster = household().await;
    let tokens = in_the_middle(&mut cluster, async |cluster| {
        cluster.coordinator.process.terminate()
    })
    .await;
    assert_eq!(tokens, 64);
}

#[tokio::test]
async fn stop_lets_answers_finish() {
    let mut cluster = household().await;
    let tokens = in_the_middle(&mut cluster, async |cluster| {
        let answer = cluster.told(&["stop"]).await;
        assert_eq!(answer["stopping"], true);
    });
    assert_eq!(tokens.await, 64);
}

#[tokio::test]
async fn a_service_without_nodes_ends_as_well() {
    let mut cluster = Wanted::model(&fixtures::gguf("qwen3_moe"))
        .nodes(0)
        .start()
        .await;
    cluster.coordinator.process.signal("INT");
    let ended = cluster.coordinator.process.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

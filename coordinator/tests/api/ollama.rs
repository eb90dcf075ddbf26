//! What Ollama's clients ask about models, and how they are refused.

use coordinator::gateway::Phase;
use serde_json::json;

use crate::client::{ask, get, post_json, raw};
use crate::household::{CONTEXT, HIDDEN, Served};
use crate::table::rows;

#[tokio::test]
async fn the_model_is_described_as_ollama_does() {
    let served = Served::start().await;
    let version = get(served.address, "/api/version").await.json();
    assert!(version["version"].as_str().unwrap().starts_with("0."));
    assert_eq!(version["hearth"], env!("CARGO_PKG_VERSION"));

    let tags = get(served.address, "/api/tags").await.json();
    let details = json!({
        "parent_model": "", "format": "gguf", "family": "qwen35moe", "families": ["qwen35moe"],
        // 18,100 bytes of Q8_0 are 532 whole blocks of 32 values.
        "parameter_size": "17.0K", "quantization_level": "Q8_0",
    });
    let entry = json!({
        "name": "hearth-test:latest", "model": "hearth-test:latest", "size": 20_000,
        "digest": "ab".repeat(32), "details": details, "modified_at": "2023-11-14T22:13:20Z",
    });
    assert_eq!(tags, json!({"models": [entry]}));

    let running = get(served.address, "/api/ps").await.json();
    let model = &running["models"][0];
    assert_eq!(model["model"], "hearth-test:latest");
    assert_eq!(model["context_length"], CONTEXT);
    assert_eq!(
        (&model["size"], &model["size_vram"]),
        (&json!(20_000), &json!(0))
    );
    assert_eq!(model["details"], details);
    assert!(model["expires_at"].as_str().unwrap().ends_with('Z'));
    served.set_phase(Phase::Loading);
    let running = get(served.address, "/api/ps").await.json();
    assert_eq!(running, json!({"models": []}));
}

#[tokio::test]
async fn details_say_what_the_model_can_do() {
    let served = Served::start().await;
    for body in [
        json!({"model": "hearth-test"}),
        json!({"model": "hearth-test:latest", "verbose": true}),
        json!({"name": "hearth-test"}),
    ] {
        let reply = post_json(served.address, "/api/show", &body).await;
        assert_eq!(reply.status(), 200, "{body}");
        let reply = reply.json();
        assert_eq!(reply["details"]["family"], "qwen35moe");
        let info = &reply["model_info"];
        assert_eq!(info["general.architecture"], "qwen35moe");
        assert_eq!(info["general.parameter_count"], 17_024);
        assert_eq!(info["qwen35moe.context_length"], CONTEXT);
        assert_eq!(info["qwen35moe.embedding_length"], HIDDEN);
        assert_eq!(info["qwen35moe.block_count"], 1);
        assert_eq!(info["qwen35moe.expert_count"], 16);
        let capabilities = reply["capabilities"].as_array().unwrap();
        assert!(capabilities.contains(&json!("completion")));
    }
    let bare = Served::with(Default::default(), |model| model.template = None).await;
    let body = json!({"model": "hearth-test"});
    let reply = post_json(bare.address, "/api/show", &body).await.json();
    assert_eq!(reply["capabilities"], json!(["completion"]));
}

const REFUSALS: &str = r#"
{} => POST /api/show => 400 => `model` is missing
{"model": 5} => POST /api/show => 400 => `model` is 5; expected a string
{"model": "llama3"} => POST /api/show => 404 => `llama3` is not served
{"model": "hearth-test:7b"} => POST /api/show => 404 => is not served
{"model": "llama3"} => POST /api/pull => 403 => coordinator model add
{"model": "a"} => POST /api/push => 403 => coordinator model add
{"model": "a"} => POST /api/create => 403 => coordinator model add
{} => POST /api/copy => 403 => coordinator model add
{"model": "hearth-test"} => DELETE /api/delete => 403 => coordinator model add
{} => GET /api/nowhere => 404 => nothing is served at this path
{} => GET /api/show => 405 => does not take this method
{"model": "llama3", "input": "a"} => POST /api/embed => 404 => is not served
{"model": "hearth-test", "input": "a", "truncate": 1} => POST /api/embed => 400 => `truncate` is 1; expected true or false
{"model": "hearth-test", "prompt": ["a"]} => POST /api/embeddings => 400 => `prompt` is an array of 1; expected a string
{"model": "hearth-test"} => POST /api/embeddings => 400 => `prompt` is missing
"#;

#[tokio::test]
async fn refusals_have_ollama_s_form() {
    let served = Served::start().await;
    for (body, [place, status, message]) in rows(REFUSALS) {
        let (method, path) = place.split_once(' ').unwrap();
        let body = body.to_string();
        let headers = [("Content-Type", "application/json")];
        let request = raw(method, path, &headers, body.as_bytes());
        let reply = ask(served.address, &request).await;
        assert_eq!(reply.status().to_string(), status, "{place} {body}");
        let error = reply.json()["error"].clone();
        let text = error.as_str().unwrap();
        assert!(text.contains(message), "{place} {body}: {text}");
    }
    served.assert_nothing_seen().await;
}

//! Recorded answers: who gets them, in which order, and that nothing else can be drawn.

use std::sync::Arc;

use coordinator::gateway::GenerateRequest;
use coordinator::http::{HttpConfig, Replay};
use serde_json::{Value, json};

use crate::client::post_json;
use crate::format::lets;
use crate::household::Served;

const CALL: &str = "I look.\n\n<tool_call>\n<function=now>\n</function>\n</tool_call>";

async fn request(served: &Served, path: &str, tools: Value) -> GenerateRequest {
    let body = json!({
        "model": "hearth-test",
        "messages": [{"role": "user", "content": "Rain?"}],
        "max_tokens": 100,
        "tools": tools,
    });
    let reply = post_json(served.address, path, &body).await;
    assert_eq!(reply.status(), 200, "{:?}", reply.json());
    served.request().await
}

#[tokio::test]
async fn requests_with_tools_get_the_recorded_answers_in_their_order() {
    let file = json!([{"text": CALL, "reasoning": "why"}, {"text": "Done."}]).to_string();
    let config = HttpConfig {
        replay: Some(Arc::new(Replay::read(file.as_bytes()).unwrap())),
        ..HttpConfig::default()
    };
    let served = Served::with(config, |_| {}).await;
    let openai = json!([{"type": "function", "function": {"name": "now"}}]);
    let anthropic = json!([{"name": "now", "input_schema": {"type": "object"}}]);
    let (chat, messages) = ("/v1/chat/completions", "/v1/messages");

    let without = request(&served, chat, json!([])).await;
    assert_eq!(without.constraint, None);
    for (path, tools, text, other) in [
        (chat, &openai, CALL, "Done."),
        (messages, &anthropic, "Done.", CALL),
    ] {
        let constraint = request(&served, path, tools.clone()).await.constraint;
        let constraint = constraint.unwrap();
        assert!(lets(&served, &constraint, text), "{text}");
        assert!(!lets(&served, &constraint, other), "{other}");
        assert!(!lets(&served, &constraint, ""));
    }
    let after = request(&served, chat, openai).await;
    assert_eq!(after.constraint, None);
}

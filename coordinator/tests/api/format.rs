//! What answers have to look like: every field that says so reaches the household as a constraint.

use coordinator::gateway::Constraint;
use serde_json::{Value, json};

use crate::client::post_json;
use crate::household::{END, Served};

/// Whether a constraint lets a text through, end token and all.
pub fn lets(served: &Served, constraint: &Constraint, text: &str) -> bool {
    let mut ids = served.ids(text);
    ids.push(END);
    let (mut walk, mut mask) = constraint.begin();
    for (at, id) in ids.iter().enumerate() {
        if !mask.allows(*id) {
            return false;
        }
        if at + 1 < ids.len() {
            mask = walk.next(*id).unwrap();
        }
    }
    true
}

async fn constraint(served: &Served, path: &str, mut body: Value) -> Option<Constraint> {
    body["model"] = json!("hearth-test");
    if path.ends_with("chat/completions") {
        body["messages"] = json!([{"role": "user", "content": "Say it."}]);
    } else {
        body["prompt"] = json!("Say it.");
    }
    let reply = post_json(served.address, path, &body).await;
    assert_eq!(reply.status(), 200, "{:?}", reply.json());
    served.request().await.constraint
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": false,
    })
}

/// Fields, a text that they let through, and one that they do not.
fn cases() -> Vec<(Value, &'static str, &'static str)> {
    let json_schema =
        |inner: Value| json!({"response_format": {"type": "json_schema", "json_schema": inner}});
    let loose = json!({"type": "array", "items": {"type": "null"}, "uniqueItems": true});
    let grammar = "start: \"(\" start \")\" | \"x\"";
    vec![
        (
            json!({"response_format": {"type": "json_object"}}),
            r#"{"b": [1]}"#,
            "[1]",
        ),
        (
            json_schema(json!({"name": "n", "schema": schema(), "strict": true})),
            r#"{"a": 1}"#,
            r#"{"a": "1"}"#,
        ),
        (
            json_schema(json!({"schema": loose, "strict": false, "description": "d"})),
            "[null, null]",
            "[1]",
        ),
        (json_schema(json!({"schema": loose})), "[null, null]", "[1]"),
        (json!({"guided_json": schema()}), r#"{"a": 1}"#, "{}"),
        (
            json!({"guided_json": schema().to_string()}),
            r#"{"a": 1}"#,
            "{}",
        ),
        (json!({"guided_regex": "[ab]{2}"}), "ab", "abc"),
        (json!({"guided_choice": ["yes", "no"]}), "no", "maybe"),
        (json!({"grammar": grammar}), "((x))", "((x)"),
        (json!({"guided_grammar": grammar}), "x", "y"),
        (
            json!({"structured_outputs": {"json": schema()}}),
            r#"{"a": 1}"#,
            "{}",
        ),
        (
            json!({"structured_outputs": {"json_object": true}}),
            "{}",
            "1",
        ),
        (json!({"structured_outputs": {"regex": "a+"}}), "aaa", "b"),
        (json!({"structured_outputs": {"choice": ["a"]}}), "a", "aa"),
        (
            json!({"structured_outputs": {"grammar": grammar}}),
            "(x)",
            "()",
        ),
    ]
}

#[tokio::test]
async fn every_field_constrains_both_dialects() {
    let served = Served::start().await;
    served.say(served.speak("x"));
    for path in ["/v1/completions", "/v1/chat/completions"] {
        for (fields, good, bad) in cases() {
            let constraint = constraint(&served, path, fields.clone()).await.unwrap();
            assert!(lets(&served, &constraint, good), "{fields}: {good}");
            assert!(!lets(&served, &constraint, bad), "{fields}: {bad}");
        }
    }
}

#[tokio::test]
async fn a_request_that_asks_for_nothing_is_not_constrained() {
    let served = Served::start().await;
    served.say(served.speak("x"));
    let nothing = [
        json!({}),
        json!({"response_format": null}),
        json!({"response_format": {"type": "text"}}),
        json!({"structured_outputs": {"json_object": false}}),
        json!({"structured_outputs": {}, "grammar": null}),
    ];
    for fields in nothing {
        let constraint = constraint(&served, "/v1/completions", fields.clone()).await;
        assert_eq!(constraint, None, "{fields}");
    }
}

#[tokio::test]
async fn an_answer_that_begins_inside_its_reasoning_is_constrained_after_it() {
    let served = Served::start().await;
    served.say(served.speak("</think>\n\nyes"));
    let thinking = |on: bool| json!({"guided_choice": ["yes", "no"], "enable_thinking": on});
    let path = "/v1/chat/completions";
    let after = constraint(&served, path, thinking(true)).await.unwrap();
    assert!(lets(&served, &after, "Let me see.\n</think>\n\nyes"));
    assert!(!lets(&served, &after, "Let me see.\n</think>\n\nperhaps"));
    assert!(!lets(&served, &after, "yes"));
    let at_once = constraint(&served, path, thinking(false)).await.unwrap();
    assert!(lets(&served, &at_once, "yes"));
    assert!(!lets(&served, &at_once, "Let me see.\n</think>\n\nyes"));
}

/// A path, the fields of a request to it, a text that they let through, and one that they do not.
fn dialect_cases() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let ollama = |path, format: Value| {
        let body = json!({"prompt": "Say it.", "messages": [{"role": "user", "content": "a"}], "format": format});
        (path, body)
    };
    let flat = |kind: &str| json!({"type": kind, "name": "n", "schema": schema(), "strict": true});
    let mut all = Vec::new();
    for path in ["/api/chat", "/api/generate"] {
        let (path, body) = ollama(path, json!("json"));
        all.push((path, body, "{\"b\": [1]}", "[1]"));
        let (path, body) = ollama(path, schema());
        let mut raw = body.clone();
        raw["raw"] = json!(true);
        all.push((path, body, "{\"a\": 1}", "{\"a\": \"1\"}"));
        all.push((path, raw, "{\"a\": 1}", "{}"));
    }
    for (kind, bad) in [("json_object", "[1]"), ("json_schema", "{\"b\": 1}")] {
        let text = json!({"input": "Say it.", "text": {"format": flat(kind)}});
        all.push(("/v1/responses", text, "{\"a\": 1}", bad));
    }
    let message = json!({
        "max_tokens": 9, "messages": [{"role": "user", "content": "a"}],
        "output_config": {"format": {"type": "json_schema", "schema": schema()}},
    });
    all.push(("/v1/messages", message, "{\"a\": 1}", "{}"));
    all
}

#[tokio::test]
async fn every_dialect_has_a_word_for_it() {
    let served = Served::start().await;
    served.say(served.speak("x"));
    for (path, mut body, good, bad) in dialect_cases() {
        body["model"] = json!("hearth-test");
        let reply = post_json(served.address, path, &body).await;
        assert_eq!(reply.status(), 200, "{path} {body}");
        let constraint = served.request().await.constraint.unwrap();
        assert!(lets(&served, &constraint, good), "{path} {body}: {good}");
        assert!(!lets(&served, &constraint, bad), "{path} {body}: {bad}");
    }
}

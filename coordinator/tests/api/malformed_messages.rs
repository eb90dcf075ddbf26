//! Requests of Anthropic's dialect that are wrong in every way we could think of.

use serde_json::{Value, json};

use crate::client::{ask, post, raw};
use crate::household::Served;

/// A field of an otherwise good request, its value, and a part of the message: one case a line.
const FIELDS: &str = r#"
model | null | `model` is missing
model | 7 | `model` is 7; expected a string
max_tokens | null | `max_tokens` is missing
max_tokens | 0 | `max_tokens` is 0; expected an integer from 1
max_tokens | "5" | a string of 1 bytes; expected an integer
temperature | 1.5 | 1.5; expected a number from 0 to 1
temperature | "hot" | expected a number
top_p | 0 | `top_p` is 0; expected
top_k | 1.5 | `top_k` is 1.5; expected an integer
stream | "yes" | `stream` is a string of 3 bytes
stop_sequences | "a" | expected an array
stop_sequences | [""] | `stop_sequences[0]` is a string of 0 bytes
stop_sequences | [5] | `stop_sequences[0]` is 5
stop_sequences | [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17] | an array of 17
thinking | true | `thinking` is true; expected an object
thinking | {} | `thinking.type` is missing
thinking | {"type": "deep"} | `thinking.type` is an unknown text
thinking | {"type": "enabled"} | `thinking.budget_tokens` is missing
thinking | {"type": "enabled", "budget_tokens": 10} | `thinking.budget_tokens` is 10; expected an integer from 1024
thinking | {"type": "adaptive", "display": "loud"} | `thinking.display` is an unknown text
mcp_servers | [{"name": "x"}] | `mcp_servers` is an array of 1; this service cannot
container | "c" | `container` is a string of 1 bytes; this service cannot
output_format | {} | `output_format` is an object of 0; this service cannot
output_config | [] | `output_config` is an array of 0; expected an object
output_config | {"effort": 1} | `output_config.effort` is 1
output_config | {"format": {}} | `output_config.format` is an object of 0
"#;

/// As [`FIELDS`], of what both routes read.
const SHARED: &str = r#"
messages | null | `messages` is missing
messages | [] | an array of 0; expected an array of at least one message
messages | "hello" | a string of 5 bytes; expected an array
messages | ["hello"] | `messages[0]` is a string of 5 bytes
messages | [{"content": "a"}] | `messages[0].role` is missing
messages | [{"role": "system", "content": "a"}] | `messages[0].role` is not a known role
messages | [{"role": "user"}] | `messages[0].content` is missing
system | 5 | `system` is 5; expected a string or an array
system | [{"type": "image"}] | `system[0].type` names a block
messages | [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] | `messages[1].role` is `assistant` in the last
tools | {} | `tools` is an object of 0; expected an array
tools | ["f"] | `tools[0]` is a string of 1 bytes
tools | [{"name": "f"}] | `tools[0].input_schema` is missing
tools | [{"name": "f", "input_schema": []}] | `tools[0].input_schema` is an array of 0
tools | [{"input_schema": {}}] | `tools[0].name` is missing
tools | [{"name": "a b", "input_schema": {}}] | `tools[0].name` is a string of 3 bytes
tools | [{"type": "web_search_20250305", "name": "web_search"}] | `tools[0].type` names a tool
tools | [{"name": "f", "input_schema": {}}, {"name": "f", "input_schema": {}}] | `tools[1]` has the name of a tool before it
tools | [{"name": "f", "input_schema": {}, "strict": true}] | a tool is strict
tool_choice | "auto" | `tool_choice` is a string of 4 bytes
tool_choice | {} | `tool_choice.type` is missing
tool_choice | {"type": "required"} | `tool_choice.type` is an unknown text
tool_choice | {"type": "any"} | `tool_choice` demands a call; expected at least one tool
tool_choice | {"type": "tool"} | `tool_choice.name` is missing
tool_choice | {"type": "tool", "name": "g"} | `tool_choice.name` names no tool
tool_choice | {"type": "auto", "disable_parallel_tool_use": 1} | `tool_choice.disable_parallel_tool_use` is 1
"#;

/// A role, the content of the first message, and a part of the message: one case a line.
const CONTENTS: &str = r#"
user | 5 | `messages[0].content` is 5; expected a string or an array
user | ["a"] | `messages[0].content[0]` is a string of 1 bytes
user | [{"text": "a"}] | `messages[0].content[0].type` is missing
user | [{"type": "text"}] | `messages[0].content[0].text` is missing
user | [{"type": "text", "text": 1}] | `messages[0].content[0].text` is 1
user | [{"type": "text", "text": "a"}, {"type": "image", "source": {}}] | `messages[0].content[1].type` names a block that is not text
user | [{"type": "document"}] | `messages[0].content[0].type` names a block
user | [{"type": "tool_use"}] | `messages[0].content[0].type` names a block
user | [{"type": "tool_result"}] | `messages[0].content[0].tool_use_id` is missing
user | [{"type": "tool_result", "tool_use_id": "a", "is_error": "no"}] | `messages[0].content[0].is_error` is a string
user | [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]}] | `messages[0].content[0].content[0].type` names a block
user | [{"type": "tool_result", "content": 5}] | `messages[0].content[0].content` is 5
assistant | [{"type": "image"}] | `messages[0].content[0].type` names a block
assistant | [{"type": "server_tool_use"}] | `messages[0].content[0].type` names a block
assistant | [{"type": "thinking"}] | `messages[0].content[0].thinking` is missing
assistant | [{"type": "thinking", "thinking": "a", "signature": 1}] | `messages[0].content[0].signature` is 1
assistant | [{"type": "redacted_thinking"}] | `messages[0].content[0].data` is missing
assistant | [{"type": "tool_use"}] | `messages[0].content[0].input` is missing
assistant | [{"type": "tool_use", "id": "a", "name": "f", "input": "{}"}] | `messages[0].content[0].input` is a string of 2 bytes
assistant | [{"type": "tool_use", "id": "a", "input": {}}] | `messages[0].content[0].name` is missing
assistant | [{"type": "tool_use", "name": "f", "input": {}}] | `messages[0].content[0].id` is missing
"#;

/// The cells of a table.
fn rows(table: &str) -> Vec<(String, Value, String)> {
    let lines = table.lines().filter(|line| !line.is_empty());
    let rows = lines.map(|line| {
        let cells: Vec<&str> = line.splitn(3, " | ").collect();
        let value = serde_json::from_str(cells[1]).unwrap();
        (cells[0].to_owned(), value, cells[2].to_owned())
    });
    rows.collect()
}

/// What both routes read.
fn shared() -> Vec<(String, Value, String)> {
    let mut all = rows(SHARED);
    all.extend(rows(CONTENTS).into_iter().map(|(role, content, message)| {
        let last = json!({"role": "user", "content": "a"});
        let messages = json!([{"role": role, "content": content}, last]);
        ("messages".to_owned(), messages, message)
    }));
    all
}

fn good() -> Value {
    json!({"model": "hearth-test", "max_tokens": 5, "messages": [{"role": "user", "content": "a"}]})
}

#[tokio::test]
async fn bad_fields_are_named_in_this_dialect() {
    let served = Served::start().await;
    let create = [rows(FIELDS), shared()].concat();
    assert!(create.len() >= 70, "{}", create.len());
    for (path, cases) in [
        ("/v1/messages", create),
        ("/v1/messages/count_tokens", shared()),
    ] {
        for (field, value, message) in cases {
            let mut body = good();
            body[&field] = value;
            let reply = ask(served.address, &post(path, &body.to_string())).await;
            let answer = reply.json();
            assert_eq!(reply.status(), 400, "{body}");
            assert_eq!(answer["type"], "error", "{body}");
            assert_eq!(answer["error"]["type"], "invalid_request_error");
            let said = answer["error"]["message"].as_str().unwrap();
            assert!(said.contains(&message), "{body}: {said}");
        }
    }
    served.assert_nothing_seen().await;
    let reply = ask(served.address, &post("/v1/messages", &good().to_string())).await;
    assert_eq!(reply.status(), 200, "the service goes on");
}

#[tokio::test]
async fn what_is_wrong_before_the_fields_is_told_in_this_dialect() {
    let served = Served::start().await;
    let mut other = good();
    other["model"] = "claude-sonnet-4-5".into();
    let reply = ask(served.address, &post("/v1/messages", &other.to_string())).await;
    let error = reply.json()["error"].clone();
    assert_eq!(reply.status(), 404);
    assert_eq!(error["type"], "not_found_error");
    assert!(error["message"].as_str().unwrap().contains("`hearth-test`"));
    for (method, content_type, bytes, status, kind) in [
        (
            "POST",
            "application/json",
            "{",
            400,
            "invalid_request_error",
        ),
        (
            "POST",
            "application/json",
            "[]",
            400,
            "invalid_request_error",
        ),
        ("POST", "text/plain", "{}", 415, "invalid_request_error"),
        ("GET", "application/json", "", 405, "invalid_request_error"),
    ] {
        let headers = [("Content-Type", content_type)];
        let request = raw(method, "/v1/messages", &headers, bytes.as_bytes());
        let reply = ask(served.address, &request).await;
        assert_eq!(reply.status(), status);
        assert_eq!(reply.json()["error"]["type"], kind);
        assert_eq!(reply.head.header("allow").is_some(), status == 405);
    }
    served.assert_nothing_seen().await;
}

#[tokio::test]
async fn calls_that_are_demanded_are_refused_until_they_can_be_promised() {
    let served = Served::start().await;
    for choice in [json!({"type": "any"}), json!({"type": "tool", "name": "f"})] {
        let mut body = good();
        body["tools"] = json!([{"name": "f", "input_schema": {}}]);
        body["tool_choice"] = choice;
        let reply = ask(served.address, &post("/v1/messages", &body.to_string())).await;
        assert_eq!(reply.status(), 400);
        let said = reply.json()["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(said.contains("demands a call"), "{said}");
    }
}

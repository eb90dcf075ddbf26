//! Requests of Anthropic's dialect that are wrong in every way we could think of.

use serde_json::{Value, json};

use crate::client::{ask, post, raw};
use crate::household::Served;
use crate::table::rows;

/// The value of a field of an otherwise good request, the field, and a part of the message.
const FIELDS: &str = r#"
null => model => `model` is missing
7 => model => `model` is 7; expected a string
null => max_tokens => `max_tokens` is missing
0 => max_tokens => `max_tokens` is 0; expected an integer from 1
"5" => max_tokens => a string of 1 bytes; expected an integer
1.5 => temperature => 1.5; expected a number from 0 to 1
"hot" => temperature => expected a number
0 => top_p => `top_p` is 0; expected
1.5 => top_k => `top_k` is 1.5; expected an integer
"yes" => stream => `stream` is a string of 3 bytes
"a" => stop_sequences => expected an array
[""] => stop_sequences => `stop_sequences[0]` is a string of 0 bytes
[5] => stop_sequences => `stop_sequences[0]` is 5
[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17] => stop_sequences => an array of 17
true => thinking => `thinking` is true; expected an object
{} => thinking => `thinking.type` is missing
{"type": "deep"} => thinking => `thinking.type` is an unknown text
{"type": "enabled"} => thinking => `thinking.budget_tokens` is missing
{"type": "enabled", "budget_tokens": 10} => thinking => `thinking.budget_tokens` is 10; expected an integer from 1024
{"type": "adaptive", "display": "loud"} => thinking => `thinking.display` is an unknown text
[{"name": "x"}] => mcp_servers => `mcp_servers` is an array of 1; this service cannot
"c" => container => `container` is a string of 1 bytes; this service cannot
{} => output_format => `output_format` is an object of 0; this service cannot
[] => output_config => `output_config` is an array of 0; expected an object
{"effort": 1} => output_config => `output_config.effort` is 1
{"format": {}} => output_config => `output_config.format.type` is missing
{"format": {"type": "json_schema"}} => output_config => `output_config.format.schema` is missing
[{"name": "f", "input_schema": {"not": {}}, "strict": true}] => tools => `tools[0].input_schema.not` cannot be honoured
"#;

/// As [`FIELDS`], of what both routes read.
const SHARED: &str = r#"
null => messages => `messages` is missing
[] => messages => an array of 0; expected an array of at least one message
"hello" => messages => a string of 5 bytes; expected an array
["hello"] => messages => `messages[0]` is a string of 5 bytes
[{"content": "a"}] => messages => `messages[0].role` is missing
[{"role": "system", "content": "a"}] => messages => `messages[0].role` is not a known role
[{"role": "user"}] => messages => `messages[0].content` is missing
5 => system => `system` is 5; expected a string or an array
[{"type": "image"}] => system => `system[0].type` names a block
[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] => messages => `messages[1].role` is `assistant` in the last
{} => tools => `tools` is an object of 0; expected an array
["f"] => tools => `tools[0]` is a string of 1 bytes
[{"name": "f"}] => tools => `tools[0].input_schema` is missing
[{"name": "f", "input_schema": []}] => tools => `tools[0].input_schema` is an array of 0
[{"input_schema": {}}] => tools => `tools[0].name` is missing
[{"name": "a b", "input_schema": {}}] => tools => `tools[0].name` is a string of 3 bytes
[{"type": "web_search_20250305", "name": "web_search"}] => tools => `tools[0].type` names a tool
[{"name": "f", "input_schema": {}}, {"name": "f", "input_schema": {}}] => tools => `tools[1]` has the name of a tool before it
"auto" => tool_choice => `tool_choice` is a string of 4 bytes
{} => tool_choice => `tool_choice.type` is missing
{"type": "required"} => tool_choice => `tool_choice.type` is an unknown text
{"type": "any"} => tool_choice => `tool_choice` demands a call; expected at least one tool
{"type": "tool"} => tool_choice => `tool_choice.name` is missing
{"type": "tool", "name": "g"} => tool_choice => `tool_choice.name` names no tool
{"type": "auto", "disable_parallel_tool_use": 1} => tool_choice => `tool_choice.disable_parallel_tool_use` is 1
"#;

/// The content of the first message, its role, and a part of the message.
const CONTENTS: &str = r#"
5 => user => `messages[0].content` is 5; expected a string or an array
["a"] => user => `messages[0].content[0]` is a string of 1 bytes
[{"text": "a"}] => user => `messages[0].content[0].type` is missing
[{"type": "text"}] => user => `messages[0].content[0].text` is missing
[{"type": "text", "text": 1}] => user => `messages[0].content[0].text` is 1
[{"type": "text", "text": "a"}, {"type": "image", "source": {}}] => user => `messages[0].content[1].type` names a block that is not text
[{"type": "document"}] => user => `messages[0].content[0].type` names a block
[{"type": "tool_use"}] => user => `messages[0].content[0].type` names a block
[{"type": "tool_result"}] => user => `messages[0].content[0].tool_use_id` is missing
[{"type": "tool_result", "tool_use_id": "a", "is_error": "no"}] => user => `messages[0].content[0].is_error` is a string
[{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]}] => user => `messages[0].content[0].content[0].type` names a block
[{"type": "tool_result", "content": 5}] => user => `messages[0].content[0].content` is 5
[{"type": "image"}] => assistant => `messages[0].content[0].type` names a block
[{"type": "server_tool_use"}] => assistant => `messages[0].content[0].type` names a block
[{"type": "thinking"}] => assistant => `messages[0].content[0].thinking` is missing
[{"type": "thinking", "thinking": "a", "signature": 1}] => assistant => `messages[0].content[0].signature` is 1
[{"type": "redacted_thinking"}] => assistant => `messages[0].content[0].data` is missing
[{"type": "tool_use"}] => assistant => `messages[0].content[0].input` is missing
[{"type": "tool_use", "id": "a", "name": "f", "input": "{}"}] => assistant => `messages[0].content[0].input` is a string of 2 bytes
[{"type": "tool_use", "id": "a", "input": {}}] => assistant => `messages[0].content[0].name` is missing
[{"type": "tool_use", "name": "f", "input": {}}] => assistant => `messages[0].content[0].id` is missing
"#;

/// The value of a field, the field, and a part of the message.
type Case = (Value, [&'static str; 2]);

/// What both routes read.
fn shared() -> Vec<Case> {
    let mut all: Vec<Case> = rows(SHARED);
    all.extend(
        rows(CONTENTS)
            .into_iter()
            .map(|(content, [role, message])| {
                let last = json!({"role": "user", "content": "a"});
                let messages = json!([{"role": role, "content": content}, last]);
                (messages, ["messages", message])
            }),
    );
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
        for (value, [field, message]) in cases {
            let mut body = good();
            body[field] = value;
            let reply = ask(served.address, &post(path, &body.to_string())).await;
            let answer = reply.json();
            assert_eq!(reply.status(), 400, "{body}");
            assert_eq!(answer["type"], "error", "{body}");
            assert_eq!(answer["error"]["type"], "invalid_request_error");
            let said = answer["error"]["message"].as_str().unwrap();
            assert!(said.contains(message), "{body}: {said}");
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

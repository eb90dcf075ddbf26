//! `/v1/messages`, whole and streamed, and what Anthropic's clients ask besides.

use coordinator::gateway::{FinishReason, Refusal};
use coordinator::http::{HttpConfig, HttpLimits};
use model::SpecialText;
use serde_json::{Value, json};

use crate::client::{Connection, Reply, get, post, post_json, raw};
use crate::household::{CONTEXT, Say, Served};

const PATH: &str = "/v1/messages";
const CALL: &str = "<tool_call>\n<function=read>\n<parameter=path>\na.txt\n</parameter>\n<parameter=lines>\n3\n</parameter>\n</function>\n</tool_call>";

fn body(extra: Value) -> Value {
    let mut body = json!({
        "model": "hearth-test",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "Say it."}],
    });
    let fields = body.as_object_mut().unwrap();
    fields.extend(extra.as_object().unwrap().clone());
    body
}

fn tools() -> Value {
    json!([{"name": "read", "description": "Reads a file.", "input_schema": {
        "type": "object", "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}},
    }, "cache_control": {"type": "ephemeral"}}])
}

async fn send(served: &Served, extra: Value) -> Reply {
    post_json(served.address, PATH, &body(extra)).await
}

async fn prompt(served: &Served) -> String {
    let request = served.request().await;
    let tokenizer = &served.model.tokenizer;
    tokenizer.decode(&request.prompt, SpecialText::Keep)
}

/// Named events; each is of the type that its name says.
fn events(reply: &Reply) -> Vec<Value> {
    let text = String::from_utf8(reply.body.clone()).unwrap();
    assert_eq!(reply.status(), 200, "{text}");
    assert_eq!(reply.head.header("content-type"), Some("text/event-stream"));
    let frames = text.split_terminator("\n\n").map(|frame| {
        let (name, data) = frame.split_once('\n').unwrap();
        let event: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(event["type"], name.strip_prefix("event: ").unwrap());
        event
    });
    frames.collect()
}

/// A stream put together as clients do: the message as it would have come in one piece.
fn gathered(reply: &Reply) -> Value {
    let mut events = events(reply).into_iter();
    let mut message = events.next().unwrap()["message"].take();
    assert_eq!(message["stop_reason"], Value::Null);
    let mut json = String::new();
    let mut ended = false;
    for event in events {
        assert!(!ended, "nothing follows the end");
        let index = event["index"]
            .as_u64()
            .map(|index| usize::try_from(index).unwrap());
        let content = message["content"].as_array_mut().unwrap();
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(index, Some(content.len()));
                content.push(event["content_block"].clone());
                json.clear();
            }
            "content_block_delta" => {
                assert_eq!(index, Some(content.len() - 1), "one block at a time");
                let block = content.last_mut().unwrap();
                let delta = &event["delta"];
                let (field, more) = match delta["type"].as_str().unwrap() {
                    "text_delta" => ("text", &delta["text"]),
                    "thinking_delta" => ("thinking", &delta["thinking"]),
                    "signature_delta" => ("signature", &delta["signature"]),
                    "input_json_delta" => {
                        json += delta["partial_json"].as_str().unwrap();
                        continue;
                    }
                    other => panic!("{other}"),
                };
                let so_far = block[field].as_str().unwrap();
                block[field] = format!("{so_far}{}", more.as_str().unwrap()).into();
            }
            "content_block_stop" => {
                assert_eq!(index, Some(content.len() - 1));
                let block = content.last_mut().unwrap();
                if block["type"] == "tool_use" {
                    block["input"] = serde_json::from_str(&json).unwrap_or(json!(json));
                }
            }
            "message_delta" => {
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                message["stop_sequence"] = event["delta"]["stop_sequence"].clone();
                message["usage"] = event["usage"].clone();
            }
            "message_stop" => ended = true,
            "ping" => {}
            other => panic!("{other}"),
        }
    }
    assert!(ended);
    message
}

/// Without what differs between two answers.
fn settled(mut message: Value) -> Value {
    assert!(message["id"].as_str().unwrap().starts_with("msg_"));
    message["id"].take();
    for block in message["content"].as_array_mut().unwrap() {
        if block["type"] == "tool_use" {
            assert!(block["id"].as_str().unwrap().starts_with("call_"));
            block["id"].take();
        }
    }
    message
}

#[tokio::test]
async fn a_message_is_answered_whole_and_streamed_alike() {
    let served = Served::start().await;
    let said = format!("<think>\nHm.\n</think>\n\nI read.\n\n{CALL}\n{CALL}");
    served.say(served.speak(&said));
    let extra = json!({"tools": tools(), "thinking": {"type": "enabled", "budget_tokens": 1024}});
    served.say(served.speak(said.strip_prefix("<think>\n").unwrap()));

    let whole = settled(send(&served, extra.clone()).await.json());

    let prompt_tokens = served.request().await.prompt.len();
    let made = served.ids(said.strip_prefix("<think>\n").unwrap()).len() + 1;
    let signature = whole["content"][0]["signature"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(!signature.is_empty());
    let call = json!({"type": "tool_use", "id": null, "name": "read", "input": {"path": "a.txt", "lines": 3}});
    let expected = json!({
        "id": null, "type": "message", "role": "assistant", "model": "hearth-test",
        "content": [
            {"type": "thinking", "thinking": "Hm.\n", "signature": signature},
            {"type": "text", "text": "I read."}, call, call,
        ],
        "stop_reason": "tool_use", "stop_sequence": null,
        "usage": {
            "input_tokens": prompt_tokens, "output_tokens": made,
            "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
        },
    });
    assert_eq!(whole, expected);

    let mut streamed = extra.clone();
    streamed["stream"] = true.into();
    let reply = send(&served, streamed.clone()).await;
    assert_eq!(settled(gathered(&reply)), expected);
    let kinds: Vec<Value> = events(&reply).iter().map(|e| e["type"].clone()).collect();
    assert_eq!(kinds[..3], ["message_start", "ping", "content_block_start"]);

    // Thinking that is not wanted on the screen is marked all the same.
    let mut hidden = extra;
    hidden["thinking"]["display"] = "omitted".into();
    let whole = settled(send(&served, hidden.clone()).await.json());
    let block = json!({"type": "thinking", "thinking": "", "signature": signature});
    assert_eq!(whole["content"][0], block);
    hidden["stream"] = true.into();
    assert_eq!(settled(gathered(&send(&served, hidden).await)), whole);
}

#[tokio::test]
async fn endings_have_their_names() {
    let served = Served::start().await;
    let ids = served.ids("one two three");
    let cut = |max: u32| {
        let mut events: Vec<Say> = ids.iter().map(|id| Say::Token(0, *id)).collect();
        events.push(Say::Finished(0, FinishReason::Length));
        (events, json!({"max_tokens": max}))
    };
    let made = u32::try_from(ids.len()).unwrap();
    let stop = json!({"stop_sequences": ["never", "o th"]});
    let cases = [
        (
            served.speak("one"),
            json!({}),
            "one",
            "end_turn",
            Value::Null,
        ),
        (
            served.speak("one two three"),
            stop,
            "one tw",
            "stop_sequence",
            json!("o th"),
        ),
        (
            cut(made).0,
            cut(made).1,
            "one two three",
            "max_tokens",
            Value::Null,
        ),
        // More was wanted than the context holds.
        (
            cut(9999).0,
            cut(9999).1,
            "one two three",
            "model_context_window_exceeded",
            Value::Null,
        ),
    ];
    for (script, extra, text, reason, sequence) in cases {
        served.say(script);
        for stream in [false, true] {
            let mut extra = extra.clone();
            extra["stream"] = stream.into();
            let reply = send(&served, extra).await;
            let message = if stream {
                gathered(&reply)
            } else {
                reply.json()
            };
            assert_eq!(message["content"][0]["text"], text, "{reason}");
            assert_eq!(message["stop_reason"], reason);
            assert_eq!(message["stop_sequence"], sequence);
            let request = served.request().await;
            let room = CONTEXT - u32::try_from(request.prompt.len()).unwrap();
            assert!(request.max_tokens.unwrap() <= room);
        }
    }
}

#[tokio::test]
async fn a_conversation_with_tools_reaches_the_template() {
    let served = Served::start().await;
    let messages = json!([
        {"role": "user", "content": [
            {"type": "text", "text": "<note>", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "Read a.txt."},
        ]},
        {"role": "assistant", "content": [
            {"type": "redacted_thinking", "data": "xyz"},
            {"type": "thinking", "thinking": "Hm.", "signature": "any"},
            {"type": "text", "text": "I read."},
            {"type": "tool_use", "id": "t1", "name": "read", "input": {"path": "a.txt", "lines": 3}},
            {"type": "tool_use", "id": "t2", "name": "read", "input": {}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "alpha"},
            {"type": "tool_result", "tool_use_id": "t2", "is_error": true, "content": [
                {"type": "text", "text": "no"}, {"type": "text", "text": "path"},
            ]},
            {"type": "text", "text": "Well?"},
        ]},
    ]);
    let system =
        json!([{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]);
    let extra = json!({"messages": messages, "system": system, "tools": tools(), "metadata": {"user_id": "x"}});
    let path = "/v1/messages?beta=true";

    let reply = post_json(served.address, path, &body(extra.clone())).await;

    assert_eq!(reply.status(), 200, "{:?}", reply.json());
    let prompt = prompt(&served).await;
    let places: Vec<usize> = [
        "<|im_start|>system\nBe brief.\n\nBe kind.",
        r#"{"type": "function", "function": {"name": "read", "description": "Reads a file.", "parameters": "#,
        "user\n<note>\n\nRead a.txt.<|im_end|>",
        "assistant\nI read.<tool_call>\n<function=read>\n<parameter=path>\na.txt\n</parameter>\n<parameter=lines>\n3\n",
        "<tool_response>\nalpha\n",
        "<tool_response>\nError: no\n\npath\n",
        "user\nWell?<|im_end|>",
    ]
    .iter()
    .map(|part| prompt.find(part).unwrap_or_else(|| panic!("{part:?} in {prompt:?}")))
    .collect();
    assert!(places.is_sorted(), "{places:?}");

    // What is counted is what is read.
    let mut counted = body(extra);
    counted.as_object_mut().unwrap().remove("max_tokens");
    let count = post_json(
        served.address,
        "/v1/messages/count_tokens?beta=true",
        &counted,
    )
    .await;
    assert_eq!(
        count.json(),
        json!({"input_tokens": reply.json()["usage"]["input_tokens"]})
    );
}

#[tokio::test]
async fn thinking_is_off_unless_it_is_asked_for() {
    // The template of the test opens the tag where thinking is on.
    let served = Served::start().await;
    for (thinking, opened) in [
        (Value::Null, false),
        (json!({"type": "disabled"}), false),
        (json!({"type": "adaptive"}), true),
        (json!({"type": "enabled", "budget_tokens": 2000}), true),
    ] {
        send(&served, json!({"thinking": thinking})).await;
        let prompt = prompt(&served).await;
        assert_eq!(
            prompt.ends_with("<think>\n"),
            opened,
            "{thinking}: {prompt}"
        );
    }
}

#[tokio::test]
async fn sampling_fields_arrive() {
    let served = Served::start().await;
    let extra = json!({
        "temperature": 0.5, "top_p": 0.25, "top_k": 7, "stop_sequences": ["a"], "service_tier": "auto",
        "context_management": {"edits": []}, "output_config": {"effort": "high"}, "mcp_servers": [],
    });
    assert_eq!(send(&served, extra).await.status(), 200);
    let request = served.request().await;
    let sampling = &request.sampling;
    assert_eq!(
        (sampling.temperature, sampling.top_p, sampling.top_k),
        (0.5, 0.25, 7)
    );
    assert_eq!(request.max_tokens, Some(64));
    send(&served, json!({})).await;
    let sampling = served.request().await.sampling;
    assert_eq!(
        (sampling.temperature, sampling.top_p, sampling.top_k),
        (0.75, 0.95, 20)
    );
}

#[tokio::test]
async fn a_call_that_is_never_closed_is_no_tool_use() {
    let served = Served::start().await;
    let (begun, _) = CALL.split_once("xt\n").unwrap();
    served.say(served.speak(&format!("So.\n{begun}")));
    let whole = send(&served, json!({"tools": tools()})).await.json();
    assert_eq!(whole["content"], json!([{"type": "text", "text": "So."}]));
    assert_eq!(whole["stop_reason"], "end_turn");
    let streamed = gathered(&send(&served, json!({"tools": tools(), "stream": true})).await);
    assert_eq!(streamed["content"][1]["input"], "{\"path\": \"a.t");
    assert_eq!(streamed["stop_reason"], "end_turn");
}

#[tokio::test]
async fn one_call_is_one_call() {
    let served = Served::start().await;
    served.say(served.speak(&format!("{CALL}\n{CALL}")));
    let choice = json!({"type": "auto", "disable_parallel_tool_use": true});
    let extra = json!({"tools": tools(), "tool_choice": choice});
    let whole = send(&served, extra).await.json();
    assert_eq!(whole["content"].as_array().unwrap().len(), 1);
    let none = json!({"tools": tools(), "tool_choice": {"type": "none"}});
    let whole = send(&served, none).await.json();
    assert_eq!(whole["content"][0]["type"], "text");
}

#[tokio::test]
async fn failures_speak_this_dialect() {
    let served = Served::start().await;
    let token = served.ids("A")[0];
    served.say(vec![Say::Token(0, token), Say::Token(0, token), Say::Fail]);
    let reply = send(&served, json!({"stream": true})).await;
    let last = events(&reply).pop().unwrap();
    assert_eq!(last["type"], "error");
    assert_eq!(last["error"]["type"], "overloaded_error");
    for (refusal, status, kind, message) in [
        (
            Refusal::Busy { retry_after_s: 7 },
            429,
            "rate_limit_error",
            "busy",
        ),
        (Refusal::NotReady, 503, "overloaded_error", "not ready"),
        (
            Refusal::Context {
                prompt: 9,
                wanted: 9,
                context: 10,
            },
            400,
            "invalid_request_error",
            "prompt is too long: the prompt has 9 tokens",
        ),
    ] {
        served.script(move |_| Err(refusal.clone()));
        let reply = send(&served, json!({"stream": true})).await;
        assert_eq!(reply.status(), status);
        let body = reply.json();
        assert_eq!(body["type"], "error");
        assert_eq!(body["error"]["type"], kind);
        let said = body["error"]["message"].as_str().unwrap();
        assert!(said.contains(message), "{said}");
    }
    let long = send(
        &served,
        json!({"messages": [{"role": "user", "content": "a ".repeat(2000)}]}),
    )
    .await;
    assert_eq!(long.status(), 400);
    let said = long.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(said.starts_with("prompt is too long"), "{said}");
}

#[tokio::test]
async fn silence_is_filled_with_pings() {
    let limits = HttpLimits {
        keep_alive: std::time::Duration::from_millis(5),
        ..HttpLimits::default()
    };
    let config = HttpConfig {
        limits,
        ..HttpConfig::default()
    };
    let served = Served::with(config, |_| {}).await;
    let go = std::sync::Arc::new(tokio::sync::Notify::new());
    served.say(vec![Say::Wait(std::sync::Arc::clone(&go))]);
    let mut client = Connection::open(served.address).await;
    client
        .send(&post(PATH, &body(json!({"stream": true})).to_string()))
        .await;
    client.head().await;
    // The message begins at once, before any token is there.
    assert!(
        client
            .chunk()
            .await
            .unwrap()
            .starts_with("event: message_start\n")
    );
    let ping = "event: ping\ndata: {\"type\":\"ping\"}\n\n";
    assert_eq!(client.chunk().await.as_deref(), Some(ping));
    assert_eq!(client.chunk().await.as_deref(), Some(ping));
}

#[tokio::test]
async fn clients_that_look_around_find_their_way() {
    let served = Served::start().await;
    let mut client = Connection::open(served.address).await;
    client.send(&raw("HEAD", "/", &[], b"")).await;
    assert_eq!(client.head().await.status, 200);
    let list = get(served.address, "/v1/models?limit=1000").await.json();
    assert_eq!(list["data"][0]["type"], "model");
    assert_eq!(list["data"][0]["display_name"], "hearth-test");
    assert_eq!(list["first_id"], "hearth-test");
    assert_eq!(list["has_more"], false);
}

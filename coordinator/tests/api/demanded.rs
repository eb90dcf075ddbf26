//! Calls that are demanded, and strict tools: a constraint reaches the household, and what follows it is read as a call.

use serde_json::{Value, json};

use crate::client::post_json;
use crate::format::lets;
use crate::household::Served;

const CALL: &str = "<tool_call>\n<function=weather>\n<parameter=city>\nUlm\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>";
const NOW: &str = "<tool_call>\n<function=now>\n</function>\n</tool_call>";

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"city": {"enum": ["Ulm", "Rome"]}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": false,
    })
}

/// A request to a path with two tools.
fn body(path: &str, strict: bool, extra: &Value) -> Value {
    let mut body = json!({"model": "hearth-test", "max_tokens": 99});
    let none = json!({"type": "object", "properties": {}});
    let functions = [("weather", schema(), strict), ("now", none, false)];
    let tools = functions.map(|(name, schema, strict)| match path {
        "/v1/chat/completions" => {
            let function = json!({"name": name, "parameters": schema, "strict": strict});
            json!({"type": "function", "function": function})
        }
        "/v1/responses" => {
            json!({"type": "function", "name": name, "parameters": schema, "strict": strict})
        }
        _ => json!({"name": name, "input_schema": schema, "strict": strict}),
    });
    body["tools"] = json!(tools);
    match path {
        "/v1/responses" => body["input"] = json!("Rain?"),
        _ => body["messages"] = json!([{"role": "user", "content": "Rain?"}]),
    }
    let fields = body.as_object_mut().unwrap();
    fields.extend(extra.as_object().unwrap().clone());
    body
}

/// The name and the arguments of the first call of an answer.
fn called(path: &str, answer: &Value) -> (Value, Value) {
    let parsed = |text: &Value| serde_json::from_str(text.as_str().unwrap()).unwrap();
    match path {
        "/v1/chat/completions" => {
            let choice = &answer["choices"][0];
            assert_eq!(choice["finish_reason"], "tool_calls");
            let function = &choice["message"]["tool_calls"][0]["function"];
            (function["name"].clone(), parsed(&function["arguments"]))
        }
        "/v1/responses" => {
            let item = &answer["output"][0];
            assert_eq!(item["type"], "function_call");
            (item["name"].clone(), parsed(&item["arguments"]))
        }
        _ => {
            assert_eq!(answer["stop_reason"], "tool_use");
            let block = &answer["content"][0];
            (block["name"].clone(), block["input"].clone())
        }
    }
}

/// A path, and how it demands some call and that of `weather`.
fn demands() -> [(&'static str, Value, Value); 3] {
    let named = json!({"type": "function", "function": {"name": "weather"}});
    [
        (
            "/v1/chat/completions",
            json!({"tool_choice": "required"}),
            json!({"tool_choice": named}),
        ),
        (
            "/v1/responses",
            json!({"tool_choice": "required"}),
            json!({"tool_choice": {"type": "function", "name": "weather"}}),
        ),
        (
            "/v1/messages",
            json!({"tool_choice": {"type": "any"}}),
            json!({"tool_choice": {"type": "tool", "name": "weather"}}),
        ),
    ]
}

#[tokio::test]
async fn a_demanded_call_is_a_constraint_and_comes_as_a_call() {
    let served = Served::start().await;
    served.say(served.speak(CALL));
    for (path, some, named) in demands() {
        for (extra, now) in [(some, true), (named, false)] {
            let reply = post_json(served.address, path, &body(path, false, &extra)).await;
            assert_eq!(reply.status(), 200, "{path} {extra}: {:?}", reply.json());
            let (name, arguments) = called(path, &reply.json());
            assert_eq!(name, "weather");
            assert_eq!(arguments, json!({"city": "Ulm", "days": 3}));
            let constraint = served.request().await.constraint.unwrap();
            for (text, expected) in [
                (CALL.to_owned(), true),
                (format!("{CALL}\n{CALL}"), true),
                (NOW.to_owned(), now),
                (CALL.replace("Ulm", "Ull"), false),
                (format!("I look.\n\n{CALL}"), false),
                ("No.".to_owned(), false),
            ] {
                let lets = lets(&served, &constraint, &text);
                assert_eq!(lets, expected, "{path} {extra}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn strict_tools_bind_calls_and_leave_text_free() {
    let served = Served::start().await;
    served.say(served.speak("It rains."));
    for (path, ..) in demands() {
        let reply = post_json(served.address, path, &body(path, true, &json!({}))).await;
        assert_eq!(reply.status(), 200, "{path}: {:?}", reply.json());
        let constraint = served.request().await.constraint.unwrap();
        for (text, expected) in [
            ("It rains.".to_owned(), true),
            (format!("I look.\n\n{CALL}\n{NOW}"), true),
            (CALL.replace("Ulm", "Ull"), false),
            (CALL.replace("weather", "feather"), false),
        ] {
            assert_eq!(
                lets(&served, &constraint, &text),
                expected,
                "{path}: {text}"
            );
        }
        // Nothing binds without a strict tool, or where none may be called.
        let none = match path {
            "/v1/messages" => json!({"tool_choice": {"type": "none"}}),
            _ => json!({"tool_choice": "none"}),
        };
        for (strict, extra) in [(false, json!({})), (true, none)] {
            post_json(served.address, path, &body(path, strict, &extra)).await;
            assert_eq!(served.request().await.constraint, None, "{path}");
        }
    }
}

#[tokio::test]
async fn one_call_at_a_time_and_reasoning_before_it() {
    let served = Served::start().await;
    served.say(served.speak(&format!("Hm.\n</think>\n\n{CALL}")));
    let path = "/v1/chat/completions";
    let extra = json!({
        "tool_choice": "required", "parallel_tool_calls": false, "enable_thinking": true,
    });
    let reply = post_json(served.address, path, &body(path, false, &extra)).await;
    let (name, _) = called(path, &reply.json());
    assert_eq!(name, "weather");
    let constraint = served.request().await.constraint.unwrap();
    for (text, expected) in [
        (format!("Hm.\n</think>\n\n{CALL}"), true),
        (format!("Hm.\n</think>\n\n{CALL}\n{CALL}"), false),
        ("Hm.\n</think>\n\nNo.".to_owned(), false),
    ] {
        assert_eq!(lets(&served, &constraint, &text), expected, "{text}");
    }
}

#[tokio::test]
async fn a_format_and_tools_hold_side_by_side() {
    let served = Served::start().await;
    served.say(served.speak("{}"));
    let path = "/v1/chat/completions";
    let extra = json!({"response_format": {"type": "json_object"}});
    let reply = post_json(served.address, path, &body(path, false, &extra)).await;
    assert_eq!(reply.status(), 200);
    let constraint = served.request().await.constraint.unwrap();
    for (text, expected) in [("{}", true), (CALL, true), ("It rains.", false)] {
        assert_eq!(lets(&served, &constraint, text), expected, "{text}");
    }
    let regex = json!({"guided_regex": "a+"});
    let reply = post_json(served.address, path, &body(path, false, &regex)).await;
    assert_eq!(reply.status(), 400);
    assert_eq!(reply.json()["error"]["param"], "guided_regex");
    served.assert_nothing_seen().await;
}

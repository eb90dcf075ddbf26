//! Calls of tools over `/v1/chat/completions`, whole and streamed, in every form that models write.

use coordinator::gateway::FinishReason;
use model::{ChatTemplate, SpecialText};
use serde_json::{Value, json};

use crate::client::{Reply, post_json};
use crate::household::{Say, Seen, Served};

const PATH: &str = "/v1/chat/completions";
const XML: &str = "Let me look.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nSão \"P\"\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>";

fn tools() -> Value {
    json!([
        {"type": "function", "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {"type": "object", "properties": {
                "city": {"type": "string"}, "days": {"type": "integer"},
            }, "required": ["city"]},
        }},
        {"type": "function", "function": {"name": "now"}},
    ])
}

async fn send(served: &Served, extra: Value) -> Reply {
    let mut body = json!({
        "model": "hearth-test",
        "messages": [{"role": "user", "content": "Rain?"}],
        "tools": tools(),
    });
    let fields = body.as_object_mut().unwrap();
    fields.extend(extra.as_object().unwrap().clone());
    post_json(served.address, PATH, &body).await
}

async fn prompt(served: &Served) -> String {
    let request = served.request().await;
    let tokenizer = &served.model.tokenizer;
    tokenizer.decode(&request.prompt, SpecialText::Keep)
}

/// A stream put together as clients do.
fn gathered(reply: &Reply) -> Value {
    assert_eq!(reply.status(), 200, "{:?}", reply.json());
    let mut events = reply.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let (mut content, mut calls, mut finish) = (String::new(), Vec::<Value>::new(), Value::Null);
    for event in events {
        let event: Value = serde_json::from_str(&event).unwrap();
        let choice = &event["choices"][0];
        assert_eq!(finish, Value::Null, "nothing follows the end");
        finish = choice["finish_reason"].clone();
        content += choice["delta"]["content"].as_str().unwrap_or_default();
        for delta in choice["delta"]["tool_calls"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let index = usize::try_from(delta["index"].as_u64().unwrap()).unwrap();
            if index == calls.len() {
                assert_eq!(delta["type"], "function");
                let id = delta["id"].as_str().unwrap();
                calls.push(json!({"id": id, "name": delta["function"]["name"], "arguments": ""}));
            } else {
                assert_eq!(index + 1, calls.len(), "calls come one after the other");
                assert!(delta.get("id").is_none() && delta["function"].get("name").is_none());
            }
            let more = delta["function"]["arguments"].as_str().unwrap();
            let so_far = calls[index]["arguments"].as_str().unwrap();
            calls[index]["arguments"] = format!("{so_far}{more}").into();
        }
    }
    json!({"content": content, "calls": calls, "finish": finish})
}

#[tokio::test]
async fn a_call_comes_whole() {
    let served = Served::start().await;
    served.say(served.speak(XML));

    let answer = send(&served, json!({})).await.json();

    let prompt = prompt(&served).await;
    let described = r#"{"type": "function", "function": {"name": "weather", "description": "The weather of a city.", "parameters": {"type": "object", "properties": {"city": {"type": "string"}"#;
    assert!(prompt.contains(described), "{prompt}");
    assert!(prompt.contains(r#"{"type": "function", "function": {"name": "now"}}"#));
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let message = &choice["message"];
    assert_eq!(message["content"], "Let me look.");
    let call = &message["tool_calls"][0];
    assert_eq!(call["type"], "function");
    assert_eq!(call["function"]["name"], "weather");
    let arguments = call["function"]["arguments"].as_str().unwrap();
    let arguments: Value = serde_json::from_str(arguments).unwrap();
    assert_eq!(arguments, json!({"city": "São \"P\"", "days": 3}));
    assert!(call["id"].as_str().unwrap().starts_with("call_"));
    assert_eq!(message["tool_calls"].as_array().unwrap().len(), 1);

    // Nothing but a call: no content at all.
    let (_, call) = XML.split_once("\n\n").unwrap();
    served.say(served.speak(call));
    let answer = send(&served, json!({})).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], Value::Null);
}

#[tokio::test]
async fn a_call_streams_with_one_event_a_token() {
    let served = Served::start().await;
    served.say(served.speak(XML));

    let reply = send(&served, json!({"stream": true})).await;

    assert_eq!(reply.events().len(), served.ids(XML).len() + 2);
    let answer = gathered(&reply);
    assert_eq!(answer["content"], "Let me look.");
    assert_eq!(answer["finish"], "tool_calls");
    assert_eq!(answer["calls"][0]["name"], "weather");
    assert_eq!(
        answer["calls"][0]["arguments"],
        r#"{"city": "São \"P\"", "days": 3}"#
    );
    let arguments = reply
        .events()
        .iter()
        .filter(|e| e.contains("arguments"))
        .count();
    assert!(arguments > 5, "arguments come in pieces: {arguments}");
}

#[tokio::test]
async fn calls_may_be_several_or_one() {
    let served = Served::start().await;
    let call = "<tool_call>\n<function=now>\n</function>\n</tool_call>";
    let two = format!("{call}\n{call}");
    served.say(served.speak(&two));
    let answer = gathered(&send(&served, json!({"stream": true})).await);
    let calls = answer["calls"].as_array().unwrap();
    assert_eq!(calls.len(), 2);
    assert_ne!(calls[0]["id"], calls[1]["id"]);
    assert_eq!(calls[1]["arguments"], "{}");
    served.request().await;

    let reply = send(
        &served,
        json!({"stream": true, "parallel_tool_calls": false}),
    )
    .await;
    let answer = gathered(&reply);
    assert_eq!(answer["calls"].as_array().unwrap().len(), 1);
    assert_eq!(answer["finish"], "tool_calls");
    // The household hears that the rest is not wanted.
    served.request().await;
    assert!(matches!(
        served.seen().await,
        Seen::Stop(_, 0) | Seen::Cancel(_)
    ));
}

#[tokio::test]
async fn reasoning_and_stop_texts_leave_calls_whole() {
    let served = Served::start().await;
    served.say(served.speak(&format!("<think>\nParis.\n</think>\n\n{XML}")));
    let answer = send(&served, json!({"stop": ["São", "</function>"]}))
        .await
        .json();
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "Paris.\n");
    assert_eq!(message["content"], "Let me look.");
    assert_eq!(message["tool_calls"][0]["function"]["name"], "weather");
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn without_a_choice_of_tools_markup_is_text() {
    let served = Served::start().await;
    served.say(served.speak(XML));
    for extra in [
        json!({"tool_choice": "none"}),
        json!({"tools": []}),
        json!({"tools": null}),
    ] {
        let answer = send(&served, extra.clone()).await.json();
        let choice = &answer["choices"][0];
        assert_eq!(choice["message"]["content"], XML, "{extra}");
        assert_eq!(choice["finish_reason"], "stop");
        assert!(choice["message"].get("tool_calls").is_none());
        let prompt = prompt(&served).await;
        assert!(!prompt.contains("weather"), "{prompt}");
    }
}

#[tokio::test]
async fn a_call_that_is_cut_off_keeps_what_is_there() {
    let served = Served::start().await;
    let (begun, _) = XML.split_once("</parameter>").unwrap();
    let mut events: Vec<Say> = served
        .ids(begun)
        .into_iter()
        .map(|id| Say::Token(0, id))
        .collect();
    events.push(Say::Finished(0, FinishReason::Length));
    served.say(events);
    let answer = gathered(&send(&served, json!({"stream": true})).await);
    assert_eq!(answer["finish"], "length");
    assert_eq!(answer["calls"][0]["arguments"], r#"{"city": "São \"P\""#);

    // The model itself ends inside: nobody is told that the call is complete.
    served.say(served.speak(begun));
    let answer = send(&served, json!({})).await.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn every_form_of_calls_is_read() {
    let hermes = "{% for m in messages %}{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments | tojson }}{% endif %}{% endfor %}{{ tools | tojson }}<tool_call>";
    let llama = "<|start_header_id|>{% for m in messages %}{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments | tojson }}{% endif %}{% endfor %}{% if tools %}parameters{% endif %}";
    for (source, text) in [
        (
            hermes,
            "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": [1]}}\n</tool_call>",
        ),
        (llama, "{\"name\": \"now\", \"parameters\": {\"a\": [1]}}"),
    ] {
        let template = ChatTemplate::new(source, None, None).unwrap();
        let served =
            Served::with(Default::default(), |model| model.template = Some(template)).await;
        served.say(served.speak(text));
        let messages = json!([
            {"role": "user", "content": "When?"},
            {"role": "assistant", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{\"b\": 2}"}},
            ]},
            {"role": "tool", "tool_call_id": "c1", "content": "noon"},
        ]);
        let answer = gathered(&send(&served, json!({"stream": true, "messages": messages})).await);
        assert_eq!(answer["finish"], "tool_calls", "{text}");
        assert_eq!(answer["calls"][0]["name"], "now");
        assert_eq!(answer["calls"][0]["arguments"], "{\"a\": [1]}");
        assert!(prompt(&served).await.contains("{\"b\": 2}noon"));
    }
}

#[tokio::test]
async fn a_model_that_knows_no_tools_says_so() {
    let template = ChatTemplate::new("{{ messages[0].content }}", None, None).unwrap();
    let served = Served::with(Default::default(), |model| model.template = Some(template)).await;
    let reply = send(&served, json!({})).await;
    assert_eq!(reply.status(), 400);
    assert_eq!(reply.json()["error"]["param"], "tools");
    assert_eq!(reply.json()["error"]["code"], "unsupported_parameter");
    served.assert_nothing_seen().await;
    let reply = send(&served, json!({"tools": []})).await;
    assert_eq!(reply.status(), 200);
}

#[tokio::test]
async fn a_template_that_takes_one_system_message_gets_one() {
    let source = "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('only first') }}{% endif %}[{{ m.role }}: {{ m.content }}]{% endfor %}";
    let template = ChatTemplate::new(source, None, None).unwrap();
    let served = Served::with(Default::default(), |model| model.template = Some(template)).await;
    for (messages, expected) in [
        (
            json!([
                {"role": "system", "content": "A"}, {"role": "developer", "content": "B"},
                {"role": "user", "content": "C"}, {"role": "system", "content": "D"},
            ]),
            "[system: A\n\nB][user: C][user: D]",
        ),
        (
            json!([{"role": "system", "content": "A"}, {"role": "user", "content": "C"}]),
            "[system: A][user: C]",
        ),
    ] {
        let reply = send(&served, json!({"tools": [], "messages": messages})).await;
        assert_eq!(reply.status(), 200);
        assert_eq!(prompt(&served).await, expected);
    }
}

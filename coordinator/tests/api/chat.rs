//! `/v1/chat/completions`, whole and streamed.

use coordinator::gateway::{FinishReason, Refusal};
use serde_json::{Value, json};

use crate::client::{Reply, post_json};
use crate::household::{END, Say, Seen, Served, sampled};

const PATH: &str = "/v1/chat/completions";

fn body(extra: Value) -> Value {
    let mut body = json!({
        "model": "hearth-test",
        "messages": [{"role": "user", "content": "Say it."}],
    });
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    body
}

async fn send(served: &Served, extra: Value) -> Reply {
    post_json(served.address, PATH, &body(extra)).await
}

fn parsed(reply: &Reply) -> Vec<Value> {
    assert_eq!(
        reply.status(),
        200,
        "{:?}",
        String::from_utf8_lossy(&reply.body)
    );
    let mut events = reply.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    events
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

fn joined(events: &[Value], field: &str) -> String {
    events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"][field].as_str())
        .collect()
}

#[tokio::test]
async fn a_chat_is_rendered_answered_and_counted() {
    let served = Served::start().await;
    served.say(served.speak("It is said."));

    let reply = send(&served, json!({})).await;

    let request = served.request().await;
    let prompt = served
        .model
        .tokenizer
        .decode(&request.prompt, model::SpecialText::Keep);
    assert_eq!(
        prompt,
        "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(request.max_tokens, None);
    assert_eq!(request.stop_ids, [512, END]);
    assert_eq!(request.sampling.temperature, 0.75);
    assert_eq!(request.sampling.top_k, 20);
    assert_eq!(request.sampling.top_p, 0.95);
    let answer = reply.json();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "hearth-test");
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["message"]["content"], "It is said.");
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["logprobs"], Value::Null);
    let made = served.ids("It is said.").len() + 1;
    assert_eq!(answer["usage"]["prompt_tokens"], request.prompt.len());
    assert_eq!(answer["usage"]["completion_tokens"], made);
    assert_eq!(answer["usage"]["total_tokens"], request.prompt.len() + made);
}

#[tokio::test]
async fn every_token_is_an_event_and_the_last_one_has_the_reason() {
    let served = Served::start().await;
    // A character spread over tokens, and an end id: both have events with empty text.
    let text = "caf\u{e9} \u{1f600}!";
    served.say(served.speak(text));

    let reply = send(
        &served,
        json!({"stream": true, "stream_options": {"include_usage": true}}),
    )
    .await;

    assert_eq!(reply.head.header("content-type"), Some("text/event-stream"));
    let mut events = parsed(&reply);
    let usage = events.pop().unwrap();
    let tokens = served.ids(text).len() + 1;
    assert_eq!(events.len(), tokens);
    assert_eq!(joined(&events, "content"), text);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events[0]["object"], "chat.completion.chunk");
    for (index, event) in events.iter().enumerate() {
        let choice = &event["choices"][0];
        let last = index + 1 == tokens;
        assert_eq!(
            choice["finish_reason"],
            if last { json!("stop") } else { Value::Null }
        );
        assert_eq!(choice["delta"].get("role").is_some(), index == 0);
        assert_eq!(event["usage"], Value::Null);
        assert_eq!(event["id"], usage["id"]);
    }
    assert!(
        events
            .iter()
            .any(|event| event["choices"][0]["delta"]["content"] == "")
    );
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], tokens);
}

#[tokio::test]
async fn without_the_option_no_event_speaks_of_usage() {
    let served = Served::start().await;
    served.say(served.speak("Yes."));
    let events = parsed(&send(&served, json!({"stream": true})).await);
    assert_eq!(events.len(), served.ids("Yes.").len() + 1);
    assert!(events.iter().all(|event| event.get("usage").is_none()));
}

#[tokio::test]
async fn reasoning_is_split_from_the_answer() {
    let served = Served::start().await;
    // The template opens the tag itself when thinking is on; otherwise the model does.
    for (thinking, text) in [
        (true, "Let me see.\n</think>\n\nFour."),
        (false, "<think>\nLet me see.\n</think>\n\nFour."),
    ] {
        served.say(served.speak(text));
        let extra = json!({"chat_template_kwargs": {"enable_thinking": thinking}});
        let whole = send(&served, extra).await.json();
        let message = &whole["choices"][0]["message"];
        assert_eq!(message["content"], "Four.", "{thinking}");
        assert_eq!(message["reasoning_content"], "Let me see.\n");
        let details = &whole["usage"]["completion_tokens_details"];
        assert!(details["reasoning_tokens"].as_u64().unwrap() > 0);

        let extra = json!({"enable_thinking": thinking, "stream": true});
        let events = parsed(&send(&served, extra).await);
        assert_eq!(joined(&events, "content"), "Four.");
        assert_eq!(joined(&events, "reasoning_content"), "Let me see.\n");
        assert_eq!(events.len(), served.ids(text).len() + 1);
    }
    served.say(served.speak("Four."));
    let effort = send(&served, json!({"reasoning_effort": "none"})).await;
    assert_eq!(effort.json()["choices"][0]["message"]["content"], "Four.");
}

#[tokio::test]
async fn choices_are_independent_and_the_prompt_counts_once() {
    let served = Served::start().await;
    let (a, b) = (served.ids("A"), served.ids("B"));
    served.say(vec![
        Say::Token(1, b[0]),
        Say::Token(0, a[0]),
        Say::Last(1, END, FinishReason::Stop),
        Say::Last(0, a[0], FinishReason::Length),
    ]);

    let whole = send(&served, json!({"n": 2, "max_tokens": 2})).await.json();

    let request = served.request().await;
    assert_eq!((request.choices, request.max_tokens), (2, Some(2)));
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices[0]["message"]["content"], "AA");
    assert_eq!(choices[0]["finish_reason"], "length");
    assert_eq!(choices[1]["message"]["content"], "B");
    assert_eq!(choices[1]["finish_reason"], "stop");
    assert_eq!(whole["usage"]["prompt_tokens"], request.prompt.len());
    assert_eq!(whole["usage"]["completion_tokens"], 4);

    let events = parsed(&send(&served, json!({"n": 2, "stream": true})).await);
    let order: Vec<_> = events
        .iter()
        .map(|event| event["choices"][0]["index"].as_u64().unwrap())
        .collect();
    assert_eq!(order, [1, 0, 1, 0]);
    assert_eq!(events[1]["choices"][0]["delta"]["role"], "assistant");
}

#[tokio::test]
async fn log_probabilities_keep_their_bits() {
    let served = Served::start().await;
    let token = served.ids("A")[0];
    let half = served.ids("\u{1f600}")[0];
    let values = [-0.1_f32, -1.234_567_9, -17.000_002, f32::NEG_INFINITY];
    let top = [
        (token, values[0]),
        (half, values[1]),
        (575, values[2]),
        (1, values[3]),
    ];
    served.say(vec![
        Say::Sampled(0, sampled(token, values[0], &top)),
        Say::Finished(0, FinishReason::Length),
    ]);

    let whole = send(&served, json!({"logprobs": true, "top_logprobs": 3})).await;

    assert_eq!(served.request().await.sampling.logprobs, Some(3));
    let answer = whole.json();
    let entry = &answer["choices"][0]["logprobs"]["content"][0];
    assert_eq!(entry["token"], "A");
    assert_eq!(entry["bytes"], json!([65]));
    let read = |value: &Value| value.as_f64().unwrap() as f32;
    assert_eq!(read(&entry["logprob"]).to_bits(), values[0].to_bits());
    let alternatives = entry["top_logprobs"].as_array().unwrap();
    assert_eq!(alternatives.len(), 3);
    for (alternative, value) in alternatives.iter().zip(values) {
        assert_eq!(read(&alternative["logprob"]).to_bits(), value.to_bits());
    }
    // Half a character and an id without a token still have labels.
    assert!(
        alternatives[1]["token"]
            .as_str()
            .unwrap()
            .starts_with("bytes:\\x")
    );
    assert_eq!(alternatives[2]["token"], "token_id:575");
    assert_eq!(alternatives[2]["bytes"], Value::Null);
    let text = String::from_utf8(whole.body).unwrap();
    assert!(text.contains("\"logprob\":-0.1,"), "written as f32: {text}");

    let reply = send(
        &served,
        json!({"logprobs": true, "stream": true, "return_tokens_as_token_ids": true}),
    )
    .await;
    let events = parsed(&reply);
    let entry = &events[0]["choices"][0]["logprobs"]["content"][0];
    assert_eq!(entry["token"], format!("token_id:{token}"));
    assert_eq!(entry["top_logprobs"], json!([]));
    assert_eq!(events[0]["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn messages_of_all_roles_reach_the_template() {
    let served = Served::start().await;
    let messages = json!([
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "What "}, {"type": "text", "text": "time?"}]},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{\"zone\": \"UTC\"}"}}
        ]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ]);

    let reply = send(&served, json!({"messages": messages})).await;

    assert_eq!(reply.status(), 200, "{:?}", reply.json());
    let request = served.request().await;
    let prompt = served
        .model
        .tokenizer
        .decode(&request.prompt, model::SpecialText::Keep);
    assert!(
        prompt.starts_with("<|im_start|>system\nBe kind."),
        "{prompt}"
    );
    assert!(prompt.contains("user\nWhat time?<|im_end|>"), "{prompt}");
    assert!(
        prompt.contains("<parameter=zone>\nUTC\n</parameter>"),
        "{prompt}"
    );
    assert!(prompt.contains("<tool_response>\nnoon\n"), "{prompt}");
}

#[tokio::test]
async fn a_failure_ends_a_stream_with_an_error_event() {
    let served = Served::start().await;
    let token = served.ids("A")[0];
    for (last, code) in [
        (Say::Fail, "node_lost"),
        (Say::Vanish, "broken_off"),
        (Say::Finished(0, FinishReason::Cancelled), "cancelled"),
    ] {
        served.say(vec![Say::Token(0, token), Say::Token(0, token), last]);

        let reply = send(&served, json!({"stream": true})).await;

        let events = reply.events();
        let error: Value = serde_json::from_str(events.last().unwrap()).unwrap();
        assert_eq!(error["error"]["code"], code);
        assert_eq!(error["error"]["type"], "server_error");
        assert!(!events.iter().any(|event| event == "[DONE]"));

        let whole = send(&served, json!({})).await;
        assert_eq!(whole.status(), 503);
        assert_eq!(whole.json()["error"]["code"], code);
        assert!(whole.head.header("retry-after").is_some());
    }
}

#[tokio::test]
async fn refusals_have_their_status() {
    let served = Served::start().await;
    let cases = [
        (Refusal::Busy { retry_after_s: 7 }, 429, "busy", Some("7")),
        (Refusal::NotReady, 503, "not_ready", Some("5")),
        (
            Refusal::Context {
                prompt: 9,
                wanted: 9,
                context: 10,
            },
            400,
            "context_length_exceeded",
            None,
        ),
    ];
    for (refusal, status, code, retry) in cases {
        served.script(move |_| Err(refusal.clone()));
        let reply = send(&served, json!({"stream": true})).await;
        assert_eq!(reply.status(), status);
        assert_eq!(reply.json()["error"]["code"], code);
        assert_eq!(reply.head.header("retry-after"), retry);
    }
}

#[tokio::test]
async fn sampling_fields_arrive_as_sent() {
    let served = Served::start().await;
    let extra = json!({
        "temperature": 0.0, "top_p": 0.5, "top_k": -1, "min_p": 0.25, "presence_penalty": -1.5,
        "frequency_penalty": 1.5, "repetition_penalty": 1.125, "seed": -1, "min_tokens": 3,
        "max_completion_tokens": 8, "ignore_eos": true, "stop_token_ids": [9],
        "logit_bias": {"9": -100, "3": 1.5}, "user": "ada", "metadata": {"a": 1}, "unheard_of": [1],
        "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "n": null,
    });

    let reply = send(&served, extra).await;

    assert_eq!(reply.status(), 200, "{:?}", reply.json());
    let request = served.request().await;
    let sampling = &request.sampling;
    assert_eq!(
        (sampling.temperature, sampling.top_p, sampling.top_k),
        (0.0, 0.5, 0)
    );
    assert_eq!(
        (sampling.min_p, sampling.presence, sampling.frequency),
        (0.25, -1.5, 1.5)
    );
    assert_eq!((sampling.repetition, sampling.seed), (1.125, u64::MAX));
    assert_eq!(sampling.bias, [(3, 1.5), (9, -100.0)]);
    assert_eq!((request.min_tokens, request.max_tokens), (3, Some(8)));
    assert_eq!(request.stop_ids, [9]);
}

#[tokio::test]
async fn seeds_differ_unless_given() {
    let served = Served::start().await;
    let mut seeds = Vec::new();
    for extra in [json!({}), json!({}), json!({"seed": 5}), json!({"seed": 5})] {
        send(&served, extra).await;
        seeds.push(served.request().await.sampling.seed);
    }
    assert_ne!(seeds[0], seeds[1]);
    assert_eq!(seeds[2..], [5, 5]);
}

#[tokio::test]
async fn a_model_without_template_answers_400() {
    let served = Served::with(Default::default(), |model| model.template = None).await;
    let reply = send(&served, json!({})).await;
    assert_eq!(reply.status(), 400);
    let message = reply.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains("no chat template"), "{message}");
    served.assert_nothing_seen().await;
}

#[tokio::test]
async fn a_complete_answer_cancels_nothing() {
    let served = Served::start().await;
    served.say(served.speak("Done."));
    send(&served, json!({})).await;
    send(&served, json!({"stream": true})).await;
    assert!(matches!(served.seen().await, Seen::Generate(_)));
    assert!(matches!(served.seen().await, Seen::Generate(_)));
    served.assert_nothing_seen().await;
}

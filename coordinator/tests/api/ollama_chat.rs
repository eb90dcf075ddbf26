//! `/api/chat` and `/api/generate`: lines and whole answers, options, and everything that is refused.

use std::sync::Arc;

use coordinator::gateway::{FinishReason, GenerateRequest, Refusal};
use serde_json::{Value, json};

use crate::client::{Connection, Reply, post, post_json};
use crate::household::{END, Say, Seen, Served};

const CHAT: &str = "/api/chat";
const GENERATE: &str = "/api/generate";

fn with(mut body: Value, extra: &Value) -> Value {
    let object = body.as_object_mut().unwrap();
    object.extend(extra.as_object().unwrap().clone());
    body
}

fn chat_body(extra: Value) -> Value {
    let body =
        json!({"model": "hearth-test", "messages": [{"role": "user", "content": "Say it."}]});
    with(body, &extra)
}

fn generate_body(extra: Value) -> Value {
    with(json!({"model": "hearth-test", "prompt": "Say it."}), &extra)
}

fn lines(reply: &Reply) -> Vec<Value> {
    let text = String::from_utf8(reply.body.clone()).unwrap();
    assert_eq!(reply.status(), 200, "{text}");
    assert_eq!(
        reply.head.header("content-type"),
        Some("application/x-ndjson")
    );
    assert!(text.ends_with('\n'));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn prompt_text(served: &Served, request: &GenerateRequest) -> String {
    let tokenizer = &served.model.tokenizer;
    tokenizer.decode(&request.prompt, model::SpecialText::Keep)
}

/// The last line's counts fit the answer, and its times add up.
fn check_end(end: &Value, request: &GenerateRequest, tokens: usize) {
    assert_eq!(end["done"], true);
    assert_eq!(end["prompt_eval_count"], request.prompt.len());
    assert_eq!(end["eval_count"], tokens);
    let time = |name: &str| end[name].as_u64().unwrap();
    assert_eq!(time("load_duration"), 0);
    let parts = time("prompt_eval_duration") + time("eval_duration");
    assert_eq!(time("total_duration"), parts);
    assert!(time("prompt_eval_duration") > 0);
    // The first token and the end came at different moments.
    assert!(time("eval_duration") > 0);
}

#[tokio::test]
async fn a_chat_comes_as_lines_one_a_token() {
    let served = Served::start().await;
    served.say(served.speak("It is said."));
    let body = chat_body(json!({"model": "hearth-test:latest", "keep_alive": "5m", "format": ""}));

    let reply = post_json(served.address, CHAT, &body).await;

    let request = served.request().await;
    assert_eq!(
        prompt_text(&served, &request),
        "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n"
    );
    let mut lines = lines(&reply);
    let end = lines.pop().unwrap();
    let tokens = served.ids("It is said.").len() + 1;
    assert_eq!(lines.len(), tokens);
    let mut text = String::new();
    for line in &lines {
        assert_eq!(line["model"], "hearth-test:latest");
        assert_eq!(line["done"], false);
        assert_eq!(line["message"]["role"], "assistant");
        assert!(line["created_at"].as_str().unwrap().starts_with("20"));
        text.push_str(line["message"]["content"].as_str().unwrap());
    }
    assert_eq!(text, "It is said.");
    assert_eq!(end["message"], json!({"role": "assistant", "content": ""}));
    assert_eq!(end["done_reason"], "stop");
    check_end(&end, &request, tokens);
}

#[tokio::test]
async fn whole_answers_have_thinking_apart() {
    let served = Served::start().await;
    for (think, opened) in [
        (json!(true), true),
        (json!("high"), true),
        (json!(false), false),
    ] {
        let text = match opened {
            true => "Hm.\n</think>\n\nFour.",
            false => "<think>\nHm.\n</think>\n\nFour.",
        };
        served.say(served.speak(text));
        let body = chat_body(json!({"think": think, "stream": false}));
        let reply = post_json(served.address, CHAT, &body).await;
        let request = served.request().await;
        let prompt = prompt_text(&served, &request);
        assert_eq!(prompt.ends_with("<think>\n"), opened, "{think}");
        assert_eq!(reply.head.header("content-type"), Some("application/json"));
        let answer = reply.json();
        let message = &answer["message"];
        assert_eq!(
            (&message["role"], &message["content"]),
            (&json!("assistant"), &json!("Four."))
        );
        assert_eq!(message["thinking"].as_str().unwrap().trim_end(), "Hm.");
        assert!(message.get("tool_calls").is_none());
        check_end(&answer, &request, served.ids(text).len() + 1);

        served.say(served.speak(text));
        let body = generate_body(json!({"think": think, "stream": false}));
        let answer = post_json(served.address, GENERATE, &body).await.json();
        assert_eq!(answer["response"], "Four.");
        assert_eq!(answer["thinking"].as_str().unwrap().trim_end(), "Hm.");
        served.request().await;
    }
}

#[tokio::test]
async fn a_text_is_continued_with_the_template_or_without() {
    let served = Served::start().await;
    served.say(served.speak("Yes."));
    let system = json!({"system": "Be brief."});
    let raw = json!({"raw": true, "system": "Be brief."});
    for (extra, prompt) in [
        (
            json!({}),
            "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            system,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n",
        ),
        (raw, "Say it."),
    ] {
        let reply = post_json(served.address, GENERATE, &generate_body(extra)).await;
        let request = served.request().await;
        assert_eq!(prompt_text(&served, &request), prompt);
        let mut lines = lines(&reply);
        let end = lines.pop().unwrap();
        let text: String = lines
            .iter()
            .map(|line| line["response"].as_str().unwrap())
            .collect();
        assert_eq!(text, "Yes.");
        assert_eq!(
            (&end["response"], &end["done_reason"]),
            (&json!(""), &json!("stop"))
        );
        check_end(&end, &request, served.ids("Yes.").len() + 1);
    }
    let bare = Served::with(Default::default(), |model| model.template = None).await;
    let body = generate_body(json!({"system": "Be brief.", "stream": false}));
    assert_eq!(post_json(bare.address, GENERATE, &body).await.status(), 200);
    let request = bare.request().await;
    assert_eq!(prompt_text(&bare, &request), "Be brief.\n\nSay it.");
}

#[tokio::test]
async fn a_client_that_only_loads_the_model_is_told_that_it_is_there() {
    let served = Served::start().await;
    for (path, body) in [
        (CHAT, json!({"model": "hearth-test", "messages": []})),
        (CHAT, json!({"model": "hearth-test"})),
        (GENERATE, json!({"model": "hearth-test"})),
        (GENERATE, json!({"model": "hearth-test", "prompt": ""})),
    ] {
        let reply = post_json(served.address, path, &body).await;
        assert_eq!(reply.status(), 200, "{path}");
        let answer = reply.json();
        assert_eq!(
            (&answer["done"], &answer["done_reason"]),
            (&json!(true), &json!("load"))
        );
        assert_eq!(answer["model"], "hearth-test");
    }
    served.assert_nothing_seen().await;
}

#[tokio::test]
async fn every_option_reaches_the_sampler() {
    let served = Served::start().await;
    let options = json!({"temperature": 0.5, "top_k": 7, "top_p": 0.5, "min_p": 0.25, "seed": 9,
        "repeat_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": -0.5, "num_predict": 3,
        "stop": ["END"], "num_ctx": 1_000_000, "num_gpu": 1, "num_thread": 4, "repeat_last_n": -1,
        "typical_p": 1, "mirostat": 0});
    served.say(vec![Say::Last(0, END, FinishReason::Stop)]);
    for (path, body) in [
        (
            CHAT,
            chat_body(json!({"options": options, "stream": false})),
        ),
        (
            GENERATE,
            generate_body(json!({"options": options, "stream": false})),
        ),
    ] {
        assert_eq!(post_json(served.address, path, &body).await.status(), 200);
        let request = served.request().await;
        let sampling = &request.sampling;
        let got = [
            sampling.temperature,
            sampling.top_p,
            sampling.min_p,
            sampling.repetition,
            sampling.presence,
            sampling.frequency,
        ];
        assert_eq!(got, [0.5, 0.5, 0.25, 1.5, 0.5, -0.5], "{path}");
        assert_eq!((sampling.top_k, sampling.seed), (7, 9));
        assert_eq!(request.max_tokens, Some(3));
        assert_eq!(request.stop_ids, [512, END]);
    }
}

#[tokio::test]
async fn options_that_ask_for_nothing_leave_the_model_s_own() {
    let served = Served::start().await;
    served.say(vec![Say::Last(0, END, FinishReason::Stop)]);
    let cases = [
        json!({}),
        json!({"num_predict": -1, "seed": -1, "top_k": null}),
        json!({"num_predict": -2, "repeat_penalty": 1.5, "repeat_last_n": 0}),
        json!({"num_predict": 4_000_000_000_u64}),
    ];
    let mut seeds = Vec::new();
    for options in cases {
        let body = chat_body(json!({"options": options, "stream": false}));
        assert_eq!(post_json(served.address, CHAT, &body).await.status(), 200);
        let request = served.request().await;
        assert_eq!(request.max_tokens, None, "{options}");
        assert_eq!(request.sampling.temperature, 0.75);
        assert_eq!(request.sampling.top_k, 20);
        assert_eq!(request.sampling.repetition, 1.0);
        seeds.push(request.sampling.seed);
    }
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 4, "each draws its own");
    let body = chat_body(json!({"options": {"top_k": -1, "seed": -5}, "stream": false}));
    assert_eq!(post_json(served.address, CHAT, &body).await.status(), 200);
    let request = served.request().await;
    assert_eq!(request.sampling.top_k, 0);
    assert_eq!(request.sampling.seed, (-5_i64).cast_unsigned());
}

#[tokio::test]
async fn stops_and_lengths_are_told_apart() {
    let served = Served::start().await;
    served.say(served.speak("One END two"));
    let body = chat_body(json!({"options": {"stop": "END"}, "stream": false}));
    let answer = post_json(served.address, CHAT, &body).await.json();
    assert_eq!(answer["message"]["content"], "One ");
    assert_eq!(answer["done_reason"], "stop");
    let id = served.ids("a")[0];
    served.say(vec![Say::Last(0, id, FinishReason::Length)]);
    let body = generate_body(json!({"stream": false}));
    let answer = post_json(served.address, GENERATE, &body).await.json();
    assert_eq!(
        (&answer["response"], &answer["done_reason"]),
        (&json!("a"), &json!("length"))
    );
}

#[tokio::test]
async fn what_was_said_before_is_rendered() {
    let served = Served::start().await;
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?", "images": []},
        {"role": "assistant", "content": "", "thinking": "Ask.", "tool_calls":
            [{"function": {"name": "weather", "arguments": {"city": "Bonn"}}}]},
        {"role": "tool", "tool_name": "weather", "content": "Rain."},
    ]);
    let body = json!({"model": "hearth-test", "messages": messages, "stream": false});
    assert_eq!(post_json(served.address, CHAT, &body).await.status(), 200);
    let prompt = prompt_text(&served, &served.request().await);
    for part in [
        "Be brief.",
        "<function=weather>",
        "<parameter=city>\nBonn",
        "<tool_response>\nRain.",
    ] {
        assert!(prompt.contains(part), "{part} in {prompt}");
    }
}

#[tokio::test]
async fn failures_have_ollama_s_form_before_and_inside_a_stream() {
    let served = Served::start().await;
    let id = served.ids("a")[0];
    served.say(vec![Say::Token(0, id), Say::Fail]);
    let reply = post_json(served.address, CHAT, &chat_body(json!({}))).await;
    let lines = lines(&reply);
    assert_eq!(lines.len(), 2);
    assert_eq!(
        lines[1],
        json!({"error": "node kitchen was lost; send the request again"})
    );
    let reply = post_json(served.address, CHAT, &chat_body(json!({"stream": false}))).await;
    assert_eq!(reply.status(), 503);
    assert_eq!(reply.json()["error"], lines[1]["error"]);
    served.script(|_| Err(Refusal::Busy { retry_after_s: 7 }));
    let reply = post_json(served.address, GENERATE, &generate_body(json!({}))).await;
    assert_eq!(reply.status(), 429);
    assert_eq!(reply.head.header("retry-after"), Some("7"));
    assert!(reply.json()["error"].as_str().unwrap().contains("busy"));
}

#[tokio::test]
async fn a_client_that_leaves_cancels() {
    let served = Served::start().await;
    let id = served.ids("a")[0];
    let never = Arc::new(tokio::sync::Notify::new());
    served.say(vec![Say::Token(0, id), Say::Wait(never)]);
    let mut client = Connection::open(served.address).await;
    client
        .send(&post(CHAT, &chat_body(json!({})).to_string()))
        .await;
    assert_eq!(client.head().await.status, 200);
    assert!(client.chunk().await.unwrap().contains("\"content\":\"a\""));
    assert!(matches!(served.seen().await, Seen::Generate(_)));
    drop(client);
    assert!(matches!(served.seen().await, Seen::Cancel(_)));
}

/// Fields of a request to either path, the status, and a part of the message.
fn shared_cases() -> Vec<(Value, u16, &'static str)> {
    let options = |options: Value| json!({ "options": options });
    vec![
        (json!({"model": null}), 400, "`model` is missing"),
        (json!({"model": 5}), 400, "`model` is 5; expected a string"),
        (
            json!({"model": "llama3"}),
            404,
            "the model `llama3` is not served",
        ),
        (json!({"model": ":latest"}), 404, "is not served here"),
        (
            json!({"stream": "yes"}),
            400,
            "`stream` is a string of 3 bytes; expected true or false",
        ),
        (
            json!({"think": "max"}),
            400,
            "expected true, false, low, medium or high",
        ),
        (json!({"think": 1}), 400, "`think` is 1; expected"),
        (
            json!({"format": "xml"}),
            400,
            "`format` is a string of 3 bytes",
        ),
        (
            json!({"template": "{{ .Prompt }}"}),
            400,
            "`template` is a string",
        ),
        (
            json!({"context": [1, 2]}),
            400,
            "`context` is an array of 2",
        ),
        (
            json!({"suffix": "}"}),
            400,
            "`suffix` is a string of 1 bytes",
        ),
        (json!({"logprobs": true}), 400, "`logprobs` is true"),
        (json!({"top_logprobs": 3}), 400, "`top_logprobs` is 3"),
        (
            json!({"options": []}),
            400,
            "`options` is an array of 0; expected an object",
        ),
        (
            options(json!({"temperature": 2.5})),
            400,
            "`options.temperature` is 2.5; expected a number",
        ),
        (
            options(json!({"temperature": "0"})),
            400,
            "`options.temperature` is a string",
        ),
        (
            options(json!({"top_p": 0})),
            400,
            "`options.top_p` is 0; expected",
        ),
        (
            options(json!({"top_k": -2})),
            400,
            "`options.top_k` is -2; expected an integer",
        ),
        (
            options(json!({"min_p": 2})),
            400,
            "`options.min_p` is 2; expected",
        ),
        (
            options(json!({"seed": 0.5})),
            400,
            "`options.seed` is 0.5; expected an integer of 64 bits",
        ),
        (
            options(json!({"repeat_penalty": 0})),
            400,
            "`options.repeat_penalty` is 0; expected",
        ),
        (
            options(json!({"repeat_last_n": 64})),
            400,
            "expected -1 (the whole text) or 0 (off)",
        ),
        (
            options(json!({"presence_penalty": 3})),
            400,
            "`options.presence_penalty` is 3",
        ),
        (
            options(json!({"frequency_penalty": "x"})),
            400,
            "`options.frequency_penalty` is a string",
        ),
        (
            options(json!({"num_predict": 0})),
            400,
            "expected -2, -1 or an integer from 1",
        ),
        (
            options(json!({"num_predict": -3})),
            400,
            "`options.num_predict` is -3",
        ),
        (
            options(json!({"num_predict": 1.5})),
            400,
            "`options.num_predict` is 1.5",
        ),
        (
            options(json!({"num_ctx": 0})),
            400,
            "`options.num_ctx` is 0; expected an integer from 1",
        ),
        (
            options(json!({"stop": ""})),
            400,
            "`options.stop` is a string of 0 bytes",
        ),
        (
            options(json!({"stop": ["a", 1]})),
            400,
            "`options.stop[1]` is 1; expected",
        ),
        (
            options(json!({"typical_p": 0.5})),
            400,
            "`options.typical_p` is set",
        ),
        (
            options(json!({"mirostat": 2})),
            400,
            "`options.mirostat` is set",
        ),
        (
            options(json!({"num_predict": 600})),
            400,
            "the context holds 512",
        ),
    ]
}

fn message(message: Value) -> Value {
    json!({ "messages": [message] })
}

fn chat_cases() -> Vec<(Value, u16, &'static str)> {
    let call = |call: Value| message(json!({"role": "assistant", "tool_calls": [call]}));
    vec![
        (
            json!({"messages": "hi"}),
            400,
            "`messages` is a string of 2 bytes; expected an array",
        ),
        (
            json!({"messages": ["hi"]}),
            400,
            "`messages[0]` is a string of 2 bytes; expected an object",
        ),
        (
            message(json!({"content": "a"})),
            400,
            "`messages[0].role` is missing",
        ),
        (
            message(json!({"role": "boss", "content": "a"})),
            400,
            "`messages[0].role` is not a known role",
        ),
        (
            message(json!({"role": "user"})),
            400,
            "`messages[0].content` is missing",
        ),
        (
            message(json!({"role": "user", "content": []})),
            400,
            "`messages[0].content` is an array of 0",
        ),
        (
            message(json!({"role": "user", "content": "a", "images": ["aGk="]})),
            400,
            "`messages[0].images` is an array of 1; this service reads no images",
        ),
        (
            message(json!({"role": "assistant"})),
            400,
            "`messages[0].content` is missing",
        ),
        (
            message(json!({"role": "assistant", "content": "a", "thinking": 1})),
            400,
            "`messages[0].thinking` is 1; expected a string",
        ),
        (
            call(json!("a")),
            400,
            "`messages[0].tool_calls[0]` is a string",
        ),
        (
            call(json!({})),
            400,
            "`messages[0].tool_calls[0].function` is missing",
        ),
        (
            call(json!({"function": {}})),
            400,
            "`messages[0].tool_calls[0].function.name` is missing",
        ),
        (
            call(json!({"function": {"name": "a", "arguments": "{}"}})),
            400,
            "`messages[0].tool_calls[0].function.arguments` is a string",
        ),
        (
            message(json!({"role": "tool"})),
            400,
            "`messages[0].content` is missing",
        ),
    ]
}

fn generate_cases() -> Vec<(Value, u16, &'static str)> {
    vec![
        (
            json!({"prompt": ["a"]}),
            400,
            "`prompt` is an array of 1; expected a string",
        ),
        (
            json!({"prompt": 5}),
            400,
            "`prompt` is 5; expected a string",
        ),
        (
            json!({"system": {}}),
            400,
            "`system` is an object of 0; expected a string",
        ),
        (json!({"raw": 1}), 400, "`raw` is 1; expected true or false"),
        (
            json!({"images": ["aGk="]}),
            400,
            "`images` is an array of 1; this service reads no images",
        ),
        (
            json!({"images": "aGk="}),
            400,
            "`images` is a string of 4 bytes; expected an array",
        ),
        (
            json!({"prompt": "a ".repeat(600)}),
            400,
            "the context holds 512",
        ),
        (
            json!({"prompt": "a ".repeat(600), "raw": true}),
            400,
            "the context holds 512",
        ),
    ]
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_with_their_place() {
    let served = Served::start().await;
    let tables = [
        (CHAT, [shared_cases(), chat_cases()].concat()),
        (GENERATE, [shared_cases(), generate_cases()].concat()),
    ];
    for (path, cases) in tables {
        for (fields, status, expected) in cases {
            let good = match path {
                CHAT => chat_body(json!({})),
                _ => generate_body(json!({})),
            };
            let reply = post_json(served.address, path, &with(good, &fields)).await;
            assert_eq!(reply.status(), status, "{path} {fields}");
            let error = reply.json()["error"].clone();
            let text = error.as_str().unwrap();
            assert!(text.contains(expected), "{path} {fields}: {text}");
        }
    }
    let bare = Served::with(Default::default(), |model| model.template = None).await;
    let reply = post_json(bare.address, CHAT, &chat_body(json!({}))).await;
    assert_eq!(reply.status(), 400);
    assert!(
        reply.json()["error"]
            .as_str()
            .unwrap()
            .contains("no chat template")
    );
    served.assert_nothing_seen().await;
}

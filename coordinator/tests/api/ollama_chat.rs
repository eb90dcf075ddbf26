//! `/api/chat` and `/api/generate`: lines and whole answers, options, and everything that is refused.

use std::sync::Arc;

use coordinator::gateway::{FinishReason, GenerateRequest, Refusal};
use serde_json::{Value, json};

use crate::client::{Connection, Reply, post, post_json};
use crate::household::{END, Say, Seen, Served};
use crate::table::rows;

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
async fn calls_are_given_whole_with_their_arguments() {
    let served = Served::start().await;
    let call = "<tool_call>\n<function=weather>\n<parameter=city>\nBonn\n</parameter>\n</function>\n</tool_call>";
    served.say(served.speak(&format!("I look.\n\n{call}")));
    let tool = json!({"type": "function", "function": {"name": "weather", "description": "Of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}});
    let whole = chat_body(json!({"tools": [tool], "stream": false}));
    let whole = post_json(served.address, CHAT, &whole).await.json();
    assert!(prompt_text(&served, &served.request().await).contains("Of a city."));
    let message = &whole["message"];
    assert_eq!(message["content"].as_str().unwrap().trim_end(), "I look.");
    let calls = message["tool_calls"].as_array().unwrap();
    let function = json!({"name": "weather", "arguments": {"city": "Bonn"}});
    assert_eq!((calls.len(), &calls[0]["function"]), (1, &function));
    assert!(!calls[0]["id"].as_str().unwrap().is_empty());
    assert_eq!(whole["done_reason"], "stop");

    let streamed = chat_body(json!({"tools": [tool]}));
    let lines = lines(&post_json(served.address, CHAT, &streamed).await);
    let with_calls = lines
        .iter()
        .filter_map(|line| line["message"].get("tool_calls"));
    let with_calls: Vec<&Value> = with_calls.collect();
    assert_eq!(with_calls.len(), 1);
    assert_eq!(with_calls[0][0]["function"], function);
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
const SHARED_CASES: &str = r#"
{"model": null} => 400 => `model` is missing
{"model": 5} => 400 => `model` is 5; expected a string
{"model": "llama3"} => 404 => the model `llama3` is not served
{"model": ":latest"} => 404 => is not served here
{"stream": "yes"} => 400 => `stream` is a string of 3 bytes; expected true or false
{"think": "max"} => 400 => expected true, false, low, medium or high
{"think": 1} => 400 => `think` is 1; expected
{"format": "xml"} => 400 => `format` is a string of 3 bytes; expected `json` or a JSON schema
{"format": ["json"]} => 400 => `format` is an array of 1; expected `json`
{"format": {"type": "text"}} => 400 => `format` cannot be honoured
{"template": "{{ .Prompt }}"} => 400 => `template` is a string
{"context": [1, 2]} => 400 => `context` is an array of 2
{"suffix": "}"} => 400 => `suffix` is a string of 1 bytes
{"logprobs": true} => 400 => `logprobs` is true
{"top_logprobs": 3} => 400 => `top_logprobs` is 3
{"options": []} => 400 => `options` is an array of 0; expected an object
{"options": {"temperature": 2.5}} => 400 => `options.temperature` is 2.5; expected a number
{"options": {"temperature": "0"}} => 400 => `options.temperature` is a string
{"options": {"top_p": 0}} => 400 => `options.top_p` is 0; expected
{"options": {"top_k": -2}} => 400 => `options.top_k` is -2; expected an integer
{"options": {"min_p": 2}} => 400 => `options.min_p` is 2; expected
{"options": {"seed": 0.5}} => 400 => `options.seed` is 0.5; expected an integer of 64 bits
{"options": {"repeat_penalty": 0}} => 400 => `options.repeat_penalty` is 0; expected
{"options": {"repeat_last_n": 64}} => 400 => expected -1 (the whole text) or 0 (off)
{"options": {"presence_penalty": 3}} => 400 => `options.presence_penalty` is 3
{"options": {"frequency_penalty": "x"}} => 400 => `options.frequency_penalty` is a string
{"options": {"num_predict": 0}} => 400 => expected -2, -1 or an integer from 1
{"options": {"num_predict": -3}} => 400 => `options.num_predict` is -3
{"options": {"num_predict": 1.5}} => 400 => `options.num_predict` is 1.5
{"options": {"num_ctx": 0}} => 400 => `options.num_ctx` is 0; expected an integer from 1
{"options": {"stop": ""}} => 400 => `options.stop` is a string of 0 bytes
{"options": {"stop": ["a", 1]}} => 400 => `options.stop[1]` is 1; expected
{"options": {"typical_p": 0.5}} => 400 => `options.typical_p` is set
{"options": {"mirostat": 2}} => 400 => `options.mirostat` is set
{"options": {"num_predict": 600}} => 400 => the context holds 512
"#;

const CHAT_CASES: &str = r#"
{"messages": "hi"} => 400 => `messages` is a string of 2 bytes; expected an array
{"messages": ["hi"]} => 400 => `messages[0]` is a string of 2 bytes; expected an object
{"messages": [{"content": "a"}]} => 400 => `messages[0].role` is missing
{"messages": [{"role": "boss", "content": "a"}]} => 400 => `messages[0].role` is not a known role
{"messages": [{"role": "user"}]} => 400 => `messages[0].content` is missing
{"messages": [{"role": "user", "content": []}]} => 400 => `messages[0].content` is an array of 0
{"messages": [{"role": "user", "content": "a", "images": ["aGk="]}]} => 400 => `messages[0].images` is an array of 1; this service reads no images
{"messages": [{"role": "assistant"}]} => 400 => `messages[0].content` is missing
{"messages": [{"role": "assistant", "content": "a", "thinking": 1}]} => 400 => `messages[0].thinking` is 1; expected a string
{"messages": [{"role": "assistant", "tool_calls": ["a"]}]} => 400 => `messages[0].tool_calls[0]` is a string
{"messages": [{"role": "assistant", "tool_calls": [{}]}]} => 400 => `messages[0].tool_calls[0].function` is missing
{"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]} => 400 => `messages[0].tool_calls[0].function.name` is missing
{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{}"}}]}]} => 400 => `messages[0].tool_calls[0].function.arguments` is a string
{"messages": [{"role": "tool"}]} => 400 => `messages[0].content` is missing
"#;

const TOOL_CASES: &str = r#"
{"tools": {}} => 400 => `tools` is an object of 0; expected an array
{"tools": ["a"]} => 400 => `tools[0]` is a string of 1 bytes; expected an object
{"tools": [{"type": "function"}]} => 400 => `tools[0].function` is missing
{"tools": [{"function": {}}]} => 400 => `tools[0].function.name` is missing
{"tools": [{"function": {"name": "a b"}}]} => 400 => expected 1 to 128 letters
{"tools": [{"function": {"name": "a", "parameters": []}}]} => 400 => `tools[0].function.parameters` is an array of 0
"#;

const GENERATE_CASES: &str = r#"
{"prompt": ["a"]} => 400 => `prompt` is an array of 1; expected a string
{"prompt": 5} => 400 => `prompt` is 5; expected a string
{"system": {}} => 400 => `system` is an object of 0; expected a string
{"raw": 1} => 400 => `raw` is 1; expected true or false
{"images": ["aGk="]} => 400 => `images` is an array of 1; this service reads no images
{"images": "aGk="} => 400 => `images` is a string of 4 bytes; expected an array
"#;

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_with_their_place() {
    let served = Served::start().await;
    let long = [
        (
            json!({"prompt": "a ".repeat(600)}),
            ["400", "the context holds 512"],
        ),
        (
            json!({"prompt": "a ".repeat(600), "raw": true}),
            ["400", "the context holds 512"],
        ),
    ];
    let shared = || rows(SHARED_CASES).into_iter();
    let chat = shared().chain(rows(CHAT_CASES));
    let chat = chat.chain(rows(TOOL_CASES));
    let generate = shared().chain(rows(GENERATE_CASES)).chain(long);
    let chat = chat.map(|case| (CHAT, chat_body(json!({})), case));
    let generate = generate.map(|case| (GENERATE, generate_body(json!({})), case));
    for (path, good, (fields, [status, expected])) in chat.chain(generate) {
        let reply = post_json(served.address, path, &with(good, &fields)).await;
        assert_eq!(reply.status().to_string(), status, "{path} {fields}");
        let error = reply.json()["error"].clone();
        let text = error.as_str().unwrap();
        assert!(text.contains(expected), "{path} {fields}: {text}");
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

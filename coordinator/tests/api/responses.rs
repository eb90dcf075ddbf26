//! `/v1/responses`: items in, items out, the events of a stream, and what is kept.

use coordinator::gateway::{FinishReason, GenerateRequest, Phase, Refusal};
use serde_json::{Value, json};

use crate::client::{Reply, ask, get, post_json, raw};
use crate::household::{END, Say, Served};
use crate::table::rows;

const PATH: &str = "/v1/responses";

fn body(extra: Value) -> Value {
    let mut body = json!({"model": "hearth-test", "input": "Say it."});
    let object = body.as_object_mut().unwrap();
    object.extend(extra.as_object().unwrap().clone());
    body
}

async fn send(served: &Served, extra: Value) -> Reply {
    post_json(served.address, PATH, &body(extra)).await
}

async fn answer(served: &Served, extra: Value) -> Value {
    let reply = send(served, extra).await;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    assert_eq!(reply.status(), 200, "{text}");
    reply.json()
}

fn prompt_text(served: &Served, request: &GenerateRequest) -> String {
    let tokenizer = &served.model.tokenizer;
    tokenizer.decode(&request.prompt, model::SpecialText::Keep)
}

/// The events of a stream, whose names and numbers are checked.
fn events(reply: &Reply) -> Vec<Value> {
    let text = String::from_utf8(reply.body.clone()).unwrap();
    assert_eq!(reply.status(), 200, "{text}");
    let frames = text.split_terminator("\n\n");
    let frames = frames.filter(|frame| !frame.starts_with(':'));
    let read = |(number, frame): (usize, &str)| {
        let (name, data) = frame.split_once('\n').unwrap();
        let event: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(event["type"], name.strip_prefix("event: ").unwrap());
        assert_eq!(event["sequence_number"], number);
        event
    };
    frames.enumerate().map(read).collect()
}

/// Names of events; neighbours that are alike count once.
fn names(events: &[Value]) -> Vec<&str> {
    let names = events.iter().map(|event| event["type"].as_str().unwrap());
    let mut names: Vec<&str> = names
        .map(|name| name.strip_prefix("response.").unwrap())
        .collect();
    names.dedup();
    names
}

fn joined(events: &[Value], name: &str) -> String {
    let named = events.iter().filter(|event| event["type"] == name);
    named
        .map(|event| event["delta"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_text_is_answered_with_a_message() {
    let served = Served::start().await;
    served.say(served.speak("It is said."));
    let fields = json!({"instructions": "Be brief.", "max_output_tokens": 20, "temperature": 0.5,
        "metadata": {"a": "b"}, "user": "ada", "top_p": 0.5, "truncation": "disabled"});

    let answer = answer(&served, fields).await;

    let request = served.request().await;
    assert_eq!(
        prompt_text(&served, &request),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(request.max_tokens, Some(20));
    assert_eq!(
        (request.sampling.temperature, request.sampling.top_p),
        (0.5, 0.5)
    );
    assert_eq!(request.stop_ids, [512, END]);
    for (field, value) in [
        ("object", json!("response")),
        ("status", json!("completed")),
        ("model", json!("hearth-test")),
        ("instructions", json!("Be brief.")),
        ("max_output_tokens", json!(20)),
        ("temperature", json!(0.5)),
        ("metadata", json!({"a": "b"})),
        ("error", Value::Null),
        ("incomplete_details", Value::Null),
        ("previous_response_id", Value::Null),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
        ("parallel_tool_calls", json!(true)),
        ("store", json!(true)),
    ] {
        assert_eq!(answer[field], value, "{field}");
    }
    assert!(answer["id"].as_str().unwrap().starts_with("resp_"));
    let [message] = answer["output"].as_array().unwrap().as_slice() else {
        panic!("{answer}");
    };
    assert!(message["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!(message["type"], "message");
    assert_eq!(
        (&message["role"], &message["status"]),
        (&json!("assistant"), &json!("completed"))
    );
    let part =
        json!({"type": "output_text", "text": "It is said.", "annotations": [], "logprobs": []});
    assert_eq!(message["content"], json!([part]));
    let made = served.ids("It is said.").len() + 1;
    let usage = json!({
        "input_tokens": request.prompt.len(), "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": made, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": request.prompt.len() + made,
    });
    assert_eq!(answer["usage"], usage);
}

#[tokio::test]
async fn a_stream_tells_every_step_of_every_item() {
    let served = Served::start().await;
    served.say(served.speak("<think>\nLet me see.\n</think>\n\nFour, I think."));

    let reply = send(&served, json!({"stream": true})).await;

    assert_eq!(reply.head.header("content-type"), Some("text/event-stream"));
    let events = events(&reply);
    let expected = [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ];
    assert_eq!(names(&events), expected);
    assert_eq!(
        joined(&events, "response.output_text.delta"),
        "Four, I think."
    );
    let reasoning = joined(&events, "response.reasoning_text.delta");
    assert_eq!(reasoning.trim_end(), "Let me see.");
    let first = &events[0]["response"];
    assert_eq!(
        (&first["status"], &first["output"]),
        (&json!("in_progress"), &json!([]))
    );
    assert_eq!(first["usage"], Value::Null);
    let last = &events.last().unwrap()["response"];
    assert_eq!(
        (&last["status"], &last["id"]),
        (&json!("completed"), &first["id"])
    );
    let output = last["output"].as_array().unwrap();
    let done: Vec<&Value> = events
        .iter()
        .filter(|event| event["type"] == "response.output_item.done")
        .collect();
    assert_eq!(output.len(), 2);
    for (index, (item, done)) in output.iter().zip(&done).enumerate() {
        assert_eq!(&done["item"], item);
        assert_eq!(done["output_index"], index);
        let of_item = |event: &&Value| event["item_id"] == item["id"];
        let mut deltas = events.iter().filter(of_item);
        assert!(deltas.all(|event| event["output_index"] == index));
    }
    assert_eq!(output[0]["content"][0]["text"], reasoning);
    assert!(output[0].get("encrypted_content").is_none());
    assert!(
        last["usage"]["output_tokens_details"]["reasoning_tokens"]
            .as_u64()
            .unwrap()
            > 0
    );
}

const WEATHER: &str = "<tool_call>\n<function=weather>\n<parameter=city>\nBonn\n</parameter>\n</function>\n</tool_call>";

fn weather() -> Value {
    json!({"type": "function", "name": "weather", "description": "Weather of a city.", "strict": false,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}})
}

#[tokio::test]
async fn calls_are_items_and_their_results_come_back() {
    let served = Served::start().await;
    served.say(served.speak(&format!("I look.\n\n{WEATHER}")));
    let events = events(&send(&served, json!({"stream": true, "tools": [weather()]})).await);
    assert!(prompt_text(&served, &served.request().await).contains("Weather of a city."));
    let names = names(&events);
    let call = [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ];
    assert!(names.ends_with(&call), "{names:?}");
    let last = &events.last().unwrap()["response"];
    let [message, call] = last["output"].as_array().unwrap().as_slice() else {
        panic!("{last}");
    };
    assert_eq!(
        message["content"][0]["text"].as_str().unwrap().trim_end(),
        "I look."
    );
    assert_eq!(
        (&call["type"], &call["name"]),
        (&json!("function_call"), &json!("weather"))
    );
    assert_eq!(call["status"], "completed");
    let arguments = call["arguments"].as_str().unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(arguments).unwrap(),
        json!({"city": "Bonn"})
    );
    assert_eq!(
        joined(&events, "response.function_call_arguments.delta"),
        arguments
    );

    // The client goes on with the same items, or with the response's id alone.
    let result =
        json!({"type": "function_call_output", "call_id": call["call_id"], "output": "Rain."});
    served.say(served.speak("Rain."));
    let items = json!([{"role": "user", "content": "Say it."}, message, call, result]);
    answer(&served, json!({"input": items, "tools": [weather()]})).await;
    let whole = prompt_text(&served, &served.request().await);
    assert!(whole.contains("<parameter=city>\nBonn") && whole.contains("<tool_response>\nRain."));
    let previous =
        json!({"previous_response_id": last["id"], "input": [result], "tools": [weather()]});
    answer(&served, previous).await;
    assert_eq!(prompt_text(&served, &served.request().await), whole);
}

#[tokio::test]
async fn custom_tools_get_their_text() {
    let served = Served::start().await;
    let said = "<tool_call>\n<function=patch>\n<parameter=input>\n*** Begin\n</parameter>\n</function>\n</tool_call>";
    served.say(served.speak(said));
    let tool = json!({"type": "custom", "name": "patch", "description": "Edits files.",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: \"***\""}});
    let events = events(&send(&served, json!({"stream": true, "tools": [tool]})).await);
    assert!(prompt_text(&served, &served.request().await).contains("follows this grammar"));
    let last = &events.last().unwrap()["response"];
    let call = &last["output"][0];
    assert_eq!(
        (&call["type"], &call["name"]),
        (&json!("custom_tool_call"), &json!("patch"))
    );
    assert_eq!(call["input"], "*** Begin");
    assert_eq!(
        joined(&events, "response.custom_tool_call_input.delta"),
        "*** Begin"
    );
    let result =
        json!({"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "Done."});
    let items = json!([{"role": "user", "content": "Edit."}, call, result]);
    answer(&served, json!({"input": items})).await;
    let prompt = prompt_text(&served, &served.request().await);
    assert!(prompt.contains("<parameter=input>\n*** Begin") && prompt.contains("Done."));
}

#[tokio::test]
async fn items_become_turns() {
    let served = Served::start().await;
    let items = json!([
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "input_text", "text": "A"}, {"type": "input_text", "text": "B"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hidden"}],
            "content": null, "encrypted_content": "gAAAAB-of-another-service"},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": "Looking.", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "one", "arguments": "{\"x\":\"1\"}"},
        {"type": "function_call", "call_id": "c2", "name": "two", "arguments": ""},
        {"type": "function_call_output", "call_id": "c1", "output": "first"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "second"}]},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "Thanks."},
    ]);
    answer(&served, json!({"input": items})).await;
    let prompt = prompt_text(&served, &served.request().await);
    let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nAB<|im_end|>\n<|im_start|>assistant\n\
        Looking.<tool_call>\n<function=one>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call><tool_call>\n\
        <function=two>\n</function>\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nfirst\n</tool_response>\
        <|im_end|>\n<|im_start|>user\n<tool_response>\nsecond\n</tool_response><|im_end|>\n<|im_start|>assistant\n\
        Done.<|im_end|>\n<|im_start|>user\nThanks.<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(prompt, expected);
}

#[tokio::test]
async fn reasoning_comes_back_in_the_form_that_clients_carry() {
    // This template shows reasoning of earlier turns.
    let template = "{% for m in messages %}{{ m.role }}:{{ m.reasoning_content or '' }}|{{ m.content }}\n{% endfor %}";
    let served = Served::with(Default::default(), |model| {
        model.template = Some(model::ChatTemplate::new(template, None, None).unwrap());
    })
    .await;
    served.say(served.speak("<think>\nWhy not.\n</think>\n\nYes."));
    let asked = json!({"store": false, "include": ["reasoning.encrypted_content"]});
    let first = answer(&served, asked).await;
    served.request().await;
    let [reasoning, message] = first["output"].as_array().unwrap().as_slice() else {
        panic!("{first}");
    };
    let carried = json!({"type": "reasoning", "summary": [], "encrypted_content": reasoning["encrypted_content"]});
    for item in [&carried, reasoning] {
        let items = json!([{"role": "user", "content": "Q"}, item, message, {"role": "user", "content": "R"}]);
        answer(&served, json!({"input": items})).await;
        let prompt = prompt_text(&served, &served.request().await);
        assert!(prompt.contains("assistant:Why not."), "{prompt}");
        assert!(prompt.contains("|Yes.\nuser:|R"), "{prompt}");
    }
}

#[tokio::test]
async fn what_is_kept_can_be_continued_read_and_deleted() {
    let served = Served::start().await;
    served.say(served.speak("One."));
    let first = answer(&served, json!({"instructions": "Be brief."})).await;
    served.request().await;
    let id = first["id"].as_str().unwrap();
    let path = format!("{PATH}/{id}");
    assert_eq!(get(served.address, &path).await.json(), first);
    let second = answer(
        &served,
        json!({"previous_response_id": id, "input": "More."}),
    )
    .await;
    assert_eq!(second["previous_response_id"], id);
    // Instructions are not carried on.
    assert_eq!(
        prompt_text(&served, &served.request().await),
        "<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\nOne.<|im_end|>\n<|im_start|>user\nMore.<|im_end|>\n<|im_start|>assistant\n"
    );
    let reply = ask(served.address, &raw("DELETE", &path, &[], b"")).await;
    assert_eq!(
        reply.json(),
        json!({"id": id, "object": "response", "deleted": true})
    );
    for request in [raw("GET", &path, &[], b""), raw("DELETE", &path, &[], b"")] {
        let reply = ask(served.address, &request).await;
        assert_eq!(reply.status(), 404);
        assert_eq!(reply.json()["error"]["code"], "not_found");
    }
    let reply = send(&served, json!({"previous_response_id": id})).await;
    assert_eq!(reply.status(), 400);
    assert_eq!(reply.json()["error"]["param"], "previous_response_id");
    // The second has all that it needs.
    answer(&served, json!({"previous_response_id": second["id"]})).await;
    let prompt = prompt_text(&served, &served.request().await);
    assert!(prompt.contains("One.") && prompt.contains("More."));

    let unkept = answer(&served, json!({"store": false})).await;
    let path = format!("{PATH}/{}", unkept["id"].as_str().unwrap());
    assert_eq!(get(served.address, &path).await.status(), 404);
    assert_eq!(get(served.address, "/v1/responses/%FF").await.status(), 404);
}

#[tokio::test]
async fn answers_that_end_early_say_so() {
    let served = Served::start().await;
    let id = served.ids("a")[0];
    served.say(vec![
        Say::Token(0, id),
        Say::Last(0, id, FinishReason::Length),
    ]);
    let whole = answer(&served, json!({"max_output_tokens": 2})).await;
    assert_eq!(whole["status"], "incomplete");
    assert_eq!(
        whole["incomplete_details"],
        json!({"reason": "max_output_tokens"})
    );
    assert_eq!(whole["output"][0]["status"], "incomplete");
    assert_eq!(whole["output"][0]["content"][0]["text"], "aa");
    let events_of = |reply: Reply| events(&reply);
    let events = events_of(send(&served, json!({"stream": true})).await);
    assert_eq!(events.last().unwrap()["type"], "response.incomplete");

    served.say(vec![Say::Token(0, id), Say::Fail]);
    let events = events_of(send(&served, json!({"stream": true})).await);
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.failed");
    let error =
        json!({"code": "node_lost", "message": "node kitchen was lost; send the request again"});
    assert_eq!(
        (&last["response"]["status"], &last["response"]["error"]),
        (&json!("failed"), &error)
    );
    assert_eq!(send(&served, json!({})).await.status(), 503);
    served.script(|_| Err(Refusal::Busy { retry_after_s: 7 }));
    let reply = send(&served, json!({"stream": true})).await;
    assert_eq!(
        (reply.status(), reply.head.header("retry-after")),
        (429, Some("7"))
    );
    served.set_phase(Phase::Loading);
    assert_eq!(send(&served, json!({})).await.status(), 503);
}

#[tokio::test]
async fn reasoning_is_switched_by_effort() {
    let served = Served::start().await;
    for (reasoning, thinks) in [
        (json!({"effort": "high", "summary": "auto"}), true),
        (json!({"effort": "minimal"}), true),
        (json!({"effort": "none"}), false),
        (json!({"summary": "auto"}), false),
        (json!(null), false),
    ] {
        answer(&served, json!({"reasoning": reasoning})).await;
        let prompt = prompt_text(&served, &served.request().await);
        assert_eq!(prompt.ends_with("<think>\n"), thinks, "{reasoning}");
    }
}

/// What Codex sends with each request, in its own words where they matter.
#[tokio::test]
async fn a_request_of_codex_is_taken_as_it_is() {
    let served = Served::start().await;
    served.say(served.speak("Done."));
    let text = |role: &str, text: &str| json!({"type": "message", "id": "msg_1", "role": role, "content": [{"type": "input_text", "text": text}]});
    let tools = json!([
        weather(),
        {"type": "namespace", "name": "agents", "description": "Others.", "tools": [weather()]},
        {"type": "web_search", "external_web_access": false},
    ]);
    let request = json!({
        "input": [text("developer", "You are a coding agent."), text("developer", "Write nothing."),
            text("user", "<environment_context></environment_context>"), text("user", "say hi")],
        "tools": tools, "tool_choice": "auto", "parallel_tool_calls": true,
        "reasoning": {"summary": "auto"}, "store": false, "stream": true,
        "include": ["reasoning.encrypted_content"], "prompt_cache_key": "01a2001c",
        "client_metadata": {"session_id": "01a2001c"},
    });
    let events = events(&send(&served, request).await);
    let last = &events.last().unwrap()["response"];
    assert_eq!(
        (&last["status"], &last["tools"]),
        (&json!("completed"), &tools)
    );
    let prompt = prompt_text(&served, &served.request().await);
    assert!(prompt.contains("Weather of a city.") && !prompt.contains("Others."));
}

const INPUT_CASES: &str = r#"
{"input": null} => input => `input` is missing; expected a string or an array
{"input": 5} => input => `input` is 5; expected a string or an array
{"input": []} => input => `input` is an array of 0; expected
{"input": ["a"]} => input[0] => `input[0]` is a string of 1 bytes; expected an object
{"input": [{}]} => input[0].role => `input[0].role` is missing
{"input": [{"role": "boss", "content": "a"}]} => input[0].role => is not a known role
{"input": [{"role": "user"}]} => input[0].content => `input[0].content` is missing
{"input": [{"role": "user", "content": 5}]} => input[0].content => is 5; expected a string or an array of text parts
{"input": [{"role": "user", "content": ["a"]}]} => input[0].content[0] => is a string of 1 bytes; expected an object
{"input": [{"role": "user", "content": [{"text": "a"}]}]} => input[0].content[0].type => is missing
{"input": [{"role": "user", "content": [{"type": "input_text"}]}]} => input[0].content[0].text => is missing
{"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]} => input[0].content[0].type => not text
{"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]} => input[0].content[0].type => not text
{"input": [{"type": "item_reference", "id": "x"}]} => input[0].type => cannot honour yet
{"input": [{"type": "local_shell_call"}]} => input[0].type => cannot honour yet
{"input": [{"type": 7}]} => input[0].type => `input[0].type` is 7; expected a string
{"input": [{"type": "function_call", "call_id": null, "name": "f", "arguments": "{}"}]} => input[0].call_id => is missing
{"input": [{"type": "function_call", "call_id": "c", "name": null, "arguments": "{}"}]} => input[0].name => is missing
{"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "[1]"}]} => input[0].arguments => no JSON object
{"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]} => input[0].arguments => no JSON object
{"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": {}}]} => input[0].arguments => is an object of 0; expected a string
{"input": [{"type": "function_call_output", "output": "a"}]} => input[0].call_id => is missing
{"input": [{"type": "function_call_output", "call_id": "c"}]} => input[0].output => is missing
{"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image"}]}]} => input[0].output[0].type => not text
{"input": [{"type": "custom_tool_call", "call_id": "c", "name": "f"}]} => input[0].input => is missing
{"input": [{"type": "reasoning", "summary": 5}]} => input[0].summary => is 5; expected
{"input": [{"type": "reasoning", "content": [{"type": "x"}]}]} => input[0].content[0].type => not text
{"input": [{"type": "reasoning", "encrypted_content": 5}]} => input[0].encrypted_content => is 5
"#;

const FIELD_CASES: &str = r#"
{"model": null} => model => `model` is missing
{"instructions": []} => instructions => is an array of 0; expected a string
{"previous_response_id": 5} => previous_response_id => is 5; expected a string
{"previous_response_id": "resp_x"} => previous_response_id => names no response
{"store": "yes"} => store => expected true or false
{"stream": 1} => stream => `stream` is 1; expected true or false
{"max_output_tokens": 0} => max_output_tokens => is 0; expected an integer from 1
{"temperature": 3} => temperature => is 3; expected a number from 0 to 2
{"top_p": 0} => top_p => `top_p` is 0; expected
{"reasoning": "high"} => reasoning => is a string of 4 bytes; expected an object
{"reasoning": {"effort": "huge"}} => reasoning.effort => unknown text; expected one of none
{"reasoning": {"summary": "long"}} => reasoning.summary => unknown text
{"include": "all"} => include => expected an array
{"include": ["message.output_text.logprobs"]} => include[0] => alone
{"include": [5]} => include[0] => `include[0]` is 5
{"metadata": []} => metadata => expected an object
{"metadata": {"a": 5}} => metadata => expected at most 16 strings
{"background": true} => background => `background` is set
{"conversation": "conv_1"} => conversation => `conversation` is set
{"prompt": {"id": "p"}} => prompt => `prompt` is set
{"top_logprobs": 2} => top_logprobs => `top_logprobs` is set
{"truncation": "auto"} => truncation => `truncation` is set
{"truncation": "none"} => truncation => unknown text
{"text": "plain"} => text => expected an object
{"text": {"verbosity": "low"}} => text.verbosity => `text.verbosity` is set
{"text": {"format": "text"}} => text.format => expected an object
{"text": {"format": {}}} => text.format.type => is missing
{"text": {"format": {"type": "grammar"}}} => text.format.type => unknown text; expected text
{"text": {"format": {"type": "json_schema"}}} => text.format.schema => is missing
{"text": {"format": {"type": "json_schema", "strict": true, "schema": {"not": {}}}}} => text.format.schema.not => cannot be honoured
{"tools": [{"type": "function", "name": "f", "strict": true, "parameters": {"not": {}}}]} => tools[0].parameters.not => cannot be honoured
{"tools": {}} => tools => `tools` is an object of 0; expected an array
{"tools": ["a"]} => tools[0] => expected an object that describes a tool
{"tools": [{}]} => tools[0].type => is missing
{"tools": [{"type": "magic"}]} => tools[0].type => unknown kind of tool
{"tools": [{"type": "function"}]} => tools[0].name => is missing
{"tools": [{"type": "function", "name": "a b"}]} => tools[0].name => expected 1 to 128 letters
{"tools": [{"type": "function", "name": "a", "parameters": "{}"}]} => tools[0].parameters => a string
{"tool_choice": "always"} => tool_choice => unknown text
{"tool_choice": "required"} => tool_choice => at least one tool
{"tool_choice": 5} => tool_choice => is 5; expected
{"tool_choice": {"type": "function", "name": "f"}} => tool_choice.name => names no tool
{"tool_choice": {"type": "web_search"}} => tool_choice.type => cannot honour yet
{"parallel_tool_calls": 1} => parallel_tool_calls => expected true or false
"#;

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_with_their_place() {
    let served = Served::start().await;
    let long = "k".repeat(65);
    let made = [
        (
            json!({"metadata": {long: "v"}}),
            ["metadata", "under keys of 64 bytes"],
        ),
        (
            json!({"tools": [weather(), weather()]}),
            ["tools[1]", "name of a tool before it"],
        ),
    ];
    let tables = rows(INPUT_CASES).into_iter().chain(rows(FIELD_CASES));
    for (fields, [param, message]) in tables.chain(made) {
        let reply = send(&served, fields.clone()).await;
        assert_eq!(reply.status(), 400, "{fields}");
        let error = reply.json()["error"].clone();
        let text = error["message"].as_str().unwrap();
        assert_eq!(error["param"], param, "{fields}: {text}");
        assert!(text.contains(message), "{fields}: {text}");
    }
    let reply = send(&served, json!({"model": "gpt-5"})).await;
    let code = reply.json()["error"]["code"].clone();
    assert_eq!((reply.status(), code), (404, json!("model_not_found")));
    let reply = send(&served, json!({"input": "a ".repeat(600)})).await;
    assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
    let bare = Served::with(Default::default(), |model| model.template = None).await;
    assert_eq!(send(&bare, json!({})).await.status(), 400);
    served.assert_nothing_seen().await;
}

#[tokio::test]
async fn a_text_is_never_repeated_in_an_error() {
    let served = Served::start().await;
    let secret = "the secret of the house";
    for fields in [
        json!({"input": {"a": secret}}),
        json!({"input": [secret]}),
        json!({"input": [{"role": secret, "content": "a"}]}),
        json!({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": secret}]}),
        json!({"instructions": {"a": secret}}),
        json!({"previous_response_id": secret}),
    ] {
        let reply = send(&served, fields.clone()).await;
        assert_eq!(reply.status(), 400);
        assert!(
            !String::from_utf8_lossy(&reply.body).contains("secret"),
            "{fields}"
        );
    }
}

//! Requests that are wrong in every way we could think of: each gets its status and a message that helps, none
//! reaches the household, and the service goes on.

use proto::limits;
use serde_json::{Value, json};

use crate::client::{Connection, ask, post, raw};
use crate::household::Served;

const CHAT: &str = "/v1/chat/completions";
const COMPLETION: &str = "/v1/completions";

/// A field of an otherwise good request, the status, and a part of the message; the error names the field.
type FieldCase = (&'static str, Value, &'static str);

fn shared_cases() -> Vec<FieldCase> {
    let id_too_high = json!({"576": 1});
    vec![
        ("model", json!(null), "`model` is missing"),
        ("model", json!(7), "`model` is 7; expected a string"),
        (
            "temperature",
            json!(2.1),
            "2.1; expected a number from 0 to 2",
        ),
        (
            "temperature",
            json!(-0.1),
            "-0.1; expected a number from 0 to 2",
        ),
        (
            "temperature",
            json!("hot"),
            "a string of 3 bytes; expected a number",
        ),
        ("top_p", json!(0), "`top_p` is 0; expected"),
        ("top_p", json!(1.5), "`top_p` is 1.5; expected"),
        ("top_k", json!(-2), "`top_k` is -2; expected an integer"),
        ("top_k", json!(1.5), "`top_k` is 1.5; expected an integer"),
        (
            "min_p",
            json!(1.01),
            "`min_p` is 1.01; expected a number from 0 to 1",
        ),
        (
            "repetition_penalty",
            json!(0),
            "expected a number from 0.01 to 10",
        ),
        (
            "presence_penalty",
            json!(-2.5),
            "expected a number from -2 to 2",
        ),
        (
            "frequency_penalty",
            json!(2.5),
            "expected a number from -2 to 2",
        ),
        (
            "seed",
            json!(1.5),
            "`seed` is 1.5; expected an integer of 64 bits",
        ),
        ("seed", json!("1"), "expected an integer of 64 bits"),
        ("n", json!(0), "`n` is 0; expected an integer from 1 to 16"),
        (
            "n",
            json!(17),
            "`n` is 17; expected an integer from 1 to 16",
        ),
        ("n", json!(true), "`n` is true; expected"),
        (
            "stop",
            json!(""),
            "a string of 0 bytes; expected a string or an array",
        ),
        ("stop", json!(5), "`stop` is 5; expected"),
        (
            "stop",
            json!(vec!["a"; limits::STOP_STRINGS_MAX + 1]),
            "an array of 17; expected",
        ),
        (
            "stop",
            json!("a".repeat(limits::STOP_STRING_BYTES_MAX + 1)),
            "a string of 257 bytes",
        ),
        (
            "stop_token_ids",
            json!([576]),
            "`stop_token_ids[0]` is 576; expected a token id below 576",
        ),
        (
            "stop_token_ids",
            json!(vec![1; 63]),
            "an array of 63; expected at most 62",
        ),
        (
            "max_tokens",
            json!(0),
            "`max_tokens` is 0; expected an integer from 1",
        ),
        ("max_tokens", json!(-1), "`max_tokens` is -1; expected"),
        (
            "max_completion_tokens",
            json!(1e3),
            "expected an integer from 1",
        ),
        ("min_tokens", json!(-1), "`min_tokens` is -1; expected"),
        (
            "ignore_eos",
            json!(1),
            "`ignore_eos` is 1; expected true or false",
        ),
        (
            "return_tokens_as_token_ids",
            json!("yes"),
            "expected true or false",
        ),
        (
            "stream",
            json!("true"),
            "a string of 4 bytes; expected true or false",
        ),
        (
            "stream_options",
            json!({"include_usage": true}),
            "expected `stream` to be true",
        ),
        (
            "logit_bias",
            json!([1]),
            "an array of 1; expected an object",
        ),
        ("logit_bias", id_too_high, "token ids below 576"),
        ("logit_bias", json!({"the": 1}), "token ids below 576"),
        (
            "logit_bias",
            json!({"5": 101}),
            "expected a number from -100 to 100",
        ),
        (
            "logit_bias",
            json!({"5": null}),
            "expected a number from -100 to 100",
        ),
        (
            "logit_bias",
            json!({"5": 1, "05": 2}),
            "names a token twice",
        ),
        ("response_format", json!("text"), "expected an object"),
        (
            "response_format",
            json!({}),
            "`response_format.type` is missing",
        ),
        (
            "response_format",
            json!({"type": "xml"}),
            "expected text, json_object or json_schema",
        ),
        (
            "response_format",
            json!({"type": "json_schema"}),
            "`response_format.json_schema` is missing",
        ),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"name": "x"}}),
            "`response_format.json_schema.schema` is missing",
        ),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"schema": true}}),
            "expected an object",
        ),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}}),
            "expected true or false",
        ),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"schema": {}, "name": "x".repeat(65)}}),
            "expected at most 64 characters",
        ),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"strict": true, "schema": {
                "properties": {"a": {"items": {"uniqueItems": true}}}}}}),
            "`response_format.json_schema.schema.properties.a.items.uniqueItems` cannot be honoured",
        ),
        ("grammar", json!(7), "expected a string"),
        (
            "grammar",
            json!("root ::= x"),
            "`grammar` cannot be honoured",
        ),
        (
            "guided_grammar",
            json!(""),
            "`guided_grammar` cannot be honoured",
        ),
        ("guided_json", json!([]), "expected a JSON schema"),
        ("guided_json", json!("{"), "is no JSON object"),
        (
            "guided_json",
            json!({"not": {}}),
            "`guided_json.not` cannot be honoured",
        ),
        (
            "guided_regex",
            json!("(a"),
            "`guided_regex` cannot be honoured",
        ),
        ("guided_choice", json!([]), "1 to 1024 were expected"),
        (
            "guided_choice[1]",
            json!(["a", ""]),
            "`guided_choice[1]` is a string of 0 bytes",
        ),
        (
            "structured_outputs",
            json!({"jsn": {}}),
            "`structured_outputs.jsn` is not known",
        ),
        (
            "structured_outputs",
            json!({"regex": "a", "choice": ["b"]}),
            "both say what the answer looks like",
        ),
        (
            "prediction",
            json!({"type": "content"}),
            "cannot honour it yet",
        ),
        ("use_beam_search", json!(true), "cannot honour it yet"),
        ("mirostat", json!(2), "cannot honour it yet"),
        ("skip_special_tokens", json!(false), "cannot honour it yet"),
        ("prompt_logprobs", json!(1), "cannot honour it yet"),
    ]
}

fn chat_cases() -> Vec<FieldCase> {
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let function = |function: Value| json!([{"type": "function", "function": function}]);
    let call =
        |function: Value| json!([{"role": "assistant", "tool_calls": [{"function": function}]}]);
    vec![
        ("messages", json!(null), "`messages` is missing"),
        (
            "messages",
            json!([]),
            "an array of 0; expected an array of at least one message",
        ),
        (
            "messages",
            json!("hello"),
            "a string of 5 bytes; expected an array",
        ),
        (
            "messages[0]",
            json!(["hello"]),
            "expected an object with `role`",
        ),
        (
            "messages[0].role",
            json!([{"content": "a"}]),
            "is missing; expected one of",
        ),
        (
            "messages[0].role",
            json!([{"role": "wizard", "content": "a"}]),
            "not a known role",
        ),
        (
            "messages[0].role",
            json!([{"role": 3, "content": "a"}]),
            "is 3; expected a string",
        ),
        (
            "messages[0].content",
            json!([{"role": "user"}]),
            "is missing; expected a string",
        ),
        (
            "messages[0].content",
            user(json!(5)),
            "is 5; expected a string or an array",
        ),
        (
            "messages[0].content[0]",
            user(json!(["a"])),
            "expected an object with `type`",
        ),
        (
            "messages[0].content[0].type",
            user(json!([{"text": "a"}])),
            "is missing; expected `text`",
        ),
        (
            "messages[0].content[0].text",
            user(json!([{"type": "text"}])),
            "is missing; expected a string",
        ),
        (
            "messages[0].content[0].type",
            user(json!([{"type": "image_url", "image_url": {"url": "x"}}])),
            "not text",
        ),
        (
            "messages[0].content[1].type",
            user(json!([{"type": "text", "text": "a"}, {"type": "input_audio"}])),
            "not text",
        ),
        (
            "messages[0].content",
            json!([{"role": "assistant", "tool_calls": []}]),
            "is missing",
        ),
        (
            "messages[0].tool_calls[0].function",
            json!([{"role": "assistant", "tool_calls": [{}]}]),
            "is missing",
        ),
        (
            "messages[0].tool_calls[0].function.name",
            call(json!({"arguments": "{}"})),
            "is missing; expected a string",
        ),
        (
            "messages[0].tool_calls[0].function.arguments",
            call(json!({"name": "f", "arguments": "{"})),
            "no JSON object",
        ),
        (
            "messages[0].tool_calls[0].function.arguments",
            call(json!({"name": "f", "arguments": [1]})),
            "an array of 1",
        ),
        (
            "messages[0].name",
            json!([{"role": "user", "content": "a", "name": 1}]),
            "is 1; expected a string",
        ),
        ("tools", json!({}), "an object of 0; expected an array"),
        (
            "tools",
            json!("f"),
            "a string of 1 bytes; expected an array",
        ),
        (
            "tools[0]",
            json!([1]),
            "is 1; expected an object that describes a tool",
        ),
        (
            "tools[0].type",
            json!([{}]),
            "is missing; expected `function`",
        ),
        (
            "tools[0].type",
            json!([{"type": 5}]),
            "is 5; expected a string",
        ),
        (
            "tools[0].type",
            json!([{"type": "custom"}]),
            "cannot honour it yet",
        ),
        (
            "tools[0].type",
            json!([{"type": "web_search"}]),
            "cannot honour it yet",
        ),
        (
            "tools[0].function",
            json!([{"type": "function"}]),
            "is missing; expected an object",
        ),
        (
            "tools[0].function",
            json!([{"type": "function", "function": "f"}]),
            "a string of 1 bytes",
        ),
        (
            "tools[0].function.name",
            function(json!({})),
            "is missing; expected 1 to 128",
        ),
        (
            "tools[0].function.name",
            function(json!({"name": ""})),
            "a string of 0 bytes",
        ),
        (
            "tools[0].function.name",
            function(json!({"name": "a b"})),
            "letters, digits and _-.:/",
        ),
        (
            "tools[0].function.name",
            function(json!({"name": "x".repeat(129)})),
            "a string of 129 bytes",
        ),
        (
            "tools[0].function.name",
            function(json!({"name": {"a": 1}})),
            "expected a string",
        ),
        (
            "tools[0].function.description",
            function(json!({"name": "f", "description": 1})),
            "is 1; expected a string",
        ),
        (
            "tools[0].function.parameters",
            function(json!({"name": "f", "parameters": "{}"})),
            "a string of 2 bytes; expected an object",
        ),
        (
            "tools[0].function.strict",
            function(json!({"name": "f", "strict": "yes"})),
            "expected true or false",
        ),
        (
            "tools[0].function.parameters.properties.a.not",
            function(
                json!({"name": "f", "strict": true, "parameters": {"properties": {"a": {"not": {}}}}}),
            ),
            "constraints cannot follow this keyword",
        ),
        (
            "tools[0].function.parameters.type",
            function(json!({"name": "f", "strict": true, "parameters": {"type": "string"}})),
            "arguments are an object",
        ),
        (
            "tools[1]",
            json!([tool, tool]),
            "the name of a tool before it",
        ),
        (
            "tools",
            json!(vec![1; 513]),
            "an array of 513; expected at most 512",
        ),
        (
            "tool_choice",
            json!("some"),
            "an unknown text; expected `none`",
        ),
        ("tool_choice", json!(1), "is 1; expected `none`"),
        (
            "tool_choice",
            json!("required"),
            "expected at least one tool",
        ),
        (
            "tool_choice.type",
            json!({"function": {"name": "f"}}),
            "is missing; expected `function`",
        ),
        (
            "tool_choice.type",
            json!({"type": "allowed_tools"}),
            "cannot honour it yet",
        ),
        (
            "tool_choice.function",
            json!({"type": "function"}),
            "is missing; expected an object",
        ),
        (
            "tool_choice.function.name",
            json!({"type": "function", "function": {}}),
            "is missing",
        ),
        (
            "tool_choice.function.name",
            json!({"type": "function", "function": {"name": "f"}}),
            "names no tool of `tools`",
        ),
        ("parallel_tool_calls", json!("no"), "expected true or false"),
        ("functions", json!([{"name": "f"}]), "cannot honour it yet"),
        (
            "function_call",
            json!({"name": "f"}),
            "cannot honour it yet",
        ),
        ("audio", json!({"voice": "x"}), "cannot honour it yet"),
        (
            "modalities",
            json!(["text", "audio"]),
            "cannot honour it yet",
        ),
        ("web_search_options", json!({}), "cannot honour it yet"),
        (
            "continue_final_message",
            json!(true),
            "cannot honour it yet",
        ),
        (
            "logprobs",
            json!(2),
            "`logprobs` is 2; expected true or false",
        ),
        ("top_logprobs", json!(2), "expected `logprobs` to be true"),
        (
            "top_logprobs",
            json!(1025),
            "expected an integer from 0 to 1024",
        ),
        ("reasoning_effort", json!("enormous"), "unknown text"),
        ("enable_thinking", json!("no"), "expected true or false"),
        ("chat_template_kwargs", json!([]), "expected an object"),
        (
            "chat_template_kwargs.messages",
            json!({"messages": []}),
            "variables of the template's own",
        ),
    ]
}

fn completion_cases() -> Vec<FieldCase> {
    vec![
        ("prompt", json!(null), "`prompt` is missing"),
        ("prompt", json!(""), "the prompt is empty"),
        ("prompt", json!([]), "an array of 0; expected a string"),
        ("prompt", json!([[]]), "the prompt is empty"),
        (
            "prompt",
            json!({"a": 1}),
            "an object of 1; expected a string",
        ),
        (
            "prompt",
            json!([1, 576]),
            "`prompt[1]` is 576; expected a token id below 576",
        ),
        (
            "prompt",
            json!([1, -1]),
            "`prompt[1]` is -1; expected a token id",
        ),
        (
            "prompt",
            json!([1, 1.5]),
            "`prompt[1]` is 1.5; expected a token id",
        ),
        (
            "prompt",
            json!([1, "a"]),
            "`prompt[1]` is a string of 1 bytes; expected a token id",
        ),
        (
            "prompt[1]",
            json!(["a", 1]),
            "is 1; expected a string or an array",
        ),
        (
            "prompt[0]",
            json!([[1, 4_294_967_296_u64]]),
            "`prompt[0][1]` is 4294967296",
        ),
        (
            "prompt",
            json!(vec!["a"; 65]),
            "expected at most 64 prompts",
        ),
        ("suffix", json!("end"), "cannot honour it yet"),
        ("best_of", json!(4), "cannot rank answers yet"),
        (
            "logprobs",
            json!(1025),
            "expected an integer from 0 to 1024",
        ),
        (
            "logprobs",
            json!(true),
            "expected an integer from 0 to 1024",
        ),
        ("echo", json!("yes"), "expected true or false"),
    ]
}

async fn check(served: &Served, path: &str, good: &Value, cases: Vec<FieldCase>) {
    for (param, value, message) in cases {
        let mut body = good.clone();
        let field = param.split(['.', '[']).next().unwrap();
        body[field] = value.clone();
        let reply = ask(served.address, &post(path, &body.to_string())).await;
        assert_eq!(reply.status(), 400, "{path} {param} = {value}");
        let error = reply.json()["error"].clone();
        let said = error["message"].as_str().unwrap();
        assert!(said.contains(message), "{param} = {value}: {said}");
        assert_eq!(error["type"], "invalid_request_error");
        let named = error["param"].as_str().unwrap();
        assert!(
            named == param || named.starts_with(&format!("{param}.")),
            "{named} for {param}"
        );
        if message.contains("yet") {
            assert_eq!(error["code"], "unsupported_parameter", "{param}");
        }
    }
    served.assert_nothing_seen().await;
    let reply = ask(served.address, &post(path, &good.to_string())).await;
    assert_eq!(reply.status(), 200, "the service goes on");
    served.request().await;
}

#[tokio::test]
async fn bad_fields_are_named() {
    let served = Served::start().await;
    let chat = json!({"model": "hearth-test", "messages": [{"role": "user", "content": "a"}]});
    let completion = json!({"model": "hearth-test", "prompt": "a"});
    assert!(shared_cases().len() + chat_cases().len() + completion_cases().len() >= 90);
    check(&served, CHAT, &chat, shared_cases()).await;
    check(&served, CHAT, &chat, chat_cases()).await;
    check(&served, COMPLETION, &completion, shared_cases()).await;
    check(&served, COMPLETION, &completion, completion_cases()).await;
}

#[tokio::test]
async fn fields_that_do_not_go_together_are_refused() {
    let served = Served::start().await;
    let cases = [
        (json!({"echo": true, "logprobs": 1}), "echo"),
        (
            json!({"max_tokens": 5, "max_completion_tokens": 6}),
            "max_completion_tokens",
        ),
        (json!({"max_tokens": 5, "min_tokens": 6}), "min_tokens"),
        (
            json!({"guided_regex": "a", "ignore_eos": true}),
            "ignore_eos",
        ),
        (
            json!({"guided_regex": "a", "grammar": "start: \"a\""}),
            "guided_regex",
        ),
        (json!({"prompt": vec!["a"; 60], "n": 16}), "n"),
        (
            json!({"stream": true, "stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
        ),
        (
            json!({"stream": true, "stream_options": 5}),
            "stream_options",
        ),
    ];
    let strict = json!([{"type": "function", "function": {"name": "f", "strict": true}}]);
    let body = json!({
        "model": "hearth-test", "messages": [{"role": "user", "content": "a"}],
        "tools": strict, "ignore_eos": true,
    });
    let reply = ask(served.address, &post(CHAT, &body.to_string())).await;
    assert_eq!(reply.json()["error"]["param"], "ignore_eos");
    for (extra, param) in cases {
        let mut body = json!({"model": "hearth-test", "prompt": "a"});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        let reply = ask(served.address, &post(COMPLETION, &body.to_string())).await;
        assert_eq!(reply.status(), 400, "{extra}");
        assert_eq!(reply.json()["error"]["param"], param);
    }
    served.assert_nothing_seen().await;
}

#[tokio::test]
async fn bodies_that_are_no_request_are_refused() {
    let served = Served::start().await;
    let deep = format!(
        "{{\"messages\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let just_too_deep = format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "the body is not JSON"),
        (b"{".to_vec(), "the body is not JSON"),
        (b"{\"model\": }".to_vec(), "the body is not JSON"),
        (b"{'model': 'a'}".to_vec(), "the body is not JSON"),
        (b"{} {}".to_vec(), "the body is not JSON"),
        (b"{\"a\": 1e999}".to_vec(), "the body is not JSON"),
        (b"{\"a\": NaN}".to_vec(), "the body is not JSON"),
        (b"{\"a\": \"\\ud800\"}".to_vec(), "the body is not JSON"),
        (b"{\"a\": \"\x01\"}".to_vec(), "the body is not JSON"),
        (b"\xef\xbb\xbf{}".to_vec(), "the body is not JSON"),
        (b"[]".to_vec(), "an array of 0; expected a JSON object"),
        (b"null".to_vec(), "null; expected a JSON object"),
        (
            b"\"text\"".to_vec(),
            "a string of 4 bytes; expected a JSON object",
        ),
        (b"5".to_vec(), "5; expected a JSON object"),
        (b"{\"a\": \"\xff\"}".to_vec(), "not UTF-8: byte 7"),
        (b"\x00\xfe".to_vec(), "not UTF-8: byte 1"),
        (deep.into_bytes(), "nested too deeply; at most 64"),
        (just_too_deep.into_bytes(), "nested too deeply; at most 64"),
    ];
    for (body, message) in cases {
        let headers = [("Content-Type", "application/json")];
        for path in [CHAT, COMPLETION] {
            let reply = ask(served.address, &raw("POST", path, &headers, &body)).await;
            let shown = String::from_utf8_lossy(&body)
                .chars()
                .take(40)
                .collect::<String>();
            assert_eq!(reply.status(), 400, "{shown}");
            let error = reply.json()["error"].clone();
            assert!(
                error["message"].as_str().unwrap().contains(message),
                "{shown}: {error}"
            );
            assert_eq!(error["type"], "invalid_request_error");
        }
    }
    served.assert_nothing_seen().await;
}

#[tokio::test]
async fn wrong_places_methods_and_types_are_refused() {
    let served = Served::start().await;
    let good = json!({"model": "hearth-test", "prompt": "a"}).to_string();
    let json_type = ("Content-Type", "application/json");
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16, &'a str);
    let cases: [Case<'_>; 14] = [
        ("GET", "/index.html", &[], 404, "not_found"),
        ("GET", "/v1", &[], 404, "not_found"),
        ("GET", "/admin", &[], 404, "not_found"),
        ("POST", "/v1/completions/", &[json_type], 404, "not_found"),
        ("GET", "/v1/../etc/passwd", &[], 404, "not_found"),
        ("GET", "/v1/models/%FF", &[], 404, "model_not_found"),
        ("GET", COMPLETION, &[], 405, "method_not_allowed"),
        ("DELETE", CHAT, &[], 405, "method_not_allowed"),
        (
            "POST",
            "/v1/models",
            &[json_type],
            405,
            "method_not_allowed",
        ),
        ("OPTIONS", CHAT, &[], 405, "method_not_allowed"),
        ("POST", COMPLETION, &[], 415, "unsupported_media_type"),
        (
            "POST",
            COMPLETION,
            &[("Content-Type", "text/plain")],
            415,
            "unsupported_media_type",
        ),
        (
            "POST",
            COMPLETION,
            &[("Content-Type", "application/json; charset=utf-16")],
            415,
            "unsupported_media_type",
        ),
        (
            "POST",
            COMPLETION,
            &[("Content-Type", "application/x-www-form-urlencoded")],
            415,
            "unsupported_media_type",
        ),
    ];
    for (method, path, headers, status, code) in cases {
        let body = if method == "POST" {
            good.as_bytes()
        } else {
            b""
        };
        let reply = ask(served.address, &raw(method, path, headers, body)).await;
        assert_eq!(reply.status(), status, "{method} {path}");
        assert_eq!(reply.json()["error"]["code"], code, "{method} {path}");
        assert_eq!(
            reply.head.header("allow").is_some(),
            status == 405,
            "{method} {path}"
        );
    }
    served.assert_nothing_seen().await;
}

#[tokio::test]
async fn errors_have_the_form_that_the_clients_of_a_path_know() {
    let served = Served::start().await;
    let ask = async |path: &str, host: &str| {
        let request = raw("GET", path, &[("Host", host)], b"");
        let reply = ask(served.address, &request).await;
        (reply.status(), reply.json())
    };
    let (status, openai) = ask("/v1/nothing", "localhost").await;
    assert_eq!(
        (status, &openai["error"]["code"]),
        (404, &json!("not_found"))
    );
    let (status, anthropic) = ask("/v1/messages/nothing", "localhost").await;
    assert_eq!((status, &anthropic["type"]), (404, &json!("error")));
    assert_eq!(anthropic["error"]["type"], "not_found_error");
    let (status, ollama) = ask("/api/nothing", "localhost").await;
    assert_eq!(status, 404);
    assert!(ollama["error"].is_string());
    // Even before a route is looked for.
    let (status, anthropic) = ask("/v1/messages", "evil.example").await;
    assert_eq!(status, 403);
    assert_eq!(anthropic["error"]["type"], "permission_error");
}

#[tokio::test]
async fn another_model_is_not_found() {
    let served = Served::start().await;
    for model in [
        "gpt-4o",
        "",
        "hearth-test ",
        "HEARTH-TEST",
        "../hearth-test",
    ] {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "a"}]});
        let reply = ask(served.address, &post(CHAT, &body.to_string())).await;
        assert_eq!(reply.status(), 404, "{model:?}");
        let error = reply.json()["error"].clone();
        assert_eq!(error["code"], "model_not_found");
        assert_eq!(error["param"], "model");
        assert!(error["message"].as_str().unwrap().contains("`hearth-test`"));
    }
}

#[tokio::test]
async fn a_prompt_is_never_repeated_in_an_error() {
    let served = Served::start().await;
    let secret = "the secret of the house";
    let bodies = [
        json!({"model": "hearth-test", "messages": secret}),
        json!({"model": "hearth-test", "messages": [secret]}),
        json!({"model": "hearth-test", "messages": [{"role": secret, "content": "a"}]}),
        json!({"model": "hearth-test", "messages": [{"role": "user", "content": {"text": secret}}]}),
        json!({"model": "hearth-test", "messages": [{"role": "user", "content": secret}], "temperature": secret}),
        json!({"model": "hearth-test", "messages": [{"role": "user", "content": secret}], "max_tokens": 99999}),
    ];
    for body in bodies {
        let reply = ask(served.address, &post(CHAT, &body.to_string())).await;
        assert_eq!(reply.status(), 400);
        assert!(
            !String::from_utf8_lossy(&reply.body).contains("secret"),
            "{body}"
        );
    }
}

#[tokio::test]
async fn bytes_that_are_no_http_end_their_connection_only() {
    let served = Served::start().await;
    for bytes in [
        b"\x16\x03\x01\x02\x00\x01\x00".as_slice(),
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"GET / HTTP/1.1\r\nHost: local\x00host\r\n\r\n",
        b"\r\n\r\n\r\n garbage \r\n\r\n",
    ] {
        let mut client = Connection::open(served.address).await;
        client.send(bytes).await;
        let rest = client.rest().await;
        let text = String::from_utf8_lossy(&rest);
        assert!(rest.is_empty() || text.starts_with("HTTP/1.1 400"), "{text}");
    }
    let reply = ask(served.address, &raw("GET", "/healthz", &[], b"")).await;
    assert_eq!(reply.status(), 200);
}

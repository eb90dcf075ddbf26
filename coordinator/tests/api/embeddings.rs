//! Texts turned into vectors, in both dialects that ask for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use coordinator::gateway::{FinishReason, GenerateRequest, Phase, Refusal};
use proto::step::Pooling;
use serde_json::{Value, json};

use crate::client::{Connection, ask, post, post_json};
use crate::household::{CONTEXT, HIDDEN, Say, Seen, Served, VOCAB};
use crate::table::rows;

const PATH: &str = "/v1/embeddings";

/// A row that tells which input it belongs to.
fn row(request: &GenerateRequest) -> Vec<f32> {
    let mut row = vec![0.0; HIDDEN as usize];
    row[0] = 3.0;
    row[1] = 4.0;
    row[2] = request.prompt[0] as f32;
    row
}

async fn served() -> Served {
    let served = Served::start().await;
    served.script(|request| Ok(vec![Say::Vector(row(request))]));
    served
}

fn scaled(row: &[f32]) -> Vec<f32> {
    let squares = row.iter().map(|x| f64::from(*x) * f64::from(*x));
    let length = squares.sum::<f64>().sqrt();
    row.iter()
        .map(|x| (f64::from(*x) / length) as f32)
        .collect()
}

fn floats(value: &Value) -> Vec<f32> {
    let values = value.as_array().unwrap().iter();
    values.map(|x| x.as_f64().unwrap() as f32).collect()
}

#[tokio::test]
async fn every_form_of_input_is_taken_as_it_is() {
    let served = served().await;
    let text = served.ids("A long answer");
    let other = served.ids("b");
    let cases: [(Value, Vec<Vec<u32>>); 5] = [
        (json!("A long answer"), vec![text.clone()]),
        (json!(["A long answer", "b"]), vec![text, other]),
        (json!([5, 6, 7]), vec![vec![5, 6, 7]]),
        (json!([[5, 6], [7]]), vec![vec![5, 6], vec![7]]),
        (json!([[9], "b"]), vec![vec![9], served.ids("b")]),
    ];
    for (input, prompts) in cases {
        let body = json!({"model": "hearth-test", "input": input, "user": "ada"});
        let reply = post_json(served.address, PATH, &body).await;
        assert_eq!(reply.status(), 200, "{input}");
        let reply = reply.json();
        assert_eq!(reply["object"], "list");
        assert_eq!(reply["model"], "hearth-test");
        let tokens: usize = prompts.iter().map(Vec::len).sum();
        let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
        assert_eq!(reply["usage"], usage);
        let data = reply["data"].as_array().unwrap();
        assert_eq!(data.len(), prompts.len());
        for (index, (entry, prompt)) in data.iter().zip(&prompts).enumerate() {
            let request = served.request().await;
            assert_eq!(&request.prompt, prompt);
            assert_eq!(request.pooling, Some(Pooling::Last));
            assert_eq!(entry["object"], "embedding");
            assert_eq!(entry["index"], index);
            assert_eq!(floats(&entry["embedding"]), scaled(&row(&request)));
        }
    }
}

#[tokio::test]
async fn dimensions_pooling_and_encoding_are_honoured() {
    let served = served().await;
    let body = json!({"model": "hearth-test", "input": [5], "pooling": "mean", "dimensions": 2,
        "encoding_format": "base64"});
    let reply = post_json(served.address, PATH, &body).await.json();
    let request = served.request().await;
    assert_eq!(request.pooling, Some(Pooling::Mean));
    // 0.6 and 0.8 as 32-bit floats, little-endian: 9a 99 19 3f cd cc 4c 3f.
    assert_eq!(reply["data"][0]["embedding"], "mpkZP83MTD8=");
    let body = json!({"model": "hearth-test", "input": [5], "pooling": "last", "dimensions": HIDDEN,
        "encoding_format": "float"});
    let reply = post_json(served.address, PATH, &body).await.json();
    let expected = scaled(&row(&served.request().await));
    assert_eq!(floats(&reply["data"][0]["embedding"]), expected);
}

#[tokio::test]
async fn many_inputs_come_back_in_order_though_the_household_takes_few_at_once() {
    let served = Served::start().await;
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    served.script(move |request| {
        // Every third is turned away once.
        if counted.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
            return Err(Refusal::Busy { retry_after_s: 5 });
        }
        Ok(vec![Say::Vector(row(request))])
    });
    let inputs: Vec<[u32; 1]> = (0..100).map(|id| [id]).collect();
    let body = json!({"model": "hearth-test", "input": inputs});
    let reply = post_json(served.address, PATH, &body).await;
    assert_eq!(reply.status(), 200);
    let reply = reply.json();
    for (id, entry) in reply["data"].as_array().unwrap().iter().enumerate() {
        let mut row = vec![0.0; HIDDEN as usize];
        (row[0], row[1], row[2]) = (3.0, 4.0, id as f32);
        assert_eq!(floats(&entry["embedding"]), scaled(&row), "{id}");
    }
    assert_eq!(reply["data"].as_array().unwrap().len(), 100);
    assert!(calls.load(Ordering::Relaxed) >= 149);
}

#[tokio::test]
async fn the_household_s_word_is_passed_on() {
    let served = Served::start().await;
    let body = json!({"model": "hearth-test", "input": "a"});
    let spoilt = || {
        let mut row = vec![1.0; HIDDEN as usize];
        row[3] = f32::NAN;
        vec![Say::Vector(row)]
    };
    type Script = Box<dyn Fn() -> Result<Vec<Say>, Refusal> + Send + Sync>;
    let cases: Vec<(Script, u16, &str)> = vec![
        (
            Box::new(|| Err(Refusal::Busy { retry_after_s: 5 })),
            429,
            "busy",
        ),
        (Box::new(|| Err(Refusal::NotReady)), 503, "not_ready"),
        (Box::new(|| Ok(vec![Say::Fail])), 503, "node_lost"),
        (Box::new(|| Ok(vec![Say::Vanish])), 503, "broken_off"),
        (
            Box::new(|| Ok(vec![Say::Finished(0, FinishReason::Stop)])),
            503,
            "broken_off",
        ),
        (Box::new(|| Ok(vec![Say::Token(0, 3)])), 503, "broken_off"),
        (Box::new(move || Ok(spoilt())), 500, "bad_vector"),
    ];
    for (script, status, code) in cases {
        served.script(move |_| script());
        let reply = post_json(served.address, PATH, &body).await;
        assert_eq!(reply.status(), status, "{code}");
        assert_eq!(reply.json()["error"]["code"], code);
        assert_eq!(reply.head.header("retry-after").is_some(), status != 500);
    }
    served.set_phase(Phase::Loading);
    let reply = post_json(served.address, PATH, &body).await;
    assert_eq!(reply.status(), 503);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_vectors() {
    let served = Served::start().await;
    let never = Arc::new(tokio::sync::Notify::new());
    served.say(vec![Say::Wait(never)]);
    let mut client = Connection::open(served.address).await;
    let body = json!({"model": "hearth-test", "input": [[1], [2], [3]]});
    client.send(&post(PATH, &body.to_string())).await;
    for _ in 0..3 {
        assert!(matches!(served.seen().await, Seen::Generate(_)));
    }
    drop(client);
    for _ in 0..3 {
        assert!(matches!(served.seen().await, Seen::Cancel(_)));
    }
}

#[tokio::test]
async fn ollama_s_forms_give_the_same_vectors() {
    let served = served().await;
    let body = json!({"model": "hearth-test:latest", "input": ["a", "b"], "dimensions": 2,
        "options": {"num_ctx": 64}, "keep_alive": "5m"});
    let reply = post_json(served.address, "/api/embed", &body).await;
    assert_eq!(reply.status(), 200);
    let reply = reply.json();
    assert_eq!(reply["model"], "hearth-test:latest");
    for vector in reply["embeddings"].as_array().unwrap() {
        assert_eq!(floats(vector), [0.6, 0.8]);
    }
    assert_eq!(reply["embeddings"].as_array().unwrap().len(), 2);
    assert_eq!(reply["prompt_eval_count"], 2);
    assert_eq!(reply["load_duration"], 0);
    assert!(reply["total_duration"].as_u64().unwrap() > 0);
    for _ in 0..2 {
        served.request().await;
    }

    let body = json!({"model": "hearth-test", "prompt": "a"});
    let reply = post_json(served.address, "/api/embeddings", &body).await;
    let expected = scaled(&row(&served.request().await));
    assert_eq!(floats(&reply.json()["embedding"]), expected);
}

#[tokio::test]
async fn ollama_cuts_long_texts_unless_told_not_to() {
    let served = served().await;
    let long = "a ".repeat(CONTEXT as usize);
    let body = json!({"model": "hearth-test", "input": long});
    let reply = post_json(served.address, "/api/embed", &body).await;
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.json()["prompt_eval_count"], CONTEXT);
    let request = served.request().await;
    assert_eq!(request.prompt, served.ids(&long)[..CONTEXT as usize]);

    let body = json!({"model": "hearth-test", "input": long, "truncate": false});
    let reply = post_json(served.address, "/api/embed", &body).await;
    assert_eq!(reply.status(), 400);
    assert!(
        String::from_utf8(reply.body)
            .unwrap()
            .contains("the context holds 512")
    );
    served.assert_nothing_seen().await;
}

const BAD_INPUTS: &str = r#"
null => is missing; expected a string, an array of token ids
7 => is 7; expected a string, an array of token ids
{"text": "a"} => is an object of 1; expected a string
true => is true; expected a string
[] => is an array of 0; expected a string
"" => is a string of 0 bytes; expected a text
["a", ""] => [1]` is a string of 0 bytes
["a", null] => [1]` is null; expected a string or
[["a"]] => [0][0]` is a string of 1 bytes; expected a token id
[[]] => [0]` is an array of 0; expected a string or
[[1], []] => [1]` is an array of 0; expected a string or
[[1], 2] => [1]` is 2; expected a string or
[1, "a"] => [1]` is a string of 1 bytes; expected a token id below 576
[-1] => [0]` is -1; expected a token id
[1.5] => [0]` is 1.5; expected a token id
[[1, 600]] => [0][1]` is 600; expected a token id
"#;

#[tokio::test]
async fn inputs_that_make_no_sense_are_refused_with_their_place() {
    let served = served().await;
    let made = [
        (
            json!([VOCAB]),
            ["[0]` is 576; expected a token id below 576"],
        ),
        (
            json!(vec!["a"; 2049]),
            ["is an array of 2049; expected at most 2048"],
        ),
        (
            json!(vec![1; 513]),
            ["input 0 has 513 tokens; the context holds 512"],
        ),
        (
            json!([vec![1; 3], vec![1; 513]]),
            ["input 1 has 513 tokens"],
        ),
    ];
    for (input, [message]) in rows(BAD_INPUTS).into_iter().chain(made) {
        for (path, extra) in [
            (PATH, json!({})),
            ("/api/embed", json!({"truncate": false})),
        ] {
            let mut body = json!({"model": "hearth-test", "input": input});
            body.as_object_mut()
                .unwrap()
                .extend(extra.as_object().unwrap().clone());
            let reply = post_json(served.address, path, &body).await;
            assert_eq!(reply.status(), 400, "{path} {input}");
            let error = reply.json()["error"].clone();
            let text = match path {
                PATH => {
                    assert_eq!(error["type"], "invalid_request_error");
                    assert!(
                        error["param"].as_str().unwrap().starts_with("input"),
                        "{error}"
                    );
                    &error["message"]
                }
                _ => &error,
            };
            assert!(
                text.as_str().unwrap().contains(message),
                "{path} {input}: {text}"
            );
        }
    }
    served.assert_nothing_seen().await;
}

const BAD_FIELDS: &str = r#"
{"model": null} => 400 => `model` is missing
{"model": 5} => 400 => `model` is 5; expected a string
{"model": "gpt"} => 404 => the model `gpt` is not served here
{"model": "hearth-test:latest"} => 404 => is not served here
{"model": ""} => 404 => is not served here
{"dimensions": 0} => 400 => `dimensions` is 0; expected an integer from 1 to 8
{"dimensions": 9} => 400 => `dimensions` is 9; expected an integer from 1 to 8
{"dimensions": "8"} => 400 => expected an integer from 1 to 8
{"dimensions": 1.5} => 400 => `dimensions` is 1.5
{"encoding_format": "int8"} => 400 => expected float or base64
{"encoding_format": 1} => 400 => `encoding_format` is 1; expected a string
{"encoding_format": ["float"]} => 400 => an array of 1; expected a string
{"pooling": "max"} => 400 => expected last or mean
{"pooling": false} => 400 => `pooling` is false; expected a string
"#;

#[tokio::test]
async fn fields_that_make_no_sense_are_refused_by_name() {
    let served = served().await;
    for (fields, [status, message]) in rows(BAD_FIELDS) {
        let fields = fields.as_object().unwrap();
        let (name, value) = fields.iter().next().unwrap();
        let mut body = json!({"model": "hearth-test", "input": "a"});
        body[name] = value.clone();
        let reply = post_json(served.address, PATH, &body).await;
        assert_eq!(reply.status().to_string(), status, "{name} {value}");
        let error = reply.json()["error"].clone();
        assert_eq!(error["param"], json!(name), "{name} {value}");
        let text = error["message"].as_str().unwrap();
        assert!(text.contains(message), "{name} {value}: {text}");
    }
    for (body, status) in [("", 400), ("[]", 400), ("{\"model\": ", 400)] {
        let reply = ask(served.address, &post(PATH, body)).await;
        assert_eq!(reply.status(), status, "{body}");
    }
    served.assert_nothing_seen().await;
}

#[tokio::test]
async fn a_text_is_never_repeated_in_an_error() {
    let served = served().await;
    let secret = "the secret of the house ".repeat(60);
    for body in [
        json!({"model": "hearth-test", "input": secret}),
        json!({"model": "hearth-test", "input": {"a": secret}}),
        json!({"model": "hearth-test", "input": [1, secret]}),
        json!({"model": "hearth-test", "input": "a", "pooling": secret}),
    ] {
        let reply = post_json(served.address, PATH, &body).await;
        assert_eq!(reply.status(), 400);
        assert!(!String::from_utf8(reply.body).unwrap().contains("secret"));
    }
}

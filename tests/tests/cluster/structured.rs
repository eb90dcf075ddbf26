//! Constrained answers of a model with random weights: valid, the same tokens on one machine and on three, and no
//! hindrance for others.

use serde_json::{Value, json};
use tests::{Wanted, fixtures, plans};

/// Layers of the model.
const LAYERS: u32 = 8;
/// Tokens that an answer may have.
const TOKENS_MAX: u32 = 120;

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 8},
            "degrees": {"type": "integer", "minimum": -40, "maximum": 50},
            "wind": {"enum": ["none", "some", "storm"]},
            "hours": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
        },
        "required": ["city", "degrees", "wind", "hours"],
        "additionalProperties": false,
    })
}

/// A request for completions, drawn by chance from a seed.
fn completion(format: Value) -> Value {
    let mut body = json!({
        "prompt": [7, 100, 3, 250, 9],
        "max_tokens": TOKENS_MAX,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "seed": 11,
        "n": 2,
        "logprobs": 0,
        "return_tokens_as_token_ids": true,
    });
    for (name, value) in format.as_object().expect("fields") {
        body[name.as_str()] = value.clone();
    }
    body
}

/// Texts and tokens of all choices.
async fn answers(cuts: &[u32], requests: &[Value]) -> Vec<Value> {
    let model = fixtures::gguf("qwen3_5_moe");
    let id = model
        .file_stem()
        .and_then(|stem| stem.to_str())
        .expect("a name");
    let cluster = Wanted::model(&model)
        .nodes(cuts.len() + 1)
        .plan(plans::cut(id, LAYERS, cuts))
        .ready()
        .await;
    let api = cluster.api();
    let asked = requests
        .iter()
        .map(|request| api.post("/v1/completions", request.clone()));
    let replies = futures::future::join_all(asked).await;
    replies
        .into_iter()
        .map(|reply| reply.ok()["choices"].clone())
        .collect()
}

/// The texts of choices that ended by themselves.
fn texts(choices: &Value) -> Vec<&str> {
    let choices = choices.as_array().expect("choices").iter();
    let text = |choice: &'_ Value| {
        assert_eq!(choice["finish_reason"], "stop", "{choice}");
    };
    choices.clone().for_each(text);
    choices
        .filter_map(|choice| choice["text"].as_str())
        .collect()
}

fn check(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    let object = value.as_object().expect("an object");
    let names: Vec<&str> = object.keys().map(String::as_str).collect();
    assert_eq!(names, ["city", "degrees", "wind", "hours"], "{text}");
    assert!(
        value["city"].as_str().expect("a text").chars().count() <= 8,
        "{text}"
    );
    assert!(
        (-40..=50).contains(&value["degrees"].as_i64().expect("a number")),
        "{text}"
    );
    assert!(["none", "some", "storm"].contains(&value["wind"].as_str().expect("a text")));
    let hours = value["hours"].as_array().expect("a list");
    assert!(
        (2..=3).contains(&hours.len()) && hours.iter().all(Value::is_boolean),
        "{text}"
    );
}

#[tokio::test]
async fn constrained_answers_are_valid_and_the_same_on_one_machine_and_on_three() {
    let json_schema = json!({"name": "weather", "strict": true, "schema": schema()});
    let requests = [
        completion(json!({"response_format": {"type": "json_schema", "json_schema": json_schema}})),
        completion(json!({"guided_choice": ["north", "north-east", "south"]})),
        completion(json!({"guided_regex": "[a-f]{3}-[0-9]{2}"})),
        completion(json!({"grammar": "start: \"(\" start \")\" | \"x\""})),
        // Beside them one that may say anything.
        completion(json!({})),
    ];
    let alone = answers(&[], &requests).await;
    for text in texts(&alone[0]) {
        check(text);
    }
    for text in texts(&alone[1]) {
        assert!(["north", "north-east", "south"].contains(&text), "{text}");
    }
    for text in texts(&alone[2]) {
        let (letters, digits) = text.split_once('-').expect("a hyphen");
        assert!(letters.len() == 3 && letters.bytes().all(|b| (b'a'..=b'f').contains(&b)));
        assert!(digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit()));
    }
    for text in texts(&alone[3]) {
        let depth = text.len() / 2;
        assert_eq!(text, format!("{}x{}", "(".repeat(depth), ")".repeat(depth)));
    }
    let split = answers(&[2, 5], &requests).await;
    assert_eq!(alone, split, "tokens and log-probabilities");
}

#[tokio::test]
async fn what_cannot_be_constrained_is_refused_and_hurts_nobody() {
    let cluster = Wanted::model(&fixtures::gguf("qwen3_5_moe"))
        .nodes(2)
        .ready()
        .await;
    let api = cluster.api();
    let schema =
        json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
    let json_schema = json!({"name": "x", "strict": true, "schema": schema});
    let format = json!({"response_format": {"type": "json_schema", "json_schema": json_schema}});
    let reply = api.post("/v1/completions", completion(format)).await;
    assert_eq!(reply.status, 400);
    let param = &reply.body["error"]["param"];
    assert_eq!(
        param,
        "response_format.json_schema.schema.properties.a.uniqueItems"
    );
    let after = api
        .post(
            "/v1/completions",
            completion(json!({"guided_choice": ["a"]})),
        )
        .await;
    assert_eq!(texts(&after.ok()["choices"]), ["a", "a"]);
}

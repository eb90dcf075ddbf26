//! Tokenizer and chat template of whole checkpoints: directory and GGUF file give the recorded ids and texts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::PathBuf;

use model::{Checkpoint, RenderInput, SpecialText, Specials};
use serde_json::{Map, Value};

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(root().join(path)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Both formats of a tiny model.
fn both(arch: &str) -> [Checkpoint; 2] {
    let dir = root().join("tests/data").join(arch);
    [dir.clone(), dir.join("model-f16.gguf")].map(|path| Checkpoint::open(&path).unwrap())
}

const ARCHS: [&str; 4] = ["llama", "qwen3_5", "qwen3_5_moe", "qwen3_moe"];

#[test]
fn prompts_and_answers_are_the_recorded_ones() {
    for arch in ARCHS {
        let golden = json(&format!("tests/data/{arch}/golden.json"));
        for checkpoint in both(arch) {
            let tokenizer = checkpoint.tokenizer().unwrap();
            for prompt in golden["prompts"].as_array().unwrap() {
                let text = prompt["text"].as_str().unwrap();
                let got = tokenizer.encode_prompt(text, Specials::Parse).unwrap();
                assert_eq!(got, ids(&prompt["token_ids"]), "{arch} {text:?}");
                let answer = tokenizer.decode(&ids(&prompt["greedy"]["ids"]), SpecialText::Keep);
                assert_eq!(answer, prompt["greedy"]["text"].as_str().unwrap(), "{arch}");
            }
            for chat in golden["chat"].as_array().unwrap() {
                let text = chat["rendered"].as_str().unwrap();
                let got = tokenizer.encode(text, Specials::Parse).unwrap();
                assert_eq!(got, ids(&chat["token_ids"]), "{arch}");
            }
        }
    }
}

#[test]
fn both_formats_render_the_same_chats() {
    for arch in ARCHS {
        let golden = json(&format!("tests/data/{arch}/golden.json"));
        let [directory, file] = both(arch).map(|c| c.chat_template().unwrap().unwrap());
        for chat in golden["chat"].as_array().unwrap() {
            let empty = Map::new();
            let input = RenderInput {
                messages: &chat["messages"],
                tools: chat.get("tools"),
                add_generation_prompt: true,
                extra: chat
                    .get("kwargs")
                    .and_then(Value::as_object)
                    .unwrap_or(&empty),
            };
            let text = directory.render(&input).unwrap();
            assert_eq!(text, file.render(&input).unwrap(), "{arch}");
            if chat["name"] != "tool_round_trip" {
                assert_eq!(text, chat["rendered"].as_str().unwrap(), "{arch}");
            }
        }
    }
}

#[test]
fn the_bundled_model_reads_its_recorded_chats() {
    let checkpoint = Checkpoint::open(&root().join("models/hearth-tiny.gguf")).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    let template = checkpoint.chat_template().unwrap().unwrap();
    let expected = json("tests/data/hearth-tiny-expected.json");
    for case in expected["cases"].as_array().unwrap() {
        let text = template
            .render(&RenderInput {
                messages: &case["messages"],
                tools: Some(&case["tools"]).filter(|tools| !tools.is_null()),
                add_generation_prompt: true,
                extra: &Map::new(),
            })
            .unwrap();
        let got = tokenizer.encode(&text, Specials::Parse).unwrap();
        assert_eq!(got, ids(&case["token_ids"]), "{}", case["messages"]);
        let answer = tokenizer.decode(&ids(&case["greedy_ids"]), SpecialText::Skip);
        assert_eq!(answer, case["text"].as_str().unwrap());
    }
}

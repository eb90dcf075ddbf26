//! Recorded renderings: the tiny models' own template, and the upstream templates if their folder is given.

use serde_json::{Map, Value};

use crate::template::{ChatTemplate, RenderInput, TemplateError};
use crate::tokenizer::{Specials, Tokenizer};

/// The folder with `golden_chat.json`, `qwen3.jinja` and `qwen3_5.jinja`, which are not part of this repository.
const UPSTREAM: &str = "HEARTH_CHAT_TEMPLATES";

fn data(arch: &str, name: &str) -> Vec<u8> {
    let root = env!("CARGO_MANIFEST_DIR");
    std::fs::read(format!("{root}/../../tests/data/{arch}/{name}")).unwrap()
}

fn tokenizer(arch: &str) -> Tokenizer {
    let config = data(arch, "tokenizer_config.json");
    Tokenizer::from_json(&data(arch, "tokenizer.json"), Some(&config)).unwrap()
}

fn render(template: &ChatTemplate, chat: &Value) -> Result<String, TemplateError> {
    let empty = Map::new();
    template.render(&RenderInput {
        messages: &chat["messages"],
        tools: chat.get("tools"),
        add_generation_prompt: chat["add_generation_prompt"] == true,
        extra: chat
            .get("kwargs")
            .and_then(Value::as_object)
            .unwrap_or(&empty),
    })
}

/// The recordings of the short template were made without `trim_blocks`, which Hugging Face always sets. With it, the
/// line end after `{% if tools %}` goes; this is the only tag of a recorded chat where it makes a difference.
fn trimmed(text: &str) -> String {
    text.replace("Use tools.\n<tools>", "Use tools.<tools>")
}

/// Compares one recorded chat, and the same with the arguments of tool calls as JSON texts.
fn check(template: &ChatTemplate, tokenizer: &Tokenizer, chat: &Value) {
    if chat.get("error").is_some() {
        assert!(render(template, chat).is_err(), "{}", chat["name"]);
        return;
    }
    let mut as_texts = chat.clone();
    for message in as_texts["messages"].as_array_mut().unwrap() {
        let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
        for call in calls.into_iter().flatten() {
            let arguments = &mut call["function"]["arguments"];
            *arguments = Value::String(arguments.to_string());
        }
    }
    for chat in [chat, &as_texts] {
        let text = render(template, chat).unwrap();
        let recorded = chat["rendered"].as_str().unwrap();
        if text != recorded {
            assert_eq!(text, trimmed(recorded), "{}", chat["name"]);
            continue;
        }
        let ids = tokenizer.encode(&text, Specials::Parse).unwrap();
        let want: Vec<u32> = serde_json::from_value(chat["token_ids"].clone()).unwrap();
        assert_eq!(ids, want, "{}", chat["name"]);
    }
}

#[test]
fn tiny_models_render_as_recorded() {
    for arch in ["llama", "qwen3_5", "qwen3_5_moe", "qwen3_moe"] {
        let tokenizer = tokenizer(arch);
        let source = String::from_utf8(data(arch, "chat_template.jinja")).unwrap();
        let template =
            ChatTemplate::new(&source, tokenizer.bos_text(), tokenizer.eos_text()).unwrap();
        let golden: Value = serde_json::from_slice(&data(arch, "golden.json")).unwrap();
        for chat in golden["chat"].as_array().unwrap() {
            check(&template, &tokenizer, chat);
        }
    }
}

#[test]
fn upstream_templates_render_as_recorded() {
    let Some(folder) = std::env::var_os(UPSTREAM) else {
        eprintln!("skipped: {UPSTREAM} does not name the folder of the upstream templates");
        return;
    };
    let read = |name: &str| std::fs::read(std::path::Path::new(&folder).join(name)).unwrap();
    let golden: Value = serde_json::from_slice(&read("golden_chat.json")).unwrap();
    for (arch, chats) in golden.as_object().unwrap() {
        let file = if arch == "qwen3_moe" {
            "qwen3.jinja"
        } else {
            "qwen3_5.jinja"
        };
        let source = String::from_utf8(read(file)).unwrap();
        let tokenizer = tokenizer(arch);
        let template =
            ChatTemplate::new(&source, tokenizer.bos_text(), tokenizer.eos_text()).unwrap();
        for chat in chats.as_array().unwrap() {
            check(&template, &tokenizer, chat);
        }
        for refused in [
            r#"{"name": "nothing", "messages": [], "error": true}"#,
            r#"{"name": "late system", "error": true, "messages":
                [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}"#,
        ] {
            if file == "qwen3_5.jinja" {
                check(
                    &template,
                    &tokenizer,
                    &serde_json::from_str(refused).unwrap(),
                );
            }
        }
    }
}

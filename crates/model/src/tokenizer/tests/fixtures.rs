//! The tiny models' tokenizer files, and GGUF metadata made from them by hand.

use serde_json::Value;

use crate::tokenizer::GgufTokenizer;

/// The fixtures under `tests/data`.
pub(super) const ARCHS: [&str; 4] = ["llama", "qwen3_5", "qwen3_5_moe", "qwen3_moe"];

/// One fixture's files.
pub(super) struct Fixture {
    pub(super) arch: &'static str,
    pub(super) tokenizer: Vec<u8>,
    pub(super) config: Vec<u8>,
    pub(super) golden: Value,
}

impl Fixture {
    pub(super) fn read(arch: &'static str) -> Self {
        let folder = format!("{}/../../tests/data/{arch}", env!("CARGO_MANIFEST_DIR"));
        let read = |name: &str| std::fs::read(format!("{folder}/{name}")).unwrap();
        Self {
            arch,
            tokenizer: read("tokenizer.json"),
            config: read("tokenizer_config.json"),
            golden: serde_json::from_slice(&read("golden.json")).unwrap(),
        }
    }

    /// `tokenizer.json` as a value, to be changed.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.tokenizer).unwrap()
    }

    /// What a converter writes into a GGUF file for this tokenizer.
    pub(super) fn gguf(&self) -> GgufTokenizer {
        let json = self.json();
        let config: Value = serde_json::from_slice(&self.config).unwrap();
        let mut tokens = vec![String::new(); 576];
        let mut types = vec![5; 576];
        for (token, id) in json["model"]["vocab"].as_object().unwrap() {
            let id = usize::try_from(id.as_u64().unwrap()).unwrap();
            tokens[id].clone_from(token);
            types[id] = 1;
        }
        for token in json["added_tokens"].as_array().unwrap() {
            let id = usize::try_from(token["id"].as_u64().unwrap()).unwrap();
            token["content"]
                .as_str()
                .unwrap()
                .clone_into(&mut tokens[id]);
            types[id] = if token["special"] == true { 3 } else { 4 };
        }
        for (id, token) in tokens
            .iter_mut()
            .enumerate()
            .filter(|(id, _)| types[*id] == 5)
        {
            *token = format!("[PAD{id}]");
        }
        let named = |key: &str| {
            let text = config[key].as_str()?;
            u32::try_from(tokens.iter().position(|t| t == text)?).ok()
        };
        let merges = json["model"]["merges"].as_array().unwrap().iter();
        GgufTokenizer {
            model: "gpt2".into(),
            pre: match self.arch {
                "llama" => "llama-bpe",
                "qwen3_moe" => "qwen2",
                _ => "qwen35",
            }
            .into(),
            bos: named("bos_token"),
            eos: named("eos_token"),
            merges: merges
                .map(|m| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap()))
                .collect(),
            add_bos: None,
            add_eos: None,
            tokens,
            types,
        }
    }
}

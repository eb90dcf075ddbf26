//! The models that tests run, and the recorded outputs of an independent implementation for them.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Families with recorded outputs.
pub const FAMILIES: [&str; 4] = ["qwen3_5_moe", "qwen3_5", "qwen3_moe", "llama"];

/// Where the fixtures lie.
#[must_use]
pub fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

/// A family's safetensors directory.
#[must_use]
pub fn safetensors(family: &str) -> PathBuf {
    data().join(family)
}

/// A family's GGUF file.
#[must_use]
pub fn gguf(family: &str) -> PathBuf {
    data().join(family).join("model-f16.gguf")
}

/// The bundled model.
#[must_use]
pub fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/hearth-tiny.gguf")
}

/// A prompt with the answer that must follow.
#[derive(Debug, Clone)]
pub struct Golden {
    /// The prompt's name.
    pub name: String,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// The ids of greedy decoding.
    pub greedy: Vec<u32>,
}

/// The recorded prompts of a family.
#[must_use]
pub fn goldens(family: &str) -> Vec<Golden> {
    let path = data().join(family).join("golden.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let all: Value = serde_json::from_str(&text).expect("golden.json is JSON");
    let prompts = all["prompts"].as_array().expect("prompts");
    let golden = |prompt: &Value| Golden {
        name: prompt["name"].as_str().expect("name").to_owned(),
        prompt: ids(&prompt["token_ids"]),
        greedy: ids(&prompt["greedy"]["ids"]),
    };
    prompts.iter().map(golden).collect()
}

/// A list of token ids.
#[must_use]
pub fn ids(list: &Value) -> Vec<u32> {
    let id = |id: &Value| u32::try_from(id.as_u64().expect("an id")).expect("an id fits 32 bits");
    list.as_array()
        .expect("a list of ids")
        .iter()
        .map(id)
        .collect()
}

/// Copies a model file, so that a test may harm it.
#[must_use]
pub fn copy(model: &Path, into: &Path) -> PathBuf {
    let copy = into.join(model.file_name().expect("a file"));
    std::fs::copy(model, &copy).expect("the model can be copied");
    copy
}

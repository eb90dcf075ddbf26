//! What a model says about how to sample from it and where to stop.

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;

use crate::{
    Checkpoint, ModelError,
    checkpoint::Meta,
    files,
    gguf::{self, Gguf},
};

/// Tokens that end a turn in the families we know, whatever the configuration lists.
const END_TOKENS: [&str; 4] = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
];

/// Whether a token of this name ends an answer in every model that has it.
pub(crate) fn ends_a_turn(token: &str) -> bool {
    END_TOKENS.contains(&token)
}

/// Sampling values that the model's makers recommend, and every id that ends an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationDefaults {
    /// 0 means greedy.
    pub temperature: Option<f32>,
    /// Share of probability that is kept.
    pub top_p: Option<f32>,
    /// Tokens that are kept.
    pub top_k: Option<u32>,
    /// Least probability, relative to the best token.
    pub min_p: Option<f32>,
    /// Divisor for tokens that were there before.
    pub repetition_penalty: Option<f32>,
    /// Every id that ends an answer, ascending.
    pub eos_ids: Vec<u32>,
}

impl Checkpoint {
    /// Reads the defaults from generation_config.json and config.json, or from GGUF metadata. Stop ids come from all
    /// of these, and from the end tokens that the vocabulary has.
    ///
    /// # Errors
    /// A file is broken or a value is out of range.
    pub fn generation_defaults(&self) -> Result<GenerationDefaults, ModelError> {
        let (mut defaults, ids) = match self.meta() {
            Meta::Gguf(head) => match self.first_file() {
                Some((path, bytes)) => from_gguf(path, bytes, head)?,
                None => Default::default(),
            },
            Meta::Hf { dir, config, .. } => from_files(dir, config)?,
        };
        let vocab = self.arch().vocab as u64;
        defaults.eos_ids = ids
            .into_iter()
            .filter(|id| *id < vocab)
            .filter_map(|id| u32::try_from(id).ok())
            .collect();
        Ok(defaults)
    }
}

fn from_gguf(
    path: &Path,
    bytes: &[u8],
    head: &Gguf,
) -> Result<(GenerationDefaults, BTreeSet<u64>), ModelError> {
    let sampling = |name: &str| {
        let key = format!("general.sampling.{name}");
        head.value(&key).and_then(gguf::Value::as_f64)
    };
    let defaults = checked(
        path,
        [
            sampling("temp"),
            sampling("top_p"),
            sampling("top_k"),
            sampling("min_p"),
            sampling("penalty_repeat"),
        ],
    )?;
    let mut ids = BTreeSet::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ids.extend(
            head.value(&format!("tokenizer.ggml.{key}"))
                .and_then(gguf::Value::as_u64),
        );
    }
    if let Some(tokens) = head
        .value("tokenizer.ggml.tokens")
        .and_then(gguf::Value::as_array)
    {
        let mut id = 0_u64;
        tokens.for_each_text(path, bytes, |token| {
            if END_TOKENS.contains(&token) {
                ids.insert(id);
            }
            id = id.saturating_add(1);
        })?;
    }
    Ok((defaults, ids))
}

fn from_files(
    dir: &Path,
    config: &Value,
) -> Result<(GenerationDefaults, BTreeSet<u64>), ModelError> {
    let path = dir.join("generation_config.json");
    let generation = files::read_json_if(&path)?.unwrap_or(Value::Null);
    let number = |key: &str| generation.get(key).and_then(Value::as_f64);
    // Without sampling the makers ask for the best token.
    let greedy = generation.get("do_sample").and_then(Value::as_bool) == Some(false);
    let defaults = checked(
        &path,
        [
            if greedy {
                Some(0.0)
            } else {
                number("temperature")
            },
            number("top_p"),
            number("top_k"),
            number("min_p"),
            number("repetition_penalty"),
        ],
    )?;
    let mut ids = BTreeSet::new();
    let text_config = config.get("text_config").unwrap_or(&Value::Null);
    for (path, source) in [
        (&dir.join("config.json"), config),
        (&dir.join("config.json"), text_config),
        (&path, &generation),
    ] {
        add_eos(path, source.get("eos_token_id"), &mut ids)?;
    }
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let tokenizer = files::read_json_if(&dir.join(file))?.unwrap_or(Value::Null);
        add_end_tokens(&tokenizer, &mut ids);
    }
    Ok((defaults, ids))
}

fn add_eos(path: &Path, value: Option<&Value>, ids: &mut BTreeSet<u64>) -> Result<(), ModelError> {
    let wrong = |got: &Value| {
        let got: String = got.to_string().chars().take(80).collect();
        ModelError::malformed(path, "`eos_token_id`", got, "a token id or a list of them")
    };
    match value {
        None | Some(Value::Null) => {}
        Some(Value::Array(list)) => {
            for id in list {
                ids.insert(id.as_u64().ok_or_else(|| wrong(id))?);
            }
        }
        Some(id) => {
            ids.insert(id.as_u64().ok_or_else(|| wrong(id))?);
        }
    }
    Ok(())
}

/// End tokens among the added tokens of tokenizer.json or tokenizer_config.json, and in the former's vocabulary.
fn add_end_tokens(tokenizer: &Value, ids: &mut BTreeSet<u64>) {
    if let Some(added) = tokenizer.get("added_tokens").and_then(Value::as_array) {
        for token in added {
            let text = token.get("content").and_then(Value::as_str);
            if text.is_some_and(|text| END_TOKENS.contains(&text)) {
                ids.extend(token.get("id").and_then(Value::as_u64));
            }
        }
    }
    if let Some(added) = tokenizer
        .get("added_tokens_decoder")
        .and_then(Value::as_object)
    {
        for (id, token) in added {
            let text = token.get("content").and_then(Value::as_str);
            if text.is_some_and(|text| END_TOKENS.contains(&text)) {
                ids.extend(id.parse::<u64>());
            }
        }
    }
    let vocabulary = tokenizer.get("model").and_then(|model| model.get("vocab"));
    if let Some(vocabulary) = vocabulary {
        for token in END_TOKENS {
            ids.extend(vocabulary.get(token).and_then(Value::as_u64));
        }
    }
}

/// Checks temperature, top_p, top_k, min_p and repetition penalty, in this order.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ranges are checked first"
)]
fn checked(path: &Path, values: [Option<f64>; 5]) -> Result<GenerationDefaults, ModelError> {
    let [temperature, top_p, top_k, min_p, penalty] = values;
    let within = |name: &str, value: Option<f64>, low: f64, high: f64| match value {
        Some(x) if !(low..=high).contains(&x) => Err(ModelError::malformed(
            path,
            format!("the recommended {name}"),
            x.to_string(),
            format!("{low} to {high}"),
        )),
        other => Ok(other.map(|x| x as f32)),
    };
    within("top_k", top_k, 0.0, f64::from(u32::MAX))?;
    Ok(GenerationDefaults {
        temperature: within("temperature", temperature, 0.0, 100.0)?,
        top_p: within("top_p", top_p, 0.0, 1.0)?,
        top_k: top_k.map(|k| k as u32),
        min_p: within("min_p", min_p, 0.0, 1.0)?,
        repetition_penalty: within("repetition_penalty", penalty, 0.01, 100.0)?,
        eos_ids: Vec::new(),
    })
}

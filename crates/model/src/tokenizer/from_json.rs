//! A tokenizer from `tokenizer.json` and `tokenizer_config.json`.
//!
//! The file describes a pipeline of named parts. The parts that the known families use are recognised by all their
//! settings; any other part, setting or pattern is refused by its name. Nothing is allocated that the size of the
//! file does not bound.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value;

use super::added::AddedMatcher;
use super::bpe::Merges;
use super::byte_level::Alphabet;
use super::error::{TokenizerError, shown};
use super::splitter::Splitter;
use super::vocabulary::{TokenKind, Vocabulary};
use super::{Inner, Normalizer, TOKENIZER_JSON_BYTES_MAX};

mod merge;
mod model;
mod parts;
mod to_gguf;

use merge::Merge;
use model::Model;

pub(crate) use to_gguf::to_gguf;

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Option<Model>,
}

/// The kind of the model part, whatever its shape.
#[derive(Deserialize)]
struct KindOnly {
    model: Option<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// An added token, in either file.
#[derive(Deserialize)]
struct AddedToken {
    /// Absent in `tokenizer_config.json`, where the id is the key.
    #[serde(default)]
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize, Default)]
struct Config {
    #[serde(default)]
    bos_token: Value,
    #[serde(default)]
    eos_token: Value,
    #[serde(default)]
    pad_token: Value,
    #[serde(default)]
    add_bos_token: Option<bool>,
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, AddedToken>,
}

/// Builds the tokenizer.
pub(super) fn read(tokenizer: &[u8], config: Option<&[u8]>) -> Result<Inner, TokenizerError> {
    let file = parse_file(tokenizer)?;
    let config: Config = match config {
        Some(bytes) => parse(CONFIG, bytes)?,
        None => Config::default(),
    };
    let model = file.model.ok_or_else(|| missing("model"))?;
    let ignore_merges = parts::model_settings(&model.settings)?;
    let vocab = model.vocab.ok_or_else(|| missing("vocabulary"))?;
    let pairs = model.merges.ok_or_else(|| missing("list of merges"))?;
    let normalizer = parts::normalizer(&file.normalizer)?;
    let pattern = parts::pre_tokenizer(&file.pre_tokenizer)?;
    parts::decoder(&file.decoder)?;
    let around = parts::post_processor(&file.post_processor)?;
    let added = all_added(file.added_tokens, config.added_tokens_decoder)?;
    let vocabulary = vocabulary(&vocab, &added)?;
    let merges = Merges::new(pairs.iter().map(Merge::pair), &vocabulary, |token| {
        vocab.get(token).copied()
    })?;
    let (raw, normalized) = searched(&added, normalizer);
    let token = |what, value: &Value| named_token(&vocabulary, what, value);
    let bos = token("bos_token", &config.bos_token)?;
    let eos = token("eos_token", &config.eos_token)?;
    let mut prefix = around.prefix;
    if prefix.is_empty() && config.add_bos_token == Some(true) {
        prefix.extend(bos);
    }
    for &id in prefix.iter().chain(&around.suffix) {
        if vocabulary.kind(id).is_none() {
            return Err(TokenizerError::UnknownToken {
                what: "post-processor's token",
                got: id.to_string(),
            });
        }
    }
    Ok(Inner {
        merges,
        splitter: Splitter::new(pattern)?,
        normalizer,
        raw_added: AddedMatcher::new(&raw)?,
        normalized_added: AddedMatcher::new(&normalized)?,
        ignore_merges,
        bos: bos.or(prefix.first().copied()),
        eos,
        prefix,
        suffix: around.suffix,
        vocabulary,
    })
}

fn missing(what: &str) -> TokenizerError {
    TokenizerError::Missing {
        what: what.to_owned(),
    }
}

fn check_size(file: &'static str, bytes: &[u8]) -> Result<(), TokenizerError> {
    if bytes.len() > TOKENIZER_JSON_BYTES_MAX {
        return Err(TokenizerError::TooLarge {
            what: file,
            got: bytes.len(),
            max: TOKENIZER_JSON_BYTES_MAX,
        });
    }
    Ok(())
}

fn parse<'b, T: Deserialize<'b>>(file: &'static str, bytes: &'b [u8]) -> Result<T, TokenizerError> {
    check_size(file, bytes)?;
    serde_json::from_slice(bytes).map_err(|source| TokenizerError::Json { file, source })
}

/// Reads `tokenizer.json`. Models of other kinds differ in shape; if reading fails, their kind is the better reason.
fn parse_file(bytes: &[u8]) -> Result<File, TokenizerError> {
    let error = match parse::<File>(TOKENIZER, bytes) {
        Ok(file) => return Ok(file),
        Err(error) => error,
    };
    match parse::<KindOnly>(TOKENIZER, bytes) {
        Ok(KindOnly {
            model: Some(Kind { kind: Some(kind) }),
        }) if kind != "BPE" => Err(parts::unsupported_model(&kind)),
        _ => Err(error),
    }
}

/// The added tokens of both files. The second file may know more of them; it must not contradict the first.
fn all_added(
    mut tokens: Vec<AddedToken>,
    more: BTreeMap<String, AddedToken>,
) -> Result<Vec<AddedToken>, TokenizerError> {
    let known: HashMap<String, u32> = tokens
        .iter()
        .map(|token| (token.content.clone(), token.id))
        .collect();
    for (key, token) in more {
        let id: u32 = key.parse().map_err(|_| TokenizerError::UnknownToken {
            what: "added_tokens_decoder",
            got: shown(&key),
        })?;
        match known.get(&token.content) {
            Some(&same) if same == id => {}
            Some(_) => {
                return Err(TokenizerError::Id {
                    token: shown(&token.content),
                    id,
                    reason: "tokenizer.json gives this token another id",
                });
            }
            None => tokens.push(AddedToken { id, ..token }),
        }
    }
    for token in &tokens {
        let flags = [
            (token.single_word, "single_word"),
            (token.lstrip, "lstrip"),
            (token.rstrip, "rstrip"),
        ];
        if let Some((_, flag)) = flags.iter().find(|(set, _)| *set) {
            return Err(TokenizerError::Unsupported {
                what: "added token",
                got: format!("{:?} with {flag}", shown(&token.content)),
                expected: "added tokens that are matched literally",
            });
        }
    }
    Ok(tokens)
}

fn vocabulary(
    vocab: &HashMap<String, u32>,
    added: &[AddedToken],
) -> Result<Vocabulary, TokenizerError> {
    let mut vocabulary = Vocabulary::with_capacity(vocab.len().saturating_add(added.len()));
    for token in added {
        if vocab.get(&token.content).is_some_and(|&id| id != token.id) {
            return Err(TokenizerError::Id {
                token: shown(&token.content),
                id: token.id,
                reason: "the vocabulary gives this token another id",
            });
        }
        let kind = if token.special {
            TokenKind::Special
        } else {
            TokenKind::Added
        };
        vocabulary.insert_added(token.id, &token.content, kind)?;
    }
    let alphabet = Alphabet::new();
    for (token, &id) in vocab {
        if vocabulary.added_id(token).is_none() {
            vocabulary.insert_ordinary(id, token, alphabet.decode(token))?;
        }
    }
    Ok(vocabulary)
}

/// The added tokens to be found in the text as it came, and those to be found once it is normalised.
#[allow(clippy::type_complexity, reason = "two lists of the same kind")]
fn searched(
    added: &[AddedToken],
    normalizer: Normalizer,
) -> (Vec<(String, u32)>, Vec<(String, u32)>) {
    let of = |normalized: bool| added.iter().filter(move |t| t.normalized == normalized);
    let raw = of(false).map(|t| (t.content.clone(), t.id)).collect();
    let normalized = of(true)
        .map(|t| (normalizer.apply(&t.content).into_owned(), t.id))
        .collect();
    (raw, normalized)
}

/// The id of a token that the configuration names, as a text or as an object with `content`.
fn named_token(
    vocabulary: &Vocabulary,
    what: &'static str,
    value: &Value,
) -> Result<Option<u32>, TokenizerError> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) => Some(text.as_str()),
        other => other.get("content").and_then(Value::as_str),
    };
    let found = text.and_then(|text| {
        vocabulary
            .added_id(text)
            .or_else(|| vocabulary.ordinary_id(text.as_bytes()))
    });
    match found {
        Some(id) => Ok(Some(id)),
        None => Err(TokenizerError::UnknownToken {
            what,
            got: shown(&value.to_string()),
        }),
    }
}

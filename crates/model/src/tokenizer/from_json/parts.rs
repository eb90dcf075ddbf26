//! The named parts of `tokenizer.json`, each recognised by all settings that change tokens.

use serde_json::{Map, Value};

use crate::tokenizer::Normalizer;
use crate::tokenizer::error::{TokenizerError, shown};
use crate::tokenizer::splitter::SplitPattern;

/// Ids that a file puts around one text; no file needs more.
const AROUND_MAX: usize = 16;

/// The ids before and after a plain prompt.
#[derive(Debug, Default)]
pub(super) struct Around {
    pub(super) prefix: Vec<u32>,
    pub(super) suffix: Vec<u32>,
}

/// The refusal of a model that is not BPE.
pub(super) fn unsupported_model(kind: &str) -> TokenizerError {
    TokenizerError::Unsupported {
        what: "model",
        got: shown(kind),
        expected: "BPE (byte-level)",
    }
}

/// The `type` of a part.
fn kind(part: &Value) -> Option<&str> {
    part.get("type").and_then(Value::as_str)
}

/// How a part is named in a refusal: its type, else its JSON.
fn name(part: &Value) -> String {
    match kind(part) {
        Some(kind) => shown(kind),
        None => shown(&part.to_string()),
    }
}

/// Whether a setting is absent, null, false or empty.
fn unset(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Number(number)) => number.as_f64() == Some(0.0),
        Some(_) => false,
    }
}

/// Checks the settings of a BPE model; returns `ignore_merges`.
pub(super) fn model_settings(settings: &Map<String, Value>) -> Result<bool, TokenizerError> {
    match settings.get("type") {
        None | Some(Value::Null) => {}
        Some(Value::String(kind)) if kind == "BPE" => {}
        Some(Value::String(kind)) => return Err(unsupported_model(kind)),
        Some(other) => return Err(unsupported_model(&other.to_string())),
    }
    // A vocabulary with all bytes never meets an unknown character, so that these settings change nothing.
    const WITHOUT_EFFECT: [&str; 2] = ["unk_token", "fuse_unk"];
    const READ_ELSEWHERE: [&str; 2] = ["type", "ignore_merges"];
    for (option, value) in settings {
        let known = WITHOUT_EFFECT
            .iter()
            .chain(&READ_ELSEWHERE)
            .any(|name| name == option);
        if !known && !unset(Some(value)) {
            return Err(TokenizerError::Unsupported {
                what: "model setting",
                got: shown(&format!("{option} = {value}")),
                expected: "BPE without it",
            });
        }
    }
    match settings.get("ignore_merges") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(yes)) => Ok(*yes),
        other => Err(TokenizerError::Unsupported {
            what: "model setting ignore_merges",
            got: shown(&value_text(other)),
            expected: "true or false",
        }),
    }
}

fn value_text(value: Option<&Value>) -> String {
    value.map(Value::to_string).unwrap_or_default()
}

/// The members of a `Sequence` under `key`, or the part alone.
fn members<'v>(part: &'v Value, key: &str) -> &'v [Value] {
    match (kind(part), part.get(key)) {
        (Some("Sequence"), Some(Value::Array(parts))) => parts,
        _ => std::slice::from_ref(part),
    }
}

/// The normaliser: none or NFC.
pub(super) fn normalizer(part: &Value) -> Result<Normalizer, TokenizerError> {
    if part.is_null() {
        return Ok(Normalizer::None);
    }
    let mut found = Normalizer::None;
    for member in members(part, "normalizers") {
        if kind(member) != Some("NFC") {
            return Err(TokenizerError::Unsupported {
                what: "normalizer",
                got: name(member),
                expected: "none, NFC",
            });
        }
        found = Normalizer::Nfc;
    }
    Ok(found)
}

/// The pre-tokeniser: a split by a known pattern, then bytes.
pub(super) fn pre_tokenizer(part: &Value) -> Result<SplitPattern, TokenizerError> {
    let refuse = |got: String| TokenizerError::Unsupported {
        what: "pre-tokenizer",
        got,
        expected: "a Sequence of Split (with the pattern of Qwen2, Qwen3.5 or Llama 3) and ByteLevel",
    };
    let members = members(part, "pretokenizers");
    let [split, bytes] = members else {
        let names: Vec<String> = members.iter().take(AROUND_MAX).map(name).collect();
        return Err(refuse(names.join(" + ")));
    };
    let plain = |part: &Value, name: &str| unset(part.get(name));
    if kind(bytes) != Some("ByteLevel")
        || !plain(bytes, "add_prefix_space")
        || bytes.get("use_regex") != Some(&Value::Bool(false))
    {
        return Err(refuse(shown(&bytes.to_string())));
    }
    let isolated = split.get("behavior").and_then(Value::as_str) == Some("Isolated");
    if kind(split) != Some("Split") || !isolated || !plain(split, "invert") {
        return Err(refuse(shown(&split.to_string())));
    }
    let regex = split.pointer("/pattern/Regex").and_then(Value::as_str);
    regex.and_then(SplitPattern::from_regex).ok_or_else(|| {
        refuse(format!(
            "Split by {}",
            shown(&value_text(split.get("pattern")))
        ))
    })
}

/// The decoder: bytes.
pub(super) fn decoder(part: &Value) -> Result<(), TokenizerError> {
    match members(part, "decoders") {
        [only] if kind(only) == Some("ByteLevel") => Ok(()),
        _ => Err(TokenizerError::Unsupported {
            what: "decoder",
            got: name(part),
            expected: "ByteLevel",
        }),
    }
}

/// The post-processor: nothing, or tokens around the text.
pub(super) fn post_processor(part: &Value) -> Result<Around, TokenizerError> {
    let mut around = Around::default();
    if part.is_null() {
        return Ok(around);
    }
    for member in members(part, "processors") {
        match kind(member) {
            Some("ByteLevel") => {}
            Some("TemplateProcessing") => {
                around =
                    template_processing(member).ok_or_else(|| TokenizerError::Unsupported {
                        what: "post-processor",
                        got: format!("TemplateProcessing {}", shown(&member.to_string())),
                        expected: "a template of known tokens around one text",
                    })?;
            }
            _ => {
                return Err(TokenizerError::Unsupported {
                    what: "post-processor",
                    got: name(member),
                    expected: "none, ByteLevel, TemplateProcessing",
                });
            }
        }
    }
    Ok(around)
}

fn template_processing(part: &Value) -> Option<Around> {
    let mut around = Around::default();
    let mut texts = 0;
    for step in part.get("single")?.as_array()? {
        if let Some(token) = step.pointer("/SpecialToken/id") {
            let ids = part
                .get("special_tokens")?
                .get(token.as_str()?)?
                .get("ids")?;
            let side = match texts {
                0 => &mut around.prefix,
                _ => &mut around.suffix,
            };
            for id in ids.as_array()? {
                side.push(u32::try_from(id.as_u64()?).ok()?);
            }
        } else if step.pointer("/Sequence/id")?.as_str()? == "A" {
            texts += 1;
        } else {
            return None;
        }
    }
    let short = around.prefix.len() + around.suffix.len() <= AROUND_MAX;
    (texts == 1 && short).then_some(around)
}
